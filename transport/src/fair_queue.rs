//! Fair queueing between workloads: each workload's futures are scheduled in a queue of its own.
//!
//! tokio schedules all tasks round-robin: a workload with five hundred busy connections would be polled five hundred
//! times for each poll of its neighbour. Here a workload has its own run queue and a bounded number of runner tasks,
//! which poll from it for one time slice each and then yield to the runners of other workloads.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::task::coop;

/// Time slice of one runner. A poll that is in progress when it is over is not interrupted.
const TURN: Duration = Duration::from_micros(100);

/// Something that runs to its end.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The run queue of one workload. Clones share the queue.
#[derive(Clone)]
pub struct FairQueue(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    runtime: Handle,
    /// Runners that may run at once; 0 spawns every future on the runtime itself.
    width: usize,
}

#[derive(Default)]
struct Queue {
    /// Members that are ready to be polled, in FIFO order.
    ready: VecDeque<Arc<Member>>,
    /// Wakers of the runners that wait for a member to become ready.
    idle: SmallVec<[Waker; 2]>,
    /// Runners that exist, idle ones included.
    runners: usize,
    /// Futures that have not completed.
    members: usize,
    /// The runtime has shut down: nothing is polled any more.
    closed: bool,
}

/// Not queued; waits for a wake.
const IDLE: u8 = 0;
/// In the queue.
const QUEUED: u8 = 1;
/// Being polled by a runner.
const RUNNING: u8 = 2;
/// Being polled, and woken since the poll began: to be queued again.
const AGAIN: u8 = 3;
/// Completed, or dropped.
const ENDED: u8 = 4;

/// One spawned future. Its wakers are references to it and keep it alive.
struct Member {
    shared: Arc<Shared>,
    state: AtomicU8,
    /// Locked by the runner that polls it. `None` once completed.
    work: Mutex<Option<Work>>,
}

impl FairQueue {
    /// An empty queue, run by at most `width` tasks of `runtime` at once.
    pub fn new(runtime: Handle, width: usize) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), runtime, width: width.max(1) }))
    }

    /// No fair queueing: each future becomes a task of the runtime. The baseline for benchmarks.
    pub fn disabled(runtime: Handle) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), runtime, width: 0 }))
    }

    /// Spawns `work`. A panic ends this future only.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(Box::pin(work));
    }

    /// Like [`FairQueue::spawn`], for a future that is boxed already.
    pub fn spawn_boxed(&self, work: Work) {
        if self.0.width == 0 {
            self.0.runtime.spawn(work);
            return;
        }
        let member = Arc::new(Member {
            shared: Arc::clone(&self.0),
            state: AtomicU8::new(QUEUED),
            work: Mutex::new(Some(work)),
        });
        self.0.queue.lock().members += 1;
        self.0.push(member);
    }

    /// The number of futures that have not completed.
    pub fn len(&self) -> usize {
        self.0.queue.lock().members
    }

    /// Whether every future has completed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for FairQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FairQueue({})", self.len())
    }
}

impl Shared {
    fn push(self: &Arc<Self>, member: Arc<Member>) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            return drop(member);
        }
        queue.ready.push_back(member);
        let at_work = queue.runners - queue.idle.len();
        // An active runner reaches one more member soon anyway, with a warm cache: waking another one costs more.
        if at_work > 0 && queue.ready.len() <= at_work {
            return;
        }
        let idle = queue.idle.pop();
        let more = idle.is_none() && queue.runners < self.width;
        queue.runners += usize::from(more);
        drop(queue);
        if let Some(runner) = idle {
            runner.wake();
        } else if more {
            self.runtime.spawn(Runner { shared: Arc::clone(self), left: false });
        }
    }

    fn ended(&self) {
        let mut queue = self.queue.lock();
        queue.members -= 1;
        // With no member left, idle runners have nothing to wait for and end.
        let last = if queue.members == 0 { std::mem::take(&mut queue.idle) } else { SmallVec::new() };
        drop(queue);
        last.into_iter().for_each(Waker::wake);
    }
}

/// A runtime task that polls the members of one queue.
struct Runner {
    shared: Arc<Shared>,
    /// Whether `Queue::runners` no longer counts this runner.
    left: bool,
}

impl Runner {
    /// The next ready member. `Err` is what the runner's own poll returns: pending while members exist, else ready.
    fn next(&mut self, cx: &Context<'_>) -> Result<Arc<Member>, Poll<()>> {
        let mut queue = self.shared.queue.lock();
        if let Some(member) = queue.ready.pop_front() {
            return Ok(member);
        }
        if queue.members > 0 {
            queue.idle.push(cx.waker().clone());
            return Err(Poll::Pending);
        }
        // An idle workload holds no memory here.
        queue.ready.shrink_to_fit();
        queue.runners -= 1;
        self.left = true;
        Err(Poll::Ready(()))
    }
}

impl Future for Runner {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let began = Instant::now();
        loop {
            match self.next(cx) {
                Ok(member) => member.run(),
                Err(rest) => return rest,
            }
            if began.elapsed() >= TURN || !coop::has_budget_remaining() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        let left = (std::mem::take(&mut queue.ready), std::mem::take(&mut queue.idle));
        drop(queue);
        drop(left);
    }
}

