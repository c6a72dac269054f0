//! Whose an address is, whatever others write.

use std::path::Path;
use std::sync::Arc;

use super::support::{Mesh, load};
use crate::Options;
use crate::objects::holders::Evidence;
use crate::objects::kind::{Object, Shared};
use crate::objects::parse::parse;
use crate::objects::world::World;
use mesh::model::workload::Standing;

fn pod(namespace: &str, name: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '1999-01-01T00:00:00Z', \
         annotations: {{culvert.dev/netns: /run/netns/{name}}}, labels: {{app: {name}, istio.io/dataplane-mode: ambient}}}}\n\
         spec: {{nodeName: n1}}\nstatus: {{podIP: '{ip}'}}\n"
    )
}

fn service(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}, \
         creationTimestamp: '1999-01-01T00:00:00Z'}}\nspec: {{{spec}, ports: [{{port: 80}}]}}\n"
    )
}

fn entry(namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: {namespace}}}\n\
         spec: {{ports: [{{number: 80, name: tcp}}], {spec}}}\n"
    )
}

/// Files that are written and removed one after the other.
#[derive(Default)]
struct Directory {
    said: std::collections::BTreeMap<&'static str, Vec<Object>>,
    shared: Shared,
}

struct Story {
    world: World,
    directory: Directory,
    mesh: Mesh,
}

impl Story {
    fn new() -> Self {
        Self { world: World::new(Options::default()), directory: Directory::default(), mesh: Mesh::default() }
    }

    fn write(&mut self, files: &[(&'static str, &str)]) -> &mut Self {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for &(file, text) in files {
            let parsed = parse(&Arc::from(Path::new(file)), text, &mut self.directory.shared);
            assert!(!parsed.is_broken(), "{:?}", parsed.problems);
            removed.append(self.directory.said.entry(file).or_default());
            added.extend(parsed.objects.iter().cloned());
            self.directory.said.insert(file, parsed.objects);
        }
        let updates = self.world.change(&removed, &added);
        self.mesh.apply(updates);
        self
    }

    /// Lets the kernel show `10.0.0.1` in the namespaces of some pods and not in those of others.
    fn witness(&mut self, shown: &[(&str, &str, bool)]) -> &mut Self {
        let key = |namespace: &str, name: &str| crate::objects::kind::ObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        };
        let address = "10.0.0.1".parse().unwrap();
        let evidence: Evidence =
            shown.iter().map(|&(namespace, name, shown)| ((key(namespace, name), address), shown)).collect();
        let updates = self.world.witness(evidence);
        self.mesh.apply(updates);
        self
    }

    /// Every workload, with `?` behind those whose address is disputed.
    fn pods(&self) -> Vec<String> {
        let shown = |workload: &mesh::model::workload::Workload| {
            let mark = if workload.standing == Standing::Disputed { "?" } else { "" };
            format!("{}/{}{mark}", workload.namespace, workload.name)
        };
        self.mesh.workloads.values().map(shown).collect()
    }

    fn vips(&self, namespace: &str, name: &str) -> String {
        let key = format!("{namespace}/{name}.{namespace}.svc.cluster.local");
        format!("{:?}", self.mesh.services[&key].vips)
    }

    fn problems(&self) -> String {
        self.world.problems().iter().map(|problem| format!("{problem}\n")).collect()
    }
}

#[test]
fn a_second_pod_takes_nothing_from_the_first_whatever_its_age_name_or_file() {
    let (bank, evil) = (pod("bank", "till", "10.0.0.1"), pod("aaa", "fake", "10.0.0.1"));
    let mapped = pod("aaa", "fake", "::ffff:10.0.0.1");
    for fake in [&evil, &mapped] {
        let mut story = Story::new();
        story.write(&[("z", &bank)]).write(&[("a", fake)]);
        assert_eq!(story.pods(), ["bank/till"]);
        let problems = story.problems();
        assert!(problems.contains("a:2: Pod aaa/fake: status.podIP: 10.0.0.1 belongs to Pod bank/till"), "{problems}");
        // Away and back: who was refused meanwhile does not keep it.
        story.write(&[("z", "")]);
        assert_eq!(story.pods(), ["aaa/fake"]);
        story.write(&[("z", &bank)]);
        assert_eq!(story.pods(), ["bank/till"]);
        // Written anew in one go is not away.
        story.write(&[("z", &bank.replace("app: till", "app: other"))]);
        assert_eq!(story.pods(), ["bank/till"]);
        story.write(&[("a", "")]);
        assert!(story.problems().is_empty() && story.mesh.reserved.is_empty());
    }
}

