//! Connections that arrive at a pod.

use std::net::SocketAddr;

use agent::capture::Event;
use mesh::model::connection::Direction;
use mesh::model::policy::{PlaintextRules, PlaintextVerdict};

use crate::proxy::{Kind, Seen};
use crate::rig::{Rig, address, events, sh, word};

const REFUSED: &str = "error=111";

fn parse(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Both ends as the server sees them.
fn server_side(line: &str) -> (SocketAddr, SocketAddr) {
    let reply = line.split("reply=").nth(1).unwrap_or_else(|| panic!("no reply in {line:?}"));
    (address(reply, "peer"), address(reply, "local"))
}

#[test]
fn plaintext_passes_or_is_refused_or_is_judged() {
    let rig = Rig::new();
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    rig.serve("a", "0.0.0.0:80 [::]:81");
    for to in ["10.200.0.11:80", "[fd00:200::11]:81"] {
        agent.plaintext(id, PlaintextVerdict::Pass);
        let line = rig.connect("e", to);
        assert_eq!(server_side(&line), (address(&line, "local"), parse(to)), "{line}");
        assert_eq!(agent.seen(), []);

        agent.plaintext(id, PlaintextVerdict::Refuse);
        assert_eq!(rig.connect("e", to), REFUSED);
        assert_eq!(rig.connect("c", to), REFUSED);
        assert_eq!(rig.connect("host", to), REFUSED);

        agent.plaintext(id, PlaintextVerdict::Proxy);
        let line = rig.connect("e", to);
        let client = address(&line, "local");
        assert_eq!(agent.seen(), [Seen { kind: Kind::Plaintext, peer: client, called: parse(to) }]);
        // The application sees the client's address, through the agent.
        let (peer, local) = server_side(&line);
        assert_eq!((peer.ip(), local), (client.ip(), parse(to)), "{line}");
        assert_ne!(peer.port(), client.port());
        // From a range that clients do not choose from: both ends meet in one namespace.
        assert!((10_000..=32_767).contains(&peer.port()), "{line}");
    }
    let refused: Vec<Event> = events(&agent, 10).into_iter().filter(|e| matches!(e, Event::Refused { .. })).collect();
    assert_eq!(refused.len(), 6, "{refused:?}");
    let Event::Refused { pod, src, dst } = refused[0] else { unreachable!() };
    assert_eq!((pod, src.ip(), dst), (id, "10.201.0.2".parse().unwrap(), parse("10.200.0.11:80")));
}

#[test]
fn a_pod_that_was_just_enrolled_is_judged_by_the_agent() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    rig.serve("a", "0.0.0.0:80");
    rig.connect("e", "10.200.0.11:80");
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn a_closed_port_refuses_through_the_agent() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    let start = std::time::Instant::now();
    let line = rig.connect("e", "10.200.0.11:80 --say 'give 1'");
    // The client is connected to the agent, which learns from the application's reset that nobody listens.
    assert_eq!(line, "error=104");
    let line = rig.connect("e", "[fd00:200::11]:80 --say 'give 1'");
    assert_eq!(line, "error=104");
    assert!(start.elapsed().as_millis() < 900, "{:?}", start.elapsed());
    assert_eq!(agent.seen().len(), 2);
}

#[test]
fn ports_have_verdicts_of_their_own() {
    use PlaintextVerdict::{Pass, Proxy, Refuse};
    let rig = Rig::new();
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    rig.serve("a", "0.0.0.0:80 0.0.0.0:81 0.0.0.0:82");
    let answers = |agent: &crate::rig::Agent| {
        ["10.200.0.11:80", "10.200.0.11:81", "10.200.0.11:82"].map(|to| {
            let line = rig.connect("e", to);
            match (line.as_str(), agent.seen().len()) {
                (REFUSED, 0) => Refuse,
                (_, 0) => Pass,
                _ => Proxy,
            }
        })
    };
    for (default, ports, expected) in [
        (Refuse, vec![(80, Pass)], [Pass, Refuse, Refuse]),
        (Pass, vec![(81, Refuse), (82, Proxy)], [Pass, Refuse, Proxy]),
        (Proxy, vec![(80, Refuse), (81, Pass)], [Refuse, Pass, Proxy]),
        (Pass, vec![], [Pass, Pass, Pass]),
    ] {
        agent.capture.set_plaintext(id, &PlaintextRules { default, ports: ports.into() }).unwrap();
        assert_eq!(answers(&agent), expected);
    }
}

