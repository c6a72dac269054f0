//! Bidirectional copy between two sockets. Once a direction streams, its bytes stay inside the kernel: splice(2) moves
//! pages from one socket into a pipe and from there into the other.
//!
//! Small messages are read and written as usual: a pipe would take as many system calls, and two descriptors besides.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::copy::{self, CopyError, Count, Timeouts};
use super::duplex::Duplex as _;
use super::flow::{Direction, Flow, FlowError, ROUNDS};
use super::tcp::Tcp;

/// A direction whose splice moves fewer bytes than this no longer streams.
const SMALL: usize = 8 * 1024;
/// Bytes asked for in one call, and the capacity of a pipe if the kernel allows it.
const ROOM: usize = 512 * 1024;
/// Pipes kept for reuse.
const SPARE: usize = 64;

/// Copies in both directions, like [`copy::both_ways`].
pub async fn both_ways(
    first: &mut Tcp,
    second: &mut Tcp,
    counters: &impl Count,
    timeouts: &Timeouts,
) -> Result<(), CopyError> {
    copy::carry::<Stream, Stream, _, _>(first, second, counters, timeouts).await
}

/// A direction that copies, splices while it streams, and copies again.
#[derive(Default)]
struct Stream {
    copied: Direction,
    streams: bool,
    /// `Some` only while there is something to move.
    pipe: Option<Pipe>,
    ended: bool,
}

impl Flow<Tcp, Tcp> for Stream {
    fn blocked(&self) -> bool {
        Flow::<Tcp, Tcp>::blocked(&self.copied) || self.pipe.as_ref().is_some_and(|pipe| pipe.held > 0)
    }

    fn failing(&self) -> bool {
        Flow::<Tcp, Tcp>::failing(&self.copied)
    }

    fn give_up(&mut self) -> Option<io::Error> {
        Flow::<Tcp, Tcp>::give_up(&mut self.copied)
    }

    fn unsent(&self) -> usize {
        Flow::<Tcp, Tcp>::unsent(&self.copied)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Tcp,
        to: &mut Tcp,
        count: impl Fn(u64),
    ) -> Poll<Result<(), FlowError>> {
        if !self.streams {
            let polled = self.copied.poll(cx, from, to, &count);
            // Queued bytes have to be sent before the pipe is used.
            if polled.is_ready() || !from.streams() || Flow::<Tcp, Tcp>::blocked(&self.copied) {
                return polled;
            }
            self.streams = true;
        }
        self.poll_spliced(cx, from, to, count)
    }
}

