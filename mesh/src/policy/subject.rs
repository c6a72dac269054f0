//! Pure. What policies judge: facts that were proven or that stand in the request, nothing that a header merely claims.

use std::fmt::Debug;
use std::net::IpAddr;

use http::{HeaderMap, Method};

use super::overrides::Overrides;
use super::path::Readings;
use crate::model::connection::Facts;
use crate::model::identity::Identity;

/// What is known of a connection, or of a request on one. What hangs on something that is not known cannot be judged
/// ([`super::answer::Answer::Depends`]).
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What the peer's certificate proved.
    pub identity: Option<&'a Identity>,
    /// Address of the peer.
    pub source: Option<IpAddr>,
    /// Address of the client, wherever its requests came through. Who reads no requests does not know it.
    pub remote: Option<IpAddr>,
    /// Address that was called.
    pub destination: Option<IpAddr>,
    /// Port that was called: at agents that of the workload, at waypoints that of the service.
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
    /// The path in normal form, as the backend gets it, and what it could mean to one.
    pub path: &'a Readings<'a>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Other values of method, host and path that stand in them.
    pub overrides: &'a Overrides,
    /// What a valid token says of the caller.
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
