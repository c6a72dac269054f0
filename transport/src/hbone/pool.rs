//! Tunnels by key: one dial at a time for any number of callers, streams spread over tunnels, idle ones released.

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

/// Which tunnels may be shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// The source: tunnels leave from its network namespace.
    pub workload: WorkloadUid,
    /// Whose certificate is presented.
    pub source: Identity,
    /// Where the peer listens.
    pub destination: SocketAddr,
    /// Who the peer may be.
    pub expected: Arc<[Identity]>,
}

/// A connection, when it is made.
pub type DialFuture<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

/// Makes the TCP connection of a tunnel: in the source's namespace, within a time of its own.
pub trait Dial: Send + Sync {
    /// Connects to `key.destination` from `key.workload`.
    fn dial<'a>(&'a self, key: &'a TunnelKey) -> DialFuture<'a>;

    /// What tunnels of `key` may hold for readers that do not read: shared with all that should suffer together.
    fn buffers(&self, _key: &TunnelKey) -> Arc<Buffers> {
        Arc::default()
    }

    /// Runs what belongs to a tunnel of `key`: its handshakes, then all of its bytes.
    fn spawn(&self, _key: &TunnelKey, work: Work) {
        tokio::spawn(work);
    }
}

/// How a pool behaves.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// How tunnels are set up.
    pub settings: Settings,
    /// Tunnels per key that a pool opens to use several cores; more only when all are full.
    pub spread: usize,
    /// Streams in the least loaded tunnel that make the pool open another one, up to `spread`.
    pub busy: usize,
    /// How long a tunnel without streams is kept.
    pub idle: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { settings: Settings::default(), spread: cores.min(4), busy: 4, idle: Duration::from_secs(300) }
    }
}

/// Tunnels that are dialled for one call. A peer that restarts may accept the first one with its last breath.
const FRESH: usize = 2;

/// Tunnels that one call finds clogged before it gives up.
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

/// The near ends of all tunnels of a process.
pub struct Pool {
    shared: Arc<Shared>,
    sweeper: AbortHandle,
}

/// What a caller does next.
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

    /// Opens a stream to `head.authority` through a tunnel of `key`, which is dialled if there is none with room.
    ///
    /// A request that meets a dying tunnel is sent again: nothing of the application was sent. A peer that goes away takes all
    /// its tunnels with it, so only one that was dialled for this call says anything about the peer. As every dying tunnel is
    /// retired, there is an end to it. A tunnel in which nothing can be sent is not waited for either: the peer sees its
    /// request withdrawn.
    pub async fn connect(&self, key: &TunnelKey, head: &ConnectHead) -> Result<Opened, TunnelError> {
        let began = Instant::now();
        let (mut fresh, mut clogged) = (0, 0);
        loop {
            let (tunnel, counted) = self.tunnel(key).await?;
            match tunnel.connect_counted(head, counted).await {
                // It is not offered again until something moves in it.
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

    /// Tunnels that are open now, for dumps and metrics: key, streams.
    pub fn list(&self) -> Vec<(TunnelKey, usize)> {
        let slots = self.shared.slots.lock();
        let of_slot = |(key, slot): (&TunnelKey, &Slot)| {
            slot.tunnels.iter().map(|kept| (key.clone(), kept.tunnel.streams())).collect::<Vec<_>>()
        };
        slots.iter().flat_map(of_slot).collect()
    }

    /// The workload is gone: cuts its tunnels.
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

    /// A tunnel with room, and a place in it.
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

    /// A task of its own: callers come and go, the dial is for all of them.
    fn start_dial(self: &Arc<Self>, key: &TunnelKey) -> watch::Receiver<Option<DialResult>> {
        let (done, wait) = watch::channel(None);
        let (shared, of) = (Arc::clone(self), key.clone());
        let work = async move {
            let key = of;
            let result = shared.open(&key).await;
            let mut slots = shared.slots.lock();
            // Gone if the workload was closed meanwhile: then the tunnel is dropped, and with it closed.
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

/// One task for all tunnels. A tunnel is released between one and one and a quarter idle times after its last stream.
async fn sweep(shared: Weak<Shared>, idle: Duration) {
    loop {
        sleep(idle / 4).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.sweep(Instant::now());
    }
}
