//! The connection pool: one dial at a time per key for any number of callers, streams spread over tunnels, idle tunnels
//! closed.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::client::{Tunnel, TunnelError};
use super::head::ConnectHead;
use super::load::Place;
use super::settings::Settings;
use super::stream::Opened;
use crate::fair_queue::Work;
use crate::keyring::Keyring;
use crate::net::buffers::Buffers;
use mesh::model::identity::Identity;
use mesh::model::name::WorkloadUid;

/// What connections must have in common to share a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// The source: tunnels leave from its network namespace.
    pub workload: WorkloadUid,
    /// The identity whose certificate is presented.
    pub source: Identity,
    /// The peer's HBONE address.
    pub destination: SocketAddr,
    /// The identities that the peer may have.
    pub expected: Arc<[Identity]>,
}

/// Resolves to a TCP connection.
pub type DialFuture<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

/// Opens the TCP connection of a tunnel: in the source's network namespace, with its own timeout.
pub trait Dial: Send + Sync {
    /// Connects to `key.destination` from `key.workload`.
    fn dial<'a>(&'a self, key: &'a TunnelKey) -> DialFuture<'a>;

    /// The buffers that bound the unread bytes of tunnels of `key`; shared by all connections that should slow down
    /// together.
    fn buffers(&self, _key: &TunnelKey) -> Arc<Buffers> {
        Arc::default()
    }

    /// Spawns the task of a tunnel of `key`: its handshakes and all of its I/O.
    fn spawn(&self, _key: &TunnelKey, work: Work) {
        tokio::spawn(work);
    }
}

/// Settings of a pool.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Settings of its tunnels.
    pub settings: Settings,
    /// Tunnels per key that the pool opens to use several cores; it opens more only when all are full.
    pub spread: usize,
    /// Streams in the least loaded tunnel from which on another one is opened, up to `spread`.
    pub busy: usize,
    /// Idle timeout of a tunnel without streams.
    pub idle: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { settings: Settings::default(), spread: cores.min(4), busy: 4, idle: Duration::from_secs(300) }
    }
}

/// Tunnels dialled for one call: a restarting peer may accept the first one just before it goes away.
const FRESH: usize = 2;

/// Clogged tunnels that one call tries before it gives up.
const CLOGGED: usize = 16;

type DialResult = Result<(), TunnelError>;

#[derive(Default)]
struct Slot {
    tunnels: SmallVec<[Kept; 1]>,
    dialling: Option<watch::Receiver<Option<DialResult>>>,
}

struct Kept {
    tunnel: Arc<Tunnel>,
    idle_since: Option<Instant>,
}

struct Shared {
    slots: Mutex<HashMap<TunnelKey, Slot>>,
    keyring: Arc<Keyring>,
    dial: Arc<dyn Dial>,
    options: PoolOptions,
}

/// The client ends of all tunnels of a process.
pub struct Pool {
    shared: Arc<Shared>,
    sweeper: AbortHandle,
}

/// The next step of a caller.
enum Step {
    Use(Arc<Tunnel>, Place),
    Wait(watch::Receiver<Option<DialResult>>),
}

impl Pool {
    /// An empty pool. Its tasks run on the runtime that `connect` is called on.
    pub fn new(keyring: Arc<Keyring>, dial: Arc<dyn Dial>, options: PoolOptions) -> Arc<Self> {
        let idle = options.idle;
        let shared = Arc::new(Shared { slots: Mutex::default(), keyring, dial, options });
        let sweeper = tokio::spawn(sweep(Arc::downgrade(&shared), idle)).abort_handle();
        Arc::new(Self { shared, sweeper })
    }

