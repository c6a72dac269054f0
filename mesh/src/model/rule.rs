//! Pure. The rules of authorization policies: what is asked of a connection and of a request. What they mean is in
//! `policy`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use ipnet::IpNet;
use serde::Serialize;

use super::name::{Name, Namespace, ServiceAccount};

/// One rule: any of `from`, any of `to` and all of `when`. Without any of them it matches everything (`rules: [{}]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
pub struct Rule {
    /// Alternatives for the source; none means any source.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub from: Box<[Alternative]>,
    /// Alternatives for the operation; none means any operation.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub to: Box<[Alternative]>,
    /// Further conditions.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub when: Box<[Test]>,
}

/// One `source` or one `operation`: all of its tests must hold. One without tests matches nothing.
pub type Alternative = Box<[Test]>;

impl Rule {
    /// A rule that asks for one source.
    pub fn of_source(tests: impl Into<Alternative>) -> Self {
        Self { from: [tests.into()].into(), ..Self::default() }
    }

    /// Every test of the rule.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }
}

/// One attribute of a connection or request, compared with values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// What is looked at, and the values.
    pub attribute: Attribute,
    /// `not…`: it holds when no value matches, else when any does.
    pub negated: bool,
}

impl Test {
    /// Holds when a value matches.
    pub fn is(attribute: Attribute) -> Self {
        Self { attribute, negated: false }
    }

    /// Holds when no value matches.
    pub fn is_not(attribute: Attribute) -> Self {
        Self { attribute, negated: true }
    }
}

/// As `{"principals": ["td/ns/a/*"]}`, or `notPrincipals`.
impl Serialize for Test {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map([(self.name(false), self.attribute.values())])
    }
}

/// What a test looks at, with the values that it compares it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The peer's identity without `spiffe://`.
    Principal(Box<[StringMatch]>),
    /// Namespace of the peer's identity.
    Namespace(Box<[StringMatch]>),
    /// Service account of the peer's identity.
    ServiceAccount(Box<[ServiceAccountMatch]>),
    /// Trust domain of the peer's identity.
    TrustDomain(Box<[StringMatch]>),
    /// Address of the peer.
    SourceIp(Box<[IpNet]>),
    /// Address of the client, wherever its requests came through.
    RemoteIp(Box<[IpNet]>),
    /// Address that was called.
    DestinationIp(Box<[IpNet]>),
    /// Port that was called: at agents that of the workload, at waypoints that of the service.
    DestinationPort(Box<[u16]>),
    /// The server name of the application's own TLS: nobody here looks at it.
    ServerName(Box<[StringMatch]>),
    /// `issuer/subject` of a valid token.
    RequestPrincipal(Box<[StringMatch]>),
    /// `aud` of a valid token.
    Audience(Box<[StringMatch]>),
    /// `azp` of a valid token.
    Presenter(Box<[StringMatch]>),
    /// A claim of a valid token, by path.
    Claim(Box<[Box<str>]>, Box<[StringMatch]>),
    /// A header.
    Header(HeaderName, Box<[StringMatch]>),
    /// The host, without regard to case.
    Host(Box<[StringMatch]>),
    /// The method.
    Method(Box<[StringMatch]>),
    /// The path.
    Path(PathMatches),
}

/// The paths of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathMatches {
    /// In normal form, as a path is sent.
    pub sent: Box<[PathMatch]>,
    /// What they mean in other readings of a path than the one that is sent.
    pub loose: Box<[PathMatch]>,
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// As a text.
    Text(StringMatch),
    /// Segment by segment.
    Template(Box<[Segment]>),
}

/// One segment of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Text(Box<str>),
    /// `{*}`: exactly one segment, not empty.
    One,
    /// `{**}`: any number of segments, also none.
    Any,
}

/// A service account by exact names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountMatch {
    /// Namespace of the service account.
    pub namespace: Namespace,
    /// Name of the service account.
    pub service_account: ServiceAccount,
}

/// How a text is compared: `abc`, `abc*`, `*abc`, `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// Equal.
    Exact(Name),
    /// Starts with.
    Prefix(Name),
    /// Ends with.
    Suffix(Name),
    /// There is a value at all, and it is not empty.
    Presence,
}

impl Test {
    /// Its name in the object: of a `source` or `operation` as `notPrincipals`, of a condition as `source.principal`
    /// with the list of values that is meant, unless it is `values`.
    pub fn name(&self, is_condition: bool) -> String {
        match (self.attribute.field().filter(|_| !is_condition), self.negated) {
            (Some(field), false) => field.to_owned(),
            (Some(field), true) => {
                let (first, rest) = field.split_at(1);
                format!("not{}{rest}", first.to_ascii_uppercase())
            }
            (None, false) => self.attribute.key().into_owned(),
            (None, true) => format!("{} notValues", self.attribute.key()),
        }
    }
}

