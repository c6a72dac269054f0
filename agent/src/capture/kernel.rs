//! Probes what this kernel supports, before anything is attached: the lines of `culvert check`. Features are tried
//! rather than derived from a version: distributions backport them.

use std::fs;
use std::path::Path;

use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_prog_type};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::bpf::{self, ProgramKind};
use super::cgroup::Hierarchy;
use super::object;
use super::option;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Fine.
    Ok,
    /// Capture works, with a drawback.
    Warn,
    /// Capture will not work.
    Error,
}

/// One line of `culvert check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// The result.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// The remedy; empty if none is needed.
    pub hint: &'static str,
}

/// Bits of CapEff in /proc/self/status (capabilities(7)).
const CAPABILITIES: [(u32, &str); 2] = [(12, "NET_ADMIN"), (21, "SYS_ADMIN")];
/// Offset of `ingress_ifindex` in `struct bpf_sk_lookup`.
const INGRESS_IFINDEX: i16 = 64;
/// bpf_get_netns_cookie (enum bpf_func_id).
const GET_NETNS_COOKIE: i32 = 122;

/// Checks everything that capture needs. Needs root, changes nothing.
pub fn probe() -> Vec<Check> {
    vec![
        release(),
        capabilities(),
        embedded(),
        jit(),
        cgroups(),
        bpf_filesystem(),
        programs(),
        interface(),
        netns_cookie(),
        marks(),
    ]
}

/// Why pods of this RuntimeClass (or handler) cannot be captured: the host kernel does not run their TCP stack.
pub fn unsupported_runtime(class: &str) -> Option<&'static str> {
    let class = class.to_ascii_lowercase();
    if class.contains("gvisor") || class.contains("runsc") {
        return Some("gVisor has its own TCP, which eBPF cannot see");
    }
    class.contains("kata").then_some("a Kata pod is a virtual machine, whose TCP eBPF cannot see")
}

fn check(name: &'static str, level: Level, message: impl Into<String>, hint: &'static str) -> Check {
    Check { name, level, message: message.into(), hint }
}

/// `found` or an error with `message` and `hint`.
fn required(name: &'static str, works: bool, found: &str, missing: &str, hint: &'static str) -> Check {
    if works { check(name, Level::Ok, found, "") } else { check(name, Level::Error, missing, hint) }
}

fn release() -> Check {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = text.trim();
    let mut numbers = text.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // RHEL 9's 5.14 kernel has the required features; the other checks tell.
    let level = if version >= (5, 15) { Level::Ok } else { Level::Warn };
    check("kernel", level, format!("Linux {text}"), if level == Level::Ok { "" } else { "5.15 or newer is tested" })
}

fn capabilities() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect();
    let message = format!("missing: {}", missing.join(", "));
    required(
        "capabilities",
        missing.is_empty(),
        "SYS_ADMIN and NET_ADMIN",
        &message,
        "run as root, or give both to the container",
    )
}

fn embedded() -> Check {
    let hint = "run `cargo xtask build-ebpf`, then build culvert again";
    required("eBPF object", object::is_embedded(), "embedded", "this culvert was built without it", hint)
}

fn jit() -> Check {
    let on = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|text| text.trim() != "0");
    if on {
        check("eBPF compiler", Level::Ok, "on", "")
    } else {
        check("eBPF compiler", Level::Warn, "off: programs are interpreted", "sysctl net.core.bpf_jit_enable=1")
    }
}

fn cgroups() -> Check {
    match Hierarchy::find() {
        Ok(Some(found)) if found.pure => {
            check("cgroup2", Level::Ok, format!("{}; pods below {}", found.root.display(), found.pods().display()), "")
        }
        Ok(Some(found)) => check("cgroup2", Level::Ok, format!("{}, beside cgroup v1", found.root.display()), ""),
        Ok(None) => check("cgroup2", Level::Warn, "not mounted; the agent will mount it for itself", ""),
        Err(error) => check("cgroup2", Level::Error, error.to_string(), "CONFIG_CGROUP_BPF"),
    }
}

fn bpf_filesystem() -> Check {
    if statfs("/sys/fs/bpf").is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return check("bpffs", Level::Ok, "/sys/fs/bpf", "");
    }
    if Path::new("/sys/fs/bpf").is_dir() {
        return check("bpffs", Level::Warn, "not mounted; the agent will mount it at /sys/fs/bpf", "");
    }
    check("bpffs", Level::Error, "there is no /sys/fs/bpf", "CONFIG_BPF_SYSCALL; in a container mount the host's")
}

