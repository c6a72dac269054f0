//! Objects of an API: they are read as the same objects in files are, and whatever changes in whatever order leads to
//! what the API has.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::changes::variants;
use super::support::{Mesh, pod};
use crate::objects::kind::{Object, Shared};
use crate::objects::origin::{ApiKey, ApiKind, ApiObject, Origin};
use crate::objects::parse::{Parsed, Version, parse, parse_value, yaml_options};
use crate::objects::problem::Problem;
use crate::objects::world::World;
use crate::{Documents, Options};
use mesh::model::update::Update;

/// The documents of a text, as an API would answer them.
fn as_json(text: &str) -> Vec<Value> {
    let documents =
        text.split("---\n").filter(|document| document.lines().any(|line| !line.is_empty() && !line.starts_with('#')));
    let read = |document| serde_saphyr::from_str_with_options::<Value>(document, yaml_options()).unwrap();
    documents.map(read).flat_map(|value| value["items"].as_array().cloned().unwrap_or_else(|| vec![value])).collect()
}

fn version(value: &Value, shared: &mut Shared) -> Version {
    parse_value(ApiObject::of(value).unwrap(), value, shared)
}

/// What does not depend on where an object is written down.
fn shown(parsed: &Parsed) -> Vec<String> {
    let object = |what: &str, object: &Object| {
        let document = object.document.as_ref().map(|document| document.to_json().to_string());
        format!("{what} {:?} {:?} {document:?}", object.meta, object.body)
    };
    let problem = |problem: &Problem| {
        format!("{:?} {:?} {:?} {}", problem.severity, problem.object, problem.field, problem.message)
    };
    let objects = parsed.objects.iter().map(|one| object("object", one));
    let stand_ins = parsed.stand_ins.iter().flat_map(|one| [object("stand-in", &one.object), problem(&one.problem)]);
    objects.chain(stand_ins).chain(parsed.problems.iter().map(problem)).collect()
}

/// What people get wrong, and what the reader warns of.
fn mistakes() -> Vec<String> {
    let object = |api: &str, kind: &str, rest: &str| {
        format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\n{rest}\n")
    };
    let policy = |rest: &str| object("security.istio.io/v1", "AuthorizationPolicy", rest);
    vec![
        object("v1", "Service", "spec: {ports: [{port: 80}, {port: 70000}]}"),
        object("v1", "Service", "spec: {ports: null, type: Sometimes}"),
        object("v1", "Service", ""),
        object("v1", "Pod", "status: {podIP: shop, hostIP: 10.0.0.1}"),
        object("v1", "Pod", "status: {podIPs: [{ip: 127.0.0.1}, {ip: 10.0.0.1}]}"),
        object("v1", "Pod", "spec: {nodeName: 'no name'}"),
        object("v1", "Pod", "").replace("name: x,", "name: x, labels: {version: 1.10},"),
        object("v1", "Pod", "").replace("name: x,", "name: X,"),
        object("v1", "Namespace", "")
            .replace("name: x,", "name: x, labels: {culvert.dev/waypoint-enforcement: perhaps},"),
        object("v1", "ConfigMap", "data: {a: b}"),
        object("apps/v1", "Deployment", ""),
        object("networking.istio.io/v1", "EnvoyFilter", ""),
        object("gateway.networking.k8s.io/v1", "HTTPRoute", "spec: {any: [1, -1, 1.5, true, null, 'a']}"),
        object("gateway.networking.k8s.io/v1", "Gateway", "spec: {gatewayClassName: 7}"),
        object("security.istio.io/v1", "PeerAuthentication", "spec: {mtls: {mode: SOMETIMES}}"),
        object("security.istio.io/v1", "RequestAuthentication", "spec: {targetRefs: [{kind: 7}]}"),
        object("culvert.dev/v1alpha1", "MeshPolicy", "spec: 7"),
        policy("spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}"),
        policy("spec: {action: DENY, selector: {matchLabels: {app: a}}, rules: 1}"),
        policy("spec: {targetRefs: [{kind: Service, group: '', name: shop}], rules: [{to: [{operation: {}}]}]}"),
    ]
}

