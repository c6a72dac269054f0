//! Pure. The values of settings that are not plain numbers, and how every kind of value prints.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use serde::Serialize;

use crate::balance::Algorithm;
use crate::duration;
use crate::request::grpc::GrpcCode;
use crate::resilience::limit::Rate;
use crate::resilience::retry::StatusSet;
use mesh::policy::path::Normalization;

/// One setting as it is in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// Its name in MeshPolicy.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where the value comes from.
    pub source: Arc<str>,
}

/// A set of gRPC status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GrpcCodes(pub u32);

impl FromIterator<GrpcCode> for GrpcCodes {
    fn from_iter<I: IntoIterator<Item = GrpcCode>>(codes: I) -> Self {
        Self(codes.into_iter().fold(0, |bits, code| bits | 1 << code.0))
    }
}

/// What a consistent hash is taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The address of the client.
    SourceIp,
    /// A header.
    Header(HeaderName),
    /// A cookie.
    Cookie(Arc<str>),
    /// A query parameter.
    Query(Arc<str>),
}

/// How a value prints in `explain`.
pub trait Show {
    /// The value as configuration would write it.
    fn show(&self) -> String;
}

impl Show for u32 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for usize {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for f64 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for bool {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for Duration {
    fn show(&self) -> String {
        duration::print(*self)
    }
}

impl<T: Show> Show for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "off".to_owned(), Show::show)
    }
}

impl Show for StatusSet {
    fn show(&self) -> String {
        self.iter().map(|code| code.to_string()).collect::<Vec<_>>().join(",")
    }
}

impl Show for GrpcCodes {
    fn show(&self) -> String {
        (0..17).filter(|code| self.0 >> code & 1 == 1).map(|code| GrpcCode(code).name()).collect::<Vec<_>>().join(",")
    }
}

impl Show for Algorithm {
    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Show for Normalization {
    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Show for HashOn {
    fn show(&self) -> String {
        match self {
            Self::SourceIp => "sourceIp".to_owned(),
            Self::Header(name) => format!("header {name}"),
            Self::Cookie(name) => format!("cookie {name}"),
            Self::Query(name) => format!("query {name}"),
        }
    }
}

impl Show for Rate {
    fn show(&self) -> String {
        format!("{}/s burst {}", self.per_second, self.burst)
    }
}