impl Stream {
    fn poll_spliced(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Tcp,
        to: &mut Tcp,
        count: impl Fn(u64),
    ) -> Poll<Result<(), FlowError>> {
        let reading = |error| FlowError { error, reading: true };
        let writing = |error| FlowError { error, reading: false };
        for _ in 0..ROUNDS {
            if self.ended {
                return to.poll_finish(cx).map_err(writing);
            }
            // Taken when there is something to move: idle streams hold no pipe.
            if self.pipe.is_none() {
                ready!(from.stream().poll_read_ready(cx)).map_err(|error| from.note(error)).map_err(reading)?;
            }
            let pipe = match self.pipe.take().map_or_else(Pipe::take, Ok) {
                Ok(pipe) => self.pipe.insert(pipe),
                Err(_) => {
                    // Possibly out of descriptors: without a pipe, go on copying.
                    self.streams = false;
                    from.streams_no_more();
                    break;
                }
            };
            if pipe.held == 0 {
                match pipe.poll_fill(cx, from.stream()).map_err(|error| reading(from.note(error)))? {
                    Poll::Ready(0) => {
                        from.ended().map_err(reading)?;
                        self.ended = true;
                    }
                    Poll::Ready(moved) => self.streams = moved >= SMALL,
                    Poll::Pending => {
                        self.recycle();
                        return Poll::Pending;
                    }
                }
            }
            while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held > 0) {
                count(ready!(pipe.poll_drain(cx, to.stream())).map_err(|error| writing(to.note(error)))? as u64);
            }
            if !self.streams || self.ended {
                self.recycle();
            }
            if !self.streams {
                from.streams_no_more();
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn recycle(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.recycle();
        }
    }
}

/// A pipe and the number of bytes in it.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

/// Empty pipes for reuse: making one takes three system calls.
static PIPES: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.lock().pop() {
            return Ok(pipe);
        }
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // A smaller pipe works too, with more calls.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(ROOM as i32));
        Ok(Self { reader, writer, held: 0 })
    }

    fn recycle(self) {
        let mut pipes = PIPES.lock();
        if self.held == 0 && pipes.len() < SPARE {
            pipes.push(self);
        }
    }

    /// Moves bytes of the socket into the empty pipe; 0 at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || Ok(splice(from, None, &self.writer, None, ROOM, flags())?));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(moved) => {
                    self.held = moved;
                    return Poll::Ready(Ok(moved));
                }
            }
        }
    }

    /// Moves the pipe's bytes into the socket; returns how many.
    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || Ok(splice(&self.reader, None, to, None, self.held, flags())?));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => {
                    self.held -= moved;
                    return Poll::Ready(Ok(moved));
                }
            }
        }
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::copy::{Counters, End};
    use super::super::socket::reset_on_close;
    use super::*;

    const NONE: Timeouts = Timeouts { idle: None, half_closed: None };

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
    }

    /// A client, a server, and what carries between them.
    async fn carried() -> (TcpStream, TcpStream, tokio::task::JoinHandle<(Result<(), CopyError>, (u64, u64))>) {
        let ((client, near), (far, server)) = (pair().await, pair().await);
        let carrying = tokio::spawn(async move {
            let counters = Counters::default();
            let result = both_ways(&mut Tcp::new(near), &mut Tcp::new(far), &counters, &NONE).await;
            let sum = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
            (result, (sum(&counters.sent), sum(&counters.received)))
        });
        (client, server, carrying)
    }

    #[tokio::test]
    async fn bytes_arrive_intact_whether_they_stream_or_not() {
        for length in [0, 1, 4_096, 65_537, 300_000, 5_000_000, 40_000_000] {
            let (client, server, carrying) = carried().await;
            let send = async |mut stream: TcpStream| {
                let (mut reader, mut writer) = stream.split();
                let sent = pattern(length);
                let mut received = Vec::new();
                let write = async {
                    writer.write_all(&sent).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                tokio::join!(write, async { reader.read_to_end(&mut received).await.unwrap() });
                assert!(received == sent, "{length}");
            };
            tokio::join!(send(client), send(server));
            let (result, counted) = carrying.await.unwrap();
            result.unwrap();
            assert_eq!(counted, (length as u64, length as u64));
        }
    }

    #[tokio::test]
    async fn streams_and_single_words_may_take_turns() {
        let (mut client, mut server, _carrying) = carried().await;
        let bulk = pattern(3_000_000);
        for round in 0..5_u8 {
            let mut received = vec![0; bulk.len()];
            tokio::join!(async { client.write_all(&bulk).await.unwrap() }, async {
                server.read_exact(&mut received).await.unwrap();
            });
            assert!(received == bulk, "{round}");
            for word in 0..3 {
                server.write_all(&[round, word]).await.unwrap();
                let mut heard = [0; 2];
                client.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard, [round, word]);
            }
        }
    }

    #[tokio::test]
    async fn a_reset_in_the_middle_of_a_stream_reaches_the_other_end() {
        let (mut client, mut server, carrying) = carried().await;
        let sender = tokio::spawn(async move {
            let chunk = pattern(1 << 20);
            while client.write_all(&chunk).await.is_ok() {}
        });
        let mut some = vec![0; 4_000_000];
        server.read_exact(&mut some).await.unwrap();
        reset_on_close(&server).unwrap();
        drop(server);
        let (result, _) = tokio::time::timeout(Duration::from_secs(10), carrying).await.unwrap().unwrap();
        assert!(matches!(result, Err(CopyError::Broken { end: End::Second, .. })), "{result:?}");
        sender.await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_before_the_end_of_a_stream_arrives_whole_and_ends_in_peace() {
        for _ in 0..8 {
            let (client, mut server, carrying) = carried().await;
            let (mut read, mut write) = client.into_split();
            let uploading = tokio::spawn(async move {
                let chunk = pattern(1 << 20);
                while write.write_all(&chunk).await.is_ok() {}
            });
            let mut some = vec![0; 4_000_000];
            server.read_exact(&mut some).await.unwrap();
            let answer = pattern(1_000_000);
            let answering = async {
                server.write_all(&answer).await.unwrap();
                server.shutdown().await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                drop(server);
            };
            let mut received = Vec::new();
            let ((), end) = tokio::join!(answering, read.read_to_end(&mut received));
            end.unwrap();
            assert!(received == answer, "{}", received.len());
            uploading.abort();
            let _ = uploading.await;
            drop(read);
            let (result, _) = tokio::time::timeout(Duration::from_secs(10), carrying).await.unwrap().unwrap();
            result.unwrap();
        }
    }

    #[tokio::test]
    async fn a_reader_that_stalls_slows_the_writer_down() {
        let (mut client, mut server, _carrying) = carried().await;
        let chunk = pattern(1 << 20);
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(300), client.write_all(&chunk)).await.is_ok() {
            sent += chunk.len();
            assert!(sent < 200 << 20, "nothing holds it back");
        }
        let mut received = vec![0; sent];
        server.read_exact(&mut received).await.unwrap();
        assert!(received.chunks(chunk.len()).all(|part| part == chunk));
    }
}