#[test]
fn an_object_of_an_api_is_read_as_the_same_object_in_a_file_is() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden/bookinfo");
    let paths = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let files = paths.map(|path| std::fs::read_to_string(path).unwrap());
    let texts = files.chain(variants().concat()).chain(mistakes());
    let mut seen = 0;
    for (text, documents) in
        texts.flat_map(|text| [Documents::None, Documents::OfWaypoints].map(|asked| (text.clone(), asked)))
    {
        let mut shared = Shared::new(documents);
        let of_file = shown(&parse(&Path::new("mesh.yaml").into(), &text, &mut shared));
        let mut of_api = Parsed::default();
        for value in as_json(&text) {
            let Version { at, mut parsed } = version(&value, &mut shared);
            let origins = parsed.objects.iter().map(|object| &object.at);
            let mut origins = origins.chain(parsed.problems.iter().map(|problem| &problem.at));
            assert!(origins.all(|origin| *origin == Origin::Api(at.clone())), "{text}");
            of_api.objects.append(&mut parsed.objects);
            of_api.stand_ins.append(&mut parsed.stand_ins);
            of_api.problems.append(&mut parsed.problems);
        }
        assert_eq!(shown(&of_api), of_file, "{text}");
        seen += of_file.len();
    }
    assert!(seen > 200, "{seen}");
}

#[test]
fn problems_of_an_api_object_name_the_object_and_no_line() {
    let mut world = World::new(Options::default());
    let (mut shared, text) = (Shared::default(), &mistakes()[0]);
    let updates = world.apply(version(&as_json(text)[0], &mut shared));
    assert_eq!(updates.len(), 0);
    let problems: Vec<String> = world.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("Service shop/x: spec.ports[1].port: 70000 "), "{problems:?}");
}

/// An API with its objects, and what follows from the changes that it told.
struct Api {
    world: World,
    shared: Shared,
    mesh: Mesh,
}

impl Api {
    fn new(world: World) -> Self {
        Self { world, shared: Shared::new(Documents::OfWaypoints), mesh: Mesh::default() }
    }

    fn versions(&mut self, values: &[Value]) -> Vec<Version> {
        values.iter().map(|value| version(value, &mut self.shared)).collect()
    }

    fn say(&mut self, value: &Value) -> usize {
        let version = version(value, &mut self.shared);
        let updates = self.world.apply(version);
        self.take(updates)
    }

    /// Applies updates, of which each has to change something.
    fn take(&mut self, updates: Vec<Update>) -> usize {
        let count = updates.len();
        for update in updates {
            let before = self.mesh.clone();
            let shown = format!("{update:?}");
            self.mesh.apply(vec![update]);
            assert!(before != self.mesh, "superfluous: {shown}");
        }
        count
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.world.problems().iter().map(ToString::to_string).collect();
        problems.sort();
        problems
    }

    fn documents(&self) -> Vec<String> {
        self.world.watched_documents().map(|object| format!("{:?}", object.document)).collect()
    }
}

fn pod_of(address: &str, resource_version: &str) -> Value {
    let mut value = as_json(&pod("a", address, ", labels: {app: a}", "")).remove(0);
    value["metadata"]["namespace"] = json!("default");
    value["metadata"]["uid"] = json!("one");
    value["metadata"]["resourceVersion"] = json!(resource_version);
    value
}

fn key(value: &Value) -> ApiKey {
    ApiObject::of(value).unwrap().key
}

#[test]
fn a_version_that_cannot_be_read_keeps_what_the_object_last_said() {
    let mut api = Api::new(World::new(Options::default()));
    assert_eq!(api.say(&pod_of("10.0.0.1", "1")), 1);
    assert_eq!(api.say(&pod_of("10.0.0.1", "2")), 0, "another version that says the same");
    let mut broken = pod_of("10.0.0.2", "3");
    broken["status"]["podIP"] = json!("everywhere");
    assert_eq!(api.say(&broken), 0);
    assert_eq!(api.problems(), ["Pod default/a: status.podIP: invalid IP address syntax"]);
    assert_eq!(api.mesh.pod("a").addresses[0].to_string(), "10.0.0.1");
    // Another pod of the same name never said that.
    let mut other = broken.clone();
    other["metadata"]["uid"] = json!("two");
    assert_eq!(api.say(&other), 1);
    assert!(api.mesh.workloads.is_empty());
    assert_eq!(api.say(&pod_of("10.0.0.2", "5")), 1);
    assert!(api.problems().is_empty(), "{:?}", api.problems());
    let gone = api.world.delete(&key(&other));
    assert_eq!(api.take(gone), 1);
    let again = api.world.delete(&key(&other));
    assert_eq!(api.take(again), 0, "it is gone already");
}

