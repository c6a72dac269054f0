//! Nodes, pods and the wire between them as network namespaces:
//!
//! ```text
//!  pod ─veth─ node 0 ─veth─┐
//!  pod ─veth─┘             ├─ bridge in the wire namespace ─ outsider (a host that is no node)
//!  pod ─veth─ node 1 ─veth─┘
//! ```
//!
//! Pods are routed, IPv4 and IPv6. The same addresses are used by every run: nothing leaves its namespaces.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use super::process::{Place, spawn};
use super::programs;
use super::run::{Run, remove_cgroup, remove_netns};

/// A network of nodes and outside hosts.
#[derive(Debug)]
pub struct Net {
    /// Names and cleanup.
    pub run: Arc<Run>,
    wire: Place,
    nodes: Mutex<Vec<Arc<Node>>>,
    outlive: AtomicBool,
}

/// A namespace on the wire with its two addresses.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, without the run's prefix.
    pub name: String,
    /// Where its processes run.
    pub place: Place,
    /// IPv4 address.
    pub ip4: Ipv4Addr,
    /// IPv6 address.
    pub ip6: Ipv6Addr,
}

impl Host {
    /// Its IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip4.into(), port)
    }

    /// Its IPv6 address with a port.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip6.into(), port)
    }

    /// Both addresses.
    pub fn ips(&self) -> [IpAddr; 2] {
        [self.ip4.into(), self.ip6.into()]
    }
}

/// A node: a host with pods behind it, and cgroups for what runs on a node.
#[derive(Debug)]
pub struct Node {
    run: Arc<Run>,
    host: Host,
    index: u8,
    next_pod: AtomicU8,
}

impl Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// A pod's network. Gone when dropped.
#[derive(Debug)]
pub struct PodNet {
    run: Arc<Run>,
    host: Host,
    /// The node it is on.
    pub node: Arc<Node>,
}

impl Deref for PodNet {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Drop for PodNet {
    fn drop(&mut self) {
        // A kept run keeps its pods: nothing else would remove them.
        if !self.host.place.outlive {
            remove_cgroup(&self.host.place.cgroup);
            remove_netns(&self.host.place.netns);
            let _absent = fs::remove_dir(self.run.cgroup().join(&self.host.name));
        }
    }
}

impl Net {
    /// A network without nodes.
    pub fn new() -> Result<Arc<Self>> {
        Self::in_run(Run::begin()?, false)
    }

    /// A network in a run named by the caller; with `outlive`, its processes survive this one.
    pub fn in_run(run: Run, outlive: bool) -> Result<Arc<Self>> {
        let run = Arc::new(run);
        let wire = Place { netns: netns(&run, "wire"), cgroup: run.cgroup().join("wire"), outlive };
        batch(&[], &format!("netns add {}-wire\n", run.id()))?;
        let name = format!("{}-wire", run.id());
        batch(&["-n", &name], "link set lo up\nlink add br0 type bridge forward_delay 0\nlink set br0 up\n")?;
        Ok(Arc::new(Self { run, wire, nodes: Mutex::default(), outlive: AtomicBool::new(outlive) }))
    }

    /// The namespace that all nodes are wired to: where a packet capture sees what passes between them.
    pub fn wire(&self) -> &Place {
        &self.wire
    }

    /// The nodes so far.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a node. Its pods get 10.244.N.0/24 and fd00:244:N::/64.
    pub fn node(&self, name: &str) -> Result<Arc<Node>> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = u8::try_from(nodes.len()).context("too many nodes")?;
        let host = self.attach(name, 10 + index, &format!("{name}/system"))?;
        let place = &host.place;
        place.sysctl("net.ipv4.ip_forward", "1")?;
        place.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        place.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
        place.sysctl("net.ipv4.conf.default.rp_filter", "0")?;
        place.sysctl("net.ipv4.conf.eth0.rp_filter", "0")?;
        for directory in ["kubepods", "kubelet"] {
            fs::create_dir_all(self.run.cgroup().join(name).join(directory))?;
        }
        let node = Arc::new(Node { run: self.run.clone(), host, index, next_pod: AtomicU8::new(10) });
        for other in nodes.iter() {
            route(&self.run, &node.name, other)?;
            route(&self.run, &other.name, &node)?;
        }
        nodes.push(node.clone());
        Ok(node)
    }

