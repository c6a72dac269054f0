//! Pure. What rules look at: facts that were proven or that stand in the request, nothing that a header merely claims.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method};
use mesh::model::identity::Identity;

use crate::auth::jwt::Claims;
use crate::request::path::Readings;

/// One request, or one connection that is not HTTP.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What the client's certificate proved.
    pub source: Option<&'a Identity>,
    /// The client's address.
    pub source_ip: IpAddr,
    /// The address that was called, with the service's port.
    pub destination: SocketAddr,
    /// The HTTP part; `None` for other protocols.
    pub http: Option<Http<'a>>,
    /// The claims of a valid token.
    pub claims: Option<&'a Claims>,
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
}
