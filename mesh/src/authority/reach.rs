//! Pure. The scope of routes and of rules about services: which namespaces' services and clients they apply to.

use crate::model::name::Namespace;

use super::tenancy::{is_root, speaks_for};

/// Whether a route of `speaker` that a listener of a Gateway in `home` has admitted applies to a service of namespace
/// `service` behind that Gateway. A Gateway that several namespaces use has to admit them all as users
/// (`allowedRoutes.namespaces`), which must not let one of them route for another: beyond its own services a route
/// reaches those of the Gateway's own namespace, whose owner has admitted it.
pub fn routes_for(roots: &[Namespace], speaker: &str, home: &str, service: &str) -> bool {
    speaks_for(roots, speaker, service) || speaker == home || service == home
}

/// Whether the changes that a route of `speaker` makes to requests for a service of namespace `service` are applied
/// before the service's policy judges them. They are unless the service's own namespace wrote the route: others must
/// not change a request that has already been judged.
pub fn is_foreign(speaker: &str, service: &str) -> bool {
    speaker != service
}

/// Precedence of rules about how a client reaches a service: the least wins, and at most one rule applies (Istio,
/// DestinationRule).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A rule of the client's own namespace: for clients there only.
    Client,
    /// A rule of the service's own namespace: for every client.
    Service,
    /// A rule of a root namespace: where no other rule applies.
    Root,
}

/// Precedence of a rule of `speaker` for a client and a service; `None` if it does not apply to them.
pub fn standing(roots: &[Namespace], speaker: &str, service: &str, client: Option<&str>) -> Option<Standing> {
    match () {
        () if client == Some(speaker) => Some(Standing::Client),
        () if speaker == service => Some(Standing::Service),
        () if is_root(roots, speaker) => Some(Standing::Root),
        () => None,
    }
}

/// Whether `exportTo` of an object of `home` (Istio: `*`, `.`, `~`, or names; nothing is `*`) shows it to `viewer`.
pub fn is_exported(export_to: &[String], home: &str, viewer: Option<&str>) -> bool {
    let shows = |to: &String| match to.as_str() {
        "*" => true,
        "." => viewer == Some(home),
        "~" => false,
        name => viewer == Some(name),
    };
    export_to.is_empty() || export_to.iter().any(shows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots() -> Vec<Namespace> {
        vec!["culvert-system".into()]
    }

    #[test]
    fn a_shared_gateway_lets_nobody_route_for_another() {
        for (speaker, home, service, expected) in [
            ("infra", "infra", "bank", true),
            ("bank", "infra", "bank", true),
            ("evil", "infra", "bank", false),
            ("evil", "infra", "evil", true),
            ("evil", "infra", "infra", true),
            ("culvert-system", "infra", "bank", true),
        ] {
            assert_eq!(routes_for(&roots(), speaker, home, service), expected, "{speaker} {home} {service}");
        }
    }

    #[test]
    fn rules_count_for_the_clients_own_namespace_then_the_services_then_a_roots() {
        let standing = |speaker, client| standing(&roots(), speaker, "shop", client);
        assert_eq!(standing("team", Some("team")), Some(Standing::Client));
        assert_eq!(standing("team", Some("other")), None);
        assert_eq!(standing("team", None), None);
        assert_eq!(standing("shop", Some("team")), Some(Standing::Service));
        assert_eq!(standing("shop", Some("shop")), Some(Standing::Client));
        assert_eq!(standing("culvert-system", Some("team")), Some(Standing::Root));
        assert!(Standing::Client < Standing::Service && Standing::Service < Standing::Root);
    }

    #[test]
    fn export_to_is_for_those_whom_it_names() {
        let to = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        for (names, viewer, expected) in [
            (&[][..], Some("x"), true),
            (&["*"], Some("x"), true),
            (&["."], Some("x"), false),
            (&["."], Some("home"), true),
            (&["~"], Some("home"), false),
            (&["x", "y"], Some("x"), true),
            (&["y"], Some("x"), false),
            (&["x"], None, false),
        ] {
            assert_eq!(is_exported(&to(names), "home", viewer), expected, "{names:?} {viewer:?}");
        }
    }
}
