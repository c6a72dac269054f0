//! `bench waypoint`: the L7 proxy of a mesh, Envoy as Istio makes a waypoint of it and `culvert-waypoint`, doing the
//! same job.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use harness::apps;
use harness::eventually::eventually;
use harness::mesh::{private_directory, write_private};
use harness::net::{Net, Node, PodNet};
use harness::pki::{Authority, LeafSpec};
use harness::process::{Place, Process};

use crate::hbone::{Change, ENDPOINT, WAYPOINT, clock};
use crate::load::Seen;
use crate::pods::Member;
use crate::report::Report;
use crate::routes::{Setup, TARGET_PORT};
use crate::stats::{Samples, report};
use crate::{envoy, meter, phases, show};

/// Subjects in the order in which they are shown. `none`: the clients' tunnels end at an endpoint.
const SUBJECTS: [&str; 3] = ["none", "envoy", "culvert"];
const PAIRS: [(&str, &str); 3] = [("envoy", "none"), ("culvert", "none"), ("culvert", "envoy")];
/// Endpoints of every service.
const ENDPOINTS: usize = 3;
/// The fraction of the slower proxy's highest rate that both get when latency is measured.
const FRACTION: f64 = 0.7;

/// What is asked of the bench.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often each load is put on, the subjects in turn
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of each load
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// HTTP connections, each a stream of a tunnel
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Tunnels that they share, each a TLS connection
    #[arg(long, default_value_t = 4)]
    pub tunnels: usize,
    /// Routes when there are many
    #[arg(long, default_value_t = 5000)]
    pub routes: usize,
    /// How often a route is changed
    #[arg(long, default_value_t = 10)]
    pub changes: usize,
    /// Threads of each proxy
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Only these subjects, divided by commas
    #[arg(long, value_delimiter = ',')]
    pub subjects: Vec<String>,
}

/// Runs it all.
pub fn run(options: &Options) -> Result<Report> {
    let machine = meter::machine();
    let lab = Lab::new()?;
    let mut samples = Samples::default();
    let wanted = |name: &&str| options.subjects.is_empty() || options.subjects.iter().any(|subject| subject == name);
    let subjects: Vec<&'static str> = SUBJECTS.into_iter().filter(wanted).collect();
    ensure!(!subjects.is_empty(), "no such subject: {}", options.subjects.join(", "));
    for (routes, suffix) in [(0, String::new()), (options.routes, format!("_{}_routes", options.routes))] {
        let mut proxies = Vec::new();
        for subject in &subjects {
            show::progress(
                if routes == 0 { 0.0 } else { 0.7 },
                &format!("starting {subject} with {routes} more routes"),
            );
            proxies.push(lab.start(subject, routes, options)?);
        }
        std::thread::sleep(meter::SETTLED);
        for proxy in proxies.iter().filter(|proxy| proxy.process.is_some()) {
            memory(proxy, &format!("memory_idle{suffix}"), &mut samples)?;
        }
        // With many routes one round shows whether they cost anything.
        let rounds = if routes == 0 { options.rounds } else { options.rounds.min(2) };
        for round in 0..rounds {
            show::progress(
                if routes == 0 { 0.1 + 0.5 * round as f64 / rounds as f64 } else { 0.8 },
                &format!("load with {routes} more routes, round {} of {rounds}", round + 1),
            );
            load_round(&lab, &proxies, options, round, &suffix, &mut samples)?;
        }
        for proxy in proxies.iter().filter(|proxy| proxy.process.is_some()) {
            memory(proxy, &format!("memory_after_load{suffix}"), &mut samples)?;
        }
        show::progress(if routes == 0 { 0.62 } else { 0.9 }, &format!("changes with {routes} more routes"));
        changes(&lab, &mut proxies, options, &suffix, &mut samples)?;
    }
    for measure in ["load70_p50", "load70_p99"] {
        samples.add_difference(measure, "us", &SUBJECTS, "none");
    }
    let mut report = report("waypoint", machine, &samples, &SUBJECTS, &PAIRS);
    report.notes = vec![
        "Requests per second of this machine's one client are not the proxies' limit; requests_per_core divides by the \
         proxy's own CPU time. none: the clients' tunnels end at an endpoint, without a proxy. load70: all at one rate, \
         70 % of what the slower proxy did in that round."
            .to_owned(),
    ];
    Ok(report)
}

