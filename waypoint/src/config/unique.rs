//! Pure. One object of one key: of several the first counts, and the others are told so.

use std::collections::HashMap;
use std::sync::Arc;

use super::object::Object;
use super::status::{Findings, ObjectStatus};

/// Kinds without a namespace.
const OF_CLUSTER: [&str; 3] = ["Namespace", "Node", "GatewayClass"];

/// The objects that are in effect, in order; each other gets its status. Versions of one group are one kind.
pub fn unique(objects: &[Arc<Object>], statuses: &mut Vec<ObjectStatus>) -> Vec<Arc<Object>> {
    let mut first: HashMap<(&str, &str, &str, &str), &Arc<Object>> = HashMap::with_capacity(objects.len());
    let mut kept = Vec::with_capacity(objects.len());
    for object in objects {
        let of_cluster = OF_CLUSTER.contains(&&*object.kind);
        let namespace = if of_cluster { "" } else { &*object.namespace };
        // These have no conditions of a waypoint; the manifest source reports them.
        let is_bare = of_cluster || &*object.kind == "Pod";
        let winner = *first.entry((object.group(), &object.kind, namespace, &object.name)).or_insert(object);
        if Arc::ptr_eq(winner, object) {
            kept.push(Arc::clone(object));
        } else if !is_bare {
            let mut findings = Findings::default();
            let label = object.label();
            let message = format!(
                "{} repeats {label}, which {} has: that one is in effect, and one place must be enough",
                object.origin, winner.origin
            );
            findings.reject("Conflicted", message);
            statuses.push(ObjectStatus::of(object, serde_json::Value::Null, findings.conditions(object, None)));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_in_the_files_counts_and_the_others_are_told() {
        let object = |version: &str, kind: &str, namespace: &str, origin: &str| {
            let value =
                json!({"apiVersion": version, "kind": kind, "metadata": {"name": "twice", "namespace": namespace}});
            Arc::new(Object::from_json(&value, origin, 0).unwrap())
        };
        let routes = "gateway.networking.k8s.io";
        let objects = [
            object(&format!("{routes}/v1"), "HTTPRoute", "shop", "a.yaml:1"),
            object(&format!("{routes}/v1beta1"), "HTTPRoute", "shop", "b.yaml:7"),
            object(&format!("{routes}/v1"), "GRPCRoute", "shop", "b.yaml:8"),
            object(&format!("{routes}/v1"), "HTTPRoute", "other", "b.yaml:9"),
            object("culvert.dev/v1alpha1", "HTTPRoute", "shop", "b.yaml:10"),
            object("security.istio.io/v1", "AuthorizationPolicy", "shop", "c.yaml:1"),
            object("security.istio.io/v1", "AuthorizationPolicy", "shop", "c.yaml:9"),
        ];
        let mut statuses = vec![];
        let kept = unique(&objects, &mut statuses);
        assert_eq!(
            kept.iter().map(|object| &*object.origin).collect::<Vec<_>>(),
            ["a.yaml:1", "b.yaml:8", "b.yaml:9", "b.yaml:10", "c.yaml:1"]
        );
        let told = statuses.iter().map(|status| (&*status.origin, status.conditions().next().unwrap()));
        let told: Vec<_> = told.map(|(at, told)| (at, told.status, told.reason, told.message.clone())).collect();
        assert_eq!(told.len(), 2);
        for (at, other, (found, status, reason, message)) in
            [("b.yaml:7", "a.yaml:1", &told[0]), ("c.yaml:9", "c.yaml:1", &told[1])]
        {
            assert_eq!((*found, *status, *reason), (at, "False", "Conflicted"));
            assert!(message.contains(at) && message.contains(other), "{message}");
        }
    }
}
