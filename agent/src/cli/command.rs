//! Pure. The commands and their flags.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::AgentArgs;

/// Culvert: an ambient service mesh data plane
#[derive(Debug, Parser)]
#[command(name = "culvert", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node agent
    Agent(Box<AgentArgs>),
    /// Look whether an agent can run here, and what is wrong with one that does
    Check(CheckArgs),
    /// Show what the agent knows
    Get(GetArgs),
    /// Say which path a connection would take, and the verdict of policy on it
    Explain(ExplainArgs),
    /// Show the agent's log level, or change it while it runs
    Log(LogArgs),
}

/// Which agent is asked.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Address of the agent's admin server
    #[arg(long, value_name = "ADDR", env = "CULVERT_ADMIN", default_value = "127.0.0.1:15000")]
    pub(crate) admin: SocketAddr,
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// What to show
    #[arg(value_enum)]
    pub(crate) noun: Noun,

    /// How to show it
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Output,

    /// Only what belongs to this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,

    #[command(flatten)]
    pub(crate) asked: Asked,
}

/// What an agent can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Noun {
    /// Everything with an address and an identity
    #[value(aliases = ["workload", "pods", "pod"])]
    Workloads,
    /// Names and virtual addresses in front of workloads
    #[value(aliases = ["service", "svc"])]
    Services,
    /// Authorization policies, with those that PeerAuthentication became
    #[value(aliases = ["policy"])]
    Policies,
    /// Certificates of the identities of this node
    #[value(aliases = ["certificate", "certs"])]
    Certificates,
    /// Open connections
    #[value(aliases = ["connection"])]
    Connections,
    /// Workloads of this node, and how far capturing them has come
    #[value(aliases = ["capture"])]
    Captures,
    /// HTTP and other routes, of a waypoint
    #[value(aliases = ["route"])]
    Routes,
    /// What of the configuration is not in effect as written
    #[value(aliases = ["problem"])]
    Problems,
}

impl Noun {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Workloads => "workloads",
            Self::Services => "services",
            Self::Policies => "policies",
            Self::Certificates => "certificates",
            Self::Connections => "connections",
            Self::Captures => "captures",
            Self::Routes => "routes",
            Self::Problems => "problems",
        }
    }

    /// The part of `/config_dump` that holds it, and the field there if it is not the whole part.
    pub(crate) fn part(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Problems => ("manifests", Some("problems")),
            other => (other.name(), None),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns
    Table,
    /// More columns
    Wide,
    /// As the agent tells it
    Json,
    /// The same as YAML
    Yaml,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// How to show it
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: CheckOutput,

    /// Check this directory of manifests
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,

    /// Check this directory of the embedded CA
    #[arg(long, value_name = "DIR")]
    pub(crate) ca_dir: Option<PathBuf>,

    /// Address that the metrics server would have
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15020")]
    pub(crate) stats: SocketAddr,

    /// Address that the readiness server would have
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15021")]
    pub(crate) ready: SocketAddr,

    #[command(flatten)]
    pub(crate) asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckOutput {
    /// A line each: √ fine, ‼ look at this, × wrong
    Text,
    /// The same as data
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// The calling pod: NAMESPACE/NAME, or NAME with -n
    #[arg(value_name = "SRC-POD")]
    pub(crate) source: String,

    /// What it calls: ADDRESS:PORT, or a service's HOST:PORT
    #[arg(value_name = "DST:PORT")]
    pub(crate) destination: String,

    /// Namespace of names that are given without one
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,

    /// How to show it
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Output,

    #[command(flatten)]
    pub(crate) asked: Asked,
}

#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// error, warn, info, debug, trace, off, or TARGET=LEVEL, comma separated; nothing shows the present level
    #[arg(value_name = "LEVEL")]
    pub(crate) levels: Option<String>,

    #[command(flatten)]
    pub(crate) asked: Asked,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;
    use process::flags::LogFormat;

    use crate::config::{CaptureMode, FailMode, SameNode};

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_agent_has_the_defaults_of_the_contract() {
        let Command::Agent(args) = parse("culvert agent --node n1 --manifests m --ca-dir c").unwrap() else { panic!() };
        assert_eq!(
            (args.node.as_str(), args.mesh.trust_domain.as_str(), args.mesh.cluster.as_str()),
            ("n1", "cluster.local", "Kubernetes")
        );
        assert_eq!((args.capture, args.fail, args.same_node), (CaptureMode::Ebpf, FailMode::Closed, SameNode::Mtls));
        assert_eq!(args.servers.admin.to_string(), "127.0.0.1:15000");
        assert_eq!(args.servers.stats.to_string(), "0.0.0.0:15020");
        assert_eq!(args.servers.ready.to_string(), "0.0.0.0:15021");
        assert_eq!((args.log.log_format, args.log.verbose), (LogFormat::Text, 0));
        assert_eq!(args.mesh.cert_ttl, Duration::from_secs(86_400));
        assert_eq!(args.bpf_root.to_str(), Some("/sys/fs/bpf/culvert"));
        assert_eq!(args.drain.drain, Duration::from_secs(20));
        assert!(!args.proxy_all && !args.cleanup);
    }

    #[test]
    fn an_agent_without_its_sources_is_a_usage_error_and_cleanup_needs_none() {
        let error = parse("culvert agent --node n1").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--manifests <DIR>"), "{error}");
        let Command::Agent(args) = parse("culvert agent --cleanup --bpf-root /sys/fs/bpf/x").unwrap() else { panic!() };
        assert!(args.cleanup);
    }

    #[test]
    fn what_is_shown_has_short_names_too() {
        for (line, noun) in [
            ("culvert get workloads", Noun::Workloads),
            ("culvert get pod", Noun::Workloads),
            ("culvert get svc -o wide", Noun::Services),
            ("culvert get policies -n default -o yaml", Noun::Policies),
            ("culvert get captures --admin 127.0.0.1:1", Noun::Captures),
        ] {
            let Command::Get(args) = parse(line).unwrap() else { panic!("{line}") };
            assert_eq!(args.noun, noun, "{line}");
        }
        assert_eq!(parse("culvert get everything").unwrap_err().exit_code(), 2);
    }
}
