//! What can go wrong with capture.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong with capture. Messages name the thing and, where there is one, the way out.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The program was built without the eBPF object.
    #[error(
        "this culvert was built without its eBPF object: run `cargo xtask build-ebpf` and build again, or use --capture none"
    )]
    NoObject,
    /// The embedded object cannot be used.
    #[error("the embedded eBPF object: {0}")]
    BadObject(String),
    /// The verifier refused a program.
    #[error("the kernel refuses the eBPF program `{program}`: {source}\n{log}")]
    Rejected {
        /// Its name.
        program: String,
        /// What the kernel said.
        source: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
    /// A map could not be made, opened, read or written.
    #[error("eBPF map {map}: {reason}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What happened.
        reason: String,
    },
    /// A pinned map is not what this agent would have made.
    #[error("{} is of another build of culvert; stop that agent and run `culvert agent --cleanup`", path.display())]
    ForeignMap {
        /// Where it is pinned.
        path: PathBuf,
    },
    /// A program could not be attached.
    #[error("attaching `{program}` to {}: {source}", target.display())]
    Attach {
        /// Its name.
        program: String,
        /// A cgroup or a network namespace.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody has attached a program to an ancestor cgroup in a way that allows none below it.
    #[error("attaching `{program}` to {}: a program of another owner, attached to this cgroup or one above it without BPF_F_ALLOW_MULTI, \
             allows no other (`bpftool cgroup tree` shows it)", target.display())]
    AttachRefused {
        /// Its name.
        program: String,
        /// The cgroup.
        target: PathBuf,
    },
    /// The cgroup file system is not as capture needs it.
    #[error("cgroup: {0}")]
    Cgroup(String),
    /// A file or directory.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// There is no such network namespace.
    #[error("network namespace {}: {source}", path.display())]
    Netns {
        /// Where it was looked for.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The network namespace is the one the agent runs in.
    #[error("{} is the node's own network namespace: pods with hostNetwork are not captured", path.display())]
    HostNetwork {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// An address of the pod is not in its network namespace.
    #[error("{}: the pod's address {address} is not there", path.display())]
    AddressMissing {
        /// The network namespace.
        path: PathBuf,
        /// The address.
        address: IpAddr,
    },
    /// An address of the pod cannot be a pod's.
    #[error("{workload}: its address {address} is {what}: it must be one that only this pod has")]
    Address {
        /// The workload.
        workload: String,
        /// The address.
        address: IpAddr,
        /// What it is.
        what: &'static str,
    },
    /// The pod has no address.
    #[error("{workload}: it has no address: status.podIPs must name one that is in its network namespace")]
    NoAddress {
        /// The workload.
        workload: String,
    },
    /// The network namespace is another workload's.
    #[error("{}: this network namespace is that of {owner}: {claimant} must name its own", path.display())]
    Claimed {
        /// The network namespace.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who else wants it.
        claimant: String,
    },
    /// Somebody else is working in the network namespace.
    #[error("{}: what was begun in this network namespace is not finished", path.display())]
    Busy {
        /// The network namespace.
        path: PathBuf,
    },
    /// A table that all pods share has no room for what the pod cannot do without.
    #[error("eBPF map {map}: no room for the pod's addresses")]
    Full {
        /// Its name.
        map: &'static str,
    },
    /// Rules, routes or addresses of a pod could not be read or changed.
    #[error("{}: {what}: {source}", path.display())]
    Network {
        /// The network namespace.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
    /// No pod with that id is enrolled.
    #[error("no pod with id {0} is captured")]
    UnknownPod(u32),
    /// All ids are taken.
    #[error("more pods than the {0} that one node can capture")]
    TooManyPods(usize),
}

impl CaptureError {
    /// What kind of thing keeps a pod from being captured, as metrics call it: one of a few words.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoObject | Self::BadObject(_) | Self::Rejected { .. } => "program",
            Self::Map { .. } | Self::ForeignMap { .. } | Self::Full { .. } | Self::TooManyPods(_) => "table",
            Self::Attach { .. } | Self::AttachRefused { .. } | Self::Cgroup(_) | Self::File { .. } => "attach",
            Self::Netns { .. } | Self::HostNetwork { .. } => "namespace",
            Self::AddressMissing { .. } | Self::Address { .. } | Self::NoAddress { .. } => "address",
            Self::Claimed { .. } => "claimed",
            Self::Busy { .. } | Self::UnknownPod(_) => "busy",
            Self::Network { .. } => "network",
        }
    }

    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }

    pub(super) fn map(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |error| Self::Map { map, reason: chain(&error) }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
