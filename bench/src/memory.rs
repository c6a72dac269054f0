//! `bench memory`: a node full of pods, with a sidecar in each, with one agent, with one agent and a waypoint.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::fleet::{Fleet, Kind, MOST_PODS};
use crate::load::Seen;
use crate::report::{Axes, Chart, Line, Report};
use crate::sidecar::Sidecar;
use crate::stats::{Samples, fit, report};
use crate::{meter, show};

/// Pods that the sums are extrapolated to.
const MANY: f64 = 1000.0;
/// What of memory is measured.
const KINDS: [&str; 3] = ["rss", "pss", "private"];

/// What is asked of the bench.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Pods on the node
    #[arg(long, default_value_t = 100)]
    pub pods: usize,
    /// Numbers of pods at which is measured [default: 2,10,25,50,100,200 up to --pods]
    #[arg(long, value_delimiter = ',')]
    pub steps: Vec<usize>,
    /// `envoy`, another Envoy's path, or the adapter of another sidecar (a *.json file, see docs/benchmarks/README.md)
    #[arg(long, default_value = "envoy")]
    pub sidecar: String,
    /// Numbers of services known to each proxy; load is put on with the middle one
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
    pub services: Vec<usize>,
    /// How often each load is put on, the subjects in turn
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds of each load
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Requests per second of all pods together
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// Seconds of rest before memory is read
    #[arg(long, default_value_t = meter::SETTLED.as_secs_f64())]
    pub rest: f64,
    /// GiB of the machine's memory that must stay free
    #[arg(long, default_value_t = 8.0)]
    pub leave: f64,
    /// Only these subjects, divided by commas
    #[arg(long, value_delimiter = ',')]
    pub subjects: Vec<String>,
    /// The agents' flag of this name
    #[arg(long, value_parser = ["mtls", "direct"], default_value = "mtls")]
    pub same_node: String,
}

impl Options {
    fn steps(&self) -> Vec<usize> {
        let mut steps = self.steps.clone();
        if steps.is_empty() {
            steps = vec![2, 10, 25, 50, 100, 200];
        }
        steps.retain(|step| (2..=self.pods).contains(step));
        steps.push(self.pods);
        steps.sort_unstable();
        steps.dedup();
        steps
    }

    fn kinds(&self) -> Result<Vec<Kind>> {
        let wanted = |name: &str| self.subjects.is_empty() || self.subjects.iter().any(|subject| subject == name);
        let mut kinds = vec![Kind::Bare];
        // Who does not measure Envoy need not have it.
        if self.sidecar != "envoy" || wanted("envoy") {
            kinds.push(Kind::Sidecars(Sidecar::parse(&self.sidecar)?));
        }
        kinds.extend([Kind::Agent, Kind::Waypoint]);
        kinds.retain(|kind| wanted(kind.name()));
        ensure!(!kinds.is_empty(), "no such subject: {}", self.subjects.join(", "));
        Ok(kinds)
    }
}

/// One run of the bench.
struct Bench<'a> {
    options: &'a Options,
    samples: Samples,
    notes: Vec<String>,
    /// Steps of the progress bar: done and in all.
    done: usize,
    steps: usize,
}

/// Runs it all.
pub fn run(options: &Options) -> Result<Report> {
    ensure!((2..=MOST_PODS).contains(&options.pods), "--pods must be between 2 and {MOST_PODS}");
    let machine = meter::machine();
    let (kinds, steps) = (options.kinds()?, options.steps());
    let _neighbours = Neighbours::raise()?;
    let mut services = options.services.clone();
    services.sort_unstable();
    let middle = services.get(services.len() / 2).copied().context("--services is empty")?;
    let rounds = options.rounds * kinds.len();
    // At rest with each number of services, then once more under load: load leaves its mark on what follows.
    let climbs = services.iter().map(|count| (*count, false)).chain([(middle, true)]);
    let all = kinds.len() + (services.len() + 1) * kinds.len() * steps.len() + steps.len() * rounds;
    let mut bench = Bench { options, samples: Samples::default(), notes: Vec::new(), done: 0, steps: all };
    let mut fleets = Vec::new();
    for kind in kinds {
        bench.at(&format!("{}: making {} pods", kind.name(), options.pods));
        fleets.push(Fleet::new(kind, options.pods, &["--same-node", &options.same_node])?);
        bench.done += 1;
    }
    let mut reached = Vec::new();
    for (count, loaded) in climbs {
        for fleet in &mut fleets {
            fleet.restart(count).with_context(|| format!("{} with {count} services", fleet.kind.name()))?;
        }
        reached = bench.climb(&mut fleets, count, &steps, loaded)?;
    }
    let names: Vec<String> = fleets.iter().map(|fleet| fleet.kind.name().to_owned()).collect();
    Ok(bench.report(machine, &names, &services, middle, &reached))
}

