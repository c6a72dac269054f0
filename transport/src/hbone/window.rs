//! Pure. Sizes of a tunnel's flow-control windows: wide for bulk, narrow when much is unread.
//!
//! The connection window bounds what all streams may send together. Unread bytes are added to it within the bound of
//! the workload's buffers, so that an unread stream uses up its own window and not that of the others. The more a
//! workload leaves unread, the narrower the windows of its streams become: a thousand stalled streams then hold little.

use std::time::Duration;

use super::settings::Settings;

/// A stream that fills its window within this time is limited by the window.
const BULK: Duration = Duration::from_millis(50);
/// Window of a stream in bytes when the buffers are nearly full. A hundred of them fit into the initial window of a
/// tunnel.
const NARROWEST: u32 = 8 * 1024;

/// A tunnel with at most this fraction (1/n) of the buffers unread counts as one whose readers keep up.
const SLACK: usize = 32;

/// Bounds of window sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widths {
    /// Initial window of a stream, in bytes.
    first: u32,
    /// Largest window of a stream, in bytes.
    largest: u32,
    /// Window of the connection, in stream windows.
    streams: u32,
}

/// Buffer usage of a workload, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) used: usize,
    pub(crate) limit: usize,
}

/// Activity since the last adjustment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Bytes received.
    pub(crate) came: u64,
    /// Time since then.
    pub(crate) took: Duration,
    /// Unread bytes of the tunnel now.
    pub(crate) held: u64,
}

impl Widths {
    pub(crate) fn new(settings: &Settings) -> Self {
        let first = settings.stream_window;
        Self { first, largest: settings.largest_stream_window.max(first), streams: settings.streams_in_window }
    }

    /// The largest window that a stream may have at this usage.
    fn ceiling(&self, usage: Usage) -> u32 {
        // Far below the bound: bytes in flight when windows are narrowed still arrive, and so do those within the
        // narrowest windows. At the bound nothing is added to the connection window, and all its streams stall.
        match usage.used / (usage.limit / 16).max(1) {
            0 => self.largest,
            1 => self.first,
            2 | 3 => (self.first / 4).max(NARROWEST).min(self.first),
            _ => NARROWEST.min(self.first),
        }
    }

    /// Initial window of a stream in a new tunnel.
    pub(crate) fn at_first(&self, usage: Usage) -> u32 {
        self.ceiling(usage).min(self.first)
    }

    /// The next window of a stream.
    pub(crate) fn next(&self, window: u32, usage: Usage, seen: &Seen) -> u32 {
        let ceiling = self.ceiling(usage);
        if window > ceiling {
            return ceiling;
        }
        // Widen only well below the usage that narrowed it, to avoid oscillation.
        let calm = self.ceiling(Usage { used: usage.used.saturating_mul(2), ..usage });
        if window < calm.min(self.first) {
            return calm.min(self.first);
        }
        // Bytes that are not read are no reason for a wider window.
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

    /// The connection window without the unread bytes.
    pub(crate) fn of_tunnel(&self, window: u32) -> u32 {
        window.max(self.first).saturating_mul(self.streams)
    }

    /// Received bytes after which the windows are adjusted again.
    pub(crate) fn adjust_after(&self, window: u32) -> u64 {
        u64::from(window.max(self.first)).min(u64::from(self.of_tunnel(window) / 2))
    }

    /// Whether the window is narrower than the initial one.
    pub(crate) fn is_narrow(&self, window: u32) -> bool {
        window < self.first
    }

    /// Bytes by which the connection window exceeds the initial one.
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
        assert!(widths().adjust_after(NARROWEST) <= u64::from(widths().of_tunnel(NARROWEST)) / 2);
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
