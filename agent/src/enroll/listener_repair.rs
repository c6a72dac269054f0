//! Pure. Which listeners of a pod are missing, and when to recreate them: with backoff, if somebody in the pod destroys
//! them again and again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::capture::Listener;

/// The first pause; doubled each time.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(15);
/// The backoff is reset this long after the last loss.
const QUIET: Duration = Duration::from_secs(60);

/// The listeners of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListenerRepair {
    missing: BTreeSet<Listener>,
    /// The missing ones that are being recreated.
    begun: BTreeSet<Listener>,
    tries: u32,
    last: Option<Instant>,
    due: Option<Instant>,
}

impl ListenerRepair {
    /// Records a lost listener; returns whether it is newly missing.
    pub(crate) fn lost(&mut self, listener: Listener, now: Instant) -> bool {
        // A known loss is being handled already.
        let new = self.missing.insert(listener);
        if new {
            self.again(now);
        }
        new
    }

    /// Records that a listener could not be recreated.
    pub(crate) fn failed(&mut self, listener: Listener, now: Instant) {
        self.begun.remove(&listener);
        self.again(now);
    }

    /// Records a recreated listener; returns whether all are back.
    pub(crate) fn made(&mut self, listener: Listener) -> bool {
        self.begun.remove(&listener);
        self.missing.remove(&listener);
        self.missing.is_empty()
    }

    /// Takes the listeners to recreate now.
    pub(crate) fn begin(&mut self, now: Instant) -> Vec<Listener> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let begin: Vec<_> = self.missing.difference(&self.begun).copied().collect();
        self.begun.extend(&begin);
        begin
    }

    /// When the next listener is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The missing listeners as text; empty when none is.
    pub(crate) fn description(&self) -> String {
        let missing: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
        missing.join(", ")
    }

    fn again(&mut self, now: Instant) {
        if self.last.is_none_or(|last| now.saturating_duration_since(last) > QUIET) {
            self.tries = 0;
        }
        // Listeners lost together count as one try.
        if self.due.is_none() {
            self.due = Some(now + wait(self.tries));
            self.tries += 1;
        }
        self.last = Some(now);
    }
}

/// No pause before the first try, then longer and longer ones.
fn wait(tries: u32) -> Duration {
    match tries.checked_sub(1) {
        None => Duration::ZERO,
        Some(doubled) => FIRST.saturating_mul(1 << doubled.min(16)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use crate::capture::Kind;

    use super::*;

    const OUT: Listener = Listener { kind: Kind::Outbound, v6: false };
    const HBONE: Listener = Listener { kind: Kind::Hbone, v6: true };

    #[test]
    fn what_is_lost_together_is_made_together_and_at_once() {
        let (mut repair, now) = (ListenerRepair::default(), Instant::now());
        assert!(repair.lost(OUT, now) && repair.lost(HBONE, now) && !repair.lost(OUT, now));
        assert_eq!(repair.description(), "outbound listener for IPv4, HBONE listener for IPv6");
        assert_eq!(repair.begin(now), [OUT, HBONE]);
        assert_eq!(repair.begin(now), [], "it has begun");
        assert!(!repair.made(OUT) && repair.made(HBONE));
        assert_eq!((repair.due(), repair.description()), (None, String::new()));
    }

    #[test]
    fn whoever_destroys_them_again_and_again_waits_longer_and_longer() {
        let (mut repair, mut now) = (ListenerRepair::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..16 {
            repair.lost(OUT, now);
            let due = repair.due().unwrap();
            assert!(repair.begin(now).is_empty() || due == now);
            waits.push(due - now);
            now = due;
            repair.begin(now);
            repair.made(OUT);
        }
        assert_eq!(waits[..4], [0, 50, 100, 200].map(Duration::from_millis));
        assert_eq!(waits[15], LONGEST);
        // A minute without a loss.
        now += QUIET + Duration::from_secs(1);
        repair.lost(OUT, now);
        assert_eq!(repair.due(), Some(now));
    }

    #[test]
    fn what_cannot_be_made_is_tried_again() {
        let (mut repair, now) = (ListenerRepair::default(), Instant::now());
        repair.lost(OUT, now);
        assert_eq!(repair.begin(now), [OUT]);
        repair.failed(OUT, now);
        let due = repair.due().unwrap();
        assert!(due > now);
        assert_eq!(repair.begin(due), [OUT]);
    }
}
