//! Builds every part of the agent in order, and drains them.

use std::sync::Arc;
use std::time::Instant;

use crate::counters::Counters;
use anyhow::{Context as _, Result};
use mesh::model::update::Update;
use mesh::state::store::Store;
use process::admin::Servers;
use process::issuer::issuer;
use process::life::{self, GOODBYE, Host, Program, Running, Setup};
use process::telemetry::access_log::AccessLog;
use process::telemetry::traffic::Traffic;
use sources::{Batch, ManifestSource};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use transport::ca::Issuer;
use transport::hbone::{Pool, PoolOptions};
use transport::keyring::Keyring;

use crate::admin::dump;
use crate::capture::{Capture, CaptureConfig};
use crate::config::{AgentArgs, CaptureMode, FailMode, SameNode};
use crate::connection::outbound::dial::FromNetns;
use crate::connections::Connections;
use crate::enroll::changes::Changes;
use crate::enroll::reconcile::Reconciler;
use crate::listen::accept;
use crate::listen::redirected;
use crate::listen::steering::Steering;
use crate::node::Node;
use crate::passthrough::connections::Passthrough;
use crate::passthrough::kernel_reports;
use crate::pod::captures::Captures;
use crate::pod::limits::Limits;
use crate::pod::quota::Quotas;
use crate::pod::workload::Pods;
use crate::ready::Ready;
use crate::witness;

const PROGRAM: Program = Program { name: "culvert", version: env!("CARGO_PKG_VERSION") };
/// `event_interval` of the traffic runtime: tasks polled between two looks at the sockets. One task here is a turn of
/// a fair queue, many polls long: at tokio's default of 61 a connection that waits for one byte would wait too long.
const TICKS: u32 = 3;
/// Streams to one peer are spread over at most so many HTTP/2 connections.
const SPREAD: usize = 4;

/// Runs the agent until it is told to stop. An error is one of the start: nothing was captured.
pub(crate) fn run(args: AgentArgs) -> Result<()> {
    let setup = Setup {
        program: PROGRAM,
        log: args.log.clone(),
        threads: args.threads,
        event_interval: (!args.unfair).then_some(TICKS),
        drain: args.drain,
        announce: |text| info!("{text}"),
    };
    life::run(setup, |host| start(args, host))
}

/// Builds every part. Until the reconciler runs, nothing is captured.
async fn start(args: AgentArgs, host: Host) -> Result<RunningAgent> {
    let limits = limits(&args, raise_descriptor_limit());
    accept::reserve_descriptor().context("opening /dev/null")?;
    let servers = Servers::bind(&args.servers)?;
    let issuer = issuer(&args.input, &args.mesh).await?;
    let node = build(&args, &host, limits, issuer);
    let steering = steer(&args, &node).await?;

    // clap has asked for it, unless the cleanup was asked for.
    let manifests = args.input.manifests.clone().context("--manifests DIR is missing")?;
    let source =
        ManifestSource::new(&manifests, manifest_options(&args)).witnessed(args.node.clone(), Arc::new(witness::shown));
    let status = source.status();
    let ready = Ready::waiting_for(["manifests", "captures"]);
    let captures = Arc::new(Captures::default());
    dump::follow_counts(&node, &status, ready.clone());
    let gates = ready.clone();
    servers.serve(dump::parts(host.admin_state(move || gates.pending()), &node, &captures, status));

    let changes = Arc::new(Changes::default());
    let (apply, gates) = (sink(&node, &changes), ready.clone());
    let to_store = move |batch: Batch| {
        apply(batch.updates);
        gates.done("manifests");
    };
    tokio::spawn(source.run(to_store, host.stop.clone()));
    let reconciler = Reconciler::new(Arc::clone(&node), steering, changes, (captures, ready.clone()));
    let reconciling = tokio::spawn(reconciler.run(host.stop.clone()));
    let (version, threads, admin) = (host.program.version, host.threads, args.servers.admin);
    info!("culvert {version} on node {}: admin {admin}, {threads} threads for traffic", args.node);
    Ok(RunningAgent { node, ready, reconciling })
}

/// An agent that has started.
struct RunningAgent {
    node: Arc<Node>,
    ready: Ready,
    reconciling: JoinHandle<()>,
}

impl Running for RunningAgent {
    /// No new connections, no new streams.
    async fn drain(&self) {
        self.ready.draining();
        self.node.draining.cancel();
        self.node.connections.drained().await;
    }

