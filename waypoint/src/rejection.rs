//! Pure. Every answer that the waypoint gives in a backend's place, in one list: its reason, its status for HTTP and
//! for gRPC, Envoy's response flag beside it, and whose doing it is. `docs/errors.md` has the same list, and a test
//! holds the two together.

use http::StatusCode;
use mesh::model::connection::Fault;

use crate::request::grpc::GrpcCode;
use crate::request::hygiene::BadRequest;

/// What the list says of one rejection.
struct Entry {
    reason: &'static str,
    status: StatusCode,
    grpc: GrpcCode,
    flag: HttpFlag,
    fault: Fault,
    meaning: &'static str,
}

/// Makes the enum and its entries of one list: the sentence above each is its documentation here and in
/// `docs/errors.md`.
macro_rules! rejections {
    ($(
        #[doc = $meaning:literal]
        $name:ident = $reason:literal, $status:ident, $grpc:ident, $flag:ident, $fault:ident;
    )*) => {
        /// Why the waypoint answers a request itself, and with what.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rejection {
            $(#[doc = $meaning] $name,)*
        }

        impl Rejection {
            /// All of them, in the order of `docs/errors.md`.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            const fn entry(self) -> Entry {
                match self {
                    $(Self::$name => Entry {
                        reason: $reason,
                        status: StatusCode::$status,
                        grpc: GrpcCode::$grpc,
                        flag: HttpFlag::$flag,
                        fault: Fault::$fault,
                        meaning: $meaning,
                    },)*
                }
            }
        }
    };
}

rejections! {
    /// The request is malformed or ambiguous.
    BadRequest = "bad_request", BAD_REQUEST, INTERNAL, DownstreamProtocolError, Client;
    /// The head of the request is too large.
    HeadTooLarge = "bad_request", REQUEST_HEADER_FIELDS_TOO_LARGE, INTERNAL, DownstreamProtocolError, Client;
    /// The token is not good.
    InvalidToken = "jwt", UNAUTHORIZED, UNAUTHENTICATED, UnauthorizedExternalService, Policy;
    /// An AuthorizationPolicy refuses.
    Denied = "rbac", FORBIDDEN, PERMISSION_DENIED, UnauthorizedExternalService, Policy;
    /// The destination's agent refuses this client.
    DeniedByPeer = "denied_by_peer", FORBIDDEN, PERMISSION_DENIED, UnauthorizedExternalService, Policy;
    /// No rule matches.
    NoRoute = "no_route", NOT_FOUND, UNIMPLEMENTED, NoRouteFound, Client;
    /// CONNECT without a protocol.
    PlainConnect = "method", METHOD_NOT_ALLOWED, UNKNOWN, None, Client;
    /// TRACE with `Max-Forwards: 0`.
    Reflection = "method", NOT_IMPLEMENTED, UNKNOWN, None, Client;
    /// `Expect` is not `100-continue`.
    Expectation = "expectation", EXPECTATION_FAILED, UNKNOWN, DownstreamProtocolError, Client;
    /// A rate limit is exceeded; with `Retry-After`.
    RateLimited = "rate_limit", TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED, RateLimited, Policy;
    /// The rule cannot be carried out as it is written.
    RouteInvalid = "route_invalid", INTERNAL_SERVER_ERROR, INTERNAL, None, ControlPlane;
    /// The backend of the rule does not resolve.
    BackendInvalid = "backend_invalid", INTERNAL_SERVER_ERROR, INTERNAL, None, ControlPlane;
    /// All backends of the rule have weight 0.
    NoBackend = "no_backend", INTERNAL_SERVER_ERROR, INTERNAL, None, ControlPlane;
    /// CONNECT to another protocol than `websocket`.
    UnknownProtocol = "upgrade", NOT_IMPLEMENTED, UNKNOWN, DownstreamProtocolError, Client;
    /// The backend upgraded unasked.
    UnaskedUpgrade = "upgrade", BAD_GATEWAY, UNAVAILABLE, UpstreamProtocolError, Upstream;
    /// The response is ambiguous, none, or follows over 32 interim ones.
    BadResponse = "protocol", BAD_GATEWAY, UNAVAILABLE, UpstreamProtocolError, Upstream;
    /// No endpoint is ready.
    NoEndpoint = "no_endpoint", SERVICE_UNAVAILABLE, UNAVAILABLE, NoHealthyUpstream, Upstream;
    /// All endpoints are ejected; with `Retry-After`.
    CircuitOpen = "circuit_open", SERVICE_UNAVAILABLE, UNAVAILABLE, NoHealthyUpstream, Upstream;
    /// Too many requests (with `Retry-After`) or connections.
    Overflow = "overflow", SERVICE_UNAVAILABLE, UNAVAILABLE, UpstreamOverflow, Upstream;
    /// No connection to the endpoint.
    ConnectFailed = "connect", SERVICE_UNAVAILABLE, UNAVAILABLE, UpstreamConnectionFailure, Upstream;
    /// The connection broke before an answer.
    Reset = "reset", SERVICE_UNAVAILABLE, UNAVAILABLE, UpstreamConnectionTermination, Upstream;
    /// The retry budget is used up; only with XBackendTrafficPolicy.
    RetryBudget = "retry_budget", SERVICE_UNAVAILABLE, UNAVAILABLE, UpstreamRetryLimitExceeded, Upstream;
    /// The keys of the token's issuer are not there yet.
    NoKeys = "jwks", SERVICE_UNAVAILABLE, UNAVAILABLE, UnauthorizedExternalService, ControlPlane;
    /// The service or port is not behind this waypoint any more.
    NoService = "no_service", SERVICE_UNAVAILABLE, UNAVAILABLE, NoRouteFound, ControlPlane;
    /// The port takes connections, not requests, by now.
    NotHttp = "not_http", SERVICE_UNAVAILABLE, UNAVAILABLE, NoRouteFound, ControlPlane;
    /// The deadline of the request has passed.
    Deadline = "deadline", GATEWAY_TIMEOUT, DEADLINE_EXCEEDED, UpstreamRequestTimeout, Upstream;
    /// The last attempt got no answer within its own time.
    TryTimeout = "try_timeout", GATEWAY_TIMEOUT, DEADLINE_EXCEEDED, UpstreamRequestTimeout, Upstream;
}

