//! One thread that waits for changes of addresses, rules and routes in all captured pods, and has them put right.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use tracing::warn;

use super::pods::Pods;

/// What the epoll says about the eventfd that ends the thread; ids of pods start at 1.
const STOP: u64 = 0;
/// Pods that are looked at per wake-up.
const BATCH: usize = 16;

/// The thread; it ends when this is dropped.
pub(super) struct Watch {
    epoll: Arc<Epoll>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(pods: Arc<Mutex<Pods>>) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        epoll.add(&*stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let shared = Arc::clone(&epoll);
        let thread = std::thread::Builder::new()
            .name("culvert-watch".into())
            .stack_size(256 * 1024)
            .spawn(move || run(&shared, &pods))?;
        Ok(Self { epoll, stop, thread: Some(thread) })
    }

    /// Watches a pod that was just enrolled, until its namespace's socket is closed.
    pub(super) fn add(&self, pods: &Pods, id: u32) -> io::Result<()> {
        let Some(changes) = pods.changes(id) else { return Ok(()) };
        Ok(self.epoll.add(changes, EpollEvent::new(EpollFlags::EPOLLIN, id.into()))?)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(epoll: &Epoll, pods: &Mutex<Pods>) {
    let mut events = [EpollEvent::empty(); BATCH];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => {
                warn!(%error, "changes in pods are no longer watched");
                return;
            }
        };
        for event in &events[..count] {
            if event.data() == STOP {
                return;
            }
            let id = event.data() as u32;
            if let Err(error) = pods.lock().repair(id) {
                warn!(%error, pod = id, "repairing a pod's network");
            }
        }
    }
}
