//! Typed access to the maps; the meaning of their entries is in `agent-abi`.

use std::collections::{BTreeMap, HashMap as Lookup, HashSet};
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsRawFd;

use agent_abi::{
    Address, AddressKey, BY_ID, BindKey, Config, Counter, Kind, ListenKey, Place, Pod, Verdict, VerdictKey, config_flag,
};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SockHash};
use ipnet::IpNet;
use mesh::model::waypoint::HBONE_PORT;

use super::error::CaptureError;
use super::quota::{ADDRESSES, VERDICTS};

// The kernel half uses no crate of ours and has a number of its own.
const _: () = assert!(agent_abi::HBONE_PORT == HBONE_PORT);

const KINDS: [Kind; 3] = [Kind::Outbound, Kind::Plaintext, Kind::Hbone];

/// The maps that user space reads or writes.
pub(super) struct Tables {
    config: Array<MapData, Config>,
    pods: HashMap<MapData, u64, Pod>,
    own: HashMap<MapData, AddressKey, u32>,
    listen: SockHash<MapData, ListenKey>,
    verdicts: HashMap<MapData, VerdictKey, u32>,
    binds: HashMap<MapData, BindKey, u32>,
    mesh: HashMap<MapData, Address, u32>,
    mesh_nets: LpmTrie<MapData, Address, u32>,
    places: HashMap<MapData, u64, Place>,
    closed: HashMap<MapData, u64, u32>,
    counters: PerCpuArray<MapData, u64>,
    /// Entries of all pods beyond their guarantees.
    extra: Extra,
}

#[derive(Default)]
struct Extra {
    own: usize,
    verdicts: usize,
}

/// Whether there was room for an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Found,
    Full,
}

/// The entries of one pod outside of `PODS`, so that they can be removed again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Its addresses.
    pub(super) own: Vec<IpAddr>,
    /// Ports reserved for the agent.
    pub(super) binds: Vec<u16>,
    /// Generation and port of each verdict.
    pub(super) verdicts: Vec<(u32, u16)>,
}

impl Tables {
    /// Takes its maps out of `maps`.
    pub(super) fn new(maps: &mut Lookup<String, MapData>) -> Result<Self, CaptureError> {
        Ok(Self {
            config: take(maps, "CONFIG")?,
            pods: take(maps, "PODS")?,
            own: take(maps, "OWN")?,
            listen: take(maps, "LISTEN")?,
            verdicts: take(maps, "VERDICTS")?,
            binds: take(maps, "BINDS")?,
            mesh: take(maps, "MESH")?,
            mesh_nets: take(maps, "MESH_NETS")?,
            places: take(maps, "PLACES")?,
            closed: take(maps, "CLOSED")?,
            counters: take(maps, "COUNTERS")?,
            extra: Extra::default(),
        })
    }

    pub(super) fn config(&self) -> Result<Config, CaptureError> {
        self.config.get(&0, 0).map_err(CaptureError::map("CONFIG"))
    }

    pub(super) fn set_config(&mut self, config: Config) -> Result<(), CaptureError> {
        self.config.set(0, config, 0).map_err(CaptureError::map("CONFIG"))
    }

    /// Whether the cgroup programs know the pod.
    pub(super) fn has_cookie(&self, cookie: u64) -> bool {
        self.pods.get(&cookie, 0).is_ok()
    }

    pub(super) fn pod_by_id(&self, id: u32) -> Option<Pod> {
        self.pods.get(&(BY_ID | u64::from(id)), 0).ok()
    }

    /// Writes the pod's entry for `lookup`.
    pub(super) fn put_by_id(&mut self, pod: Pod) -> Result<(), CaptureError> {
        self.pods.insert(BY_ID | u64::from(pod.id), pod, 0).map_err(CaptureError::map("PODS"))
    }

    /// Writes the pod's entry for the cgroup programs.
    pub(super) fn put_by_cookie(&mut self, cookie: u64, pod: Pod) -> Result<(), CaptureError> {
        self.pods.insert(cookie, pod, 0).map_err(CaptureError::map("PODS"))
    }

