//! Pure. The head of a CONNECT request: its target, its client and its telemetry headers.
//!
//! RFC 9113, section 8.5 (CONNECT has neither scheme nor path); RFC 7239 (`forwarded`); W3C Trace Context
//! (`traceparent`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::header::{FORWARDED, HeaderMap};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use thiserror::Error;

use super::baggage::Baggage;
use super::traceparent::Traceparent;
use mesh::model::identity::Identity;
use mesh::model::name::{Hostname, Network};

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const SOURCE: HeaderName = HeaderName::from_static("x-mesh-source");
const HOP: HeaderName = HeaderName::from_static("x-istio-source");
const NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");

/// Why a request is not an HBONE CONNECT.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HeadError {
    /// The method is not CONNECT.
    #[error("the method is {0}, not CONNECT")]
    Method(Method),
    /// The authority is missing, or neither `ip:port` nor `host:port`.
    #[error("the authority {0:?} is not an address or a host name with a port")]
    Authority(String),
    /// `x-mesh-source` is malformed or given more than once. Treating it as absent would widen what the peer may do.
    #[error("x-mesh-source must be one SPIFFE ID: spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Client,
}

/// The target of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address of a workload, or of a service when a waypoint is asked.
    Address(SocketAddr),
    /// A service by name, between networks.
    Host(Hostname, u16),
}

impl Authority {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host(_, port) => *port,
        }
    }
}

impl FromStr for Authority {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let wrong = || HeadError::Authority(text.chars().take(300).collect());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port_is_plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = if port_is_plain { port.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
        if is_host_name(host) { Ok(Self::Host(host.to_ascii_lowercase().into(), port)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Accepts letters, digits, `-`, `_` and dots between them, at most 253 bytes (RFC 1035, 2.3.1, and what Kubernetes
/// allows), but nothing that only looks like an IPv4 address.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last_is_number = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= 253 && !last_is_number && host.split('.').all(label)
}

/// The `forwarded` header: the original client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's socket address.
    pub source: SocketAddr,
    /// The service that the client addressed, if any.
    pub host: Option<Hostname>,
}

impl Forwarded {
    fn print(&self) -> String {
        match &self.host {
            Some(host) => format!("for=\"{}\";host={host}", self.source),
            None => format!("for=\"{}\"", self.source),
        }
    }

    /// Reads the first element; `None` unless it has an address and a port, since telemetry needs both.
    fn parse(header: &str) -> Option<Self> {
        let first = header.split(',').next()?;
        let (mut source, mut host) = (None, None);
        for pair in first.split(';').take(8) {
            let (name, value) = pair.split_once('=')?;
            let value = value.trim().trim_matches('"');
            match name.trim() {
                name if name.eq_ignore_ascii_case("for") => source = value.parse().ok(),
                name if name.eq_ignore_ascii_case("host") => {
                    let name = value.rsplit_once(':').map_or(value, |(name, _)| name);
                    host = is_host_name(name).then(|| name.to_ascii_lowercase().into());
                }
                _ => {}
            }
        }
        Some(Self { source: source?, host })
    }
}

/// The head of a CONNECT request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectHead {
    /// The target.
    pub authority: Authority,
    /// The source's labels, for telemetry only: decisions rest on the certificate.
    pub baggage: Option<Baggage>,
    /// The original client, for telemetry.
    pub forwarded: Option<Forwarded>,
    /// The trace of the connection.
    pub traceparent: Option<Traceparent>,
    /// The network that the connection came from, when it crossed one.
    pub network: Option<Network>,
    /// The client on whose behalf a waypoint calls (`x-mesh-source`). It is trusted as far as the tunnel's peer is:
    /// only a waypoint of the destination may speak for others; named by anyone else, the client is judged in addition
    /// to the peer.
    pub on_behalf_of: Option<Identity>,
}

impl ConnectHead {
    /// A head without optional headers.
    pub fn new(authority: Authority) -> Self {
        Self { authority, baggage: None, forwarded: None, traceparent: None, network: None, on_behalf_of: None }
    }

