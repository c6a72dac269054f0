//! Pure. Which of several matches wins (Gateway API, `HTTPRouteRule.matches` and `GRPCRouteRule.matches`).
//!
//! The specification leaves the place of regular expressions open. Ours, as in Istio: between exact paths and prefixes,
//! the longer expression first, so that an expression never loses to a catch-all.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::matcher::{Match, PathMatch};

/// Where a match stands; the least wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    tier: u8,
    length: Reverse<usize>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    age: Age,
    rule: usize,
    index: usize,
}

/// Which of two equally specific routes wins: the older, then by `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Age {
    /// `metadata.creationTimestamp` as RFC 3339 text, which sorts by time; without one, the object's place among all,
    /// which sorts after every timestamp.
    pub created: Arc<str>,
    /// `namespace/name`.
    pub name: Arc<str>,
}

impl Rank {
    /// The rank of match `index` of rule `rule` of a route.
    pub fn new(route_match: &Match, written_length: usize, age: &Age, rule: usize, index: usize) -> Self {
        let tier = match &route_match.path {
            PathMatch::Exact(_) => 0,
            PathMatch::Regex(_) => 1,
            PathMatch::Prefix(_) => 2,
        };
        let (headers, query) = route_match.counts();
        Self {
            tier,
            length: Reverse(if tier == 0 { 0 } else { written_length }),
            method: Reverse(route_match.method.is_some()),
            headers: Reverse(headers),
            query: Reverse(query),
            age: age.clone(),
            rule,
            index,
        }
    }

    /// Ranks a gRPC match by its service's and its method's length, whatever the path looks like that it became.
    #[must_use]
    pub fn of_grpc(mut self, service: usize, method: usize) -> Self {
        // Exact names and expressions compare by length alone, service before method.
        self.tier = 3;
        self.length = Reverse(service.min(4095) << 12 | method.min(4095));
        self.method = Reverse(false);
        self
    }
}
