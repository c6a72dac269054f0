//! Pure. The syntax of names in Kubernetes and SPIFFE: an invalid name never becomes part of an identity, a header, a
//! label or a log line.
//!
//! Kubernetes, "Object Names and IDs" and "Labels and Selectors"; SPIFFE ID, sections 2.1 and 2.3.

use std::fmt;

/// The required form of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RFC 1123 label: a namespace, a Service.
    Label,
    /// RFC 1123 subdomain: the names of most objects.
    Subdomain,
    /// The value of a label; may be empty.
    LabelValue,
    /// The key of a label: a name with an optional prefix and slash.
    LabelKey,
    /// A host name in upper or lower case, optionally with a `*.` prefix.
    Host,
    /// A SPIFFE trust domain.
    TrustDomain,
    /// The name of a cluster or network: like the value of a label, but not empty.
    Plain,
}

impl Form {
    /// Whether a text has the form.
    pub fn admits(self, text: &str) -> bool {
        match self {
            Self::Label => is_label(text),
            Self::Subdomain => is_subdomain(text),
            Self::LabelValue => text.is_empty() || is_word(text),
            Self::LabelKey => match text.split_once('/') {
                Some((prefix, name)) => is_subdomain(prefix) && is_word(name),
                None => is_word(text),
            },
            Self::Host => is_host(text),
            Self::TrustDomain => {
                let part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
                !text.is_empty() && text.len() <= 255 && text.bytes().all(part)
            }
            Self::Plain => is_word(text),
        }
    }

    /// Checks the form; the error is a message for a flag or a field.
    pub fn check(self, text: &str) -> Result<(), String> {
        if self.admits(text) { Ok(()) } else { Err(format!("{text:?} must be {self}")) }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Label => {
                "an RFC 1123 label: at most 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
            }
            Self::Subdomain => {
                "an RFC 1123 subdomain: at most 253 of a-z, 0-9, - and ., each part beginning and ending with a letter \
                 or digit"
            }
            Self::LabelValue => {
                "the value of a label: empty, or at most 63 letters, digits, -, _ and ., beginning and ending with a \
                 letter or digit"
            }
            Self::LabelKey => {
                "the key of a label: at most 63 letters, digits, -, _ and ., perhaps after a DNS prefix and a slash"
            }
            Self::Host => "a host name, perhaps with *. before it",
            Self::TrustDomain => "a SPIFFE trust domain: at most 255 of a-z, 0-9, ., - and _",
            Self::Plain => "at most 63 letters, digits, -, _ and ., beginning and ending with a letter or digit",
        })
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 63 && text.bytes().all(inner) && has_plain_ends(text)
}

fn is_subdomain(text: &str) -> bool {
    // Kubernetes' own check does not limit the parts of a subdomain to 63 bytes.
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 253 && text.split('.').all(|part| part.bytes().all(inner) && has_plain_ends(part))
}

fn is_word(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.len() <= 63 && text.bytes().all(inner) && has_plain_ends(text)
}

fn is_host(text: &str) -> bool {
    let host = text.strip_prefix("*.").unwrap_or(text);
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253 && host.split('.').all(|part| part.len() <= 63 && is_word(part) && !part.contains('.'))
}

/// Whether a text is not empty and begins and ends with a letter or digit.
fn has_plain_ends(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    plain(bytes.first()) && plain(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_kubernetes_admits() {
        let long = "a".repeat(63);
        let (longer, dotted) = ("a".repeat(64), format!("{}.a", "a".repeat(251)));
        let too_long = format!("{dotted}a");
        for (form, good, bad) in [
            (
                Form::Label,
                vec!["a", "shop-1", "0", &long],
                vec!["", "-a", "a-", "A", "a.b", "a_b", "a/b", "ä", &longer],
            ),
            (
                Form::Subdomain,
                vec!["a", "a.b-c.0", &longer, &dotted],
                vec!["", ".", "a.", ".a", "a..b", "a.-b", "x;URI=root,By=y", "a b", "a\nb", "a%2fb", "A", &too_long],
            ),
            (Form::LabelValue, vec!["", "a", "A_b.c-1", &long], vec!["-a", "a.", "a b", "a/b", "a\u{2028}", &longer]),
            (Form::LabelKey, vec!["app", "a.b/c_D", "app.kubernetes.io/name"], vec!["", "/a", "a/", "a/b/c", "A/b c"]),
            (
                Form::Host,
                vec!["a", "Example.COM", "*.example.com", "a.b.", "a_b.c"],
                vec!["", "*", "*.", "*a.b", "a.*.b", "a..b", "a b", "a:80", "a/b", "[::1]", "-a.b"],
            ),
            (
                Form::TrustDomain,
                vec!["cluster.local", "a_b", "prod-1.example"],
                vec!["", "Cluster.local", "a/b", "a:8080", "a b", "a;b", "user@a"],
            ),
            (Form::Plain, vec!["Kubernetes", "net_1"], vec!["", "a/b", "a//b", "a,b"]),
        ] {
            for text in good {
                assert!(form.admits(text), "{form:?} {text:?}");
            }
            for text in bad {
                assert!(!form.admits(text), "{form:?} {text:?}");
                assert!(form.check(text).unwrap_err().contains("must be"), "{text:?}");
            }
        }
    }
}
