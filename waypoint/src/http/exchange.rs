//! A request and its connection: what is known at its beginning, what was decided, what our own answer to it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, Version};
use hyper::upgrade::OnUpgrade;
use mesh::model::service::ServiceKey;
use parking_lot::Mutex;

use super::admit::Caller;
use super::outgoing::Address;
use super::reply::Reply;
use super::response::ResponseBody;
use crate::identity::{Reserved, Told};
use crate::rejection::{HttpFlag, Rejection};
use crate::request::grpc;
use crate::route::Rule;
use crate::shared::Shared;
use crate::telemetry::{Facts, Outcome, Record};
use crate::upstream::{Client, Interim};

/// One connection of one client to one service.
pub struct Connection {
    /// State that all connections share.
    pub shared: Arc<Shared>,
    /// The client.
    pub client: Client,
    /// The service that was called.
    pub service: ServiceKey,
    /// The port of the service.
    pub port: u16,
    /// The destination address of the client's connection.
    pub destination: SocketAddr,
    /// Values of the headers that tell backends who the client is.
    pub told: Told,
    /// Set when an HTTP/1 connection was upgraded to another protocol.
    pub switched: Arc<AtomicBool>,
    /// The client's offer of an upgrade that was not taken; how the connection ends depends on it.
    pub untaken: Mutex<Option<OnUpgrade>>,
    /// Interim responses on their way to an HTTP/1 client.
    pub interim: Arc<Interim>,
}

impl Connection {
    /// The client has offered an upgrade that was not taken: the connection stays HTTP. hyper hands such an HTTP/1
    /// connection back at its end, instead of shutting it down.
    pub fn not_taken(&self, version: Version, switch: Option<OnUpgrade>) {
        if version < Version::HTTP_2 && switch.is_some() {
            *self.untaken.lock() = switch;
        }
    }
}

/// The decision about a request that is forwarded.
pub struct Decision {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Index of the backend in the rule.
    pub backend: usize,
    /// Host and path for the backend.
    pub address: Address,
    /// The request's `Origin`, when the rule has CORS settings.
    pub origin: Option<HeaderValue>,
    /// Headers, named by the service, that only the mesh may set on the request.
    pub reserved: Arc<Reserved>,
    /// The caller as its token names it.
    pub caller: Caller,
    /// Whether the route's header changes have been applied already.
    pub changed: bool,
}

/// The telemetry record of a request, with what is known when its head has been read.
pub fn begin(connection: &Connection, parts: &Parts) -> Box<Record> {
    let client = &connection.client;
    let facts = Facts {
        began: Instant::now(),
        source_address: client.address,
        source_identity: client.identity.clone(),
        source: client.workload.clone(),
        service: connection.service.clone(),
        destination: None,
        destination_address: None,
        mutual_tls: true,
        method: parts.method.clone(),
        path: parts.uri.path_and_query().map(|path| path.as_str().to_owned()).unwrap_or_default(),
        host: String::new(),
        protocol: if parts.version >= Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
        grpc: grpc::is_grpc(&parts.headers),
        route: None,
        trace: None,
        request_id: None,
        retries: 0,
        outcome: Outcome::default(),
        mirror: false,
        received: Arc::new(AtomicU64::new(0)),
        sent: 0,
    };
    Box::new(Record::new(facts, connection.shared.sink.clone()))
}

/// Our own answer, as the response to the client.
pub fn answer(reply: Reply, mut record: Box<Record>, is_grpc: bool) -> Response<ResponseBody> {
    let error = reply.rejection.map(|rejection| format!("{}: {}", rejection.reason(), reply.detail));
    let flag = reply.rejection.map_or(HttpFlag::None, Rejection::flag);
    let (status, headers, body) = reply.render(is_grpc);
    record.outcome =
        Outcome { status: status.as_u16(), flag, grpc: grpc::status(&headers), error, headers_after: None };
    let text = (!body.is_empty()).then(|| Bytes::from(body));
    let mut response = Response::new(ResponseBody::Text(text, record));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
