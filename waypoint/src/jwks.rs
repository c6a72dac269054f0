//! Keys of token issuers that are behind a URL: fetched in the background, kept when fetching fails.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::JwkSet;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Plan;
use crate::https;
use crate::jwt::{KeySource, key_set};
use crate::world::Worlds;

/// The keys that are known.
#[derive(Default)]
pub struct Keys {
    by_url: Mutex<HashMap<Arc<str>, Entry>>,
}

struct Entry {
    keys: Option<Arc<JwkSet>>,
    next: Instant,
}

/// Keys are fetched anew after this.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// One fetch may take so long.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest key set.
const LARGEST: usize = 1 << 20;

impl Keys {
    /// The keys of a source, if they are there.
    pub fn get(&self, source: &KeySource) -> Option<Arc<JwkSet>> {
        match source {
            KeySource::Inline(keys) => Some(Arc::clone(keys)),
            KeySource::Url(url) => self.by_url.lock().get(url)?.keys.clone(),
        }
    }

    /// Fetches what the plan in effect needs, until shutdown.
    pub async fn keep_fresh(&self, worlds: &Worlds, shutdown: &CancellationToken) {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            for url in self.due(&worlds.load().plan) {
                let fetched = timeout(LIMIT, fetch(&url)).await.unwrap_or_else(|_| bail_late());
                self.store(url, fetched);
            }
        }
    }

    fn due(&self, plan: &Plan) -> Vec<Arc<str>> {
        let rules = plan.services.values().map(|service| &service.security).chain([&plan.of_workloads.security]);
        let rules = rules.flat_map(|security| &security.jwt);
        let wanted: HashSet<&Arc<str>> = rules
            .filter_map(|rule| match &rule.keys {
                KeySource::Url(url) => Some(url),
                KeySource::Inline(_) => None,
            })
            .collect();
        let now = Instant::now();
        let mut known = self.by_url.lock();
        known.retain(|url, _| wanted.contains(url));
        wanted.into_iter().filter(|url| known.get(*url).is_none_or(|entry| entry.next <= now)).cloned().collect()
    }

    fn store(&self, url: Arc<str>, fetched: Result<JwkSet>) {
        let mut known = self.by_url.lock();
        let now = Instant::now();
        let entry = known.entry(Arc::clone(&url)).or_insert(Entry { keys: None, next: now });
        match fetched {
            Ok(keys) => *entry = Entry { keys: Some(Arc::new(keys)), next: now + REFRESH },
            Err(error) => {
                tracing::warn!(
                    "keys from {url}: {error:#}; {}",
                    if entry.keys.is_some() { "the old ones stay" } else { "tokens are refused" }
                );
                entry.next = now + AGAIN;
            }
        }
    }
}

fn bail_late() -> Result<JwkSet> {
    bail!("no answer in {} s", LIMIT.as_secs())
}

async fn fetch(url: &str) -> Result<JwkSet> {
    let uri: Uri = url.parse().context("the URL")?;
    let authority = uri.authority().context("the URL has no host")?.clone();
    let tls = uri.scheme_str() == Some("https");
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let tcp = TcpStream::connect((authority.host(), port)).await.context("connecting")?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header("host", authority.as_str()).header("accept", "application/json");
    let request = request.body(Empty::<Bytes>::new())?;
    if tls { ask(https::connect(tcp, authority.host()).await?, request).await } else { ask(tcp, request).await }
}

async fn ask<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<JwkSet>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    if response.status() != http::StatusCode::OK {
        bail!("status {}", response.status());
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    driving.abort();
    let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?.to_bytes();
    key_set(&body).map_err(|why| anyhow::anyhow!("the answer {why}"))
}
