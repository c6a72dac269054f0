//! The phases of a bench, alternating between subjects, and the measures they yield.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::load::{Kind, Seen};
use crate::stats::Samples;
use crate::{meter, show};
use harness::process::{Place, Process};

/// Nanoseconds in a second.
const SECOND: f64 = 1e9;
/// Bytes in a GiB.
const GIB: f64 = (1_u64 << 30) as f64;

/// One path from the client to the server.
pub struct Subject {
    /// Its name in the report.
    pub name: &'static str,
    /// Where the client runs.
    pub client: Place,
    /// What the client dials.
    pub to: SocketAddr,
    /// Processes whose CPU time and memory are the cost of the path.
    pub proxies: Vec<u32>,
    /// Processes at the ends, counted where the price is paid in their system calls; the client is added by itself.
    pub ends: Vec<u32>,
}

/// One kind of load with the name of its measures.
#[derive(Clone, Copy)]
pub struct Phase {
    /// First part of the measures' names.
    pub measure: &'static str,
    kind: Kind,
    count: usize,
}

/// Bytes on one stream.
pub const BULK_1: Phase = Phase { measure: "throughput_1", kind: Kind::Bulk, count: 1 };
/// Bytes on eight streams.
pub const BULK_8: Phase = Phase { measure: "throughput_8", kind: Kind::Bulk, count: 8 };
/// One connection that asks and waits.
pub const LATENCY: Phase = Phase { measure: "latency", kind: Kind::Requests, count: 1 };
/// Sixteen of them.
pub const REQUESTS: Phase = Phase { measure: "requests", kind: Kind::Requests, count: 16 };
/// Four at a time: connect, ask, close.
pub const CONNECTIONS: Phase = Phase { measure: "connections", kind: Kind::Connections, count: 4 };

/// What is asked of a bench.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// How often everything is measured [tunnel: 5, capture: 10]
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Seconds of each phase [tunnel: 2, capture: 0.5]
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Idle connections whose memory is measured (tunnel)
    #[arg(long, default_value_t = 5000)]
    pub idle: usize,
    /// Only these subjects, divided by commas
    #[arg(long, value_delimiter = ',')]
    pub subjects: Vec<String>,
}

impl Options {
    /// Whether a subject is to be measured.
    pub fn wants(&self, subject: &str) -> bool {
        self.subjects.is_empty() || self.subjects.iter().any(|wanted| wanted == subject)
    }
}

/// Says on standard error what is being measured: `step` of `steps` in this round.
pub fn progress(round: usize, rounds: usize, (step, steps): (usize, usize), what: &str) {
    let fraction = (round as f64 + step as f64 / steps.max(1) as f64) / rounds.max(1) as f64;
    // Elsewhere than on a terminal a line per round is enough.
    let what = if std::io::stderr().is_terminal() { what } else { "" };
    show::progress(fraction, &format!("round {} of {rounds} {what}", round + 1));
}

/// How long phases are.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Seconds measured in each phase.
    pub seconds: f64,
    /// Whether the CPU time of client and server counts too.
    pub whole_path: bool,
}

/// Runs one phase for one subject and adds what it gave, under names that begin with `prefix`.
pub fn measure(prefix: &str, subject: &Subject, phase: Phase, pace: Pace, samples: &mut Samples) -> Result<()> {
    let measure = format!("{prefix}{}", phase.measure);
    let counted =
        if pace.whole_path { [&subject.proxies[..], &subject.ends].concat() } else { subject.proxies.clone() };
    let before = meter::cpu_of(&counted)?;
    let seen = load(subject, phase.kind, phase.count, pace.seconds)
        .with_context(|| format!("{measure} of {}", subject.name))?;
    let mut cpu = (meter::cpu_of(&counted)? - before) as f64;
    if pace.whole_path {
        cpu += seen.cpu_ns as f64;
    }
    ensure!(seen.units > 0, "{measure} of {}: nothing happened", subject.name);
    let (rate, ever) = (seen.units as f64 / seen.seconds, seen.units_ever as f64);
    let mut add = |suffix: &str, unit: &str, value: f64| {
        samples.add(&format!("{measure}{suffix}"), unit, subject.name, value);
    };
    if phase.kind == Kind::Bulk {
        add("", "Gbit/s", rate * 8.0 / SECOND);
        if !counted.is_empty() {
            add("_cpu", "s/GiB", cpu / SECOND / (ever / GIB));
        }
        return Ok(());
    }
    if phase.count > 1 {
        add("", "1/s", rate);
    }
    if phase.kind == Kind::Requests {
        samples.add_distribution(&measure, subject.name, seen.quantiles);
    }
    let mut add = |suffix: &str, unit: &str, value: f64| {
        samples.add(&format!("{measure}{suffix}"), unit, subject.name, value);
    };
    add("_p50", "us", seen.p50_ns as f64 / 1000.0);
    add("_p99", "us", seen.p99_ns as f64 / 1000.0);
    if !counted.is_empty() {
        add("_cpu", "us/each", cpu / 1000.0 / ever);
    }
    Ok(())
}

