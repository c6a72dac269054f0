//! Two hundred pods on one node.

use std::fs;
use std::time::Instant;

use agent::capture::{Capture, CapturedPod, PodSpec};

use crate::programs;
use crate::rig::{Rig, sh};

const PODS: usize = 200;

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Network namespaces that go with the test.
struct Namespaces(Vec<String>);

impl Namespaces {
    fn new(prefix: &str) -> Self {
        let names: Vec<String> = (0..PODS).map(|index| format!("{prefix}p{index}")).collect();
        let made = Self(names);
        let add = |(index, name): (usize, &String)| {
            format!("netns add {name}\n-n {name} link set lo up\n-n {name} addr add {} dev lo\n", address(index))
        };
        // `ip -batch` cannot change namespaces in between, so one process per line it is.
        for lines in made.0.iter().enumerate().map(add) {
            sh(&lines.lines().map(|line| format!("ip {line}")).collect::<Vec<_>>().join("\n"));
        }
        made
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = programs::command("ip").unwrap().args(["netns", "del", name]).status();
        }
    }
}

fn address(index: usize) -> String {
    format!("10.220.{}.{}", index / 250, index % 250 + 1)
}

#[test]
fn two_hundred_pods_cost_little_time_and_memory() {
    let rig = Rig::new();
    let namespaces = Namespaces::new(&rig.name);
    let specs: Vec<PodSpec> = namespaces
        .0
        .iter()
        .enumerate()
        .map(|(index, name)| PodSpec {
            owner: name.clone(),
            netns: format!("/run/netns/{name}").into(),
            addresses: vec![address(index).parse().unwrap()],
        })
        .collect();
    let capture = Capture::open(rig.config()).unwrap();
    // The first pays for what all use.
    let first = capture.enroll(&specs[0]).unwrap();
    let before = resident();
    let mut times = Vec::new();
    let mut pods: Vec<CapturedPod> = vec![first];
    for spec in &specs[1..] {
        let start = Instant::now();
        pods.push(capture.enroll(spec).unwrap());
        times.push(start.elapsed());
    }
    let memory = resident().saturating_sub(before);
    times.sort();
    println!(
        "{PODS} pods: enrolling one takes {:?} (median), {:?} (slowest); {} KiB resident each",
        times[times.len() / 2],
        times[times.len() - 1],
        memory as f64 / (PODS - 1) as f64
    );
    assert!(memory / (PODS as u64 - 1) < 60, "{memory} KiB for {} pods", PODS - 1);
    let ids: std::collections::BTreeSet<u32> = pods.iter().map(|pod| pod.id).collect();
    assert_eq!(ids.len(), PODS);

    drop((pods, capture));
    let start = Instant::now();
    let capture = Capture::open(rig.config()).unwrap();
    let opened = start.elapsed();
    let again: Vec<u32> = specs.iter().map(|spec| capture.enroll(spec).unwrap().id).collect();
    println!("the next agent: open {opened:?}, with all pods {:?}", start.elapsed());
    assert!(again.iter().all(|id| ids.contains(id)));

    let start = Instant::now();
    capture.retain(&[]).unwrap();
    println!("forgetting all takes {:?}", start.elapsed());
    assert_eq!(fs::read_dir(rig.bpf_root.join("v1/pods")).unwrap().count(), 0);
}
