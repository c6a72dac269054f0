//! Agents come and go, and so do pods; nothing that is open is cut, and nothing stays behind.

use std::fs;
use std::time::{Duration, Instant};

use agent::capture::{Capture, CaptureError, PodSpec};
use mesh::model::policy::PlaintextVerdict;

use crate::rig::{Rig, address, eventually, sh, word};

const NOT_PERMITTED: &str = "error=1";
const REFUSED: &str = "error=111";
const MESH: &str = "--mesh 10.200.0.13/32 --mesh 10.201.0.2/32 --mesh fd00:201::2/128";

/// Whether the connection reached its server without the agent.
fn is_direct(line: &str) -> bool {
    let reply = line.split("reply=").nth(1).unwrap_or_else(|| panic!("no reply in {line:?}"));
    address(reply, "peer") == address(line, "local")
}

fn serve_all(rig: &Rig) {
    rig.serve("a", "0.0.0.0:80 [::]:81");
    rig.serve("c", "10.200.0.13:80");
    rig.serve("e", "10.201.0.2:80 [fd00:201::2]:80");
}

#[test]
fn without_an_agent_enrolled_pods_are_closed_and_others_notice_nothing() {
    let rig = Rig::new();
    serve_all(&rig);
    let mut agent = rig.agent_process(&format!("{MESH} --plaintext pass"));
    assert!(!is_direct(&rig.connect("a", "10.200.0.13:80")));
    agent.kill();
    for to in ["10.200.0.13:80", "[fd00:201::2]:80", "10.201.0.2:80", "10.200.0.12:80"] {
        assert_eq!(rig.connect("a", to), NOT_PERMITTED, "{to}");
    }
    for to in ["10.200.0.11:80", "[fd00:200::11]:81", "10.200.0.11:15008"] {
        assert_eq!(rig.connect("e", to), REFUSED, "{to}");
        assert_eq!(rig.connect("host", to), REFUSED, "{to}");
    }
    for to in ["127.0.0.1:80", "[::1]:81", "10.200.0.11:80", "[fd00:200::11]:81"] {
        assert!(is_direct(&rig.connect("a", to)), "{to}");
    }
    assert!(is_direct(&rig.connect("c", "10.201.0.2:80")));
    assert!(is_direct(&rig.connect("e", "10.200.0.13:80")));
}

#[test]
fn without_an_agent_that_fails_open_everything_is_direct_but_what_policy_refuses() {
    let rig = Rig::new();
    serve_all(&rig);
    let mut agent = rig.agent_process(&format!("{MESH} --plaintext proxy --fail-open"));
    assert!(!is_direct(&rig.connect("a", "10.200.0.13:80")));
    assert!(!is_direct(&rig.connect("e", "10.200.0.11:80")));
    agent.kill();
    for to in ["10.200.0.13:80", "[fd00:201::2]:80", "10.201.0.2:80"] {
        assert!(is_direct(&rig.connect("a", to)), "{to}");
    }
    for to in ["10.200.0.11:80", "[fd00:200::11]:81"] {
        assert!(is_direct(&rig.connect("e", to)), "{to}");
    }
    let mut agent = rig.agent_process(&format!("{MESH} --plaintext refuse --fail-open"));
    agent.kill();
    assert_eq!(rig.connect("e", "10.200.0.11:80"), REFUSED);
}

#[test]
fn the_next_agent_takes_over_what_a_killed_one_left() {
    let rig = Rig::new();
    serve_all(&rig);
    let mut first = rig.agent_process(&format!("{MESH} --mesh 10.9.9.9/32 --plaintext refuse"));
    first.kill();
    let pins = sh(&format!("find {} -type f | sort", rig.bpf_root.display()));
    let start = Instant::now();
    let second = rig.agent_process(&format!("{MESH} --plaintext pass"));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(first.first, second.first, "the pods keep their ids");
    assert_eq!(pins, sh(&format!("find {} -type f | sort", rig.bpf_root.display())));
    assert!(!is_direct(&rig.connect("a", "10.200.0.13:80")));
    assert!(!is_direct(&rig.connect("a", "[fd00:201::2]:80")));
    assert!(is_direct(&rig.connect("e", "10.200.0.11:80")));
    assert_eq!(rig.ip("a", "rule").matches("0x111").count(), 1);
    assert_eq!(rig.ip("a", "-6 rule").matches("0x111").count(), 1);
}