#[test]
fn of_pods_that_come_together_nobody_is_reached_until_the_kernel_or_one_of_them_says_whose_it_is() {
    let (bank, evil) = (pod("bank", "till", "10.0.0.1"), pod("aaa", "fake", "10.0.0.1"));
    let serving = service("bank", "till", "clusterIP: 10.96.0.1, selector: {app: till}");
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: aaa, labels: {kubernetes.io/service-name: s}}\n\
                 addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]\n";
    let own = service("aaa", "s", "clusterIP: 10.96.0.2");
    let mut story = Story::new();
    story.write(&[("z", &bank), ("a", &evil), ("s", &[serving.as_str(), slice, &own].concat())]);
    assert_eq!(story.pods(), ["aaa/fake?", "bank/till?"], "and no workload of the slice");
    assert!(story.mesh.workloads.values().all(|workload| workload.services.is_empty()));
    assert!(story.mesh.reserved["10.0.0.1"].contains("Pod aaa/fake and Pod bank/till"), "{:?}", story.mesh.reserved);
    let problems = story.problems();
    for (one, other) in [("Pod aaa/fake", "Pod bank/till"), ("Pod bank/till", "Pod aaa/fake")] {
        assert!(problems.contains(&format!("{one}: status.podIP: 10.0.0.1 is claimed by {other} too")), "{problems}");
    }
    story.witness(&[("bank", "till", true), ("aaa", "fake", false)]);
    assert_eq!(story.pods(), ["bank/till"]);
    assert!(story.mesh.reserved.is_empty());
    assert_eq!(story.mesh.workloads["Kubernetes//Pod/bank/till"].services.len(), 2);
    // What was proven once is kept when the kernel cannot be asked, and lost when it shows the other.
    story.witness(&[]);
    assert_eq!(story.pods(), ["bank/till"]);
    story.witness(&[("bank", "till", false), ("aaa", "fake", true)]);
    assert_eq!(story.pods(), ["aaa/fake"]);
}

#[test]
fn the_kernel_is_asked_about_pods_of_the_node_that_disagree() {
    let mut story = Story::new();
    story.write(&[("z", &pod("bank", "till", "10.0.0.1")), ("a", &pod("aaa", "other", "10.0.0.2"))]);
    assert!(story.world.questions(&"n1".into()).is_empty());
    story.write(&[("b", &pod("aaa", "fake", "10.0.0.1"))]);
    let asked = story.world.questions(&"n1".into());
    let asked: Vec<String> = asked.iter().map(|question| format!("{} {}", question.pod, question.netns)).collect();
    assert_eq!(asked, ["aaa/fake /run/netns/fake", "bank/till /run/netns/till"]);
    assert!(story.world.questions(&"n2".into()).is_empty());
}