    pub(super) fn remove_by_id(&mut self, id: u32) -> Result<(), CaptureError> {
        absent_is_fine(self.pods.remove(&(BY_ID | u64::from(id)))).map_err(CaptureError::map("PODS"))
    }

    pub(super) fn remove_by_cookie(&mut self, cookie: u64) -> Result<(), CaptureError> {
        absent_is_fine(self.pods.remove(&cookie)).map_err(CaptureError::map("PODS"))
    }

    /// Reads all entries by pod: what an earlier agent left.
    pub(super) fn held(&mut self) -> BTreeMap<u32, Held> {
        let mut held: BTreeMap<u32, Held> = BTreeMap::new();
        for key in self.own.keys().flatten() {
            held.entry(key.pod).or_default().own.push(key.address.into());
        }
        for key in self.binds.keys().flatten() {
            held.entry(key.pod).or_default().binds.push(key.port as u16);
        }
        for key in self.verdicts.keys().flatten() {
            held.entry(key.pod).or_default().verdicts.push((key.generation, key.port as u16));
        }
        self.extra = Extra {
            own: held.values().map(|held| ADDRESSES.extra(held.own.len())).sum(),
            verdicts: held.values().map(|held| VERDICTS.extra(held.verdicts.len())).sum(),
        };
        held
    }

    /// Removes all entries of a pod.
    pub(super) fn drop_held(&mut self, pod: u32, held: &mut Held) -> Result<(), CaptureError> {
        self.set_own(pod, held, &[])?;
        self.set_binds(pod, held, Vec::new())?;
        self.keep_verdicts(pod, held, None)
    }

    /// Sets the addresses of a pod, most important first, within its quota. Returns how many are in the map.
    pub(super) fn set_own(&mut self, pod: u32, held: &mut Held, now: &[IpAddr]) -> Result<usize, CaptureError> {
        let key = |address: &IpAddr| AddressKey { pod, address: (*address).into() };
        let others = self.extra.own.saturating_sub(ADDRESSES.extra(held.own.len()));
        let now = &now[..ADDRESSES.allow(now.len(), others)];
        // Each removal and insertion is recorded one by one: nothing leaks if one fails.
        let done = (|| {
            for at in (0..held.own.len()).rev() {
                if !now.contains(&held.own[at]) {
                    absent_is_fine(self.own.remove(&key(&held.own[at]))).map_err(CaptureError::map("OWN"))?;
                    held.own.swap_remove(at);
                }
            }
            for address in now {
                if held.own.contains(address) {
                    continue;
                }
                if room(self.own.insert(key(address), 1, 0)).map_err(CaptureError::map("OWN"))? == Room::Full {
                    break;
                }
                held.own.push(*address);
            }
            Ok(held.own.len())
        })();
        self.extra.own = others + ADDRESSES.extra(held.own.len());
        done
    }

    /// Sets the ports in a pod that are reserved for the agent.
    pub(super) fn set_binds(&mut self, pod: u32, held: &mut Held, now: Vec<u16>) -> Result<(), CaptureError> {
        let key = |port: &u16| BindKey { pod, port: (*port).into() };
        let before = std::mem::take(&mut held.binds);
        for port in &now {
            self.binds.insert(key(port), 1, 0).map_err(CaptureError::map("BINDS"))?;
        }
        for port in before.iter().filter(|port| !now.contains(port)) {
            absent_is_fine(self.binds.remove(&key(port))).map_err(CaptureError::map("BINDS"))?;
        }
        held.binds = now;
        Ok(())
    }