#[test]
fn a_second_agent_takes_every_new_connection_and_the_first_keeps_its_own() {
    let rig = Rig::new();
    rig.serve("c", "10.200.0.13:80");
    let first = rig.agent();
    first.enroll(&rig, "a");
    first.mesh(&["10.200.0.13/32"]);
    let mut held = rig.hold("a", "10.200.0.13:80");
    assert_eq!(held.ask("one"), "one");
    assert_eq!(first.seen().len(), 1);
    let second = rig.agent();
    second.enroll(&rig, "a");
    for _ in 0..20 {
        rig.connect("a", "10.200.0.13:80");
    }
    assert_eq!((first.seen().len(), second.seen().len()), (0, 20));
    assert_eq!(held.ask("two"), "two");
}

#[test]
fn enrolling_cuts_nothing_that_is_open() {
    let rig = Rig::new();
    rig.serve("c", "10.200.0.13:80");
    rig.serve("a", "0.0.0.0:80");
    let mut out = rig.hold("a", "10.200.0.13:80");
    let mut into = rig.hold("c", "10.200.0.11:80");
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    agent.plaintext(id, PlaintextVerdict::Refuse);
    agent.mesh(&["10.200.0.13/32"]);
    assert_eq!(out.ask("still"), "still");
    assert_eq!(into.ask("here"), "here");
    assert_eq!(agent.seen(), []);
}

#[test]
fn releasing_cuts_nothing_and_leaves_new_connections_alone() {
    let rig = Rig::new();
    serve_all(&rig);
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32"]);
    let mut out = rig.hold("a", "10.200.0.13:80");
    let mut into = rig.hold("e", "10.200.0.11:80");
    assert_eq!(out.ask("one"), "one");
    assert_eq!(into.ask("one"), "one");
    assert_eq!(agent.seen().len(), 2);
    agent.capture.release(id).unwrap();
    assert!(agent.capture.pods()[0].released);
    assert!(is_direct(&rig.connect("a", "10.200.0.13:80")));
    assert!(is_direct(&rig.connect("e", "10.200.0.11:80")));
    assert_eq!(out.ask("two"), "two");
    assert_eq!(into.ask("two"), "two");
    // And back again, with the same id.
    assert_eq!(agent.enroll(&rig, "a"), id);
    assert!(!is_direct(&rig.connect("a", "10.200.0.13:80")));
    assert_eq!(out.ask("three"), "three");
}

#[test]
fn a_forgotten_pod_is_as_it_was() {
    let rig = Rig::new();
    let look = || {
        let sysctls = ["ipv4.tcp_fwmark_accept", "ipv4.fwmark_reflect", "ipv6.fwmark_reflect"]
            .map(|name| sh(&format!("nsenter --net={} sysctl -n net.{name}", rig.netns("a").display())));
        let routes =
            ["rule", "-6 rule", "route show table all", "-6 route show table all"].map(|what| rig.ip("a", what));
        (sysctls, routes)
    };
    let before = look();
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    assert_ne!(look(), before);
    agent.capture.release(id).unwrap();
    agent.capture.forget(id).unwrap();
    assert_eq!(look(), before);
    assert_eq!(agent.capture.pods(), []);
    assert!(fs::read_dir(rig.bpf_root.join("v1/pods")).unwrap().next().is_none());
    assert!(matches!(agent.capture.forget(id), Err(CaptureError::UnknownPod(_))));
}

