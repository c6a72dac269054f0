//! Pure. Policies and their rules, and whether a rule matches a request: yes, no, or it depends on what cannot be known
//! here.
//!
//! What cannot be known never widens access: an ALLOW admits what surely matches, a DENY refuses what may match. It cannot
//! be known of a connection that is not HTTP what its request would be, nor of a request which of several readings its
//! backend takes (`readings`).

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use mesh::policy::matcher::{self, Answer};

use super::pattern::Pattern;
use super::readings;
use super::request::{Http, Request};

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
    /// Of paths: what the values mean in other readings than the one that is sent.
    pub loose: Box<[Pattern]>,
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
    /// The first rule that matches: surely for an ALLOW, possibly for others; its index.
    pub fn matches(&self, request: &Request<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| match rule.answer(request) {
            Answer::Yes => true,
            Answer::Depends => self.action != Action::Allow,
            Answer::No => false,
        })
    }

    /// The headers that its rules look at.
    pub fn headers(&self) -> Vec<&HeaderName> {
        let mut names = Vec::new();
        for rule in &self.rules {
            let alternatives = rule.from.iter().chain(rule.to.iter()).flat_map(|tests| tests.iter());
            for test in alternatives.chain(rule.when.iter()) {
                if let Attribute::Header(name) = &test.attribute {
                    names.push(name);
                }
            }
        }
        names
    }

    /// Why it matches or does not: for each rule the answer of each of its fields, in the words of the object.
    pub fn trace(&self, request: &Request<'_>) -> String {
        let rules = self.rules.iter().enumerate().map(|(index, rule)| {
            let fields = rule
                .fields()
                .into_iter()
                .map(|(place, test)| format!("{place}{}: {}", test.field(), test.answer(request)));
            format!("rule {index} ({}): {}", rule.answer(request), fields.collect::<Vec<_>>().join(", "))
        });
        rules.collect::<Vec<_>>().join("; ")
    }
}

impl Rule {
    /// Its tests, each with its place in the object.
    fn fields(&self) -> Vec<(String, &Test)> {
        let mut fields = Vec::new();
        for (name, alternatives) in [("from", &self.from), ("to", &self.to)] {
            for (index, tests) in alternatives.iter().enumerate() {
                fields.extend(tests.iter().map(|test| (format!("{name}[{index}]."), test)));
            }
        }
        fields.extend(self.when.iter().map(|test| ("when ".to_owned(), test)));
        fields
    }

    fn answer(&self, request: &Request<'_>) -> Answer {
        let all = |tests: &[Test]| matcher::all(tests.iter().map(|test| test.answer(request)));
        let any = |alternatives: &[Box<[Test]>]| match alternatives {
            [] => Answer::Yes,
            some => matcher::any(some.iter().map(|tests| all(tests))),
        };
        matcher::all([any(&self.from), any(&self.to), all(&self.when)].into_iter())
    }
}

impl Test {
    /// The field, as the object names it.
    fn field(&self) -> String {
        let name: Cow<'static, str> = match &self.attribute {
            Attribute::Principal => "principals".into(),
            Attribute::Namespace => "namespaces".into(),
            Attribute::ServiceAccount => "serviceAccounts".into(),
            Attribute::TrustDomain => "trustDomains".into(),
            Attribute::SourceIp => "ipBlocks".into(),
            Attribute::DestinationIp => "destination.ip".into(),
            Attribute::DestinationPort => "ports".into(),
            Attribute::RequestPrincipal => "requestPrincipals".into(),
            Attribute::Audience => "request.auth.audiences".into(),
            Attribute::Presenter => "request.auth.presenter".into(),
            Attribute::Claim(path) => format!("request.auth.claims[{}]", path.join("][")).into(),
            Attribute::Header(name) => format!("request.headers[{name}]").into(),
            Attribute::Host => "hosts".into(),
            Attribute::Method => "methods".into(),
            Attribute::Path => "paths".into(),
            Attribute::ServerName => "connection.sni".into(),
        };
        if self.negated { format!("not {name}") } else { name.into_owned() }
    }

    fn answer(&self, request: &Request<'_>) -> Answer {
        let answer = self.compare(request);
        if self.negated { matcher::not(answer) } else { answer }
    }

    fn compare(&self, request: &Request<'_>) -> Answer {
        let any = |fits: &dyn Fn(&Pattern) -> bool| Answer::from(self.values.iter().any(fits));
        let text = |value: Option<&str>| any(&|pattern| value.is_some_and(|value| pattern.fits(value)));
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
            Attribute::ServerName => Answer::Depends,
            attribute => request.http.map_or(Answer::Depends, |http| self.compare_http(attribute, &http, request)),
        }
    }

    fn compare_http(&self, attribute: &Attribute, http: &Http<'_>, request: &Request<'_>) -> Answer {
        let any = |value: &str| self.values.iter().any(|pattern| pattern.fits(value));
        let texts = |values: &[String]| Answer::from(values.iter().any(|value| any(value)));
        let claim = |path: &[Box<str>]| request.claims.map(|claims| claims.values(path)).unwrap_or_default();
        match attribute {
            Attribute::RequestPrincipal => request.claims.is_some_and(|claims| any(&claims.principal)).into(),
            Attribute::Audience => texts(request.claims.map_or(&[], |claims| &claims.audiences)),
            Attribute::Presenter => texts(&claim(&["azp".into()])),
            Attribute::Claim(path) => texts(&claim(path)),
            Attribute::Header(name) => readings::header(http.headers, name, &self.values),
            Attribute::Method => readings::method(http.method, &self.values),
            Attribute::Host => readings::host(http.host, &self.values),
            Attribute::Path => readings::path(http.path, &self.values, &self.loose),
            // Looked at without HTTP.
            _ => Answer::No,
        }
    }
}
