//! What is accepted as a file, and what is said of what is not.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::support::{load, read};
use crate::objects::kind::{Body, Documents, Shared};
use crate::objects::parse::parse;

fn problems(text: &str) -> Vec<String> {
    read(text).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn every_mistake_names_file_line_object_and_field() {
    for (text, expected) in [
        (
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: shop\nspec:\n  ports:\n  - port: 80\n  - port: 70000\n",
            "mesh.yaml:8: Service default/shop: spec.ports[1].port: 70000 must be a number from 1 to 65535",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: shop\nspec:\n  type: Sometimes\n",
            "mesh.yaml:6: Service default/shop: spec.type: unknown variant `Sometimes`, expected one of `ClusterIP`, \
             `NodePort`, `LoadBalancer`, `ExternalName`",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: shop\n",
            "mesh.yaml:1: Service default/shop: missing field `spec`",
        ),
        (
            "# one\n---\n# two\napiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: shop\nstatus:\n  podIP: shop\n",
            "mesh.yaml:10: Pod shop/a: status.podIP: invalid IP address syntax",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    version: 1.10\n",
            "mesh.yaml:6: Pod default/a: metadata.labels.version: invalid type: floating point `1.1`, expected a string",
        ),
        (
            "kind: Pod\nmetadata: {name: a}\n",
            "mesh.yaml:1: missing field `apiVersion`: this is not a Kubernetes object",
        ),
        ("\napiVersion: v1\nkind: Pod\n", "mesh.yaml:2: Pod default/?: missing field `metadata.name`"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n",
            "mesh.yaml:3: Pod default/?: metadata.name: invalid type: integer `7`, expected a string",
        ),
        ("a: b\n c: d\n", "mesh.yaml:2: not valid YAML: mapping values are not allowed in this context"),
        ("- a\n", "mesh.yaml:1: not valid YAML: invalid type: sequence, expected a Kubernetes object"),
        ("a: 1\na: 2\n", "mesh.yaml:2: not valid YAML: duplicate mapping key: a"),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\n",
            "mesh.yaml:1: Deployment default/shop: apps/v1 Deployment is ignored: nobody makes pods from it here, write the \
             Pods",
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: EnvoyFilter\nmetadata: {name: x, namespace: y}\n",
            "mesh.yaml:1: EnvoyFilter y/x: networking.istio.io/v1 EnvoyFilter is not supported and ignored",
        ),
        (
            "apiVersion: example.com/v1\nkind: Pod\nmetadata: {name: x}\n",
            "mesh.yaml:1: Pod default/x: example.com/v1 Pod is not a kind the mesh knows; it is ignored",
        ),
        (
            "apiVersion: culvert.dev/v1alpha1\nkind: MeshPolcy\nmetadata: {name: x}\n",
            "mesh.yaml:1: MeshPolcy default/x: culvert.dev/v1alpha1 MeshPolcy is not a kind the mesh knows; it is ignored",
        ),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn kinds_for_waypoints_pass_without_a_word_and_keep_their_documents_if_one_asks() {
    for (api_version, kind) in [
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1", "GRPCRoute"),
        ("gateway.networking.k8s.io/v1alpha2", "TCPRoute"),
        ("gateway.networking.k8s.io/v1alpha2", "TLSRoute"),
        ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
        ("networking.istio.io/v1", "DestinationRule"),
        ("security.istio.io/v1", "RequestAuthentication"),
        ("telemetry.istio.io/v1", "Telemetry"),
        ("culvert.dev/v1alpha1", "MeshPolicy"),
    ] {
        let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{any: [1, 'a']}}\n");
        for documents in [Documents::None, Documents::OfWaypoints] {
            let parsed = parse(&Arc::from(Path::new("mesh.yaml")), &text, &mut Shared::new(documents));
            assert_eq!((parsed.objects.len(), parsed.problems.len()), (1, 0), "{kind}");
            let object = &parsed.objects[0];
            assert_eq!(object.kind().name(), kind);
            // What agents have to know of it themselves.
            let read_by_agents = matches!(object.body, Body::RequestAuthentication(_) | Body::MeshPolicy(_));
            assert_eq!(read_by_agents, matches!(kind, "RequestAuthentication" | "MeshPolicy"));
            let document = object.document.as_deref();
            assert_eq!(document.is_some(), documents == Documents::OfWaypoints, "{kind}");
            if let Some(document) = document {
                assert_eq!(document.to_json()["spec"]["any"], serde_json::json!([1, "a"]), "{kind}");
                assert_eq!((document.text("kind"), document.text("apiVersion")), (kind, api_version));
            }
        }
    }
    assert_eq!(problems("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n"), [""; 0]);
}

#[test]
fn a_file_has_any_number_of_documents() {
    let pod = |name: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n");
    for (text, count) in [
        (String::new(), 0),
        ("\n# nothing\n---\n---\n# still nothing\n...\n".to_owned(), 0),
        (pod("a"), 1),
        (format!("---\n{}---\n{}...\n", pod("a"), pod("b")), 2),
        (format!("%YAML 1.2\n---\n{}...\n# and\n--- # more\n{}", pod("a"), pod("b")), 2),
        (format!("\u{feff}{}", pod("a").replace('\n', "\r\n")), 1),
        (format!("{}---\r\n{}", pod("a"), pod("b")), 2),
        ("apiVersion: v1\nkind: List\nitems: []\n".to_owned(), 0),
        ("apiVersion: v1\nkind: List\nitems:\n".to_owned(), 0),
        ("{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"a\"}\n}".to_owned(), 1),
    ] {
        let parsed = read(&text);
        assert_eq!((parsed.objects.len(), &parsed.problems[..]), (count, &[][..]), "{text}");
    }
}

#[test]
fn a_broken_document_does_not_hide_those_behind_it() {
    let parsed = read(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\nkind: [\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n\
         status: {podIP: x}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: c}\n",
    );
    let names: Vec<&str> = parsed.objects.iter().map(|object| object.meta.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    let lines: Vec<u32> = parsed.problems.iter().map(|problem| problem.at.line()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1], 10);
}

#[test]
fn anchors_and_merge_keys_are_understood() {
    let (mesh, problems) = load(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a, labels: &l {app: shop}}\n  \
         status: {podIP: 10.0.0.1}\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: b, labels: {<<: *l, version: v2}}\n  \
         status: {podIP: 10.0.0.2}\n",
    );
    assert_eq!(problems, [""; 0]);
    assert_eq!(mesh.pod("b").canonical_name.as_str(), "shop");
    assert_eq!(mesh.pod("b").canonical_revision.as_str(), "v2");
}

