//! Request bodies, as connections to backends send them.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::replay::{ReplayBody, UploadError};

/// A request body.
pub enum RequestBody {
    /// An empty body.
    Empty,
    /// The caller's body.
    Replay(ReplayBody),
    /// The caller's body, copied to mirrors while it is sent.
    Teed(Box<Teed>),
    /// The copy that a mirror gets.
    Copy(Copy),
}

/// A body that is copied while it is sent.
pub struct Teed {
    body: ReplayBody,
    copies: Vec<mpsc::Sender<Frame<Bytes>>>,
}

/// The copy of a body.
pub struct Copy {
    frames: mpsc::Receiver<Frame<Bytes>>,
    length: SizeHint,
}

/// Frames that wait for a slow mirror. What does not fit ends the copy: the original never waits.
const WAITING: usize = 32;

impl RequestBody {
    /// A body and `count` copies of it. A copy that is read too slowly breaks off.
    pub fn teed(body: ReplayBody, count: usize) -> (Self, Vec<Self>) {
        let length = body.size_hint();
        let (copies, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(WAITING)).unzip();
        let copied = |frames| Self::Copy(Copy { frames, length });
        (Self::Teed(Box::new(Teed { body, copies })), receivers.into_iter().map(copied).collect())
    }
}

impl Teed {
    fn copy(&mut self, frame: &Frame<Bytes>) {
        self.copies.retain(|copy| {
            let cloned = match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => Frame::data(data.clone()),
                (None, Some(trailers)) => Frame::trailers(trailers.clone()),
                (None, None) => return true,
            };
            copy.try_send(cloned).is_ok()
        });
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Replay(body) => Pin::new(body).poll_frame(cx),
            Self::Teed(teed) => {
                let polled = Pin::new(&mut teed.body).poll_frame(cx);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => teed.copy(frame),
                    Poll::Ready(_) => teed.copies.clear(),
                    Poll::Pending => {}
                }
                polled
            }
            Self::Copy(copy) => copy.frames.poll_recv(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Replay(body) => body.is_end_stream(),
            Self::Teed(teed) => teed.body.is_end_stream(),
            Self::Copy(copy) => copy.length.exact() == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Replay(body) => body.size_hint(),
            Self::Teed(teed) => teed.body.size_hint(),
            Self::Copy(copy) => copy.length,
        }
    }
}
