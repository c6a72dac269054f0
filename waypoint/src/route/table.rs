//! Pure. The rules of one service and port, indexed so that the cost of a request does not grow with rules that cannot
//! match it.
//!
//! Exact paths are found by hash, prefixes along a tree of path elements, expressions by one automaton for all. Matches
//! that share a path and differ by the value of a header or query parameter are found by that value. What is left, in
//! the order of precedence, is checked one by one; usually it is one.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use regex::{RegexSet, RegexSetBuilder};
use smallvec::SmallVec;

use super::precedence::Rank;
use super::rule::Rule;
use crate::matcher::{Condition, Match, PathMatch, Text, with_value};
use crate::request::query::Query;

/// What kind of routes a table was compiled from: it decides what a request gets that nothing matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// HTTPRoutes, or none at all: 404.
    Http,
    /// GRPCRoutes: UNIMPLEMENTED.
    Grpc,
}

/// The compiled rules of one service and port, as one group of clients sees them.
#[derive(Debug)]
pub struct Table {
    /// What it was compiled from.
    pub kind: TableKind,
    entries: Box<[Entry]>,
    exact: HashMap<Box<str>, Bucket>,
    prefix: Node,
    regex: Option<(RegexSet, Box<[u32]>)>,
    // Expressions that together exceed what one automaton may take, one by one.
    loose: Box<[u32]>,
    headers: Box<[HeaderName]>,
}

#[derive(Debug)]
struct Entry {
    route_match: Match,
    rule: Arc<Rule>,
}

/// What a look-up found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The rule.
    pub rule: &'a Arc<Rule>,
    /// Which of its matches was met.
    pub route_match: &'a Match,
}

/// Entries that share a path, as indices in order of precedence.
#[derive(Debug, Default)]
struct Bucket {
    plain: Vec<u32>,
    // The last of `plain` takes everything: what comes after it can never win.
    is_closed: bool,
    by_header: Groups<HeaderName>,
    by_query: Groups<Arc<str>>,
}

/// One element of a prefix.
#[derive(Debug, Default)]
struct Node {
    here: Bucket,
    next: HashMap<Box<str>, Self>,
}

/// By name, then by exact value: indices in order of precedence.
type Groups<N> = Vec<(N, HashMap<Box<str>, Vec<u32>>)>;

type Candidates = SmallVec<[u32; 16]>;

/// Most memory that the automaton of all expressions of a table may take.
const REGEX_SET_SIZE: usize = 16 << 20;

impl Table {
    /// Compiles ranked matches with their rules.
    pub fn new(kind: TableKind, mut ranked: Vec<(Rank, Match, Arc<Rule>)>) -> Self {
        ranked.sort_by(|a, b| a.0.cmp(&b.0));
        let entries: Box<[Entry]> =
            ranked.into_iter().map(|(_, route_match, rule)| Entry { route_match, rule }).collect();
        let (mut exact, mut prefix, mut expressions) = (HashMap::<_, Bucket>::new(), Node::default(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            let index = index as u32;
            match &entry.route_match.path {
                PathMatch::Exact(path) => exact.entry(path.clone()).or_default().add(index, &entry.route_match),
                PathMatch::Prefix(path) => prefix.at(path).add(index, &entry.route_match),
                PathMatch::Regex(regex) => expressions.push((index, regex.as_str())),
            }
        }
        let patterns = expressions.iter().map(|(_, pattern)| *pattern);
        let set = RegexSetBuilder::new(patterns).size_limit(REGEX_SET_SIZE).build();
        let indices: Box<[u32]> = expressions.iter().map(|(index, _)| *index).collect();
        let (regex, loose) = match set {
            _ if indices.is_empty() => (None, Box::default()),
            Ok(set) => (Some((set, indices)), Box::default()),
            Err(_) => (None, indices),
        };
        let mut headers: Vec<HeaderName> = Vec::new();
        for condition in entries.iter().flat_map(|entry| &entry.route_match.conditions) {
            match condition {
                Condition::Header(name, _) if !headers.contains(name) => headers.push(name.clone()),
                _ => {}
            }
        }
        Self { kind, entries, exact, prefix, regex, loose, headers: headers.into() }
    }

    /// The headers that its matches look at: each has one line by then, which the backend sees too.
    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// The rule for a request: `path` in normal form without the query.
    pub fn find(&self, method: &Method, path: &str, headers: &HeaderMap, query: &Query<'_>) -> Option<Found<'_>> {
        let mut candidates = Candidates::new();
        if let Some(bucket) = self.exact.get(path) {
            bucket.collect(headers, query, &mut candidates);
        }
        if let Some((set, indices)) = &self.regex {
            candidates.extend(set.matches(path).into_iter().map(|at| indices[at]));
        }
        candidates.extend(self.loose.iter().copied().filter(|index| self.entry(*index).route_match.path.matches(path)));
        self.prefix.collect(path, headers, query, &mut candidates);
        candidates.sort_unstable();
        let ranked = candidates.iter().map(|index| self.entry(*index));
        let found = ranked.into_iter().find(|entry| entry.route_match.matches_beside_path(method, headers, query))?;
        Some(Found { rule: &found.rule, route_match: &found.route_match })
    }

    /// Every match with its rule, the one that wins first.
    pub fn entries(&self) -> impl Iterator<Item = Found<'_>> {
        self.entries.iter().map(|entry| Found { rule: &entry.rule, route_match: &entry.route_match })
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }
}

impl Bucket {
    fn add(&mut self, index: u32, route_match: &Match) {
        let exact = route_match.conditions.iter().find_map(|condition| match condition {
            Condition::Header(name, Text::Exact(value)) => Some((Some(name), None, value)),
            Condition::Query(name, Text::Exact(value)) => Some((None, Some(name), value)),
            _ => None,
        });
        match exact {
            Some((Some(name), _, value)) => group(&mut self.by_header, name, value).push(index),
            Some((_, Some(name), value)) => group(&mut self.by_query, name, value).push(index),
            _ if self.is_closed => {}
            _ => {
                self.plain.push(index);
                self.is_closed = route_match.method.is_none() && route_match.conditions.is_empty();
            }
        }
    }

    fn collect(&self, headers: &HeaderMap, query: &Query<'_>, into: &mut Candidates) {
        into.extend_from_slice(&self.plain);
        for (name, values) in &self.by_header {
            with_value(headers, name, |value| {
                into.extend_from_slice(values.get(value).map_or(&[], |found| &found[..]));
                true
            });
        }
        for (name, values) in &self.by_query {
            let found = query.get(name).and_then(|value| values.get(value));
            into.extend_from_slice(found.map_or(&[], |found| &found[..]));
        }
    }
}

fn group<'a, N: Clone + PartialEq>(groups: &'a mut Groups<N>, name: &N, value: &str) -> &'a mut Vec<u32> {
    let at = groups.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
        groups.push((name.clone(), HashMap::new()));
        groups.len() - 1
    });
    groups[at].1.entry(value.into()).or_default()
}

impl Node {
    fn at(&mut self, prefix: &str) -> &mut Bucket {
        let node = elements(prefix).fold(self, |node, element| node.next.entry(element.into()).or_default());
        &mut node.here
    }

    fn collect(&self, path: &str, headers: &HeaderMap, query: &Query<'_>, into: &mut Candidates) {
        self.here.collect(headers, query, into);
        let mut node = self;
        for element in elements(path) {
            let Some(next) = node.next.get(element) else { return };
            next.here.collect(headers, query, into);
            node = next;
        }
    }
}

fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
