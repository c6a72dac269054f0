//! The signals that end a process.

use std::{fmt, io};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why a process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// SIGTERM, as the kubelet and `kill` send it.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// The process itself decided so, for example because its admin server was asked to quit.
    Requested,
}

impl fmt::Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Requested => "told to quit",
        })
    }
}

/// Waits until the process is to end: SIGTERM, SIGINT, or `stop` is cancelled. Its first poll installs the handlers;
/// signals before that have their default effect.
///
/// # Errors
/// The kernel let no handler be installed.
pub async fn shutdown(stop: &CancellationToken) -> io::Result<Shutdown> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(Shutdown::Terminate),
        _ = interrupt.recv() => Ok(Shutdown::Interrupt),
        () = stop.cancelled() => Ok(Shutdown::Requested),
    }
}

/// Waits for the next SIGTERM or SIGINT after its first poll. Never returns if no handler can be installed.
pub async fn next_signal() {
    let never_cancelled = CancellationToken::new();
    if shutdown(&never_cancelled).await.is_err() {
        std::future::pending().await
    }
}
