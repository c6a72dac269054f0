//! Pure. For whom a claim counts that somebody makes to what is not the mesh's: an external address, a range, a host
//! name.
//!
//! A claim counts for clients of its own namespace first, then one of a root namespace, then those of others. A range
//! is a net cast over the traffic of others, so it counts for its own namespace only, unless a root namespace casts it.

use crate::model::name::Namespace;
use crate::model::service::Reach;

/// How close a claim is to a client, the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Of the client's own namespace.
    Own,
    /// Of a root namespace.
    Root,
    /// Of another namespace, which exports it.
    Other,
}

/// How close a claim of namespace `speaker` is to a client; `None` when it is not for the client at all (`exportTo`).
pub fn tier(client: &Namespace, speaker: &Namespace, reach: &Reach) -> Option<Tier> {
    if !reach.exported.covers(speaker, client) {
        return None;
    }
    Some(if client == speaker {
        Tier::Own
    } else if reach.root {
        Tier::Root
    } else {
        Tier::Other
    })
}

/// The namespace whose services a host name is one of: `bank` of `ledger.bank.svc.cluster.local`, and of `*.bank.svc…`.
pub fn namespace_of_host<'a>(host: &'a str, cluster_domain: &str) -> Option<&'a str> {
    let name = host.strip_suffix(cluster_domain)?.strip_suffix("svc.")?;
    let name = if name.is_empty() { name } else { name.strip_suffix('.')? };
    Some(name.rsplit('.').next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::Exported;

    #[test]
    fn a_claim_is_its_own_namespaces_first_then_a_roots_then_anothers() {
        let reach = |root, exported: &Exported| Reach { root, exported: exported.clone() };
        let (all, nobody, own) = (Exported::Everywhere, Exported::To(Box::default()), Exported::Own);
        let some = Exported::To(["shop".into()].into());
        for (speaker, root, exported, expected) in [
            ("shop", false, &all, Some(Tier::Own)),
            ("shop", false, &own, Some(Tier::Own)),
            ("shop", false, &nobody, None),
            ("istio-system", true, &all, Some(Tier::Root)),
            ("istio-system", true, &own, None),
            ("evil", false, &all, Some(Tier::Other)),
            ("evil", false, &some, Some(Tier::Other)),
            ("evil", false, &own, None),
        ] {
            assert_eq!(
                tier(&"shop".into(), &speaker.into(), &reach(root, exported)),
                expected,
                "{speaker} {exported:?}"
            );
        }
    }

    #[test]
    fn the_name_of_a_service_says_whose_it_is() {
        for (host, namespace) in [
            ("ledger.bank.svc.cluster.local", Some("bank")),
            ("*.bank.svc.cluster.local", Some("bank")),
            ("a.ledger.bank.svc.cluster.local", Some("bank")),
            ("bank.svc.cluster.local", Some("bank")),
            ("*.svc.cluster.local", Some("*")),
            ("svc.cluster.local", Some("")),
            ("ledger.bank.svc.example", None),
            ("bank.example.com", None),
            ("xsvc.cluster.local", None),
        ] {
            assert_eq!(namespace_of_host(host, "cluster.local"), namespace, "{host}");
        }
    }
}
