//! What one pod does to its namespace harms that pod alone: with NET_ADMIN it destroys listeners, fills tables, flushes
//! rules, and the others go on; and what is not a pod's own namespace is not captured for it.

use std::fs;
use std::time::{Duration, Instant};

use agent::capture::{Kind, Listener, PodSpec, addresses_shown};
use agent_abi::{AddressKey, BindKey, Place, Pod, VerdictKey};
use aya::maps::{HashMap, Map, MapData};
use mesh::model::policy::{PlaintextRules, PlaintextVerdict};

use crate::rig::{Agent, Rig, eventually, sh, word};

const REFUSED: &str = "error=111";
const NOT_PERMITTED: &str = "error=1";

/// How many entries a pinned map has.
fn entries(rig: &Rig, map: &str) -> usize {
    fn count<K: aya::Pod, V: aya::Pod>(map: Map) -> usize {
        HashMap::<_, K, V>::try_from(map).unwrap().keys().map(Result::unwrap).count()
    }
    let data = MapData::from_pin(rig.bpf_root.join("v1/maps").join(map)).unwrap();
    let pinned = Map::from_map_data(data).unwrap();
    match map {
        "OWN" => count::<AddressKey, u32>(pinned),
        "BINDS" => count::<BindKey, u32>(pinned),
        "VERDICTS" => count::<VerdictKey, u32>(pinned),
        "CLOSED" => count::<u64, u32>(pinned),
        "PLACES" => count::<u64, Place>(pinned),
        _ => count::<u64, Pod>(pinned),
    }
}

/// Destroys listeners in a pod. `ss` may pass over some while it walks through what it changes.
fn destroy(rig: &Rig, pod: &str, what: &str) {
    for _ in 0..4 {
        sh(&format!("nsenter --net={} ss -K state listening {what}", rig.netns(pod).display()));
    }
}

/// Runs `ip -batch` in a namespace.
fn batch(rig: &Rig, pod: &str, lines: impl Iterator<Item = String>) {
    let file = format!("/tmp/{}-batch", rig.name);
    fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    sh(&format!("ip -n {}{pod} -batch {file}", rig.name));
    fs::remove_file(&file).unwrap();
}

fn strict(agent: &Agent, id: u32) {
    agent.plaintext(id, PlaintextVerdict::Refuse);
}

#[test]
fn a_pod_with_seventeen_thousand_addresses_takes_no_room_from_the_next() {
    let rig = Rig::new();
    rig.serve("b", "0.0.0.0:80");
    let address = |n: u32| format!("10.99.{}.{}", n / 256, n % 256);
    let agent = rig.agent();
    let a = agent.enroll(&rig, "a");
    strict(&agent, a);
    batch(&rig, "a", (0..17_000).map(|n| format!("addr add {}/32 dev lo", address(n))));
    // The pod is looked at, and gets its share.
    agent.capture.repair(a).unwrap();
    let status = agent.capture.pods().remove(0);
    assert!(status.addresses.len() <= 136, "{}", status.addresses.len());
    assert!(rig.spec("a").addresses.iter().all(|ip| status.addresses.contains(ip)), "its own come first");
    assert!(status.note.unwrap().contains("over its quota"));
    assert!(!status.closed);
    assert!(entries(&rig, "OWN") <= 136);

    let b = agent.enroll(&rig, "b");
    strict(&agent, b);
    assert_eq!(rig.connect("e", "10.200.0.12:80"), REFUSED);
    assert_eq!(rig.connect("e", "10.200.0.11:80"), REFUSED);
    assert_eq!(rig.connect("e", "[fd00:200::12]:80"), REFUSED);

    // What goes is given back.
    sh(&format!("ip -n {}a addr flush dev lo", rig.name));
    eventually("the entries are taken out", || entries(&rig, "OWN") <= 8);
    for id in [a, b] {
        agent.capture.release(id).unwrap();
        agent.capture.forget(id).unwrap();
    }
    assert_eq!(entries(&rig, "OWN") + entries(&rig, "VERDICTS") + entries(&rig, "BINDS") + entries(&rig, "PODS"), 0);
}

