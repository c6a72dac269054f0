//! Pure. How wide the windows of a tunnel are: wide for bulk, narrow when much is held for readers that do not read.
//!
//! The window of a tunnel is what its streams may send together. What they hold unread is added to it as long as the
//! workload's buffers have room, so that a stream that nobody reads has its own window and none of the others'. The more a
//! workload holds, the narrower the windows of its streams become: a thousand that stall are then held by little.

use std::time::Duration;

use super::settings::Settings;

/// A stream that sends its window in this time is limited by it.
const BULK: Duration = Duration::from_millis(50);
/// Window of a stream when the buffers are nearly used up. A hundred of them fit into the first window of a tunnel.
const NARROWEST: u32 = 8 * 1024;

/// The part of the buffers that a tunnel may hold and still be taken for one whose readers keep up.
const SLACK: usize = 32;

/// Widths of windows, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widths {
    /// Of a stream, at first.
    first: u32,
    /// Of a stream in a tunnel that carries bulk.
    largest: u32,
    /// Of a tunnel, in windows of a stream.
    streams: u32,
}

/// How much of its buffers a workload uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) used: usize,
    pub(crate) limit: usize,
}

/// What came since the windows were looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Bytes received.
    pub(crate) came: u64,
    /// In this time.
    pub(crate) took: Duration,
    /// Bytes that the streams of the tunnel hold now.
    pub(crate) held: u64,
}

impl Widths {
    pub(crate) fn new(settings: &Settings) -> Self {
        let first = settings.stream_window;
        Self { first, largest: settings.largest_stream_window.max(first), streams: settings.streams_in_window }
    }

    /// The widest that a stream's window may be.
    fn ceiling(&self, usage: Usage) -> u32 {
        // Far below the limit: what is under way when windows get narrow still comes, and so does what streams of the
        // narrowest windows hold. At the limit nothing is added to the window of a tunnel, and all its streams stand still.
        match usage.used / (usage.limit / 16).max(1) {
            0 => self.largest,
            1 => self.first,
            2 | 3 => (self.first / 4).max(NARROWEST).min(self.first),
            _ => NARROWEST.min(self.first),
        }
    }

    /// Window of a stream in a new tunnel.
    pub(crate) fn at_first(&self, usage: Usage) -> u32 {
        self.ceiling(usage).min(self.first)
    }

    /// Window of a stream from now on.
    pub(crate) fn next(&self, window: u32, usage: Usage, seen: &Seen) -> u32 {
        let ceiling = self.ceiling(usage);
        if window > ceiling {
            return ceiling;
        }
        // Wider only well below the limit that made it narrow, or it would go to and fro.
        let calm = self.ceiling(Usage { used: usage.used.saturating_mul(2), ..usage });
        if window < calm.min(self.first) {
            return calm.min(self.first);
        }
        // What is not taken is no reason to take more.
        let slack = (usage.limit / SLACK) as u64;
        if window > self.first && seen.held > seen.came.max(2 * slack) {
            return (window / 2).max(self.first);
        }
        let limited = u128::from(window) * seen.took.as_nanos() <= u128::from(seen.came) * BULK.as_nanos();
        if window < calm && limited && seen.held <= slack.max(seen.came / 2) {
            return window.saturating_mul(2).min(calm);
        }
        window
    }

    /// What all streams of a tunnel may send together, beside what is held already.
    pub(crate) fn of_tunnel(&self, window: u32) -> u32 {
        window.max(self.first).saturating_mul(self.streams)
    }

    /// Bytes after which a tunnel is to be looked at again.
    pub(crate) fn look_after(&self, window: u32) -> u64 {
        u64::from(window.max(self.first)).min(u64::from(self.of_tunnel(window) / 2))
    }

    /// Whether a stream's window is narrower than it is at first.
    pub(crate) fn is_narrow(&self, window: u32) -> bool {
        window < self.first
    }

    /// By how much a tunnel's window is wider than at first.
    pub(crate) fn wide(&self, window: u32) -> usize {
        (self.of_tunnel(window) - self.of_tunnel(self.first)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u32 = 1024;
    const LIMIT: usize = 64 << 20;

    fn widths() -> Widths {
        Widths::new(&Settings::default())
    }

    fn usage(used: usize) -> Usage {
        Usage { used, limit: LIMIT }
    }

    fn bulk(held: u64) -> Seen {
        Seen { came: 4 << 20, took: Duration::from_millis(5), held }
    }

    #[test]
    fn bulk_that_is_taken_widens_the_window_to_its_largest() {
        let mut window = 256 * KIB;
        for _ in 0..10 {
            window = widths().next(window, usage(0), &bulk(100_000));
        }
        assert_eq!(window, 4096 * KIB);
        let slow = Seen { came: 300_000, took: Duration::from_secs(1), held: 0 };
        assert_eq!(widths().next(256 * KIB, usage(0), &slow), 256 * KIB);
    }

    #[test]
    fn bulk_that_nobody_takes_does_not() {
        assert_eq!(widths().next(256 * KIB, usage(0), &bulk(3 << 20)), 256 * KIB);
        assert_eq!(widths().next(1024 * KIB, usage(0), &bulk(5 << 20)), 512 * KIB);
        assert_eq!(widths().next(256 * KIB, usage(0), &bulk(5 << 20)), 256 * KIB);
    }

    #[test]
    fn the_more_is_held_the_narrower_the_windows() {
        for (used, wanted) in [(0, 4096), (4 << 20, 256), (8 << 20, 64), (16 << 20, 8), (LIMIT, 8), (LIMIT * 9, 8)] {
            assert_eq!(widths().next(4096 * KIB, usage(used), &bulk(0)), wanted * KIB, "{used}");
            assert_eq!(widths().at_first(usage(used)), wanted.min(256) * KIB, "{used}");
        }
    }

    #[test]
    fn a_narrow_window_is_widened_when_little_is_held_and_not_before() {
        assert_eq!(widths().next(8 * KIB, usage(15 << 20), &bulk(0)), 8 * KIB);
        assert_eq!(widths().next(8 * KIB, usage(7 << 20), &bulk(0)), 64 * KIB);
        assert_eq!(widths().next(8 * KIB, usage(1 << 20), &bulk(0)), 256 * KIB);
        assert_eq!(widths().next(64 * KIB, usage(6 << 20), &bulk(0)), 64 * KIB);
    }

    #[test]
    fn narrow_streams_of_a_full_tunnel_fit_into_its_window() {
        assert!(100 * NARROWEST <= widths().of_tunnel(NARROWEST));
        assert_eq!((widths().wide(NARROWEST), widths().wide(256 * KIB), widths().wide(512 * KIB)), (0, 0, 1 << 20));
        assert!(widths().look_after(NARROWEST) <= u64::from(widths().of_tunnel(NARROWEST)) / 2);
    }

    #[test]
    fn no_width_overflows() {
        let settings = Settings { stream_window: u32::MAX, largest_stream_window: u32::MAX, ..Settings::default() };
        let widths = Widths::new(&settings);
        assert_eq!(widths.next(u32::MAX, Usage { used: usize::MAX, limit: 0 }, &bulk(u64::MAX)), NARROWEST);
        assert_eq!(widths.of_tunnel(u32::MAX), u32::MAX);
        assert_eq!(widths.wide(u32::MAX), 0);
    }
}
