//! Links, addresses and routes: every machine, and this one, on one bridge in the control plane's network namespace.
//!
//! Whatever goes from one node to another crosses that bridge, so `tcpdump` on it sees all of it. Links vanish with the
//! namespaces that they end in.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::enter::{in_network, quiet};
use super::layout::{BRIDGE, CONTROL, HOST, LINK, Machine};
use super::state::pid;
use crate::programs::command;

/// Connects machines that have been started.
pub(crate) fn connect(machines: &[Machine]) -> Result<()> {
    let process = |machine: Machine| pid(machine).with_context(|| format!("{} ended", machine.name()));
    let control = process(Machine::Control)?;
    // The host's end is named within the bridge's namespace as it is outside.
    let mut links = format!("link add {LINK} type veth peer name {LINK} netns {control}\n");
    for machine in machines.iter().filter(|machine| **machine != Machine::Control) {
        let (name, node) = (machine.name(), process(*machine)?);
        writeln!(links, "link add {name} netns {control} type veth peer name eth0 netns {node}")?;
    }
    writeln!(links, "address add {HOST}/24 dev {LINK}\nlink set {LINK} up")?;
    batch(command("ip")?, &links)?;
    for machine in machines {
        let settings = if *machine == Machine::Control { bridge(machines) } else { node(*machine) };
        let settings = format!("link set lo up\n{settings}{}", routes(*machine, machines));
        batch(in_network(*machine, "ip")?, &settings)?;
    }
    Ok(())
}

/// Removes this machine's link, if it is still there.
pub(crate) fn disconnect() -> Result<()> {
    let is_there = || std::fs::exists(format!("/sys/class/net/{LINK}"));
    if is_there()?
        && let Err(error) = quiet(command("ip")?.args(["link", "delete", LINK]))
        && is_there()?
    {
        // It vanishes by itself with the namespace of its other end, a moment after the last process in there.
        return Err(error);
    }
    Ok(())
}

/// What makes the control plane's namespace the bridge.
fn bridge(machines: &[Machine]) -> String {
    let mut text = format!("link add {BRIDGE} type bridge\naddress add {CONTROL}/24 dev {BRIDGE}\n");
    let nodes = machines.iter().filter(|machine| **machine != Machine::Control).map(|machine| machine.name());
    for port in nodes.chain([LINK.to_owned()]) {
        text += &format!("link set {port} master {BRIDGE}\nlink set {port} up\n");
    }
    text + &format!("link set {BRIDGE} up\n")
}

/// What connects a node.
fn node(machine: Machine) -> String {
    let address = machine.address();
    format!("address add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {CONTROL}\n")
}

/// The routes to all other machines' pods.
fn routes(from: Machine, machines: &[Machine]) -> String {
    let others = machines.iter().filter(|other| **other != from);
    others.filter_map(|other| Some(format!("route add {} via {}\n", other.pods()?, other.address()))).collect()
}

fn batch(mut ip: Command, lines: &str) -> Result<()> {
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ip = ip.spawn().context("starting ip")?;
    ip.stdin.take().context("ip has no standard input")?.write_all(lines.as_bytes())?;
    let output = ip.wait_with_output()?;
    if !output.status.success() {
        bail!("`ip -batch` failed: {}in:\n{lines}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::layout::machines;

    #[test]
    fn every_machine_has_a_route_to_the_pods_of_every_other_node() {
        let all = machines(2);
        assert_eq!(routes(all[1], &all), "route add 10.148.2.0/24 via 10.147.0.102\n");
        assert_eq!(
            routes(all[0], &all),
            "route add 10.148.1.0/24 via 10.147.0.101\nroute add 10.148.2.0/24 via 10.147.0.102\n"
        );
    }

    #[test]
    fn every_node_and_the_host_are_on_the_bridge() {
        let text = bridge(&machines(2));
        for port in ["node1", "node2", LINK] {
            assert!(text.contains(&format!("link set {port} master {BRIDGE}\n")), "{text}");
        }
    }
}
