//! Both ends as bytes: clients and backends that say what no library would.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::rig::{Rig, TARGET};

/// What a backend says to a request.
#[derive(Clone, Debug)]
pub(crate) struct Say {
    pub(crate) bytes: Vec<u8>,
    /// Whether it closes after that.
    pub(crate) close: bool,
    /// Whether it says it when it has the head, without a look at the content.
    pub(crate) early: bool,
}

pub(crate) fn say(text: &str) -> Say {
    Say { bytes: text.as_bytes().to_vec(), close: false, early: false }
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

type Answer = Arc<dyn Fn(&str) -> Say + Send + Sync>;

/// A backend that speaks bytes, and keeps what it was sent.
pub(crate) struct Wire {
    /// Requests, head and content as they came.
    pub(crate) seen: Mutex<Vec<String>>,
    pub(crate) connections: AtomicUsize,
}

impl Wire {
    /// Starts one at the pod with this last byte. `answer` is given the head.
    pub(crate) async fn start(rig: &Rig, host: u8, answer: impl Fn(&str) -> Say + Send + Sync + 'static) -> Arc<Self> {
        let wire = Arc::new(Self { seen: Mutex::default(), connections: AtomicUsize::new(0) });
        let listener = TcpListener::bind((rig.net.ip(host), TARGET)).await.unwrap();
        let (serving, answer): (_, Answer) = (Arc::clone(&wire), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Arc::clone(&serving).serve(tcp, Arc::clone(&answer)));
            }
        });
        wire
    }

    async fn serve(self: Arc<Self>, mut tcp: TcpStream, answer: Answer) {
        while let Some(head) = read_head(&mut tcp).await {
            let said = answer(&head);
            let content = if said.early { Some(String::new()) } else { read_content(&mut tcp, &head).await };
            let Some(content) = content else {
                self.seen.lock().push(format!("{head}(cut)"));
                return;
            };
            self.seen.lock().push(head + &content);
            if tcp.write_all(&said.bytes).await.is_err() || said.close {
                return;
            }
        }
    }

    /// The request with this in its first line.
    pub(crate) fn find(&self, mark: &str) -> Option<String> {
        self.seen.lock().iter().find(|seen| seen.lines().next().is_some_and(|line| line.contains(mark))).cloned()
    }
}

pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// A field of a head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

async fn read_content(stream: &mut TcpStream, head: &str) -> Option<String> {
    let mut content = vec![];
    if let Some(length) = field(head, "content-length") {
        content.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut content).await.ok()?;
    } else if field(head, "transfer-encoding").is_some() {
        let ends = |content: &[u8]| {
            let has_last_chunk = content.windows(3).any(|bytes| bytes == b"0\r\n");
            content.ends_with(b"0\r\n\r\n") || (has_last_chunk && content.ends_with(b"\r\n\r\n"))
        };
        while !ends(&content) {
            content.push(stream.read_u8().await.ok()?);
        }
    }
    Some(String::from_utf8_lossy(&content).into_owned())
}

/// What comes until nothing has come for `quiet`, or the end.
pub(crate) async fn read_all(stream: &mut (impl AsyncRead + Unpin), quiet: Duration) -> (String, bool) {
    let mut said = vec![];
    let mut bytes = vec![0; 16 << 10];
    loop {
        match timeout(quiet, stream.read(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => return (String::from_utf8_lossy(&said).into_owned(), true),
            Ok(Ok(read)) => said.extend_from_slice(&bytes[..read]),
            Err(_) => return (String::from_utf8_lossy(&said).into_owned(), false),
        }
    }
}

/// One response with its content, by its length; `None` when the connection ends first.
pub(crate) async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let reading = async {
        let head = read_head(stream).await?;
        let mut content = vec![0; field(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
        stream.read_exact(&mut content).await.ok()?;
        Some(head + &String::from_utf8_lossy(&content))
    };
    timeout(Duration::from_secs(8), reading).await.ok()?
}

impl Rig {
    /// Sends bytes on a connection of their own, and gives all that comes back.
    pub(crate) async fn tell(&self, vip: &str, bytes: &[u8]) -> String {
        let mut stream = self.connect(vip).await;
        stream.write_all(bytes).await.unwrap();
        read_all(&mut stream, Duration::from_millis(600)).await.0
    }
}

/// A HEADERS frame of HTTP/2 whose fields are literals (RFC 7541, 6.2.2), so that they can say what no library would.
pub(crate) fn headers_frame(stream: u32, fields: &[(&str, &[u8])], ends: bool) -> Vec<u8> {
    let mut block = vec![];
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_bytes(), *value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend_from_slice(text);
        }
    }
    // Length, type HEADERS, flags END_HEADERS and maybe END_STREAM, stream.
    let mut frame = (block.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([1, if ends { 5 } else { 4 }]);
    frame.extend(stream.to_be_bytes());
    frame.extend(block);
    frame
}

/// A DATA frame.
pub(crate) fn data_frame(stream: u32, data: &[u8], ends: bool) -> Vec<u8> {
    let mut frame = (data.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([0, u8::from(ends)]);
    frame.extend(stream.to_be_bytes());
    frame.extend(data);
    frame
}

/// The preface of a client, with empty SETTINGS.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Frames of HTTP/2 as they come: kind, flags, stream, payload.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    timeout(Duration::from_secs(2), stream.read_exact(&mut head)).await.ok()?.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Some((head[3], head[4], id, payload))
}

/// An HTTP/2 backend of frames: after the preface it gives `answer` for each stream whose HEADERS come.
pub(crate) async fn frames(
    rig: &Rig,
    host: u8,
    settings: &'static [u8],
    answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
) {
    let listener = TcpListener::bind((rig.net.ip(host), TARGET)).await.unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut preface = [0; 24];
                tcp.read_exact(&mut preface).await.ok()?;
                tcp.write_all(settings).await.ok()?;
                let mut head = [0; 9];
                loop {
                    tcp.read_exact(&mut head).await.ok()?;
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    let mut payload = vec![0; length];
                    tcp.read_exact(&mut payload).await.ok()?;
                    match head[3] {
                        4 if head[4] == 0 => tcp.write_all(b"\0\0\0\x04\x01\0\0\0\0").await.ok()?,
                        1 => tcp
                            .write_all(&answer(u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
                            .await
                            .ok()?,
                        _ => {}
                    }
                }
                #[expect(unreachable_code, reason = "gives the block its type")]
                Some(())
            });
        }
    });
}

/// Copies until one side ends.
pub(crate) async fn echo(stream: impl AsyncRead + AsyncWrite) {
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
}
