//! Builds every part of the waypoint in order, runs until told to stop, drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh::model::identity::Identity;
use mesh::model::workload::{NetworkMode, Workload};
use process::admin::{Bound, Surface, Window};
use process::telemetry::access_log::AccessLog;
use process::telemetry::counters::{self, Counters};
use process::telemetry::logging::{self, LogControl};
use process::telemetry::registry::Registry;
use process::telemetry::traffic::Traffic;
use process::telemetry::writer::LogWriter;
use process::{footprint, signals};
use sources::ManifestSource;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use transport::ca::EmbeddedCa;
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

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long tasks may take to end when the time to drain is over.
const GOODBYE: Duration = Duration::from_millis(500);
/// Idle connections are looked for so often.
const SWEEP: Duration = Duration::from_secs(5);

/// Runs the waypoint until it is told to stop.
pub fn run(args: &RunArgs) -> Result<()> {
    let writer = LogWriter::stdout().context("starting the log")?;
    let levels = logging::initial_levels(args.verbose, args.log_levels.as_deref());
    let logging = logging::init(writer.clone(), args.log_format.into(), &levels)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or(cores, usize::from);
    let mut builder = Builder::new_multi_thread();
    let traffic = builder.worker_threads(threads).thread_name("traffic").enable_all().build();
    let traffic = traffic.context("starting the traffic runtime")?;
    let control = Builder::new_current_thread().enable_all().max_blocking_threads(8).build();
    let control = control.context("starting the control runtime")?;
    let result = control.block_on(Box::pin(serve(args, &traffic, threads, logging, &writer)));
    traffic.shutdown_timeout(GOODBYE);
    writer.flush(Duration::from_secs(1));
    result
}

async fn serve(
    args: &RunArgs,
    traffic: &Runtime,
    threads: usize,
    logging: LogControl,
    writer: &LogWriter,
) -> Result<()> {
    let registry = Registry::new("culvert-waypoint", VERSION);
    counters::register_dropped(&registry, writer.clone());
    // Listening comes first: a port that is taken is found before anything else is done.
    let servers = [
        Bound::bind(args.admin, Surface::Admin)?,
        Bound::bind(args.stats, Surface::Stats)?,
        Bound::bind(args.ready, Surface::Ready)?,
    ];
    let listeners = listen(&args.listen, traffic)?;
    let trust_domain = args.trust_domain.as_str().into();
    let ca = EmbeddedCa::open(&args.ca_dir, &trust_domain, args.cert_ttl)
        .with_context(|| format!("--ca-dir {}", args.ca_dir.display()))?;
    let keyring = Keyring::new(Arc::new(ca), transport::keyring::Options::default());
    let gateway = Some((Arc::clone(&args.gateway.namespace), Arc::clone(&args.gateway.name)));
    let worlds = Arc::new(Worlds::new(gateway, args.network.as_str().into()));
    let stop = CancellationToken::new();

    let source = ManifestSource::new(&args.manifests, manifest_options(args));
    let status = source.status();
    let (ready, synced) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (to_world, told) = (Arc::clone(&worlds), Arc::clone(&synced));
    let sink = move |updates: Option<Vec<_>>, raw: Option<Vec<_>>| {
        to_world.apply(updates, raw.map(|raw| manifests::objects(&raw)));
        told.notify_one();
    };
    tokio::spawn(source.run_with_raw(sink, stop.clone()));

    let (quit, gate) = (stop.clone(), Arc::clone(&ready));
    let pending = move || if gate.load(Ordering::Relaxed) { vec![] } else { vec!["manifests".to_owned()] };
    let window = Window::new("culvert-waypoint", VERSION, Arc::clone(&registry), logging)
        .ready_when(pending)
        .on_quit(move || quit.cancel());
    // Who we are may be written in the manifests.
    tokio::select! {
        () = synced.notified() => {}
        told = signals::until_told(&stop) => {
            info!("{}: ending before the manifests were read", told?);
            return Ok(());
        }
    }
    let here = here(args, &worlds, &listeners);
    let identity = here.identity();
    keyring.want(identity.clone());
    let served = servers.iter().map(Bound::local_addr);
    let served = served.chain(listeners.iter().filter_map(|listener| listener.local_addr().ok())).collect();
    let around = Arc::new(Around::new(served, args.allow_local_targets.clone()));
    let shared = build(args, traffic, threads, &registry, (here, writer, Arc::clone(&worlds), &keyring, around));
    look_around(&shared);
    let window = Arc::new(dump::parts(window, &shared, status));
    for server in servers {
        tokio::spawn(server.serve(Arc::clone(&window)));
    }
    background(&shared, traffic, &args.gateway.name, &stop);
    if let Err(error) = keyring.certificate(&identity).await {
        warn!("no certificate yet: {error}");
    }
    let incoming = incoming(args, &keyring);
    for listener in listeners {
        shared.tasks.spawn_on(listener::accept(Arc::clone(&shared), incoming.clone(), listener), traffic.handle());
    }
    ready.store(true, Ordering::Relaxed);
    let gateway = format!("{}/{}", args.gateway.namespace, args.gateway.name);
    info!("culvert-waypoint {VERSION} for {gateway} as {identity}: {threads} threads for traffic");
    tokio::spawn(footprint::settle());
    // Not within the macro: that would not wait where the level is off.
    let told = signals::until_told(&stop).await?;
    info!("{told}: draining");
    stop.cancel();
    ready.store(false, Ordering::Relaxed);
    drain(&shared, args.drain).await;
    Ok(())
}

