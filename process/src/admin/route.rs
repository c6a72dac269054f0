//! Pure. Routes of the three servers, and which requests are refused.

use std::net::IpAddr;

use http::{HeaderMap, Method, StatusCode, header};

/// Which of the three servers a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Everything; for the machine itself.
    Admin,
    /// Metrics and readiness; for Prometheus.
    Stats,
    /// Readiness; for the kubelet.
    Ready,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Help,
    /// All parts, or one.
    Dump(Option<String>),
    Metrics,
    Ready,
    Version,
    /// Show the level, or set it.
    Logging(Option<String>),
    Quit,
    /// A route that the process added.
    Query(String),
}

/// The parameters of a request: `src=a&dst=b`, percent-decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a URL after `?`.
    pub fn parse(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// `%2F` and `+`. What is not an escape stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex =
            |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                rest = &after[2..];
                continue;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(first),
        }
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes `text` as the value of a parameter.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Finds the route, or the status and text of a refusal. `queries` are the routes that the process added.
pub(super) fn route(
    surface: Surface,
    method: &Method,
    path: &str,
    query: &Query,
    queries: &[&'static str],
) -> Result<Route, (StatusCode, &'static str)> {
    let path = path.trim_end_matches('/');
    let (route, only_post) = match (surface, path) {
        (_, "/healthz/ready") => (Route::Ready, false),
        (Surface::Admin | Surface::Stats, "/metrics" | "/stats/prometheus") => (Route::Metrics, false),
        (Surface::Admin, "") => (Route::Help, false),
        (Surface::Admin, "/config_dump") => (Route::Dump(None), false),
        (Surface::Admin, "/version") => (Route::Version, false),
        (Surface::Admin, "/logging") => {
            let level = query.get("level").map(str::to_owned);
            let sets = level.is_some();
            (Route::Logging(level), sets)
        }
        (Surface::Admin, "/quitquitquit") => (Route::Quit, true),
        (Surface::Admin, _) => match (path.strip_prefix("/config_dump/"), path.strip_prefix('/')) {
            (Some(part), _) => (Route::Dump(Some(part.to_owned())), false),
            (None, Some(name)) if queries.contains(&name) => (Route::Query(name.to_owned()), false),
            _ => return Err((StatusCode::NOT_FOUND, "no such page; GET / lists them")),
        },
        _ => return Err((StatusCode::NOT_FOUND, "no such page")),
    };
    match (only_post, method) {
        (true, &Method::POST) => Ok(route),
        (true, _) => Err((StatusCode::METHOD_NOT_ALLOWED, "this changes something: use POST")),
        (false, &Method::GET | &Method::HEAD) => Ok(route),
        // istioctl reads the level by POST without a parameter.
        (false, &Method::POST) if matches!(route, Route::Logging(None)) => Ok(route),
        (false, _) => Err((StatusCode::METHOD_NOT_ALLOWED, "use GET")),
    }
}

/// Whether a request to the admin server may come from a web page that a browser on this machine shows: such pages
/// reach loopback too, by a name that its owner points at 127.0.0.1, or with a form.
///
/// So the host must be an address or `localhost` (a page cannot make its own origin look like that), and a page that
/// says where it comes from (`Origin`) must have come from here.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let Some(host) = text(header::HOST) else { return true };
    let own_origin = |origin: &str| origin.strip_prefix("http://") == Some(host);
    !is_literal(host) || text(header::ORIGIN).is_some_and(|origin| !own_origin(origin))
}

/// Whether a proxy forwarded the request: then its sender is not on this machine. Proxies say so by these headers
/// (RFC 7239, RFC 9110 7.6.3).
pub(super) fn is_relayed(headers: &HeaderMap) -> bool {
    let relays = |name: &str| {
        matches!(name, "forwarded" | "via" | "x-real-ip")
            || ["x-forwarded-", "x-envoy-", "x-mesh-"].iter().any(|prefix| name.starts_with(prefix))
    };
    headers.keys().any(|name| relays(name.as_str()))
}

/// Whether only a client on this machine may ask for it: it ends the process, or changes its log.
pub(super) fn is_for_this_machine(route: &Route) -> bool {
    matches!(route, Route::Quit | Route::Logging(Some(_)))
}

