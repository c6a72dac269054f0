//! What the kernel tells a process to do.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Waits until the process is to end: SIGTERM, SIGINT, or somebody cancelled `stop`. Says which it was.
pub async fn until_told(stop: &CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: draining"),
        _ = interrupt.recv() => info!("SIGINT: draining"),
        () = stop.cancelled() => info!("told to quit: draining"),
    }
    Ok(())
}
