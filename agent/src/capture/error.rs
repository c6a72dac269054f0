//! Errors of capture.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use thiserror::Error;

/// Errors of capture. Messages name the object and, where there is one, the remedy.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// This build has no eBPF object.
    #[error(
        "this culvert was built without its eBPF object: run `cargo xtask build-ebpf` and build again, or use --capture none"
    )]
    NoObject,
    /// The embedded eBPF object is invalid.
    #[error("the embedded eBPF object: {0}")]
    BadObject(String),
    /// The verifier rejected a program.
    #[error("the kernel refuses the eBPF program `{program}`: {source}\n{log}")]
    Rejected {
        /// The name.
        program: String,
        /// The kernel's error.
        source: io::Error,
        /// The last lines of the verifier log.
        log: String,
    },
    /// A map could not be created, opened, read or written.
    #[error("eBPF map {map}: {reason}")]
    Map {
        /// The name.
        map: &'static str,
        /// The error.
        reason: String,
    },
    /// A pinned map is of another build.
    #[error("{} is of another build of culvert; stop that agent and run `culvert agent --cleanup`", path.display())]
    ForeignMap {
        /// The path of its pin.
        path: PathBuf,
    },
    /// A program could not be attached.
    #[error("attaching `{program}` to {}: {source}", target.display())]
    Attach {
        /// The name.
        program: String,
        /// The cgroup or network namespace.
        target: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A program of another owner on an ancestor cgroup forbids programs below it.
    #[error("attaching `{program}` to {}: a program of another owner, attached to this cgroup or one above it without BPF_F_ALLOW_MULTI, \
             allows no other (`bpftool cgroup tree` shows it)", target.display())]
    AttachRefused {
        /// The name.
        program: String,
        /// The cgroup.
        target: PathBuf,
    },
    /// The cgroup file system is unsuitable.
    #[error("cgroup: {0}")]
    Cgroup(String),
    /// A file or directory could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A network namespace could not be opened.
    #[error("network namespace {}: {source}", path.display())]
    Netns {
        /// The path.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The network namespace is the agent's own.
    #[error("{} is the node's own network namespace: pods with hostNetwork are not captured", path.display())]
    HostNetwork {
        /// The path.
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
    /// An address of the pod cannot belong to a pod.
    #[error("{workload}: its address {address} is {what}: it must be one that only this pod has")]
    Address {
        /// The workload.
        workload: String,
        /// The address.
        address: IpAddr,
        /// What kind of address it is.
        what: &'static str,
    },
    /// The pod has no address.
    #[error("{workload}: it has no address: status.podIPs must name one that is in its network namespace")]
    NoAddress {
        /// The workload.
        workload: String,
    },
    /// The network namespace belongs to another workload.
    #[error("{}: this network namespace is that of {owner}: {claimant} must name its own", path.display())]
    Claimed {
        /// The network namespace.
        path: PathBuf,
        /// The owner.
        owner: String,
        /// The other claimant.
        claimant: String,
    },
    /// Another operation in the network namespace is in progress.
    #[error("{}: another operation in this network namespace is in progress", path.display())]
    Busy {
        /// The network namespace.
        path: PathBuf,
    },
    /// A shared map has no room for the pod's essential entries.
    #[error("eBPF map {map}: no room for the pod's addresses")]
    Full {
        /// The name.
        map: &'static str,
    },
    /// Rules, routes or addresses of a pod could not be read or changed.
    #[error("{}: {what}: {source}", path.display())]
    Network {
        /// The network namespace.
        path: PathBuf,
        /// The operation.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
    /// No pod with that id is enrolled.
    #[error("no pod with id {0} is captured")]
    UnknownPod(u32),
    /// All ids are in use.
    #[error("more pods than the {0} that one node can capture")]
    TooManyPods(usize),
}

impl CaptureError {
    /// The stable value of a metric label.
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

/// An error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
