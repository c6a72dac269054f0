//! A node of our own: two pods to enroll, one that is not, something outside, all behind a router, and an agent in this
//! process.
//!
//! ```text
//!  a 10.200.0.11 ─┐
//!  b 10.200.0.12 ─┤ h (the node) 10.201.0.1 ── e (outside) 10.201.0.2
//!  c 10.200.0.13 ─┘
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use agent::capture::{Capture, CaptureConfig, CapturedPod, Event, Kind, Listener, Netns, PodSpec};
use mesh::model::policy::{PlaintextRules, PlaintextVerdict};

use crate::programs;
use crate::proxy::{self, Seen};

static NEXT: AtomicU32 = AtomicU32::new(0);
/// How many rigs there are.
static RIGS: Mutex<u32> = Mutex::new(0);

/// Everything that one test has made; gone when it is dropped.
pub(crate) struct Rig {
    /// Prefix of every name.
    pub(crate) name: String,
    pub(crate) bpf_root: PathBuf,
    children: Mutex<Vec<u32>>,
}

/// Runs a shell command; its output.
pub(crate) fn sh(command: &str) -> String {
    let output = programs::script(command).unwrap().output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}` failed: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn try_sh(command: &str) {
    let _ = programs::script(command).unwrap().output();
}

/// Waits until `done`, at most two seconds.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(2);
    while !done() {
        assert!(Instant::now() < end, "not within two seconds: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Where cgroup2 is on this machine.
fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is mounted");
    PathBuf::from(line.split(' ').nth(1).unwrap())
}

/// The group of this process as an agent: one for all tests of the program. The last rig takes the process out of it
/// again.
fn agent_group() -> PathBuf {
    static GROUP: OnceLock<PathBuf> = OnceLock::new();
    GROUP.get_or_init(|| cgroup_root().join(format!("cv{}-agent", std::process::id()))).clone()
}

impl Rig {
    /// Makes the node, its pods and the outside.
    pub(crate) fn new() -> Self {
        *RIGS.lock().unwrap() += 1;
        let name = format!("cv{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bpf_root = PathBuf::from(format!("/sys/fs/bpf/{name}"));
        let rig = Self { name: name.clone(), bpf_root, children: Mutex::new(Vec::new()) };
        let cgroup = rig.cgroup("");
        let mut script = format!("ip netns add {name}h; ip -n {name}h link set lo up\n");
        for (pod, number) in [("a", 11), ("b", 12), ("c", 13)] {
            script += &format!(
                "mkdir -p {group}/{pod}; ip netns add {name}{pod}; ip -n {name}{pod} link set lo up
                ip -n {name}h link add v{pod} type veth peer name eth0 netns {name}{pod}
                ip -n {name}h link set v{pod} up; ip -n {name}{pod} link set eth0 up
                ip -n {name}h addr add 10.200.0.1/32 dev v{pod}
                ip -n {name}h -6 addr add fe80::1/64 dev v{pod} nodad
                ip -n {name}{pod} addr add 10.200.0.{number}/32 dev eth0
                ip -n {name}{pod} route add 10.200.0.1 dev eth0 scope link
                ip -n {name}{pod} route add default via 10.200.0.1
                ip -n {name}{pod} -6 addr add fd00:200::{number}/128 dev eth0 nodad
                ip -n {name}{pod} -6 route add default via fe80::1 dev eth0
                ip -n {name}h route add 10.200.0.{number}/32 dev v{pod}
                ip -n {name}h -6 route add fd00:200::{number}/128 dev v{pod}\n",
                group = cgroup.display(),
            );
        }
        script += &format!(
            "mkdir -p {group}/kubelet {group}/host {group}/agent
            ip netns add {name}e; ip -n {name}e link set lo up
            ip -n {name}h link add ve type veth peer name eth0 netns {name}e
            ip -n {name}h link set ve up; ip -n {name}e link set eth0 up
            ip -n {name}h addr add 10.201.0.1/24 dev ve; ip -n {name}e addr add 10.201.0.2/24 dev eth0
            ip -n {name}h -6 addr add fd00:201::1/64 dev ve nodad
            ip -n {name}h -6 addr add fd00:200::1/128 dev lo nodad
            ip -n {name}e -6 addr add fd00:201::2/64 dev eth0 nodad
            ip -n {name}e route add default via 10.201.0.1; ip -n {name}e -6 route add default via fd00:201::1
            nsenter --net=/run/netns/{name}h sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
            nsenter --net=/run/netns/{name}h sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0\n",
            group = cgroup.display(),
        );
        sh(&script);
        rig
    }

    /// A cgroup of this test; `""` is the one that all its pods are in.
    pub(crate) fn cgroup(&self, part: &str) -> PathBuf {
        let group = cgroup_root().join(&self.name);
        if part.is_empty() { group } else { group.join(part) }
    }

    /// Path of a namespace: `a`, `b`, `c`, `h` or `e`.
    pub(crate) fn netns(&self, part: &str) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}{part}", self.name))
    }

    /// Runs `ip` in a namespace.
    pub(crate) fn ip(&self, part: &str, arguments: &str) -> String {
        sh(&format!("ip -n {}{part} {arguments}", self.name))
    }

    /// How a pod is to be captured.
    pub(crate) fn spec(&self, pod: &str) -> PodSpec {
        let netns = self.netns(pod);
        PodSpec { owner: netns.display().to_string(), netns, addresses: addresses(pod) }
    }

    /// The configuration of an agent for this node.
    pub(crate) fn config(&self) -> CaptureConfig {
        let mut config = CaptureConfig::new(self.name.clone());
        config.bpf_root.clone_from(&self.bpf_root);
        config.attach_cgroup = Some(self.cgroup(""));
        config.agent_cgroup = Some(agent_group());
        config.kubelet_cgroup = Some(self.cgroup("kubelet"));
        config
    }

    /// An agent in this process, with nothing enrolled.
    pub(crate) fn agent(&self) -> Agent {
        self.agent_with(self.config())
    }

    /// As `agent`.
    pub(crate) fn agent_with(&self, config: CaptureConfig) -> Agent {
        Agent { capture: Capture::open(config).unwrap(), seen: Arc::default() }
    }

    /// A program of the lab in a pod (`a`, `b`, `c`), or on the node as the `kubelet` or another `host` process, or
    /// outside (`e`).
    fn lab(&self, place: &str, arguments: &str) -> Command {
        let (group, netns) = match place {
            "kubelet" | "host" => (self.cgroup(place), self.netns("h")),
            "e" => (self.cgroup("host"), self.netns("e")),
            pod => (self.cgroup(pod), self.netns(pod)),
        };
        let mut command = programs::command(lab()).unwrap();
        command.arg("--cgroup").arg(group).arg("--netns").arg(netns).args(arguments.split_whitespace());
        command
    }

    /// Starts a server for the rest of the test.
    pub(crate) fn serve(&self, place: &str, addresses: &str) {
        drop(self.start(self.lab(place, &format!("serve {addresses}")), "ready"));
    }

    /// Connects once; `local=… peer=… reply=…` or `error=…`.
    pub(crate) fn connect(&self, place: &str, arguments: &str) -> String {
        let mut command = self.lab(place, "connect");
        // Words, but what is said may have spaces.
        for (index, part) in arguments.split('\'').enumerate() {
            if index % 2 == 1 {
                command.arg(part);
            } else {
                command.args(part.split_whitespace());
            }
        }
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Tries to bind; `bound` or `error=…`.
    pub(crate) fn bind(&self, place: &str, arguments: &str) -> String {
        let output = self.lab(place, &format!("bind {arguments}")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A connection that stays open.
    pub(crate) fn hold(&self, place: &str, to: &str) -> Program {
        self.start(self.lab(place, &format!("hold {to}")), "connected")
    }

    /// An agent in a process of its own, which can be killed.
    pub(crate) fn agent_process(&self, arguments: &str) -> Program {
        let mut command = programs::command(lab()).unwrap();
        command.arg("agent").arg("--bpf-root").arg(&self.bpf_root).arg("--attach").arg(self.cgroup(""));
        command.arg("--group").arg(self.cgroup("agent")).args(arguments.split_whitespace());
        for pod in ["a", "b"] {
            let list: Vec<String> = addresses(pod).iter().map(ToString::to_string).collect();
            command.arg("--pod").arg(format!("{},{}", self.netns(pod).display(), list.join(",")));
        }
        self.start(command, "ready")
    }

    fn start(&self, mut command: Command, expected: &str) -> Program {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        self.children.lock().unwrap().push(child.id());
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut program = Program { child, input, output, first: String::new() };
        program.first = program.line();
        assert!(program.first.starts_with(expected), "{command:?} said {:?}", program.first);
        program
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in self.children.lock().unwrap().drain(..) {
            try_sh(&format!("kill -9 {child}"));
        }
        let cleaned = Capture::cleanup(&self.bpf_root);
        let group = self.cgroup("");
        // Killed processes take a moment to leave their cgroup.
        for _ in 0..50 {
            try_sh(&format!("find {} -depth -type d -exec rmdir {{}} + 2>/dev/null", group.display()));
            if !group.exists() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        for part in ["a", "b", "c", "h", "e"] {
            try_sh(&format!("ip netns del {}{part}", self.name));
        }
        let mut rigs = RIGS.lock().unwrap();
        *rigs -= 1;
        if *rigs == 0 && agent_group().exists() {
            let _ = fs::write(cgroup_root().join("cgroup.procs"), std::process::id().to_string());
            let _ = fs::remove_dir(agent_group());
        }
        drop(rigs);
        if !thread::panicking() {
            cleaned.unwrap();
            assert!(!self.bpf_root.exists() && !group.exists(), "{} was not cleaned up", self.name);
        }
    }
}

/// A running program of the lab; killed when dropped only by its rig.
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The first line that it said.
    pub(crate) first: String,
}

impl Program {
    /// The next line that it says; empty at its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Says something to it and returns the answer.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.line()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// An agent in this process.
pub(crate) struct Agent {
    pub(crate) capture: Capture,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Agent {
    /// Captures a pod and serves it.
    pub(crate) fn enroll(&self, rig: &Rig, pod: &str) -> u32 {
        self.enroll_spec(&rig.spec(pod))
    }

    /// Captures a pod and serves it.
    pub(crate) fn enroll_spec(&self, spec: &PodSpec) -> u32 {
        let captured = self.capture.enroll(spec).unwrap();
        let id = captured.id;
        let seen = Arc::clone(&self.seen);
        proxy::serve(captured, &spec.addresses, move |one| seen.lock().unwrap().push(one));
        id
    }

    /// Makes a listener of a pod anew, and serves it.
    pub(crate) fn listen_again(&self, id: u32, which: Listener, addresses: &[IpAddr]) {
        let listener = self.capture.listen_again(id, which).unwrap();
        let status = self.capture.pods().into_iter().find(|pod| pod.id == id).unwrap();
        let mut pod = CapturedPod {
            id,
            cookie: status.cookie,
            netns: Arc::new(Netns::open(&status.netns).unwrap()),
            outbound: Vec::new(),
            plaintext: Vec::new(),
            hbone: Vec::new(),
        };
        match which.kind {
            Kind::Outbound => pod.outbound.push(listener),
            Kind::Plaintext => pod.plaintext.push(listener),
            Kind::Hbone => pod.hbone.push(listener),
        }
        let seen = Arc::clone(&self.seen);
        proxy::serve(pod, addresses, move |one| seen.lock().unwrap().push(one));
    }

    /// What has arrived since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// One verdict on plaintext to every port.
    pub(crate) fn plaintext(&self, id: u32, default: PlaintextVerdict) {
        self.capture.set_plaintext(id, &PlaintextRules { default, ports: Box::default() }).unwrap();
    }

    /// The mesh is these addresses and ranges.
    pub(crate) fn mesh(&self, nets: &[&str]) {
        let nets: Vec<_> = nets.iter().map(|net| net.parse().unwrap()).collect();
        self.capture.replace_mesh(&nets).unwrap();
    }
}

/// Reads events until there have been `count`, at most two seconds.
pub(crate) fn events(agent: &Agent, count: usize) -> Vec<Event> {
    let mut reader = agent.capture.events().unwrap();
    let mut found = Vec::new();
    eventually(&format!("{count} events"), || {
        found.extend(std::iter::from_fn(|| reader.next()));
        found.len() >= count
    });
    thread::sleep(Duration::from_millis(20));
    found.extend(std::iter::from_fn(|| reader.next()));
    found
}

/// The addresses of a pod.
pub(crate) fn addresses(pod: &str) -> Vec<IpAddr> {
    let number = match pod {
        "a" => 11,
        "b" => 12,
        _ => 13,
    };
    vec![format!("10.200.0.{number}").parse().unwrap(), format!("fd00:200::{number}").parse().unwrap()]
}

/// A word of what a client said, such as `peer`.
pub(crate) fn word<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

/// A word of what a client said, as an address.
pub(crate) fn address(line: &str, name: &str) -> SocketAddr {
    let found: SocketAddr = word(line, name).parse().unwrap();
    SocketAddr::new(found.ip().to_canonical(), found.port())
}

/// The programs of the lab: built by cargo with the tests.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let tests = std::env::current_exe().unwrap();
        let lab = tests.parent().unwrap().parent().unwrap().join("examples/lab");
        let executable = lab.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0);
        assert!(executable, "{} is missing: `cargo test` without a target selection builds it", lab.display());
        lab
    })
}
