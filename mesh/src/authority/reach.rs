//! Pure. How far routes and rules about services reach: whose services they touch, and whose clients.

use crate::model::name::Namespace;

use super::tenancy::{is_root, speaks_for};

/// Whether a route of `speaker` that a listener of a Gateway in `home` has admitted applies to a service of namespace
/// `service` behind that Gateway. A Gateway that several namespaces use has to admit them all as users
/// (`allowedRoutes.namespaces`), which must not let one of them route for another: beyond its own services a route
/// reaches those of the Gateway's own namespace, whose owner has admitted it.
pub fn routes_for(roots: &[Namespace], speaker: &str, home: &str, service: &str) -> bool {
    speaks_for(roots, speaker, service) || speaker == home || service == home
}

/// Whether what a route of `speaker` changes about requests to a service of namespace `service` comes before the
/// service's policy judges. It does unless the service's own namespace wrote it: others must not change a request
/// that has been judged already.
pub fn is_foreign(speaker: &str, service: &str) -> bool {
    speaker != service
}

/// Whose word counts about how a client reaches a service; the least wins, and there is one at most (Istio,
/// DestinationRule).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Of the client's own namespace: for clients there alone.
    Client,
    /// Of the service's own namespace: for every client.
    Service,
    /// Of a root namespace: where nobody else says anything.
    Root,
}

/// The standing of a rule of `speaker` between a client and a service; `None`: it does not concern the two.
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
