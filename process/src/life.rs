//! The life of a program: it starts, runs until it is told to end, drains, and ends.
//!
//! | state | told to end (SIGTERM, SIGINT, `POST /quitquitquit`) |
//! |---|---|
//! | starting | it ends at once, whatever the start still waits for |
//! | running | it drains: no new work, open work may end within `--drain` |
//! | draining | a second signal ends the draining: what is still open is cut |

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use crate::admin::AdminState;
use crate::flags::{DrainArgs, LogArgs, ThreadArgs};
use crate::signals::Shutdown;
use crate::telemetry::dropped::register_dropped;
use crate::telemetry::line::Format;
use crate::telemetry::logging::{self, LogControl, LoggingError};
use crate::telemetry::registry::Registry;
use crate::telemetry::writer::LogWriter;
use crate::{footprint, signals};

/// How long tasks may take to end once there is nothing left that they should wait for.
pub const GOODBYE: Duration = Duration::from_millis(500);
/// How long the reader of the log may take to read its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Threads for what blocks: files, namespaces, dumps.
const BLOCKING_THREADS: usize = 8;

/// Which program it is.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// `culvert`, `culvert-waypoint`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// How a program wants to live.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which program it is.
    pub program: Program,
    /// What it logs, and how.
    pub log: LogArgs,
    /// Threads that carry traffic.
    pub threads: ThreadArgs,
    /// Tasks that a traffic thread polls between two looks at the sockets; tokio's default if `None`.
    pub event_interval: Option<u32>,
    /// How it ends.
    pub drain: DrainArgs,
    /// Logs at info, in the program's own name: log levels are set by the names of modules.
    pub announce: fn(&str),
}

