//! The upkeep of an HTTP/2 connection that h2 leaves to both ends: keepalive pings, window sizes, flushing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::load::Load;
use super::settings::Settings;
use super::transport::Transport;
use super::window::{Seen, Usage, Widths};
use crate::net::buffers::{Buffers, Part, What};

/// How often a tunnel with unread bytes checks, while it is being driven, whether readers have released window.
const DRIVEN_INTERVAL: Duration = Duration::from_millis(10);

/// The same for a tunnel in which nothing else happens.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a connection is given up.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Keepalive timeout: no byte since the ping.
    Silent,
    /// Flushing the transport failed.
    Transport(io::Error),
}

/// Sets window sizes: h2's client and server connections have no trait in common.
pub(crate) trait SetWindows {
    fn set_stream_window(&mut self, size: u32) -> Result<(), h2::Error>;
    fn set_connection_window(&mut self, size: u32);
}

impl<B: bytes::Buf> SetWindows for h2::client::Connection<Transport, B> {
    fn set_stream_window(&mut self, size: u32) -> Result<(), h2::Error> {
        self.set_initial_window_size(size)
    }

    fn set_connection_window(&mut self, size: u32) {
        self.set_target_window_size(size);
    }
}

impl<B: bytes::Buf> SetWindows for h2::server::Connection<Transport, B> {
    fn set_stream_window(&mut self, size: u32) -> Result<(), h2::Error> {
        self.set_initial_window_size(size)
    }

    fn set_connection_window(&mut self, size: u32) {
        self.set_target_window_size(size);
    }
}

/// The upkeep of one connection; polled after the h2 connection, in the same task.
pub(crate) struct Driver {
    transport: Transport,
    ping: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    seen: u64,
    waiting_since: Option<Instant>,
    ping_after: Duration,
    ping_timeout: Duration,
    windows: Windows,
}

/// The flow-control windows offered to the peer.
pub(crate) struct Windows {
    widths: Widths,
    load: Arc<Load>,
    /// Unread bytes of the streams, within the bound of the workload's buffers: added to the connection's window.
    held: Part,
    wide: Part,
    /// Window of each stream, in bytes.
    stream: u32,
    /// Window of the connection, in bytes.
    tunnel: u32,
    /// Whether a narrower window is not acknowledged by the peer yet.
    narrowing: bool,
    /// When the windows were last adjusted, and the bytes received by then.
    looked: (Instant, u64),
    /// Adjusts the windows periodically while bytes are unread, even if nothing else happens in the tunnel.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Windows {
    /// The windows of a new tunnel, whose streams are counted in `load`.
    pub(crate) fn new(settings: &Settings, buffers: &Arc<Buffers>, load: &Arc<Load>) -> Self {
        let widths = Widths::new(settings);
        let (held, wide) = (Part::new(buffers, What::Unread), Part::new(buffers, What::Wide));
        let stream = widths.at_first(usage(buffers));
        let tunnel = widths.of_tunnel(stream);
        Self {
            widths,
            load: Arc::clone(load),
            held,
            wide,
            stream,
            tunnel,
            narrowing: false,
            looked: (Instant::now(), 0),
            timer: None,
        }
    }

    /// Window of a stream and of the connection, in bytes.
    pub(crate) fn sizes(&self) -> (u32, u32) {
        (self.stream, self.tunnel)
    }

