//! Pure. Header fields by which servers and frameworks let a caller replace the path, the method or the host of a
//! request: `X-Original-URL` (IIS, Symfony, Laminas), `X-HTTP-Method-Override` (Rack, Express, Spring), `_method`
//! (Symfony, Laravel), `X-Forwarded-Host` (Django, Rails) and similar ones.
//!
//! The mesh cannot know whether a backend honours them. So policies judge each value in addition to the original one: a
//! DENY refuses if any of the values matches, an ALLOW admits only if all of them match. Services without policies on
//! paths, methods or hosts are not affected.

use http::{HeaderMap, HeaderName};

use super::path::{self, Normalization, Readings};
use crate::model::rule::{Attribute, Rule};

/// Headers with another path, or a URL that has one.
const PATHS: [&str; 10] = [
    "x-forwarded-path",
    "x-forwarded-uri",
    "x-forwarded-url",
    "x-http-destinationurl",
    "x-original-path",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-rewrite-uri",
    "x-rewrite-url",
];

/// Headers with a prefix that a proxy removed from the path.
const PREFIXES: [&str; 3] = ["x-forwarded-context", "x-forwarded-prefix", "x-script-name"];

/// Headers with another method.
const METHODS: [&str; 6] = [
    "x-forwarded-method",
    "x-http-method",
    "x-http-method-override",
    "x-method",
    "x-method-override",
    "x-original-method",
];

/// The parameter of the query with another method.
pub const METHOD_PARAM: &str = "_method";

/// Headers with another host, besides `Forwarded`.
const HOSTS: [&str; 4] = ["x-forwarded-host", "x-host", "x-http-host-override", "x-original-host"];
const FORWARDED: &str = "forwarded";

/// Which of the attributes that headers can override the policies of a service judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overridable {
    /// Whether a rule tests `paths`.
    pub path: bool,
    /// Whether a rule tests `methods`.
    pub method: bool,
    /// Whether a rule tests `hosts`.
    pub host: bool,
}

impl Overridable {
    /// The overridable attributes that these rules test.
    pub fn by<'a>(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let mut judged = Self::default();
        for test in rules.flat_map(Rule::tests) {
            judged.path |= matches!(test.attribute, Attribute::Path(_));
            judged.method |= matches!(test.attribute, Attribute::Method(_));
            judged.host |= matches!(test.attribute, Attribute::Host(_));
        }
        judged
    }

    /// The headers that have to be read.
    pub fn fields(self) -> impl Iterator<Item = HeaderName> {
        let paths = PATHS.iter().chain(&PREFIXES).filter(move |_| self.path);
        let methods = METHODS.iter().filter(move |_| self.method);
        let hosts = HOSTS.iter().chain([&FORWARDED]).filter(move |_| self.host);
        paths.chain(methods).chain(hosts).map(|name| HeaderName::from_static(name))
    }

    fn is_any(self) -> bool {
        self.path || self.method || self.host
    }
}

/// The other values that the headers of a request give. `None` stands for a value that is not text: it may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Paths, in normal form.
    pub paths: Vec<Option<String>>,
    /// Methods.
    pub methods: Vec<Option<String>>,
    /// Hosts.
    pub hosts: Vec<Option<String>>,
}

impl Overrides {
    /// Reads the overrides of the attributes that are judged. `path` is the path in normal form, `methods` are the
    /// values of [`METHOD_PARAM`] in the query.
    pub fn read<'a>(
        judged: Overridable,
        path: &str,
        headers: &HeaderMap,
        methods: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut all = Self::default();
        if !judged.is_any() {
            return all;
        }
        for (name, value) in headers {
            let name = name.as_str();
            // All of these headers begin so, and few others do.
            if !name.starts_with("x-") && name != FORWARDED {
                continue;
            }
            let value = std::str::from_utf8(value.as_bytes()).ok().map(str::trim);
            if value.is_some_and(str::is_empty) {
                continue;
            }
            if judged.path && PATHS.contains(&name) {
                all.add_paths(value);
            } else if judged.path && PREFIXES.contains(&name) {
                all.add_prefixed(value, path);
            } else if judged.method && METHODS.contains(&name) {
                all.methods.extend(members(value));
            } else if judged.host && HOSTS.contains(&name) {
                all.hosts.extend(members(value));
            } else if judged.host && name == FORWARDED {
                all.hosts.extend(hosts_of(value));
            }
        }
        if judged.method {
            all.methods.extend(methods.filter(|value| !value.is_empty()).map(|value| Some(value.to_owned())));
        }
        all
    }

    fn add_paths(&mut self, value: Option<&str>) {
        let Some(value) = value else { return self.paths.push(None) };
        self.paths.push(path_of(value));
        // A list, if that is what it is: a path may have commas of its own.
        let members = || value.split(',').map(str::trim);
        if value.contains(',') && members().all(|part| part.starts_with('/') || part.contains("://")) {
            self.paths.extend(members().map(path_of));
        }
    }

    fn add_prefixed(&mut self, value: Option<&str>, path: &str) {
        let Some(value) = value else { return self.paths.push(None) };
        let parts: Vec<&str> = value.split(',').map(|part| part.trim().trim_end_matches('/')).collect();
        let whole = parts.concat();
        for prefix in parts.iter().copied().chain([whole.as_str()]).filter(|prefix| !prefix.is_empty()) {
            self.paths.push(path_of(&format!("{prefix}{path}")));
            if path == "/" {
                self.paths.push(path_of(prefix));
            }
        }
    }
}

