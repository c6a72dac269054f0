//! An HBONE server that records requests, echoes, and misbehaves on request.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Response, StatusCode, request::Parts};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::TlsAcceptor;

use super::pki::{Authority, Leaf};
use super::process::Place;

/// How the server responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// 200, then an echo.
    Echo,
    /// This status.
    Status(u16),
    /// 200 and an echo for the first request of a connection; GOAWAY right after it.
    GoAwayAfterFirst,
}

/// One TLS connection, as the server saw it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// ALPN protocol.
    pub alpn: Option<Vec<u8>>,
    /// Whether the session was resumed instead of a whole handshake.
    pub resumed: bool,
    /// Server name that was sent.
    pub sni: Option<String>,
    /// Heads of the requests.
    pub heads: Vec<Parts>,
}

/// A running server; it ends with the process.
#[derive(Clone, Debug)]
pub struct Scribe {
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scribe {
    /// Serves in a place on port 15008 of both families.
    pub fn start(place: &Place, ca: &Authority, leaf: &Leaf, manner: Manner) -> Result<Self> {
        let config = server_config(ca, leaf)?;
        let scribe = Self { seen: Arc::default() };
        for address in [SocketAddr::from(([0, 0, 0, 0], 15008)), SocketAddr::from(([0; 8], 15008))] {
            let listener = place.inside(|| listen(address))?.with_context(|| format!("listen on {address}"))?;
            let (scribe, acceptor) = (scribe.clone(), TlsAcceptor::from(config.clone()));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            thread::spawn(move || runtime.block_on(scribe.serve(listener, acceptor, manner)));
        }
        Ok(scribe)
    }

    /// The connections so far, in the order in which their handshakes ended.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<Parts> {
        self.seen().into_iter().flat_map(|seen| seen.heads).collect()
    }

    async fn serve(self, listener: TcpListener, acceptor: TlsAcceptor, manner: Manner) {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        while let Ok((stream, _)) = listener.accept().await {
            let (scribe, acceptor) = (self.clone(), acceptor.clone());
            tokio::spawn(async move {
                // A broken connection is noticed by the test at its own end.
                let _broken = scribe.connection(stream, acceptor, manner).await;
            });
        }
    }

    async fn connection(&self, stream: tokio::net::TcpStream, acceptor: TlsAcceptor, manner: Manner) -> Result<()> {
        let stream = acceptor.accept(stream).await?;
        let index = {
            let session = stream.get_ref().1;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(Seen {
                alpn: session.alpn_protocol().map(<[u8]>::to_vec),
                resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
                sni: session.server_name().map(str::to_owned),
                heads: Vec::new(),
            });
            seen.len() - 1
        };
        let mut connection = h2::server::handshake(stream).await?;
        while let Some(request) = connection.accept().await {
            let (request, mut respond) = request?;
            let (head, mut body) = request.into_parts();
            self.seen.lock().unwrap_or_else(PoisonError::into_inner)[index].heads.push(head);
            if let Manner::Status(status) = manner {
                respond.send_response(response(status)?, true)?;
                continue;
            }
            let mut out = respond.send_response(response(200)?, false)?;
            tokio::spawn(async move {
                while let Some(Ok(data)) = body.data().await {
                    let _gone = body.flow_control().release_capacity(data.len());
                    let _gone = out.send_data(data, false);
                }
                let _gone = out.send_data(Bytes::new(), true);
            });
            if manner == Manner::GoAwayAfterFirst {
                connection.graceful_shutdown();
            }
        }
        Ok(())
    }
}

fn response(status: u16) -> Result<Response<()>> {
    Ok(Response::builder().status(StatusCode::from_u16(status)?).body(())?)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn server_config(ca: &Authority, leaf: &Leaf) -> Result<Arc<rustls::ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.root_pem().as_bytes())?)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let (chain, key) = leaf.parse()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
