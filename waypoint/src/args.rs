//! Pure. The commands and their flags. Without a command the waypoint runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use mesh::model::syntax::Form;
use process::telemetry::line::Format;

use crate::duration;

/// Culvert's waypoint: the L7 proxy for the services that ask for one
#[derive(Debug, Parser)]
#[command(
    name = "culvert-waypoint",
    version,
    max_term_width = 110,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: Option<RunArgs>,
}

/// What else can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate manifests and print the status conditions that they get; exits with 1 if any is bad
    Check(CheckArgs),
    /// Show each setting that is in effect for a service or a route, and the object that it comes from
    Explain(ExplainArgs),
}

/// The flags of the running waypoint.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The Gateway that this is an instance of
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = full_name)]
    pub gateway: FullName,

    /// Folder of manifests, watched for changes
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,

    /// Folder of the embedded CA, shared with the agents
    #[arg(long, value_name = "DIR")]
    pub ca_dir: PathBuf,

    /// Where HBONE is served; may be given several times
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:15008")]
    pub listen: Vec<SocketAddr>,

    /// Ranges that backends, jwksUri and collectors may be in although they are the waypoint's own, its node's,
    /// loopback or link-local; never the waypoint's own servers
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub allow_local_targets: Vec<IpNet>,

    /// The service account whose identity is taken [default: that of the pod at the listening address, else the Gateway's name]
    #[arg(long, value_name = "NAME", value_parser = service_account)]
    pub service_account: Option<String>,

    /// How long the certificate is valid
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = time)]
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

    /// TLS handshakes of one peer's address that may be in progress at once; seven times as many wait
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(1..))]
    pub peer_handshakes: u32,

    /// How long open requests may still take when the waypoint is told to stop
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = time)]
    pub drain: Duration,

    /// How log lines are written
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "LOG_FORMAT")]
    pub log_format: LogFormat,

    /// What is logged, such as info or info,waypoint=debug,access=off; wins over -v
    #[arg(long = "log", value_name = "LEVELS", env = "RUST_LOG")]
    pub log_levels: Option<String>,

    /// Log more; twice, still more
    #[arg(short, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The flags of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Folder of manifests
    #[arg(short = 'f', long = "manifests", value_name = "DIR")]
    pub manifests: PathBuf,

    /// Only what this Gateway is in front of
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = full_name)]
    pub gateway: Option<FullName>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// The flags of `explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Folder of manifests
    #[arg(short = 'f', long = "manifests", value_name = "DIR")]
    pub manifests: PathBuf,

    /// The service
    #[arg(value_name = "NAMESPACE/SERVICE", value_parser = full_name)]
    pub service: FullName,

    /// A route of the service
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub route: Option<String>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Fields behind one another.
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

/// A namespace and a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

fn full_name(text: &str) -> Result<FullName, String> {
    match text.split_once('/') {
        Some((namespace, name)) => {
            Form::Label.check(namespace)?;
            Form::Subdomain.check(name)?;
            Ok(FullName { namespace: namespace.into(), name: name.into() })
        }
        _ => Err(format!("{text:?} is not NAMESPACE/NAME")),
    }
}

fn named(form: Form, text: &str) -> Result<String, String> {
    form.check(text).map(|()| text.to_owned())
}

fn trust_domain(text: &str) -> Result<String, String> {
    named(Form::TrustDomain, text)
}

fn cluster(text: &str) -> Result<String, String> {
    named(Form::Plain, text)
}

fn service_account(text: &str) -> Result<String, String> {
    named(Form::Subdomain, text)
}

/// The default network has no name.
fn network(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { named(Form::Plain, text) }
}

fn time(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    duration::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_command_it_runs() {
        let args = [
            "culvert-waypoint",
            "--gateway",
            "shop/wp",
            "--manifests",
            "m",
            "--ca-dir",
            "c",
            "--listen",
            "10.0.0.9:15008",
        ];
        let run = Cli::try_parse_from(args).unwrap().run.unwrap();
        assert_eq!((&*run.gateway.namespace, &*run.gateway.name), ("shop", "wp"));
        assert_eq!(run.listen, ["10.0.0.9:15008".parse().unwrap()]);
        assert!(Cli::try_parse_from(["culvert-waypoint", "--gateway", "shop"]).is_err());
        for (flag, value) in [
            ("--gateway", "shop/w;p"),
            ("--trust-domain", "a/b"),
            ("--cluster", "a//b"),
            ("--network", "a b"),
            ("--service-account", "x;URI=root"),
        ] {
            let wrong: Vec<&str> = args.into_iter().filter(|arg| *arg != "shop/wp" || flag != "--gateway").collect();
            let wrong = wrong.into_iter().filter(|arg| *arg != "--gateway" || flag != "--gateway").chain([flag, value]);
            let error = Cli::try_parse_from(wrong).unwrap_err().to_string();
            assert!(error.contains("must be"), "{flag} {value}: {error}");
        }
        let check = Cli::try_parse_from(["culvert-waypoint", "check", "-f", "m"]).unwrap();
        assert!(matches!(check.command, Some(Command::Check(_))));
    }
}