#[test]
fn what_else_a_disputed_pod_claims_is_nobodys_either() {
    let two = |namespace: &str, name: &str, other: &str| {
        pod(namespace, name, "10.0.0.1")
            .replace("podIP: '10.0.0.1'", &format!("podIPs: [{{ip: 10.0.0.1}}, {{ip: '{other}'}}]"))
    };
    let mut story = Story::new();
    story.write(&[("z", &two("bank", "till", "fd00::1")), ("a", &pod("aaa", "fake", "10.0.0.1"))]);
    assert_eq!(story.mesh.reserved.keys().collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
    // One that is left out is reached by none of its addresses, and takes none from others with it.
    let mut story = Story::new();
    story.write(&[("z", &pod("bank", "till", "10.0.0.1"))]).write(&[("a", &two("aaa", "fake", "fd00::2"))]);
    assert_eq!(story.mesh.reserved.keys().collect::<Vec<_>>(), ["fd00::2"]);
}

#[test]
fn a_cluster_ip_takes_nothing_from_a_node_nor_from_a_pod_that_was_there_or_that_the_kernel_shows() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n}\nstatus: {addresses: [{type: InternalIP, address: 10.0.9.9}]}\n";
    let infrastructure = [pod("bank", "till", "10.0.0.1").as_str(), node].concat();
    let claims = [service("aaa", "s", "clusterIP: 10.0.0.1"), service("aaa", "t", "clusterIP: 10.0.9.9")].concat();
    for first in [["a", "z"], ["z", "a"]] {
        let mut story = Story::new();
        for file in first {
            story.write(&[(file, if file == "a" { &claims } else { &infrastructure })]);
        }
        story.witness(&[("bank", "till", true)]);
        assert_eq!([story.vips("aaa", "s"), story.vips("aaa", "t")], ["[]", "[]"]);
        let problems = story.problems();
        assert!(problems.contains("Service aaa/s: spec.clusterIP: 10.0.0.1 belongs to Pod bank/till"), "{problems}");
        assert!(problems.contains("Service aaa/t: spec.clusterIP: 10.0.9.9 belongs to Node n"), "{problems}");
        // A pod at a node's address is left out, and nobody reaches the node as the pod.
        story.write(&[("p", &pod("aaa", "p", "10.0.9.9"))]);
        assert_eq!(story.pods(), ["bank/till"]);
        assert!(story.problems().contains("Pod aaa/p: status.podIP: 10.0.9.9 belongs to Node n"));
        story.write(&[("z", "")]);
        assert_eq!(story.vips("aaa", "s"), "[Address(10.0.0.1)]");
    }
    // What the kernel has not shown was there first.
    let mut story = Story::new();
    story.write(&[("z", &infrastructure)]).write(&[("a", &claims)]);
    assert_eq!((story.pods(), story.vips("aaa", "s")), (vec!["bank/till".to_owned()], "[]".to_owned()));
}

#[test]
fn a_pod_of_another_node_takes_no_service_off_the_air() {
    let till = service("bank", "till", "clusterIP: 10.96.0.1");
    let fake = pod("aaa", "fake", "10.96.0.1").replace("n1", "elsewhere");
    let mut story = Story::new();
    story.write(&[("z", &till)]).write(&[("a", &fake)]);
    assert_eq!((story.vips("bank", "till").as_str(), story.pods().len()), ("[Address(10.96.0.1)]", 0));
    assert!(story.mesh.reserved.is_empty(), "{:?}", story.mesh.reserved);
    let problems = story.problems();
    assert!(problems.contains("Pod aaa/fake: status.podIP: 10.96.0.1 belongs to Service bank/till"), "{problems}");
    assert!(!problems.contains("Service bank/till: spec.clusterIP"), "{problems}");
    // Nor does one that waits for the Service to be away for a moment, or to be written anew.
    story.write(&[("z", "")]);
    assert_eq!(story.pods(), ["aaa/fake"]);
    story.write(&[("z", &till)]);
    assert_eq!((story.vips("bank", "till").as_str(), story.pods().len()), ("[Address(10.96.0.1)]", 0));
    story.write(&[("z", &service("bank", "till", "clusterIP: 10.96.0.1, selector: {app: till}"))]);
    assert_eq!((story.vips("bank", "till").as_str(), story.pods().len()), ("[Address(10.96.0.1)]", 0));
    // Nor one with the address among others, which nobody has then.
    let two = fake.replace("podIP: '10.96.0.1'", "podIPs: [{ip: 10.96.0.1}, {ip: 'fd00::9'}]");
    story.write(&[("a", &two)]);
    assert_eq!(story.vips("bank", "till"), "[Address(10.96.0.1)]");
    assert_eq!(story.mesh.reserved.keys().collect::<Vec<_>>(), ["fd00::9"]);
    // One of the Service's own namespace neither.
    story.write(&[("a", &fake.replace("aaa", "bank"))]);
    assert_eq!(story.vips("bank", "till"), "[Address(10.96.0.1)]");
    story.write(&[("a", "")]);
    assert!(story.problems().contains("has no endpoints") && story.mesh.reserved.is_empty());
}

