//! Pure. Why a policy matches or does not: the answer of every rule and of each of its fields, with what was found.
//! Made on demand, for `explain` and the debug log; authorization itself records no trace.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName};

use super::answer::Answer;
use super::matcher;
use super::subject::{Http, Subject, Token};
use crate::model::policy::Authorization;
use crate::model::rule::{Attribute, Test};

/// Characters of a found value that are shown, at most.
const SHOWN: usize = 128;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTrace {
    /// Its place among the rules of the policy.
    pub index: usize,
    /// Whether it matches.
    pub answer: Answer,
    /// Its fields, in the order of the object.
    pub fields: Vec<FieldTrace>,
}

/// One field of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTrace {
    /// Its name: `from[0].principals`, `to[1].notPaths`, `when request.headers[x]`.
    pub field: String,
    /// Its values, as the object writes them.
    pub values: Vec<String>,
    /// What was found of the connection or request.
    pub found: String,
    /// Whether it holds.
    pub answer: Answer,
}

/// Every rule of a policy.
pub fn trace(policy: &Authorization, subject: &Subject<'_>) -> Vec<RuleTrace> {
    let rules = policy.rules.iter().enumerate().map(|(index, rule)| {
        let mut fields = Vec::new();
        for (name, alternatives) in [("from", &rule.from), ("to", &rule.to)] {
            for (index, tests) in alternatives.iter().enumerate() {
                let place = |test: &Test| format!("{name}[{index}].{}", test.name(false));
                fields.extend(tests.iter().map(|test| field(place(test), test, subject)));
            }
        }
        fields.extend(rule.when.iter().map(|test| field(format!("when {}", test.name(true)), test, subject)));
        RuleTrace { index, answer: matcher::rule(policy.action, rule, subject), fields }
    });
    rules.collect()
}

fn field(field: String, test: &Test, subject: &Subject<'_>) -> FieldTrace {
    let found = found(&test.attribute, subject);
    FieldTrace {
        field,
        values: test.attribute.values(),
        found: found.into_owned(),
        answer: matcher::test(test, subject),
    }
}

/// What the subject has of an attribute, fit to be shown.
fn found(attribute: &Attribute, subject: &Subject<'_>) -> Cow<'static, str> {
    let address =
        |address: Option<IpAddr>| address.map_or(UNKNOWN, |address| address.to_canonical().to_string().into());
    let of_identity = |text: Option<String>| text.map_or("no identity".into(), |text| quoted(&text));
    let identity = subject.identity;
    match attribute {
        Attribute::Principal(_) => of_identity(identity.map(|id| id.principal())),
        Attribute::Namespace(_) => of_identity(identity.map(|id| id.namespace.to_string())),
        Attribute::TrustDomain(_) => of_identity(identity.map(|id| id.trust_domain.to_string())),
        Attribute::ServiceAccount(_) => {
            of_identity(identity.map(|id| format!("{}/{}", id.namespace, id.service_account)))
        }
        Attribute::SourceIp(_) => address(subject.source),
        Attribute::RemoteIp(_) => address(subject.remote),
        Attribute::DestinationIp(_) => address(subject.destination),
        Attribute::DestinationPort(_) => subject.port.to_string().into(),
        Attribute::ServerName(_) => UNKNOWN,
        attribute => subject.http.map_or("no request".into(), |http| found_in_request(attribute, &http)),
    }
}

const UNKNOWN: Cow<'static, str> = Cow::Borrowed("unknown");

fn found_in_request(attribute: &Attribute, http: &Http<'_>) -> Cow<'static, str> {
    let of_token = |read: &dyn Fn(&dyn Token) -> Vec<String>| match http.token.map(read) {
        None => "no token".into(),
        Some(values) if values.is_empty() => "nothing".into(),
        Some(values) => quoted(&values.join(",")),
    };
    match attribute {
        Attribute::RequestPrincipal(_) => of_token(&|token| vec![token.principal().to_owned()]),
        Attribute::Audience(_) => of_token(&|token| token.audiences().to_vec()),
        Attribute::Presenter(_) => of_token(&|token| token.claim(&["azp".into()])),
        Attribute::Claim(path, _) => of_token(&|token| token.claim(path)),
        Attribute::Header(name, _) => header(http.headers, name),
        Attribute::Host(_) => quoted(http.host),
        Attribute::Method(_) => quoted(http.method.as_str()),
        Attribute::Path(_) => path(http),
        _ => UNKNOWN,
    }
}

fn path(http: &Http<'_>) -> Cow<'static, str> {
    let read = http.path.loose.iter().map(|read| format!(", also read as {}", quoted(read)));
    format!("{}{}", quoted(http.path.sent), read.collect::<String>()).into()
}

/// The lines of a header; of one that lets its holder in, only that it is there.
fn header(headers: &HeaderMap, name: &HeaderName) -> Cow<'static, str> {
    let lines = headers.get_all(name).iter().map(|line| quoted(&String::from_utf8_lossy(line.as_bytes())));
    let lines: Vec<_> = lines.collect();
    match lines.len() {
        0 => "nothing".into(),
        _ if [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name) => "something that is not shown".into(),
        _ => lines.join(" and ").into(),
    }
}

/// A value that somebody else chose, in one line of bounded length.
fn quoted(text: &str) -> Cow<'static, str> {
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}").into(),
        Some((end, _)) => format!("{:?}…", &text[..end]).into(),
    }
}