fn incoming(args: &RunArgs, keyring: &Arc<Keyring>) -> Incoming {
    let at_once = usize::try_from(args.peer_handshakes).unwrap_or(usize::MAX);
    let (keyring, settings) = (Arc::clone(keyring), Arc::default());
    let (handshakes, limits) = (Handshakes::new(at_once), Handshaking { at_once });
    Incoming { keyring, settings, handshakes, limits, buffers: Arc::default() }
}

fn listen(addresses: &[SocketAddr], traffic: &Runtime) -> Result<Vec<TcpListener>> {
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
        cluster_id: args.cluster.as_str().into(),
        trust_domain: args.trust_domain.as_str().into(),
        network: args.network.as_str().into(),
        keeps_raw: true,
        local_addresses: args.allow_local_targets.clone(),
        ..Default::default()
    }
}

/// The workload that we are: the pod at one of our addresses, else one as the Gateway's name suggests.
fn here(args: &RunArgs, worlds: &Worlds, listeners: &[TcpListener]) -> Workload {
    let network = args.network.as_str().into();
    let snapshot = Arc::clone(&worlds.load().snapshot);
    let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok());
    let gateway = &args.gateway;
    let pod = addresses.map(|address| address.ip()).find_map(|ip| snapshot.workload_at(&network, ip).cloned());
    // Whose identity is taken is not for anybody to say who writes our address down as an endpoint.
    let pod = pod.filter(|pod| *pod.namespace == *gateway.namespace && pod.uid.contains("//Pod/"));
    let mut here = match pod {
        Some(pod) => (*pod).clone(),
        None => Workload {
            trust_domain: args.trust_domain.as_str().into(),
            service_account: Arc::clone(&gateway.name).into(),
            ..Workload::sample(&gateway.name, &gateway.namespace, &[])
        },
    };
    if let Some(account) = &args.service_account {
        here.service_account = account.as_str().into();
    }
    here
}

fn build(
    args: &RunArgs,
    traffic: &Runtime,
    threads: usize,
    registry: &Arc<Registry>,
    (here, writer, worlds, keyring, around): (Workload, &LogWriter, Arc<Worlds>, &Arc<Keyring>, Arc<Around>),
) -> Arc<Shared> {
    let identity: Identity = here.identity();
    let pool = {
        // The pool's tasks carry traffic.
        let _traffic = traffic.enter();
        let options = PoolOptions { spread: threads.min(4), idle: Duration::from_secs(60), ..PoolOptions::default() };
        Pool::new(Arc::clone(keyring), Arc::new(FromHere::new(Arc::clone(&around))), options)
    };
    let format = args.log_format.into();
    let sink = Sink { requests: Requests::new(registry), log: RequestLog::new(writer.clone(), format) };
    Arc::new(Shared {
        worlds,
        clusters: Clusters::default(),
        connector: Connector::new(pool, here.uid.clone(), identity, Arc::clone(&around)),
        around,
        here,
        network: args.network.as_str().into(),
        sink,
        traffic: Traffic::new(registry),
        tcp_log: AccessLog::new(writer.clone(), format),
        counters: Counters::new(registry),
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
fn background(shared: &Arc<Shared>, traffic: &Runtime, name: &Arc<str>, stop: &CancellationToken) {
    let (of_keys, stop_keys) = (Arc::clone(shared), stop.clone());
    tokio::spawn(async move { of_keys.keys.keep_fresh(&of_keys.worlds, &of_keys.around, &stop_keys).await });
    let (of_spans, stop_spans, name) = (Arc::clone(shared), stop.clone(), Arc::clone(name));
    tokio::spawn(async move { of_spans.spans.export(&of_spans.worlds, &of_spans.around, &name, &stop_spans).await });
    let (of_sweep, stop_sweep) = (Arc::clone(shared), stop.clone());
    traffic.spawn(async move {
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

/// No new connections, no new streams; requests under way may end.
async fn drain(shared: &Arc<Shared>, limit: Duration) {
    shared.draining.cancel();
    shared.tasks.close();
    if tokio::time::timeout(limit, shared.tasks.wait()).await.is_err() {
        warn!("{} connections are cut: the time to drain is over", shared.tasks.len());
    }
}
