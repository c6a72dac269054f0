//! Pure. Policies and their rules, and whether a rule matches a request.
//!
//! What cannot be known never widens access: a rule that looks at HTTP does not allow a connection that is not HTTP, and
//! when such a rule denies, its HTTP part counts as matched. Paths are judged in two forms, as sent and as a lenient
//! backend could read them: to allow, both must fit; to deny, one is enough.

use std::sync::Arc;

use http::HeaderName;

use super::pattern::Pattern;
use super::request::{Http, Request};
use crate::filter::redirect::without_port;
use crate::matcher::with_value;

/// What a match of a policy means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Admit.
    Allow,
    /// Refuse.
    Deny,
    /// Log.
    Audit,
}

/// One policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// What a match means.
    pub action: Action,
    /// Annotation `istio.io/dry-run`: judged and logged, not enforced.
    pub dry_run: bool,
    /// Any of them.
    pub rules: Box<[Rule]>,
}

/// One rule: any of `from`, any of `to` and all of `when`. Each alternative is a list of tests that must all hold.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Alternatives for the source; none means any source.
    pub from: Box<[Box<[Test]>]>,
    /// Alternatives for the operation; none means any operation.
    pub to: Box<[Box<[Test]>]>,
    /// Further conditions.
    pub when: Box<[Test]>,
}

/// One attribute against values.
#[derive(Clone, Debug)]
pub struct Test {
    /// What is looked at.
    pub attribute: Attribute,
    /// It holds when any fits, or when none fits if negated.
    pub values: Box<[Pattern]>,
    /// `not…`.
    pub negated: bool,
}

/// What a test looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The identity without `spiffe://`.
    Principal,
    /// Its namespace.
    Namespace,
    /// Its service account as `namespace/name`.
    ServiceAccount,
    /// Its trust domain.
    TrustDomain,
    /// The client's address.
    SourceIp,
    /// The address that was called.
    DestinationIp,
    /// The port that was called.
    DestinationPort,
    /// `issuer/subject` of a valid token.
    RequestPrincipal,
    /// `aud` of a valid token.
    Audience,
    /// `azp` of a valid token.
    Presenter,
    /// A claim of a valid token, by path.
    Claim(Arc<[Box<str>]>),
    /// A header.
    Header(HeaderName),
    /// The host.
    Host,
    /// The method.
    Method,
    /// The path.
    Path,
    /// The server name of the application's own TLS: never known here.
    ServerName,
}

impl Policy {
    /// Whether any rule matches; its index.
    pub fn matches(&self, request: &Request<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches(request, self.action))
    }
}

impl Rule {
    fn matches(&self, request: &Request<'_>, action: Action) -> bool {
        let all = |tests: &[Test]| tests.iter().all(|test| test.holds(request, action));
        let any = |alternatives: &[Box<[Test]>]| alternatives.is_empty() || alternatives.iter().any(|tests| all(tests));
        any(&self.from) && any(&self.to) && all(&self.when)
    }
}

/// How the values of a test compare with a request.
enum Comparison {
    /// Whether any value fits.
    Known(bool),
    /// Whether any value fits the path as sent, and as a lenient backend reads it.
    Path(bool, bool),
    /// The connection has no such attribute because it is not HTTP.
    NotHttp,
}

impl Test {
    fn holds(&self, request: &Request<'_>, action: Action) -> bool {
        let widens = action == Action::Allow;
        match (self.compare(request), self.negated) {
            (Comparison::Known(fits), negated) => fits != negated,
            (Comparison::Path(sent, read), false) => {
                if widens {
                    sent && read
                } else {
                    sent || read
                }
            }
            (Comparison::Path(sent, read), true) => {
                if widens {
                    !sent && !read
                } else {
                    !sent || !read
                }
            }
            (Comparison::NotHttp, _) => !widens,
        }
    }

    fn compare(&self, request: &Request<'_>) -> Comparison {
        let any = |fits: &dyn Fn(&Pattern) -> bool| Comparison::Known(self.values.iter().any(fits));
        let text = |value: Option<&str>| any(&|pattern| value.is_some_and(|value| pattern.fits(value)));
        let texts = |values: &[String]| any(&|pattern| values.iter().any(|value| pattern.fits(value)));
        let claims = request.claims;
        match &self.attribute {
            Attribute::Principal => text(request.source.map(|source| source.principal()).as_deref()),
            Attribute::Namespace => text(request.source.map(|source| source.namespace.as_str())),
            Attribute::TrustDomain => text(request.source.map(|source| source.trust_domain.as_str())),
            Attribute::ServiceAccount => {
                let account = request.source.map(|source| format!("{}/{}", source.namespace, source.service_account));
                text(account.as_deref())
            }
            Attribute::SourceIp => any(&|pattern| pattern.fits_ip(request.source_ip)),
            Attribute::DestinationIp => any(&|pattern| pattern.fits_ip(request.destination.ip())),
            Attribute::DestinationPort => any(&|pattern| pattern.fits_port(request.destination.port())),
            Attribute::ServerName => text(None),
            _ => match &request.http {
                None => Comparison::NotHttp,
                Some(http) => match &self.attribute {
                    Attribute::RequestPrincipal => text(claims.map(|claims| claims.principal.as_str())),
                    Attribute::Audience => texts(claims.map_or(&[], |claims| &claims.audiences)),
                    Attribute::Presenter => {
                        texts(&claims.map(|claims| claims.values(&["azp".into()])).unwrap_or_default())
                    }
                    Attribute::Claim(path) => texts(&claims.map(|claims| claims.values(path)).unwrap_or_default()),
                    attribute => self.compare_http(attribute, http),
                },
            },
        }
    }

    fn compare_http(&self, attribute: &Attribute, http: &Http<'_>) -> Comparison {
        let any = |value: &str| self.values.iter().any(|pattern| pattern.fits(value));
        match attribute {
            Attribute::Header(name) => Comparison::Known(with_value(http.headers, name, any)),
            Attribute::Method => Comparison::Known(any(http.method.as_str())),
            // A host without a port in the rule stands for every port.
            Attribute::Host => Comparison::Known(any(http.host) || any(without_port(http.host))),
            Attribute::Path => Comparison::Path(any(http.path), any(http.canonical)),
            _ => Comparison::Known(false),
        }
    }
}
