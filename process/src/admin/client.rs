//! A client of the admin server, for the CLI.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::route::encode;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("cannot reach the agent's admin server at {addr}: {}; is it running? (--admin)", plain(error))]
    Unreachable {
        /// Address of the server.
        addr: SocketAddr,
        /// Why it failed.
        error: io::Error,
    },
    /// The answer took longer than [`LIMIT`].
    #[error("no answer from the admin server at {addr} within {} s", LIMIT.as_secs())]
    Timeout {
        /// Address of the server.
        addr: SocketAddr,
    },
    /// The answer is not HTTP, or ended early.
    #[error("{path} of the admin server at {addr}")]
    Http {
        /// Address of the server.
        addr: SocketAddr,
        /// Path of the request.
        path: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The request could not be written.
    #[error("{path} is not a path that can be asked for")]
    Path {
        /// The path.
        path: String,
    },
    /// The server refused; the message is its own.
    #[error("{message}")]
    Refused {
        /// Status of the answer.
        status: StatusCode,
        /// Body of the answer.
        message: String,
    },
}

/// The error without the number that `io::Error` adds: "connection refused", not "Connection refused (os error 111)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// A client of one admin server.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    addr: SocketAddr,
}

impl Client {
    /// A client of the server at `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr }
    }

    /// The body of `GET path?parameters`.
    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Bytes, ClientError> {
        self.ask(Method::GET, path, parameters).await
    }

    /// The body of `POST path?parameters`.
    pub async fn post(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Bytes, ClientError> {
        self.ask(Method::POST, path, parameters).await
    }

    async fn ask(&self, method: Method, path: &str, parameters: &[(&str, &str)]) -> Result<Bytes, ClientError> {
        let parameters: Vec<_> = parameters.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
        let separator = if parameters.is_empty() { "" } else { "?" };
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}{separator}{}", parameters.join("&")))
            .header(header::HOST, self.addr.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|_| ClientError::Path { path: path.to_owned() })?;
        let answer = timeout(LIMIT, self.send(request, path)).await;
        let (status, body) = answer.map_err(|_| ClientError::Timeout { addr: self.addr })??;
        if status.is_success() {
            return Ok(body);
        }
        let message = String::from_utf8_lossy(&body).trim().to_owned();
        Err(ClientError::Refused { status, message })
    }

    async fn send(&self, request: Request<Empty<Bytes>>, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let addr = self.addr;
        let stream = TcpStream::connect(addr).await.map_err(|error| ClientError::Unreachable { addr, error })?;
        let broken = |source| ClientError::Http { addr, path: path.to_owned(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        driver.abort();
        Ok((status, body))
    }
}
