//! Pure. Redirect responses (`requestRedirect`).

use std::sync::Arc;

use mesh::policy::readings::without_port;

use super::rewrite::PathChange;
use crate::matcher::PathMatch;

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; the request's own without.
    pub scheme: Option<Arc<str>>,
    /// The host; the request's own without.
    pub hostname: Option<Arc<str>>,
    /// The path; unchanged without.
    pub path: Option<PathChange>,
    /// The port; see [`Redirect::location`] without.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// The request that is redirected.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `Host` or `:authority`, with its port if any.
    pub host: &'a str,
    /// The port of the service.
    pub port: u16,
    /// Path without query.
    pub path: &'a str,
    /// Query without `?`, if any.
    pub query: Option<&'a str>,
}

impl Redirect {
    /// The value of `Location`. Without a port: the scheme's own when the redirect names a scheme, else the service's;
    /// never written when it is the scheme's own (`HTTPRequestRedirectFilter.port`).
    pub fn location(&self, asked: &Asked<'_>, matched: &PathMatch) -> String {
        let scheme = self.scheme.as_deref().unwrap_or("http");
        let own = if scheme == "https" { 443 } else { 80 };
        let port = self.port.unwrap_or(if self.scheme.is_some() { own } else { asked.port });
        let host = self.hostname.as_deref().unwrap_or_else(|| without_port(asked.host));
        let path = match &self.path {
            Some(change) => change.apply(asked.path, matched),
            None => asked.path.to_owned(),
        };
        let port = if port == own { String::new() } else { format!(":{port}") };
        let query = asked.query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> = Asked { host: "shop:8080", port: 8080, path: "/a/b", query: Some("q=1") };

    fn redirect() -> Redirect {
        Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 }
    }

    #[test]
    fn what_is_not_said_stays_as_asked() {
        let everything = PathMatch::prefix("/");
        let location = |redirect: Redirect| redirect.location(&ASKED, &everything);
        assert_eq!(location(redirect()), "http://shop:8080/a/b?q=1");
        let https = Some("https".into());
        assert_eq!(location(Redirect { scheme: https.clone(), ..redirect() }), "https://shop/a/b?q=1");
        assert_eq!(location(Redirect { scheme: https, port: Some(8443), ..redirect() }), "https://shop:8443/a/b?q=1");
        assert_eq!(location(Redirect { port: Some(80), ..redirect() }), "http://shop/a/b?q=1");
        assert_eq!(
            location(Redirect { hostname: Some("new.example".into()), ..redirect() }),
            "http://new.example:8080/a/b?q=1"
        );
        let path = Some(PathChange::prefix("/z"));
        let asked = Asked { query: None, port: 80, ..ASKED };
        assert_eq!(Redirect { path, ..redirect() }.location(&asked, &PathMatch::prefix("/a")), "http://shop/z/b");
    }
}