    /// Adds a verdict of one generation.
    pub(super) fn put_verdict(
        &mut self,
        pod: u32,
        held: &mut Held,
        (generation, port): (u32, u16),
        verdict: Verdict,
    ) -> Result<Room, CaptureError> {
        let key = VerdictKey { pod, generation, port: port.into() };
        let (has, others) =
            (held.verdicts.len(), self.extra.verdicts.saturating_sub(VERDICTS.extra(held.verdicts.len())));
        if VERDICTS.allow(has + 1, others) <= has {
            return Ok(Room::Full);
        }
        let room = room(self.verdicts.insert(key, verdict as u32, 0)).map_err(CaptureError::map("VERDICTS"))?;
        if room == Room::Found {
            held.verdicts.push((generation, port));
            self.extra.verdicts = others + VERDICTS.extra(held.verdicts.len());
        }
        Ok(room)
    }

    /// Removes the verdicts of a pod except those of one generation.
    pub(super) fn keep_verdicts(&mut self, pod: u32, held: &mut Held, keep: Option<u32>) -> Result<(), CaptureError> {
        let others = self.extra.verdicts.saturating_sub(VERDICTS.extra(held.verdicts.len()));
        let done = (|| {
            for at in (0..held.verdicts.len()).rev() {
                let (generation, port) = held.verdicts[at];
                if Some(generation) != keep {
                    let key = VerdictKey { pod, generation, port: port.into() };
                    absent_is_fine(self.verdicts.remove(&key)).map_err(CaptureError::map("VERDICTS"))?;
                    held.verdicts.swap_remove(at);
                }
            }
            Ok(())
        })();
        self.extra.verdicts = others + VERDICTS.extra(held.verdicts.len());
        done
    }

    /// Closes the uncaptured namespace with this cookie: its connections are refused.
    pub(super) fn put_closed(&mut self, cookie: u64) -> Result<Room, CaptureError> {
        let room = room(self.closed.insert(cookie, 1, 0)).map_err(CaptureError::map("CLOSED"))?;
        let config = self.config()?;
        if config.flags & config_flag::SOME_CLOSED == 0 {
            self.set_config(Config { flags: config.flags | config_flag::SOME_CLOSED, ..config })?;
        }
        Ok(room)
    }

    /// Reopens the namespace with this cookie.
    pub(super) fn remove_closed(&mut self, cookie: u64) -> Result<(), CaptureError> {
        absent_is_fine(self.closed.remove(&cookie)).map_err(CaptureError::map("CLOSED"))?;
        let config = self.config()?;
        if config.flags & config_flag::SOME_CLOSED != 0 && self.closed.keys().next().is_none() {
            self.set_config(Config { flags: config.flags & !config_flag::SOME_CLOSED, ..config })?;
        }
        Ok(())
    }

    pub(super) fn is_closed(&self, cookie: u64) -> bool {
        self.closed.get(&cookie, 0).is_ok()
    }

    pub(super) fn closed(&self) -> Vec<u64> {
        self.closed.keys().flatten().collect()
    }

    pub(super) fn put_listener(
        &mut self,
        pod: u32,
        kind: Kind,
        v6: bool,
        listener: &TcpListener,
    ) -> Result<(), CaptureError> {
        let key = ListenKey::new(pod, kind, v6);
        self.listen.insert(key, listener.as_raw_fd(), 0).map_err(CaptureError::map("LISTEN"))
    }

    pub(super) fn remove_listener(&mut self, pod: u32, kind: Kind, v6: bool) -> Result<(), CaptureError> {
        absent_is_fine(self.listen.remove(&ListenKey::new(pod, kind, v6))).map_err(CaptureError::map("LISTEN"))
    }

    /// The listeners in the kernel, of all pods.
    pub(super) fn listeners(&self) -> HashSet<(u32, u32)> {
        self.listen.keys().flatten().map(|key| (key.pod, key.kind)).collect()
    }

    pub(super) fn remove_listeners(&mut self, pod: u32) -> Result<(), CaptureError> {
        KINDS.iter().try_for_each(|kind| {
            self.remove_listener(pod, *kind, false)?;
            self.remove_listener(pod, *kind, true)
        })
    }

