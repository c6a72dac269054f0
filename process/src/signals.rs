//! What the kernel tells a process to do.

use std::{fmt, io};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Who told the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// SIGTERM: the kubelet's word, or `kill`'s.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// The process itself, for example because its admin server was asked to quit.
    Itself,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Itself => "told to quit",
        })
    }
}

/// Waits until the process is to end: SIGTERM, SIGINT, or somebody cancelled `stop`. Says which it was.
///
/// # Errors
/// The kernel let no handler be installed.
pub async fn until_told(stop: &CancellationToken) -> io::Result<Told> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(Told::Terminate),
        _ = interrupt.recv() => Ok(Told::Interrupt),
        () = stop.cancelled() => Ok(Told::Itself),
    }
}

/// Waits for the next SIGTERM or SIGINT; for ever if the kernel lets no handler be installed. Signals that came before the first
/// look at it do not count.
pub async fn again() {
    // Nobody cancels this one.
    if until_told(&CancellationToken::new()).await.is_err() {
        std::future::pending().await
    }
}
