//! `sk_lookup`: selects the socket for a SYN that arrives in a pod. One instance per pod; established connections do
//! not come here.

use core::arch::asm;

use agent_abi::{
    Account, Counter, EventKind, HBONE_PORT, Kind, LOOPBACK_INDEX, ORIGIN_LIFETIME, POD_ID_PLACEHOLDER, Pod, Tuple,
    Verdict, pod_flag,
};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sk_assign};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;

use crate::context::{Ends, TCP, ends_of_lookup, field, is_v4};
use crate::maps::{self, AGENT, ORIGIN};
use crate::report::{self, count};

/// SK_PASS: the assigned socket gets it, or else the regular listener.
const PASS: u32 = 1;
/// SK_DROP: the peer gets a reset.
const DROP: u32 = 0;
/// BPF_SK_LOOKUP_F_REPLACE | BPF_SK_LOOKUP_F_NO_REUSEPORT: exactly this listener, not another of its SO_REUSEPORT
/// group.
const EXACTLY: u64 = 3;

/// For kernels that expose the interface (5.17).
#[sk_lookup]
pub fn lookup(context: SkLookupContext) -> u32 {
    find::<false>(&context)
}

/// For older kernels: outbound connections are recognized by their destination, the agent's own by their announcement.
#[sk_lookup]
pub fn lookup_by_tuple(context: SkLookupContext) -> u32 {
    find::<true>(&context)
}

/// For a pod that should be captured and cannot be: only the kubelet gets in from elsewhere. It needs no map entry of
/// the pod.
#[sk_lookup]
pub fn shut(context: SkLookupContext) -> u32 {
    let raw = context.lookup;
    if field!(raw, bpf_sk_lookup, protocol) != TCP {
        return PASS;
    }
    let ends = ends_of_lookup(raw);
    let tuple = tuple(&ends);
    // The pod connects to itself.
    if ends.remote.is_loopback() || ends.remote == ends.local || is_announced::<false>(&tuple) {
        return PASS;
    }
    count(Counter::Closed);
    DROP
}

/// The id of the pod, patched in by the loader: a constant costs less than a map per pod.
#[inline(always)]
fn pod_id() -> u32 {
    let id: u64;
    // SAFETY: loads a constant.
    unsafe { asm!("{0} = {1} ll", out(reg) id, const POD_ID_PLACEHOLDER) };
    id as u32
}

#[inline(always)]
fn find<const BY_TUPLE: bool>(context: &SkLookupContext) -> u32 {
    let raw = context.lookup;
    if field!(raw, bpf_sk_lookup, protocol) != TCP {
        return PASS;
    }
    let Some(pod) = maps::pod_by_id(pod_id()) else { return PASS };
    let ends = ends_of_lookup(raw);
    let to_pod = ends.local.is_local() || maps::is_own(pod.id, ends.local);
    if BY_TUPLE {
        if !to_pod {
            // It comes from the pod itself, or is for an address of the pod beyond its quota.
            return if maps::is_own(pod.id, ends.remote) { outbound(context, pod) } else { DROP };
        }
    } else if field!(raw, bpf_sk_lookup, ingress_ifindex) == LOOPBACK_INDEX {
        return if to_pod { PASS } else { outbound(context, pod) };
    }
    // For an own address the interface says nothing about the origin: it is the one that owns the address.
    if ends.remote.is_loopback() || maps::is_own(pod.id, ends.remote) {
        return PASS;
    }
    inbound::<BY_TUPLE>(context, pod, &ends)
}

/// An outbound connection of the pod, redirected to `lo` by `outbound4|6`.
#[inline(always)]
fn outbound(context: &SkLookupContext, pod: &Pod) -> u32 {
    if pod.flags & pod_flag::CLOSED != 0 {
        return DROP;
    }
    if assign(context, pod, Kind::Outbound) { PASS } else { DROP }
}

#[inline(always)]
fn inbound<const BY_TUPLE: bool>(context: &SkLookupContext, pod: &Pod, ends: &Ends) -> u32 {
    if pod.flags & pod_flag::RELEASED != 0 {
        return PASS;
    }
    if is_announced::<BY_TUPLE>(&tuple(ends)) {
        return PASS;
    }
    if pod.flags & pod_flag::CLOSED != 0 {
        count(Counter::Closed);
        return DROP;
    }
    let closed = pod.flags & pod_flag::FAIL_CLOSED != 0;
    let kind = if ends.local_port == HBONE_PORT as u32 {
        Kind::Hbone
    } else {
        match Verdict::from_raw(maps::verdict(pod, ends.local_port)) {
            Verdict::Pass if closed && !maps::has_agent(pod.id) => return no_agent(closed),
            Verdict::Pass => return PASS,
            Verdict::Refuse => {
                report::send(&report::inbound(EventKind::Refused, pod.id, Account::INBOUND, ends));
                return DROP;
            }
            Verdict::Proxy => Kind::Plaintext,
        }
    };
    if assign(context, pod, kind) { PASS } else { no_agent(closed) }
}

#[inline(always)]
fn tuple(ends: &Ends) -> Tuple {
    Tuple { remote: ends.remote, local: ends.local, remote_port: ends.remote_port, local_port: ends.local_port }
}

#[inline(always)]
fn no_agent(closed: bool) -> u32 {
    count(Counter::NoAgent);
    if closed { DROP } else { PASS }
}

/// Whether the kubelet, or the agent itself, is opening this connection right now. Nothing from the network can forge
/// that: `origin` recorded it before the SYN left.
#[inline(always)]
fn is_announced<const BY_TUPLE: bool>(tuple: &Tuple) -> bool {
    // SAFETY: values of an LRU map may be re-used while we look at them; ours are written as a whole, and a tuple that
    // is somebody else's is younger still.
    let (origin, agent) = unsafe { (ORIGIN.get(tuple), if BY_TUPLE { AGENT.get(tuple) } else { None }) };
    let time = match (origin, agent) {
        (Some(origin), _) if origin.open == 0 => origin.time,
        (_, Some(time)) => *time,
        _ => return false,
    };
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }.wrapping_sub(time) < ORIGIN_LIFETIME
}

/// Assigns the connection to a listener of the agent.
#[inline(always)]
fn assign(context: &SkLookupContext, pod: &Pod, kind: Kind) -> bool {
    let listener = maps::listener(pod.id, kind, !is_v4(context.lookup));
    if listener.is_null() {
        return false;
    }
    // SAFETY: the listener is not null; the helper takes no reference of its own.
    let assigned = unsafe { bpf_sk_assign(context.as_ptr(), listener, EXACTLY) };
    maps::release(listener);
    assigned == 0
}
