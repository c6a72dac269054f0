//! One thread that watches interfaces, addresses, rules and routes of all captured pods, and triggers repairs.
//!
//! A pod may change them as often as it likes: it is checked again only after a pause many times as long as the check,
//! so that it takes a small part of this thread's time and delays no other pod.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tracing::warn;

use super::pods::Pods;

/// The epoll token of the eventfd that ends the thread; ids of pods start at 1.
const STOP: u64 = 0;
/// Events per wake-up.
const BATCH: usize = 16;
/// A pod gets at most one n-th of the thread's time.
const FRACTION: u32 = 20;
/// Bounds of the pause after a check.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// How long shutdown waits for the thread.
const GOODBYE: Duration = Duration::from_millis(200);

/// The thread, which ends when this is dropped.
pub(super) struct Watch {
    epoll: Arc<Epoll>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(pods: Arc<Pods>) -> io::Result<Self> {
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

    /// Watches a newly enrolled pod until its socket is closed.
    pub(super) fn add(&self, pods: &Pods, id: u32) -> io::Result<()> {
        let added = pods.with_changes(id, |changes| self.epoll.add(changes, once(id)));
        Ok(added.transpose().map(drop)?)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        let Some(thread) = self.thread.take() else { return };
        // It may be blocked in a pod, which must not block the end of the process.
        let until = Instant::now() + GOODBYE;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

/// A one-shot event: reported once until rearmed.
fn once(id: u32) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, id.into())
}

fn run(epoll: &Epoll, pods: &Pods) {
    let mut events = [EpollEvent::empty(); BATCH];
    // Pods that are paused until this time.
    let mut paused: BTreeMap<u32, Instant> = BTreeMap::new();
    loop {
        let wait = paused.values().min().map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = wait.map_or(EpollTimeout::NONE, timeout);
        let count = match epoll.wait(&mut events, timeout) {
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
            let began = Instant::now();
            if let Err(error) = pods.repair(id) {
                warn!(%error, pod = id, "repairing a pod's network");
            }
            paused.insert(id, Instant::now() + pause(began.elapsed()));
        }
        let now = Instant::now();
        paused.retain(|id, until| {
            if *until > now {
                return true;
            }
            // A pod that is no longer captured is not rearmed.
            let _gone = pods.with_changes(*id, |changes| epoll.modify(changes, &mut once(*id)));
            false
        });
    }
}

/// The pause after a check that took this long.
fn pause(took: Duration) -> Duration {
    (took * FRACTION).clamp(PAUSE.0, PAUSE.1)
}

/// Rounded up: a timer that fires early would make the loop spin.
fn timeout(wait: Duration) -> EpollTimeout {
    EpollTimeout::try_from(wait.as_millis() + 1).unwrap_or(EpollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_keeps_changing_gets_a_twentieth_of_the_thread() {
        assert_eq!(pause(Duration::from_micros(200)), Duration::from_millis(20));
        assert_eq!(pause(Duration::from_millis(5)), Duration::from_millis(100));
        assert_eq!(pause(Duration::from_secs(5)), Duration::from_secs(2));
    }
}
