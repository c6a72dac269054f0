//! Pure. The identity in a certificate: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! SPIFFE ID, section 2; the path layout is Istio's. There is no escaping: an identity with a part that Kubernetes or
//! SPIFFE would not admit is rejected, so that no part can smuggle in another field or name.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::name::{Namespace, ServiceAccount, TrustDomain};
use super::syntax::Form;

/// The identity of a workload, in the one SPIFFE URI SAN of its certificate.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The trust domain, whose root has signed the certificate.
    pub trust_domain: TrustDomain,
    /// The Kubernetes namespace of the service account.
    pub namespace: Namespace,
    /// The Kubernetes service account.
    pub service_account: ServiceAccount,
}

/// Why a text is not an identity.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseIdentityError {
    /// The text does not start with `spiffe://`.
    #[error("{0:?} is not a SPIFFE ID: it does not start with spiffe://")]
    Scheme(String),
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error("{0:?} does not have the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Path(String),
    /// A part is not a valid name in Kubernetes or SPIFFE.
    #[error("{part} {text:?} must be {form}")]
    Part {
        /// The name of the part.
        part: &'static str,
        /// Its text.
        text: String,
        /// The required form.
        form: Form,
    },
}

impl Identity {
    /// An identity from its parts.
    pub fn new(
        trust_domain: impl Into<TrustDomain>,
        namespace: impl Into<Namespace>,
        service_account: impl Into<ServiceAccount>,
    ) -> Self {
        Self { trust_domain: trust_domain.into(), namespace: namespace.into(), service_account: service_account.into() }
    }

    /// Checks that each part is valid. Parsed identities always are; this is for those built from other sources.
    pub fn check(&self) -> Result<(), ParseIdentityError> {
        for (part, text, form) in [
            ("trust domain", self.trust_domain.as_str(), Form::TrustDomain),
            ("namespace", self.namespace.as_str(), Form::Label),
            ("service account", self.service_account.as_str(), Form::Subdomain),
        ] {
            if !form.admits(text) {
                return Err(ParseIdentityError::Part { part, text: text.to_owned(), form });
            }
        }
        Ok(())
    }

    /// The identity without `spiffe://`, as authorization policies write principals.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| ParseIdentityError::Scheme(text.to_owned()))?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts[..] {
            [td, "ns", ns, "sa", sa] if ![td, ns, sa].iter().any(|part| part.is_empty()) => {
                let identity = Self::new(td, ns, sa);
                identity.check().map(|()| identity)
            }
            _ => Err(ParseIdentityError::Path(text.to_owned())),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_prints_as_it_parses() {
        let text = "spiffe://cluster.local/ns/default/sa/shop";
        let identity: Identity = text.parse().unwrap();
        assert_eq!(identity, Identity::new("cluster.local", "default", "shop"));
        assert_eq!(identity.to_string(), text);
        assert_eq!(identity.principal(), "cluster.local/ns/default/sa/shop");
    }

    #[test]
    fn anything_else_is_not_an_identity() {
        for text in [
            "",
            "https://cluster.local/ns/default/sa/shop",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/default",
            "spiffe://cluster.local/ns/default/sa/shop/extra",
            "spiffe://cluster.local/ns/default/sa/shop/",
            "spiffe:///ns/default/sa/shop",
            "spiffe://cluster.local/ns//sa/shop",
            "spiffe://cluster.local/sa/default/ns/shop",
            "spiffe://cluster.local/ns/default/sa/x;URI=root,By=y",
            "spiffe://cluster.local/ns/default/sa/x%2Fy",
            "spiffe://cluster.local/ns/default/sa/Shop",
            "spiffe://cluster.local/ns/default/sa/shop?x",
            "spiffe://cluster.local/ns/default/sa/shop#x",
            "spiffe://cluster.local/ns/a.b/sa/shop",
            "spiffe://cluster.local/ns/../sa/shop",
            "spiffe://cluster.local/ns/default/sa/..",
            "spiffe://root@cluster.local/ns/default/sa/shop",
            "spiffe://cluster.local:8080/ns/default/sa/shop",
            "spiffe://Cluster.local/ns/default/sa/shop",
            "spiffe://cluster.local/ns/default/sa/shop\n",
            "spiffe://cluster.local/ns/default/sa/shöp",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
