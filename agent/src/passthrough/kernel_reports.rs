//! Reads the events of the eBPF programs.

use std::io;
use std::sync::Arc;
use std::thread;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::capture::Events;
use crate::passthrough::connections::Passthrough;

/// Polling interval in milliseconds. The kernel wakes the reader only when the buffer fills: passthrough connections
/// should not cost a wake-up each.
const PERIOD_MS: u16 = 100;

/// Hands every event to `passthrough`, until `stop`. On a thread of its own: a flood of refused connections must not
/// delay certificates and configuration.
pub(crate) fn follow(mut events: Events, passthrough: Arc<Passthrough>, stop: CancellationToken) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&events, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let read = move || {
        let mut ready = [EpollEvent::empty(); 1];
        loop {
            while let Some(event) = events.next() {
                passthrough.tell(&event);
            }
            if stop.is_cancelled() {
                return;
            }
            match epoll.wait(&mut ready, EpollTimeout::from(PERIOD_MS)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return error!("waiting for the kernel's reports: {error}"),
            }
        }
    };
    thread::Builder::new().name("reports".to_owned()).stack_size(256 * 1024).spawn(read).map(drop)
}