#[test]
fn of_a_pod_and_a_service_that_come_together_the_pod_has_the_address_until_something_decides() {
    let till = service("bank", "till", "clusterIP: 10.0.0.1");
    let fake = pod("aaa", "fake", "10.0.0.1");
    let mut story = Story::new();
    story.write(&[("z", &till), ("a", &fake)]);
    assert_eq!((story.vips("bank", "till"), story.pods()), ("[]".to_owned(), vec!["aaa/fake".to_owned()]));
    assert!(story.mesh.reserved.is_empty());
    let problems = story.problems();
    assert!(problems.contains("Service bank/till: spec.clusterIP: 10.0.0.1 belongs to Pod aaa/fake"), "{problems}");
    let asked = story.world.questions(&"n1".into());
    assert_eq!(asked.len(), 1, "the kernel is asked about it");
    story.witness(&[("aaa", "fake", false)]);
    assert_eq!((story.vips("bank", "till").as_str(), story.pods().len()), ("[Address(10.0.0.1)]", 0));
    story.witness(&[("aaa", "fake", true)]);
    assert_eq!((story.vips("bank", "till").as_str(), story.pods().len()), ("[]", 1));
    story.witness(&[]);
    assert_eq!((story.vips("bank", "till").as_str(), story.pods().len()), ("[]", 1), "once shown, it keeps it");
    story.write(&[("a", "")]);
    assert_eq!(story.vips("bank", "till"), "[Address(10.0.0.1)]");
}

#[test]
fn what_comes_into_effect_in_the_place_of_another_takes_nothing_either() {
    let till = service("bank", "till", "clusterIP: 10.96.0.1");
    for (kind, first, second) in [
        ("Pod", pod("aaa", "x", "10.0.0.9"), pod("aaa", "x", "10.96.0.1")),
        ("Service", service("aaa", "x", "clusterIP: 10.96.0.9"), service("aaa", "x", "clusterIP: 10.96.0.1")),
    ] {
        let mut story = Story::new();
        story.write(&[("z", &till), ("a", &first)]).write(&[("b", &second)]).write(&[("a", "")]);
        assert_eq!(story.vips("bank", "till"), "[Address(10.96.0.1)]", "{kind}");
        assert!(story.pods().is_empty(), "{kind}");
        let problems = story.problems();
        assert!(problems.contains(&format!("b:2: {kind} aaa/x: ")) && problems.contains("belongs to"), "{problems}");
    }
}

const RANGES: &str = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24, 'fd00:1::/64']}\n\
                      ---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\nspec: {podCIDRs: [10.0.2.0/24]}\n";
const SERVICE_CIDR: &str = "---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16]}\n";

#[test]
fn ranges_of_nodes_decide_between_claims_that_nothing_proves() {
    let till = service("bank", "till", "clusterIP: 10.96.0.1");
    let remote = pod("bank", "remote", "10.0.2.7").replace("n1", "n2");
    let own = [till.as_str(), &remote].concat();
    for (fake, why) in [
        (pod("aaa", "fake", "10.96.0.1"), "a pod outside of its node's range"),
        (pod("aaa", "fake", "10.96.0.1").replace("n1", "ghost"), "a pod of no node"),
        (pod("aaa", "fake", "10.0.2.7"), "a pod with an address of another node"),
        (pod("aaa", "fake", "10.0.2.7").replace("n1", "ghost"), "the same of no node"),
        (service("aaa", "fake", "clusterIP: 10.0.2.7"), "a Service in the range of a node"),
    ] {
        for order in [&[("r", RANGES), ("a", &fake), ("z", &own)][..], &[("z", &own), ("a", &fake), ("r", RANGES)]] {
            for together in [true, false] {
                let mut story = Story::new();
                if together {
                    story.write(order);
                } else {
                    order.iter().for_each(|file| _ = story.write(std::slice::from_ref(file)));
                }
                assert_eq!(story.vips("bank", "till"), "[Address(10.96.0.1)]", "{why} {together}");
                assert_eq!(story.pods(), ["bank/remote"], "{why} {together}");
                assert!(story.mesh.reserved.is_empty(), "{why} {together}");
                let problems = story.problems();
                assert!(problems.contains("aaa/fake: s") && problems.contains("belongs to"), "{why}: {problems}");
            }
        }
    }
    // Alone it has what it says: not every network follows the ranges of nodes.
    let mut story = Story::new();
    story.write(&[("r", RANGES), ("a", &pod("aaa", "p", "10.1.1.1"))]);
    assert_eq!(story.pods(), ["aaa/p"]);
    // What the kernel shows comes before.
    story.write(&[
        ("a", &pod("aaa", "p", "10.0.0.1").replace("n1", "n2")),
        ("b", &service("bank", "s", "clusterIP: 10.0.0.1")),
    ]);
    story.witness(&[("aaa", "p", true)]);
    assert_eq!(story.pods(), ["aaa/p"]);
}

