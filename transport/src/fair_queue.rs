//! Turns. The work of one workload takes turns among itself, so that the runtime takes turns among workloads.
//!
//! tokio keeps one queue for all tasks: a workload with five hundred busy connections would have five hundred turns for each
//! one of its neighbour. A lane has a queue of its own and at most a few tasks of the runtime, which work it off for a short
//! time each.

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

/// How long a lane works before other lanes have their turn. What it is polling then is not interrupted.
const TURN: Duration = Duration::from_micros(100);

/// Something that runs to its end.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The queue of one workload. Clones are the same lane.
#[derive(Clone)]
pub struct Lane(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    runtime: Handle,
    /// Tasks of the runtime that may work at once. 0: no turns.
    width: usize,
}

#[derive(Default)]
struct Queue {
    /// What can go on, first come first served.
    ready: VecDeque<Arc<Member>>,
    /// Runners that wait for something to be ready.
    idle: SmallVec<[Waker; 2]>,
    /// Runners there are, idle ones too.
    runners: usize,
    /// What has not ended.
    members: usize,
    /// The runtime has ended: nothing is run any more.
    closed: bool,
}

/// Waits to be woken.
const IDLE: u8 = 0;
/// Stands in the queue.
const QUEUED: u8 = 1;
/// A runner polls it.
const RUNNING: u8 = 2;
/// A runner polls it, and it was woken meanwhile.
const AGAIN: u8 = 3;
/// Has ended.
const ENDED: u8 = 4;

/// One future. Whoever can wake it keeps it.
struct Member {
    lane: Arc<Shared>,
    state: AtomicU8,
    /// Held by the one runner that polls it. `None` when it has ended.
    work: Mutex<Option<Work>>,
}

impl Lane {
    /// An empty lane. `width` tasks of the runtime at most work for it at once.
    pub fn new(runtime: Handle, width: usize) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), runtime, width: width.max(1) }))
    }

    /// No lane: each future is a task of the runtime, and has as many turns as any other. To measure what lanes are good for.
    pub fn without_turns(runtime: Handle) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), runtime, width: 0 }))
    }

    /// Runs `work` to its end. A panic ends it and nothing else.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(Box::pin(work));
    }

    /// As [`Lane::spawn`].
    pub fn spawn_boxed(&self, work: Work) {
        if self.0.width == 0 {
            self.0.runtime.spawn(work);
            return;
        }
        let member =
            Arc::new(Member { lane: Arc::clone(&self.0), state: AtomicU8::new(QUEUED), work: Mutex::new(Some(work)) });
        self.0.queue.lock().members += 1;
        self.0.push(member);
    }

    /// How much has not ended.
    pub fn len(&self) -> usize {
        self.0.queue.lock().members
    }

    /// Whether all has ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({})", self.len())
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
        // Who is at work comes to one more by itself, with what it needs still in the cache.
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
            self.runtime.spawn(Runner { lane: Arc::clone(self), left: false });
        }
    }

    fn ended(&self) {
        let mut queue = self.queue.lock();
        queue.members -= 1;
        // Runners rest no longer when there is nothing that they could wait for.
        let last = if queue.members == 0 { std::mem::take(&mut queue.idle) } else { SmallVec::new() };
        drop(queue);
        last.into_iter().for_each(Waker::wake);
    }
}

/// A task of the runtime that works a lane off.
struct Runner {
    lane: Arc<Shared>,
    /// Whether it is counted no more.
    left: bool,
}

impl Runner {
    /// The next one that can go on. None: it rests, or ends when nothing is left.
    fn next(&mut self, cx: &Context<'_>) -> Result<Arc<Member>, Poll<()>> {
        let mut queue = self.lane.queue.lock();
        if let Some(member) = queue.ready.pop_front() {
            return Ok(member);
        }
        if queue.members > 0 {
            queue.idle.push(cx.waker().clone());
            return Err(Poll::Pending);
        }
        // A workload that is quiet holds nothing.
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
        let mut queue = self.lane.queue.lock();
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
            // What a panic leaves behind is dropped at once and seen by nobody.
            catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut cx)))
        });
        if let Some(Ok(Poll::Pending)) = polled {
            drop(work);
            let idle = self.state.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
            if idle.is_err() {
                self.state.store(QUEUED, Ordering::Release);
                let lane = Arc::clone(&self.lane);
                // Whoever polled it comes to it again: nobody is woken for it.
                lane.queue.lock().ready.push_back(self);
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
        self.lane.ended();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Nobody is left to wake it.
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
                    let lane = Arc::clone(&self.lane);
                    return lane.push(self);
                }
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Most wakes find it queued already: then no count is touched.
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

    fn lane(width: usize) -> Lane {
        Lane::new(Handle::current(), width)
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
    async fn one_busy_connection_gets_as_much_as_a_hundred_of_another_lane() {
        let (greedy, modest, stop) = (lane(1), lane(1), Arc::new(AtomicUsize::new(0)));
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
    async fn everything_ends_and_a_lane_that_is_empty_holds_nothing() {
        let (lane, ended) = (lane(3), Arc::new(AtomicUsize::new(0)));
        for round in 1..=20 {
            for index in 0..100 {
                let ended = Arc::clone(&ended);
                lane.spawn(async move {
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
            while !lane.is_empty() {
                assert!(began.elapsed() < Duration::from_secs(20), "{lane:?} stands still");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(ended.load(Ordering::Relaxed), round * 100);
        }
        let began = Instant::now();
        while lane.0.queue.lock().runners > 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "its runners stay");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(Arc::strong_count(&lane.0), 1);
        assert_eq!(lane.0.queue.lock().ready.capacity(), 0);
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_connection_and_no_other() {
        let (lane, go) = (lane(1), Arc::new(Notify::new()));
        let (waits, (say, hear)) = (Arc::clone(&go), oneshot::channel());
        lane.spawn(async move {
            waits.notified().await;
            let _gone = say.send(());
        });
        lane.spawn(async { panic!("expected by the test") });
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
        let lane = Lane::new(runtime.handle().clone(), 1);
        for seconds in [0, 1000] {
            let guard = Dropped(Arc::clone(&dropped));
            lane.spawn(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                drop(guard);
            });
        }
        while lane.len() > 1 {
            std::thread::yield_now();
        }
        runtime.shutdown_timeout(Duration::from_secs(5));
        lane.spawn(std::future::pending());
        assert_eq!((dropped.load(Ordering::Relaxed), lane.len()), (2, 0));
    }
}
