//! The redirection of a workload's traffic to this process: our eBPF programs, or rules of somebody else to fixed
//! ports.

use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use mesh::model::name::WorkloadUid;
use mesh::model::policy::PlaintextRules;

use crate::capture::{Capture, CaptureError, Counters, Kind, Listener, Netns, PodSpec, PodStatus};
use crate::listen::listeners::{Listeners, Original};
use crate::listen::redirected;

/// The kind of redirection.
#[derive(Clone)]
pub(crate) enum Steering {
    /// `--capture ebpf`: our eBPF programs.
    Ebpf(Arc<Capture>),
    /// `--capture none`: iptables rules of istio-cni, or nothing at all.
    Redirected(Arc<redirected::Ids>),
}

/// A workload whose traffic is redirected to `listeners`.
pub(crate) struct Enrolled {
    /// Id of the capture.
    pub(crate) id: u32,
    /// The workload's network namespace.
    pub(crate) netns: Arc<Netns>,
    /// The listeners.
    pub(crate) listeners: Listeners,
}

/// The parameters of a capture.
pub(crate) struct Wanted {
    /// Its uid.
    pub(crate) uid: WorkloadUid,
    /// Path of its network namespace.
    pub(crate) netns: PathBuf,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// How plaintext is treated.
    pub(crate) rules: PlaintextRules,
}

/// A workload that could not be captured.
pub(crate) struct Refused {
    /// The reason as a message.
    pub(crate) error: String,
    /// The reason as a metric label.
    pub(crate) reason: &'static str,
    /// Cookie of its network namespace, if that is closed to new connections now.
    pub(crate) closed: Option<u64>,
}

impl Refused {
    /// A refusal for a reason outside of capture.
    pub(crate) fn new(reason: &'static str, error: impl Into<String>) -> Self {
        Self { error: error.into(), reason, closed: None }
    }
}

/// The functions that enter pods' namespaces may block for as long as a pod likes, on the calling thread. The `async`
/// ones wait for the kernel only.
impl Steering {
    /// Starts capturing. May block.
    pub(crate) fn enroll(&self, wanted: Wanted) -> Result<Enrolled, Refused> {
        let Wanted { uid, netns, addresses, rules } = wanted;
        match self {
            Self::Ebpf(capture) => {
                let spec = PodSpec { owner: uid.to_string(), netns, addresses };
                let captured = capture.enroll(&spec).map_err(|refused| Refused {
                    reason: refused.error.reason(),
                    error: refused.error.to_string(),
                    closed: refused.closed,
                })?;
                if let Err(error) = capture.set_plaintext(captured.id, &rules) {
                    let closed = capture.without_listener(captured.id, true).is_ok().then_some(captured.cookie);
                    return Err(Refused { error: error.to_string(), reason: error.reason(), closed });
                }
                let kinds = [
                    (Kind::Outbound, captured.outbound),
                    (Kind::Plaintext, captured.plaintext),
                    (Kind::Hbone, captured.hbone),
                ];
                let listeners = Listeners::new(Original::SocketName, kinds);
                Ok(Enrolled { id: captured.id, netns: captured.netns, listeners })
            }
            Self::Redirected(ids) => {
                let listening = redirected::listen(&netns);
                let (netns, listeners) = listening.map_err(|error| Refused::new("namespace", format!("{error:#}")))?;
                Ok(Enrolled { id: ids.next(), netns, listeners })
            }
        }
    }

