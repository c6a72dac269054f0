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
    /// What all connections share.
    pub shared: Arc<Shared>,
    /// Who calls.
    pub client: Client,
    /// Which service.
    pub service: ServiceKey,
    /// Which of its ports.
    pub port: u16,
    /// The address that was called.
    pub destination: SocketAddr,
    /// What backends are told of the client.
    pub told: Told,
    /// Set when an HTTP/1 connection has become something else.
    pub switched: Arc<AtomicBool>,
    /// What is left of an offer to change the protocol that was not taken: the connection's end goes by it.
    pub untaken: Mutex<Option<OnUpgrade>>,
    /// Interim responses on their way to an HTTP/1 client.
    pub interim: Arc<Interim>,
}

impl Connection {
    /// The connection goes on as it is, though its client had offered another protocol. An HTTP/1 connection whose
    /// client has done so is given back at its end, instead of being shut down.
    pub fn not_taken(&self, version: Version, switch: Option<OnUpgrade>) {
        if version < Version::HTTP_2 && switch.is_some() {
            *self.untaken.lock() = switch;
        }
    }
}

/// What was decided about a request that is to be sent on.
pub struct Decision {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Which of the rule's backends.
    pub backend: usize,
    /// Where it goes.
    pub address: Address,
    /// Whether its origin is to be answered.
    pub origin: Option<HeaderValue>,
    /// What only the mesh may say of the request, in headers of the service's own choice.
    pub reserved: Arc<Reserved>,
    /// Who a token says is calling.
    pub caller: Caller,
    /// Whether the route's changes to the headers have been carried out already.
    pub changed: bool,
}

/// What is known of a request at its beginning.
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
