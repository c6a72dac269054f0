//! Role: the manifest source and the store in a process of their own, measured from within.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use mesh::model::name::{Hostname, Namespace, Network};
use mesh::model::update::Update;
use mesh::state::snapshot::Snapshot;
use mesh::state::store::Store;
use serde::{Deserialize, Serialize};
use sources::{Batch, ManifestSource, Options};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::many::{self, Size};
use crate::meter::own_cpu;
use harness::mesh::apply;

/// Lookups of each kind.
const LOOKUPS: usize = 300_000;
/// Pause between changes.
const PAUSE: Duration = Duration::from_millis(250);
/// Timeout of the first load, and of a change.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct Scaled {
    /// The directory of manifests, as `many` writes it
    pub directory: PathBuf,
    #[arg(long)]
    pub workloads: usize,
    #[arg(long)]
    pub services: usize,
    /// How many changes of each kind
    #[arg(long)]
    pub changes: usize,
}

/// What was measured. Printed as one line of JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Seconds until everything was read and converted, and its CPU time.
    pub load: f64,
    /// CPU seconds of that.
    pub load_cpu: f64,
    /// Seconds for the store to take it.
    pub apply: f64,
    /// Bytes on the heap: source and store; the store alone, with the names that both use.
    pub all: f64,
    /// See `all`.
    pub store: f64,
    /// Microseconds from the renaming of a file to the effect, one pod changed.
    pub pod: Vec<f64>,
    /// The same, a service and its pods changed.
    pub service: Vec<f64>,
    /// Microseconds of CPU time of one such change, with whatever it brings about later.
    pub pod_cpu: f64,
    /// See `pod_cpu`.
    pub service_cpu: f64,
    /// Nanoseconds of a look-up: workload by address, service by address, service by host name.
    pub by_address: f64,
    /// See `by_address`.
    pub by_vip: f64,
    /// See `by_address`.
    pub by_host: f64,
}

/// Measures one directory.
pub async fn run(options: &Scaled) -> Result<Measured> {
    let size = Size { workloads: options.workloads, services: options.services };
    let source = ManifestSource::new(&options.directory, Options::default());
    let (sender, mut batches) = mpsc::channel::<Vec<Update>>(64);
    let stop = CancellationToken::new();
    let (before, cpu, begin) = (heap(), own_cpu()?, Instant::now());
    let running = tokio::spawn(source.run(move |batch: Batch| _ = sender.try_send(batch.updates), stop.clone()));
    let batch = next(&mut batches).await?;
    let mut measured = Measured { load: begin.elapsed().as_secs_f64(), ..Measured::default() };
    let known = batch.len();
    ensure!(known == size.workloads + size.services, "the directory says {known} things");
    let store = Store::new(None);
    let begin = Instant::now();
    store.apply(batch);
    measured.apply = begin.elapsed().as_secs_f64();
    measured.load_cpu = seconds(own_cpu()? - cpu);
    // The survey of problems is over then, and what it needed is free again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    measured.all = heap() - before;

    let mut changes = Changes { directory: &options.directory, size, store: &store, batches: &mut batches };
    (measured.pod, measured.pod_cpu) = changes.of_a_pod(options.changes).await?;
    (measured.service, measured.service_cpu) = changes.of_a_service(options.changes).await?;
    look_up(&store.snapshot(), size, &mut measured)?;

    stop.cancel();
    running.await.context("the source")?;
    drop(batches);
    measured.store = heap() - before;
    drop(store);
    Ok(measured)
}

async fn next(batches: &mut mpsc::Receiver<Vec<Update>>) -> Result<Vec<Update>> {
    tokio::time::timeout(PATIENCE, batches.recv()).await.context("nothing came of it")?.context("the source ended")
}

struct Changes<'a> {
    directory: &'a Path,
    size: Size,
    store: &'a Store,
    batches: &'a mut mpsc::Receiver<Vec<Update>>,
}

impl Changes<'_> {
    async fn of_a_pod(&mut self, count: usize) -> Result<(Vec<f64>, f64)> {
        let texts = (0..count).map(|round| self.size.file(0, 80, &format!("c{round}"))).collect();
        self.make(texts, 1).await
    }

    async fn of_a_service(&mut self, count: usize) -> Result<(Vec<f64>, f64)> {
        let last = format!("c{}", count - 1);
        let ports = (0..u16::try_from(count)?).map(|round| 81 + round);
        let texts = ports.map(|port| self.size.file(0, port, &last)).collect();
        let pods = self.size.workloads.div_ceil(self.size.services);
        self.make(texts, 1 + pods).await
    }

    /// Makes changes of the first file, each of which comes to so many updates: microseconds until each was in effect,
    /// and microseconds of CPU time of one.
    async fn make(&mut self, texts: Vec<String>, updates: usize) -> Result<(Vec<f64>, f64)> {
        let (count, before) = (texts.len(), own_cpu()?);
        let mut times = Vec::new();
        for text in texts {
            let begin = Instant::now();
            apply(self.directory, &many::file_name(0), &text)?;
            let batch = next(self.batches).await?;
            ensure!(batch.len() == updates, "a change came to {} updates, not to {updates}", batch.len());
            self.store.apply(batch);
            times.push(begin.elapsed().as_secs_f64() * 1e6);
            tokio::time::sleep(PAUSE).await;
        }
        Ok((times, seconds(own_cpu()? - before) * 1e6 / count as f64))
    }
}

/// Looks things up in an order that no cache foresees.
fn look_up(mesh: &Arc<Snapshot>, size: Size, measured: &mut Measured) -> Result<()> {
    let network = Network::default();
    let scattered = |of: usize| (0..LOOKUPS).map(move |number| number.wrapping_mul(7_919) % of);
    let pods: Vec<_> = scattered(size.workloads).map(many::pod_address).collect();
    measured.by_address = each(&pods, |address| mesh.workload_at(&network, *address).is_some())?;
    let vips: Vec<_> = scattered(size.services).map(many::service_address).collect();
    let client = Namespace::default();
    measured.by_vip = each(&vips, |address| mesh.service_at(&network, *address, &client).is_some())?;
    let names: Vec<(Namespace, Hostname)> = (0..size.services)
        .map(|service| {
            let (namespace, host) = many::service_host(service);
            (namespace.into(), host.into())
        })
        .collect();
    let names: Vec<_> = scattered(size.services).map(|service| &names[service]).collect();
    measured.by_host = each(&names, |(namespace, host)| mesh.service_named(host, namespace).is_some())?;
    Ok(())
}

/// Nanoseconds of each; all have to be found.
fn each<K>(keys: &[K], find: impl Fn(&K) -> bool) -> Result<f64> {
    let begin = Instant::now();
    let found = keys.iter().filter(|key| find(black_box(key))).count();
    let took = begin.elapsed().as_secs_f64() * 1e9 / keys.len() as f64;
    ensure!(found == keys.len(), "{found} of {} were found", keys.len());
    Ok(took)
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Bytes allocated on the heap.
#[expect(unsafe_code, reason = "libc has no safe way to ask")]
fn heap() -> f64 {
    // SAFETY: it takes nothing and returns numbers.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as f64
}
