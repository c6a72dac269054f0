//! Pure. Which listeners of a pod are missing, and when they are made anew. Somebody in the pod who destroys them again and again gets
//! them less and less often.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::capture::Listener;

/// The first pause; each is twice the one before.
const FIRST: Duration = Duration::from_millis(50);
/// The longest.
const LONGEST: Duration = Duration::from_secs(15);
/// So long after the last loss it is a new story.
const QUIET: Duration = Duration::from_secs(60);

/// The state of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mending {
    missing: BTreeSet<Listener>,
    /// Of those, what is being made.
    begun: BTreeSet<Listener>,
    tries: u32,
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Mending {
    /// A listener is gone. Returns whether it was not missing before.
    pub(crate) fn lost(&mut self, listener: Listener, now: Instant) -> bool {
        // What is missing already is being seen to.
        let new = self.missing.insert(listener);
        if new {
            self.again(now);
        }
        new
    }

    /// A listener could not be made.
    pub(crate) fn failed(&mut self, listener: Listener, now: Instant) {
        self.begun.remove(&listener);
        self.again(now);
    }

    /// A listener is back. Returns whether all are.
    pub(crate) fn made(&mut self, listener: Listener) -> bool {
        self.begun.remove(&listener);
        self.missing.remove(&listener);
        self.missing.is_empty()
    }

    /// What is to be made now; it counts as begun.
    pub(crate) fn begin(&mut self, now: Instant) -> Vec<Listener> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let begin: Vec<_> = self.missing.difference(&self.begun).copied().collect();
        self.begun.extend(&begin);
        begin
    }

    /// When something is to be made.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is missing, in words; empty when nothing is.
    pub(crate) fn told(&self) -> String {
        let missing: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
        missing.join(", ")
    }

    fn again(&mut self, now: Instant) {
        if self.last.is_none_or(|last| now.saturating_duration_since(last) > QUIET) {
            self.tries = 0;
        }
        // Those that are lost together are one try.
        if self.due.is_none() {
            self.due = Some(now + wait(self.tries));
            self.tries += 1;
        }
        self.last = Some(now);
    }
}

/// Nothing before the first try, then longer and longer.
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
        let (mut mending, now) = (Mending::default(), Instant::now());
        assert!(mending.lost(OUT, now) && mending.lost(HBONE, now) && !mending.lost(OUT, now));
        assert_eq!(mending.told(), "outbound listener for IPv4, HBONE listener for IPv6");
        assert_eq!(mending.begin(now), [OUT, HBONE]);
        assert_eq!(mending.begin(now), [], "it has begun");
        assert!(!mending.made(OUT) && mending.made(HBONE));
        assert_eq!((mending.due(), mending.told()), (None, String::new()));
    }

    #[test]
    fn whoever_destroys_them_again_and_again_waits_longer_and_longer() {
        let (mut mending, mut now) = (Mending::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..16 {
            mending.lost(OUT, now);
            let due = mending.due().unwrap();
            assert!(mending.begin(now).is_empty() || due == now);
            waits.push(due - now);
            now = due;
            mending.begin(now);
            mending.made(OUT);
        }
        assert_eq!(waits[..4], [0, 50, 100, 200].map(Duration::from_millis));
        assert_eq!(waits[15], LONGEST);
        // A minute of peace.
        now += QUIET + Duration::from_secs(1);
        mending.lost(OUT, now);
        assert_eq!(mending.due(), Some(now));
    }

    #[test]
    fn what_cannot_be_made_is_tried_again() {
        let (mut mending, now) = (Mending::default(), Instant::now());
        mending.lost(OUT, now);
        assert_eq!(mending.begin(now), [OUT]);
        mending.failed(OUT, now);
        let due = mending.due().unwrap();
        assert!(due > now);
        assert_eq!(mending.begin(due), [OUT]);
    }
}
