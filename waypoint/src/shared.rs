//! State that all connections of this waypoint share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use mesh::model::name::Network;
use mesh::model::workload::Workload;
use parking_lot::Mutex;
use process::telemetry::access_log::AccessLog;
use process::telemetry::refusals::Refusals;
use process::telemetry::traffic::Traffic;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::keys::jwks::Keys;
use crate::local_targets::Around;
use crate::resilience::limit::Limiter;
use crate::telemetry::record::Sink;
use crate::telemetry::span::Spans;
use crate::upstream::{Allowance, Clusters, Connector};
use crate::world::Worlds;

/// Copies to mirrors that are under way at most; further ones are not made.
pub const MIRRORS: usize = 1024;

/// Connections of clients that are carried at most; further ones are refused, so that memory stays bounded.
pub const CONNECTIONS: usize = 50_000;

/// State that all connections of this waypoint share. Built once, by `app`.
pub struct Shared {
    /// What to do, and with whom.
    pub worlds: Arc<Worlds>,
    /// What was learnt about backends.
    pub clusters: Clusters,
    /// Makes connections.
    pub connector: Connector,
    /// What is never dialled.
    pub around: Arc<Around>,
    /// The workload that we are, for closeness.
    pub here: Workload,
    /// The network that addresses belong to.
    pub network: Network,
    /// Metrics and access log.
    pub sink: Sink,
    /// Metrics of connections that are not HTTP.
    pub traffic: Arc<Traffic>,
    /// Access log of connections that are not HTTP.
    pub tcp_log: AccessLog,
    /// Peers and connections turned away before a request was read.
    pub refusals: Refusals,
    /// Keys of token issuers.
    pub keys: Keys,
    /// Rate limits.
    pub limits: Limits,
    /// Bytes of request bodies that are kept for retries.
    pub replays: Arc<Allowance>,
    /// Connections of clients that are carried at once.
    pub connections: Arc<Semaphore>,
    /// Copies to mirrors.
    pub mirrors: Arc<Semaphore>,
    /// Spans for a collector.
    pub spans: Spans,
    /// What is to be finished before the process may exit.
    pub tasks: TaskTracker,
    /// Cancelled when the process drains.
    pub draining: CancellationToken,
}

/// Rate limits by what they limit. They outlive configurations.
#[derive(Default)]
pub struct Limits {
    known: Mutex<HashMap<String, Arc<Limiter>>>,
}

/// Limits that are remembered at most; only churn of names reaches it.
const MOST: usize = 10_000;

impl Limits {
    /// The limit of this name.
    pub fn get(&self, name: &str) -> Arc<Limiter> {
        let mut known = self.known.lock();
        if let Some(limiter) = known.get(name) {
            return Arc::clone(limiter);
        }
        if known.len() >= MOST {
            known.clear();
        }
        let limiter = Arc::new(Limiter::new(Instant::now()));
        known.insert(name.to_owned(), Arc::clone(&limiter));
        limiter
    }
}
