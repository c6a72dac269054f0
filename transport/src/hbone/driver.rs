//! What both ends do for an HTTP/2 connection beside h2: ping when silent, set the windows, flush.

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

/// A tunnel that holds bytes for its readers is looked at this often while it is driven: what they take is to be given back.
const LOOK: Duration = Duration::from_millis(10);

/// The same for one that is not driven by anything else.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Why a driver gives its connection up.
#[derive(Debug)]
pub(crate) enum Lost {
    /// No byte for too long.
    Silent,
    /// The transport failed while it was flushed.
    Transport(io::Error),
}

/// The side of h2 that has windows: its client and server connection have no common trait.
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

/// Polled after the h2 connection, in the same task.
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

/// The windows that the peer may fill.
pub(crate) struct Windows {
    widths: Widths,
    load: Arc<Load>,
    /// What streams hold, as far as the workload's buffers have room for it: added to the tunnel's window.
    held: Part,
    wide: Part,
    /// Of a stream.
    stream: u32,
    /// Of the tunnel.
    tunnel: u32,
    /// Whether the peer has not said yet that it knows of a narrower window.
    narrowing: bool,
    /// When the windows were looked at, and how many bytes had come then.
    looked: (Instant, u64),
    /// While bytes are held they are looked at now and then, even if nothing else happens in the tunnel.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Windows {
    /// Those of a new tunnel, whose streams are counted in `load`.
    pub(crate) fn new(settings: &Settings, buffers: &Arc<Buffers>, load: &Arc<Load>) -> Self {
        let widths = Widths::new(settings);
        let (held, wide) = (Part::new(buffers, What::Held), Part::new(buffers, What::Wide));
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

    /// Windows of a stream and of the tunnel.
    pub(crate) fn sizes(&self) -> (u32, u32) {
        (self.stream, self.tunnel)
    }

    /// Looks at what came and what is held, now and then, and sets the windows.
    fn regulate(&mut self, cx: &mut Context<'_>, received: u64, h2: &mut impl SetWindows) {
        if self.narrowing {
            self.settle(h2);
        }
        let came = received - self.looked.1;
        let enough = came >= self.widths.look_after(self.stream);
        if !enough && self.held.bytes() == 0 && !self.widths.is_narrow(self.stream) {
            return;
        }
        let now = Instant::now();
        let took = now - self.looked.0;
        if !enough && took < LOOK {
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
        // Fails while an earlier change is not acknowledged: the next look tries again.
        if stream != self.stream && h2.set_stream_window(stream).is_ok() {
            self.narrowing |= stream < self.stream;
            self.stream = stream;
            // h2 sends it when it is polled next.
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
            let timer = self.timer.insert(Box::pin(sleep(POLL_INTERVAL)));
            // Asked once, so that it wakes this task.
            let _ = timer.as_mut().poll(cx);
        }
    }
}

impl Windows {
    /// Windows become narrow here when the peer acknowledges it. h2 does not tell, but refuses another change until then:
    /// so it is asked for the same once more.
    fn settle(&mut self, h2: &mut impl SetWindows) {
        if h2.set_stream_window(self.stream).is_ok() {
            self.narrowing = false;
            self.load.give_back();
        }
    }
}

/// How much of its buffers a workload uses for what it holds.
fn usage(buffers: &Buffers) -> Usage {
    Usage { used: buffers.used(What::Held), limit: buffers.limit(What::Held) }
}

/// Of a window (RFC 9113, 6.9.1).
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

    /// Flushes before the task turns to something else.
    pub(crate) fn flush(&self, cx: &mut Context<'_>) {
        // An error comes again when the connection is polled.
        let _ = self.transport.poll_flush_now(cx);
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
