//! Pure. CORS: which origins may read a response (`cors`; the Fetch standard, 3.3).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

/// Cross-origin answers of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    /// `scheme://host[:port]`, with `*` as first label or alone.
    pub origins: Box<[Box<str>]>,
    /// Whether cookies and the like may be sent.
    pub credentials: bool,
    /// Methods, or `*`; as one header value.
    pub methods: Option<HeaderValue>,
    /// Request headers, or `*`; as one header value.
    pub headers: Option<HeaderValue>,
    /// Response headers that scripts may read.
    pub expose: Option<HeaderValue>,
    /// Seconds for which a preflight's answer holds.
    pub max_age: u32,
}

impl Cors {
    /// The headers of the answer to a preflight request; `None` when the request is none.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<HeaderMap> {
        let asked = request.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = request.get(ORIGIN)?;
        if method != Method::OPTIONS {
            return None;
        }
        let mut answer = HeaderMap::new();
        if !self.allow(origin, &mut answer) {
            return Some(answer);
        }
        if let Some(methods) = &self.methods {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, self.or_asked(methods, Some(asked)));
        }
        if let Some(headers) = &self.headers {
            let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, self.or_asked(headers, asked));
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age));
        Some(answer)
    }

    /// Adds what a script needs to read the response to a request of this origin. The backend's own such headers go:
    /// two answers to one question are none.
    pub fn decorate(&self, origin: &HeaderValue, response: &mut HeaderMap) {
        response.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        response.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        self.allow(origin, response);
    }

    fn allow(&self, origin: &HeaderValue, answer: &mut HeaderMap) -> bool {
        let any = self.origins.iter().any(|known| &**known == "*");
        let known = origin.to_str().is_ok_and(|origin| self.origins.iter().any(|known| matches(known, origin)));
        if !any && !known {
            return false;
        }
        // With credentials the standard forbids `*`: the origin itself must be named.
        let value = if any && !self.credentials { HeaderValue::from_static("*") } else { origin.clone() };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        // On preflights it says nothing to a browser, but the Gateway API's conformance tests ask for it there too.
        if let Some(expose) = &self.expose {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
        answer.append(VARY, HeaderValue::from_static("origin"));
        true
    }

    fn or_asked(&self, configured: &HeaderValue, asked: Option<&HeaderValue>) -> HeaderValue {
        match asked {
            Some(asked) if self.credentials && configured == "*" => asked.clone(),
            _ => configured.clone(),
        }
    }
}

/// Whether `origin` fits `known`: equal without regard to case, or with one or more labels for `*`.
fn matches(known: &str, origin: &str) -> bool {
    match known.split_once("://*") {
        Some((scheme, suffix)) => origin.split_once("://").is_some_and(|(own, host)| {
            own.eq_ignore_ascii_case(scheme)
                && host.len() > suffix.len()
                && host.get(host.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }),
        None => known.eq_ignore_ascii_case(origin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        Cors {
            origins: origins.iter().map(|origin| (*origin).into()).collect(),
            credentials,
            methods: Some(HeaderValue::from_static("*")),
            headers: Some(HeaderValue::from_static("x-one, x-two")),
            expose: None,
            max_age: 5,
        }
    }

    fn asked(origin: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_static(origin));
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
        headers
    }

    #[test]
    fn only_known_origins_are_allowed() {
        let cors = cors(&["https://a.example", "https://*.b.example"], false);
        for (origin, allowed) in [
            ("https://a.example", true),
            ("http://a.example", false),
            ("https://x.b.example", true),
            ("https://x.y.b.example", true),
            ("https://b.example", false),
            ("https://evil-b.example", false),
            ("null", false),
        ] {
            let answer = cors.preflight(&Method::OPTIONS, &asked(origin)).unwrap();
            assert_eq!(answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), allowed, "{origin}");
        }
    }

    #[test]
    fn with_credentials_wildcards_are_answered_by_name() {
        let answer = cors(&["*"], true).preflight(&Method::OPTIONS, &asked("https://a.example")).unwrap();
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_METHODS], "PUT");
        let answer = cors(&["*"], false).preflight(&Method::OPTIONS, &asked("https://a.example")).unwrap();
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_METHODS], "*");
    }

    #[test]
    fn other_requests_are_no_preflights() {
        assert_eq!(cors(&["*"], false).preflight(&Method::GET, &asked("https://a.example")), None);
        assert_eq!(cors(&["*"], false).preflight(&Method::OPTIONS, &HeaderMap::new()), None);
    }
}