    /// Removes what is left of a capture after its last connection. May block.
    pub(crate) fn forget(&self, id: u32) -> Result<(), CaptureError> {
        match self {
            Self::Ebpf(capture) => capture.forget(id),
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Reopens a namespace that was closed because its workload could not be captured. May block.
    pub(crate) fn reopen(&self, cookie: u64) -> Result<(), CaptureError> {
        match self {
            Self::Ebpf(capture) => match capture.reopen(cookie)? {
                Some(id) => capture.forget(id),
                None => Ok(()),
            },
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Removes captures of an earlier process outside of these namespaces (by cookie). May block.
    pub(crate) fn retain(&self, live: &[u64]) -> Result<(), CaptureError> {
        match self {
            Self::Ebpf(capture) => capture.retain(live),
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Repairs what somebody has changed in a pod. May block.
    pub(crate) fn repair(&self, id: u32) -> Result<(), CaptureError> {
        match self {
            Self::Ebpf(capture) => capture.repair(id),
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Recreates one listener of a pod. May block.
    pub(crate) fn listen_again(&self, id: u32, netns: &Netns, which: Listener) -> Result<(TcpListener, Original)> {
        Ok(match self {
            Self::Ebpf(capture) => (capture.listen_again(id, which)?, Original::SocketName),
            Self::Redirected(_) => (redirected::listen_again(netns, which)?, Original::Redirected),
        })
    }

    /// Cookies of the namespaces that were at these paths when an earlier process captured them: they must not be
    /// removed although this process has not captured them yet.
    pub(crate) fn left_at(&self, paths: &[PathBuf]) -> Vec<u64> {
        match self {
            Self::Ebpf(capture) => capture.left_at(paths),
            Self::Redirected(_) => Vec::new(),
        }
    }

    /// The state of the captured pods in the kernel.
    pub(crate) fn status(&self) -> Vec<PodStatus> {
        match self {
            Self::Ebpf(capture) => capture.pods(),
            Self::Redirected(_) => Vec::new(),
        }
    }

    /// The counters of the eBPF programs.
    pub(crate) fn counters(&self) -> Counters {
        match self {
            Self::Ebpf(capture) => capture.counters().unwrap_or_default(),
            Self::Redirected(_) => Counters::default(),
        }
    }

    /// Ends the hand-over: from now on captures of an earlier process belong to whoever can prove ownership.
    pub(crate) fn settle(&self) {
        if let Self::Ebpf(capture) = self {
            capture.settle();
        }
    }

    /// Repairs the node's programs; returns the listeners that are gone, with the ids of their pods.
    pub(crate) async fn repair_node(&self) -> Result<Vec<(u32, Listener)>> {
        match self {
            Self::Ebpf(capture) => {
                in_background(capture, |capture| capture.repair_node().map(|()| capture.gone())).await
            }
            Self::Redirected(_) => Ok(Vec::new()),
        }
    }

    /// Marks listeners of a pod as missing, which closes the pod, or as complete.
    pub(crate) async fn without_listener(&self, id: u32, missing: bool) -> Result<()> {
        match self {
            Self::Ebpf(capture) => in_background(capture, move |capture| capture.without_listener(id, missing)).await,
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Sets how plaintext is treated.
    pub(crate) async fn set_plaintext(&self, id: u32, rules: PlaintextRules) -> Result<()> {
        match self {
            Self::Ebpf(capture) => in_background(capture, move |capture| capture.set_plaintext(id, &rules)).await,
            // All plaintext arrives at the plaintext listener, which authorizes each connection.
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Updates the set of mesh addresses.
    pub(crate) async fn update_mesh(&self, added: Vec<IpNet>, removed: Vec<IpNet>) -> Result<()> {
        match self {
            Self::Ebpf(capture) => in_background(capture, move |capture| capture.update_mesh(&added, &removed)).await,
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Replaces the set of mesh addresses that an earlier process left.
    pub(crate) async fn replace_mesh(&self, all: Vec<IpNet>) -> Result<()> {
        match self {
            Self::Ebpf(capture) => in_background(capture, move |capture| capture.replace_mesh(&all)).await,
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Stops capturing new connections.
    pub(crate) async fn release(&self, id: u32) -> Result<()> {
        match self {
            Self::Ebpf(capture) => in_background(capture, move |capture| capture.release(id)).await,
            Self::Redirected(_) => Ok(()),
        }
    }
}

/// Runs a blocking call on a blocking thread.
async fn in_background<T: Send + 'static, E: std::error::Error + Send + Sync + 'static>(
    capture: &Arc<Capture>,
    call: impl FnOnce(&Capture) -> Result<T, E> + Send + 'static,
) -> Result<T> {
    let capture = Arc::clone(capture);
    let result = tokio::task::spawn_blocking(move || call(&capture)).await.context("the capture thread panicked")?;
    Ok(result?)
}
