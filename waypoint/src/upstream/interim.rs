//! Interim responses (RFC 9110, 15.2) of the backend that a request was sent to: they are counted, and passed on to
//! clients that can be told.
//!
//! hyper gives out those of HTTP/1 backends and none of HTTP/2's, and writes none itself: to clients of HTTP/1.1 they
//! go beside it, in the moment in which it has nothing to write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use crate::request::hygiene::answer::BadAnswer;
use crate::request::hygiene::hop;

/// Most interim responses to one request. A backend that sends more is not going to answer.
pub const MOST: u32 = 32;
/// Most bytes of their heads.
const MOST_BYTES: usize = 64 << 10;

/// What came for the request that is under way.
#[derive(Debug, Default)]
pub struct Interim {
    state: Mutex<State>,
    /// Something waits to be written to the client.
    waits: AtomicBool,
    request: AtomicWaker,
}

/// Where the interim responses of one request go. Those that come too late, after the next request has begun, go
/// nowhere.
#[derive(Clone, Debug)]
pub struct Hearing {
    interim: Arc<Interim>,
    turn: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Which request it is.
    turn: u64,
    /// The client speaks HTTP/1.1.
    passes: bool,
    /// The client waits for 100 (Continue), which it gets when its content is read.
    expects: bool,
    count: u32,
    bytes: usize,
    out: BytesMut,
}

impl Interim {
    /// A request begins: whether its client can be told, and whether it waits for 100 (Continue).
    pub fn begin(self: &Arc<Self>, passes: bool, expects: bool) -> Hearing {
        let mut state = self.state.lock();
        (state.passes, state.expects, state.count, state.bytes) = (passes, expects, 0, 0);
        state.turn += 1;
        Hearing { interim: Arc::clone(self), turn: state.turn }
    }

    /// What is to be written to the client, if anything.
    pub fn take(&self) -> Option<Bytes> {
        let taken = self.waits.load(Ordering::Acquire).then(|| self.state.lock().out.split().freeze());
        taken.filter(|taken| !taken.is_empty())
    }

    /// What was taken is written.
    pub fn taken(&self) {
        let state = self.state.lock();
        if state.out.is_empty() {
            self.waits.store(false, Ordering::Release);
            drop(state);
            self.request.wake();
        }
    }
}

impl Hearing {
    /// One has come.
    pub fn arrived(&self, status: StatusCode, headers: &HeaderMap) {
        let interim = &self.interim;
        let mut state = interim.state.lock();
        if state.turn != self.turn {
            return;
        }
        state.count = state.count.saturating_add(1);
        let sizes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        state.bytes = state.bytes.saturating_add(sizes.sum());
        let expected = state.expects && status == StatusCode::CONTINUE;
        if state.passes && !expected && !state.is_flood() {
            write(&mut state.out, status, headers);
            interim.waits.store(true, Ordering::Release);
        }
        drop(state);
        interim.request.wake();
    }

    /// Waits for an answer as long as interim responses are within bounds.
    pub async fn within<T>(&self, answer: impl Future<Output = T>) -> Result<T, BadAnswer> {
        let mut answer = std::pin::pin!(answer);
        std::future::poll_fn(|cx| {
            self.interim.request.register(cx.waker());
            if self.interim.state.lock().is_flood() {
                return Poll::Ready(Err(BadAnswer::Interim));
            }
            answer.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Waits until the client's connection has taken what is to be written, so that it precedes the answer.
    pub async fn written(&self) {
        std::future::poll_fn(|cx| {
            self.interim.request.register(cx.waker());
            if self.interim.waits.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

impl State {
    fn is_flood(&self) -> bool {
        self.count > MOST || self.bytes > MOST_BYTES
    }
}

fn write(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
    let mut headers = headers.clone();
    hop::strip(&mut headers);
    headers.remove(http::header::CONTENT_LENGTH);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(status.canonical_reason().unwrap_or("Interim").as_bytes());
    out.put_slice(b"\r\n");
    for (name, value) in &headers {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http::HeaderValue;

    use super::*;

    #[test]
    fn they_are_passed_on_in_order_without_fields_of_the_connection() {
        let interim = Arc::<Interim>::default();
        let hearing = interim.begin(true, false);
        let mut headers = HeaderMap::new();
        headers.insert("link", HeaderValue::from_static("</style.css>"));
        headers.insert("connection", HeaderValue::from_static("x"));
        headers.insert("x", HeaderValue::from_static("1"));
        hearing.arrived(StatusCode::CONTINUE, &HeaderMap::new());
        hearing.arrived(StatusCode::from_u16(103).unwrap(), &headers);
        assert!(hearing.written().now_or_never().is_none());
        let written = interim.take().unwrap();
        let expected = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n";
        assert_eq!(std::str::from_utf8(&written).unwrap(), expected);
        interim.taken();
        assert!(hearing.written().now_or_never().is_some() && interim.take().is_none());
        // The client that waits for this one gets it from the server's own hand.
        let next = interim.begin(true, true);
        next.arrived(StatusCode::CONTINUE, &HeaderMap::new());
        assert!(interim.take().is_none());
        // What comes too late belongs to nobody.
        hearing.arrived(StatusCode::PROCESSING, &headers);
        assert!(interim.take().is_none());
        interim.begin(false, false).arrived(StatusCode::PROCESSING, &headers);
        assert!(interim.take().is_none());
    }

    #[test]
    fn there_is_an_end_to_them() {
        let interim = Arc::<Interim>::default();
        let mut large = HeaderMap::new();
        large.insert("x", HeaderValue::from_str(&"a".repeat(30 << 10)).unwrap());
        for (headers, most) in [(&HeaderMap::new(), MOST), (&large, 2)] {
            let hearing = interim.begin(true, false);
            for _ in 0..most {
                hearing.arrived(StatusCode::PROCESSING, headers);
                assert!(hearing.within(std::future::pending::<()>()).now_or_never().is_none());
            }
            hearing.arrived(StatusCode::PROCESSING, headers);
            let ended = hearing.within(std::future::pending::<()>()).now_or_never();
            assert_eq!(ended, Some(Err(BadAnswer::Interim)));
        }
    }
}
