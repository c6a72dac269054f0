//! What steers a workload's traffic to this process: our eBPF programs, or something else that redirects to fixed ports.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use mesh::model::policy::PlaintextRules;

use crate::capture::{Capture, Netns, PodSpec};
use crate::listeners::{Listeners, Original};
use crate::redirected;

/// Who steers.
#[derive(Clone)]
pub(crate) enum Steering {
    /// `--capture ebpf`: our programs.
    Ebpf(Arc<Capture>),
    /// `--capture none`: iptables rules of istio-cni, or nothing at all.
    Redirected(Arc<redirected::Ids>),
}

/// A workload whose traffic now comes to `listeners`.
pub(crate) struct Enrolled {
    /// Number of the capture.
    pub(crate) id: u32,
    /// The workload's network namespace.
    pub(crate) netns: Arc<Netns>,
    /// Where it comes.
    pub(crate) listeners: Listeners,
}

impl Steering {
    /// Starts capturing.
    pub(crate) async fn enroll(
        &self,
        netns: PathBuf,
        addresses: Vec<IpAddr>,
        rules: PlaintextRules,
    ) -> Result<Enrolled> {
        match self {
            Self::Ebpf(capture) => {
                let captured = in_background(capture, move |capture| {
                    let captured = capture.enroll(&PodSpec { netns, addresses })?;
                    capture.set_plaintext(captured.id, &rules).map(|()| captured)
                })
                .await?;
                Ok(Enrolled {
                    id: captured.id,
                    netns: captured.netns,
                    listeners: Listeners {
                        outbound: captured.outbound,
                        plaintext: captured.plaintext,
                        hbone: captured.hbone,
                        original: Original::SocketName,
                    },
                })
            }
            Self::Redirected(ids) => {
                let id = ids.next();
                let (netns, listeners) = tokio::task::spawn_blocking(move || redirected::listen(&netns)).await??;
                Ok(Enrolled { id, netns, listeners })
            }
        }
    }

    /// Says what happens to plaintext.
    pub(crate) async fn set_plaintext(&self, id: u32, rules: PlaintextRules) -> Result<()> {
        match self {
            Self::Ebpf(capture) => in_background(capture, move |capture| capture.set_plaintext(id, &rules)).await,
            // Everything comes to the plaintext listener, which judges each connection.
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Says which addresses are the mesh's.
    pub(crate) async fn update_mesh(&self, added: Vec<IpNet>, removed: Vec<IpNet>) -> Result<()> {
        match self {
            Self::Ebpf(capture) => in_background(capture, move |capture| capture.update_mesh(&added, &removed)).await,
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Says which addresses are the mesh's, whatever an earlier process said.
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

    /// Takes back the rest, after the last captured connection has ended.
    pub(crate) async fn forget(&self, id: u32) -> Result<()> {
        match self {
            Self::Ebpf(capture) => in_background(capture, move |capture| capture.forget(id)).await,
            Self::Redirected(_) => Ok(()),
        }
    }

    /// Drops what an earlier process captured and is not in one of these namespaces (by cookie).
    pub(crate) async fn retain(&self, live: Vec<u64>) -> Result<()> {
        match self {
            Self::Ebpf(capture) => in_background(capture, move |capture| capture.retain(&live)).await,
            Self::Redirected(_) => Ok(()),
        }
    }
}

/// Runs what enters namespaces and asks the kernel on a thread that may block.
async fn in_background<T: Send + 'static, E: std::error::Error + Send + Sync + 'static>(
    capture: &Arc<Capture>,
    call: impl FnOnce(&Capture) -> Result<T, E> + Send + 'static,
) -> Result<T> {
    let capture = Arc::clone(capture);
    let result = tokio::task::spawn_blocking(move || call(&capture)).await.context("the capture thread panicked")?;
    Ok(result?)
}