#[test]
fn pods_of_an_earlier_agent_that_are_gone_are_forgotten() {
    let rig = Rig::new();
    rig.agent_process("").kill();
    let agent = rig.agent();
    assert!(rig.ip("b", "rule").contains("0x111"));
    let captured = agent.capture.enroll(&rig.spec("a")).unwrap();
    agent.capture.retain(&[captured.cookie]).unwrap();
    assert!(!rig.ip("b", "rule").contains("0x111"));
    assert!(rig.ip("a", "rule").contains("0x111"));
    assert_eq!(fs::read_dir(rig.bpf_root.join("v1/pods")).unwrap().count(), 1);
    assert!(matches!(agent.capture.pods().as_slice(), [pod] if pod.netns == rig.netns("a")));
    // A pod whose namespace is gone altogether.
    drop(agent);
    drop(captured);
    sh(&format!("ip netns del {0}a", rig.name));
    let agent = rig.agent();
    agent.capture.retain(&[]).unwrap();
    assert_eq!(fs::read_dir(rig.bpf_root.join("v1/pods")).unwrap().count(), 0);
}

#[test]
fn cleaning_up_leaves_nothing() {
    let rig = Rig::new();
    serve_all(&rig);
    let before = (rig.ip("a", "rule"), rig.ip("a", "-6 route show table all"));
    rig.agent_process(MESH).kill();
    assert_eq!(rig.connect("a", "10.200.0.13:80"), NOT_PERMITTED);
    let removed = Capture::cleanup(&rig.bpf_root).unwrap();
    assert!(removed.iter().any(|line| line.contains("rule and route")), "{removed:?}");
    assert!(removed.iter().any(|line| line.contains("/agent")), "{removed:?}");
    assert!(!rig.bpf_root.exists() && !rig.cgroup("agent").exists());
    assert_eq!((rig.ip("a", "rule"), rig.ip("a", "-6 route show table all")), before);
    assert!(is_direct(&rig.connect("a", "10.200.0.13:80")));
    assert!(is_direct(&rig.connect("e", "10.200.0.11:80")));
    assert_eq!(Capture::cleanup(&rig.bpf_root).unwrap(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_captured_is_refused_by_name_and_leaves_nothing() {
    let rig = Rig::new();
    let agent = rig.agent();
    let refuse = |netns: &str, addresses: &[&str]| {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        agent
            .capture
            .enroll(&PodSpec { owner: "test".to_owned(), netns: netns.into(), addresses })
            .unwrap_err()
            .to_string()
    };
    let missing = refuse("/run/netns/no-such-pod", &[]);
    assert!(missing.contains("/run/netns/no-such-pod") && missing.contains("No such file"), "{missing}");
    let host = refuse("/proc/self/ns/net", &[]);
    assert!(host.contains("hostNetwork"), "{host}");
    let file = refuse("/etc/hostname", &[]);
    assert!(file.contains("/etc/hostname"), "{file}");
    let before = rig.ip("a", "rule");
    let addresses = ["10.200.0.11", "10.200.0.99"].map(|ip| ip.parse().unwrap()).to_vec();
    let elsewhere = agent.capture.enroll(&PodSpec { addresses, ..rig.spec("a") }).unwrap_err();
    assert!(elsewhere.to_string().contains("10.200.0.99"), "{elsewhere}");
    // It is closed: one of its addresses shows that the namespace is its own.
    assert_eq!(agent.capture.reopen(elsewhere.closed.unwrap()).unwrap(), None);
    assert_eq!(rig.ip("a", "rule"), before);
    assert_eq!(agent.capture.pods(), []);
    assert!(fs::read_dir(rig.bpf_root.join("v1/pods")).unwrap().next().is_none());
}

#[test]
fn a_pod_without_ipv6_is_captured_for_ipv4() {
    let rig = Rig::new();
    rig.serve("c", "10.200.0.13:80");
    sh(&format!("nsenter --net={} sysctl -qw net.ipv6.conf.all.disable_ipv6=1", rig.netns("a").display()));
    let agent = rig.agent();
    let spec = PodSpec { addresses: vec!["10.200.0.11".parse().unwrap()], ..rig.spec("a") };
    agent.enroll_spec(&spec);
    agent.mesh(&["10.200.0.13/32"]);
    assert!(!rig.ip("a", "-6 rule").contains("0x111"));
    assert_eq!(word(&rig.connect("a", "10.200.0.13:80"), "peer"), "10.200.0.13:80");
    eventually("the connection is seen", || agent.seen().len() == 1);
}