/// Why a program cannot live.
#[derive(Debug, Error)]
pub enum LifeError {
    /// The thread that writes the log cannot be started.
    #[error("starting the log: {0}")]
    Writer(#[source] io::Error),
    /// The log cannot be set up.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// A runtime cannot be started.
    #[error("starting the {name} runtime: {source}")]
    Runtime {
        /// `traffic` or `control`.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel lets no handler be installed.
    #[error("waiting for signals: {0}")]
    Signals(#[source] io::Error),
}

/// What a program starts on.
pub struct Host {
    /// Which program it is.
    pub program: Program,
    /// Where tasks run that carry traffic; everything else runs on the control runtime, whose one thread is the
    /// caller's.
    pub traffic: Handle,
    /// Threads of the traffic runtime.
    pub threads: usize,
    /// Where log lines go.
    pub writer: LogWriter,
    /// How they are written.
    pub format: Format,
    /// The levels of the log.
    pub logging: LogControl,
    /// The metrics; lines that the log dropped are counted already.
    pub registry: Arc<Registry>,
    /// Cancelled when the program is to end. Whoever cancels it tells the program to end.
    pub stop: CancellationToken,
}

impl Host {
    /// What the servers of every program show: version, metrics, log levels, readiness, and the end on
    /// `POST /quitquitquit`.
    pub fn admin_state(&self, pending: impl Fn() -> Vec<String> + Send + Sync + 'static) -> AdminState {
        let (Program { name, version }, quit) = (self.program, self.stop.clone());
        AdminState::new(name, version, Arc::clone(&self.registry), self.logging.clone())
            .ready_when(pending)
            .on_quit(move || quit.cancel())
    }
}

/// A program that has started.
pub trait Running {
    /// Takes no new work from now on, and waits until all open work has ended, however long that takes.
    fn drain(&self) -> impl Future<Output = ()>;

    /// Ends within a second or so. What is still open, if it was not `drained`, is cut.
    fn end(self, drained: bool) -> impl Future<Output = ()>;
}

/// Sets up log and runtimes, starts the program, and returns when it has ended.
///
/// # Errors
/// Those of the start, with [`LifeError`] among them. Once started, a program ends without an error.
pub fn run<R: Running, E: From<LifeError>>(
    setup: Setup,
    start: impl AsyncFnOnce(Host) -> Result<R, E>,
) -> Result<(), E> {
    let writer = LogWriter::stdout().map_err(LifeError::Writer)?;
    let format = setup.log.log_format.into();
    let logging = logging::init(writer.clone(), format, &setup.log.levels()).map_err(LifeError::Logging)?;
    let threads = setup.threads.count();
    let (traffic, control) = (traffic_runtime(threads, setup.event_interval)?, control_runtime()?);
    let registry = Registry::new(setup.program.name, setup.program.version);
    register_dropped(&registry, writer.clone());
    let stop = CancellationToken::new();
    let host = Host {
        program: setup.program,
        traffic: traffic.handle().clone(),
        threads,
        writer: writer.clone(),
        format,
        logging,
        registry,
        stop: stop.clone(),
    };
    let life = async {
        let shutdown = signals::shutdown(&stop);
        let ending = Ending { limit: setup.drain.drain, announce: setup.announce };
        live(&stop, Box::pin(start(host)), shutdown, signals::next_signal(), ending).await
    };
    let result = control.block_on(Box::pin(life));
    traffic.shutdown_timeout(GOODBYE);
    // What still waits for a file or a namespace is not waited for.
    control.shutdown_background();
    writer.flush(LAST_LINES);
    result
}

/// How a program ends.
struct Ending {
    /// How long open work may take.
    limit: Duration,
    announce: fn(&str),
}

/// The states of a program: `shutdown` ends the start or the run, `hurry` ends the draining. Neither is polled before
/// its turn.
async fn live<R: Running, E: From<LifeError>>(
    stop: &CancellationToken,
    start: impl Future<Output = Result<R, E>>,
    shutdown: impl Future<Output = io::Result<Shutdown>>,
    hurry: impl Future<Output = ()>,
    Ending { limit, announce }: Ending,
) -> Result<(), E> {
    let mut shutdown = pin!(shutdown);
    let running = tokio::select! {
        // The first look at it is what installs the handlers.
        biased;
        shutdown = &mut shutdown => {
            let shutdown = shutdown.map_err(LifeError::Signals)?;
            announce(&format!("{shutdown}: ending before the start was finished"));
            stop.cancel();
            return Ok(());
        }
        started = start => started?,
    };
    tokio::spawn(footprint::settle());
    let shutdown = shutdown.await.map_err(LifeError::Signals)?;
    announce(&format!("{shutdown}: draining"));
    stop.cancel();
    let drained = tokio::select! {
        () = running.drain() => true,
        () = tokio::time::sleep(limit) => false,
        () = hurry => false,
    };
    running.end(drained).await;
    Ok(())
}

/// Carries traffic, and nothing else.
fn traffic_runtime(threads: usize, event_interval: Option<u32>) -> Result<Runtime, LifeError> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name("traffic").enable_all();
    if let Some(turns) = event_interval {
        builder.event_interval(turns);
    }
    builder.build().map_err(|source| LifeError::Runtime { name: "traffic", source })
}

/// Does everything else, on the caller's thread.
fn control_runtime() -> Result<Runtime, LifeError> {
    let built = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    built.map_err(|source| LifeError::Runtime { name: "control", source })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use parking_lot::Mutex;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn ending() -> Ending {
        Ending { limit: LIMIT, announce: |_| () }
    }

    /// A program whose open work takes so long; it notes what happens to it.
    struct Busy {
        work: Duration,
        stop: CancellationToken,
        seen: Arc<Mutex<Vec<String>>>,
    }

    impl Running for Busy {
        async fn drain(&self) {
            self.seen.lock().push(format!("drains, stopped: {}", self.stop.is_cancelled()));
            tokio::time::sleep(self.work).await;
        }

        async fn end(self, drained: bool) {
            self.seen.lock().push(format!("ends, drained: {drained}"));
        }
    }

    /// What becomes of a program with `work` open that is told once, and `hurry`, and how long that takes.
    async fn lived(work: Duration, hurry: impl Future<Output = ()>) -> (Vec<String>, Duration) {
        let (stop, seen) = (CancellationToken::new(), Arc::default());
        let busy = Busy { work, stop: stop.clone(), seen: Arc::clone(&seen) };
        let shutdown = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Shutdown::Terminate)
        };
        let since = tokio::time::Instant::now();
        let ended: Result<(), LifeError> = live(&stop, ready(Ok(busy)), shutdown, hurry, ending()).await;
        ended.unwrap();
        let seen = seen.lock().clone();
        (seen, since.elapsed() - Duration::from_secs(1))
    }

    #[tokio::test(start_paused = true)]
    async fn told_while_it_starts_it_does_not_wait_for_the_start() {
        let stop = CancellationToken::new();
        let shutdown = ready(Ok(Shutdown::Interrupt));
        let never = pending::<Result<Busy, LifeError>>();
        live(&stop, never, shutdown, pending(), ending()).await.unwrap();
        assert!(stop.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn told_while_it_runs_it_waits_for_open_work() {
        let (seen, took) = lived(Duration::from_secs(5), pending()).await;
        assert_eq!(seen, ["drains, stopped: true", "ends, drained: true"]);
        assert_eq!(took.as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_too_long_is_cut() {
        let (seen, took) = lived(Duration::from_secs(60), pending()).await;
        assert_eq!((seen[1].as_str(), took.as_secs()), ("ends, drained: false", LIMIT.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn told_twice_it_cuts_at_once() {
        let hurry = tokio::time::sleep(Duration::from_secs(2));
        let (seen, took) = lived(Duration::from_secs(60), hurry).await;
        assert_eq!(seen[1], "ends, drained: false");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }

    #[tokio::test]
    async fn a_start_that_fails_says_why() {
        let stop = CancellationToken::new();
        let failed = ready(Err::<Busy, _>(LifeError::Writer(io::Error::other("no thread"))));
        let ended = live(&stop, failed, pending(), pending(), ending()).await;
        assert_eq!(ended.unwrap_err().to_string(), "starting the log: no thread");
    }
}