    /// Builds the request.
    pub fn to_request(&self) -> Result<Request<()>, http::Error> {
        let uri = Uri::builder().authority(self.authority.to_string()).build()?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        if let Some(baggage) = &self.baggage {
            headers.insert(BAGGAGE, HeaderValue::from_maybe_shared(baggage.print())?);
        }
        if let Some(forwarded) = &self.forwarded {
            headers.insert(FORWARDED, HeaderValue::from_maybe_shared(forwarded.print())?);
        }
        if let Some(traceparent) = &self.traceparent {
            headers.insert(TRACEPARENT, HeaderValue::from_maybe_shared(traceparent.print())?);
        }
        if let Some(network) = &self.network {
            headers.insert(NETWORK, HeaderValue::from_str(network)?);
        }
        if let Some(identity) = &self.on_behalf_of {
            headers.insert(SOURCE, HeaderValue::from_maybe_shared(identity.to_string())?);
            // How Istio's waypoints mark themselves.
            headers.insert(HOP, HeaderValue::from_static("waypoint"));
        }
        Ok(request)
    }

    /// Parses a request. Malformed telemetry headers are left out; a malformed `x-mesh-source` is an error.
    pub fn parse<T>(request: &Request<T>) -> Result<Self, HeadError> {
        if request.method() != Method::CONNECT {
            return Err(HeadError::Method(request.method().clone()));
        }
        let authority = request.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let headers = request.headers();
        Ok(Self {
            authority: authority.parse()?,
            baggage: baggage_of(headers),
            forwarded: text(headers, &FORWARDED).and_then(Forwarded::parse),
            traceparent: text(headers, &TRACEPARENT).and_then(|value| value.parse().ok()),
            network: text(headers, &NETWORK).filter(|value| value.len() <= 256).map(Network::from),
            on_behalf_of: client_of(headers)?,
        })
    }
}

/// The client named by `x-mesh-source`.
fn client_of(headers: &HeaderMap) -> Result<Option<Identity>, HeadError> {
    let mut values = headers.get_all(SOURCE).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let client = value.to_str().ok().and_then(|text| text.parse().ok());
            client.map(Some).ok_or(HeadError::Client)
        }
        (Some(_), Some(_)) => Err(HeadError::Client),
    }
}

/// The baggage of a request or response.
pub(crate) fn baggage_of(headers: &HeaderMap) -> Option<Baggage> {
    let mut values = headers.get_all(BAGGAGE).iter().filter_map(|value| value.to_str().ok());
    let first = values.next()?;
    match values.next() {
        None => Some(Baggage::parse(first)),
        // Repeated headers are one list (RFC 9110, 5.3).
        Some(second) => {
            let rest = values.take(8);
            Some(Baggage::parse(&[first, second].into_iter().chain(rest).collect::<Vec<_>>().join(",")))
        }
    }
}

