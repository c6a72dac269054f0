//! Builds every part of the waypoint in order, and drains them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh::model::identity::Identity;
use mesh::model::workload::{NetworkMode, Workload};
use process::admin::Servers;
use process::issuer::issuer;
use process::life::{self, Host, Program, Running, Setup};
use process::readiness::Readiness;
use process::telemetry::access_log::AccessLog;
use process::telemetry::refusals::Refusals;
use process::telemetry::traffic::Traffic;
use sources::{Batch, Documents, ManifestSource};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use transport::hbone::{Pool, PoolOptions};
use transport::keyring::Keyring;
use transport::net::handshakes::Handshakes;

use crate::args::RunArgs;
use crate::config::node_addresses;
use crate::dump;
use crate::handshakes::Handshaking;
use crate::keys::jwks::Keys;
use crate::local_targets::Around;
use crate::manifests;
use crate::serve::listener::{self, Incoming};
use crate::shared::{CONNECTIONS, Limits, MIRRORS, Shared};
use crate::telemetry::record::Sink;
use crate::telemetry::span::Spans;
use crate::telemetry::{RequestLog, Requests};
use crate::upstream::connect::FromHere;
use crate::upstream::{Clusters, Connector};
use crate::world::Worlds;

const PROGRAM: Program = Program { name: "culvert-waypoint", version: env!("CARGO_PKG_VERSION") };
/// Streams to one peer are spread over at most so many HTTP/2 connections.
const SPREAD: usize = 4;
/// Idle connections are looked for so often.
const SWEEP: Duration = Duration::from_secs(5);

/// Runs the waypoint until it is told to stop. An error is one of the start.
pub fn run(args: RunArgs) -> Result<()> {
    let setup = Setup {
        program: PROGRAM,
        log: args.log.clone(),
        threads: args.threads,
        event_interval: None,
        drain: args.drain,
        announce: |text| info!("{text}"),
    };
    life::run(setup, |host| start(args, host))
}

/// Builds every part. Connections are accepted, and the servers answer, once the manifests were read.
async fn start(args: RunArgs, host: Host) -> Result<RunningWaypoint> {
    let servers = Servers::bind(&args.servers)?;
    let listeners = listen(&args.listen, &host.traffic)?;
    let keyring = Keyring::new(issuer(&args.input, &args.mesh).await?, transport::keyring::Options::default());

    // clap has asked for it.
    let manifests = args.input.manifests.clone().context("--manifests DIR is missing")?;
    let source = ManifestSource::new(&manifests, manifest_options(&args));
    let (status, worlds) = (source.status(), Arc::new(worlds(&args)));
    follow(source, &worlds, &host.stop).await;

    // Who we are may be written in the manifests.
    let here = here(&args, &worlds, &listeners);
    let identity = here.identity();
    keyring.want(identity.clone());
    let served = servers.addresses().chain(listeners.iter().filter_map(|listener| listener.local_addr().ok()));
    let around = Arc::new(Around::new(served.collect(), args.allow_local_targets.clone()));
    let shared = build(&args, &host, (here, worlds, &keyring, around));
    look_around(&shared);

    let ready = Readiness::waiting_for(["manifests"]);
    let gates = ready.clone();
    servers.serve(dump::parts(host.admin_state(move || gates.pending()), &shared, status));
    background(&shared, &host, &args.gateway.name);
    if let Err(error) = keyring.certificate(&identity).await {
        warn!("no certificate yet: {error}");
    }
    let incoming = incoming(&args, &keyring);
    for listener in listeners {
        shared.tasks.spawn_on(listener::accept(Arc::clone(&shared), incoming.clone(), listener), &host.traffic);
    }
    ready.done("manifests");
    let (version, threads) = (host.program.version, host.threads);
    let gateway = format!("{}/{}", args.gateway.namespace, args.gateway.name);
    info!("culvert-waypoint {version} for {gateway} as {identity}: {threads} threads for traffic");
    Ok(RunningWaypoint { shared, ready })
}

/// A waypoint that has started.
struct RunningWaypoint {
    shared: Arc<Shared>,
    ready: Readiness,
}

