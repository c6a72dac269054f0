//! What both ends do for an HTTP/2 connection beside h2: ping when silent, widen the window for bulk, flush.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::settings::Settings;
use super::transport::Transport;

/// The time in which a full window of bytes makes a tunnel a bulk tunnel: at that rate the window is what limits.
const BULK_TURN: Duration = Duration::from_millis(50);

/// Why a driver gives its connection up.
#[derive(Debug)]
pub(crate) enum Lost {
    /// No byte for too long.
    Silent,
    /// The transport failed while it was flushed.
    Transport(io::Error),
}

/// The side of h2 that has windows: its client and server connection have no common trait.
pub(crate) trait Windows {
    fn set_stream_window(&mut self, size: u32) -> Result<(), h2::Error>;
    fn set_connection_window(&mut self, size: u32);
}

impl<B: bytes::Buf> Windows for h2::client::Connection<Transport, B> {
    fn set_stream_window(&mut self, size: u32) -> Result<(), h2::Error> {
        self.set_initial_window_size(size)
    }

    fn set_connection_window(&mut self, size: u32) {
        self.set_target_window_size(size);
    }
}

impl<B: bytes::Buf> Windows for h2::server::Connection<Transport, B> {
    fn set_stream_window(&mut self, size: u32) -> Result<(), h2::Error> {
        self.set_initial_window_size(size)
    }

    fn set_connection_window(&mut self, size: u32) {
        self.set_target_window_size(size);
    }
}

/// Polled after the h2 connection, in the same task.
pub(crate) struct Driver {
    transport: Transport,
    ping: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    seen: u64,
    waiting_since: Option<Instant>,
    ping_after: Duration,
    ping_timeout: Duration,
    window: u32,
    largest_window: u32,
    streams_in_window: u32,
    turn: (Instant, u64),
}

impl Driver {
    pub(crate) fn new(transport: Transport, ping: Option<PingPong>, settings: &Settings) -> Self {
        Self {
            transport,
            ping,
            timer: Box::pin(sleep(settings.ping_after)),
            seen: 0,
            waiting_since: None,
            ping_after: settings.ping_after,
            ping_timeout: settings.ping_timeout,
            window: settings.stream_window,
            largest_window: settings.largest_stream_window.max(settings.stream_window),
            streams_in_window: settings.streams_in_window,
            turn: (Instant::now(), 0),
        }
    }

    /// Ready when the connection has to be given up.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, windows: &mut impl Windows) -> Poll<Lost> {
        self.transport.end_turn();
        self.widen(windows);
        if let Poll::Ready(Err(why)) = self.transport.poll_flush_now(cx) {
            return Poll::Ready(Lost::Transport(why));
        }
        self.poll_silence(cx)
    }

    /// Flushes before the task turns to something else.
    pub(crate) fn flush(&self, cx: &mut Context<'_>) {
        // An error comes again when the connection is polled.
        let _ = self.transport.poll_flush_now(cx);
    }

    /// Doubles the windows when a whole one came in a short time. They do not shrink: the memory is only used when an
    /// application reads slower than its peer sends.
    fn widen(&mut self, windows: &mut impl Windows) {
        if self.window >= self.largest_window {
            return;
        }
        let received = self.transport.received();
        if received - self.turn.1 < u64::from(self.window) {
            return;
        }
        let now = Instant::now();
        let turn = now - self.turn.0;
        self.turn = (now, received);
        let wider = self.window.saturating_mul(2).min(self.largest_window);
        // Fails while an earlier change is not acknowledged: the next turn tries again.
        if turn < BULK_TURN && windows.set_stream_window(wider).is_ok() {
            windows.set_connection_window(wider.saturating_mul(self.streams_in_window));
            self.window = wider;
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        if let (Some(ping), Some(_)) = (&mut self.ping, self.waiting_since) {
            // Taken so that the next ping can be sent; that something came is seen in the count of bytes.
            if ping.poll_pong(cx).is_ready() {
                self.waiting_since = None;
                self.seen = self.transport.received();
                self.timer.as_mut().reset(Instant::now() + self.ping_after);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let received = self.transport.received();
            let now = Instant::now();
            if received != self.seen {
                // Data is as good as a pong.
                self.seen = received;
                self.timer.as_mut().reset(now + self.ping_after);
                continue;
            }
            match self.waiting_since {
                Some(since) if now >= since + self.ping_timeout => return Poll::Ready(Lost::Silent),
                Some(since) => self.timer.as_mut().reset(since + self.ping_timeout),
                None => {
                    let sent = self.ping.as_mut().is_some_and(|ping| ping.send_ping(Ping::opaque()).is_ok());
                    // A ping that cannot be sent is one that is still under way: the same deadline holds.
                    self.waiting_since = Some(now);
                    self.timer.as_mut().reset(now + self.ping_timeout);
                    if sent {
                        // h2 sends it when it is polled next.
                        cx.waker().wake_by_ref();
                    }
                }
            }
        }
        Poll::Pending
    }
}