#[test]
fn the_port_of_hbone_reaches_its_listener_whatever_the_verdict() {
    let rig = Rig::new();
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    agent.plaintext(id, PlaintextVerdict::Refuse);
    for to in ["10.200.0.11:15008", "[fd00:200::11]:15008"] {
        for place in ["e", "c", "host"] {
            let line = rig.connect(place, to);
            assert!(word(&line, "reply").starts_with("hbone"), "{line}");
            assert_eq!(agent.seen(), [Seen { kind: Kind::Hbone, peer: address(&line, "local"), called: parse(to) }]);
        }
    }
}

#[test]
fn the_kubelet_passes_and_nobody_else_of_the_node_does() {
    let rig = Rig::new();
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    agent.plaintext(id, PlaintextVerdict::Refuse);
    rig.serve("a", "0.0.0.0:80 [::]:81");
    for to in ["10.200.0.11:80", "[fd00:200::11]:81"] {
        let line = rig.connect("kubelet", &format!("{to} --reset"));
        assert_eq!(server_side(&line).0, address(&line, "local"), "{line}");
        assert_eq!(rig.connect("host", to), REFUSED);
        // Not even from the address and port that the kubelet has just used.
        let own = address(&line, "local");
        assert_eq!(rig.connect("host", &format!("{to} --bind {own}")), REFUSED, "{own}");
    }
    let line = rig.connect("kubelet", "10.200.0.11:80 --mapped");
    assert_eq!(address(&line, "peer"), parse("10.200.0.11:80"));
    let found = events(&agent, 10);
    let probes = found.iter().filter(
        |event| matches!(event, Event::Closed { probe: true, direction: Direction::Inbound, pod, .. } if *pod == id),
    );
    assert_eq!(probes.count(), 3, "{found:?}");
    agent.plaintext(id, PlaintextVerdict::Proxy);
    rig.connect("kubelet", "10.200.0.11:80");
    assert_eq!(agent.seen(), []);
}

#[test]
fn kernels_that_do_not_tell_the_interface_get_the_same_answers() {
    let rig = Rig::new();
    let mut config = rig.config();
    config.by_tuple = true;
    let agent = rig.agent_with(config);
    let id = agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32", "fd00:200::13/128"]);
    rig.serve("a", "0.0.0.0:80 [::]:81");
    rig.serve("c", "10.200.0.13:80 [fd00:200::13]:80");
    for to in ["10.200.0.13:80", "[fd00:200::13]:80"] {
        let line = rig.connect("a", to);
        assert_eq!(agent.seen(), [Seen { kind: Kind::Outbound, peer: address(&line, "local"), called: parse(to) }]);
    }
    for to in ["10.200.0.11:80", "[fd00:200::11]:81"] {
        agent.plaintext(id, PlaintextVerdict::Proxy);
        let line = rig.connect("e", to);
        assert_eq!(server_side(&line).0.ip(), address(&line, "local").ip(), "{line}");
        assert_eq!(agent.seen().len(), 1);
        agent.plaintext(id, PlaintextVerdict::Refuse);
        assert_eq!(rig.connect("e", to), REFUSED);
        server_side(&rig.connect("kubelet", to));
        server_side(&rig.connect("a", to));
        agent.plaintext(id, PlaintextVerdict::Pass);
        server_side(&rig.connect("e", to));
        assert_eq!(agent.seen(), []);
    }
    assert!(word(&rig.connect("e", "10.200.0.11:15008"), "reply").starts_with("hbone"));
}

#[test]
fn strict_reverse_path_filtering_is_no_obstacle() {
    let rig = Rig::new();
    let agent = rig.agent();
    for name in ["all", "eth0", "lo"] {
        sh(&format!("nsenter --net={} sysctl -qw net.ipv4.conf.{name}.rp_filter=1", rig.netns("a").display()));
    }
    agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32"]);
    rig.serve("a", "0.0.0.0:80");
    rig.serve("c", "10.200.0.13:80");
    server_side(&rig.connect("a", "10.200.0.13:80"));
    server_side(&rig.connect("e", "10.200.0.11:80"));
    assert_eq!(agent.seen().len(), 2);
}

#[test]
fn many_connections_of_one_client_do_not_collide() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    rig.serve("a", "0.0.0.0:80");
    for _ in 0..3 {
        let line = rig.connect("e", "10.200.0.11:80 --parallel 300");
        assert_eq!(line, "answered=300");
    }
    assert_eq!(agent.seen().len(), 900);
}
