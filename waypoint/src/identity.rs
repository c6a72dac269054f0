//! Pure. The headers by which the mesh tells backends who the caller is. Nobody else can set them: not the caller, not
//! a filter of a route, not a name that a backend folds into the same one.
//!
//! Servers that hand headers over as variables (CGI, RFC 3875, 4.1.18; WSGI, Rack, PHP) make `-`, `_` and often every
//! other sign the same. So `x_forwarded_client_cert` counts as `x-forwarded-client-cert`, and goes.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use mesh::model::identity::Identity;
use smallvec::SmallVec;

/// The header by which a hop says that it has retried and given up: the one of ours that callers are to see.
pub const RETRIED: &str = "x-mesh-retried";

const FORWARDED_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Names that only the mesh sets. What begins with `x-envoy-` steers proxies (retries, time-outs, where a request
/// goes).
const NAMES: [&str; 1] = ["x-forwarded-client-cert"];
const FAMILIES: [&str; 4] = ["x-mesh-", "x-culvert-", "x-envoy-", "l5d-"];
/// What hops add to, under names of which there must be no second form.
const FORWARDING: [&str; 2] = ["x-forwarded-", "x-real-ip"];

/// What backends are told of one client, made once for its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    certificate: HeaderValue,
    address: HeaderValue,
    element: HeaderValue,
}

impl Told {
    /// What `own` tells of a client at `address`.
    pub fn new(own: &Identity, client: &Identity, address: IpAddr) -> Self {
        let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"));
        let address = address.to_canonical();
        let node = if address.is_ipv6() { format!("\"[{address}]\"") } else { address.to_string() };
        Self {
            certificate: value(format!("By={};URI={}", quoted(&own.to_string()), quoted(&client.to_string()))),
            address: value(address.to_string()),
            element: value(format!("for={node};proto=http")),
        }
    }
}

/// A value of `x-forwarded-client-cert`: in quotes when it has what ends a value there (Envoy's rule).
fn quoted(value: &str) -> Cow<'_, str> {
    if !value.contains([',', ';', '=', '"', '\\', ' ']) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Headers of one service that mean something to the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Filled from tokens (RequestAuthentication), and from nothing else.
    pub told: Vec<HeaderName>,
    /// Looked at by policies, or carrying tokens.
    pub judged: Vec<HeaderName>,
}

/// Takes away what a caller may not say, before anybody looks: headers that are filled from tokens, and second forms of
/// what policies look at and of what only the mesh says.
pub fn enter(headers: &mut HeaderMap, reserved: &Reserved) {
    remove(headers, |name| {
        let like = |known: &HeaderName| is_like(known.as_str(), name.as_str());
        if reserved.told.iter().any(like) {
            return true;
        }
        let is_judged = reserved.judged.contains(name);
        let forwards = |folded: &str| FORWARDING.iter().any(|family| folded.starts_with(family));
        !is_judged
            && (reserved.judged.iter().any(like)
                || folded(name).is_some_and(|folded| is_of_mesh(&folded) || forwards(&folded)))
    });
}

/// Whether two names are one to those who fold signs.
fn is_like(one: &str, other: &str) -> bool {
    let is_sign = |byte: u8| !byte.is_ascii_alphanumeric();
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(a, b)| a == b || is_sign(a) && is_sign(b))
}

