//! Pure. Newtypes over shared strings, so that a namespace cannot be passed for a hostname.
//!
//! Every name is an `Arc<str>`: cloning is a reference count, and [`Interner`] makes equal names share one allocation.

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::from("")
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<Arc<str>> for $name {
            fn from(text: Arc<str>) -> Self {
                Self(text)
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Ok(Self(Arc::from(<std::borrow::Cow<'de, str>>::deserialize(d)?.as_ref())))
            }
        }
    };
}

name_type!(
    /// A Kubernetes namespace.
    Namespace
);
name_type!(
    /// A Kubernetes service account, within a namespace.
    ServiceAccount
);
name_type!(
    /// The trust domain of an identity, `cluster.local` unless configured.
    TrustDomain
);
name_type!(
    /// A fully qualified host name of a service, such as `shop.default.svc.cluster.local`.
    Hostname
);
name_type!(
    /// A network: addresses are only unique within one. Empty is the default network.
    Network
);
name_type!(
    /// A node of the cluster, by `metadata.name`.
    NodeName
);
name_type!(
    /// A cluster of a mesh, `Kubernetes` unless configured.
    ClusterId
);
name_type!(
    /// The unique key of a workload, such as `Kubernetes//Pod/default/shop-1`.
    WorkloadUid
);
name_type!(
    /// Any other short text shared by many objects: an object's name, an app label, a version, a zone.
    Name
);

/// Makes equal names share one allocation. A converter owns one.
#[derive(Default)]
pub struct Interner {
    known: HashSet<Arc<str>>,
    /// The number of names from which on unused ones are collected.
    enough: usize,
}

impl Interner {
    /// The shared copy of `text`, as whichever name type the caller needs.
    pub fn intern<T: From<Arc<str>>>(&mut self, text: &str) -> T {
        if let Some(known) = self.known.get(text) {
            return T::from(Arc::clone(known));
        }
        let fresh: Arc<str> = Arc::from(text);
        self.known.insert(Arc::clone(&fresh));
        T::from(fresh)
    }

    /// Drops unused names once there are twice as many names as after the last collection. For an interner that
    /// outlives one conversion.
    pub fn forget_unused(&mut self) {
        if self.known.len() >= self.enough {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.enough = self.known.len() * 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_have_one_allocation() {
        let mut interner = Interner::default();
        let a: Namespace = interner.intern("default");
        let b: Name = interner.intern("default");
        assert!(std::ptr::eq(a.as_str(), b.as_str()));
    }

    #[test]
    fn names_that_nobody_holds_are_forgotten() {
        let mut interner = Interner::default();
        let kept: Namespace = interner.intern("default");
        drop(interner.intern::<Name>("gone"));
        interner.forget_unused();
        assert_eq!(interner.known.len(), 1);
        assert!(std::ptr::eq(kept.as_str(), interner.intern::<Name>("default").as_str()));
    }
}
