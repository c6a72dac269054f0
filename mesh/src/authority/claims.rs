//! Pure. Which clients a claim to something outside of the mesh applies to: an external address, a range, a host name.
//!
//! For a client the claims of its own namespace take precedence, then those of root namespaces, then those of others. A
//! range captures traffic to addresses that nobody listed, so it applies to its own namespace only, unless a root
//! namespace claims it.

use crate::model::name::Namespace;
use crate::model::service::Reach;

/// Precedence of a claim for a client, the highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The claim is of the client's own namespace.
    Own,
    /// The claim is of a root namespace.
    Root,
    /// The claim is of another namespace, which exports it to the client's.
    Other,
}

/// Precedence of a claim of namespace `speaker` for a client; `None` if it is not exported to the client (`exportTo`).
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

/// The namespace that a host name of the cluster belongs to: `bank` for `ledger.bank.svc.cluster.local`, and for
/// `*.bank.svc…`.
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