impl Running for RunningWaypoint {
    /// No new connections, no new streams; requests under way may end.
    async fn drain(&self) {
        self.ready.draining();
        self.shared.draining.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    async fn end(self, drained: bool) {
        if !drained {
            warn!("{} connections are cut: the time to drain is over", self.shared.tasks.len());
        }
    }
}

fn worlds(args: &RunArgs) -> Worlds {
    let gateway = (Arc::clone(&args.gateway.namespace), Arc::clone(&args.gateway.name));
    Worlds::new(Some(gateway), args.mesh.network.clone())
}

/// Keeps the world as the source says from now on; returns when it has said it once.
async fn follow(source: ManifestSource, worlds: &Arc<Worlds>, stop: &CancellationToken) {
    let synced = Arc::new(Notify::new());
    let (to_world, told) = (Arc::clone(worlds), Arc::clone(&synced));
    let sink = move |batch: Batch| {
        to_world.apply(Some(batch.updates), batch.objects.map(|objects| manifests::objects(&objects)));
        told.notify_one();
    };
    tokio::spawn(source.run(sink, stop.clone()));
    synced.notified().await;
}

fn incoming(args: &RunArgs, keyring: &Arc<Keyring>) -> Incoming {
    let at_once = usize::try_from(args.peers.peer_handshakes).unwrap_or(usize::MAX);
    let (keyring, settings) = (Arc::clone(keyring), Arc::default());
    let (handshakes, limits) = (Handshakes::new(at_once), Handshaking { at_once });
    Incoming { keyring, settings, handshakes, limits, buffers: Arc::default() }
}

fn listen(addresses: &[SocketAddr], traffic: &Handle) -> Result<Vec<TcpListener>> {
    let _traffic = traffic.enter();
    let bind = |address: &SocketAddr| {
        let listener = std::net::TcpListener::bind(address).with_context(|| format!("--listen {address}"))?;
        listener.set_nonblocking(true)?;
        Ok(TcpListener::from_std(listener)?)
    };
    addresses.iter().map(bind).collect()
}

fn manifest_options(args: &RunArgs) -> sources::Options {
    sources::Options {
        cluster_id: args.mesh.cluster.clone(),
        trust_domain: args.mesh.trust_domain.clone(),
        network: args.mesh.network.clone(),
        documents: Documents::OfWaypoints,
        local_addresses: args.allow_local_targets.clone(),
        ..Default::default()
    }
}

/// The workload that we are: the pod at one of our addresses, else one as the Gateway's name suggests.
fn here(args: &RunArgs, worlds: &Worlds, listeners: &[TcpListener]) -> Workload {
    let network = &args.mesh.network;
    let snapshot = Arc::clone(&worlds.load().snapshot);
    let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok());
    let gateway = &args.gateway;
    let pod = addresses.map(|address| address.ip()).find_map(|ip| snapshot.workload_at(network, ip).cloned());
    // Whose identity is taken is not for anybody to say who writes our address down as an endpoint.
    let pod = pod.filter(|pod| *pod.namespace == *gateway.namespace && pod.uid.contains("//Pod/"));
    let mut here = match pod {
        Some(pod) => (*pod).clone(),
        None => Workload {
            trust_domain: args.mesh.trust_domain.clone(),
            service_account: Arc::clone(&gateway.name).into(),
            ..Workload::pod(&gateway.name, &gateway.namespace)
        },
    };
    if let Some(account) = &args.service_account {
        here.service_account = account.clone();
    }
    here
}

fn build(
    args: &RunArgs,
    host: &Host,
    (here, worlds, keyring, around): (Workload, Arc<Worlds>, &Arc<Keyring>, Arc<Around>),
) -> Arc<Shared> {
    let identity: Identity = here.identity();
    let pool = {
        // The pool's tasks carry traffic.
        let _traffic = host.traffic.enter();
        let options =
            PoolOptions { spread: host.threads.min(SPREAD), idle: Duration::from_secs(60), ..PoolOptions::default() };
        Pool::new(Arc::clone(keyring), Arc::new(FromHere::new(Arc::clone(&around))), options)
    };
    let (registry, writer) = (&host.registry, &host.writer);
    let sink = Sink { requests: Requests::new(registry), log: RequestLog::new(writer.clone(), host.format) };
    Arc::new(Shared {
        worlds,
        clusters: Clusters::default(),
        connector: Connector::new(pool, here.uid.clone(), identity, Arc::clone(&around)),
        around,
        here,
        network: args.mesh.network.clone(),
        sink,
        traffic: Traffic::new(registry),
        tcp_log: AccessLog::new(writer.clone(), host.format),
        refusals: Refusals::new(registry),
        keys: Keys::default(),
        limits: Limits::default(),
        replays: Arc::default(),
        connections: Arc::new(Semaphore::new(CONNECTIONS)),
        mirrors: Arc::new(Semaphore::new(MIRRORS)),
        spans: Spans::default(),
        tasks: TaskTracker::new(),
        draining: CancellationToken::new(),
    })
}

/// Keys of issuers, spans, idle connections.
fn background(shared: &Arc<Shared>, host: &Host, name: &Arc<str>) {
    let stop = &host.stop;
    let (of_keys, stop_keys) = (Arc::clone(shared), stop.clone());
    tokio::spawn(async move { of_keys.keys.keep_fresh(&of_keys.worlds, &of_keys.around, &stop_keys).await });
    let (of_spans, stop_spans, name) = (Arc::clone(shared), stop.clone(), Arc::clone(name));
    tokio::spawn(async move { of_spans.spans.export(&of_spans.worlds, &of_spans.around, &name, &stop_spans).await });
    let (of_sweep, stop_sweep) = (Arc::clone(shared), stop.clone());
    host.traffic.spawn(async move {
        loop {
            tokio::select! {
                () = stop_sweep.cancelled() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
            of_sweep.clusters.sweep(&of_sweep.worlds.load(), Instant::now());
            look_around(&of_sweep);
        }
    });
}

/// What is close to us may have changed: interfaces, and what the manifests say of our pod and node.
fn look_around(shared: &Shared) {
    let (objects, world, here) = (shared.worlds.objects(), shared.worlds.load(), &shared.here);
    let mut node = node_addresses(&objects, here);
    // Pods in the host's network have the node's address.
    let beside = |other: &&Arc<Workload>| other.network_mode == NetworkMode::HostNetwork && other.node == here.node;
    let beside = world.snapshot.workloads().filter(|_| !here.node.is_empty()).filter(beside);
    node.extend(beside.flat_map(|other| other.addresses.iter().copied()));
    shared.around.refresh(&here.addresses, node);
}