impl Rejection {
    /// A word for it that stays: `x-culvert-error`.
    pub const fn reason(self) -> &'static str {
        self.entry().reason
    }

    /// The status of the answer, for HTTP.
    pub const fn status(self) -> StatusCode {
        self.entry().status
    }

    /// The status of the answer, for gRPC.
    pub const fn grpc(self) -> GrpcCode {
        self.entry().grpc
    }

    /// Envoy's response flag.
    pub const fn flag(self) -> HttpFlag {
        self.entry().flag
    }

    /// Whose doing it is.
    pub const fn fault(self) -> Fault {
        self.entry().fault
    }

    /// What it means, in a sentence.
    pub fn meaning(self) -> &'static str {
        self.entry().meaning.trim_start()
    }
}

impl From<BadRequest> for Rejection {
    fn from(why: BadRequest) -> Self {
        match why {
            BadRequest::Connect => Self::PlainConnect,
            // RFC 9220, 3, for HTTP/2 too.
            BadRequest::Protocol => Self::UnknownProtocol,
            BadRequest::Expectation => Self::Expectation,
            BadRequest::TooLarge => Self::HeadTooLarge,
            BadRequest::NoHost
            | BadRequest::Hosts
            | BadRequest::MalformedHost
            | BadRequest::BodyLength
            | BadRequest::Malformed
            | BadRequest::ConnectionHeader
            | BadRequest::Value
            | BadRequest::Target
            | BadRequest::TraceContent
            | BadRequest::Nominated => Self::BadRequest,
        }
    }
}

/// Why a CONNECT on the HBONE port is refused, before there is a request. The answer is a status and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelRejection {
    /// Its head cannot be read.
    Malformed,
    /// What it asks for is not behind this waypoint.
    Unknown,
    /// As many connections of clients are carried as may be.
    TooMany,
}