    async fn end(self, drained: bool) {
        let node = &self.node;
        if !drained {
            warn!("{} connections are cut: the time to drain is over", node.connections.len());
            node.connections.close_all(|_| true);
        }
        node.tasks.close();
        let _ = tokio::time::timeout(GOODBYE, node.tasks.wait()).await;
        let _stuck = tokio::time::timeout(GOODBYE, self.reconciling).await;
    }
}

fn build(args: &AgentArgs, host: &Host, limits: Limits, issuer: Arc<dyn Issuer>) -> Arc<Node> {
    let store = Arc::new(Store::new(Some(args.node.clone())));
    let keyring = Keyring::new(issuer, transport::keyring::Options::default());
    let metrics = Traffic::new(&host.registry);
    let counters = Arc::new(Counters::new(&host.registry));
    let log = AccessLog::new(host.writer.clone(), host.format);
    let pods = Arc::new(Pods::default());
    let settings = transport::hbone::Settings::default();
    let pool = {
        // The pool's tasks carry traffic.
        let _traffic = host.traffic.enter();
        let options =
            PoolOptions { settings: settings.clone(), spread: host.threads.min(SPREAD), ..PoolOptions::default() };
        Pool::new(Arc::clone(&keyring), Arc::new(FromNetns { pods: Arc::clone(&pods) }), options)
    };
    let passthrough = Passthrough::new(Arc::clone(&store), Arc::clone(&metrics), log.clone(), Arc::clone(&counters));
    Arc::new(Node {
        store,
        keyring,
        pool,
        connections: Connections::new(),
        passthrough: Arc::new(passthrough),
        traffic: metrics,
        counters,
        log,
        tunnel_settings: settings,
        timeouts: transport::net::copy::Timeouts::default(),
        pods,
        lost: Arc::default(),
        quotas: Quotas::new(limits, host.traffic.clone(), host.threads),
        direct: args.same_node == SameNode::Direct,
        runtime: host.traffic.clone(),
        tasks: TaskTracker::new(),
        draining: CancellationToken::new(),
        started: Instant::now(),
    })
}

async fn steer(args: &AgentArgs, node: &Arc<Node>) -> Result<Steering> {
    if args.capture == CaptureMode::None {
        return Ok(Steering::Redirected(Arc::new(redirected::Ids::default())));
    }
    let config = CaptureConfig {
        bpf_root: args.bpf_root.clone(),
        attach_cgroup: args.cgroup.clone(),
        agent_cgroup: args.agent_cgroup.clone(),
        kubelet_cgroup: args.kubelet_cgroup.clone(),
        fail_closed: args.fail == FailMode::Closed,
        proxy_all: args.proxy_all,
        ..CaptureConfig::new(args.node.as_str())
    };
    // Cgroups and pins are files: somebody else may hold them up.
    let capture = Arc::new(tokio::task::spawn_blocking(move || Capture::open(config)).await??);
    kernel_reports::follow(capture.events()?, Arc::clone(&node.passthrough), node.draining.clone())?;
    Ok(Steering::Ebpf(capture))
}

fn manifest_options(args: &AgentArgs) -> sources::Options {
    sources::Options {
        cluster_id: args.mesh.cluster.clone(),
        trust_domain: args.mesh.trust_domain.clone(),
        network: args.mesh.network.clone(),
        waypoint_enforcement: args.waypoint_enforcement.into(),
        ..Default::default()
    }
}

/// What a source's updates do: they are applied, and the reconciler is told.
fn sink(node: &Arc<Node>, changes: &Arc<Changes>) -> impl Fn(Vec<Update>) + Send + use<> {
    let (node, changes) = (Arc::clone(node), Arc::clone(changes));
    move |updates| changes.add(node.store.apply(updates))
}

/// What one pod may have.
fn limits(args: &AgentArgs, descriptors: usize) -> Limits {
    let number = |flag: u32| usize::try_from(flag).unwrap_or(usize::MAX);
    match args.unfair {
        true => Limits::none(),
        false => Limits::new(descriptors, number(args.pod_connections), number(args.peers.peer_handshakes)),
    }
}

/// How many descriptors the process may have.
fn raise_descriptor_limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    let limit = raised.or_else(|error| {
        warn!("raising the limit of open files: {error}");
        getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft)
    });
    usize::try_from(limit.unwrap_or(1024)).unwrap_or(usize::MAX)
}