impl Bench<'_> {
    fn at(&self, what: &str) {
        show::progress(self.done as f64 / self.steps.max(1) as f64, what);
    }

    /// More and more pods with one number of services. Gives the numbers of pods that were reached.
    fn climb(&mut self, fleets: &mut [Fleet], services: usize, steps: &[usize], loaded: bool) -> Result<Vec<usize>> {
        let mut reached = Vec::new();
        for pods in steps {
            if let Some(short) = fleets.iter().find_map(|fleet| short_of_memory(fleet, *pods, self.options.leave)) {
                self.notes.push(format!("Stopped before {pods} pods with {services} services: {short}."));
                break;
            }
            for fleet in fleets.iter_mut() {
                self.at(&format!("{}: {pods} pods, {services} services", fleet.kind.name()));
                fleet.grow(*pods).with_context(|| format!("{pods} pods of {}", fleet.kind.name()))?;
                self.done += 1;
            }
            if loaded {
                self.loads(fleets, services, *pods)?;
            } else {
                thread::sleep(Duration::from_secs_f64(self.options.rest));
                self.memory(fleets, "idle", services, *pods)?;
            }
            reached.push(*pods);
        }
        Ok(reached)
    }

    fn memory(&mut self, fleets: &[Fleet], when: &str, services: usize, pods: usize) -> Result<()> {
        for fleet in fleets.iter().filter(|fleet| !matches!(fleet.kind, Kind::Bare)) {
            let memory = fleet.memory()?;
            self.add_memory(when, services, pods, fleet.kind.name(), memory);
        }
        Ok(())
    }

    fn add_memory(&mut self, when: &str, services: usize, pods: usize, subject: &str, memory: meter::Memory) {
        for (kind, value) in KINDS.iter().zip([memory.rss, memory.pss, memory.private]) {
            self.samples.add(&name(when, kind, services, pods), "KiB", subject, value as f64);
        }
    }

    /// The loads, the subjects in turn while the others stand still; then memory under load, and after it.
    fn loads(&mut self, fleets: &[Fleet], services: usize, pods: usize) -> Result<()> {
        for fleet in fleets {
            fleet.wait_open(pods)?;
            fleet.freeze(true)?;
        }
        for round in 0..self.options.rounds {
            for turn in 0..fleets.len() {
                let fleet = &fleets[(turn + round) % fleets.len()];
                self.at(&format!("{}: load on {pods} pods, round {}", fleet.kind.name(), round + 1));
                fleet.freeze(false)?;
                self.load(fleet, pods)?;
                fleet.freeze(true)?;
                self.done += 1;
            }
        }
        // Reading memory takes time and locks, so it has a load of its own whose latencies nobody looks at.
        for fleet in fleets {
            self.at(&format!("{}: memory under load of {pods} pods", fleet.kind.name()));
            fleet.freeze(false)?;
            let load = fleet.load(pods, self.options.rate, 1.5)?;
            thread::sleep(Duration::from_millis(1200));
            if !matches!(fleet.kind, Kind::Bare) {
                let memory = fleet.memory()?;
                self.add_memory("load", services, pods, fleet.kind.name(), memory);
            }
            load.read::<Seen>(Duration::from_secs(30)).context("the load under which memory was read")?;
            fleet.freeze(true)?;
        }
        for fleet in fleets {
            fleet.freeze(false)?;
        }
        thread::sleep(Duration::from_secs_f64(self.options.rest));
        self.memory(fleets, "after", services, pods)
    }

    fn load(&mut self, fleet: &Fleet, pods: usize) -> Result<()> {
        let (proxies, subject) = (fleet.proxies()?, fleet.kind.name());
        let before = meter::cpu_of(&proxies)?;
        let load = fleet.load(pods, self.options.rate, self.options.seconds)?;
        let patience = Duration::from_secs_f64(self.options.seconds + 60.0);
        let seen: Seen = load.read(patience).with_context(|| format!("load on {pods} pods of {subject}"))?;
        let cpu = (meter::cpu_of(&proxies)? - before) as f64 / 1e9;
        ensure!(seen.units > 0, "load on {pods} pods of {subject}: nothing happened");
        let mut add = |measure: &str, unit: &str, value: f64| {
            self.samples.add(&format!("{measure}_n{pods}"), unit, subject, value);
        };
        add("requests", "1/s", seen.units as f64 / seen.seconds);
        if !proxies.is_empty() {
            add("cpu_1000_requests", "s", cpu / seen.units_ever as f64 * 1000.0);
        }
        add("latency_p50", "us", seen.p50_ns as f64 / 1000.0);
        add("latency_p99", "us", seen.p99_ns as f64 / 1000.0);
        self.samples.add_distribution(&format!("{pods} pods"), subject, seen.quantiles);
        Ok(())
    }

    /// Slopes, extrapolations, charts.
    fn report(
        mut self,
        machine: serde_json::Value,
        names: &[String],
        services: &[usize],
        middle: usize,
        reached: &[usize],
    ) -> Report {
        let subjects: Vec<&str> = names.iter().map(String::as_str).collect();
        for pods in reached {
            for measure in ["latency_p50", "latency_p99"] {
                self.samples.add_difference(&format!("{measure}_n{pods}"), "us", &subjects, "none");
            }
        }
        let mut charts = Vec::new();
        let mut whens: Vec<(&str, usize)> = services.iter().map(|count| ("idle", *count)).collect();
        whens.extend([("load", middle), ("after", middle)]);
        for (when, count) in whens {
            for kind in KINDS {
                let lines = self.lines(&subjects, when, kind, count);
                self.extrapolate(&lines, when, kind, count);
                if kind == "private" || (when, count) == ("idle", middle) {
                    charts.push(chart(when, kind, count, lines));
                }
            }
        }
        let pairs: Vec<(&str, &str)> = subjects
            .iter()
            .enumerate()
            // What a waypoint adds to an agent is no comparison of meshes.
            .filter(|(_, against)| **against != Kind::Agent.name())
            .flat_map(|(index, against)| subjects[index + 1..].iter().map(move |subject| (*subject, *against)))
            .collect();
        let mut report = report("memory", machine, &self.samples, &subjects, &pairs);
        // Of the distributions only the fullest node's is worth a chart.
        let fullest = reached.last().map(|pods| format!("{pods} pods:")).unwrap_or_default();
        report.charts.retain(|chart| chart.title.starts_with(&fullest));
        report.charts = charts.into_iter().chain(report.charts).collect();
        report.bars = bars(middle, reached.last().copied().unwrap_or(0));
        report.notes.push(
            "Measures end in the number of services known to each proxy (s) and of pods (n). per_pod and extrapolated_1000_pods are \
             taken from a straight line through the measured numbers of pods: extrapolated_1000_pods is extrapolated, not measured."
                .to_owned(),
        );
        report.notes.extend(self.notes);
        report
    }

    /// Memory over the number of pods, in MiB.
    fn lines(&self, subjects: &[&str], when: &str, kind: &str, services: usize) -> Vec<Line> {
        let steps = self.options.steps();
        let mut lines = Vec::new();
        for subject in subjects {
            let value = |pods: &usize| self.samples.of(&name(when, kind, services, *pods), subject).first().copied();
            let points: Vec<(f64, f64)> =
                steps.iter().filter_map(|pods| Some((*pods as f64, value(pods)? / 1024.0))).collect();
            if !points.is_empty() {
                lines.push(Line { subject: (*subject).to_owned(), points });
            }
        }
        lines
    }

    fn extrapolate(&mut self, lines: &[Line], when: &str, kind: &str, services: usize) {
        for line in lines {
            if let Some((base, slope)) = fit(&line.points) {
                let mut add = |measure: &str, value: f64| {
                    self.samples.add(
                        &format!("{measure}_{when}_{kind}_s{services}"),
                        "KiB",
                        &line.subject,
                        value * 1024.0,
                    );
                };
                add("per_pod", slope);
                add("extrapolated_1000_pods", base + slope * MANY);
            }
        }
    }
}

