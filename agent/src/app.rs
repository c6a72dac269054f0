//! Builds every part of the agent in order, runs until told to stop, drains.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connections::Connections;
use anyhow::{Context as _, Result};
use mesh::model::name::NodeName;
use mesh::model::update::Update;
use mesh::state::store::Store;
use process::admin::{Bound, Surface, Window};
use process::telemetry::access_log::AccessLog;
use process::telemetry::counters::{self, Counters};
use process::telemetry::line::Format;
use process::telemetry::logging::{self, LogControl};
use process::telemetry::registry::Registry;
use process::telemetry::traffic::Traffic;
use process::telemetry::writer::LogWriter;
use process::{footprint, signals};
use sources::ManifestSource;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use transport::ca::{EmbeddedCa, Issuer};
use transport::hbone::{Pool, PoolOptions};
use transport::keyring::Keyring;

use crate::admin::dump;
use crate::capture::{Capture, CaptureConfig};
use crate::config::{AgentArgs, CaptureMode, FailMode, SameNode};
use crate::connection::outbound::dial::FromNetns;
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

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long cut connections may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(500);
/// `event_interval` of the traffic runtime: tasks polled between two looks at the sockets. One task here is a turn of a fair
/// queue, many polls long: at tokio's default of 61 a connection that waits for one byte would wait too long.
const TICKS: u32 = 3;
/// tokio's default of the same.
const TOKIO_TICKS: u32 = 61;

/// What the agent was told, with the defaults of this machine filled in.
struct Options {
    args: AgentArgs,
    node: NodeName,
    manifests: PathBuf,
    ca_dir: PathBuf,
    log_format: Format,
    threads: usize,
}

impl Options {
    fn new(args: &AgentArgs) -> Result<Self> {
        // clap has asked for both, unless the cleanup was asked for.
        let manifests = args.manifests.clone().context("--manifests DIR is missing")?;
        let ca_dir = args.ca_dir.clone().context("--ca-dir DIR is missing")?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            node: args.node.as_str().into(),
            manifests,
            ca_dir,
            log_format: args.log_format.into(),
            threads: args.threads.map_or(cores, usize::from),
            args: args.clone(),
        })
    }
}

/// Runs the agent until it is told to stop. An error is one of the start: nothing was captured.
pub(crate) fn run(args: &AgentArgs) -> Result<()> {
    let options = Options::new(args)?;
    let writer = LogWriter::stdout().context("starting the log")?;
    let logging = logging::init(writer.clone(), options.log_format, &levels(args))?;
    let descriptors = raise_descriptor_limit();
    accept::keep_a_descriptor_back().context("opening /dev/null")?;
    let traffic = Builder::new_multi_thread()
        .worker_threads(options.threads)
        .event_interval(if args.unfair { TOKIO_TICKS } else { TICKS })
        .thread_name("traffic")
        .enable_all()
        .build()
        .context("starting the traffic runtime")?;
    let control = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .context("starting the control runtime")?;
    let result =
        control.block_on(Box::pin(until_told((options, limits(args, descriptors)), &traffic, logging, writer.clone())));
    traffic.shutdown_timeout(GOODBYE);
    // What still waits for a file or a namespace is not waited for.
    control.shutdown_background();
    writer.flush(Duration::from_secs(1));
    result
}

/// Starts, runs, drains. Told to end it ends, whatever its start still waits for.
async fn until_told(
    (options, limits): (Options, Limits),
    traffic: &Runtime,
    logging: LogControl,
    writer: LogWriter,
) -> Result<()> {
    let stop = CancellationToken::new();
    let limit = options.args.drain;
    let mut told = std::pin::pin!(signals::until_told(&stop));
    let running = tokio::select! {
        // The first look at it is what installs the handlers.
        biased;
        told = &mut told => {
            info!("{}: ending before the start was finished", told?);
            return Ok(());
        }
        started = start((options, limits), traffic, logging, writer, stop.clone()) => started?,
    };
    let told = told.await?;
    info!("{told}: draining");
    stop.cancel();
    running.ready.draining();
    drain(&running.node, limit).await;
    let _stuck = tokio::time::timeout(GOODBYE, running.reconciling).await;
    Ok(())
}

/// What runs.
struct Running {
    node: Arc<Node>,
    ready: Ready,
    reconciling: JoinHandle<()>,
}