/// Adds the baggage of a workload to a response.
pub(crate) fn add_baggage(headers: &mut HeaderMap, baggage: &Baggage) {
    if let Ok(value) = HeaderValue::from_maybe_shared(baggage.print()) {
        headers.insert(BAGGAGE, value);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Turns an IPv4-mapped IPv6 address into the IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, |v4| SocketAddr::from((v4, address.port()))),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> ConnectHead {
        ConnectHead {
            authority: Authority::Address("10.0.0.2:8080".parse().unwrap()),
            baggage: Some(Baggage { service: Some("shop".into()), ..Baggage::default() }),
            forwarded: Some(Forwarded {
                source: "10.0.0.1:4711".parse().unwrap(),
                host: Some("shop.default.svc.cluster.local".into()),
            }),
            traceparent: Some(Traceparent::new(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331)),
            network: None,
            on_behalf_of: Some(Identity::new("cluster.local", "default", "client")),
        }
    }

    #[test]
    fn a_head_is_written_as_ztunnel_reads_it() {
        let request = head().to_request().unwrap();
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.uri().to_string(), "10.0.0.2:8080");
        assert_eq!(request.headers()["forwarded"], "for=\"10.0.0.1:4711\";host=shop.default.svc.cluster.local");
        assert_eq!(request.headers()["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        assert_eq!(request.headers()["baggage"], "service.name=shop");
        assert_eq!(request.headers()["x-mesh-source"], "spiffe://cluster.local/ns/default/sa/client");
        assert_eq!(request.headers()["x-istio-source"], "waypoint");
        assert_eq!(ConnectHead::parse(&request), Ok(head()));
    }

    #[test]
    fn an_authority_is_an_address_or_a_host_with_a_port() {
        for good in ["10.0.0.1:80", "[fd00::1]:80", "shop.default.svc.cluster.local:8080", "a_b:1"] {
            assert_eq!(good.parse::<Authority>().unwrap().to_string(), good);
        }
        assert_eq!("SHOP:80".parse(), Ok(Authority::Host("shop".into(), 80)));
        for bad in [
            "",
            "10.0.0.1",
            "shop",
            "shop:",
            "shop:http",
            "shop:65536",
            "shop:+80",
            "[fd00::1]",
            "fd00::1:80",
            ":80",
            "a..b:80",
            "a b:80",
            "256.0.0.1:80",
            "10.0.0:80",
            "1:2",
            "user@shop:80",
            "[fd00::1%1]x:80",
        ] {
            assert!(bad.parse::<Authority>().is_err(), "{bad}");
        }
    }

    #[test]
    fn another_method_is_told() {
        let request = Request::get("http://10.0.0.1:80/").body(()).unwrap();
        assert_eq!(ConnectHead::parse(&request), Err(HeadError::Method(Method::GET)));
    }

    #[test]
    fn headers_that_make_no_sense_are_left_out() {
        let request = Request::connect("10.0.0.1:80")
            .header("forwarded", "for=unknown;host=x")
            .header("traceparent", "00-0-0-00")
            .header("baggage", "service.name=a")
            .header("baggage", "service.version=b")
            .body(())
            .unwrap();
        let head = ConnectHead::parse(&request).unwrap();
        assert_eq!((head.forwarded, head.traceparent), (None, None));
        let baggage = head.baggage.unwrap();
        assert_eq!((baggage.service, baggage.version), (Some("a".into()), Some("b".into())));
    }

    #[test]
    fn a_client_that_cannot_be_read_is_not_no_client() {
        let parse = |values: &[&[u8]]| {
            let mut request = Request::connect("10.0.0.1:80").body(()).unwrap();
            for value in values {
                request.headers_mut().append(SOURCE, HeaderValue::from_bytes(value).unwrap());
            }
            ConnectHead::parse(&request).map(|head| head.on_behalf_of.map(|client| client.to_string()))
        };
        let client = "spiffe://cluster.local/ns/default/sa/client";
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[client.as_bytes()]), Ok(Some(client.to_owned())));
        for wrong in [&[b"".as_slice()][..], &[b"client"], &[b"\xff"], &[client.as_bytes(), client.as_bytes()]] {
            assert_eq!(parse(wrong), Err(HeadError::Client), "{wrong:?}");
        }
    }

    #[test]
    fn a_forwarded_header_is_read_with_and_without_host() {
        let parse = |text: &str| Forwarded::parse(text).map(|f| (f.source.to_string(), f.host.map(|h| h.to_string())));
        assert_eq!(parse("for=\"10.0.0.1:5\""), Some(("10.0.0.1:5".into(), None)));
        assert_eq!(parse("For=\"[fd00::1]:5\";host=Shop:80"), Some(("[fd00::1]:5".into(), Some("shop".into()))));
        assert_eq!(parse("by=x;for=\"10.0.0.1:5\", for=\"6.6.6.6:6\""), Some(("10.0.0.1:5".into(), None)));
        assert_eq!(parse("for=10.0.0.1"), None);
        assert_eq!(parse(""), None);
    }

    proptest! {
        #[test]
        fn any_text_is_an_authority_or_is_not(text in "\\PC{0,80}") {
            if let Ok(authority) = text.parse::<Authority>() {
                let again: Authority = authority.to_string().parse().unwrap();
                prop_assert_eq!(again, authority);
            }
        }

        #[test]
        fn any_headers_parse(forwarded in "[ -~]{0,80}", trace in "[ -~]{0,60}", baggage in "[ -~]{0,80}") {
            let request = Request::connect("10.0.0.1:80")
                .header("forwarded", forwarded)
                .header("traceparent", trace)
                .header("baggage", baggage)
                .body(())
                .unwrap();
            prop_assert!(ConnectHead::parse(&request).is_ok());
        }
    }
}