#[test]
fn a_typed_list_as_the_api_answers_is_understood() {
    let parsed = read(
        r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"a"},"status":{"podIP":"10.0.0.1"}}]}"#,
    );
    assert_eq!((parsed.objects.len(), parsed.problems.len()), (1, 0));
}

#[test]
fn an_object_in_two_places_is_in_effect_once() {
    let (mesh, problems) = load(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0.1}\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {name: a}\nstatus: {podIP: 10.0.0.2}\n",
    );
    assert_eq!(mesh.pod("a").addresses[0].to_string(), "10.0.0.1");
    assert_eq!(problems, ["mesh.yaml:6: Pod default/a: is also in mesh.yaml:1, which is in effect"]);
}

/// A document that is nearly one of ours.
fn nearly() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("apiVersion"),
        Just("kind"),
        Just("metadata"),
        Just("name"),
        Just("spec"),
        Just("status"),
        Just("items"),
        Just("v1"),
        Just("Pod"),
        Just("Service"),
        Just("List"),
        Just("security.istio.io/v1"),
        Just("AuthorizationPolicy"),
        Just("rules"),
        Just("from"),
        Just("source"),
        Just("ports"),
        Just("podIP"),
        Just("selector"),
        Just("matchLabels"),
        Just("10.0.0.1"),
        Just("80"),
        Just("-1"),
        Just("null"),
        Just("~"),
        Just("true"),
        Just("''"),
        Just("*a"),
        Just("&a b"),
    ];
    let token = prop_oneof![
        6 => word.prop_map(str::to_owned),
        6 => prop_oneof![Just(": "), Just("\n"), Just("\n  "), Just("- "), Just("{"), Just("}"), Just("["), Just("]"),
            Just(", "), Just("\n---\n"), Just("\n    "), Just("|\n "), Just("\""), Just("# "), Just("<<: ")].prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    proptest::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        load(&text);
    }

    #[test]
    fn no_nearly_right_text_makes_the_reader_panic(text in nearly()) {
        load(&text);
    }
}
