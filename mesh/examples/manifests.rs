//! Measures source 1: how long a folder of manifests takes to load, what it costs in memory, and how long a change takes
//! from the end of the write to the sink.
//!
//! `cargo run --release -p mesh --example manifests -- 10000 1000` (pods, services).
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh::model::update::Update;
use mesh::source::manifest::{ManifestSource, Options};
use mesh::state::store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many changes are timed.
const ROUNDS: usize = 21;

type Batch = (Instant, Vec<Update>);

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let pods = arguments.next().and_then(Result::ok).unwrap_or(10_000);
    let services = arguments.next().and_then(Result::ok).unwrap_or(1_000).max(1);
    let dir = tempfile::tempdir()?;
    for service in 0..services {
        let of_service = (service..pods).step_by(services).map(|pod| a_pod(pod, service, "v1"));
        fs::write(dir.path().join(format!("{service}.yaml")), shop(service, 80) + &of_service.collect::<String>())?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(dir.path(), pods, services))
}

async fn measure(dir: &Path, pods: usize, services: usize) -> std::io::Result<()> {
    let source = ManifestSource::new(dir, Options::default());
    let (sender, mut batches) = mpsc::channel::<Batch>(16);
    let stop = CancellationToken::new();
    let before = resident();
    let begin = Instant::now();
    let sink = move |batch| _ = sender.try_send((Instant::now(), batch));
    let running = tokio::spawn(source.run(sink, stop.clone()));
    let Some((at, batch)) = batches.recv().await else { return Ok(()) };
    println!("{pods} pods, {services} services: {} updates after {:?}", batch.len(), at - begin);
    let store = Store::new(None);
    let begin = Instant::now();
    store.apply(batch);
    println!("applied to the store in {:?}", begin.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let taken = resident().saturating_sub(before);
    println!("resident: {taken} KiB, {} bytes per pod", taken * 1024 / pods.max(1));

    for what in ["one pod", "one service and all of its pods"] {
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let (port, version) =
                if what == "one pod" { (80, format!("v{round}")) } else { (81 + round, "v1".to_owned()) };
            let of_service =
                (0..pods).step_by(services).map(|pod| a_pod(pod, 0, if pod == 0 { &version } else { "v1" }));
            let text = shop(0, port) + &of_service.collect::<String>();
            tokio::time::sleep(Duration::from_millis(150)).await;
            fs::write(dir.join("0.yaml"), text)?;
            let written = Instant::now();
            let Some((at, batch)) = batches.recv().await else { return Ok(()) };
            times.push((at - written, batch.len()));
            store.apply(batch);
        }
        times.sort();
        let (median, updates) = times[ROUNDS / 2];
        println!("{what}: write to sink {median:?} median, {:?} max, {updates} updates", times[ROUNDS - 1].0);
    }
    stop.cancel();
    _ = running.await;
    Ok(())
}

fn shop(service: usize, port: usize) -> String {
    let (high, low) = (service / 250, service % 250);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{service}, namespace: n{}}}\nspec:\n  \
         clusterIP: 10.200.{high}.{low}\n  selector: {{app: a{service}}}\n  ports:\n  \
         - {{name: http, port: {port}, targetPort: web}}\n",
        service % 10
    )
}

/// About what `kubectl get -o yaml` prints, without managed fields.
fn a_pod(pod: usize, service: usize, version: &str) -> String {
    let address = format!("10.{}.{}.{}", pod / 62_500, pod / 250 % 250, pod % 250);
    let mut text = String::new();
    _ = write!(
        text,
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p{pod}-5c4d6f447-xk2lp\n  namespace: n{}\n  labels:\n    \
         app: a{service}\n    version: {version}\n    pod-template-hash: 5c4d6f447\n  \
         creationTimestamp: \"2026-03-01T10:00:00Z\"\n  ownerReferences:\n  - apiVersion: apps/v1\n    controller: true\n    \
         kind: ReplicaSet\n    name: a{service}-5c4d6f447\n    uid: u{pod}\nspec:\n  nodeName: node-{}\n  \
         serviceAccountName: a{service}\n  containers:\n  - name: app\n    image: example.com/app:1\n    ports:\n    \
         - name: web\n      containerPort: 8080\n      protocol: TCP\n    resources: {{}}\n  restartPolicy: Always\n  \
         volumes:\n  - name: tmp\n    emptyDir: {{}}\nstatus:\n  conditions:\n  - type: Ready\n    status: \"True\"\n    \
         lastTransitionTime: \"2026-03-01T10:00:05Z\"\n  hostIP: 192.168.0.2\n  phase: Running\n  podIP: {address}\n  \
         podIPs:\n  - ip: {address}\n",
        service % 10,
        pod % 100
    );
    text
}

/// Resident memory of this process in KiB.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
