//! What is told of a connection that is not HTTP: the standard TCP metrics and one log line.

use std::sync::Arc;
use std::time::Instant;

use mesh::model::connection::{Direction, ResponseFlag};
use mesh::model::service::ServiceKey;
use process::telemetry::access_log::{AccessLog, AccessRecord, Outcome};
use process::telemetry::labels::ConnectionLabels;
use process::telemetry::traffic::{ConnectionMeter, Traffic};
use transport::net::copy::Count;

use crate::upstream::Client;
use crate::upstream::endpoint::Endpoint;

/// What is known of one connection. Told once, when it is dropped.
pub struct TcpRecord {
    traffic: Arc<Traffic>,
    log: AccessLog,
    record: AccessRecord,
    meter: Option<ConnectionMeter>,
    began: Instant,
    error: Option<String>,
    flag: ResponseFlag,
}

impl TcpRecord {
    /// A connection of a client to a service.
    pub fn new(
        traffic: Arc<Traffic>,
        log: AccessLog,
        client: &Client,
        service: &ServiceKey,
        destination: std::net::SocketAddr,
    ) -> Self {
        // The agents' metrics know two reporters. A waypoint stands where the destination would.
        let mut labels = ConnectionLabels::new(Direction::Inbound);
        labels.source = client.workload.clone();
        labels.source_identity = Some(client.identity.clone());
        labels.service = Some(service.clone());
        labels.mutual_tls = true;
        let record = AccessRecord {
            labels: Arc::new(labels),
            source: client.address,
            destination,
            hbone: None,
            bytes_sent: 0,
            bytes_received: 0,
            duration: std::time::Duration::ZERO,
        };
        Self { traffic, log, record, meter: None, began: Instant::now(), error: None, flag: ResponseFlag::None }
    }

    /// An endpoint answers.
    pub fn opened(&mut self, endpoint: &Endpoint) {
        let labels = Arc::make_mut(&mut self.record.labels);
        labels.destination = Some(Arc::clone(&endpoint.workload));
        labels.mutual_tls = endpoint.target.tunnel.is_some();
        self.meter = Some(self.traffic.open(&self.record.labels));
    }

    /// It has ended.
    pub fn closed(&mut self, error: Option<String>) {
        if let Some(meter) = &self.meter {
            (self.record.bytes_received, self.record.bytes_sent) = (meter.bytes_received(), meter.bytes_sent());
        }
        self.error = error;
    }

    /// It was refused, or no endpoint answered.
    pub fn failed(&mut self, flag: ResponseFlag, error: String) {
        self.flag = flag;
        self.error = Some(error);
    }
}

/// The client is the first end: what it sends, the serving workload receives.
impl Count for TcpRecord {
    fn sent(&self, bytes: u64) {
        if let Some(meter) = &self.meter {
            meter.received(bytes);
        }
    }

    fn received(&self, bytes: u64) {
        if let Some(meter) = &self.meter {
            meter.sent(bytes);
        }
    }

    fn sum(&self) -> u64 {
        self.meter.as_ref().map_or(0, |meter| meter.bytes_sent().wrapping_add(meter.bytes_received()))
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        self.record.duration = self.began.elapsed();
        if self.meter.is_none() {
            self.traffic.failed(&self.record.labels, self.flag);
        }
        let outcome = self.error.take().map_or(Outcome::Complete, Outcome::Failed);
        self.log.finished(&self.record, &outcome);
    }
}