impl Attribute {
    /// The field of a `source` or `operation` that asks for it, if there is one.
    pub fn field(&self) -> Option<&'static str> {
        Some(match self {
            Self::Principal(_) => "principals",
            Self::Namespace(_) => "namespaces",
            Self::ServiceAccount(_) => "serviceAccounts",
            Self::TrustDomain(_) => "trustDomains",
            Self::SourceIp(_) => "ipBlocks",
            Self::RemoteIp(_) => "remoteIpBlocks",
            Self::DestinationPort(_) => "ports",
            Self::RequestPrincipal(_) => "requestPrincipals",
            Self::Host(_) => "hosts",
            Self::Method(_) => "methods",
            Self::Path(_) => "paths",
            Self::DestinationIp(_)
            | Self::ServerName(_)
            | Self::Audience(_)
            | Self::Presenter(_)
            | Self::Claim(..)
            | Self::Header(..) => return None,
        })
    }

    /// The key of a condition (`when`) that asks for it.
    pub fn key(&self) -> Cow<'static, str> {
        match self {
            Self::Principal(_) => "source.principal".into(),
            Self::Namespace(_) => "source.namespace".into(),
            Self::ServiceAccount(_) => "source.serviceAccount".into(),
            Self::TrustDomain(_) => "source.trustDomain".into(),
            Self::SourceIp(_) => "source.ip".into(),
            Self::RemoteIp(_) => "remote.ip".into(),
            Self::DestinationIp(_) => "destination.ip".into(),
            Self::DestinationPort(_) => "destination.port".into(),
            Self::ServerName(_) => "connection.sni".into(),
            Self::RequestPrincipal(_) => "request.auth.principal".into(),
            Self::Audience(_) => "request.auth.audiences".into(),
            Self::Presenter(_) => "request.auth.presenter".into(),
            Self::Claim(path, _) => format!("request.auth.claims[{}]", path.join("][")).into(),
            Self::Header(name, _) => format!("request.headers[{name}]").into(),
            Self::Host(_) => "request.headers[:authority]".into(),
            Self::Method(_) => "request.headers[:method]".into(),
            Self::Path(_) => "request.headers[:path]".into(),
        }
    }

    /// The values, as the object writes them.
    pub fn values(&self) -> Vec<String> {
        fn texts<T: ToString>(values: &[T]) -> Vec<String> {
            values.iter().map(ToString::to_string).collect()
        }
        match self {
            Self::Principal(values)
            | Self::Namespace(values)
            | Self::TrustDomain(values)
            | Self::ServerName(values)
            | Self::RequestPrincipal(values)
            | Self::Audience(values)
            | Self::Presenter(values)
            | Self::Claim(_, values)
            | Self::Header(_, values)
            | Self::Host(values)
            | Self::Method(values) => texts(values),
            Self::ServiceAccount(values) => texts(values),
            Self::SourceIp(values) | Self::RemoteIp(values) | Self::DestinationIp(values) => texts(values),
            Self::DestinationPort(values) => texts(values),
            Self::Path(paths) => texts(&paths.sent),
        }
    }

    /// Whether only an HTTP request says it.
    pub fn is_of_http(&self) -> bool {
        match self {
            Self::RequestPrincipal(_)
            | Self::Audience(_)
            | Self::Presenter(_)
            | Self::Claim(..)
            | Self::Header(..)
            | Self::Host(_)
            | Self::Method(_)
            | Self::Path(_) => true,
            Self::Principal(_)
            | Self::Namespace(_)
            | Self::ServiceAccount(_)
            | Self::TrustDomain(_)
            | Self::SourceIp(_)
            | Self::RemoteIp(_)
            | Self::DestinationIp(_)
            | Self::DestinationPort(_)
            | Self::ServerName(_) => false,
        }
    }

    /// Whether it takes more to know than the connection between two workloads and their identities: L4 cannot judge
    /// it.
    pub fn is_beyond_l4(&self) -> bool {
        self.is_of_http() || matches!(self, Self::RemoteIp(_) | Self::ServerName(_))
    }
}

impl StringMatch {
    /// Whether `value` matches.
    pub fn matches(&self, value: &str) -> bool {
        self.matches_joined(&[value])
    }

    /// Whether the text that the parts make up matches.
    pub fn matches_joined(&self, parts: &[&str]) -> bool {
        match self {
            Self::Exact(text) => {
                let rest = parts.iter().try_fold(text.as_str(), |rest, part| rest.strip_prefix(part));
                rest.is_some_and(str::is_empty)
            }
            Self::Prefix(text) => {
                let mut rest = text.as_str();
                for part in parts {
                    match rest.strip_prefix(part) {
                        Some(left) => rest = left,
                        None => return part.starts_with(rest),
                    }
                }
                rest.is_empty()
            }
            Self::Suffix(text) => {
                let mut rest = text.as_str();
                for part in parts.iter().rev() {
                    match rest.strip_suffix(part) {
                        Some(left) => rest = left,
                        None => return part.ends_with(rest),
                    }
                }
                rest.is_empty()
            }
            Self::Presence => parts.iter().any(|part| !part.is_empty()),
        }
    }

