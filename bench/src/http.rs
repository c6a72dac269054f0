//! Minimal HTTP/1.1 over any stream, so that the ends of a path cost little.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of a body.
pub const BODY: usize = 1024;
/// Longest head; what sends more is hung up on.
const LONGEST_HEAD: usize = 16 * 1024;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers every request of a connection with 200 and [`BODY`] bytes, until the other side ends it.
pub async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY, b'.');
    let mut buffer = Vec::with_capacity(1024);
    while read_head(&mut stream, &mut buffer).await?.is_some() {
        stream.write_all(&answer).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// The client's end of a connection.
#[derive(Debug)]
pub struct Asking<S> {
    stream: S,
    buffer: Vec<u8>,
    request: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Asking<S> {
    /// Asks a host for a path, again and again, on this connection.
    pub fn new(stream: S, host: &str, path: &str) -> Self {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: culvert-bench\r\naccept: */*\r\n\r\n");
        Self { stream, buffer: Vec::with_capacity(4096), request: request.into_bytes() }
    }

    /// One request and its whole answer, which must be a 200. Gives the answer's head.
    pub async fn ask(&mut self) -> Result<String> {
        let asked = tokio::time::timeout(PATIENCE, self.exchange()).await;
        let head = asked.context("no answer in time")??;
        ensure!(head.starts_with("HTTP/1.1 200"), "the answer was {:?}", head.lines().next().unwrap_or_default());
        Ok(head)
    }

    async fn exchange(&mut self) -> Result<String> {
        self.stream.write_all(&self.request).await.context("sending a request")?;
        self.stream.flush().await.context("sending a request")?;
        let head = read_head(&mut self.stream, &mut self.buffer).await.context("reading an answer")?;
        let head = head.context("the connection ended instead of an answer")?;
        let length = content_length(&head).with_context(|| format!("an answer without content-length: {head:?}"))?;
        while self.buffer.len() < length {
            let count = self.stream.read_buf(&mut self.buffer).await.context("reading a body")?;
            ensure!(count > 0, "the connection ended in a body");
        }
        self.buffer.drain(..length);
        Ok(head)
    }
}

/// Reads up to the blank line, which it takes out of the buffer with the head; what came after stays. `None` at the
/// end.
async fn read_head(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = buffer.drain(..end + 4).collect();
            return String::from_utf8(head).map(Some).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        if buffer.len() > LONGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

/// The schedule of a client.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Its first request.
    pub first: Instant,
    /// The time from one request to the next, however long the answers take. None: the next when the last was answered.
    pub every: Option<Duration>,
    /// What begins before this is warm-up.
    pub begin: Instant,
    /// Nothing begins after this.
    pub end: Instant,
}

impl Pace {
    /// Asks at this pace. Gives the nanoseconds of each measured request, and the number of all.
    ///
    /// A request that is delayed by the previous response is timed from when it was due (no coordinated omission).
    pub async fn run<S>(self, asking: &mut Asking<S>) -> Result<(Vec<u64>, u64)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut times, mut ever, mut due) = (Vec::new(), 0, self.first);
        loop {
            if due >= self.end {
                return Ok((times, ever));
            }
            let mut started = due;
            if Instant::now() < due {
                tokio::time::sleep_until(due.into()).await;
                // The timer's own delay does not count.
                started = Instant::now();
            }
            asking.ask().await?;
            ever += 1;
            if started >= self.begin {
                times.push(started.elapsed().as_nanos() as u64);
            }
            due = self.every.map_or_else(Instant::now, |every| due + every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_and_a_server_understand_one_another() {
        let (near, far) = tokio::io::duplex(256);
        let server = tokio::spawn(serve(far));
        let mut asking = Asking::new(near, "shop", "/");
        for _ in 0..3 {
            assert!(asking.ask().await.unwrap().contains("content-length: 1024"));
        }
        drop(asking);
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_answer_other_than_200_is_an_error() {
        let (near, mut far) = tokio::io::duplex(256);
        let mut asking = Asking::new(near, "shop", "/");
        far.write_all(b"HTTP/1.1 503 Nothing\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert!(asking.ask().await.unwrap_err().to_string().contains("503"));
    }

    #[tokio::test]
    async fn a_paced_client_asks_as_often_as_it_was_told() {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(serve(far));
        let now = Instant::now();
        let pace = Pace {
            first: now,
            every: Some(Duration::from_millis(10)),
            begin: now + Duration::from_millis(20),
            end: now + Duration::from_millis(100),
        };
        let (times, ever) = pace.run(&mut Asking::new(near, "shop", "/")).await.unwrap();
        assert_eq!((times.len(), ever), (8, 10));
    }
}
