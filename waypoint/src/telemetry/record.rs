//! Records metrics and the access log line of a request when it ends, however it ends.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::facts::{Facts, Outcome};
use super::line::RequestLog;
use super::requests::Requests;

/// Where requests are told about.
#[derive(Clone)]
pub struct Sink {
    /// The metrics.
    pub requests: Arc<Requests>,
    /// The log.
    pub log: RequestLog,
}

/// What is known of one request. Told once, when it is dropped.
pub struct Record {
    facts: Facts,
    sink: Sink,
}

impl Record {
    /// A request that has begun.
    pub fn new(facts: Facts, sink: Sink) -> Self {
        Self { facts, sink }
    }

    /// The record of a copy to a mirror.
    pub fn copy(&self) -> Self {
        let facts = Facts {
            began: Instant::now(),
            destination: None,
            destination_address: None,
            mutual_tls: true,
            retries: 0,
            outcome: Outcome::default(),
            mirror: true,
            received: Arc::new(AtomicU64::new(0)),
            sent: 0,
            ..self.facts.clone()
        };
        Self::new(facts, self.sink.clone())
    }
}

impl Deref for Record {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl DerefMut for Record {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.sink.requests.record(&self.facts);
        self.sink.log.finished(&self.facts);
    }
}
