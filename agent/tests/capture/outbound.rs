//! Connections that leave a pod.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::proxy::{Kind, Seen};
use crate::rig::{Rig, address, addresses, eventually, sh, word};

fn parse(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn an_outbound_connection_reaches_the_agent_with_its_destination() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32", "fd00:200::13/128"]);
    rig.serve("c", "10.200.0.13:80 [fd00:200::13]:80");
    for (to, extra) in [("10.200.0.13:80", ""), ("[fd00:200::13]:80", ""), ("10.200.0.13:80", "--mapped")] {
        let line = rig.connect("a", &format!("{to} {extra}"));
        let own = address(&line, "local");
        assert!(addresses("a").contains(&own.ip()), "{line}");
        // The application sees the address that it called.
        assert_eq!(address(&line, "peer"), parse(to), "{line}");
        let expected = Seen { kind: Kind::Outbound, peer: own, called: parse(to) };
        assert_eq!(agent.seen(), [expected], "{to} {extra}");
        // The agent's own connection came from the pod, and was not captured again.
        let reply = line.split("reply=").nth(1).unwrap();
        assert_eq!(address(reply, "peer").ip(), own.ip(), "{line}");
        assert_ne!(address(reply, "peer").port(), own.port(), "{line}");
    }
}

#[test]
fn the_agent_is_known_by_its_cgroup_even_below_the_attached_one() {
    let rig = Rig::new();
    let mut config = rig.config();
    // The whole hierarchy: this process is below it too.
    config.attach_cgroup = rig.cgroup("").parent().map(Into::into);
    let agent = rig.agent_with(config);
    agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32"]);
    rig.serve("c", "10.200.0.13:80");
    let line = rig.connect("a", "10.200.0.13:80");
    assert_eq!(agent.seen().len(), 1, "{line}");
}

#[test]
fn loopback_and_connections_to_itself_are_left_alone() {
    let rig = Rig::new();
    let mut config = rig.config();
    config.proxy_all = true;
    let agent = rig.agent_with(config);
    agent.enroll(&rig, "a");
    rig.serve("a", "0.0.0.0:80 [::]:81");
    for to in ["127.0.0.1:80", "10.200.0.11:80", "[::1]:81", "[fd00:200::11]:81"] {
        let line = rig.connect("a", to);
        assert_eq!(address(&line, "peer"), parse(to), "{line}");
    }
    let line = rig.connect("a", "10.200.0.11:80 --mapped");
    assert_eq!(address(&line, "peer"), parse("10.200.0.11:80"), "{line}");
    assert_eq!(agent.seen(), []);
}

#[test]
fn a_new_address_of_a_pod_is_its_own_at_once() {
    let rig = Rig::new();
    let mut config = rig.config();
    config.proxy_all = true;
    let agent = rig.agent_with(config);
    agent.enroll(&rig, "a");
    rig.serve("a", "0.0.0.0:80");
    rig.ip("a", "addr add 10.222.0.1/32 dev eth0");
    eventually("the address is known", || agent.capture.pods()[0].addresses.contains(&"10.222.0.1".parse().unwrap()));
    rig.connect("a", "10.222.0.1:80");
    assert_eq!(agent.seen(), []);
    rig.ip("a", "addr del 10.222.0.1/32 dev eth0");
    eventually("the address is gone", || !agent.capture.pods()[0].addresses.contains(&"10.222.0.1".parse().unwrap()));
    rig.connect("a", "10.222.0.1:80");
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn a_pod_that_is_not_enrolled_is_left_alone() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    agent.mesh(&["0.0.0.0/0", "::/0"]);
    rig.serve("e", "10.201.0.2:80 [fd00:201::2]:80");
    rig.serve("c", "10.200.0.13:15008");
    for to in ["10.201.0.2:80", "[fd00:201::2]:80"] {
        let line = rig.connect("c", to);
        assert_eq!(address(line.split("reply=").nth(1).unwrap(), "peer"), address(&line, "local"), "{line}");
    }
    assert_eq!(address(&rig.connect("e", "10.200.0.13:15008"), "peer"), parse("10.200.0.13:15008"));
    assert_eq!(agent.seen(), []);
    assert_eq!(rig.ip("c", "rule"), rig.ip("e", "rule"));
}