/// Memory of the proxies at rest, and with idle connections through them.
pub fn memory(subject: &Subject, connections: usize, samples: &mut Samples) -> Result<()> {
    std::thread::sleep(meter::SETTLED);
    let rest = meter::memory_of(&subject.proxies)?;
    samples.add("memory_rss", "KiB", subject.name, rest.rss as f64);
    samples.add("memory_private", "KiB", subject.name, rest.private as f64);
    samples.add("memory_anonymous", "KiB", subject.name, rest.anonymous as f64);
    if connections == 0 {
        return Ok(());
    }
    let arguments = arguments(subject.to, Kind::Idle, connections, 0.0);
    let mut client = Process::talking(&subject.client, own_program()?, &arguments)?;
    let seen: Seen = client.read(Duration::from_secs(120)).context("idle connections did not open")?;
    ensure!(seen.units == connections as u64, "{} of {connections} idle connections opened", seen.units);
    std::thread::sleep(meter::SETTLED);
    let held = meter::memory_of(&subject.proxies)?;
    samples.add("memory_rss_held", "KiB", subject.name, held.rss as f64);
    samples.add("memory_private_held", "KiB", subject.name, held.private as f64);
    // Each connection passes two proxies, one at either end. The text pages of the first are not charged again to the
    // others.
    let grown = held.anonymous.saturating_sub(rest.anonymous) as f64 * 1024.0;
    samples.add("memory_connection", "B/side", subject.name, grown / connections as f64 / 2.0);
    client.close_stdin();
    let started = std::time::Instant::now();
    while client.ended()?.is_none() {
        ensure!(started.elapsed() < Duration::from_secs(60), "the idle connections did not close");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Starts the bench server in a place and waits until it listens.
pub fn server(place: &Place, at: SocketAddr) -> Result<Process> {
    role(place, &["serve".to_owned(), at.to_string()])
}

/// Starts this program in another role and waits for the line that says that it is ready.
pub fn role(place: &Place, arguments: &[String]) -> Result<Process> {
    let process = Process::talking(place, own_program()?, arguments)?;
    process.read_line(Duration::from_secs(10))?.with_context(|| format!("{} did not start", arguments.join(" ")))?;
    Ok(process)
}

/// Waits until a request goes through, with the first real one.
pub fn wait_open(subject: &Subject) -> Result<()> {
    harness::eventually::eventually(&format!("a way for {}", subject.name), || {
        load(subject, Kind::Requests, 1, 0.02).map(|_| ())
    })
}

fn load(subject: &Subject, kind: Kind, count: usize, seconds: f64) -> Result<Seen> {
    let arguments = arguments(subject.to, kind, count, seconds);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = own_program()?;
    let text = subject.client.run(program.to_str().context("the program's path is not UTF-8")?, &arguments)?;
    serde_json::from_str(&text).with_context(|| format!("the load generator said {text:?}"))
}

fn arguments(to: SocketAddr, kind: Kind, count: usize, seconds: f64) -> Vec<String> {
    use clap::ValueEnum as _;
    let kind = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    ["load", "--to", &to.to_string(), "--kind", &kind, "--count", &count.to_string(), "--seconds", &seconds.to_string()]
        .map(str::to_owned)
        .into()
}

fn own_program() -> Result<std::path::PathBuf> {
    std::env::current_exe().context("own path")
}
