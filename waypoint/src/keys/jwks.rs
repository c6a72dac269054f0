//! JWKS by URL (`jwksUri`): fetched in the background, kept when fetching fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::ACCEPT;
use http::{Request, StatusCode};
use http_body_util::Full;
use jsonwebtoken::jwk::JwkSet;
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::auth::jwt::{KeySource, key_set};
use crate::config::Plan;
use crate::keys::fetches::{self, Progress};
use crate::local_targets::Around;
use crate::outward;
use crate::world::Worlds;

/// The keys that are known.
#[derive(Default)]
pub struct Keys {
    by_url: Mutex<HashMap<Arc<str>, Entry>>,
}

struct Entry {
    keys: Option<Arc<JwkSet>>,
    progress: Progress,
}

/// One fetch may take so long.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest key set.
const LARGEST: usize = 256 << 10;

impl Keys {
    /// The keys of a source, if they are there.
    pub fn get(&self, source: &KeySource) -> Option<Arc<JwkSet>> {
        match source {
            KeySource::Inline(keys) => Some(Arc::clone(keys)),
            KeySource::Url(url) => self.by_url.lock().get(url)?.keys.clone(),
        }
    }

    /// Fetches what the plan in effect needs, until shutdown: from all issuers side by side.
    pub async fn keep_fresh(&self, worlds: &Worlds, around: &Around, shutdown: &CancellationToken) {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let mut fetching = FuturesUnordered::new();
        let mut of_world: Option<(u64, Namespaces)> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some((url, fetched)) = fetching.next() => self.store(url, fetched),
                _ = tick.tick() => {
                    let world = worlds.load();
                    if of_world.as_ref().is_none_or(|(version, _)| *version != world.version) {
                        of_world = Some((world.version, wanted(&world.plan)));
                    }
                    let wanted = of_world.as_ref().map(|(_, wanted)| wanted);
                    for url in wanted.map(|wanted| self.due(wanted)).unwrap_or_default() {
                        fetching.push(async move {
                            let fetched = timeout(LIMIT, fetch(&url, around)).await.unwrap_or_else(|_| bail_late());
                            (url, fetched)
                        });
                    }
                }
            }
        }
    }

    /// What is to be fetched now; it counts as under way from here on.
    fn due(&self, wanted: &Namespaces) -> Vec<Arc<str>> {
        let now = Instant::now();
        let mut known = self.by_url.lock();
        // What nobody wants any more is forgotten, but for what is under way: its end will be told.
        known.retain(|url, entry| entry.progress.under_way || wanted.contains_key(url));
        let progress = |url| known.get(url).map_or(Progress::new(now), |entry| entry.progress);
        let begun = fetches::begin(wanted.iter().map(|(url, of)| (url, of.as_slice(), progress(url))), now);
        for url in &begun {
            let new = || Entry { keys: None, progress: Progress::new(now) };
            known.entry(Arc::clone(url)).or_insert_with(new).progress.under_way = true;
        }
        begun
    }

    fn store(&self, url: Arc<str>, fetched: Result<JwkSet>) {
        let mut known = self.by_url.lock();
        let now = Instant::now();
        let entry = known.entry(Arc::clone(&url)).or_insert(Entry { keys: None, progress: Progress::new(now) });
        entry.progress.ended(fetched.is_ok(), now);
        match fetched {
            Ok(keys) => entry.keys = Some(Arc::new(keys)),
            Err(error) => {
                let kept = if entry.keys.is_some() { "the old ones stay" } else { "tokens are refused" };
                tracing::warn!("keys from {url}: {error:#}; {kept}");
            }
        }
    }
}

/// URLs, with the namespaces of the services that need what is behind them.
type Namespaces = HashMap<Arc<str>, Vec<Arc<str>>>;

/// The URLs of a plan.
fn wanted(plan: &Plan) -> Namespaces {
    let mut by_namespace: BTreeMap<&str, BTreeSet<&Arc<str>>> = BTreeMap::new();
    let services = plan.services.iter().map(|(key, service)| (key.namespace.as_str(), &service.security));
    for (namespace, security) in services.chain([("", &plan.of_workloads.security)]) {
        for rule in &security.jwt {
            if let KeySource::Url(url) = &rule.keys {
                by_namespace.entry(namespace).or_default().insert(url);
            }
        }
    }
    let mut wanted = Namespaces::new();
    for (namespace, urls) in by_namespace {
        let namespace: Arc<str> = namespace.into();
        for url in urls.into_iter().take(fetches::URLS) {
            wanted.entry(Arc::clone(url)).or_default().push(Arc::clone(&namespace));
        }
    }
    wanted
}

fn bail_late() -> Result<JwkSet> {
    bail!("no answer in {} s", LIMIT.as_secs())
}

async fn fetch(url: &str, around: &Around) -> Result<JwkSet> {
    let request = Request::get(url).header(ACCEPT, "application/json").body(Full::default()).context("the URL")?;
    let answer = outward::ask(around, request, None, LARGEST).await?;
    if answer.status() != StatusCode::OK {
        bail!("status {}", answer.status());
    }
    key_set(answer.body()).map_err(|why| anyhow!("the answer {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_keys_stay_while_their_issuer_is_away() {
        let (keys, url) = (Keys::default(), Arc::<str>::from("http://issuer/keys"));
        let source = KeySource::Url(Arc::clone(&url));
        let wanted: Namespaces = [(Arc::clone(&url), vec![Arc::from("shop")])].into();
        assert_eq!(keys.due(&wanted), [Arc::clone(&url)]);
        assert!(keys.due(&wanted).is_empty(), "it is under way");
        keys.store(Arc::clone(&url), bail_late());
        assert!(keys.get(&source).is_none());
        keys.store(Arc::clone(&url), Ok(JwkSet { keys: vec![] }));
        keys.store(Arc::clone(&url), bail_late());
        assert!(keys.get(&source).is_some());
        // Nobody wants them any more.
        assert!(keys.due(&Namespaces::new()).is_empty());
        assert!(keys.get(&source).is_none());
    }
}