#[test]
fn addresses_of_services_come_from_service_cidrs_and_no_pod_has_one() {
    let till = service("bank", "till", "clusterIP: 10.96.0.1");
    let outside = service("aaa", "outside", "clusterIP: 10.0.0.1");
    let fake = pod("aaa", "fake", "10.96.0.1");
    let alone = pod("aaa", "alone", "10.96.0.9");
    let all = [till.as_str(), &outside, &fake, &alone].concat();
    let checked = |story: &mut Story| {
        assert_eq!([story.vips("bank", "till"), story.vips("aaa", "outside")], ["[Address(10.96.0.1)]", "[]"]);
        assert!(story.pods().is_empty(), "{:?}", story.pods());
        let problems = story.problems();
        for line in [
            "Pod aaa/fake: status.podIP: 10.96.0.1 is in 10.96.0.0/16, which a ServiceCIDR gives to Services",
            "Pod aaa/alone: status.podIP: 10.96.0.9 is in 10.96.0.0/16",
            "Service aaa/outside: spec.clusterIP: 10.0.0.1 is in no ServiceCIDR",
        ] {
            assert!(problems.contains(line), "{line}\n{problems}");
        }
        assert_eq!(story.mesh.reserved.keys().collect::<Vec<_>>(), ["10.96.0.9"], "and nobody is reached there");
    };
    checked(Story::new().write(&[("r", SERVICE_CIDR), ("a", &all)]));
    let mut story = Story::new();
    checked(story.write(&[("a", &all)]).write(&[("r", SERVICE_CIDR)]));
    // Whoever can change the network of a pod can let the kernel show a Service's address there.
    let mut shown = Story::new();
    let till = till.replace("10.96.0.1", "10.0.0.1");
    let cidr = SERVICE_CIDR.replace("10.96.0.0", "10.0.0.0");
    shown.write(&[("r", &cidr), ("a", &till), ("b", &pod("aaa", "fake", "10.0.0.1"))]);
    shown.witness(&[("aaa", "fake", true)]);
    assert_eq!((shown.vips("bank", "till").as_str(), shown.pods().len()), ("[Address(10.0.0.1)]", 0));
    // Without the range all is as before it.
    story.write(&[("r", "")]);
    assert!(story.pods().contains(&"aaa/alone".to_owned()));
    assert_eq!(story.vips("aaa", "outside"), "[Address(10.0.0.1)]");
}

#[test]
fn no_address_of_a_range_is_had_from_outside() {
    let mut story = Story::new();
    story.write(&[
        ("r", &[RANGES, SERVICE_CIDR].concat()),
        ("e", &entry("evil", "hosts: [a.example], addresses: [10.0.2.9, 10.96.0.9, 192.0.2.1]")),
        ("x", &service("evil", "x", "clusterIP: None, externalIPs: [10.96.0.1, 192.0.2.2]")),
    ]);
    assert_eq!(format!("{:?}", story.mesh.services["evil/a.example"].vips), "[External(192.0.2.1)]");
    assert_eq!(story.vips("evil", "x"), "[External(192.0.2.2)]");
    let problems = story.problems();
    for (object, address) in
        [("ServiceEntry evil/e", "10.0.2.9"), ("ServiceEntry evil/e", "10.96.0.9"), ("Service evil/x", "10.96.0.1")]
    {
        assert!(problems.contains(&format!("{object}: address {address} is in 10.")), "{object} {address}\n{problems}");
    }
    assert!(!problems.contains("192.0.2"), "{problems}");
}

#[test]
fn a_cluster_ip_stays_its_services_whatever_the_age_of_another() {
    let (bank, evil) = (service("bank", "till", "clusterIP: 10.96.0.1"), service("aaa", "s", "clusterIP: 10.96.0.1"));
    let young = bank.replace("creationTimestamp: '1999-01-01T00:00:00Z'", "labels: {}");
    let mut story = Story::new();
    story.write(&[("z", &young)]).write(&[("a", &evil)]);
    assert_eq!([story.vips("bank", "till"), story.vips("aaa", "s")], ["[Address(10.96.0.1)]", "[]"]);
    assert!(story.problems().contains("Service aaa/s: spec.clusterIP: 10.96.0.1 belongs to Service bank/till"));
    story.write(&[("z", "")]);
    assert_eq!(story.vips("aaa", "s"), "[Address(10.96.0.1)]");
    story.write(&[("z", &young)]);
    assert_eq!([story.vips("bank", "till"), story.vips("aaa", "s")], ["[Address(10.96.0.1)]", "[]"]);
    // Together: nobody's, and refused.
    let mut story = Story::new();
    story.write(&[("z", &young), ("a", &evil)]);
    assert_eq!([story.vips("bank", "till"), story.vips("aaa", "s")], ["[]", "[]"]);
    assert!(story.mesh.reserved["10.96.0.1"].contains("Service aaa/s and Service bank/till"));
    assert!(story.problems().contains("Service bank/till: spec.clusterIP: 10.96.0.1 is claimed by Service aaa/s too"));
    story.write(&[("a", "")]);
    assert_eq!(story.vips("bank", "till"), "[Address(10.96.0.1)]");
    assert!(story.mesh.reserved.is_empty());
}