fn name(when: &str, kind: &str, services: usize, pods: usize) -> String {
    format!("{when}_{kind}_s{services}_n{pods}")
}

fn chart(when: &str, kind: &str, services: usize, lines: Vec<Line>) -> Chart {
    let kind = match kind {
        "private" => "Private memory",
        "pss" => "Proportional memory (PSS)",
        _ => "Resident memory (RSS)",
    };
    let when = match when {
        "idle" => "at rest",
        "load" => "under load",
        _ => "after load",
    };
    Chart {
        title: format!("{kind} {when}, {services} services"),
        x: "pods on the node".to_owned(),
        y: "MiB".to_owned(),
        axes: Axes::Linear,
        lines,
    }
}

/// What the page shows as bars.
fn bars(services: usize, pods: usize) -> Vec<String> {
    let mut bars: Vec<String> = ["idle", "load", "after"]
        .into_iter()
        .flat_map(|when| KINDS.map(|kind| name(when, kind, services, pods)))
        .collect();
    for measure in ["per_pod", "extrapolated_1000_pods"] {
        bars.extend(["pss", "private"].map(|kind| format!("{measure}_idle_{kind}_s{services}")));
    }
    let measures = ["cpu_1000_requests", "latency_p50", "latency_p99"];
    bars.extend(measures.map(|measure| format!("{measure}_n{pods}")));
    bars.extend(["latency_p50", "latency_p99"].map(|measure| format!("{measure}_n{pods}_added")));
    bars
}

