//! HTTP clients: a single request that is reported in full, and an open-loop load that is counted.
//!
//! Open loop: requests are sent on schedule, whether earlier ones were answered or not, like those of many users.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::{Request, request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::report::{WebAnswer, WebCount};
use super::socket::say;

type Sender = http1::SendRequest<Full<Bytes>>;

/// Upper bound of requests in flight; more are counted as errors.
const MOST: usize = 4_000;

/// The request.
#[derive(Args, Clone, Debug)]
pub struct Ask {
    /// Path and query.
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Method.
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// `name: value`, any number of times.
    #[arg(long = "header")]
    pub headers: Vec<String>,
    /// Bytes of the body.
    #[arg(long, default_value_t = 0)]
    pub body: usize,
    /// HTTP/2 with prior knowledge.
    #[arg(long)]
    pub http2: bool,
    /// Timeout in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    pub timeout: u64,
}

impl Ask {
    fn request(&self) -> request::Builder {
        let mut request = Request::builder().method(self.method.as_str()).uri(&self.path);
        if !self.headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:")) {
            request = request.header("host", "peer");
        }
        for header in &self.headers {
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            request = request.header(name.trim(), value.trim());
        }
        request
    }
}

/// HTTP/1.1 connections that are used again.
#[derive(Default)]
pub struct Connections {
    idle: Mutex<Vec<(SocketAddr, Sender)>>,
}

impl Connections {
    /// Makes one request without a body and reads the answer to its end.
    pub async fn ask(&self, target: SocketAddr, request: request::Builder, limit: Duration) -> WebAnswer {
        self.send(target, request, Bytes::new(), limit).await
    }

    async fn send(&self, target: SocketAddr, request: request::Builder, body: Bytes, limit: Duration) -> WebAnswer {
        let began = Instant::now();
        let exchange = async {
            let request = request.body(Full::new(body)).map_err(|error| format!("request: {error}"))?;
            let mut sender = self.sender(target).await.map_err(|error| format!("connect: {error}"))?;
            let response = sender.send_request(request).await.map_err(|error| format!("send: {error}"))?;
            let answer = read(response).await?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((target, sender));
            Ok(answer)
        };
        told(timeout(limit, exchange).await, began)
    }

    async fn sender(&self, target: SocketAddr) -> io::Result<Sender> {
        loop {
            let idle = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let place = idle.iter().rposition(|(to, _)| *to == target);
                place.map(|place| idle.swap_remove(place).1)
            };
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<WebAnswer, String> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("body: {error}"))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().chain(&trailers).map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok(WebAnswer { status: head.status.as_u16(), headers, body, ..WebAnswer::default() })
}

fn told(result: Result<Result<WebAnswer, String>, tokio::time::error::Elapsed>, began: Instant) -> WebAnswer {
    let mut answer = match result {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => WebAnswer { error: Some(error), ..WebAnswer::default() },
        Err(_) => WebAnswer { error: Some("timeout".to_owned()), ..WebAnswer::default() },
    };
    answer.millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    answer
}

/// Makes one request.
pub async fn fetch(target: SocketAddr, ask: &Ask) -> WebAnswer {
    let (limit, body) = (Duration::from_millis(ask.timeout), Bytes::from(vec![b'x'; ask.body]));
    if !ask.http2 {
        return Connections::default().send(target, ask.request(), body, limit).await;
    }
    let began = Instant::now();
    let exchange = async {
        let uri = format!("http://peer{}", ask.path);
        let request = ask.request().uri(uri).body(Full::new(body)).map_err(|error| format!("request: {error}"))?;
        let stream = TcpStream::connect(target).await.map_err(|error| format!("connect: {error}"))?;
        let io = TokioIo::new(stream);
        let shaken = http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = shaken.map_err(|error| format!("connect: {error}"))?;
        tokio::spawn(connection);
        read(sender.send_request(request).await.map_err(|error| format!("send: {error}"))?).await
    };
    told(timeout(limit, exchange).await, began)
}

#[derive(Default)]
struct Tally {
    count: WebCount,
    millis: Vec<u64>,
}

/// Sends `rate` requests a second. Each line of standard input makes it print the counts since the last one.
pub async fn load(target: SocketAddr, rate: u32, ask: Ask) {
    let (connections, tally) = (Arc::new(Connections::default()), Arc::new(Mutex::new(Tally::default())));
    let commands = Arc::clone(&tally);
    std::thread::spawn(move || {
        for _line in io::stdin().lines().map_while(Result::ok) {
            let taken = std::mem::take(&mut *commands.lock().unwrap_or_else(PoisonError::into_inner));
            say(&taken.told());
        }
        std::process::exit(0);
    });
    let under_way = Arc::new(tokio::sync::Semaphore::new(MOST));
    let (began, mut sent) = (Instant::now(), 0_u64);
    loop {
        let due = began.elapsed().as_secs_f64() * f64::from(rate);
        while (sent as f64) < due {
            sent += 1;
            let (connections, tally) = (Arc::clone(&connections), Arc::clone(&tally));
            let Ok(place) = Arc::clone(&under_way).try_acquire_owned() else {
                tally.lock().unwrap_or_else(PoisonError::into_inner).add(overloaded());
                continue;
            };
            let (request, limit) = (ask.request(), Duration::from_millis(ask.timeout));
            tokio::spawn(async move {
                tally.lock().unwrap_or_else(PoisonError::into_inner).count.sent += 1;
                let answer = connections.ask(target, request, limit).await;
                tally.lock().unwrap_or_else(PoisonError::into_inner).add(answer);
                drop(place);
            });
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn overloaded() -> WebAnswer {
    WebAnswer { error: Some("too many requests under way".to_owned()), ..WebAnswer::default() }
}

impl Tally {
    fn add(&mut self, answer: WebAnswer) {
        match answer.error {
            Some(error) => *self.count.errors.entry(error).or_default() += 1,
            None => {
                *self.count.statuses.entry(answer.status.to_string()).or_default() += 1;
                self.millis.push(answer.millis);
                if let Some(server) = answer.headers.get("x-served-by") {
                    *self.count.servers.entry(server.clone()).or_default() += 1;
                }
                if let Some(why) = answer.headers.get("x-culvert-error") {
                    *self.count.reasons.entry(why.clone()).or_default() += 1;
                }
            }
        }
    }

    fn told(mut self) -> WebCount {
        self.millis.sort_unstable();
        let at = |quantile: f64| {
            let place = (self.millis.len() as f64 * quantile) as usize;
            self.millis.get(place.min(self.millis.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        (self.count.p50_ms, self.count.p99_ms, self.count.max_ms) = (at(0.5), at(0.99), at(1.0));
        self.count
    }
}