#[test]
fn claims_that_catch_nothing_name_both_objects() {
    let mut story = Story::new();
    story.write(&[
        ("p", &pod("bank", "till", "10.0.0.1")),
        ("s", &service("bank", "till", "clusterIP: 10.96.0.1, selector: {app: till}")),
        ("e", &entry("evil", "hosts: [a.example], addresses: [10.0.0.1, 10.0.0.0/24, 0.0.0.0/0, 192.0.2.1]")),
        ("x", &service("evil", "x", "clusterIP: None, externalIPs: [10.96.0.1]")),
        ("f", &entry("other", "hosts: [b.example], resolution: STATIC, endpoints: [{address: 10.96.0.1}]")),
    ]);
    let problems = story.problems();
    for line in [
        "ServiceEntry evil/e: spec.addresses: 10.0.0.1 belongs to Pod bank/till and the claim has no effect",
        "ServiceEntry evil/e: spec.addresses: 10.0.0.0/24 holds 10.0.0.1 of Pod bank/till, on which it has no effect",
        "ServiceEntry evil/e: spec.addresses: 0.0.0.0/0 holds 10.0.0.1 of Pod bank/till and 1 more",
        "Service evil/x: spec.externalIPs: 10.96.0.1 belongs to Service bank/till and the claim has no effect",
        "ServiceEntry other/e: endpoint 10.96.0.1 belongs to Service bank/till and has no effect",
    ] {
        assert!(problems.contains(line), "{line}\n{problems}");
    }
    assert!(!problems.contains("192.0.2.1"), "{problems}");
    assert_eq!(story.pods(), ["bank/till"], "no workload at the cluster IP");
}

#[test]
fn the_name_of_a_service_is_its_namespaces_to_give() {
    let till = service("bank", "till", "clusterIP: 10.96.0.1");
    let (mesh, problems) = load(
        &[
            till,
            entry("evil", "hosts: [till.bank.svc.cluster.local, Later.Bank.svc.cluster.local., own.example]"),
            entry("istio-system", "hosts: [later.bank.svc.cluster.local]"),
        ]
        .concat(),
    );
    let keys: Vec<&str> = mesh.services.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        ["bank/till.bank.svc.cluster.local", "evil/own.example", "istio-system/later.bank.svc.cluster.local"]
    );
    let said = problems.join("\n");
    for line in [
        "ServiceEntry evil/e: spec.hosts: till.bank.svc.cluster.local is the name of Service bank/till",
        "ServiceEntry evil/e: spec.hosts: later.bank.svc.cluster.local is a name of namespace bank",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}

#[test]
fn an_address_that_can_be_nobodys_has_no_effect_and_is_told() {
    for address in ["127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "224.0.0.1"] {
        let (mesh, problems) = load(
            &[
                pod("bank", "p", address),
                service("bank", "s", &format!("clusterIP: '{address}', externalIPs: ['{address}']")),
                entry("bank", &format!("hosts: [a.example], resolution: STATIC, addresses: ['{address}'], endpoints: [{{address: '{address}'}}]")),
            ]
            .concat(),
        );
        assert!(mesh.workloads.is_empty(), "{address}: {:?}", mesh.workloads.keys());
        assert!(mesh.services.values().all(|service| service.vips.is_empty()), "{address}");
        let said = problems.join("\n");
        for place in [
            "Pod bank/p: status.podIP: ",
            "Service bank/s: spec.clusterIP: ",
            "Service bank/s: spec.externalIPs: ",
            "ServiceEntry bank/e: spec.addresses: ",
            "ServiceEntry bank/e: spec.endpoints[0].address: ",
        ] {
            assert!(said.contains(place), "{address} {place}\n{said}");
        }
    }
}
