//! Pure. Compiles `matches` of HTTPRoute and GRPCRoute, with what decides their precedence.

use http::{HeaderName, Method};
use regex::Regex;

use super::schema::route::{GrpcMethod, MethodMatch, NamedValue, RouteMatch};
use crate::matcher::{Condition, Match, PathMatch, Text, whole};
use crate::route::{Age, Rank};
use mesh::policy::path::{Normalization, normalize};

/// Longest path value (Gateway API).
const MAX_PATH: usize = 1024;

/// A compiled match and what its rank is made of.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The match.
    pub route_match: Match,
    /// Characters of the path as written.
    length: usize,
    /// gRPC: characters of service and method as written.
    grpc: Option<(usize, usize)>,
}

impl Compiled {
    /// The match of everything.
    pub fn everything(is_grpc: bool) -> Self {
        Self { route_match: Match::everything(), length: 1, grpc: is_grpc.then_some((0, 0)) }
    }

    /// The rank of this match as number `index` of rule `rule`.
    pub fn rank(&self, age: &Age, rule: usize, index: usize) -> Rank {
        let rank = Rank::new(&self.route_match, self.length, age, rule, index);
        match self.grpc {
            Some((service, method)) => rank.of_grpc(service, method),
            None => rank,
        }
    }

    /// Whether `ReplacePrefixMatch` has a prefix to replace.
    pub fn is_prefix(&self) -> bool {
        matches!(self.route_match.path, PathMatch::Prefix(_))
    }
}

/// Compiles one match of an HTTPRoute.
pub fn http(from: &RouteMatch) -> Result<Compiled, String> {
    let (kind, value) = match &from.path {
        Some(path) => (path.r#type.as_deref().unwrap_or("PathPrefix"), path.value.as_deref().unwrap_or("/")),
        None => ("PathPrefix", "/"),
    };
    if value.len() > MAX_PATH {
        return Err(format!("a path of more than {MAX_PATH} characters"));
    }
    let path = match kind {
        "Exact" => PathMatch::Exact(plain_path(value)?.into()),
        "PathPrefix" => PathMatch::prefix(&plain_path(value)?),
        "RegularExpression" => PathMatch::Regex(expression(value)?),
        other => return Err(format!("path type {other:?} is not supported")),
    };
    let method = match &from.method {
        Some(MethodMatch::Http(method)) => Some(http_method(method)?),
        Some(MethodMatch::Grpc(_)) => return Err("an HTTP method is a word, such as GET".to_owned()),
        None => None,
    };
    let mut conditions = headers(&from.headers)?;
    let mut seen: Vec<&str> = Vec::new();
    for param in &from.query_params {
        // Of several conditions on one name the first counts (HTTPQueryParamMatch.name).
        if !seen.contains(&param.name.as_str()) {
            seen.push(&param.name);
            conditions.push(Condition::Query(param.name.as_str().into(), text(param)?));
        }
    }
    let route_match = Match { path, method, conditions: conditions.into() };
    Ok(Compiled { route_match, length: value.len(), grpc: None })
}

/// Compiles one match of a GRPCRoute: `/service/method` is the path of a gRPC request.
pub fn grpc(from: &RouteMatch) -> Result<Compiled, String> {
    let none = GrpcMethod::default();
    let method = match &from.method {
        Some(MethodMatch::Grpc(method)) => method,
        Some(MethodMatch::Http(_)) => return Err("a gRPC method is an object of service and method".to_owned()),
        None => &none,
    };
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, name) = (filled(&method.service), filled(&method.method));
    let lengths = (service.as_ref().map_or(0, String::len), name.as_ref().map_or(0, String::len));
    let path = match (method.r#type.as_deref().unwrap_or("Exact"), service, name) {
        (_, None, None) if from.method.is_some() => return Err("method needs service or method".to_owned()),
        (_, None, None) => PathMatch::prefix("/"),
        ("Exact", Some(service), Some(name)) => {
            PathMatch::Exact(format!("/{}/{}", identifier(&service)?, identifier(&name)?).into())
        }
        ("Exact", Some(service), None) => PathMatch::prefix(&format!("/{}", identifier(&service)?)),
        ("Exact", None, Some(name)) => {
            PathMatch::Regex(expression(&format!("/[^/]+/{}", regex::escape(identifier(&name)?)))?)
        }
        ("RegularExpression", service, name) => {
            let part = |text: Option<String>| match text {
                Some(text) => expression(&text).map(|_| format!("(?:{text})")),
                None => Ok("[^/]+".to_owned()),
            };
            PathMatch::Regex(expression(&format!("/{}/{}", part(service)?, part(name)?))?)
        }
        (other, ..) => return Err(format!("method type {other:?} is not supported")),
    };
    let route_match = Match { path, method: None, conditions: headers(&from.headers)?.into() };
    Ok(Compiled { route_match, length: 0, grpc: Some(lengths) })
}

