//! The one client for servers outside the mesh: those of token issuers, a collector of spans. One request per
//! connection, over HTTP/1.1; `https` is TLS, checked against the machine's own roots.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::local_targets::Around;

/// Where distributions keep the roots.
const ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Sends a request to where its absolute URI says, if `around` lets a waypoint dial there. Of a success the body is
/// read, which must have `most` bytes at most. Where the URI has no port it is `port`, else the scheme's own.
/// Dropped, it takes its connection with it.
pub async fn ask(
    around: &Around,
    request: Request<Full<Bytes>>,
    port: Option<u16>,
    most: usize,
) -> Result<Response<Bytes>> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().context("the URL has no host")?.clone();
    let is_tls = parts.uri.scheme_str() == Some("https");
    let port = authority.port_u16().or(port).unwrap_or(if is_tls { 443 } else { 80 });
    let tcp = around.dial_name(authority.host(), port).await.context("connecting")?;
    parts.uri = parts.uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    parts.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let request = Request::from_parts(parts, body);
    if is_tls {
        exchange(encrypted(tcp, authority.host()).await?, request, most).await
    } else {
        exchange(tcp, request, most).await
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>, most: usize) -> Result<Response<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let asking = async move {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        if !parts.status.is_success() {
            return Ok(Response::from_parts(parts, Bytes::new()));
        }
        let body = Limited::new(body, most).collect().await;
        let body = body.map_err(|error| anyhow!("reading the answer: {error}"))?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    // Not in a task of its own: an answer that is given up takes its connection with it.
    let (mut asking, mut connection) = (pin!(asking), pin!(connection));
    let mut is_open = true;
    loop {
        tokio::select! {
            asked = &mut asking => return asked,
            _ = &mut connection, if is_open => is_open = false,
        }
    }
}

/// Does the TLS handshake on a connection to `host`.
async fn encrypted(tcp: TcpStream, host: &str) -> Result<TlsStream<TcpStream>> {
    let path = ROOTS.iter().map(Path::new).find(|path| path.exists());
    let path = path.context("this machine has no file of root certificates")?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).with_context(|| path.display().to_string())?;
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).context("the host name")?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn answered(answer: &'static str, most: usize) -> (Result<Response<Bytes>>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a?b", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let len = tcp.read(&mut head).await.unwrap();
            tcp.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..len]).into_owned()
        });
        let around = Around::new(vec![], vec!["127.0.0.0/8".parse().unwrap()]);
        let request = Request::get(url).body(Full::default()).unwrap();
        let answer = ask(&around, request, None, most).await;
        (answer, serving.await.unwrap())
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_limit() {
        let (answer, asked) = answered("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 5).await;
        assert_eq!(answer.unwrap().body(), "hello");
        assert!(asked.starts_with("GET /a?b HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
        let (answer, _) = answered("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 4).await;
        assert!(answer.unwrap_err().to_string().starts_with("reading the answer: "));
        let (answer, _) = answered("HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello", 4).await;
        assert_eq!(answer.unwrap().status(), 404);
    }

    #[tokio::test]
    async fn what_a_waypoint_never_dials_is_not_asked() {
        let request = Request::get("http://127.0.0.1:1/").body(Full::default()).unwrap();
        let error = ask(&Around::new(vec![], vec![]), request, None, 1).await.unwrap_err();
        assert!(format!("{error:#}").starts_with("connecting: 127.0.0.1:1 is "), "{error:#}");
    }
}