#[test]
fn a_range_counts_as_the_mesh_and_can_be_removed() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    rig.serve("e", "10.201.0.2:80 [fd00:201::2]:80");
    agent.mesh(&["10.201.0.0/24", "fd00:201::/64"]);
    rig.connect("a", "10.201.0.2:80");
    rig.connect("a", "[fd00:201::2]:80");
    assert_eq!(agent.seen().len(), 2);
    agent.capture.update_mesh(&[], &["10.201.0.0/24".parse().unwrap()]).unwrap();
    rig.connect("a", "10.201.0.2:80");
    assert_eq!(agent.seen(), []);
    // What an earlier agent left goes with the next complete list.
    agent.mesh(&["10.201.0.2/32"]);
    rig.connect("a", "10.201.0.2:80");
    rig.connect("a", "[fd00:201::2]:80");
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn with_proxy_all_every_destination_is_captured() {
    let rig = Rig::new();
    let mut config = rig.config();
    config.proxy_all = true;
    let agent = rig.agent_with(config);
    agent.enroll(&rig, "a");
    rig.serve("e", "10.201.0.2:80");
    rig.connect("a", "10.201.0.2:80");
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn the_agents_own_connection_may_have_the_applications_port() {
    let rig = Rig::new();
    let mut config = rig.config();
    config.proxy_all = true;
    let agent = rig.agent_with(config);
    agent.enroll(&rig, "a");
    rig.serve("e", "10.201.0.2:80 [fd00:201::2]:80");
    let netns = rig.netns("a");
    sh(&format!("nsenter --net={} sysctl -qw net.ipv4.ip_local_port_range='40000 40000'", netns.display()));
    for to in ["10.201.0.2:80", "[fd00:201::2]:80"] {
        let line = rig.connect("a", to);
        assert_eq!(address(&line, "local").port(), 40_000, "{line}");
        let seen_there = address(line.split("reply=").nth(1).unwrap(), "peer");
        assert_eq!(seen_there.port(), 40_000, "{line}");
    }
    assert_eq!(agent.seen().len(), 2);
}

#[test]
fn applications_that_choose_interface_address_or_port_are_captured() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32"]);
    rig.serve("c", "10.200.0.13:80");
    for choice in ["--device eth0", "--bind 10.200.0.11:0", "--bind 10.200.0.11:7777", "--bind 10.200.0.11:7777"] {
        let line = rig.connect("a", &format!("10.200.0.13:80 {choice}"));
        assert_eq!(address(&line, "local").ip(), addresses("a")[0], "{choice}: {line}");
        assert_eq!(agent.seen().len(), 1, "{choice}");
        eventually("the port is free again", || !rig.ip("a", "-s link").is_empty());
    }
}

#[test]
fn a_socket_that_is_used_again_is_no_longer_redirected() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32"]);
    rig.serve("c", "10.200.0.13:80");
    rig.serve("e", "10.201.0.2:80");
    rig.serve("a", "127.0.0.1:80");
    let line = rig.connect("a", "10.201.0.2:80 --first 10.200.0.13:80");
    assert_eq!(address(line.split("reply=").nth(1).unwrap(), "peer"), address(&line, "local"), "{line}");
    assert_eq!(agent.seen().len(), 1);
    let line = rig.connect("a", "127.0.0.1:80 --first 10.200.0.13:80");
    assert_eq!(address(&line, "peer"), parse("127.0.0.1:80"), "{line}");
    // And the other way round.
    agent.seen();
    let line = rig.connect("a", "10.200.0.13:80 --first 10.201.0.2:80");
    assert_eq!(agent.seen().len(), 1, "{line}");
}

#[test]
fn a_lost_rule_leaks_nothing_and_is_restored() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    agent.mesh(&["10.201.0.2/32", "fd00:201::2/128"]);
    rig.serve("e", "10.201.0.2:80 [fd00:201::2]:80");
    let is_there = |v6: &str| rig.ip("a", &format!("{v6} rule")).contains("fwmark 0x111/0xfff");
    for round in 0..20 {
        // Whatever the watcher has put right by now: no connection goes past the agent.
        sh(&format!("ip -n {0}a rule flush; ip -n {0}a rule add pref 32766 lookup main", rig.name));
        sh(&format!("ip -n {0}a -6 rule flush; ip -n {0}a -6 rule add pref 32766 lookup main", rig.name));
        for to in ["10.201.0.2:80", "[fd00:201::2]:80"] {
            let line = rig.connect("a", to);
            if !line.starts_with("error") {
                let reply = line.split("reply=").nth(1).unwrap();
                assert_ne!(address(reply, "peer").port(), address(&line, "local").port(), "round {round}: {line}");
            }
        }
    }
    eventually("both rules are back", || is_there("-4") && is_there("-6"));
    sh(&format!("ip -n {}a route flush table 1500800111", rig.name));
    eventually("the route is back", || rig.ip("a", "route show table 1500800111").contains("local default dev lo"));
    agent.seen();
    assert_eq!(word(&rig.connect("a", "10.201.0.2:80"), "peer"), "10.201.0.2:80");
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn a_mesh_too_large_for_the_kernel_is_captured_with_everything_else() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    rig.serve("e", "10.201.0.2:80");
    let large: Vec<IpNet> =
        (0..70_000_u32).map(|n| IpNet::from(IpAddr::from((0x0b00_0000 + n).to_be_bytes()))).collect();
    agent.capture.replace_mesh(&large).unwrap();
    rig.connect("a", "10.201.0.2:80");
    assert_eq!(agent.seen().len(), 1);
    agent.capture.replace_mesh(&large[..10]).unwrap();
    rig.connect("a", "10.201.0.2:80");
    assert_eq!(agent.seen(), []);
}