/// Whether a token may fill a header of this name: not one by which the message is read or forwarded, nor one of the
/// mesh.
pub fn may_be_told(name: &HeaderName) -> bool {
    const NEVER: [&str; 13] = [
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    let folded = folded(name).unwrap_or_else(|| name.as_str().to_owned());
    let forwards = FORWARDING.iter().any(|family| folded.starts_with(family));
    !NEVER.contains(&&*folded) && !forwards && !is_of_mesh(&folded)
}

/// Whether no route may write a header of this name: by it a message is read or delivered, or the mesh says who calls.
/// In whichever form it is written.
pub fn is_reserved(name: &HeaderName) -> bool {
    const NEVER: [&str; 11] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let folded = folded(name);
    let name = folded.as_deref().unwrap_or(name.as_str());
    NEVER.contains(&name) || is_of_mesh(name)
}

/// Makes the headers that say who calls what the mesh says of it: to be called once, when nothing changes them any
/// more.
///
/// `x-forwarded-client-cert` and what is filled from tokens are the mesh's alone. To `x-forwarded-for`, and to
/// `forwarded` if there is one, it adds the client's address as the last element: what stands before is a claim of the
/// caller. `x-forwarded-proto` stays if it is `http` or `https`. Others of the family stay as claims of the caller.
pub fn settle(headers: &mut HeaderMap, told: &Told, reserved: &Reserved, claims: &[(HeaderName, HeaderValue)]) {
    enter(headers, reserved);
    remove(headers, |name| is_of_mesh(name.as_str()));
    for (name, value) in claims {
        headers.insert(name, value.clone());
    }
    headers.insert(FORWARDED_CERT, told.certificate.clone());
    append(headers, FORWARDED_FOR, &told.address);
    if headers.contains_key(FORWARDED) {
        append(headers, FORWARDED, &told.element);
    }
    let mut protos = headers.get_all(FORWARDED_PROTO).iter();
    let is_known = |proto: &HeaderValue| matches!(proto.as_bytes(), b"http" | b"https");
    if !(protos.next().is_some_and(is_known) && protos.next().is_none()) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
}

/// Takes away what is the mesh's own from a backend's answer, headers or trailers, but that it was retried.
pub fn settle_answer(headers: &mut HeaderMap) {
    remove(headers, |name| {
        let is_own = |name: &str| is_of_mesh(name) && name != RETRIED;
        is_own(name.as_str()) || folded(name).is_some_and(|folded| is_own(&folded))
    });
}

fn is_of_mesh(name: &str) -> bool {
    NAMES.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// The name with every sign as `-`; `None` when it is that already.
fn folded(name: &HeaderName) -> Option<String> {
    let is_sign = |byte: u8| !byte.is_ascii_alphanumeric() && byte != b'-';
    let name = name.as_str();
    if !name.bytes().any(is_sign) {
        return None;
    }
    Some(name.chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '-' }).collect())
}

fn remove(headers: &mut HeaderMap, is_wrong: impl Fn(&HeaderName) -> bool) {
    let wrong: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| is_wrong(name)).cloned().collect();
    for name in wrong {
        headers.remove(name);
    }
}