    pub(super) fn add_mesh(&mut self, net: IpNet) -> Result<Room, CaptureError> {
        let (address, bits) = prefix(net);
        let done = if bits == 128 {
            self.mesh.insert(address, 1, 0)
        } else {
            self.mesh_nets.insert(&Key::new(bits, address), 1, 0)
        };
        room(done).map_err(CaptureError::map("MESH"))
    }

    pub(super) fn remove_mesh(&mut self, net: IpNet) -> Result<(), CaptureError> {
        let (address, bits) = prefix(net);
        let done =
            if bits == 128 { self.mesh.remove(&address) } else { self.mesh_nets.remove(&Key::new(bits, address)) };
        absent_is_fine(done).map_err(CaptureError::map("MESH"))
    }

    /// The mesh addresses in the map.
    pub(super) fn mesh(&self) -> Vec<IpNet> {
        let single = self.mesh.keys().flatten().map(|address| IpNet::from(IpAddr::from(address)));
        let ranges = self.mesh_nets.keys().flatten().filter_map(|key| net(key.data(), key.prefix_len()));
        single.chain(ranges).collect()
    }

    pub(super) fn places(&self) -> Vec<(u64, Place)> {
        self.places.iter().flatten().collect()
    }

    pub(super) fn place(&self, cookie: u64) -> Option<Place> {
        self.places.get(&cookie, 0).ok()
    }

    pub(super) fn put_place(&mut self, cookie: u64, place: Place) -> Result<Room, CaptureError> {
        room(self.places.insert(cookie, place, 0)).map_err(CaptureError::map("PLACES"))
    }

    pub(super) fn remove_place(&mut self, cookie: u64) -> Result<(), CaptureError> {
        absent_is_fine(self.places.remove(&cookie)).map_err(CaptureError::map("PLACES"))
    }

    /// The value of a counter, summed over all CPUs.
    pub(super) fn counter(&self, counter: Counter) -> Result<u64, CaptureError> {
        let values = self.counters.get(&(counter as u32), 0).map_err(CaptureError::map("COUNTERS"))?;
        Ok(values.iter().sum())
    }
}

/// Takes one map out and types it.
fn take<T: TryFrom<Map, Error = MapError>>(
    maps: &mut Lookup<String, MapData>,
    name: &'static str,
) -> Result<T, CaptureError> {
    let missing = || CaptureError::Map { map: name, reason: "not in the embedded object".into() };
    let map = Map::from_map_data(maps.remove(name).ok_or_else(missing)?).map_err(CaptureError::map(name))?;
    T::try_from(map).map_err(CaptureError::map(name))
}

/// Treats a missing entry as removed.
fn absent_is_fine(done: Result<(), MapError>) -> Result<(), MapError> {
    match done {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}

/// Turns the error of a full map into `Room::Full`.
fn room(done: Result<(), MapError>) -> Result<Room, MapError> {
    match done {
        Err(MapError::SyscallError(error)) if is_full(error.io_error.raw_os_error()) => Ok(Room::Full),
        done => done.map(|()| Room::Found),
    }
}

fn is_full(code: Option<i32>) -> bool {
    matches!(code, Some(libc::E2BIG | libc::ENOSPC))
}

/// A range in the form of the maps: IPv4 prefixes are 96 bits longer.
fn prefix(net: IpNet) -> (Address, u32) {
    let offset = if net.network().is_ipv4() { 96 } else { 0 };
    (net.network().into(), u32::from(net.prefix_len()) + offset)
}

fn net(address: Address, bits: u32) -> Option<IpNet> {
    let ip = IpAddr::from(address);
    let offset = if ip.is_ipv4() { 96 } else { 0 };
    IpNet::new(ip, u8::try_from(bits.checked_sub(offset)?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::{net, prefix};

    #[test]
    fn ranges_survive_the_round_trip() {
        for text in ["10.96.0.0/12", "10.1.2.3/32", "fd00::/64", "fd00::1/128", "0.0.0.0/0"] {
            let range: IpNet = text.parse().unwrap();
            let (address, bits) = prefix(range);
            assert_eq!(net(address, bits), Some(range), "{text}");
        }
    }
}