    /// Opens a stream to `head.authority` through a tunnel of `key`, dialling one if none has room.
    ///
    /// A request that meets a tunnel that is going away is retried: no application byte was sent. A restarting peer
    /// closes all its tunnels at once, so only a tunnel dialled for this call says anything about the peer. Dying
    /// tunnels are retired, which bounds the retries. A clogged tunnel is not waited for: its request is cancelled.
    pub async fn connect(&self, key: &TunnelKey, head: &ConnectHead) -> Result<Opened, TunnelError> {
        let began = Instant::now();
        let (mut fresh, mut clogged) = (0, 0);
        loop {
            let (tunnel, counted) = self.tunnel(key).await?;
            match tunnel.connect_counted(head, counted).await {
                // It is not chosen again until one of its streams can send.
                Err(TunnelError::Clogged) if clogged < CLOGGED => clogged += 1,
                Err(error) if error.is_dying_tunnel() => {
                    tunnel.retire();
                    fresh += usize::from(tunnel.opened() >= began);
                    if fresh >= FRESH {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }

    /// Open tunnels and their number of streams, for dumps and metrics.
    pub fn list(&self) -> Vec<(TunnelKey, usize)> {
        let slots = self.shared.slots.lock();
        let of_slot = |(key, slot): (&TunnelKey, &Slot)| {
            slot.tunnels.iter().map(|kept| (key.clone(), kept.tunnel.streams())).collect::<Vec<_>>()
        };
        slots.iter().flat_map(of_slot).collect()
    }

    /// Closes the tunnels of a workload that is gone.
    pub fn close_workload(&self, workload: &WorkloadUid) {
        let mut closed = Vec::new();
        self.shared.slots.lock().retain(|key, slot| {
            let keep = key.workload != *workload;
            if !keep {
                closed.append(&mut slot.tunnels.drain(..).collect());
            }
            keep
        });
        for kept in closed {
            kept.tunnel.cut();
        }
    }

    /// A tunnel with room, and a slot in it.
    async fn tunnel(&self, key: &TunnelKey) -> Result<(Arc<Tunnel>, Place), TunnelError> {
        loop {
            match self.shared.step(key) {
                Step::Use(tunnel, counted) => return Ok((tunnel, counted)),
                Step::Wait(mut dialled) => match dialled.wait_for(Option::is_some).await {
                    Ok(result) => result.clone().unwrap_or(Err(TunnelError::Closed))?,
                    Err(_) => return Err(TunnelError::Closed),
                },
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({})", self.shared.slots.lock().len())
    }
}

impl Shared {
    fn step(self: &Arc<Self>, key: &TunnelKey) -> Step {
        let mut slots = self.slots.lock();
        let slot = match slots.get_mut(key) {
            Some(slot) => slot,
            None => slots.entry(key.clone()).or_default(),
        };
        slot.tunnels.retain(|kept| kept.tunnel.is_alive());
        let with_room =
            |kept: &&mut Kept| kept.tunnel.streams() < kept.tunnel.max_streams() && !kept.tunnel.is_clogged();
        let least = slot.tunnels.iter_mut().filter(with_room).min_by_key(|kept| kept.tunnel.streams());
        let Some(least) = least else {
            let dialling = slot.dialling.get_or_insert_with(|| self.start_dial(key));
            return Step::Wait(dialling.clone());
        };
        least.idle_since = None;
        let step = Step::Use(Arc::clone(&least.tunnel), least.tunnel.reserve());
        let busy = least.tunnel.streams() > self.options.busy;
        if busy && slot.tunnels.len() < self.options.spread && slot.dialling.is_none() {
            slot.dialling = Some(self.start_dial(key));
        }
        step
    }

    /// Dials in a task of its own: the dial outlives the caller that started it.
    fn start_dial(self: &Arc<Self>, key: &TunnelKey) -> watch::Receiver<Option<DialResult>> {
        let (done, wait) = watch::channel(None);
        let (shared, of) = (Arc::clone(self), key.clone());
        let work = async move {
            let key = of;
            let result = shared.open(&key).await;
            let mut slots = shared.slots.lock();
            // The slot is gone if the workload was closed meanwhile: the tunnel is dropped, which closes it.
            let Some(slot) = slots.get_mut(&key) else {
                done.send_replace(Some(Err(TunnelError::Closed)));
                return;
            };
            slot.dialling = None;
            let result = result.map(|tunnel| {
                slot.tunnels.push(Kept { tunnel: Arc::new(tunnel), idle_since: None });
            });
            if slot.tunnels.is_empty() {
                slots.remove(&key);
            }
            done.send_replace(Some(result));
        };
        self.dial.spawn(key, Box::pin(work));
        wait
    }

    async fn open(&self, key: &TunnelKey) -> Result<Tunnel, TunnelError> {
        let tls = self.keyring.client_config(&key.source).await?;
        let tcp = self.dial.dial(key).await?;
        let buffers = self.dial.buffers(key);
        let (tunnel, driving) = Tunnel::open(tcp, &tls, &key.expected, &self.options.settings, &buffers).await?;
        self.dial.spawn(key, Box::pin(driving));
        Ok(tunnel)
    }

    fn sweep(&self, now: Instant) {
        let idle = self.options.idle;
        self.slots.lock().retain(|_, slot| {
            slot.tunnels.retain(|kept| {
                if !kept.tunnel.is_alive() {
                    return false;
                }
                if kept.tunnel.streams() > 0 {
                    kept.idle_since = None;
                    return true;
                }
                now - *kept.idle_since.get_or_insert(now) < idle
            });
            !slot.tunnels.is_empty() || slot.dialling.is_some()
        });
    }
}

/// Closes idle tunnels, one task for all: between one and one and a quarter idle timeouts after the last stream.
async fn sweep(shared: Weak<Shared>, idle: Duration) {
    loop {
        sleep(idle / 4).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.sweep(Instant::now());
    }
}
