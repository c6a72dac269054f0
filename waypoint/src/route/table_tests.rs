//! The table against a reference that looks at every match, and against the tables of the Gateway API.

use std::cmp::Reverse;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::matcher::whole;
use crate::route::precedence::Age;
use crate::route::rule::{Action, RuleId};

#[derive(Clone, Debug, Default)]
struct Spec {
    path: (u8, String),
    method: Option<&'static str>,
    headers: Vec<(&'static str, String, bool)>,
    query: Vec<(&'static str, String, bool)>,
}

impl Spec {
    fn compile(&self) -> Match {
        let text = |value: &String, regex: bool| match regex {
            true => Text::Regex(whole(value).unwrap()),
            false => Text::Exact(value.as_str().into()),
        };
        let headers = self
            .headers
            .iter()
            .map(|(name, value, regex)| Condition::Header(HeaderName::from_static(name), text(value, *regex)));
        let query = self.query.iter().map(|(name, value, regex)| Condition::Query((*name).into(), text(value, *regex)));
        Match {
            path: match self.path.0 {
                0 => PathMatch::Exact(self.path.1.as_str().into()),
                1 => PathMatch::Regex(whole(&self.path.1).unwrap()),
                _ => PathMatch::prefix(&self.path.1),
            },
            method: self.method.map(|method| method.parse().unwrap()),
            conditions: headers.chain(query).collect(),
        }
    }

    /// What the text of the Gateway API says about this match, without any index.
    fn matches(&self, request: &Request) -> bool {
        let (kind, value) = (&self.path.0, &self.path.1);
        let path = match kind {
            0 => request.path == *value,
            1 => regex::Regex::new(&format!("^(?:{value})$")).unwrap().is_match(&request.path),
            _ => {
                let trimmed = value.trim_end_matches('/');
                request.path == trimmed || request.path.starts_with(&format!("{trimmed}/"))
            }
        };
        let text_matches = |value: &str, wanted: &str, regex: bool| match regex {
            true => regex::Regex::new(&format!("^(?:{wanted})$")).unwrap().is_match(value),
            false => value == wanted,
        };
        let first = |all: &[(&'static str, String)], name: &str| {
            all.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        path && self.method.is_none_or(|method| request.method == method)
            && self.headers.iter().all(|(name, wanted, regex)| {
                first(&request.headers, name).is_some_and(|value| text_matches(&value, wanted, *regex))
            })
            && self.query.iter().all(|(name, wanted, regex)| {
                first(&request.query, name).is_some_and(|value| text_matches(&value, wanted, *regex))
            })
    }

    fn key(&self) -> (u8, Reverse<usize>, Reverse<bool>, Reverse<usize>, Reverse<usize>) {
        let length = if self.path.0 == 0 { 0 } else { self.path.1.len() };
        let (headers, query) = (self.headers.len(), self.query.len());
        (self.path.0, Reverse(length), Reverse(self.method.is_some()), Reverse(headers), Reverse(query))
    }
}

#[derive(Clone, Debug)]
struct Request {
    path: String,
    method: &'static str,
    headers: Vec<(&'static str, String)>,
    query: Vec<(&'static str, String)>,
}

fn rule(index: usize) -> Arc<Rule> {
    let id = RuleId { kind: "HTTPRoute", route: "default/test".into(), index, name: None };
    Arc::new(Rule::new(id, Action::Fail("test".into())))
}

fn table(specs: &[Spec]) -> Table {
    let age = Age::default();
    let ranked = specs.iter().enumerate().map(|(index, spec)| {
        let route_match = spec.compile();
        (Rank::new(&route_match, spec.path.1.len(), &age, index, 0), route_match, rule(index))
    });
    Table::new(TableKind::Http, ranked.collect())
}

fn find(table: &Table, request: &Request) -> Option<usize> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let pairs: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let text = pairs.join("&");
    let method: Method = request.method.parse().unwrap();
    table.find(&method, &request.path, &headers, &Query::new(&text)).map(|found| found.rule.id.index)
}

fn some<T: std::fmt::Debug + Clone + 'static>(values: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(values.to_vec())
}

fn spec() -> impl Strategy<Value = Spec> {
    let exact = some(&["/", "/a", "/a/b", "/a/", "/b"]).prop_map(|path| (0u8, path.to_owned()));
    let regex = some(&["/a.*", "/[ab]", ".*", "/a/b|/b"]).prop_map(|path| (1u8, path.to_owned()));
    let prefix = some(&["/", "/a", "/a/", "/a/b", "/a/b/c", "/b"]).prop_map(|path| (2u8, path.to_owned()));
    let value = || some(&["1", "2", "[12]", "."]).prop_map(|value| (value.to_owned(), value.contains(['[', '.'])));
    let condition = |names: &[&'static str]| {
        let names = names.to_vec();
        prop::collection::btree_map(prop::sample::select(names), value(), 0..3)
            .prop_map(|map| map.into_iter().map(|(name, (value, regex))| (name, value, regex)).collect::<Vec<_>>())
    };
    let method = prop::option::of(some(&["GET", "POST"]));
    (prop_oneof![exact, regex, prefix], method, condition(&["x-a", "x-b"]), condition(&["p", "q"]))
        .prop_map(|(path, method, headers, query)| Spec { path, method, headers, query })
}

fn request() -> impl Strategy<Value = Request> {
    let pairs = |names: &[&'static str]| {
        let names = names.to_vec();
        prop::collection::btree_map(prop::sample::select(names), some(&["1", "2", "3"]), 0..3)
            .prop_map(|map| map.into_iter().map(|(name, value)| (name, value.to_owned())).collect::<Vec<_>>())
    };
    let path = some(&["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "/c"]);
    (path, some(&["GET", "POST", "PUT"]), pairs(&["x-a", "x-b"]), pairs(&["p", "q"]))
        .prop_map(|(path, method, headers, query)| Request { path: path.to_owned(), method, headers, query })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_index_finds_what_looking_at_every_match_finds(
        specs in prop::collection::vec(spec(), 0..24),
        requests in prop::collection::vec(request(), 1..12),
    ) {
        let table = table(&specs);
        for request in &requests {
            let fitting = specs.iter().enumerate().filter(|(_, spec)| spec.matches(request));
            let wanted = fitting.min_by_key(|(index, spec)| (spec.key(), *index)).map(|(index, _)| index);
            prop_assert_eq!(find(&table, request), wanted, "{:?}", request);
        }
    }
}

fn get(path: &str) -> Request {
    Request { path: path.to_owned(), method: "GET", headers: vec![], query: vec![] }
}

fn by_path(kind: u8, path: &str) -> Spec {
    Spec { path: (kind, path.to_owned()), ..Spec::default() }
}

#[test]
fn the_more_specific_path_wins_whatever_the_order() {
    let specs =
        [by_path(2, "/"), by_path(1, "/shop.*"), by_path(2, "/shop/cart"), by_path(0, "/shop"), by_path(2, "/shop")];
    let table = table(&specs);
    for (path, wanted) in [("/shop", 3), ("/shop/cart", 1), ("/other", 0), ("/", 0), ("/shop/x", 1)] {
        assert_eq!(find(&table, &get(path)), Some(wanted), "{path}");
    }
}

#[test]
fn the_older_route_wins_a_tie_and_then_the_name() {
    let at = |created: &str, name: &str| Age { created: created.into(), name: name.into() };
    let ages = [
        at("2024-05-01T00:00:00Z", "default/b"),
        at("2023-05-01T00:00:00Z", "default/z"),
        at("2023-05-01T00:00:00Z", "default/y"),
        at("~00000001", "default/a"),
    ];
    let ranked = ages
        .iter()
        .enumerate()
        .map(|(index, age)| (Rank::new(&Match::everything(), 1, age, 0, 0), Match::everything(), rule(index)));
    assert_eq!(find(&Table::new(TableKind::Http, ranked.collect()), &get("/")), Some(2));
}

#[test]
fn routes_that_cannot_match_cost_nothing() {
    let mut specs: Vec<Spec> = (0..5000).map(|n| by_path(2, &format!("/team{n}/api"))).collect();
    specs.extend((0..5000).map(|n| Spec {
        path: (2, "/".to_owned()),
        headers: vec![("x-tenant", format!("t{n}"), false)],
        ..Spec::default()
    }));
    let table = table(&specs);
    let tenant = Request { headers: vec![("x-tenant", "t77".to_owned())], ..get("/team9/api/x") };
    assert_eq!(find(&table, &tenant), Some(9));
    assert_eq!(find(&table, &Request { path: "/".to_owned(), ..tenant }), Some(5077));
    let mut candidates = Candidates::new();
    let mut headers = HeaderMap::new();
    headers.insert("x-tenant", HeaderValue::from_static("t77"));
    table.prefix.collect("/team9/api/x", &headers, &Query::new(""), &mut candidates);
    assert_eq!(candidates.len(), 2, "one by path, one by header, of ten thousand");
}

#[test]
fn grpc_matches_rank_by_service_then_method() {
    let age = Age::default();
    let grpc = |path: PathMatch, service: usize, method: usize, index: usize| {
        let route_match = Match { path, method: None, conditions: Box::default() };
        (Rank::new(&route_match, 0, &age, index, 0).of_grpc(service, method), route_match, rule(index))
    };
    let table = Table::new(
        TableKind::Grpc,
        vec![
            grpc(PathMatch::prefix("/"), 0, 0, 0),
            grpc(PathMatch::Regex(whole("/[^/]+/Get").unwrap()), 0, 3, 1),
            grpc(PathMatch::prefix("/shop.Cart"), 9, 0, 2),
            grpc(PathMatch::Exact("/shop.Cart/Get".into()), 9, 3, 3),
        ],
    );
    for (path, wanted) in [("/shop.Cart/Get", 3), ("/shop.Cart/Put", 2), ("/other/Get", 1), ("/other/Put", 0)] {
        assert_eq!(find(&table, &get(path)), Some(wanted), "{path}");
    }
}
