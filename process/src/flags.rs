//! The flags that programs have in common, in groups to be flattened into a program's own.
//!
//! A program that says something in other words, or asks for what is optional here, changes the argument:
//! `#[command(mut_arg("ca_dir", |arg| arg.required(true)))]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use mesh::model::name::{ClusterId, Network, TrustDomain};
use mesh::model::syntax::Form;

use crate::telemetry::line::Format;
use crate::telemetry::logging::initial_levels;

/// A certificate is renewed at half its life; shorter than this, renewing would not keep up with clocks that differ.
const SHORTEST_CERT_TTL: Duration = Duration::from_secs(10);
/// Longer durations are typing errors, and sums of them with the time of day would overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Where configuration and certificates come from.
#[derive(Args, Clone, Debug)]
pub struct InputArgs {
    /// Directory of manifests, watched for changes
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Directory of the embedded CA: root key and certificate are made there on first start
    #[arg(long, value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,
}

/// The mesh that a program is part of, and how long it lets a certificate live.
#[derive(Args, Clone, Debug)]
pub struct MeshArgs {
    /// How long a workload's certificate is valid
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = cert_ttl)]
    pub cert_ttl: Duration,

    /// First part of every identity: spiffe://TD/ns/.../sa/...
    #[arg(long, value_name = "TD", env = "TRUST_DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: TrustDomain,

    /// Name of this cluster
    #[arg(long, value_name = "NAME", env = "CLUSTER_ID", default_value = "Kubernetes", value_parser = cluster)]
    pub cluster: ClusterId,

    /// Name of the network that addresses belong to
    #[arg(long, value_name = "NAME", env = "NETWORK", default_value = "", value_parser = network)]
    pub network: Network,
}

/// Where the three servers listen that each program has (`admin`).
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Address of the admin server
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,

    /// Address of the metrics server
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15020")]
    pub stats: SocketAddr,

    /// Address of the readiness server
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15021")]
    pub ready: SocketAddr,
}

/// How many threads carry traffic.
#[derive(Args, Clone, Copy, Debug)]
pub struct ThreadArgs {
    /// Threads that carry traffic [default: one per CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl ThreadArgs {
    /// How many: as told, else one for each CPU that this process may use.
    pub fn count(self) -> usize {
        self.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }
}

/// What one peer may ask for at once.
#[derive(Args, Clone, Copy, Debug)]
pub struct PeerArgs {
    /// TLS handshakes of one peer's address that may be in progress at once; seven times as many wait
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(1..))]
    pub peer_handshakes: u32,
}

/// How a program ends.
#[derive(Args, Clone, Copy, Debug)]
pub struct DrainArgs {
    /// How long open connections may still take when the program is told to stop
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub drain: Duration,
}

/// What is logged, and how.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// How log lines are written
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "LOG_FORMAT")]
    pub log_format: LogFormat,

    /// What is logged, such as info or info,transport::hbone=trace,access=off; wins over -v
    #[arg(long = "log", value_name = "LEVELS", env = "RUST_LOG")]
    pub log_levels: Option<String>,

    /// Log more; twice, still more
    #[arg(short, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl LogArgs {
    /// The levels to start with.
    pub fn levels(&self) -> String {
        initial_levels(self.verbose, self.log_levels.as_deref())
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Tab-separated, as ztunnel writes them.
    Text,
    /// One JSON object to a line.
    Json,
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// Reads a name that has the given form: a value parser for flags.
///
/// # Errors
/// The form that the text must have.
pub fn named<T: for<'a> From<&'a str>>(form: Form, text: &str) -> Result<T, String> {
    form.check(text)?;
    Ok(text.into())
}

/// As [`named`], where an empty text stands for no name.
///
/// # Errors
/// The form that the text must have.
pub fn named_or_empty<T: for<'a> From<&'a str>>(form: Form, text: &str) -> Result<T, String> {
    if text.is_empty() { Ok(text.into()) } else { named(form, text) }
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    named(Form::TrustDomain, text)
}

fn cluster(text: &str) -> Result<ClusterId, String> {
    named(Form::Plain, text)
}

/// The default network has no name.
fn network(text: &str) -> Result<Network, String> {
    named_or_empty(Form::Plain, text)
}

fn cert_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if ttl < SHORTEST_CERT_TTL {
        return Err(format!("a certificate must be valid for {} s at least", SHORTEST_CERT_TTL.as_secs()));
    }
    Ok(ttl)
}

/// Reads `90`, `90s`, `15m`, `24h`, `1h30m`, `1.5s` or `500ms`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let read = || -> Option<Duration> {
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let mut sum = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
            let (unit, after) =
                after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
            let seconds = match unit {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                "d" => 86_400.0,
                _ => return None,
            };
            let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
            sum = sum.checked_add(part)?;
            rest = after;
        }
        (!text.is_empty()).then_some(sum)
    };
    read().filter(|duration| *duration <= LONGEST).ok_or_else(|| {
        format!("{text:?} is not a duration: expected seconds, or numbers with units as in 1h30m, 45s, 500ms")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("0", 0),
            ("20", 20_000),
            ("45s", 45_000),
            ("15m", 900_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("250us750us", 1),
            ("2d", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "h", "1..5h", ".", "-1", "1x", "1h30", "1 s", "36501d", "99999999999999999h", "soon"] {
            assert!(duration(text).unwrap_err().contains("is not a duration"), "{text}");
        }
    }

    #[test]
    fn a_flag_that_becomes_part_of_a_name_has_its_form() {
        for wrong in ["cluster.local/ns/a/sa/b", "Cluster.local", "a;b", "a b", ""] {
            assert!(trust_domain(wrong).is_err(), "{wrong}");
        }
        for wrong in ["a/b", "a//Pod/b", "a b", ""] {
            assert!(cluster(wrong).is_err(), "{wrong}");
        }
        assert!(network("").is_ok() && network("net_1").is_ok() && network("a/b").is_err());
        assert!(trust_domain("cluster.local").is_ok() && cluster("Kubernetes").is_ok());
    }

    #[test]
    fn a_certificate_lives_long_enough_to_be_renewed() {
        assert!(cert_ttl("9s").is_err());
        assert_eq!(cert_ttl("10s"), Ok(Duration::from_secs(10)));
    }

    #[test]
    fn as_many_threads_as_told_else_one_for_each_cpu() {
        assert_eq!(ThreadArgs { threads: Some(3) }.count(), 3);
        assert!(ThreadArgs { threads: None }.count() > 0);
    }
}