async fn start(
    (options, limits): (Options, Limits),
    traffic: &Runtime,
    logging: LogControl,
    writer: LogWriter,
    stop: CancellationToken,
) -> Result<Running> {
    let registry = Registry::new("culvert", VERSION);
    counters::register_dropped(&registry, writer.clone());
    let args = &options.args;
    // Listening comes first: a port that is taken is found before anything is captured.
    let servers = [
        Bound::bind(args.admin, Surface::Admin)?,
        Bound::bind(args.stats, Surface::Stats)?,
        Bound::bind(args.ready, Surface::Ready)?,
    ];
    let (ca_dir, trust_domain, ttl) = (options.ca_dir.clone(), args.trust_domain.as_str().into(), args.cert_ttl);
    // Its lock may be held, its file system may not answer.
    let ca = tokio::task::spawn_blocking(move || EmbeddedCa::open(&ca_dir, &trust_domain, ttl)).await?;
    let ca = ca.with_context(|| format!("--ca-dir {}", options.ca_dir.display()))?;
    let quotas = Quotas::new(limits, traffic.handle().clone(), options.threads);
    let log = AccessLog::new(writer, options.log_format);
    let node = build(&options, traffic, quotas, &registry, log, Arc::new(ca));
    let steering = steer(&options, &node).await?;

    let ready = Ready::waiting_for(["manifests", "captures"]);
    let source = ManifestSource::new(&options.manifests, manifest_options(&options))
        .witnessed(options.node.clone(), Arc::new(witness::shown));
    let captures = Arc::new(Captures::default());
    let status = source.status();
    dump::follow_counts(&node, &status, ready.clone());
    let (gates, quit) = (ready.clone(), stop.clone());
    let window = Window::new("culvert", VERSION, registry, logging)
        .ready_when(move || gates.pending())
        .on_quit(move || quit.cancel());
    let window = Arc::new(dump::parts(window, &node, &captures, status));
    for server in servers {
        tokio::spawn(server.serve(Arc::clone(&window)));
    }
    let changes = Arc::new(Changes::default());
    let (sink, opened) = (sink(&node, &changes), ready.clone());
    let to_store = move |updates: Vec<Update>| {
        sink(updates);
        opened.done("manifests");
    };
    tokio::spawn(source.run(to_store, stop.clone()));
    let reconciler = Reconciler::new(Arc::clone(&node), steering, changes, (captures, ready.clone()));
    let reconciling = tokio::spawn(reconciler.run(stop));
    info!("culvert {VERSION} on node {}: admin {}, {} threads for traffic", options.node, args.admin, options.threads);
    tokio::spawn(footprint::settle());
    Ok(Running { node, ready, reconciling })
}

fn levels(args: &AgentArgs) -> String {
    logging::initial_levels(args.verbose, args.log_levels.as_deref())
}

fn build(
    options: &Options,
    traffic: &Runtime,
    quotas: Arc<Quotas>,
    registry: &Arc<Registry>,
    log: AccessLog,
    issuer: Arc<dyn Issuer>,
) -> Arc<Node> {
    let store = Arc::new(Store::new(Some(options.node.clone())));
    let keyring = Keyring::new(issuer, transport::keyring::Options::default());
    let metrics = Traffic::new(registry);
    let counters = Arc::new(Counters::new(registry));
    let pods = Arc::new(Pods::default());
    let settings = transport::hbone::Settings::default();
    let pool = {
        // The pool's tasks carry traffic.
        let _traffic = traffic.enter();
        let pool_options =
            PoolOptions { settings: settings.clone(), spread: options.threads.min(4), ..PoolOptions::default() };
        Pool::new(Arc::clone(&keyring), Arc::new(FromNetns { pods: Arc::clone(&pods) }), pool_options)
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
        quotas,
        direct: options.args.same_node == SameNode::Direct,
        runtime: traffic.handle().clone(),
        tasks: TaskTracker::new(),
        draining: CancellationToken::new(),
        started: Instant::now(),
    })
}

async fn steer(options: &Options, node: &Arc<Node>) -> Result<Steering> {
    let args = &options.args;
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
        ..CaptureConfig::new(options.node.as_str())
    };
    // Cgroups and pins are files: somebody else may hold them up.
    let capture = Arc::new(tokio::task::spawn_blocking(move || Capture::open(config)).await??);
    kernel_reports::follow(capture.events()?, Arc::clone(&node.passthrough), node.draining.clone())?;
    Ok(Steering::Ebpf(capture))
}

fn manifest_options(options: &Options) -> sources::Options {
    sources::Options {
        cluster_id: options.args.cluster.as_str().into(),
        trust_domain: options.args.trust_domain.as_str().into(),
        network: options.args.network.as_str().into(),
        waypoint_enforcement: options.args.waypoint_enforcement.into(),
        ..Default::default()
    }
}

/// What a source's updates do: they are applied, and the reconciler is told.
fn sink(node: &Arc<Node>, changes: &Arc<Changes>) -> impl Fn(Vec<Update>) + Send + use<> {
    let (node, changes) = (Arc::clone(node), Arc::clone(changes));
    move |updates| changes.add(node.store.apply(updates))
}

/// No new connections, no new streams; open ones may go on for a while and are then cut. A second signal cuts at once.
async fn drain(node: &Arc<Node>, limit: Duration) {
    node.draining.cancel();
    let again = async {
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            }
            _ => std::future::pending().await,
        }
    };
    let drained = tokio::select! {
        drained = node.connections.drained(limit) => drained,
        () = again => false,
    };
    if !drained {
        warn!("{} connections are cut: the time to drain is over", node.connections.len());
        node.connections.close_all(|_| true);
    }
    node.tasks.close();
    let _ = tokio::time::timeout(GOODBYE, node.tasks.wait()).await;
}

/// What one pod may have.
fn limits(args: &AgentArgs, descriptors: usize) -> Limits {
    let number = |flag: u32| usize::try_from(flag).unwrap_or(usize::MAX);
    match args.unfair {
        true => Limits::none(),
        false => Limits::new(descriptors, number(args.pod_connections), number(args.peer_handshakes)),
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