    /// Adds a host outside the mesh. It must be added after the nodes.
    pub fn outsider(&self, name: &str) -> Result<Host> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let host = self.attach(name, 200, name)?;
        for node in nodes.iter() {
            route(&self.run, name, node)?;
        }
        Ok(host)
    }

    fn attach(&self, name: &str, number: u8, cgroup: &str) -> Result<Host> {
        let id = self.run.id();
        let ip4 = Ipv4Addr::new(172, 30, 0, number);
        let ip6 = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, u16::from(number));
        batch(&[], &format!("netns add {id}-{name}\n"))?;
        batch(
            &["-n", &format!("{id}-wire")],
            &format!(
                "link add w{number} type veth peer name eth0 netns {id}-{name}\nlink set w{number} master br0 up\n"
            ),
        )?;
        batch(
            &["-n", &format!("{id}-{name}")],
            &format!(
                "link set lo up\nlink set eth0 up\naddr add {ip4}/24 dev eth0\n-6 addr add {ip6}/64 dev eth0 nodad\n"
            ),
        )?;
        let place = Place {
            netns: netns(&self.run, name),
            cgroup: self.run.cgroup().join(cgroup),
            outlive: self.outlive.load(Ordering::Relaxed),
        };
        fs::create_dir_all(&place.cgroup)?;
        Ok(Host { name: name.to_owned(), place, ip4, ip6 })
    }
}

impl Node {
    /// Where the kubelet of this node runs: the node's namespace, the kubelet's cgroup.
    pub fn kubelet(&self) -> Place {
        Place { cgroup: self.cgroup("kubelet"), ..self.place.clone() }
    }

    /// Where the agent of this node runs.
    pub fn agent(&self) -> Place {
        Place { cgroup: self.cgroup("agent"), ..self.place.clone() }
    }

    /// The cgroup of the node's pods.
    pub fn kubepods(&self) -> PathBuf {
        self.cgroup("kubepods")
    }

    /// One of the node's cgroups.
    pub fn cgroup(&self, name: &str) -> PathBuf {
        self.run.cgroup().join(&self.host.name).join(name)
    }

    /// Root of the eBPF pins of this node's agent.
    pub fn pins(&self) -> PathBuf {
        self.run.pins().join(&self.host.name)
    }

    /// Adds a pod: a namespace behind a veth, with a cgroup of its own below `kubepods`.
    pub fn pod(self: &Arc<Self>, name: &str) -> Result<PodNet> {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        ensure!(number < 250, "too many pods on one node");
        let (id, index) = (self.run.id(), u16::from(self.index));
        let ip4 = Ipv4Addr::new(10, 244, self.index, number);
        let ip6 = Ipv6Addr::new(0xfd00, 0x244, index, 0, 0, 0, 0, u16::from(number));
        let place = Place {
            netns: netns(&self.run, name),
            cgroup: self.kubepods().join(name),
            outlive: self.host.place.outlive,
        };
        batch(&[], &format!("netns add {id}-{name}\n"))?;
        let (node, gateway) = (format!("{id}-{}", self.host.name), Ipv4Addr::new(10, 244, self.index, 1));
        batch(
            &["-n", &node],
            &format!(
                "link add p{number} type veth peer name eth0 netns {id}-{name}\nlink set p{number} up\n\
                 addr add {gateway}/32 dev p{number}\n-6 addr add fe80::1/64 dev p{number} nodad\n\
                 route add {ip4}/32 dev p{number}\n-6 route add {ip6}/128 dev p{number}\n"
            ),
        )?;
        batch(
            &["-n", &format!("{id}-{name}")],
            &format!(
                "link set lo up\nlink set eth0 up\naddr add {ip4}/32 dev eth0\n-6 addr add {ip6}/128 dev eth0 nodad\n\
                 route add {gateway} dev eth0 scope link\nroute add default via {gateway}\n-6 route add default via fe80::1 dev eth0\n"
            ),
        )?;
        // Hardened hosts give their pods strict reverse-path filtering; capture has to work with it.
        place.sysctl("net.ipv4.conf.all.rp_filter", "1")?;
        fs::create_dir_all(&place.cgroup)?;
        let host = Host { name: name.to_owned(), place, ip4, ip6 };
        Ok(PodNet { run: self.run.clone(), host, node: self.clone() })
    }
}

fn netns(run: &Run, name: &str) -> PathBuf {
    Path::new("/run/netns").join(format!("{}-{name}", run.id()))
}

/// Adds routes to a node's pods to a host.
fn route(run: &Run, host: &str, node: &Node) -> Result<()> {
    let mut script = String::new();
    let i = node.index;
    writeln!(script, "route add 10.244.{i}.0/24 via {}", node.ip4)?;
    writeln!(script, "-6 route add fd00:244:{i}::/64 via {}", node.ip6)?;
    batch(&["-n", &format!("{}-{host}", run.id())], &script)
}

/// Runs `ip -batch`. A line may start with a family, such as `-6`.
fn batch(args: &[&str], script: &str) -> Result<()> {
    for six in [false, true] {
        let lines: String = script
            .lines()
            .filter(|line| line.starts_with("-6 ") == six)
            .map(|line| format!("{}\n", line.trim_start_matches("-6 ")))
            .collect();
        if lines.is_empty() {
            continue;
        }
        let mut command = programs::command("ip")?;
        command.args(args).args(if six { &["-6", "-batch", "-"][..] } else { &["-batch", "-"] });
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command).context("start ip (package iproute2)")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes()).context("write to ip")?;
        }
        let output = child.wait_with_output().context("run ip")?;
        ensure!(output.status.success(), "ip {}: {}{lines}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