impl TunnelRejection {
    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::TooMany => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Envoy's response flag of a request, in the access log and in the label `response_flags`; named as
/// `RESPONSE_FLAGS_LONG` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpFlag {
    /// Nothing to say.
    None,
    /// The client went away.
    DownstreamConnectionTermination,
    /// The client's request is malformed.
    DownstreamProtocolError,
    /// No rule, service or port for the request.
    NoRouteFound,
    /// A rate limit.
    RateLimited,
    /// Nothing came for too long.
    StreamIdleTimeout,
    /// Policy refuses.
    UnauthorizedExternalService,
    /// The backend's connection broke.
    UpstreamConnectionTermination,
    /// No connection to the backend.
    UpstreamConnectionFailure,
    /// No endpoint takes the request.
    NoHealthyUpstream,
    /// Limits of the backend's service are reached.
    UpstreamOverflow,
    /// The backend's response is malformed.
    UpstreamProtocolError,
    /// No further retry is allowed.
    UpstreamRetryLimitExceeded,
    /// A deadline has passed.
    UpstreamRequestTimeout,
}

impl HttpFlag {
    /// The short form, which is what log and metrics show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::DownstreamConnectionTermination => "DC",
            Self::DownstreamProtocolError => "DPE",
            Self::NoRouteFound => "NR",
            Self::RateLimited => "RL",
            Self::StreamIdleTimeout => "SI",
            Self::UnauthorizedExternalService => "UAEX",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamConnectionFailure => "UF",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamOverflow => "UO",
            Self::UpstreamProtocolError => "UPE",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::UpstreamRequestTimeout => "UT",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const HEADING: &str = "| `x-culvert-error` | status | gRPC | flag | whose doing | |";

    /// The table of `docs/errors.md`.
    fn table() -> String {
        let mut table = format!("{HEADING}\n|---|---|---|---|---|---|\n");
        for rejection in Rejection::ALL {
            let whose = match rejection.fault() {
                Fault::Client => "client",
                Fault::Policy => "policy",
                Fault::Upstream => "backend",
                Fault::ControlPlane => "configuration",
                Fault::Ours => "waypoint",
            };
            let (reason, status, grpc) = (rejection.reason(), rejection.status().as_u16(), rejection.grpc().name());
            let (flag, meaning) = (rejection.flag().as_str(), rejection.meaning());
            let _ = writeln!(table, "| `{reason}` | {status} | `{grpc}` | {flag} | {whose} | {meaning} |");
        }
        table
    }

    #[test]
    fn the_documented_answers_are_those_that_are_given() {
        let text = include_str!("../../docs/errors.md");
        let found: String = text
            .lines()
            .skip_while(|line| *line != HEADING)
            .take_while(|line| line.starts_with('|'))
            .fold(String::new(), |table, line| table + line + "\n");
        assert_eq!(found, table(), "the document must say:\n{}", table());
    }

    #[test]
    fn one_reason_has_one_owner_and_each_answer_differs_from_all_others() {
        for (index, one) in Rejection::ALL.iter().enumerate() {
            assert!(one.status().is_client_error() || one.status().is_server_error(), "{one:?}");
            for other in &Rejection::ALL[..index] {
                assert!(one.reason() != other.reason() || one.status() != other.status(), "{one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn every_refusal_at_the_door_has_its_answer() {
        for (why, status, reason, flag) in [
            (BadRequest::NoHost, 400, "bad_request", "DPE"),
            (BadRequest::Target, 400, "bad_request", "DPE"),
            (BadRequest::TooLarge, 431, "bad_request", "DPE"),
            (BadRequest::Connect, 405, "method", "-"),
            (BadRequest::Protocol, 501, "upgrade", "DPE"),
            (BadRequest::Expectation, 417, "expectation", "DPE"),
        ] {
            let rejection = Rejection::from(why);
            let said = (rejection.status().as_u16(), rejection.reason(), rejection.flag().as_str());
            assert_eq!(said, (status, reason, flag), "{why:?}");
        }
    }
}