#[test]
fn after_a_relist_only_what_is_listed_is_there() {
    let mut api = Api::new(World::new(Options::default()));
    let named = |name: &str, address: &str| {
        let mut value = pod_of(address, "1");
        value["metadata"]["name"] = json!(name);
        value
    };
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}});
    api.say(&node);
    let pods = ApiKind { group: "".into(), kind: "Pod".into() };
    let first = api.versions(&[named("a", "10.0.0.1"), named("b", "10.0.0.2")]);
    let updates = api.world.replace_all(&pods, first);
    assert_eq!(api.take(updates), 2);
    let second = api.versions(&[named("b", "10.0.0.2"), named("c", "10.0.0.3")]);
    let updates = api.world.replace_all(&pods, second);
    assert_eq!(api.take(updates), 2, "one is gone, one is new, one is as it was");
    let names: Vec<&str> = api.mesh.workloads.values().map(|workload| workload.name.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(api.documents().len(), 1, "other kinds stay");
    let updates = api.world.replace_all(&pods, Vec::new());
    assert_eq!(api.take(updates), 2);
}

/// One thing that an API tells.
#[derive(Clone, Debug)]
enum Told {
    /// An object is new or different.
    Applied(usize),
    /// An object is gone.
    Deleted(usize),
    /// Everything of the kind of an object, after the connection was lost: each object that there was with these odds.
    Relisted(usize, Vec<bool>),
}

fn told(objects: usize) -> impl Strategy<Value = Vec<Told>> {
    let one = prop_oneof![
        6 => (0..objects).prop_map(Told::Applied),
        2 => (0..objects).prop_map(Told::Deleted),
        1 => (0..objects, proptest::collection::vec(any::<bool>(), 8)).prop_map(|(of, there)| Told::Relisted(of, there)),
    ];
    proptest::collection::vec(one, 1..30)
}

/// Every version of every object.
fn universe() -> Vec<Value> {
    let texts = variants().concat();
    let mut found: Vec<Value> = texts.iter().flat_map(|text| as_json(text)).collect();
    for (number, value) in found.iter_mut().enumerate() {
        let is_namespaced = !["Namespace", "Node", "GatewayClass"].iter().any(|kind| value["kind"] == *kind);
        if is_namespaced && value["metadata"]["namespace"].is_null() {
            value["metadata"]["namespace"] = json!("default");
        }
        value["metadata"]["resourceVersion"] = json!(number.to_string());
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_series_of_events_leads_to_what_the_api_has(events in told(universe().len())) {
        let universe = universe();
        let mut api = Api::new(World::new(Options::default()));
        let mut has: BTreeMap<ApiKey, Value> = BTreeMap::new();
        for event in events {
            match event {
                Told::Applied(index) => {
                    has.insert(key(&universe[index]), universe[index].clone());
                    api.say(&universe[index]);
                }
                Told::Deleted(index) => {
                    has.remove(&key(&universe[index]));
                    let updates = api.world.delete(&key(&universe[index]));
                    api.take(updates);
                }
                Told::Relisted(index, there) => {
                    let kind = key(&universe[index]).kind;
                    let mut there = there.into_iter().cycle();
                    has.retain(|key, _| key.kind != kind || there.next() == Some(true));
                    let mut listed: BTreeMap<ApiKey, Value> =
                        has.iter().filter(|(key, _)| key.kind == kind).map(|(k, v)| (k.clone(), v.clone())).collect();
                    listed.insert(key(&universe[index]), universe[index].clone());
                    has.extend(listed.clone());
                    let versions = api.versions(&listed.into_values().collect::<Vec<_>>());
                    let updates = api.world.replace_all(&kind, versions);
                    api.take(updates);
                }
            }
            // Who came first to an address decides between those who claim it, and only history knows.
            let mut fresh = Api::new(api.world.heir());
            let versions = fresh.versions(&has.values().cloned().collect::<Vec<_>>());
            let updates = fresh.world.apply_all(versions);
            fresh.take(updates);
            prop_assert_eq!(&api.mesh, &fresh.mesh);
            prop_assert_eq!(api.problems(), fresh.problems());
            prop_assert_eq!(api.documents(), fresh.documents());
        }
    }
}
