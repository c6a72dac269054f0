//! Request bodies that can be sent again: what one attempt has read is kept for the next, up to a limit.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::Sleep;

use crate::request::hygiene::trailers;
use crate::resilience::deadline::Upload;

/// Most bytes that all bodies together may buffer.
pub struct Allowance(AtomicUsize);

/// A body that attempts take turns to send. Only one attempt may be alive at a time.
#[derive(Clone)]
pub struct Replay {
    shared: Arc<Mutex<Shared>>,
    length: Option<u64>,
}

/// Why a body breaks off.
#[derive(Debug, Error)]
pub enum UploadError {
    /// The caller's connection broke.
    #[error(transparent)]
    Caller(#[from] hyper::Error),
    /// The response has ended, and nobody takes the rest.
    #[error("the response has ended and the rest of the request is not taken")]
    Cut,
}

struct Shared {
    /// The caller's body; `None` once the rest of it is not wanted.
    source: Option<Incoming>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    most: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// When the last of it came, or its end.
    moved: Instant,
    /// Something was read that is not kept.
    gone: bool,
    read: Arc<AtomicU64>,
    allowance: Arc<Allowance>,
    /// Not to be read before the backend has said so, or time has passed (RFC 9110, 10.1.1).
    held: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

/// How long a backend may take to say that it wants the content; then it gets it unasked.
const HOLD: Duration = Duration::from_secs(1);
/// Idle timeout of the rest of a request once its response has ended.
const STALL: Duration = Duration::from_secs(5);

/// The body of one attempt.
pub struct ReplayBody {
    shared: Arc<Mutex<Shared>>,
    length: Option<u64>,
    at: usize,
    trailers_sent: bool,
}

impl Default for Allowance {
    fn default() -> Self {
        Self(AtomicUsize::new(64 << 20))
    }
}

impl Allowance {
    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Replay {
    /// Keeps at most `most` bytes; with 0 the body can only be sent again as long as nothing of it was read.
    /// Bytes read from the caller are counted in `read`.
    pub fn new(source: Incoming, most: usize, read: Arc<AtomicU64>, allowance: Arc<Allowance>) -> Self {
        let length = source.size_hint().exact();
        // A body that is known to be too long is not worth keeping the beginning of.
        let most = if length.is_some_and(|length| length > most as u64) { 0 } else { most };
        let shared = Shared {
            source: Some(source),
            kept: vec![],
            kept_bytes: 0,
            most,
            trailers: None,
            ended: false,
            moved: Instant::now(),
            gone: false,
            read,
            allowance,
            held: None,
            waker: None,
        };
        Self { shared: Arc::new(Mutex::new(shared)), length }
    }

    /// The caller waits for a word of the backend before it sends: nothing is read until [`Replay::resume`], or for a
    /// second.
    pub fn hold(&self) {
        self.shared.lock().held = Some(Box::pin(tokio::time::sleep(HOLD)));
    }

    /// Whether nothing was to be read so far.
    pub fn is_held(&self) -> bool {
        self.shared.lock().held.is_some()
    }

    /// The backend wants the body.
    pub fn resume(&self) {
        let mut shared = self.shared.lock();
        shared.held = None;
        shared.wake();
    }

    /// The response has ended. What was not asked for is not sent any more; what flows may flow on (RFC 9112, 9.3).
    pub fn answered(self) -> Option<Rest> {
        let mut shared = self.shared.lock();
        if shared.held.is_some() {
            shared.cut();
            return None;
        }
        Some(Rest(Arc::downgrade(&self.shared)))
    }

    /// The body for the next attempt.
    pub fn body(&self) -> ReplayBody {
        ReplayBody { shared: Arc::clone(&self.shared), length: self.length, at: 0, trailers_sent: false }
    }

    /// Whether the body can be sent from its start.
    pub fn is_whole(&self) -> bool {
        !self.shared.lock().gone
    }

    /// How far it has come.
    pub fn upload(&self) -> Upload {
        let shared = self.shared.lock();
        if shared.is_over() { Upload::Ended(shared.moved) } else { Upload::Flowing(shared.moved) }
    }

    /// No further attempt: what is read from now on need not be kept.
    pub fn let_go(&self) {
        self.shared.lock().most = 0;
    }
}

/// What is left of a body whose response has ended.
pub struct Rest(Weak<Mutex<Shared>>);

impl Rest {
    /// Waits until all was taken, or nobody takes any: then the caller is let go, and it is `true`.
    pub async fn stalls(self) -> bool {
        loop {
            tokio::time::sleep(STALL / 2).await;
            let Some(shared) = self.0.upgrade() else { return false };
            let mut shared = shared.lock();
            if shared.is_over() {
                return false;
            }
            if shared.moved.elapsed() >= STALL {
                shared.cut();
                return true;
            }
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.ended || self.source.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// Drops the caller's body, even if the connection that read it never polls again.
    fn cut(&mut self) {
        self.source = None;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next frame of the caller, unless it is not to be read.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let held = self.held.as_mut().is_some_and(|hold| hold.as_mut().poll(cx).is_pending());
        let polled = match &mut self.source {
            None => return Poll::Ready(Some(Err(UploadError::Cut))),
            Some(_) if held => Poll::Pending,
            Some(source) => Pin::new(source).poll_frame(cx),
        };
        if !held {
            self.held = None;
        }
        if polled.is_pending() && !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        polled.map_err(UploadError::Caller)
    }

    fn keep(&mut self, data: &Bytes) {
        self.read.fetch_add(data.len() as u64, Ordering::Relaxed);
        if self.gone || data.is_empty() {
            return;
        }
        if self.kept_bytes + data.len() > self.most || !self.allowance.take(data.len()) {
            self.gone = true;
            self.forget();
            return;
        }
        self.kept_bytes += data.len();
        self.kept.push(data.clone());
    }

    fn forget(&mut self) {
        self.kept = vec![];
        self.allowance.give_back(std::mem::take(&mut self.kept_bytes));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = &mut *self;
        let mut shared = this.shared.lock();
        if let Some(data) = shared.kept.get(this.at).filter(|_| !shared.gone) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if shared.ended {
            let trailers = if this.trailers_sent { None } else { shared.trailers.clone() };
            this.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(shared.poll_source(cx));
        let Some(frame) = frame.transpose()? else {
            (shared.ended, shared.moved) = (true, Instant::now());
            return Poll::Ready(None);
        };
        let frame = match frame.into_trailers() {
            Ok(mut trailers) => {
                trailers::keep_allowed(&mut trailers);
                shared.trailers = Some(trailers.clone());
                (shared.ended, shared.moved) = (true, Instant::now());
                this.trailers_sent = true;
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        };
        if let Some(data) = frame.data_ref() {
            shared.keep(data);
            shared.moved = Instant::now();
            this.at = shared.kept.len();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock();
        let all_sent = shared.gone || self.at >= shared.kept.len();
        let trailers_left = shared.trailers.is_some() && !self.trailers_sent;
        all_sent && !trailers_left && (shared.ended || shared.source.as_ref().is_some_and(Incoming::is_end_stream))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
