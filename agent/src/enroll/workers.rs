//! Threads for jobs in pods' network namespaces. A pod, or a path from a manifest, can block the jobs that are done for
//! it and nothing else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

/// A job that takes longer is late: something blocks it.
pub(crate) const LATE: Duration = Duration::from_secs(3);
/// Concurrent jobs that are not late; more than those of one namespace.
const AT_ONCE: usize = 32;
/// Concurrent jobs for one Kubernetes namespace, late ones included: whoever may write manifests there can block its
/// own pods.
const OF_NAMESPACE: usize = 16;
/// Threads in total.
const MOST: usize = 512;
/// Stack size of a thread; jobs only make system calls.
const STACK: usize = 256 * 1024;

type Work = Box<dyn FnOnce() + Send>;

/// The thread pool. Blocked threads survive its drop.
#[derive(Clone, Default)]
pub(crate) struct Workers(Arc<Mutex<Threads>>);

#[derive(Default)]
struct Threads {
    running: HashMap<u64, Running>,
    waiting: VecDeque<(Arc<str>, Work)>,
    next: u64,
}

struct Running {
    namespace: Arc<str>,
    since: Instant,
}

impl Workers {
    /// Queues `work` for a pod of this Kubernetes namespace.
    pub(crate) fn start(&self, namespace: &str, work: impl FnOnce() + Send + 'static) {
        self.0.lock().waiting.push_back((Arc::from(namespace), Box::new(work)));
        self.more();
    }

    /// Starts queued jobs that may run now: late jobs no longer count against the limit.
    pub(crate) fn more(&self) {
        while let Some((number, work)) = self.0.lock().take() {
            let workers = self.clone();
            let body = move || {
                let _ended = Ended(workers, number);
                work();
            };
            let thread = std::thread::Builder::new().name("pods".to_owned()).stack_size(STACK);
            if let Err(error) = thread.spawn(body) {
                // The job is lost; whoever waits for it sees it late, and the next tick starts it again.
                warn!("starting a thread for work in a pod: {error}");
                return;
            }
        }
    }
}

impl Threads {
    fn take(&mut self) -> Option<(u64, Work)> {
        let on_time = self.running.values().filter(|one| one.since.elapsed() < LATE).count();
        let of = |namespace: &str| self.running.values().filter(|one| &*one.namespace == namespace).count();
        let at = self.waiting.iter().position(|(name, _)| may_start(on_time, of(name), self.running.len()))?;
        let (namespace, work) = self.waiting.remove(at)?;
        self.next += 1;
        self.running.insert(self.next, Running { namespace, since: Instant::now() });
        Some((self.next, work))
    }
}

/// Removes a job from the list, even when it panics.
struct Ended(Workers, u64);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.0.lock().running.remove(&self.1);
        self.0.more();
    }
}

fn may_start(on_time: usize, of_namespace: usize, all: usize) -> bool {
    on_time < AT_ONCE && of_namespace < OF_NAMESPACE && all < MOST
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_late_is_in_the_way_of_its_own_namespace_only() {
        assert!(may_start(0, 0, 0));
        assert!(!may_start(AT_ONCE, 0, AT_ONCE), "as many as there are threads are at work");
        assert!(!may_start(0, OF_NAMESPACE, OF_NAMESPACE));
        assert!(may_start(0, 0, 20 * OF_NAMESPACE), "those of other namespaces are held up");
        assert!(!may_start(0, 0, MOST));
    }

    #[test]
    fn a_namespace_that_holds_up_all_its_work_holds_up_no_other() {
        let workers = Workers::default();
        let (hold, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        // More than there are threads.
        for _ in 0..AT_ONCE + 2 {
            let held = Arc::clone(&held);
            workers.start("bad", move || _ = held.lock().unwrap().recv());
        }
        let (tell, told) = mpsc::channel();
        workers.start("good", move || tell.send(()).unwrap());
        let begun = Instant::now();
        while told.try_recv().is_err() {
            assert!(begun.elapsed() < Duration::from_secs(2), "held up by another namespace");
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(hold);
    }
}