/// Every proxy at its limit in turn, then all at the same rate.
fn load_round(
    lab: &Lab,
    proxies: &[Proxy],
    options: &Options,
    round: usize,
    suffix: &str,
    samples: &mut Samples,
) -> Result<()> {
    let mut slowest = f64::INFINITY;
    for turn in 0..proxies.len() {
        let proxy = &proxies[(turn + round) % proxies.len()];
        let (seen, cpu) = lab.measured(proxy, options, 0.0)?;
        let rate = seen.units as f64 / seen.seconds;
        let mut add = |measure: &str, unit: &str, value: f64| {
            samples.add(&format!("{measure}{suffix}"), unit, proxy.name, value);
        };
        add("requests", "1/s", rate);
        add("requests_p50", "us", seen.p50_ns as f64 / 1000.0);
        add("requests_p99", "us", seen.p99_ns as f64 / 1000.0);
        if proxy.process.is_some() {
            slowest = slowest.min(rate);
            add("requests_per_core", "1/s", seen.units_ever as f64 / (cpu / 1e9));
            add("requests_cpu", "us/each", cpu / 1000.0 / seen.units_ever as f64);
        }
    }
    if !slowest.is_finite() || !suffix.is_empty() {
        return Ok(());
    }
    for turn in 0..proxies.len() {
        let proxy = &proxies[(turn + round) % proxies.len()];
        let (seen, cpu) = lab.measured(proxy, options, slowest * FRACTION)?;
        samples.add("load70_rate", "1/s", proxy.name, seen.units as f64 / seen.seconds);
        samples.add("load70_p50", "us", proxy.name, seen.p50_ns as f64 / 1000.0);
        samples.add("load70_p99", "us", proxy.name, seen.p99_ns as f64 / 1000.0);
        if proxy.process.is_some() {
            samples.add("load70_cpu", "us/each", proxy.name, cpu / 1000.0 / seen.units_ever as f64);
        }
        samples.add_distribution("70 % load", proxy.name, seen.quantiles);
    }
    Ok(())
}

/// How long it takes from a file put into place to the first answer by it, again and again.
fn changes(lab: &Lab, proxies: &mut [Proxy], options: &Options, suffix: &str, samples: &mut Samples) -> Result<()> {
    let proxies: Vec<&mut Proxy> = proxies.iter_mut().filter(|proxy| proxy.process.is_some()).collect();
    let mut watched = Vec::new();
    for proxy in proxies {
        let client = lab.client(proxy, options, &["--watch".to_owned()])?;
        let first: Change = client.read(Duration::from_secs(20)).context("the first answer")?;
        ensure!(first.version == "0", "{} began with version {:?}", proxy.name, first.version);
        watched.push((proxy, client));
    }
    for version in 1..=options.changes {
        for (proxy, client) in &mut watched {
            let (beside, target) = proxy.version_file(lab, version)?;
            // Not while the last change's work may still go on.
            std::thread::sleep(Duration::from_millis(150));
            let before = clock()?;
            fs::rename(&beside, &target).with_context(|| format!("replacing {}", target.display()))?;
            let change: Change =
                client.read(Duration::from_secs(20)).with_context(|| format!("change {version} of {}", proxy.name))?;
            ensure!(change.version == version.to_string(), "{} shows {:?}", proxy.name, change.version);
            let took = change.at_ns.saturating_sub(before) as f64 / 1e6;
            samples.add(&format!("change{suffix}"), "ms", proxy.name, took);
        }
    }
    Ok(())
}

fn memory(proxy: &Proxy, measure: &str, samples: &mut Samples) -> Result<()> {
    let pid = proxy.process.as_ref().context("no process")?.pid();
    let memory = meter::memory_of(&[pid])?;
    for (kind, value) in [("rss", memory.rss), ("pss", memory.pss), ("private", memory.private)] {
        samples.add(&format!("{measure}_{kind}"), "KiB", proxy.name, value as f64);
    }
    Ok(())
}

