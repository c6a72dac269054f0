//! The maps. How user space fills them is in `agent::capture`.
//!
//! Hash maps are not preallocated: they use memory only for their entries, and an entry that a program still reads is
//! not reused.

use core::cell::UnsafeCell;
use core::ffi::c_void;

use agent_abi::{
    Account, Address, AddressKey, BY_ID, BindKey, Config, Kind, ListenKey, MAX_PODS, Origin, Place, Pod, Tuple,
    VerdictKey,
};
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_def, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_map_lookup_elem, bpf_sk_release, bpf_sk_storage_delete, bpf_sk_storage_get,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash};

/// The agent's cgroups and global flags.
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Enrolled pods, by netns cookie and by id.
#[map]
static PODS: HashMap<u64, Pod> = HashMap::with_max_entries(2 * MAX_PODS as u32, BPF_F_NO_PREALLOC);
/// The addresses of each pod.
#[map]
static OWN: HashMap<AddressKey, u32> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);
/// The agent's listeners. A closed listener leaves the map by itself: that is how the programs know that the agent is
/// gone.
#[map]
static LISTEN: SockHash<ListenKey> = SockHash::with_max_entries(8192, 0);
/// Ports whose verdict differs from their pod's.
#[map]
static VERDICTS: HashMap<VerdictKey, u32> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);
/// Ports of the agent's listeners.
#[map]
static BINDS: HashMap<BindKey, u32> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);
/// Single mesh addresses.
#[map]
static MESH: HashMap<Address, u32> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);
/// Ranges of mesh addresses.
#[map]
static MESH_NETS: LpmTrie<Address, u32> = LpmTrie::with_max_entries(4096, BPF_F_NO_PREALLOC);
/// Connections that the kubelet is opening.
#[map]
pub static ORIGIN: LruHashMap<Tuple, Origin> = LruHashMap::with_max_entries(2048, 0);
/// Connections that the agent is opening; needed before 5.17 only.
#[map]
pub static AGENT: LruHashMap<Tuple, u64> = LruHashMap::with_max_entries(1024, 0);
/// Namespaces, by cookie, of pods that should be captured and cannot be. Several times the most pods, so that a pod can
/// be closed even when the maps for captured pods are full.
#[map]
static CLOSED: HashMap<u64, u32> = HashMap::with_max_entries(8 * MAX_PODS as u32, BPF_F_NO_PREALLOC);
/// User space's records of the pods.
#[map]
static PLACES: HashMap<u64, Place> = HashMap::with_max_entries(MAX_PODS as u32, BPF_F_NO_PREALLOC);
/// Events.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
/// Counters by [`agent_abi::Counter`].
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(8, 0);

/// Passthrough connections, each in the storage of its socket.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "ACCOUNTS")]
static ACCOUNTS: Storage = Storage(UnsafeCell::new(bpf_map_def {
    type_: BPF_MAP_TYPE_SK_STORAGE,
    key_size: size_of::<u32>() as u32,
    value_size: size_of::<Account>() as u32,
    max_entries: 0,
    map_flags: BPF_F_NO_PREALLOC,
    id: 0,
    pinning: 0,
}));

#[repr(transparent)]
struct Storage(UnsafeCell<bpf_map_def>);

// SAFETY: nobody reads or writes the definition; its address stands for the map.
unsafe impl Sync for Storage {}

/// The agent's configuration.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Whether the current task is the agent. A mark on its sockets would prove nothing: a pod with NET_ADMIN could set it
/// too.
#[inline(always)]
pub fn is_agent(config: &Config) -> bool {
    // SAFETY: a helper without arguments.
    let group = unsafe { bpf_get_current_cgroup_id() };
    group == config.agents[0] || group == config.agents[1]
}

/// The pod in the network namespace with this cookie.
#[inline(always)]
pub fn pod_by_cookie(cookie: u64) -> Option<&'static Pod> {
    // SAFETY: the map is not preallocated.
    unsafe { PODS.get(&cookie) }
}

/// Whether the namespace with this cookie is closed.
#[inline(always)]
pub fn is_closed(cookie: u64) -> bool {
    // SAFETY: the map is not preallocated.
    unsafe { CLOSED.get(&cookie) }.is_some()
}

/// The pod with this id.
#[inline(always)]
pub fn pod_by_id(id: u32) -> Option<&'static Pod> {
    // SAFETY: the map is not preallocated.
    unsafe { PODS.get(&(BY_ID | id as u64)) }
}

/// Whether the pod has this address.
#[inline(always)]
pub fn is_own(pod: u32, address: Address) -> bool {
    // SAFETY: the map is not preallocated.
    unsafe { OWN.get(&AddressKey { pod, address }) }.is_some()
}

/// Whether the address belongs to the mesh.
#[inline(always)]
pub fn is_mesh(address: Address) -> bool {
    // SAFETY: the map is not preallocated.
    unsafe { MESH.get(&address) }.is_some() || MESH_NETS.get(&Key::new(128, address)).is_some()
}

/// Raw [`Verdict`](agent_abi::Verdict) on plaintext to a port of the pod.
#[inline(always)]
pub fn verdict(pod: &Pod, port: u32) -> u32 {
    let key = VerdictKey { pod: pod.id, generation: pod.generation, port };
    // SAFETY: the map is not preallocated.
    unsafe { VERDICTS.get(&key) }.copied().unwrap_or(pod.verdict)
}

/// Whether this port in the pod is reserved for the agent.
#[inline(always)]
pub fn is_reserved(pod: u32, port: u32) -> bool {
    // SAFETY: the map is not preallocated.
    unsafe { BINDS.get(&BindKey { pod, port }) }.is_some()
}

/// A listener of the agent, to be passed to [`release`]; null if there is none.
#[inline(always)]
pub fn listener(pod: u32, kind: Kind, v6: bool) -> *mut c_void {
    let key = ListenKey::new(pod, kind, v6);
    // SAFETY: map and key are what the helper expects; it takes neither.
    unsafe { bpf_map_lookup_elem((&raw const LISTEN).cast_mut().cast(), (&raw const key).cast_mut().cast()) }
}

/// Releases the result of [`listener`], unless it was null.
#[inline(always)]
pub fn release(listener: *mut c_void) {
    // SAFETY: the reference is ours and is not used again.
    unsafe { bpf_sk_release(listener) };
}

/// Whether there is an agent that listens in the pod.
#[inline(always)]
pub fn has_agent(pod: u32) -> bool {
    let found = listener(pod, Kind::Outbound, false);
    if found.is_null() {
        return false;
    }
    release(found);
    true
}

/// The account in a socket's storage, created if `create`; null if there is none.
#[inline(always)]
pub fn account(socket: *mut bpf_sock, create: bool) -> *mut Account {
    let flags = if create { BPF_SK_STORAGE_GET_F_CREATE as u64 } else { 0 };
    // SAFETY: the verifier has seen that the socket is there.
    unsafe { bpf_sk_storage_get(ACCOUNTS.0.get().cast(), socket.cast(), core::ptr::null_mut(), flags) }.cast()
}

/// Removes the account from a socket.
#[inline(always)]
pub fn drop_account(socket: *mut bpf_sock) {
    // SAFETY: the verifier has seen that the socket is there.
    unsafe { bpf_sk_storage_delete(ACCOUNTS.0.get().cast(), socket.cast()) };
}