    /// Periodically adjusts the windows to the receive rate and the unread bytes.
    fn regulate(&mut self, cx: &mut Context<'_>, received: u64, h2: &mut impl SetWindows) {
        if self.narrowing {
            self.settle(h2);
        }
        let came = received - self.looked.1;
        let enough = came >= self.widths.adjust_after(self.stream);
        if !enough && self.held.bytes() == 0 && !self.widths.is_narrow(self.stream) {
            return;
        }
        let now = Instant::now();
        let took = now - self.looked.0;
        if !enough && took < DRIVEN_INTERVAL {
            return;
        }
        self.looked = (now, received);
        let held = self.load.held();
        let granted = self.held.resize(usize::try_from(held).unwrap_or(usize::MAX));
        let mut stream = self.widths.next(self.stream, usage(self.held.of()), &Seen { came, took, held });
        let wide = self.widths.wide(stream);
        if self.wide.resize(wide) < wide {
            stream = self.stream.min(stream);
            self.wide.resize(self.widths.wide(stream));
        }
        // Fails while an earlier change is not acknowledged; retried at the next interval.
        if stream != self.stream && h2.set_stream_window(stream).is_ok() {
            self.narrowing |= stream < self.stream;
            self.stream = stream;
            // h2 sends it at its next poll.
            cx.waker().wake_by_ref();
        }
        let tunnel = self.widths.of_tunnel(self.stream).saturating_add(granted as u32).min(LARGEST);
        if tunnel != self.tunnel {
            h2.set_connection_window(tunnel);
            self.tunnel = tunnel;
        }
        if granted == 0 {
            self.timer = None;
        } else if self.timer.as_ref().is_none_or(|timer| timer.is_elapsed()) {
            let timer = self.timer.insert(Box::pin(sleep(IDLE_INTERVAL)));
            // Polled once to register the waker.
            let _ = timer.as_mut().poll(cx);
        }
    }
}

impl Windows {
    /// A narrower window takes effect when the peer acknowledges it. h2 does not report the acknowledgement, but
    /// refuses another change until then: the same change is requested again to find out.
    fn settle(&mut self, h2: &mut impl SetWindows) {
        if h2.set_stream_window(self.stream).is_ok() {
            self.narrowing = false;
            self.load.release_narrowed();
        }
    }
}

/// The unread bytes of a workload, and the bound on them.
fn usage(buffers: &Buffers) -> Usage {
    Usage { used: buffers.used(What::Unread), limit: buffers.limit(What::Unread) }
}

/// Largest window (RFC 9113, 6.9.1).
const LARGEST: u32 = (1 << 31) - 1;

impl Driver {
    pub(crate) fn new(transport: Transport, ping: Option<PingPong>, settings: &Settings, windows: Windows) -> Self {
        Self {
            transport,
            ping,
            timer: Box::pin(sleep(settings.ping_after)),
            seen: 0,
            waiting_since: None,
            ping_after: settings.ping_after,
            ping_timeout: settings.ping_timeout,
            windows,
        }
    }

    /// Ready when the connection has to be given up.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, h2: &mut impl SetWindows) -> Poll<Lost> {
        self.transport.end_turn();
        self.windows.regulate(cx, self.transport.received(), h2);
        if let Poll::Ready(Err(why)) = self.transport.poll_flush_now(cx) {
            return Poll::Ready(Lost::Transport(why));
        }
        self.poll_silence(cx)
    }

    /// Flushes before the task yields.
    pub(crate) fn flush(&self, cx: &mut Context<'_>) {
        // The connection reports the same error when it is polled.
        let _ = self.transport.poll_flush_now(cx);
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        if let (Some(ping), Some(_)) = (&mut self.ping, self.waiting_since) {
            // Taken so that the next ping can be sent; any received byte counts as the answer.
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
                // Data proves liveness as well as a pong does.
                self.seen = received;
                self.timer.as_mut().reset(now + self.ping_after);
                continue;
            }
            match self.waiting_since {
                Some(since) if now >= since + self.ping_timeout => return Poll::Ready(Lost::Silent),
                Some(since) => self.timer.as_mut().reset(since + self.ping_timeout),
                None => {
                    let sent = self.ping.as_mut().is_some_and(|ping| ping.send_ping(Ping::opaque()).is_ok());
                    // A ping that cannot be sent means that an earlier one is in flight: the same deadline applies.
                    self.waiting_since = Some(now);
                    self.timer.as_mut().reset(now + self.ping_timeout);
                    if sent {
                        // h2 sends it at its next poll.
                        cx.waker().wake_by_ref();
                    }
                }
            }
        }
        Poll::Pending
    }
}