/// A node with a pod for the clients, one for each proxy, and the endpoints.
struct Lab {
    _endpoints: Process,
    client: PodNet,
    huts: [PodNet; 2],
    shops: Vec<PodNet>,
    authority: Authority,
    ca_dir: PathBuf,
    _node: Arc<Node>,
    net: Arc<Net>,
}

/// One way from the clients to the endpoints.
struct Proxy {
    name: &'static str,
    /// Where the clients' tunnels go.
    at: SocketAddr,
    process: Option<Process>,
    /// Its files.
    directory: PathBuf,
    setup: Setup,
}

impl Proxy {
    /// Writes the route of a version beside its place; gives both paths.
    fn version_file(&self, lab: &Lab, version: usize) -> Result<(PathBuf, PathBuf)> {
        let beside = lab.net.run.files().join(format!("{}.next", self.name));
        let target = if self.name == "envoy" {
            fs::write(&beside, serde_json::to_vec(&self.setup.envoy_routes(version))?)?;
            self.directory.join("routes.json")
        } else {
            fs::write(&beside, self.setup.versioned(version))?;
            self.directory.join("manifests/versioned.yaml")
        };
        Ok((beside, target))
    }
}

impl Lab {
    fn new() -> Result<Self> {
        let net = Net::new()?;
        let node = net.node("node")?;
        let (client, huts) = (node.pod("client")?, [node.pod("envoy")?, node.pod("culvert")?]);
        let shops = (0..ENDPOINTS).map(|n| node.pod(&format!("shop-{n}"))).collect::<Result<Vec<_>>>()?;
        let authority = Authority::new("bench")?;
        let ca_dir = net.run.files().join("ca");
        private_directory(&ca_dir)?;
        for (name, text) in authority.files() {
            write_private(&ca_dir.join(name), &text)?;
        }
        let member = |pod: &PodNet| Member { netns: pod.place.netns.clone(), at: pod.at(15008), host: String::new() };
        let members: Vec<Member> = shops.iter().map(member).collect();
        let plan = net.run.files().join("endpoints.json");
        fs::write(&plan, serde_json::to_vec(&members)?)?;
        let arguments = ["listen-hbone".to_owned(), plan.display().to_string(), ca_dir.display().to_string()];
        let endpoints = phases::role(&node.place, &arguments)?;
        Ok(Self { _endpoints: endpoints, client, huts, shops, authority, ca_dir, _node: node, net })
    }