/// Why a fleet cannot grow to so many pods, if it cannot: each new one is taken to need what the others do.
fn short_of_memory(fleet: &Fleet, pods: usize, leave: f64) -> Option<String> {
    if fleet.meshed == 0 {
        return None;
    }
    let each = fleet.memory().ok()?.private as f64 / fleet.meshed as f64;
    let needed = each * pods.saturating_sub(fleet.meshed) as f64 / 1024.0 / 1024.0;
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let free = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.split_whitespace().next()?;
    let free = free.parse::<f64>().ok()? / 1024.0 / 1024.0;
    (free - needed < leave).then(|| {
        format!("{} would need {needed:.1} GiB more, {free:.1} GiB are free and {leave} stay so", fleet.kind.name())
    })
}

/// The kernel's limits on neighbours hold for all namespaces together, and are too low for hundreds. Put back when
/// dropped.
struct Neighbours(Vec<(String, String)>);

impl Neighbours {
    fn raise() -> Result<Self> {
        let mut old = Vec::new();
        for family in ["ipv4", "ipv6"] {
            for (limit, least) in [("gc_thresh1", 8192), ("gc_thresh2", 16384), ("gc_thresh3", 32768)] {
                let path = format!("/proc/sys/net/{family}/neigh/default/{limit}");
                let Ok(text) = fs::read_to_string(&path) else { continue };
                if text.trim().parse::<u64>().unwrap_or(0) < least {
                    fs::write(&path, least.to_string()).with_context(|| path.clone())?;
                    old.push((path, text));
                }
            }
        }
        Ok(Self(old))
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for (path, text) in &self.0 {
            let _as_good_as_it_gets = fs::write(path, text.trim());
        }
    }
}