/// The members of a comma-separated list; `None` for a value that is not text.
fn members(value: Option<&str>) -> Vec<Option<String>> {
    let Some(value) = value else { return vec![None] };
    let members = value.split(',').map(str::trim).filter(|member| !member.is_empty());
    members.map(|member| Some(member.to_owned())).collect()
}

/// The hosts that `Forwarded` names (RFC 7239, 5.3).
fn hosts_of(value: Option<&str>) -> Vec<Option<String>> {
    let Some(value) = value else { return vec![None] };
    let pairs = value.split([',', ';']).filter_map(|pair| pair.split_once('='));
    let hosts = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("host"));
    hosts.map(|(_, host)| Some(host.trim().trim_matches('"').to_owned())).collect()
}

/// The path of a value in normal form. The value is a path, or a URL with one; query and fragment are dropped.
fn path_of(value: &str) -> Option<String> {
    let after_host = |rest: &str| rest.find(['/', '?', '#']).map_or(String::new(), |at| rest[at..].to_owned());
    let target = match value.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => after_host(rest),
        _ => value.to_owned(),
    };
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let target = &target[..end];
    let absolute = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    let normal = path::normalize(absolute.as_bytes(), Normalization::Base).ok()?.into_owned();
    let is_clear = Readings::of(&normal).check().is_ok();
    is_clear.then_some(normal)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ALL: Overridable = Overridable { path: true, method: true, host: true };

    fn read(lines: &[(&'static str, &[u8])], path: &str, methods: &[&str]) -> Overrides {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        Overrides::read(ALL, path, &headers, methods.iter().copied())
    }

    fn texts(values: &[Option<String>]) -> Vec<&str> {
        values.iter().map(|value| value.as_deref().unwrap_or("?")).collect()
    }

    #[test]
    fn another_path_is_read_in_every_form() {
        for (value, paths) in [
            (&b"/admin"[..], &["/admin"][..]),
            (b" /admin ", &["/admin"]),
            (b"admin", &["/admin"]),
            (b"/admin?x=1#y", &["/admin"]),
            (b"http://shop/admin?x", &["/admin"]),
            (b"https://shop", &["/"]),
            (b"/public/../admin", &["/admin"]),
            (b"/%61dmin", &["/admin"]),
            (b"/public, /admin", &["?", "/public", "/admin"]),
            (b"/a,b", &["/a,b"]),
            (b"/public/..;/admin", &["?"]),
            (b"/x%00", &["?"]),
            (b"/ad\xffmin", &["?"]),
            (b"", &[]),
        ] {
            for name in ["x-original-url", "x-rewrite-url", "x-forwarded-path"] {
                assert_eq!(texts(&read(&[(name, value)], "/public", &[]).paths), paths, "{name}: {value:?}");
            }
        }
    }

    #[test]
    fn a_prefix_stands_before_the_path() {
        for (value, path, paths) in [
            (&b"/admin"[..], "/x", &["/admin/x", "/admin/x"][..]),
            (b"/admin/", "/", &["/admin/", "/admin", "/admin/", "/admin"]),
            (b"/a, /b", "/x", &["/a/x", "/b/x", "/a/b/x"]),
            (b"/", "/x", &[]),
            (b"\xff", "/x", &["?"]),
        ] {
            assert_eq!(texts(&read(&[("x-forwarded-prefix", value)], path, &[]).paths), paths, "{value:?}");
        }
    }

    #[test]
    fn another_method_is_read_from_headers_and_query() {
        let read = read(
            &[("x-http-method-override", b"DELETE"), ("x-http-method", b"put, PATCH"), ("x-method-override", b"\xff")],
            "/",
            &["HEAD", ""],
        );
        assert_eq!(texts(&read.methods), ["DELETE", "put", "PATCH", "?", "HEAD"]);
        assert!(read.paths.is_empty() && read.hosts.is_empty());
    }

    #[test]
    fn another_host_is_read_wherever_hops_put_it() {
        let read = read(
            &[
                ("x-forwarded-host", b"admin.example, shop"),
                ("x-host", b"a"),
                ("forwarded", b"for=1.1.1.1;Host=\"b:80\", for=x;host=c"),
            ],
            "/",
            &[],
        );
        assert_eq!(texts(&read.hosts), ["admin.example", "shop", "a", "b:80", "c"]);
    }

    #[test]
    fn what_no_policy_judges_is_not_read() {
        let mut headers = HeaderMap::new();
        headers.insert("x-original-url", HeaderValue::from_static("/admin"));
        headers.insert("x-http-method", HeaderValue::from_static("PUT"));
        let read = |judged| Overrides::read(judged, "/", &headers, ["PUT"].into_iter());
        assert_eq!(read(Overridable::default()), Overrides::default());
        let by_method = Overridable { method: true, ..Overridable::default() };
        assert_eq!((read(by_method).methods.len(), read(by_method).paths.len()), (2, 0));
        assert!(by_method.fields().all(|name| METHODS.contains(&name.as_str())));
        assert_eq!(ALL.fields().count(), PATHS.len() + PREFIXES.len() + METHODS.len() + HOSTS.len() + 1);
    }
}
