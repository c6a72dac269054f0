//! What `culvert agent` is told: its flags, and the environment variables that stand for some of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use mesh::model::syntax::Form;
use mesh::model::waypoint::EnforcementMode;
use process::telemetry::line::Format;

/// The flags of `culvert agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// Name of this node: pods with this spec.nodeName are ours
    #[arg(
        long,
        env = "NODE_NAME",
        value_name = "NAME",
        required_unless_present = "cleanup",
        default_value = "",
        hide_default_value = true,
        value_parser = node
    )]
    pub node: String,

    /// Folder of manifests, watched for changes
    #[arg(long, value_name = "DIR", required_unless_present = "cleanup")]
    pub manifests: Option<PathBuf>,

    /// Folder of the embedded CA: root key and certificate are made there on first start
    #[arg(long, value_name = "DIR", required_unless_present = "cleanup")]
    pub ca_dir: Option<PathBuf>,

    /// How long a workload's certificate is valid
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = cert_ttl)]
    pub cert_ttl: Duration,

    /// First part of every identity: spiffe://TD/ns/.../sa/...
    #[arg(long, value_name = "TD", env = "TRUST_DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: String,

    /// Name of this cluster
    #[arg(long, value_name = "NAME", env = "CLUSTER_ID", default_value = "Kubernetes", value_parser = cluster)]
    pub cluster: String,

    /// Name of the network that addresses belong to
    #[arg(long, value_name = "NAME", env = "NETWORK", default_value = "", value_parser = network)]
    pub network: String,

    /// How traffic comes here: by eBPF, or because something else redirects it to 15001, 15006 and 15008
    #[arg(long, value_name = "HOW", default_value = "ebpf")]
    pub capture: CaptureMode,

    /// What becomes of enrolled workloads' traffic while no agent runs
    #[arg(long, value_name = "HOW", default_value = "closed")]
    pub fail: FailMode,

    /// Whether bytes between two workloads of this node are encrypted, or only checked and counted
    #[arg(long, value_name = "HOW", default_value = "mtls")]
    pub same_node: SameNode,

    /// When a port behind a waypoint is closed to what did not come through it, unless Service, Pod, Namespace or Gateway says
    /// otherwise
    #[arg(long, value_name = "WHEN", default_value = "policy")]
    pub waypoint_enforcement: WaypointEnforcement,

    /// Proxy everything, also what needs no proxy and would stay in the kernel
    #[arg(long)]
    pub proxy_all: bool,

    /// Cgroup of the kubelet: its probes are let through because their sockets are proven to be its own
    #[arg(long, value_name = "PATH")]
    pub kubelet_cgroup: Option<PathBuf>,

    /// Cgroup under which the pods run [default: the root of the cgroup2 hierarchy]
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,

    /// Cgroup for the agent itself, made if missing [default: where it was started, if it is alone there, else one beside it]
    #[arg(long, value_name = "PATH")]
    pub agent_cgroup: Option<PathBuf>,

    /// Where eBPF programs and maps are pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/culvert")]
    pub bpf_root: PathBuf,

    /// Remove every trace of capture and exit
    #[arg(long)]
    pub cleanup: bool,

    /// Address of the admin server
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,

    /// Address of the metrics server
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15020")]
    pub stats: SocketAddr,

    /// Address of the readiness server
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15021")]
    pub ready: SocketAddr,

    /// Threads that carry traffic [default: one per CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Connections that one pod may have open, outbound and inbound together
    #[arg(long, value_name = "N", default_value = "16384", value_parser = clap::value_parser!(u32).range(1..))]
    pub pod_connections: u32,

    /// TLS handshakes of one peer's address that may be in progress at once; seven times as many wait
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(1..))]
    pub peer_handshakes: u32,

    /// No limits of a pod and no turns among pods: for `bench fairness`, which shows what they are good for
    #[arg(long, hide = true)]
    pub unfair: bool,

    /// How long open connections may still take when the agent is told to stop
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = duration)]
    pub drain: Duration,

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

/// How traffic comes to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaptureMode {
    /// Our own programs in the kernel.
    Ebpf,
    /// Something else redirects it.
    None,
}

/// What becomes of enrolled workloads' traffic while no agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailMode {
    /// New connections are refused.
    Closed,
    /// New connections go through in clear text.
    Open,
}

/// What happens between two workloads of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SameNode {
    /// A tunnel as between nodes.
    Mtls,
    /// Policy and telemetry as between nodes, bytes in clear.
    Direct,
}

/// When a port behind a waypoint is closed to what did not come through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaypointEnforcement {
    /// When something at the waypoint guards it.
    Policy,
    /// Always.
    Strict,
    /// Never.
    Off,
}

impl From<WaypointEnforcement> for EnforcementMode {
    fn from(when: WaypointEnforcement) -> Self {
        match when {
            WaypointEnforcement::Policy => Self::Policy,
            WaypointEnforcement::Strict => Self::Strict,
            WaypointEnforcement::Off => Self::Off,
        }
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

/// A text that has a form; what is empty says nothing where it `may_be_empty`.
fn named(form: Form, may_be_empty: bool, text: &str) -> Result<String, String> {
    if !(may_be_empty && text.is_empty()) {
        form.check(text)?;
    }
    Ok(text.to_owned())
}

fn node(text: &str) -> Result<String, String> {
    named(Form::Subdomain, true, text)
}

fn trust_domain(text: &str) -> Result<String, String> {
    named(Form::TrustDomain, false, text)
}

fn cluster(text: &str) -> Result<String, String> {
    named(Form::Plain, false, text)
}

fn network(text: &str) -> Result<String, String> {
    named(Form::Plain, true, text)
}

/// Reads `90`, `90s`, `15m`, `24h`, `1h30m` or `500ms`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is not a duration: expected seconds, or numbers with units as in 1h30m, 45s, 500ms");
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(wrong)?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(sum) }
}

/// A certificate is renewed at half its life; shorter than this, renewing would not keep up with clocks that differ.
const SHORTEST_CERT_TTL: Duration = Duration::from_secs(10);

fn cert_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if ttl < SHORTEST_CERT_TTL {
        return Err(format!("a certificate must be valid for {} s at least", SHORTEST_CERT_TTL.as_secs()));
    }
    Ok(ttl)
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
            ("2d", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "h", "1.5h", "-1", "1x", "1h30", "999999999999999999999s", "99999999999999999h", "soon"] {
            assert!(duration(text).unwrap_err().contains("is not a duration"), "{text}");
        }
    }

    #[test]
    fn a_flag_that_becomes_part_of_a_name_is_one() {
        for wrong in ["cluster.local/ns/a/sa/b", "Cluster.local", "a;b", "a b", ""] {
            assert!(trust_domain(wrong).is_err(), "{wrong}");
        }
        for wrong in ["a/b", "a//Pod/b", "a b", ""] {
            assert!(cluster(wrong).is_err(), "{wrong}");
        }
        assert!(network("").is_ok() && network("net_1").is_ok() && network("a/b").is_err());
        assert!(node("").is_ok() && node("ip-10-0-0-1.eu").is_ok() && node("a b").is_err());
        assert!(trust_domain("cluster.local").is_ok() && cluster("Kubernetes").is_ok());
    }

    #[test]
    fn a_certificate_lives_long_enough_to_be_renewed() {
        assert!(cert_ttl("9s").is_err());
        assert_eq!(cert_ttl("10s"), Ok(Duration::from_secs(10)));
    }
}
