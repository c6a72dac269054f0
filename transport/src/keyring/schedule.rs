//! Pure. What to issue next and when: priorities, half life, backoff. Time and randomness come in as arguments.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::net::backoff::{Backoff, spread};
use mesh::model::identity::Identity;

/// Concurrent requests, so that a restarted node does not storm its CA.
pub(crate) const CONCURRENT: usize = 8;
/// Backoff between retries.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(150) };
/// Jitter of renewals as a fraction of the half life, so that identities issued together do not renew together.
const JITTER: f64 = 0.1;
/// Minimum time between two requests for one identity, whatever a CA's clock says.
const SHORTEST: Duration = Duration::from_secs(1);

/// Priority of a request; the greater goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// The renewal of a valid certificate.
    Renewal,
    /// The first certificate, with no connection waiting.
    First,
    /// The first certificate, with a connection waiting.
    Waiting,
}

#[derive(Debug)]
struct Job {
    urgency: Urgency,
    due: Instant,
    failures: u32,
    running: bool,
}

/// What the worker should do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Request a certificate for this identity; it counts as running until `issued`, `failed` or `forget`.
    Issue(Identity),
    /// Nothing is due before this time.
    Wait(Instant),
    /// Nothing to do until the schedule changes.
    Idle,
}

/// The pending requests of a keyring.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    jobs: HashMap<Identity, Job>,
}

impl Schedule {
    /// Schedules the first request of an identity.
    pub(crate) fn want(&mut self, identity: &Identity, now: Instant) {
        self.jobs.entry(identity.clone()).or_insert(Job {
            urgency: Urgency::First,
            due: now,
            failures: 0,
            running: false,
        });
    }

    /// Raises the priority because a connection waits. A running backoff is not cut short: the CA is known to be down.
    pub(crate) fn hurry(&mut self, identity: &Identity) {
        if let Some(job) = self.jobs.get_mut(identity) {
            job.urgency = Urgency::Waiting;
        }
    }

    /// Removes an identity.
    pub(crate) fn forget(&mut self, identity: &Identity) {
        self.jobs.remove(identity);
    }

    /// Records a certificate issued `age` ago and valid for `remaining`: its renewal is due at half life.
    pub(crate) fn issued(
        &mut self,
        identity: &Identity,
        now: Instant,
        age: Duration,
        remaining: Duration,
        random: f64,
    ) {
        if let Some(job) = self.jobs.get_mut(identity) {
            let half_life = spread((age + remaining) / 2, JITTER, random).saturating_sub(age);
            let due = now + half_life.max(SHORTEST.min(remaining / 2));
            *job = Job { urgency: Urgency::Renewal, due, failures: 0, running: false };
        }
    }

    /// Records a failure; returns the wait before the retry.
    pub(crate) fn failed(&mut self, identity: &Identity, now: Instant, random: f64) -> Duration {
        let Some(job) = self.jobs.get_mut(identity) else { return Duration::ZERO };
        job.failures = job.failures.saturating_add(1);
        job.running = false;
        let wait = BACKOFF.around(job.failures, random);
        job.due = now + wait;
        wait
    }

    /// What to do now.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if self.jobs.values().filter(|job| job.running).count() >= CONCURRENT {
            return Next::Idle;
        }
        let waiting = self.jobs.iter_mut().filter(|(_, job)| !job.running);
        let Some((identity, job)) = waiting.min_by_key(|(_, job)| {
            let is_due = job.due <= now;
            (!is_due, is_due.then_some(std::cmp::Reverse(job.urgency)), job.due)
        }) else {
            return Next::Idle;
        };
        if job.due > now {
            return Next::Wait(job.due);
        }
        job.running = true;
        Next::Issue(identity.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        Identity::new("cluster.local", "default", name)
    }

    fn hours(n: u64) -> Duration {
        Duration::from_secs(n * 3600)
    }

    #[test]
    fn whoever_has_a_connection_waiting_goes_first() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        for name in ["a", "b", "c"] {
            schedule.want(&identity(name), now);
        }
        schedule.hurry(&identity("b"));
        assert_eq!(schedule.next(now), Next::Issue(identity("b")));
    }

    #[test]
    fn a_renewal_waits_for_first_issues() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&identity("old"), now);
        assert_eq!(schedule.next(now), Next::Issue(identity("old")));
        schedule.issued(&identity("old"), now, Duration::ZERO, hours(24), 0.5);
        let later = now + hours(13);
        schedule.want(&identity("new"), later);
        assert_eq!(schedule.next(later), Next::Issue(identity("new")));
        assert_eq!(schedule.next(later), Next::Issue(identity("old")));
    }

    #[test]
    fn renewal_is_due_at_half_life_give_or_take_a_tenth() {
        let now = Instant::now();
        for (random, due) in [(0.0, 10.8), (0.5, 12.0), (1.0, 13.2)] {
            let mut schedule = Schedule::default();
            schedule.want(&identity("a"), now);
            assert_eq!(schedule.next(now), Next::Issue(identity("a")));
            schedule.issued(&identity("a"), now, Duration::ZERO, hours(24), random);
            assert_eq!(schedule.next(now), Next::Wait(now + Duration::from_secs_f64(due * 3600.0)));
        }
    }

    #[test]
    fn a_failing_issue_backs_off_and_a_success_forgets_it() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&identity("a"), now);
        for (seconds, failure) in [(0.5, 1), (1.0, 2), (2.0, 3)] {
            let at = now + hours(failure);
            assert_eq!(schedule.next(at), Next::Issue(identity("a")));
            assert_eq!(schedule.failed(&identity("a"), at, 0.5), Duration::from_secs_f64(seconds));
            schedule.hurry(&identity("a"));
            assert_eq!(schedule.next(at), Next::Wait(at + Duration::from_secs_f64(seconds)));
        }
        let at = now + hours(5);
        assert_eq!(schedule.next(at), Next::Issue(identity("a")));
        schedule.issued(&identity("a"), at, Duration::ZERO, hours(24), 0.5);
        let renewal = at + hours(12);
        assert_eq!(schedule.next(renewal), Next::Issue(identity("a")));
        assert_eq!(schedule.failed(&identity("a"), renewal, 0.5), Duration::from_millis(500));
    }

    #[test]
    fn eight_run_at_a_time_and_none_twice() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        for n in 0..20 {
            schedule.want(&identity(&n.to_string()), now);
        }
        let mut running = Vec::new();
        while let Next::Issue(identity) = schedule.next(now) {
            assert!(!running.contains(&identity));
            running.push(identity);
        }
        assert_eq!(running.len(), CONCURRENT);
        assert_eq!(schedule.next(now), Next::Idle);
        schedule.failed(&running[0], now, 0.5);
        assert!(matches!(schedule.next(now), Next::Issue(_)));
    }

    #[test]
    fn a_forgotten_identity_is_not_issued_again() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&identity("a"), now);
        schedule.forget(&identity("a"));
        schedule.issued(&identity("a"), now, Duration::ZERO, hours(1), 0.5);
        assert_eq!(schedule.failed(&identity("a"), now, 0.5), Duration::ZERO);
        assert_eq!(schedule.next(now), Next::Idle);
    }

    #[test]
    fn a_certificate_that_comes_old_is_not_asked_for_in_a_loop() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&identity("a"), now);
        assert_eq!(schedule.next(now), Next::Issue(identity("a")));
        schedule.issued(&identity("a"), now, hours(23), hours(1), 0.5);
        assert_eq!(schedule.next(now), Next::Wait(now + SHORTEST));
    }
}
