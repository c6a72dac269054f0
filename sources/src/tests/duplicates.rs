//! An object that stands in two files: one is in effect, and the other is told so, whatever its kind.

use crate::{Documents, ManifestSource, Options};

/// Every kind that the mesh knows, but for those that say nothing to it.
const KINDS: &[(&str, &str, &str)] = &[
    ("v1", "Namespace", ""),
    ("v1", "Node", ""),
    ("v1", "Pod", ""),
    ("v1", "Service", "spec: {clusterIP: None}"),
    ("gateway.networking.k8s.io/v1", "Gateway", "spec: {gatewayClassName: culvert-waypoint, listeners: []}"),
    ("gateway.networking.k8s.io/v1", "GatewayClass", "spec: {controllerName: culvert.dev/waypoint}"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute", "spec: {}"),
    ("gateway.networking.k8s.io/v1", "GRPCRoute", "spec: {}"),
    ("gateway.networking.k8s.io/v1", "TCPRoute", "spec: {}"),
    ("gateway.networking.k8s.io/v1", "TLSRoute", "spec: {}"),
    ("gateway.networking.k8s.io/v1", "BackendTLSPolicy", "spec: {}"),
    ("gateway.networking.k8s.io/v1", "ReferenceGrant", "spec: {}"),
    ("gateway.networking.x-k8s.io/v1alpha1", "XBackendTrafficPolicy", "spec: {}"),
    ("security.istio.io/v1", "PeerAuthentication", "spec: {}"),
    ("security.istio.io/v1", "AuthorizationPolicy", "spec: {rules: [{}]}"),
    ("security.istio.io/v1", "RequestAuthentication", "spec: {}"),
    ("networking.istio.io/v1", "ServiceEntry", "spec: {hosts: [a.example], resolution: STATIC}"),
    ("networking.istio.io/v1", "DestinationRule", "spec: {}"),
    ("networking.istio.io/v1", "VirtualService", "spec: {}"),
    ("telemetry.istio.io/v1", "Telemetry", "spec: {}"),
    ("culvert.dev/v1alpha1", "MeshPolicy", "spec: {}"),
];

#[test]
fn an_object_in_two_files_is_reported_with_both_whatever_its_kind_and_the_first_comes_first() {
    for documents in [Documents::None, Documents::OfWaypoints] {
        for &(api, kind, rest) in KINDS {
            let dir = tempfile::tempdir().unwrap();
            let text = format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: twice}}\n{rest}\n");
            // Another version of the same group is the same object.
            let newer = text.replacen("/v1\n", "/v1beta1\n", 1);
            std::fs::write(dir.path().join("a.yaml"), &text).unwrap();
            std::fs::write(dir.path().join("b.yaml"), format!("\n{newer}")).unwrap();
            let loaded = ManifestSource::load_once(dir.path(), &Options { documents, ..Options::default() });
            let errors: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
            let found = errors.iter().filter(|error| error.contains("is also in")).collect::<Vec<_>>();
            assert_eq!(found.len(), 1, "{kind} {documents:?}: {errors:?}");
            let (place, other) = (format!("b.yaml:2: {kind} "), "a.yaml:1, which is in effect");
            assert!(found[0].contains(&place) && found[0].ends_with(other), "{}", found[0]);
            // Waypoints tell the other one that it is not in effect.
            assert!(
                loaded.documents.first().is_none_or(|item| item.at.file().is_some_and(|file| file.ends_with("a.yaml"))),
                "{kind}: {:?}",
                loaded.documents
            );
        }
    }
}

#[test]
fn objects_of_two_kinds_or_namespaces_are_two() {
    let dir = tempfile::tempdir().unwrap();
    let text = |api: &str, kind: &str, namespace: &str| {
        format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x, namespace: {namespace}}}\nspec: {{}}\n---\n")
    };
    let all = [
        text("networking.istio.io/v1", "DestinationRule", "a"),
        text("networking.istio.io/v1", "DestinationRule", "b"),
        text("networking.istio.io/v1", "VirtualService", "a"),
    ]
    .concat();
    std::fs::write(dir.path().join("a.yaml"), all).unwrap();
    let loaded =
        ManifestSource::load_once(dir.path(), &Options { documents: Documents::OfWaypoints, ..Options::default() });
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    assert_eq!(loaded.documents.len(), 3);
}