fn is_literal(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("?", |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(surface: Surface, method: &Method, url: &str) -> Result<Route, u16> {
        let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
        route(surface, method, path, &Query::parse(query), &["explain"]).map_err(|(status, _)| status.as_u16())
    }

    #[test]
    fn every_page_is_where_it_belongs() {
        use Surface::{Admin, Ready, Stats};
        let dump = |part: &str| Ok(Route::Dump(Some(part.to_owned())));
        for (surface, url, expected) in [
            (Admin, "/", Ok(Route::Help)),
            (Admin, "/config_dump", Ok(Route::Dump(None))),
            (Admin, "/config_dump/workloads", dump("workloads")),
            (Admin, "/metrics", Ok(Route::Metrics)),
            (Admin, "/stats/prometheus", Ok(Route::Metrics)),
            (Admin, "/healthz/ready", Ok(Route::Ready)),
            (Admin, "/version", Ok(Route::Version)),
            (Admin, "/logging", Ok(Route::Logging(None))),
            (Admin, "/explain?src=a", Ok(Route::Query("explain".to_owned()))),
            (Admin, "/secrets", Err(404)),
            (Stats, "/metrics", Ok(Route::Metrics)),
            (Stats, "/stats/prometheus", Ok(Route::Metrics)),
            (Stats, "/healthz/ready", Ok(Route::Ready)),
            (Stats, "/config_dump", Err(404)),
            (Stats, "/", Err(404)),
            (Stats, "/explain", Err(404)),
            (Ready, "/healthz/ready", Ok(Route::Ready)),
            (Ready, "/metrics", Err(404)),
            (Ready, "/quitquitquit", Err(404)),
        ] {
            assert_eq!(found(surface, &Method::GET, url), expected, "{surface:?} {url}");
        }
    }

    #[test]
    fn what_changes_something_needs_post() {
        let admin = |method, url| found(Surface::Admin, &method, url);
        assert_eq!(admin(Method::GET, "/quitquitquit"), Err(405));
        assert_eq!(admin(Method::POST, "/quitquitquit"), Ok(Route::Quit));
        assert_eq!(admin(Method::GET, "/logging?level=debug"), Err(405));
        assert_eq!(admin(Method::POST, "/logging?level=debug"), Ok(Route::Logging(Some("debug".to_owned()))));
        assert_eq!(admin(Method::POST, "/logging"), Ok(Route::Logging(None)));
        assert_eq!(admin(Method::DELETE, "/config_dump"), Err(405));
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse(Some("src=default%2Fclient+1&dst=%5B::1%5D:80&empty&bad=%zz%4"));
        assert_eq!(query.get("src"), Some("default/client 1"));
        assert_eq!(query.get("dst"), Some("[::1]:80"));
        assert_eq!(query.get("empty"), Some(""));
        assert_eq!(query.get("bad"), Some("%zz%4"));
        assert_eq!(query.get("none"), None);
        assert_eq!(Query::parse(None), Query::default());
        for text in ["a b&c=d%", "default/client", "é"] {
            assert_eq!(Query::parse(Some(&format!("k={}", encode(text)))).get("k"), Some(text));
        }
    }

    #[test]
    fn what_a_proxy_passes_on_is_told_by_its_headers() {
        let with = |name: &'static str| -> HeaderMap {
            [(header::HeaderName::from_static(name), header::HeaderValue::from_static("x"))].into_iter().collect()
        };
        for name in ["x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-proto", "forwarded", "via"] {
            assert!(is_relayed(&with(name)), "{name}");
        }
        assert!(!is_relayed(&with("user-agent")));
        assert!(is_for_this_machine(&Route::Quit) && is_for_this_machine(&Route::Logging(Some("debug".to_owned()))));
        assert!(!is_for_this_machine(&Route::Logging(None)));
    }

    #[test]
    fn a_web_page_is_foreign() {
        let headers = |pairs: &[(header::HeaderName, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
        };
        let host = header::HOST;
        for fine in ["127.0.0.1:15000", "localhost:15000", "LOCALHOST", "[::1]:15000", "10.0.0.1"] {
            assert!(!is_foreign(&headers(&[(host.clone(), fine)])), "{fine}");
        }
        for rebound in
            ["evil.example:15000", "localhost.evil.example", "127.0.0.1.evil.example:80", "[::1", "", "[evil]:1"]
        {
            assert!(is_foreign(&headers(&[(host.clone(), rebound)])), "{rebound}");
        }
        assert!(is_foreign(&headers(&[])));
        let with = |origin| headers(&[(host.clone(), "localhost:15000"), (header::ORIGIN, origin)]);
        assert!(!is_foreign(&with("http://localhost:15000")));
        assert!(is_foreign(&with("http://evil.example")));
        assert!(is_foreign(&with("null")));
    }
}