const fn instruction(code: u8, registers: u8, off: i16, imm: i32) -> bpf_insn {
    // Destination and source register share a byte, lower nibble first.
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: aya_obj::generated::__BindgenBitfieldUnit::new([registers]),
        off,
        imm,
    }
}

/// r0 = 1; exit
const RETURN_ONE: [bpf_insn; 2] = [instruction(0xb7, 0, 0, 1), instruction(0x95, 0, 0, 0)];

/// Whether the verifier accepts a program that executes `what` and returns 1.
fn takes(program: bpf_prog_type, attach: bpf_attach_type, what: &[bpf_insn]) -> Result<(), String> {
    let code = [what, &RETURN_ONE].concat();
    let loaded = bpf::load_program("probe", ProgramKind { program, attach }, &code, c"Apache-2.0");
    loaded.map(drop).map_err(|rejected| rejected.error.to_string())
}

fn programs() -> Check {
    use bpf_attach_type::*;
    use bpf_prog_type::*;
    let cookie = [instruction(0x85, 0, 0, GET_NETNS_COOKIE)];
    let tried = [
        ("sk_lookup (5.9)", takes(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, &[])),
        ("connect4 with netns cookie (5.7)", takes(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, &cookie)),
        ("bind4 with netns cookie (5.7)", takes(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND, &cookie)),
        ("sockops with netns cookie (5.15)", takes(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, &cookie)),
    ];
    let failed: Vec<String> =
        tried.into_iter().filter_map(|(name, result)| Some(format!("{name}: {}", result.err()?))).collect();
    let hint = "CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF, CONFIG_INET; Linux 5.15";
    required("eBPF programs", failed.is_empty(), "sk_lookup, connect, bind, sockops", &failed.join("; "), hint)
}

fn interface() -> Check {
    // w0 = *(u32 *)(r1 + ingress_ifindex)
    let read = [instruction(0x61, 0x10, INGRESS_IFINDEX, 0)];
    match takes(bpf_prog_type::BPF_PROG_TYPE_SK_LOOKUP, bpf_attach_type::BPF_SK_LOOKUP, &read) {
        Ok(()) => check("sk_lookup interface", Level::Ok, "told (5.17)", ""),
        Err(_) => check("sk_lookup interface", Level::Ok, "not told; the variant for older kernels is used", ""),
    }
}

fn netns_cookie() -> Check {
    let cookie = Socket::new(Domain::UNIX, Type::DGRAM, None).and_then(|socket| option::netns_cookie(&socket));
    required("SO_NETNS_COOKIE", cookie.is_ok(), "there (5.14)", "missing", "Linux 5.14 or newer")
}

fn marks() -> Check {
    let accept = Path::new("/proc/sys/net/ipv4/tcp_fwmark_accept").exists();
    let rules = Path::new("/proc/net/fib_trie").exists() && has_rules();
    required(
        "marks and rules",
        accept && rules,
        "tcp_fwmark_accept and policy routing",
        "tcp_fwmark_accept or policy routing is missing",
        "CONFIG_IP_ADVANCED_ROUTER, CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES",
    )
}

/// Whether the kernel supports policy routing.
fn has_rules() -> bool {
    use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, rule::RuleMessage};
    let ask = || -> std::io::Result<bool> {
        let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        socket.bind_auto()?;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut rule = RuleMessage::default();
        rule.header.family = AddressFamily::Inet;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetRule(rule)));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        socket.send_to(&bytes, &netlink_sys::SocketAddr::new(0, 0), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(std::io::Error::other)?;
        Ok(matches!(answer.payload, NetlinkPayload::InnerMessage(_)))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::unsupported_runtime;

    #[test]
    fn pods_whose_tcp_is_not_the_kernels_are_refused() {
        for class in ["gvisor", "runsc", "kata-qemu", "Kata"] {
            assert!(unsupported_runtime(class).is_some(), "{class}");
        }
        for class in ["", "runc", "crun", "nvidia"] {
            assert_eq!(unsupported_runtime(class), None, "{class}");
        }
    }
}
