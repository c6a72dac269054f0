//! What is known of one request when it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mesh::model::identity::Identity;
use mesh::model::service::ServiceKey;
use mesh::model::workload::Workload;

use crate::rejection::HttpFlag;
use crate::request::grpc::GrpcCode;
use crate::trace::Context;

/// What is known of one request.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When its head was received.
    pub began: Instant,
    /// The client's address.
    pub source_address: SocketAddr,
    /// The client's verified identity.
    pub source_identity: Identity,
    /// The client's workload, if known.
    pub source: Option<Arc<Workload>>,
    /// The service that was called.
    pub service: ServiceKey,
    /// The workload that answered, if any.
    pub destination: Option<Arc<Workload>>,
    /// The address of the workload that answered.
    pub destination_address: Option<SocketAddr>,
    /// Whether the last hop was under mutual TLS; the first always is.
    pub mutual_tls: bool,
    /// The method.
    pub method: http::Method,
    /// Path and query as the client sent them.
    pub path: String,
    /// The host.
    pub host: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// The rule that matched.
    pub route: Option<Arc<str>>,
    /// Its trace context.
    pub trace: Option<Context>,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// Retries that were made.
    pub retries: u32,
    /// Status, response flag and cause.
    pub outcome: Outcome,
    /// Whether it is a copy for a mirror.
    pub mirror: bool,
    /// Bytes of the request's body.
    pub received: Arc<AtomicU64>,
    /// Bytes of the response's body.
    pub sent: u64,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The status that the caller got; 0 when it went away first.
    pub status: u16,
    /// Envoy's response flag.
    pub flag: HttpFlag,
    /// The gRPC status.
    pub grpc: Option<GrpcCode>,
    /// Why, when it is our own answer or the response broke off.
    pub error: Option<String>,
    /// Time to the response's head.
    pub headers_after: Option<std::time::Duration>,
}

impl Default for Outcome {
    /// The client disconnected before it got a response.
    fn default() -> Self {
        Self {
            status: 0,
            flag: HttpFlag::DownstreamConnectionTermination,
            grpc: None,
            error: None,
            headers_after: None,
        }
    }
}

impl Facts {
    /// Bytes of the request's body so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