#[test]
fn a_pod_that_has_too_many_addresses_to_be_read_is_captured_by_its_own() {
    let rig = Rig::new();
    batch(&rig, "a", (0..5_000).map(|n| format!("addr add 10.98.{}.{}/32 dev lo", n / 256, n % 256)));
    batch(&rig, "a", (0..5_000).map(|n| format!("addr add fd98::{n:x}/128 dev lo")));
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    let status = agent.capture.pods().remove(0);
    assert!(rig.spec("a").addresses.iter().all(|ip| status.addresses.contains(ip)), "{:?}", status.addresses);
    // What it does not have is not believed, however many it has.
    let spec = PodSpec { addresses: vec!["10.200.0.99".parse().unwrap()], ..rig.spec("a") };
    agent.capture.release(status.id).unwrap();
    agent.capture.forget(status.id).unwrap();
    let refused = agent.capture.enroll(&spec).unwrap_err();
    assert!(refused.to_string().contains("10.200.0.99"), "{refused}");
}

#[test]
fn ports_with_verdicts_beyond_the_quota_are_left_to_the_agent_and_no_room_is_taken_from_others() {
    let rig = Rig::new();
    let agent = rig.agent();
    let (a, b) = (agent.enroll(&rig, "a"), agent.enroll(&rig, "b"));
    let rules = |ports: u16| PlaintextRules {
        default: PlaintextVerdict::Pass,
        ports: (1..=ports).map(|port| (port, PlaintextVerdict::Refuse)).collect(),
    };
    agent.capture.set_plaintext(a, &rules(16_000)).unwrap();
    assert!(entries(&rig, "VERDICTS") <= 520, "{}", entries(&rig, "VERDICTS"));
    rig.serve("a", "0.0.0.0:80");
    rig.serve("b", "0.0.0.0:80 [::]:81");
    agent.capture.set_plaintext(b, &rules(80)).unwrap();
    assert_eq!(rig.connect("e", "10.200.0.12:80"), REFUSED);
    assert!(rig.connect("e", "[fd00:200::12]:81").starts_with("local="));
    // The agent is asked about all ports of the other.
    assert!(rig.connect("e", "10.200.0.11:80").starts_with("local="));
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn destroyed_listeners_close_the_pod_and_are_made_anew() {
    let rig = Rig::new();
    rig.serve("a", "0.0.0.0:80");
    rig.serve("c", "10.200.0.13:80");
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    agent.plaintext(id, PlaintextVerdict::Proxy);
    agent.mesh(&["10.200.0.13/32"]);
    assert!(agent.capture.gone().is_empty());
    destroy(&rig, "a", "src 127.0.0.1");
    let gone = agent.capture.gone();
    // Listeners are looked up by the pod's own program, which finds that of HBONE only for its port: `ss` cannot name
    // it.
    let all = [Kind::Outbound, Kind::Plaintext].map(|kind| (id, Listener { kind, v6: false }));
    assert!(all.iter().all(|one| gone.contains(one)), "{gone:?}");
    // Closed, without anybody having said so.
    assert_eq!(rig.connect("a", "10.200.0.13:80"), NOT_PERMITTED);
    assert_eq!(rig.connect("e", "10.200.0.11:80"), REFUSED);
    agent.capture.without_listener(id, true).unwrap();
    for port in [80, 15008] {
        assert_eq!(rig.connect("e", &format!("10.200.0.11:{port}")), REFUSED);
    }
    assert!(agent.capture.pods()[0].closed);
    for (_, which) in gone {
        agent.listen_again(id, which, &rig.spec("a").addresses);
        assert_eq!(rig.connect("a", "10.200.0.13:80"), NOT_PERMITTED, "before all are back");
    }
    agent.capture.without_listener(id, false).unwrap();
    assert!(agent.capture.gone().is_empty());
    assert!(!agent.capture.pods()[0].closed);
    assert_eq!(word(&rig.connect("a", "10.200.0.13:80"), "peer"), "10.200.0.13:80");
    assert!(rig.connect("e", "10.200.0.11:80").starts_with("local="));
    assert_eq!(agent.seen().len(), 2);
}

#[test]
fn destroyed_listeners_close_a_pod_even_when_it_would_be_open_without_an_agent() {
    let rig = Rig::new();
    rig.serve("a", "0.0.0.0:80");
    let mut config = rig.config();
    config.fail_closed = false;
    let agent = rig.agent_with(config);
    let id = agent.enroll(&rig, "a");
    agent.plaintext(id, PlaintextVerdict::Proxy);
    destroy(&rig, "a", "src 127.0.0.1");
    agent.capture.without_listener(id, true).unwrap();
    assert_eq!(rig.connect("e", "10.200.0.11:80"), REFUSED);
    assert_eq!(rig.connect("a", "10.201.0.2:80"), NOT_PERMITTED);
}

#[test]
fn what_is_changed_in_a_pod_is_put_right() {
    let rig = Rig::new();
    rig.serve("c", "10.200.0.13:80");
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32", "fd00:201::2/128"]);
    let inside = |command: &str| sh(&format!("nsenter --net={} {command}", rig.netns("a").display()));
    let good = || {
        let rules = rig.ip("a", "rule").contains("0x111") && rig.ip("a", "-6 rule").contains("0x111");
        let routes = rig.ip("a", "route show table 1500800111").contains("local")
            && rig.ip("a", "-6 route show table 1500800111").contains("local");
        rules && routes && rig.ip("a", "link show lo").contains("UP")
    };
    for harm in [
        "ip rule flush",
        "ip -6 rule flush",
        "ip route flush table 1500800111",
        "ip -6 route flush table 1500800111",
        "ip link set lo down",
        "ip route replace table 1500800111 local default dev lo src 127.0.0.1",
        "ip addr flush dev lo",
    ] {
        inside(harm);
        eventually(harm, &good);
        // The flush took those with it that are not ours.
        inside(
            "sh -c 'ip rule add pref 32766 lookup main 2>/dev/null; ip rule add pref 0 lookup local 2>/dev/null; true'",
        );
        inside(
            "sh -c 'ip -6 rule add pref 32766 lookup main 2>/dev/null; ip -6 rule add pref 0 lookup local 2>/dev/null; true'",
        );
        assert_eq!(word(&rig.connect("a", "10.200.0.13:80"), "peer"), "10.200.0.13:80", "{harm}");
        assert_eq!(agent.seen().len(), 1, "{harm}");
    }
    // Nobody tells of these.
    for name in ["ipv4.tcp_fwmark_accept", "ipv4.fwmark_reflect", "ipv6.fwmark_reflect"] {
        inside(&format!("sysctl -qw net.{name}=0"));
        agent.capture.repair(id).unwrap();
        assert_eq!(inside(&format!("sysctl -n net.{name}")).trim(), "1");
    }
    // Nor of what is done to the pins.
    for pin in
        fs::read_dir(rig.bpf_root.join("v1/pods")).unwrap().chain(fs::read_dir(rig.bpf_root.join("v1/links")).unwrap())
    {
        fs::remove_file(pin.unwrap().path()).unwrap();
    }
    eventually("nothing is captured any more", || {
        let direct = !rig.connect("a", "10.200.0.13:80").starts_with("error");
        direct && agent.seen().is_empty()
    });
    agent.capture.repair(id).unwrap();
    agent.capture.repair_node().unwrap();
    rig.connect("a", "10.200.0.13:80");
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn a_pod_without_any_of_its_addresses_is_closed_until_it_has_one_again() {
    let rig = Rig::new();
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    rig.ip("a", "addr del 10.200.0.11/32 dev eth0");
    eventually("it is told of", || agent.capture.pods()[0].note.is_some());
    assert!(!agent.capture.pods()[0].closed, "it has another");
    rig.ip("a", "-6 addr del fd00:200::11/128 dev eth0");
    eventually("it is closed", || agent.capture.pods()[0].closed);
    rig.ip("a", "addr add 10.200.0.11/32 dev eth0");
    eventually("it is open", || !agent.capture.pods()[0].closed);
    agent.capture.repair(id).unwrap();
}

#[test]
fn a_pod_that_changes_all_the_time_does_not_keep_others_waiting() {
    let rig = Rig::new();
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    agent.enroll(&rig, "b");
    let flap = "while :; do echo addr add 10.97.0.1/32 dev lo; echo addr del 10.97.0.1/32 dev lo; done";
    sh(&format!("timeout 3 sh -c '({flap}) | ip -n {}a -batch -' > /dev/null 2>&1 &", rig.name));
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    rig.ip("b", "rule flush");
    eventually("the other is repaired", || rig.ip("b", "rule").contains("0x111"));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_namespace_has_one_owner_and_the_second_claimant_changes_nothing() {
    let rig = Rig::new();
    rig.serve("c", "10.200.0.13:80");
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32"]);
    for addresses in [vec!["127.0.0.1"], vec!["10.200.0.12"], vec!["fe80::1"], vec![], vec!["10.200.0.11"]] {
        let addresses = addresses.into_iter().map(|ip| ip.parse().unwrap()).collect();
        let thief = PodSpec { owner: "default/thief".to_owned(), netns: rig.netns("a"), addresses };
        let refused = agent.capture.enroll(&thief).unwrap_err();
        assert_eq!(refused.closed, None, "{refused}");
        rig.connect("a", "10.200.0.13:80");
        assert_eq!(agent.seen().len(), 1, "{refused}");
    }
    let thief = PodSpec { owner: "default/thief".to_owned(), ..rig.spec("a") };
    let refused = agent.capture.enroll(&thief).unwrap_err().to_string();
    assert!(refused.contains("default/thief") && refused.contains(&rig.spec("a").owner), "{refused}");
    // Once its owner has left it, it may be another's.
    agent.capture.release(id).unwrap();
    assert_eq!(agent.enroll_spec(&thief), id);
    let refused = agent.capture.enroll(&rig.spec("a")).unwrap_err().to_string();
    assert!(refused.contains("default/thief"), "{refused}");
}

#[test]
fn the_owner_of_a_namespace_is_known_to_the_next_agent() {
    let rig = Rig::new();
    rig.agent_process("").kill();
    let agent = rig.agent();
    let other = PodSpec { owner: "default/other".to_owned(), ..rig.spec("a") };
    let refused = agent.capture.enroll(&other).unwrap_err();
    assert!(refused.to_string().contains("default/other") && refused.closed.is_none(), "{refused}");
    agent.enroll(&rig, "a");
    // Nobody comes for the other one: after the first round it may be another's.
    let other = PodSpec { owner: "default/other".to_owned(), ..rig.spec("b") };
    assert!(agent.capture.enroll(&other).is_err());
    agent.capture.settle();
    agent.enroll_spec(&other);
}

#[test]
fn a_pod_that_cannot_be_captured_is_closed_until_nobody_wants_it_captured() {
    let rig = Rig::new();
    rig.serve("a", "0.0.0.0:80 [::]:81");
    rig.serve("c", "10.200.0.13:80");
    let agent = rig.agent();
    // One address is there, the other is not.
    let spec =
        PodSpec { addresses: vec!["10.200.0.11".parse().unwrap(), "10.200.0.99".parse().unwrap()], ..rig.spec("a") };
    let before = rig.ip("a", "rule");
    let refused = agent.capture.enroll(&spec).unwrap_err();
    let cookie = refused.closed.expect("it is closed");
    assert_eq!((rig.ip("a", "rule"), entries(&rig, "PODS"), entries(&rig, "CLOSED")), (before, 0, 1));
    for to in ["10.200.0.11:80", "[fd00:200::11]:81", "10.200.0.11:15008"] {
        assert_eq!(rig.connect("e", to), REFUSED, "{to}");
        assert_eq!(rig.connect("host", to), REFUSED, "{to}");
    }
    for to in ["10.200.0.13:80", "10.201.0.2:80"] {
        assert_eq!(rig.connect("a", to), NOT_PERMITTED, "{to}");
    }
    assert!(!rig.connect("a", "127.0.0.1:80").starts_with("error"), "with itself it may talk");
    assert!(!rig.connect("kubelet", "10.200.0.11:80").starts_with("error"), "the kubelet is proven");
    assert!(rig.connect("e", "10.200.0.13:80").starts_with("local="), "others notice nothing");
    assert!(agent.capture.counters().unwrap().closed > 0);

    // Captured, it is open to what policy allows.
    let id = agent.enroll(&rig, "a");
    agent.plaintext(id, PlaintextVerdict::Pass);
    assert!(rig.connect("e", "10.200.0.11:80").starts_with("local="));
    assert_eq!(entries(&rig, "CLOSED"), 0);
    // Enrolling it anew fails: closed again, under its number.
    agent.capture.release(id).unwrap();
    assert_eq!(agent.capture.enroll(&spec).unwrap_err().closed, Some(cookie));
    assert_eq!(rig.connect("e", "10.200.0.11:80"), REFUSED);
    assert_eq!(rig.connect("a", "10.200.0.13:80"), NOT_PERMITTED);
    assert_eq!(agent.capture.reopen(cookie).unwrap(), Some(id));
    assert!(rig.connect("e", "10.200.0.11:80").starts_with("local="));
    agent.capture.forget(id).unwrap();

    // And closed without ever having been captured: opened by its cookie, and by the next agent that does not want it.
    assert_eq!(agent.capture.enroll(&spec).unwrap_err().closed, Some(cookie));
    assert_eq!(rig.connect("e", "10.200.0.11:80"), REFUSED);
    assert_eq!(agent.capture.reopen(cookie).unwrap(), None);
    assert!(rig.connect("e", "10.200.0.11:80").starts_with("local="));
    agent.capture.enroll(&spec).unwrap_err();
    drop(agent);
    let next = rig.agent();
    assert_eq!(rig.connect("e", "10.200.0.11:80"), REFUSED);
    next.capture.retain(&[cookie]).unwrap();
    assert_eq!(rig.connect("e", "10.200.0.11:80"), REFUSED, "it is still wanted");
    next.capture.retain(&[]).unwrap();
    assert!(rig.connect("e", "10.200.0.11:80").starts_with("local="));
}

#[test]
fn nobody_can_close_a_namespace_that_is_not_shown_to_be_its_own() {
    let rig = Rig::new();
    rig.serve("b", "0.0.0.0:80");
    let agent = rig.agent();
    for addresses in [vec!["10.200.0.11"], vec!["127.0.0.1"], vec!["0.0.0.0"], vec!["::1"], vec![]] {
        let addresses = addresses.into_iter().map(|ip| ip.parse().unwrap()).collect();
        let thief = PodSpec { owner: "default/thief".to_owned(), netns: rig.netns("b"), addresses };
        assert_eq!(agent.capture.enroll(&thief).unwrap_err().closed, None);
        assert!(rig.connect("e", "10.200.0.12:80").starts_with("local="));
    }
    assert_eq!(entries(&rig, "PODS") + entries(&rig, "PLACES") + entries(&rig, "CLOSED"), 0);
}

#[test]
fn what_is_not_a_network_namespace_is_refused_at_once() {
    let rig = Rig::new();
    let agent = rig.agent();
    let directory = format!("/tmp/{}-paths", rig.name);
    fs::create_dir_all(format!("{directory}/dir")).unwrap();
    fs::write(format!("{directory}/file"), "").unwrap();
    let fifo = format!("{directory}/fifo");
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (to, name) in
        [("/proc/1/ns/net", "host"), ("/proc/self/ns/net", "self"), ("loop", "loop"), (fifo.as_str(), "link")]
    {
        std::os::unix::fs::symlink(to, format!("{directory}/{name}")).unwrap();
    }
    // Not every machine lets its root look at process 1.
    let host = if fs::metadata("/proc/1/ns/net").is_ok() { "node's own" } else { "Permission denied" };
    for (path, expected) in [
        (format!("{directory}/fifo"), "FIFO"),
        (format!("{directory}/link"), "FIFO"),
        (format!("{directory}/dir"), "directory"),
        (format!("{directory}/file"), "a file"),
        (format!("{directory}/loop"), "symbolic links"),
        (format!("{directory}/host"), host),
        (format!("{directory}/self"), "node's own"),
        ("/proc/1/ns/net".to_owned(), host),
        ("/proc/self/ns/mnt".to_owned(), "another kind"),
        ("/dev/zero".to_owned(), "device"),
        ("/dev/watchdog-that-is-not-there".to_owned(), "No such file"),
        ("/sys/fs/bpf".to_owned(), "directory"),
        (String::new(), "No such file"),
    ] {
        let began = Instant::now();
        let spec = PodSpec { netns: path.clone().into(), ..rig.spec("a") };
        let refused = agent.capture.enroll(&spec).unwrap_err();
        assert!(refused.to_string().contains(expected) && refused.closed.is_none(), "{path}: {refused}");
        assert!(began.elapsed() < Duration::from_millis(500), "{path}: {:?}", began.elapsed());
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_kernel_says_which_addresses_a_namespace_has() {
    let rig = Rig::new();
    let asked = ["10.200.0.11", "10.200.0.12", "127.0.0.1", "fd00:200::11"].map(|ip| ip.parse().unwrap());
    let shown = addresses_shown(&rig.netns("a"), &asked).unwrap();
    assert_eq!(shown, [asked[0], asked[3]]);
    assert!(addresses_shown("/proc/self/ns/net".as_ref(), &asked).is_err());
    assert!(addresses_shown("/etc/hostname".as_ref(), &asked).is_err());
}

#[test]
fn an_interface_that_is_called_lo_is_not_taken_for_loopback() {
    let rig = Rig::new();
    rig.serve("c", "10.200.0.13:80");
    let agent = rig.agent();
    agent.enroll(&rig, "a");
    agent.mesh(&["10.200.0.13/32"]);
    // The way out takes the name of loopback.
    sh(&format!(
        "exec 2>&1; n={}a; ip -n $n link set lo down; ip -n $n link set lo name nolo; ip -n $n link set nolo up
        ip -n $n link set eth0 down; ip -n $n link set eth0 name lo; ip -n $n link set lo up
        ip -n $n route add 10.200.0.1 dev lo scope link; ip -n $n route add default via 10.200.0.1",
        rig.name
    ));
    assert_eq!(rig.connect("a", "10.200.0.13:80"), NOT_PERMITTED);
    assert_eq!(agent.seen().len(), 0);
}

#[test]
fn what_a_pod_listens_on_and_binds_does_not_keep_its_listeners_from_being_made() {
    let rig = Rig::new();
    let agent = rig.agent();
    let id = agent.enroll(&rig, "a");
    let netns = rig.netns("a");
    sh(&format!(
        "nsenter --net={} sysctl -qw net.core.somaxconn=0 net.ipv4.ip_local_port_range='40000 40001'",
        netns.display()
    ));
    destroy(&rig, "a", "");
    let gone = agent.capture.gone();
    assert!(gone.len() >= 4, "{gone:?}");
    for (_, which) in gone {
        drop(agent.capture.listen_again(id, which).unwrap());
    }
}
