//! The flags of `culvert agent`, and the environment variables that stand for some of them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mesh::model::name::NodeName;
use mesh::model::syntax::Form;
use mesh::model::waypoint::EnforcementMode;
use process::flags::{DrainArgs, InputArgs, LogArgs, MeshArgs, PeerArgs, ServerArgs, ThreadArgs, named_or_empty};

/// The flags of `culvert agent`.
#[derive(Args, Clone, Debug)]
#[command(
    mut_arg("manifests", |arg| arg.required_unless_present("cleanup")),
    mut_arg("ca_dir", |arg| arg.required_unless_present("cleanup")),
    mut_arg("drain", |arg| {
        arg.value_name("SECONDS")
            .default_value("20")
            .help("How long open connections may still take when the agent is told to stop")
    })
)]
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
    pub node: NodeName,

    /// Where configuration and certificates come from.
    #[command(flatten)]
    pub input: InputArgs,

    /// The mesh that the agent is part of.
    #[command(flatten)]
    pub mesh: MeshArgs,

    /// How traffic comes here: by eBPF, or because something else redirects it to 15001, 15006 and 15008
    #[arg(long, value_name = "HOW", default_value = "ebpf")]
    pub capture: CaptureMode,

    /// What becomes of enrolled workloads' traffic while no agent runs
    #[arg(long, value_name = "HOW", default_value = "closed")]
    pub fail: FailMode,

    /// Whether bytes between two workloads of this node are encrypted, or only checked and counted
    #[arg(long, value_name = "HOW", default_value = "mtls")]
    pub same_node: SameNode,

    /// When a port behind a waypoint is closed to what did not come through it, unless Service, Pod, Namespace or
    /// Gateway says otherwise
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

    /// Cgroup for the agent itself, made if missing [default: where it was started, if it is alone there, else one
    /// beside it]
    #[arg(long, value_name = "PATH")]
    pub agent_cgroup: Option<PathBuf>,

    /// Where eBPF programs and maps are pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/culvert")]
    pub bpf_root: PathBuf,

    /// Remove every trace of capture and exit
    #[arg(long)]
    pub cleanup: bool,

    /// Where its servers listen.
    #[command(flatten)]
    pub servers: ServerArgs,

    /// How many threads carry traffic.
    #[command(flatten)]
    pub threads: ThreadArgs,

    /// Connections that one pod may have open, outbound and inbound together
    #[arg(long, value_name = "N", default_value = "16384", value_parser = clap::value_parser!(u32).range(1..))]
    pub pod_connections: u32,

    /// What one peer may ask for at once.
    #[command(flatten)]
    pub peers: PeerArgs,

    /// No limits of a pod and no turns among pods: for `bench fairness`, which shows what they are good for
    #[arg(long, hide = true)]
    pub unfair: bool,

    /// How it ends.
    #[command(flatten)]
    pub drain: DrainArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
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

fn node(text: &str) -> Result<NodeName, String> {
    named_or_empty(Form::Subdomain, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_node_has_its_form() {
        assert!(node("").is_ok() && node("ip-10-0-0-1.eu").is_ok() && node("a b").is_err());
    }
}
