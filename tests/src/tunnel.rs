//! An HBONE client that sends whatever a test wants, from wherever it is placed.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream as AsyncStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pki::{Leaf, tls_client};
use super::process::Place;

/// Timeout of every step.
const LIMIT: Duration = Duration::from_secs(15);

/// One TLS connection to an HBONE server, speaking HTTP/2.
#[derive(Debug)]
pub struct Tunnel {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    /// What the server's leaf says it is, in DER.
    pub server_leaf: Vec<u8>,
}

/// The outcome of a CONNECT.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The status, if any.
    pub status: Option<u16>,
    /// The error, if any.
    pub error: Option<String>,
    /// Received bytes, up to the first pause or end.
    pub bytes: Vec<u8>,
}

/// Opens a TCP connection from a place.
pub fn dial(place: &Place, target: SocketAddr) -> Result<TcpStream> {
    let stream =
        place.inside(|| TcpStream::connect_timeout(&target, LIMIT))?.with_context(|| format!("dial {target}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Performs a TLS handshake and waits for the server's verdict on the client's certificate, which in TLS 1.3 arrives
/// after the client's side of the handshake is complete. `Ok` if the server stays.
pub fn handshake(place: &Place, target: SocketAddr, leaf: Option<&Leaf>, tls12: bool, alpn: &[&str]) -> Result<()> {
    use std::io::{Read, Write};
    let config = tls_client(leaf, tls12, alpn)?;
    let mut socket = dial(place, target)?;
    let mut session = rustls::ClientConnection::new(config, ServerName::try_from("mesh.invalid")?)?;
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    // The preface and an empty SETTINGS frame: a server that stays answers with its own SETTINGS.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").context("handshake")?;
    let mut byte = [0];
    let n = stream.read(&mut byte).context("the server's verdict")?;
    anyhow::ensure!(n == 1, "the server hung up");
    Ok(())
}

impl Tunnel {
    /// Connects from a place with a certificate.
    pub fn open(place: &Place, target: SocketAddr, leaf: &Leaf) -> Result<Self> {
        let socket = dial(place, target)?;
        socket.set_nonblocking(true)?;
        let config = tls_client(Some(leaf), false, &["h2"])?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (sender, connection, server_leaf) = runtime.block_on(async {
            let name = ServerName::try_from("mesh.invalid")?;
            let stream =
                timeout(LIMIT, TlsConnector::from(config).connect(name, AsyncStream::from_std(socket)?)).await??;
            let server_leaf = leaf_of(&stream);
            let (sender, connection) = h2::client::Builder::new()
                .max_send_buffer_size(1 << 20)
                .handshake::<_, Bytes>(stream)
                .await
                .context("HTTP/2 handshake")?;
            anyhow::Ok((sender, tokio::spawn(connection), server_leaf))
        })?;
        Ok(Self { runtime, sender, connection, server_leaf })
    }

    /// Sends a request head and `body`, and gives what comes back. The stream's end is sent after the body.
    pub fn request(&mut self, head: Request<()>, body: &[u8]) -> Result<Reply> {
        let sender = self.sender.clone();
        let body = Bytes::copy_from_slice(body);
        self.runtime.block_on(async move {
            match timeout(LIMIT, exchange(sender, head, body)).await {
                Ok(reply) => Ok(reply),
                Err(_) => Ok(Reply { error: Some("no answer in time".to_owned()), ..Reply::default() }),
            }
        })
    }

    /// CONNECT to an authority; `body` is sent and what comes back is read to its end.
    pub fn connect(&mut self, authority: &str, body: &[u8]) -> Result<Reply> {
        self.request(connect_to(authority)?, body)
    }

    /// Whether the connection is still up.
    pub fn is_open(&self) -> bool {
        !self.connection.is_finished()
    }

    /// Opens a stream, asks the echo server behind it for as much as it will give, and never reads it.
    pub fn never_read(&mut self, authority: &str, ask: &[u8]) -> Result<NeverRead> {
        let sender = self.sender.clone();
        let (head, ask) = (connect_to(authority)?, Bytes::copy_from_slice(ask));
        self.runtime.block_on(async move {
            let mut sender = sender.ready().await?;
            let (response, mut stream) = sender.send_request(head, false)?;
            let response = timeout(LIMIT, response).await??;
            anyhow::ensure!(response.status() == 200, "{}", response.status());
            stream.send_data(ask, false)?;
            Ok(NeverRead { _stream: stream, _body: response.into_body() })
        })
    }
}

/// A stream that is open and never read.
#[derive(Debug)]
pub struct NeverRead {
    _stream: h2::SendStream<Bytes>,
    _body: h2::RecvStream,
}

/// A plain CONNECT as HBONE has it.
pub fn connect_to(authority: &str) -> Result<Request<()>> {
    let uri = http::Uri::builder().authority(authority).build().with_context(|| format!("authority {authority:?}"))?;
    Ok(Request::builder().method(Method::CONNECT).uri(uri).body(())?)
}

async fn exchange(sender: SendRequest<Bytes>, head: Request<()>, body: Bytes) -> Reply {
    let mut reply = Reply::default();
    if let Err(error) = exchange_into(sender, head, body, &mut reply).await {
        reply.error = Some(format!("{error:#}"));
    }
    reply
}

async fn exchange_into(sender: SendRequest<Bytes>, head: Request<()>, body: Bytes, reply: &mut Reply) -> Result<()> {
    let mut sender = sender.ready().await.context("the connection is not usable")?;
    let (response, mut stream) = sender.send_request(head, false).context("send the head")?;
    let response = response.await.context("no response")?;
    reply.status = Some(response.status().as_u16());
    if response.status() != 200 {
        return Ok(());
    }
    stream.send_data(body, true).context("send the body")?;
    let mut incoming = response.into_body();
    while let Some(data) = incoming.data().await {
        let data = data.context("read the body")?;
        incoming.flow_control().release_capacity(data.len())?;
        reply.bytes.extend_from_slice(&data);
    }
    Ok(())
}

fn leaf_of(stream: &TlsStream<AsyncStream>) -> Vec<u8> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    certificates.first().map(|c| c.as_ref().to_vec()).unwrap_or_default()
}
