//! Connections that the agent does not carry are counted to the byte.

use agent::capture::Event;
use mesh::model::connection::Direction;
use mesh::model::policy::PlaintextVerdict;

use crate::rig::{Agent, Rig, events};

/// Bytes that the pod sent and received in the one connection there was, with its direction.
fn counted(agent: &Agent) -> (Direction, u64, u64) {
    let found = events(agent, 2);
    let [Event::Opened { pod, src, dst, direction, probe: false }, closed] = found[..] else { panic!("{found:?}") };
    let Event::Closed { sent, received, duration, .. } = closed else { panic!("{closed:?}") };
    assert!(!duration.is_zero() && duration.as_secs() < 5, "{duration:?}");
    let same = Event::Closed { pod, direction, src, dst, sent, received, duration, probe: false };
    assert_eq!(closed, same);
    (direction, sent, received)
}

/// Ways to talk and to end, with the bytes that the client sends and receives.
const TALKS: [(&str, u64, u64); 8] = [
    // The server closes first.
    ("--say 'give 0'", 7, 0),
    ("--say 'give 1'", 7, 1),
    ("--say 'give 3000000'", 13, 3_000_000),
    // The client closes first.
    ("--say 'take 1000' --send 1000 --read 3", 10 + 1000, 3),
    ("--say 'take 5000000' --send 5000000 --read 3", 13 + 5_000_000, 3),
    // The client closes its half first, then the server.
    ("--say 'both 70000 90000' --send 70000 --half-close", 17 + 70_000, 90_000),
    ("--say 'both 0 0' --half-close", 9, 0),
    // A reset.
    ("--say 'take 500' --send 500 --read 3 --reset", 9 + 500, 3),
];

#[test]
fn outbound_connections_outside_the_mesh_are_counted_to_the_byte() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    rig.serve("e", "10.201.0.2:80 [fd00:201::2]:80");
    for to in ["10.201.0.2:80", "[fd00:201::2]:80"] {
        for (talk, sent, received) in TALKS {
            let line = rig.connect("a", &format!("{to} {talk}"));
            assert_eq!(counted(&agent), (Direction::Outbound, sent, received), "{to} {talk}: {line}");
        }
    }
    rig.connect("a", "10.201.0.2:80 --mapped --say 'give 10'");
    assert_eq!(counted(&agent), (Direction::Outbound, 8, 10));
    assert_eq!(agent.seen(), []);
    assert_eq!(agent.capture.counters().unwrap().events_lost, 0);
}

#[test]
fn allowed_plaintext_is_counted_to_the_byte() {
    let rig = Rig::new();
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    agent.plaintext(id, PlaintextVerdict::Pass);
    rig.serve("a", "0.0.0.0:80 [::]:81");
    for to in ["10.200.0.11:80", "[fd00:200::11]:81"] {
        for (talk, received, sent) in TALKS {
            let line = rig.connect("e", &format!("{to} {talk}"));
            assert_eq!(counted(&agent), (Direction::Inbound, sent, received), "{to} {talk}: {line}");
        }
    }
    assert_eq!(agent.seen(), []);
}

#[test]
fn a_connection_that_fails_is_reported() {
    let rig = Rig::new();
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    assert_eq!(rig.connect("a", "10.201.0.2:9"), "error=111");
    let found = events(&agent, 1);
    let [Event::Failed { pod, src, dst }] = found[..] else { panic!("{found:?}") };
    assert_eq!((pod, dst), (id, "10.201.0.2:9".parse().unwrap()));
    assert_eq!(src.ip(), rig.spec("a").addresses[0]);
}

#[test]
fn what_the_agent_carries_or_makes_is_not_counted() {
    let rig = Rig::new();
    let mut config = rig.config();
    config.attach_cgroup = rig.cgroup("").parent().map(Into::into);
    let agent = rig.agent_with(config);
    let id = agent.enroll(&rig, "a");
    agent.plaintext(id, PlaintextVerdict::Proxy);
    agent.mesh(&["10.200.0.13/32"]);
    rig.serve("a", "0.0.0.0:80 [::]:81");
    rig.serve("c", "10.200.0.13:80");
    rig.connect("a", "10.200.0.13:80");
    rig.connect("e", "10.200.0.11:80");
    rig.connect("e", "[fd00:200::11]:81");
    rig.connect("e", "10.200.0.11:15008");
    rig.connect("a", "127.0.0.1:80");
    rig.connect("a", "10.200.0.11:80");
    assert_eq!(agent.seen().len(), 4);
    // Another one that is counted ends the wait.
    rig.connect("a", "10.201.0.2:9");
    let found = events(&agent, 1);
    assert!(matches!(found[..], [Event::Failed { .. }]), "{found:?}");
}
