//! Pure. The commands and their flags. Without a command the waypoint runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use mesh::model::name::ServiceAccount;
use mesh::model::syntax::Form;
use mesh::model::waypoint::HBONE_PORT;
use process::flags::{DrainArgs, InputArgs, LogArgs, MeshArgs, PeerArgs, ServerArgs, ThreadArgs, named};

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
// clap leaves the group of a struct empty that flattens others, and by its members it knows that the flags are given.
#[command(
    mut_group("RunArgs", |group| group.arg("gateway")),
    mut_arg("manifests", |arg| arg.required(true)),
    mut_arg("ca_dir", |arg| arg.required(true).help("Directory of the embedded CA, shared with the agents")),
    mut_arg("cert_ttl", |arg| arg.help("How long the certificate is valid")),
    mut_arg("drain", |arg| {
        arg.help("How long open requests may still take when the waypoint is told to stop")
    }),
    mut_arg("log_levels", |arg| {
        arg.help("What is logged, such as info or info,waypoint=debug,access=off; wins over -v")
    })
)]
pub struct RunArgs {
    /// The Gateway that this is an instance of
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = full_name)]
    pub gateway: FullName,

    /// Where configuration and certificates come from.
    #[command(flatten)]
    pub input: InputArgs,

    /// Where HBONE is served; may be given several times
    #[arg(long, value_name = "IP:PORT", default_values_t = [SocketAddr::from((Ipv4Addr::UNSPECIFIED, HBONE_PORT))])]
    pub listen: Vec<SocketAddr>,

    /// Ranges that backends, jwksUri and collectors may be in although they are the waypoint's own, its node's,
    /// loopback or link-local; never the waypoint's own servers
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub allow_local_targets: Vec<IpNet>,

    /// The service account whose identity is taken [default: that of the pod at the listening address, else the
    /// Gateway's name]
    #[arg(long, value_name = "NAME", value_parser = service_account)]
    pub service_account: Option<ServiceAccount>,

    /// The mesh that the waypoint is part of.
    #[command(flatten)]
    pub mesh: MeshArgs,

    /// Where its servers listen.
    #[command(flatten)]
    pub servers: ServerArgs,

    /// How many threads carry traffic.
    #[command(flatten)]
    pub threads: ThreadArgs,

    /// What one peer may ask for at once.
    #[command(flatten)]
    pub peers: PeerArgs,

    /// How it ends.
    #[command(flatten)]
    pub drain: DrainArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The flags of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Directory of manifests
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
    /// Directory of manifests
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

fn service_account(text: &str) -> Result<ServiceAccount, String> {
    named(Form::Subdomain, text)
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
        let run = |more: &[&str]| Cli::try_parse_from(args.iter().chain(more)).map(|cli| cli.run.unwrap());
        assert_eq!(run(&["--drain", "1.5s"]).unwrap().drain.drain.as_millis(), 1500);
        assert!(run(&["--cert-ttl", "9s"]).unwrap_err().to_string().contains("10 s at least"));
        let check = Cli::try_parse_from(["culvert-waypoint", "check", "-f", "m"]).unwrap();
        assert!(matches!(check.command, Some(Command::Check(_))));
    }
}