fn headers(from: &[NamedValue]) -> Result<Vec<Condition>, String> {
    let mut conditions: Vec<Condition> = Vec::new();
    for header in from {
        let name: HeaderName = header.name.parse().map_err(|_| format!("{:?} is not a header name", header.name))?;
        let known =
            conditions.iter().any(|condition| matches!(condition, Condition::Header(known, _) if *known == name));
        if !known {
            conditions.push(Condition::Header(name, text(header)?));
        }
    }
    Ok(conditions)
}

fn text(from: &NamedValue) -> Result<Text, String> {
    match from.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(Text::Exact(from.value.as_str().into())),
        "RegularExpression" => Ok(Text::Regex(expression(&from.value)?)),
        other => Err(format!("match type {other:?} is not supported")),
    }
}

fn expression(text: &str) -> Result<Regex, String> {
    whole(text).map_err(|error| format!("{text:?} is not an expression: {}", error.to_string().replace('\n', " ")))
}

fn http_method(text: &str) -> Result<Method, String> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let known = KNOWN.contains(&text).then(|| text.parse().ok()).flatten();
    known.ok_or_else(|| format!("{text:?} is not a method"))
}

fn plain_path(value: &str) -> Result<String, String> {
    let odd = ["//", "/./", "/../", "%2f", "%2F", "#"].into_iter().find(|part| value.contains(part));
    if let Some(part) = odd.or_else(|| ["/..", "/."].into_iter().find(|part| value.ends_with(part))) {
        return Err(format!("path {value:?} contains {part:?}, which no normal path does"));
    }
    let normal =
        normalize(value.as_bytes(), Normalization::Base).map_err(|error| format!("path {value:?}: {error}"))?;
    Ok(normal.into_owned())
}

fn identifier(text: &str) -> Result<&str, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if text.bytes().all(allowed) { Ok(text) } else { Err(format!("{text:?} is not a gRPC name")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn http_of(value: serde_json::Value) -> Result<Compiled, String> {
        http(&serde_json::from_value(value).unwrap())
    }

    fn grpc_of(value: serde_json::Value) -> Result<Compiled, String> {
        grpc(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn paths_are_checked_as_the_gateway_api_says() {
        for value in ["foo", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a#b", "/a/..", "/a/."] {
            for kind in ["Exact", "PathPrefix"] {
                assert!(http_of(json!({"path": {"type": kind, "value": value}})).is_err(), "{kind} {value}");
            }
        }
        assert!(http_of(json!({"path": {"type": "Glob", "value": "/"}})).unwrap_err().contains("Glob"));
        assert!(http_of(json!({"path": {"type": "RegularExpression", "value": "("}})).is_err());
        assert!(http_of(json!({"method": "BREW"})).is_err());
    }

    #[test]
    fn of_conditions_on_one_name_the_first_counts() {
        let compiled = http_of(json!({
            "headers": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}],
            "queryParams": [{"name": "q", "value": "1"}, {"name": "q", "value": "2"}, {"name": "Q", "value": "3"}],
        }));
        assert_eq!(compiled.unwrap().route_match.counts(), (1, 2));
    }

    #[test]
    fn grpc_methods_become_paths() {
        for (method, path, expected) in [
            (json!({"service": "a.B", "method": "C"}), "/a.B/C", true),
            (json!({"service": "a.B"}), "/a.B/Other", true),
            (json!({"service": "a.B"}), "/a.Bc/Other", false),
            (json!({"method": "C"}), "/x.Y/C", true),
            (json!({"method": "C"}), "/x.Y/D", false),
            (json!({"type": "RegularExpression", "service": "a\\..*"}), "/a.Z/C", true),
            (json!({"type": "RegularExpression", "service": "a|b", "method": "C"}), "/b/C", true),
            (json!({"type": "RegularExpression", "service": "a|b", "method": "C"}), "/b/D", false),
        ] {
            assert_eq!(
                grpc_of(json!({"method": method})).unwrap().route_match.path.matches(path),
                expected,
                "{method} {path}"
            );
        }
        assert!(grpc_of(json!({"method": {}})).is_err());
        assert!(grpc_of(json!({"method": {"service": "a/b"}})).is_err());
        assert!(grpc_of(json!({})).unwrap().route_match.path.matches("/any/thing"));
    }
}
