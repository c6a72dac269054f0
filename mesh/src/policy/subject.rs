//! Pure. What policies judge: proven facts and attributes of the request, never an identity that a header merely
//! claims.

use std::fmt::Debug;
use std::net::IpAddr;

use http::{HeaderMap, Method};

use super::overrides::Overrides;
use super::path::Readings;
use crate::model::connection::Facts;
use crate::model::identity::Identity;

/// What is known of a connection, or of a request on one. A test of an attribute that is not known cannot be judged
/// ([`super::answer::Answer::Depends`]).
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The identity in the peer's certificate; `None` for plaintext.
    pub identity: Option<&'a Identity>,
    /// Address of the peer.
    pub source: Option<IpAddr>,
    /// Address of the original client, in front of any proxies. Known only where requests are read.
    pub remote: Option<IpAddr>,
    /// Destination address of the connection.
    pub destination: Option<IpAddr>,
    /// Destination port: the workload's at agents, the service's at waypoints.
    pub port: u16,
    /// The HTTP part; `None` where nobody reads requests, and for other protocols.
    pub http: Option<Http<'a>>,
}

/// The HTTP part of a request.
#[derive(Clone, Copy, Debug)]
pub struct Http<'a> {
    /// Its method.
    pub method: &'a Method,
    /// `Host` or `:authority`, with its port if any.
    pub host: &'a str,
    /// The path in normal form, as the backend gets it, and the other paths that a backend may read in it.
    pub path: &'a Readings<'a>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Other values of method, host and path that the headers give.
    pub overrides: &'a Overrides,
    /// The valid token of the request, if it has one.
    pub token: Option<&'a dyn Token>,
}

/// A valid token.
pub trait Token: Debug {
    /// `issuer/subject`; empty when the token names no subject.
    fn principal(&self) -> &str;
    /// `aud`.
    fn audiences(&self) -> &[String];
    /// The values of a claim by path.
    fn claim(&self, path: &[Box<str>]) -> Vec<String>;
}

impl<'a> From<&'a Facts> for Subject<'a> {
    fn from(facts: &'a Facts) -> Self {
        Self {
            identity: facts.source_identity.as_ref(),
            source: Some(facts.source.ip()),
            remote: None,
            destination: Some(facts.destination.ip()),
            port: facts.destination.port(),
            http: None,
        }
    }
}