/// Adds an element to a list, and makes it one line.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue) {
    if !headers.contains_key(&name) {
        headers.insert(name, element.clone());
        return;
    }
    let mut list: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    list.retain(|line| !line.trim_ascii().is_empty());
    list.push(element.as_bytes());
    let joined = HeaderValue::from_bytes(&list.join(&b", "[..])).unwrap_or_else(|_| element.clone());
    headers.insert(name, joined);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn told() -> Told {
        let own = Identity::new("td", "default", "wp");
        Told::new(&own, &Identity::new("td", "default", "client"), "10.0.0.1".parse().unwrap())
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    const ALWAYS: [&str; 3] = ["x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-proto"];

    #[test]
    fn the_mesh_alone_says_who_the_client_is() {
        let mut headers = headers(&[
            ("x-forwarded-client-cert", "By=x;URI=spiffe://evil"),
            ("x-forwarded-client-cert", "URI=spiffe://evil"),
            ("x_forwarded_client_cert", "URI=spiffe://evil"),
            ("x-forwarded.client~cert", "URI=spiffe://evil"),
            ("x-mesh-source", "spiffe://evil"),
            ("x_mesh-source", "spiffe://evil"),
            ("x-culvert-source", "spiffe://evil"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-original-dst-host", "10.0.0.9:80"),
            ("x_envoy_internal", "true"),
            ("l5d-client-id", "evil"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x_real_ip", "1.2.3.4"),
        ]);
        settle(&mut headers, &told(), &Reserved::default(), &[]);
        assert_eq!(names(&headers), ALWAYS);
        assert_eq!(headers[FORWARDED_CERT], "By=spiffe://td/ns/default/sa/wp;URI=spiffe://td/ns/default/sa/client");
    }

    #[test]
    fn a_name_cannot_forge_an_element() {
        let client = Identity::new("td", "default", "x;URI=root,By=\"y\"\\");
        let told = Told::new(&Identity::new("td", "a b", "wp"), &client, "fd00::1".parse().unwrap());
        assert_eq!(
            told.certificate,
            r#"By="spiffe://td/ns/a b/sa/wp";URI="spiffe://td/ns/default/sa/x;URI=root,By=\"y\"\\""#
        );
        assert_eq!(told.element, r#"for="[fd00::1]";proto=http"#);
        let breaking = Told::new(&client, &Identity::new("td", "default", "a\r\nb"), "10.0.0.1".parse().unwrap());
        assert_eq!(breaking.certificate, "unknown");
    }

    #[test]
    fn what_others_forwarded_is_kept_before_what_the_mesh_saw() {
        for (lines, name, settled) in [
            (&[][..], "x-forwarded-for", "10.0.0.1"),
            (
                &[("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", "3.3.3.3")],
                "x-forwarded-for",
                "1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.1",
            ),
            (&[("x-forwarded-for", "")], "x-forwarded-for", "10.0.0.1"),
            (&[("forwarded", "for=1.1.1.1")], "forwarded", "for=1.1.1.1, for=10.0.0.1;proto=http"),
            (&[], "x-forwarded-proto", "http"),
            (&[("x-forwarded-proto", "https")], "x-forwarded-proto", "https"),
            (&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")], "x-forwarded-proto", "http"),
            (&[("x-forwarded-proto", "gopher")], "x-forwarded-proto", "http"),
            (&[("x-forwarded-host", "shop.example")], "x-forwarded-host", "shop.example"),
        ] {
            let mut headers = headers(lines);
            settle(&mut headers, &told(), &Reserved::default(), &[]);
            assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), [settled], "{lines:?}");
        }
        let mut without = headers(&[]);
        settle(&mut without, &told(), &Reserved::default(), &[]);
        assert!(!without.contains_key(FORWARDED));
    }

    #[test]
    fn claims_come_from_tokens_alone() {
        let reserved = Reserved {
            told: vec![HeaderName::from_static("x-subject"), HeaderName::from_static("x_role")],
            judged: vec![],
        };
        let claims = [(HeaderName::from_static("x-subject"), HeaderValue::from_static("ann"))];
        let mut headers = headers(&[
            ("x-subject", "root"),
            ("x-subject", "root"),
            ("x_subject", "root"),
            ("x-role", "admin"),
            ("x", "1"),
        ]);
        settle(&mut headers, &told(), &reserved, &claims);
        assert_eq!(headers.get_all("x-subject").iter().collect::<Vec<_>>(), ["ann"]);
        assert_eq!(names(&headers), ["x", ALWAYS[0], ALWAYS[1], ALWAYS[2], "x-subject"]);
    }

    #[test]
    fn a_second_form_of_what_is_judged_goes_unless_it_is_judged_itself() {
        let judged = vec![
            HeaderName::from_static("x-evil"),
            HeaderName::from_static("own_form"),
            HeaderName::from_static("own-form"),
        ];
        let reserved = Reserved { told: vec![], judged };
        let mut headers =
            headers(&[("x_evil", "1"), ("x.evil", "1"), ("x-evil", "1"), ("own_form", "1"), ("some_other", "1")]);
        enter(&mut headers, &reserved);
        assert_eq!(names(&headers), ["own_form", "some_other", "x-evil"]);
    }

    #[test]
    fn tokens_fill_no_header_that_a_message_is_read_by() {
        for name in
            ["host", "content-length", "transfer-encoding", "connection", "x-forwarded-for", "x-mesh-a", "x_mesh_a"]
        {
            assert!(!may_be_told(&HeaderName::from_static(name)), "{name}");
        }
        assert!(
            may_be_told(&HeaderName::from_static("x-subject")) && may_be_told(&HeaderName::from_static("x_subject"))
        );
    }

    #[test]
    fn answers_tell_nothing_that_is_the_mesh_s_own() {
        let mut headers = headers(&[
            ("x-mesh-retried", "1"),
            ("x-mesh-source", "x"),
            ("x-culvert-error", "rbac"),
            ("x_culvert_error", "rbac"),
            ("x-envoy-immediate-health-check-fail", "1"),
            ("x-forwarded-client-cert", "x"),
            ("l5d-server-id", "x"),
            ("server", "app"),
        ]);
        settle_answer(&mut headers);
        assert_eq!(names(&headers), ["server", "x-mesh-retried"]);
    }
}
