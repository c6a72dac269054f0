//! Pure. What a policy with `targetRefs` applies to, and what it may not apply to.
//!
//! Policies apply to their own namespace; a root namespace alone reaches the others, the mesh and a GatewayClass (Istio's
//! `targetRefs`; Gateway API GEP-713 for MeshPolicy).

/// Group of Gateway and GatewayClass.
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// One entry of `targetRefs`, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// `group`; empty for the core group.
    pub group: &'a str,
    /// `kind`.
    pub kind: &'a str,
    /// `name`.
    pub name: &'a str,
    /// `namespace`, if one is given.
    pub namespace: Option<&'a str>,
}

/// What a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Everything.
    Mesh,
    /// The services of a namespace.
    Namespace(&'a str),
    /// What stands behind the Gateways of a class.
    Class(&'a str),
    /// What stands behind a Gateway: namespace and name.
    Gateway(&'a str, &'a str),
    /// A Service, or a ServiceEntry of the name: namespace and name.
    Service(&'a str, &'a str),
    /// A route: what it matches, not what it leads to.
    Route,
}

/// The target of a security policy (AuthorizationPolicy, RequestAuthentication) of namespace `home`; `None` where it has
/// no effect. `root` says whether that is a root namespace.
pub fn of_security<'a>(home: &'a str, root: bool, reference: Reference<'a>) -> Option<Target<'a>> {
    if reference.namespace.is_some_and(|namespace| namespace != home) {
        return None;
    }
    match (reference.group, reference.kind) {
        (GATEWAY_API, "Gateway") => Some(Target::Gateway(home, reference.name)),
        (GATEWAY_API, "GatewayClass") => root.then_some(Target::Class(reference.name)),
        ("" | "core", "Service") | ("networking.istio.io", "ServiceEntry") => {
            Some(Target::Service(home, reference.name))
        }
        _ => None,
    }
}

/// The target of a MeshPolicy of namespace `home`; `None` where it has no effect.
pub fn of_settings<'a>(home: &'a str, root: bool, reference: Reference<'a>) -> Option<Target<'a>> {
    let namespace = reference.namespace.unwrap_or(home);
    if namespace != home && !root {
        return None;
    }
    match (reference.group, reference.kind) {
        ("" | "culvert.dev", "Mesh") => root.then_some(Target::Mesh),
        ("", "Namespace") => (root || reference.name == home).then_some(Target::Namespace(reference.name)),
        ("", "Service") => Some(Target::Service(namespace, reference.name)),
        (GATEWAY_API, "Gateway") => Some(Target::Gateway(namespace, reference.name)),
        (GATEWAY_API, "HTTPRoute" | "GRPCRoute") => Some(Target::Route),
        _ => None,
    }
}

/// What a MeshPolicy without `targetRefs` applies to.
pub fn without_targets(home: &str, root: bool) -> Target<'_> {
    if root { Target::Mesh } else { Target::Namespace(home) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to<'a>(group: &'a str, kind: &'a str, namespace: Option<&'a str>) -> Reference<'a> {
        Reference { group, kind, name: "x", namespace }
    }

    #[test]
    fn a_security_policy_applies_to_its_own_namespace_and_a_class_only_by_a_root() {
        for (root, reference, expected) in [
            (false, to("", "Service", None), Some(Target::Service("shop", "x"))),
            (false, to("core", "Service", Some("shop")), Some(Target::Service("shop", "x"))),
            (false, to("networking.istio.io", "ServiceEntry", None), Some(Target::Service("shop", "x"))),
            (false, to(GATEWAY_API, "Gateway", None), Some(Target::Gateway("shop", "x"))),
            (false, to(GATEWAY_API, "GatewayClass", None), None),
            (true, to(GATEWAY_API, "GatewayClass", None), Some(Target::Class("x"))),
            (true, to("", "Service", Some("bank")), None),
            (false, to("", "Service", Some("bank")), None),
            (false, to(GATEWAY_API, "HTTPRoute", None), None),
        ] {
            assert_eq!(of_security("shop", root, reference), expected, "{root} {reference:?}");
        }
    }

    #[test]
    fn a_mesh_policy_reaches_other_namespaces_and_the_mesh_only_from_a_root() {
        for (root, reference, expected) in [
            (false, to("", "Service", Some("bank")), None),
            (true, to("", "Service", Some("bank")), Some(Target::Service("bank", "x"))),
            (false, to("", "Mesh", None), None),
            (true, to("culvert.dev", "Mesh", None), Some(Target::Mesh)),
            (false, to("", "Namespace", None), None),
            (true, to("", "Namespace", None), Some(Target::Namespace("x"))),
            (false, Reference { name: "shop", ..to("", "Namespace", None) }, Some(Target::Namespace("shop"))),
            (false, to(GATEWAY_API, "Gateway", None), Some(Target::Gateway("shop", "x"))),
            (false, to(GATEWAY_API, "HTTPRoute", None), Some(Target::Route)),
            (false, to(GATEWAY_API, "GatewayClass", None), None),
        ] {
            assert_eq!(of_settings("shop", root, reference), expected, "{root} {reference:?}");
        }
        assert_eq!(without_targets("shop", false), Target::Namespace("shop"));
        assert_eq!(without_targets("shop", true), Target::Mesh);
    }
}
