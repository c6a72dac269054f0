//! Pure. What a policy with `targetRefs` applies to, and what it may not apply to.
//!
//! Policies apply to their own namespace; a root namespace alone reaches the others, the mesh and a GatewayClass
//! (Istio's `targetRefs`; Gateway API GEP-713 for MeshPolicy). A security policy whose target cannot be determined was
//! still written to restrict access: it guards everything in its own namespace that it may have been written for.

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
    /// Everything behind the Gateways of a class.
    Class(&'a str),
    /// Everything behind a Gateway: namespace and name.
    Gateway(&'a str, &'a str),
    /// A Service, or a ServiceEntry of the name: namespace and name.
    Service(&'a str, &'a str),
    /// The requests that a route matches, not the services that it leads to. Namespace and name.
    Route(&'a str, &'a str),
}

/// Why a reference has no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unattached {
    /// It names an object of another namespace.
    OtherNamespace,
    /// Only a root namespace may name it.
    RootOnly,
    /// It names a route, and this kind of policy does not apply to routes.
    Route,
    /// Its group and kind are not supported, or it has no name.
    Unknown,
}

/// The target of a security policy (AuthorizationPolicy, RequestAuthentication) of namespace `home`, or why it has
/// none. `root` says whether that is a root namespace.
pub fn of_security<'a>(home: &'a str, root: bool, reference: Reference<'a>) -> Result<Target<'a>, Unattached> {
    if reference.namespace.is_some_and(|namespace| namespace != home) {
        return Err(Unattached::OtherNamespace);
    }
    match (reference.group, reference.kind) {
        _ if reference.name.is_empty() => Err(Unattached::Unknown),
        (GATEWAY_API, "Gateway") => Ok(Target::Gateway(home, reference.name)),
        (GATEWAY_API, "GatewayClass") if !root => Err(Unattached::RootOnly),
        (GATEWAY_API, "GatewayClass") => Ok(Target::Class(reference.name)),
        ("" | "core", "Service") | ("networking.istio.io", "ServiceEntry") => Ok(Target::Service(home, reference.name)),
        (GATEWAY_API, "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute") => Err(Unattached::Route),
        _ => Err(Unattached::Unknown),
    }
}

/// The possible targets of a security policy of namespace `home` when only the name of its target could be read, or
/// nothing (an empty `name`): everything of that name that the policy may apply to.
pub fn in_doubt<'a>(home: &'a str, root: bool, name: &'a str) -> Vec<Target<'a>> {
    if name.is_empty() {
        return vec![without_targets(home, root)];
    }
    let class = root.then_some(Target::Class(name));
    [Target::Service(home, name), Target::Gateway(home, name)].into_iter().chain(class).collect()
}

/// The target of a MeshPolicy of namespace `home`, or why it has none.
pub fn of_settings<'a>(home: &'a str, root: bool, reference: Reference<'a>) -> Result<Target<'a>, Unattached> {
    let namespace = reference.namespace.unwrap_or(home);
    if namespace != home && !root {
        return Err(Unattached::OtherNamespace);
    }
    match (reference.group, reference.kind) {
        ("" | "culvert.dev", "Mesh") if !root => Err(Unattached::RootOnly),
        ("" | "culvert.dev", "Mesh") => Ok(Target::Mesh),
        ("", "Namespace") if root || reference.name == home => Ok(Target::Namespace(reference.name)),
        ("", "Namespace") => Err(Unattached::OtherNamespace),
        ("", "Service") => Ok(Target::Service(namespace, reference.name)),
        (GATEWAY_API, "Gateway") => Ok(Target::Gateway(namespace, reference.name)),
        (GATEWAY_API, "HTTPRoute" | "GRPCRoute") => Ok(Target::Route(namespace, reference.name)),
        _ => Err(Unattached::Unknown),
    }
}

/// The target of a MeshPolicy without `targetRefs`.
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
            (false, to("", "Service", None), Ok(Target::Service("shop", "x"))),
            (false, to("core", "Service", Some("shop")), Ok(Target::Service("shop", "x"))),
            (false, to("networking.istio.io", "ServiceEntry", None), Ok(Target::Service("shop", "x"))),
            (false, to(GATEWAY_API, "Gateway", None), Ok(Target::Gateway("shop", "x"))),
            (false, to(GATEWAY_API, "GatewayClass", None), Err(Unattached::RootOnly)),
            (true, to(GATEWAY_API, "GatewayClass", None), Ok(Target::Class("x"))),
            (true, to("", "Service", Some("bank")), Err(Unattached::OtherNamespace)),
            (false, to("", "Service", Some("bank")), Err(Unattached::OtherNamespace)),
            (false, to(GATEWAY_API, "HTTPRoute", None), Err(Unattached::Route)),
            (false, to(GATEWAY_API, "httproute", None), Err(Unattached::Unknown)),
            (false, to("apps", "Service", None), Err(Unattached::Unknown)),
            (false, to("", "service", None), Err(Unattached::Unknown)),
            (false, Reference { name: "", ..to("", "Service", None) }, Err(Unattached::Unknown)),
        ] {
            assert_eq!(of_security("shop", root, reference), expected, "{root} {reference:?}");
        }
    }

    #[test]
    fn a_policy_in_doubt_guards_what_it_may_have_been_written_for() {
        let named = [Target::Service("shop", "x"), Target::Gateway("shop", "x")];
        assert_eq!(in_doubt("shop", false, "x"), named);
        assert_eq!(in_doubt("shop", true, "x"), [named[0], named[1], Target::Class("x")]);
        assert_eq!(in_doubt("shop", false, ""), [Target::Namespace("shop")]);
        assert_eq!(in_doubt("shop", true, ""), [Target::Mesh]);
    }

    #[test]
    fn a_mesh_policy_reaches_other_namespaces_and_the_mesh_only_from_a_root() {
        for (root, reference, expected) in [
            (false, to("", "Service", Some("bank")), Err(Unattached::OtherNamespace)),
            (true, to("", "Service", Some("bank")), Ok(Target::Service("bank", "x"))),
            (false, to("", "Mesh", None), Err(Unattached::RootOnly)),
            (true, to("culvert.dev", "Mesh", None), Ok(Target::Mesh)),
            (false, to("", "Namespace", None), Err(Unattached::OtherNamespace)),
            (true, to("", "Namespace", None), Ok(Target::Namespace("x"))),
            (false, Reference { name: "shop", ..to("", "Namespace", None) }, Ok(Target::Namespace("shop"))),
            (false, to(GATEWAY_API, "Gateway", None), Ok(Target::Gateway("shop", "x"))),
            (false, to(GATEWAY_API, "HTTPRoute", None), Ok(Target::Route("shop", "x"))),
            (false, to(GATEWAY_API, "GatewayClass", None), Err(Unattached::Unknown)),
        ] {
            assert_eq!(of_settings("shop", root, reference), expected, "{root} {reference:?}");
        }
        assert_eq!(without_targets("shop", false), Target::Namespace("shop"));
        assert_eq!(without_targets("shop", true), Target::Mesh);
    }
}