    /// Starts a proxy with this many routes beside the one that is used, and waits until requests go through it.
    fn start(&self, name: &'static str, routes: usize, options: &Options) -> Result<Proxy> {
        let endpoints = self.shops.iter().map(|pod| pod.ip4).collect();
        let directory = self.net.run.files().join(format!("{name}-{routes}"));
        fs::create_dir_all(directory.join("manifests"))?;
        let mut proxy =
            Proxy { name, at: self.shops[0].at(15008), process: None, directory, setup: Setup { routes, endpoints } };
        let log = proxy.directory.join("log");
        if name != "none" {
            let (hut, command) = if name == "envoy" {
                (&self.huts[0], self.envoy(&proxy, options)?)
            } else {
                (&self.huts[1], self.culvert(&proxy, options)?)
            };
            proxy.at = hut.at(15008);
            proxy.process = Some(Process::logging(&hut.place, command, &log)?);
        }
        // Clients that come too early complain on the terminal.
        eventually(&format!("{name} listens"), || {
            Ok(self.client.place.inside(|| TcpStream::connect_timeout(&proxy.at, Duration::from_secs(1)))??)
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        let once = ["--seconds".to_owned(), "0".to_owned()];
        eventually(&format!("a way through {name}"), || {
            let client = self.client(&proxy, options, &once)?;
            client.read::<Seen>(Duration::from_secs(10)).map(|_| ())
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(proxy)
    }

    fn envoy(&self, proxy: &Proxy, options: &Options) -> Result<std::process::Command> {
        let uri = |account: &str| format!("spiffe://cluster.local/ns/bench/sa/{account}");
        let leaf = self.authority.leaf(&LeafSpec::of(&uri(WAYPOINT)))?;
        let root = self.authority.root_pem().to_owned();
        for (name, text) in [("root.pem", root), ("chain.pem", leaf.chain_pem), ("key.pem", leaf.key_pem)] {
            fs::write(proxy.directory.join(name), text)?;
        }
        let (routes, file) = (proxy.directory.join("routes.json"), proxy.directory.join("envoy.json"));
        fs::write(&routes, serde_json::to_vec(&proxy.setup.envoy_routes(0))?)?;
        let at = self.huts[0].at(15008);
        let configuration = proxy.setup.envoy(at, &routes, &proxy.directory, &uri(ENDPOINT));
        fs::write(&file, serde_json::to_vec_pretty(&configuration)?)?;
        let mut command =
            self.huts[0].place.command(envoy::copy(&envoy::binary()?, &self.net.run.files().join("bin"))?)?;
        command.args(["--disable-hot-restart", "--log-level", "warning"]);
        command.args(["--concurrency", &options.threads.to_string(), "-c"]).arg(&file);
        Ok(command)
    }

    fn culvert(&self, proxy: &Proxy, options: &Options) -> Result<std::process::Command> {
        let manifests = proxy.directory.join("manifests");
        let mesh = proxy.setup.manifests(self.huts[1].ip4, self.client.ip4);
        fs::write(manifests.join("mesh.yaml"), mesh)?;
        fs::write(manifests.join("versioned.yaml"), proxy.setup.versioned(0))?;
        let program = apps::binary("culvert-waypoint", "CULVERT_WAYPOINT_BIN")?;
        let program = envoy::copy(&program, &self.net.run.files().join("bin"))?;
        let mut command = self.huts[1].place.command(program)?;
        command.args(["--gateway", "bench/waypoint", "--log", "warn", "--threads", &options.threads.to_string()]);
        command.arg("--manifests").arg(&manifests).arg("--ca-dir").arg(&self.ca_dir);
        command.args(["--listen", &self.huts[1].at(15008).to_string()]);
        Ok(command)
    }

    /// Starts clients of a proxy.
    fn client(&self, proxy: &Proxy, options: &Options, more: &[String]) -> Result<Process> {
        let authority = if proxy.name == "none" { self.shops[0].at(TARGET_PORT) } else { Setup::vip(0) };
        let server = if proxy.name == "none" { ENDPOINT } else { WAYPOINT };
        let mut arguments = vec!["load-hbone".to_owned()];
        for (flag, value) in [
            ("--to", proxy.at.to_string()),
            ("--server", server.to_owned()),
            ("--authority", authority.to_string()),
            ("--host", Setup::host(0)),
            ("--ca-dir", self.ca_dir.display().to_string()),
            ("--connections", options.connections.to_string()),
            ("--tunnels", options.tunnels.to_string()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend_from_slice(more);
        let place = Place { cgroup: self.client.place.cgroup.join("clients"), ..self.client.place.clone() };
        Process::talking(&place, std::env::current_exe().context("own path")?, &arguments)
    }

    /// Puts load on a proxy; gives what the clients saw, and the proxy's CPU time in nanoseconds.
    fn measured(&self, proxy: &Proxy, options: &Options, rate: f64) -> Result<(Seen, f64)> {
        let pids: Vec<u32> = proxy.process.iter().map(Process::pid).collect();
        let before = meter::cpu_of(&pids)?;
        let more = ["--rate", &rate.to_string(), "--seconds", &options.seconds.to_string()].map(str::to_owned);
        let client = self.client(proxy, options, &more)?;
        let patience = Duration::from_secs_f64(options.seconds + 30.0);
        let seen: Seen = client.read(patience).with_context(|| format!("load through {}", proxy.name))?;
        ensure!(seen.units > 0, "load through {}: nothing happened", proxy.name);
        Ok((seen, (meter::cpu_of(&pids)? - before) as f64))
    }
}
