//! What the guard does with what clients send, and beside what hyper writes.

use bytes::BytesMut;
use futures_util::FutureExt as _;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use transport::net::duplex::Queue;

use super::*;

/// One end of a pipe in memory that can be reset.
struct End {
    pipe: DuplexStream,
    reset: Arc<AtomicBool>,
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

impl Duplex for End {
    const READS_AHEAD: bool = false;
    const STOPS: bool = false;

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let mut bytes = BytesMut::zeroed(1024);
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.pipe).poll_read(cx, &mut buf))?;
        let read = buf.filled().len();
        bytes.truncate(read);
        Poll::Ready(Ok((read > 0).then(|| bytes.freeze())))
    }

    fn consumed(&mut self, _: usize) {}

    fn poll_send(&mut self, _: &mut Context<'_>, _: &mut Queue) -> Poll<io::Result<usize>> {
        unreachable!("the guard writes through AsyncWrite")
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }

    fn is_flushed(&self) -> bool {
        true
    }

    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        if self.reset.load(Ordering::Relaxed) {
            Poll::Ready(io::ErrorKind::ConnectionReset.into())
        } else {
            Poll::Pending
        }
    }

    fn take_error(&mut self) -> Option<io::Error> {
        None
    }

    fn reset(&mut self) {}
}

struct Scene {
    far: DuplexStream,
    guard: Guard<End>,
    switched: Arc<AtomicBool>,
    reset: Arc<AtomicBool>,
    interim: Arc<Interim>,
}

fn scene(room: usize) -> Scene {
    let (far, pipe) = duplex(room);
    let (switched, reset, interim) =
        (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default(), Arc::<Interim>::default());
    let end = End { pipe, reset: Arc::clone(&reset) };
    let guard = Guard::new(end, Arc::clone(&switched), Arc::clone(&interim));
    Scene { far, guard, switched, reset, interim }
}

#[tokio::test]
async fn a_refused_head_ends_in_a_word_about_it_or_in_what_no_parser_takes() {
    let Scene { mut far, mut guard, .. } = scene(1024);
    far.write_all(b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\nG").await.unwrap();
    let mut bytes = [0xff; 128];
    let read = guard.read(&mut bytes).await.unwrap();
    let said =
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\nx-culvert-refused: length-and-coding\r\nconnection: close\r\n\r\n";
    assert_eq!(&bytes[..read], said);
    assert!(guard.read(&mut bytes).now_or_never().is_none());

    let Scene { mut far, mut guard, .. } = scene(1024);
    far.write_all(b"GET / HTTP/1.1\nhost: a\n\n").await.unwrap();
    let read = guard.read(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..read], POISON);
    assert!(guard.read(&mut bytes).await.is_err());
}

#[tokio::test]
async fn what_is_not_http_any_more_passes() {
    let Scene { mut far, mut guard, switched, .. } = scene(1024);
    switched.store(true, Ordering::Relaxed);
    far.write_all(b"\n\n\0 anything").await.unwrap();
    let mut bytes = [0; 128];
    assert_eq!(guard.read(&mut bytes).await.unwrap(), 12);
}

#[tokio::test]
async fn interim_responses_never_come_into_the_middle_of_anything() {
    // Room for less than one of them: they are written in pieces, between which hyper may want to write.
    let Scene { mut far, mut guard, interim, .. } = scene(8);
    let hearing = interim.begin(true, false);
    hearing.arrived(StatusCode::CONTINUE, &HeaderMap::new());
    hearing.arrived(StatusCode::PROCESSING, &HeaderMap::new());
    // What hyper still had to write goes first; it flushes when it has nothing more.
    guard.write_all(b"before;").await.unwrap();
    assert!(guard.flush().now_or_never().is_none() && hearing.written().now_or_never().is_none());
    let writing = async {
        guard.write_all(b"after;").await.unwrap();
        guard.flush().await.unwrap();
        guard.shutdown().await.unwrap();
    };
    let mut said = String::new();
    let reading = async {
        far.read_to_string(&mut said).await.unwrap();
        drop(far);
    };
    tokio::join!(writing, reading);
    assert_eq!(said, "before;HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nafter;");
    assert!(hearing.written().now_or_never().is_some());
}

#[tokio::test]
async fn a_client_that_is_reset_while_it_waits_is_gone_and_one_that_ends_its_half_is_not() {
    let Scene { mut far, mut guard, reset, .. } = scene(1024);
    far.shutdown().await.unwrap();
    assert!(guard.flush().await.is_ok());
    reset.store(true, Ordering::Relaxed);
    assert!(guard.flush().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_our_end_is_read_for_a_while() {
    for (pause, expected) in [(Duration::from_secs(1), 10..13), (Duration::from_secs(60), 2..3)] {
        let Scene { mut far, mut guard, .. } = scene(1024);
        let began = Instant::now();
        let sending = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                if far.write_all(&[0; 600]).await.is_err() {
                    return;
                }
            }
        });
        guard.shutdown().await.unwrap();
        assert!(expected.contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        sending.abort();
    }
    // Who ends with us is not waited for.
    let Scene { far, mut guard, .. } = scene(1024);
    drop(far);
    let began = Instant::now();
    guard.shutdown().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}