impl Member {
    fn run(self: Arc<Self>) {
        let mut work = self.work.lock();
        self.state.store(RUNNING, Ordering::Release);
        let waker = Waker::from(Arc::clone(&self));
        let polled = work.as_mut().map(|work| {
            let mut cx = Context::from_waker(&waker);
            // Unwind safe: after a panic the future is dropped, and nothing else can see its state.
            catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut cx)))
        });
        if let Some(Ok(Poll::Pending)) = polled {
            drop(work);
            let idle = self.state.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
            if idle.is_err() {
                self.state.store(QUEUED, Ordering::Release);
                let shared = Arc::clone(&self.shared);
                // The runner that polled it takes it again: no other one is woken.
                shared.queue.lock().ready.push_back(self);
            }
            return;
        }
        let ended = work.take();
        drop(work);
        self.end(ended);
    }

    fn end(&self, work: Option<Work>) {
        if self.state.swap(ENDED, Ordering::AcqRel) == ENDED {
            return;
        }
        let _quiet = catch_unwind(AssertUnwindSafe(|| drop(work)));
        self.shared.ended();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // No waker is left that could run it again.
        let work = self.work.get_mut().take();
        self.end(work);
    }
}

impl Wake for Member {
    fn wake(self: Arc<Self>) {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let next = match state {
                IDLE => QUEUED,
                RUNNING => AGAIN,
                _ => return,
            };
            match self.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(IDLE) => {
                    let shared = Arc::clone(&self.shared);
                    return shared.push(self);
                }
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Most wakes find it queued already: skip the reference count.
        if self.state.load(Ordering::Acquire) != QUEUED {
            Self::wake(Arc::clone(self));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::{Notify, oneshot};

    use super::*;

    fn queue(width: usize) -> FairQueue {
        FairQueue::new(Handle::current(), width)
    }

    /// Works without rest until told to stop, and counts its polls.
    struct Busy(Arc<AtomicUsize>, Arc<AtomicUsize>);

    impl Future for Busy {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if self.1.load(Ordering::Relaxed) > 0 {
                return Poll::Ready(());
            }
            self.0.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(50));
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn one_busy_connection_gets_as_much_as_a_hundred_of_another_queue() {
        let (greedy, modest, stop) = (queue(1), queue(1), Arc::new(AtomicUsize::new(0)));
        let (many, one) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..100 {
            greedy.spawn(Busy(Arc::clone(&many), Arc::clone(&stop)));
        }
        modest.spawn(Busy(Arc::clone(&one), Arc::clone(&stop)));
        while many.load(Ordering::Relaxed) < 400 {
            tokio::task::yield_now().await;
        }
        stop.store(1, Ordering::Relaxed);
        let (many, one) = (many.load(Ordering::Relaxed), one.load(Ordering::Relaxed));
        assert!(one * 4 > many, "the many had {many} turns, the one {one}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn everything_ends_and_a_queue_that_is_empty_holds_nothing() {
        let (queue, ended) = (queue(3), Arc::new(AtomicUsize::new(0)));
        for round in 1..=20 {
            for index in 0..100 {
                let ended = Arc::clone(&ended);
                queue.spawn(async move {
                    let (say, hear) = oneshot::channel();
                    tokio::spawn(async move {
                        if index % 3 == 0 {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        let _gone = say.send(());
                    });
                    tokio::task::yield_now().await;
                    hear.await.unwrap();
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
            let began = Instant::now();
            while !queue.is_empty() {
                assert!(began.elapsed() < Duration::from_secs(20), "{queue:?} stands still");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(ended.load(Ordering::Relaxed), round * 100);
        }
        let began = Instant::now();
        while queue.0.queue.lock().runners > 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "its runners stay");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(Arc::strong_count(&queue.0), 1);
        assert_eq!(queue.0.queue.lock().ready.capacity(), 0);
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_connection_and_no_other() {
        let (queue, go) = (queue(1), Arc::new(Notify::new()));
        let (waits, (say, hear)) = (Arc::clone(&go), oneshot::channel());
        queue.spawn(async move {
            waits.notified().await;
            let _gone = say.send(());
        });
        queue.spawn(async { panic!("expected by the test") });
        tokio::task::yield_now().await;
        go.notify_one();
        hear.await.unwrap();
    }

    #[test]
    fn what_is_under_way_is_dropped_with_the_runtime() {
        struct Dropped(Arc<AtomicUsize>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let dropped = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let queue = FairQueue::new(runtime.handle().clone(), 1);
        for seconds in [0, 1000] {
            let guard = Dropped(Arc::clone(&dropped));
            queue.spawn(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                drop(guard);
            });
        }
        while queue.len() > 1 {
            std::thread::yield_now();
        }
        runtime.shutdown_timeout(Duration::from_secs(5));
        queue.spawn(std::future::pending());
        assert_eq!((dropped.load(Ordering::Relaxed), queue.len()), (2, 0));
    }
}