impl fmt::Display for RuleTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} ({}): ", self.index, self.answer)?;
        if self.fields.is_empty() {
            return f.write_str("asks for nothing");
        }
        for (index, field) in self.fields.iter().enumerate() {
            write!(f, "{}{field}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for FieldTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] of {}: {}", self.field, self.values.join(", "), self.found, self.answer)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;
    use crate::model::identity::Identity;
    use crate::model::policy::{Action, PolicyKey, Scope};
    use crate::model::rule::Rule;
    use crate::policy::overrides::Overrides;
    use crate::policy::path::Readings;
    use crate::policy::pattern;

    fn values<const N: usize>(texts: [&str; N]) -> Box<[crate::model::rule::StringMatch]> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn told(action: Action, rule: Rule, subject: &Subject<'_>) -> String {
        let key = PolicyKey { namespace: "default".into(), name: "p".into() };
        let policy = Authorization { key, scope: Scope::Targets, action, rules: [rule].into(), dry_run: false };
        trace(&policy, subject)[0].to_string()
    }

    #[test]
    fn each_field_is_told_with_what_was_found() {
        let client = Identity::new("td", "shop", "web");
        let subject = Subject {
            identity: Some(&client),
            source: Some("10.0.0.7".parse().unwrap()),
            remote: None,
            destination: None,
            port: 80,
            http: None,
        };
        let from = [
            Test::is_not(Attribute::Principal(values(["td/ns/bank/*"]))),
            Test::is(Attribute::SourceIp(["10.1.0.0/16".parse().unwrap()].into())),
        ];
        let rule = Rule {
            to: [[Test::is(Attribute::Method(values(["GET", "HEAD"])))].into()].into(),
            when: [Test::is_not(Attribute::DestinationPort([80].into()))].into(),
            ..Rule::of_source(from)
        };
        assert_eq!(
            told(Action::Allow, rule, &subject),
            "rule 0 (no): from[0].notPrincipals [td/ns/bank/*] of \"td/ns/shop/sa/web\": yes; from[0].ipBlocks \
             [10.1.0.0/16] of 10.0.0.7: no; to[0].methods [GET, HEAD] of no request: cannot be judged here; when \
             destination.port notValues [80] of 80: no"
        );
        assert_eq!(told(Action::Deny, Rule::default(), &subject), "rule 0 (yes): asks for nothing");
    }

    #[test]
    fn what_somebody_sent_is_one_short_line_and_no_secret() {
        let mut headers = HeaderMap::new();
        headers.append("x-role", HeaderValue::from_bytes("a\u{e9}\tb".as_bytes()).unwrap());
        headers.append("x-role", "x".repeat(500).parse().unwrap());
        headers.append("authorization", "Bearer secret".parse().unwrap());
        let (long, path) = ("h".repeat(500), Readings::of("/a;x/b"));
        let (method, overrides) = (&Method::GET, Overrides::default());
        let http = Http { method, host: &long, path: &path, headers: &headers, overrides: &overrides, token: None };
        let subject =
            Subject { identity: None, source: None, remote: None, destination: None, port: 80, http: Some(http) };
        let of = |attribute| found(&attribute, &subject).into_owned();
        let header = |name: &str| of(Attribute::Header(name.parse().unwrap(), values(["*"])));
        assert_eq!(header("x-none"), "nothing");
        assert_eq!(header("x-role"), format!("\"aé\\tb\" and \"{}\"…", "x".repeat(SHOWN)));
        assert_eq!(header("authorization"), "something that is not shown");
        assert_eq!(of(Attribute::Host(values(["x"]))), format!("\"{}\"…", "h".repeat(SHOWN)));
        assert_eq!(of(Attribute::Path(pattern::parse("/a").unwrap())), "\"/a;x/b\", also read as \"/a/b\"");
        assert_eq!(of(Attribute::RequestPrincipal(values(["*"]))), "no token");
        assert_eq!(of(Attribute::Namespace(values(["*"]))), "no identity");
        assert_eq!(of(Attribute::SourceIp(Box::default())), "unknown");
    }
}