    /// Whether `value` matches without regard to the case of ASCII letters.
    pub fn matches_ignoring_case(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value.eq_ignore_ascii_case(text),
            Self::Prefix(text) => value.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text)),
            Self::Suffix(text) => {
                let end = value.len().checked_sub(text.len()).and_then(|at| value.get(at..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(text))
            }
            Self::Presence => !value.is_empty(),
        }
    }
}

/// Reads the notation of authorization policies: a leading or a trailing `*`, not both, `*` alone for presence.
impl FromStr for StringMatch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pattern = match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
            ("", ..) => return Err("an empty text matches nothing".to_owned()),
            ("*", ..) => return Ok(Self::Presence),
            (_, Some(prefix), _) => Self::Prefix(prefix.into()),
            (_, _, Some(suffix)) => Self::Suffix(suffix.into()),
            _ => Self::Exact(text.into()),
        };
        match &pattern {
            Self::Prefix(rest) | Self::Suffix(rest) | Self::Exact(rest) if rest.contains('*') => {
                Err(format!("{text:?}: one * is allowed, at the beginning or at the end"))
            }
            _ => Ok(pattern),
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Presence => f.write_str("*"),
        }
    }
}

impl fmt::Display for ServiceAccountMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text.fmt(f),
            Self::Template(segments) => segments.iter().try_for_each(|segment| match segment {
                Segment::Text(text) => write!(f, "/{text}"),
                Segment::One => f.write_str("/{*}"),
                Segment::Any => f.write_str("/{**}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pattern: &str) -> StringMatch {
        pattern.parse().unwrap()
    }

    #[test]
    fn texts_are_compared_as_policies_write_them() {
        for (pattern, value, matches) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("abc*", "abcd", true),
            ("abc*", "ab", false),
            ("*abc", "xabc", true),
            ("*abc", "bc", false),
            ("*", "x", true),
            ("*", "", false),
        ] {
            assert_eq!(text(pattern).matches(value), matches, "{pattern} {value}");
            assert_eq!(text(pattern).to_string(), pattern);
        }
        assert!(text("*.Example.com").matches_ignoring_case("a.example.COM"));
        assert!(!text("*.example.com").matches_ignoring_case("example.com"));
        assert!(text("shop*").matches_ignoring_case("SHOP:80"));
    }

    #[test]
    fn a_text_in_parts_is_compared_as_the_whole() {
        let parts = ["td", "/ns/", "shop", "", "/sa/", "web"];
        let whole = parts.concat();
        for start in 0..=whole.len() {
            for end in start..=whole.len() {
                for pattern in [
                    whole[start..end].to_owned(),
                    format!("{}*", &whole[start..end]),
                    format!("*{}", &whole[start..end]),
                ] {
                    let Ok(pattern) = pattern.parse::<StringMatch>() else { continue };
                    let expected = match &pattern {
                        StringMatch::Exact(text) => whole == text.as_str(),
                        StringMatch::Prefix(text) => whole.starts_with(text.as_str()),
                        StringMatch::Suffix(text) => whole.ends_with(text.as_str()),
                        StringMatch::Presence => true,
                    };
                    assert_eq!(pattern.matches_joined(&parts), expected, "{pattern}");
                }
            }
        }
        for longer in ["td/ns/shop/sa/web2", "td/ns/shop/sa/web2*", "*xtd/ns/shop/sa/web", "*td/ns/bank/sa/web"] {
            assert!(!text(longer).matches_joined(&parts), "{longer}");
        }
        assert!(!StringMatch::Presence.matches_joined(&["", ""]));
    }

    #[test]
    fn texts_that_match_nothing_or_not_what_is_intended_are_errors() {
        for text in ["", "a*b", "*a*", "**", "a**"] {
            assert!(text.parse::<StringMatch>().is_err(), "{text}");
        }
    }

    #[test]
    fn tests_have_the_names_of_the_object() {
        let values = || Box::from([text("x")]);
        for (test, field, condition) in [
            (Test::is(Attribute::Principal(values())), "principals", "source.principal"),
            (Test::is_not(Attribute::Principal(values())), "notPrincipals", "source.principal notValues"),
            (Test::is(Attribute::Audience(values())), "request.auth.audiences", "request.auth.audiences"),
            (
                Test::is_not(Attribute::Claim(["a".into(), "b".into()].into(), values())),
                "request.auth.claims[a][b] notValues",
                "request.auth.claims[a][b] notValues",
            ),
        ] {
            assert_eq!((&*test.name(false), &*test.name(true)), (field, condition));
        }
    }
}
