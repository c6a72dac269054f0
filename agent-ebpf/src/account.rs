//! sockops on the cgroup of the pods: accounts for passthrough connections, from TCP's own counters. Nothing runs per
//! packet: a connection costs one call when it is created, one when it is established, and one per state change.

use agent_abi::{Account, Event, EventKind, HBONE_PORT, MARK, Pod, State, Tuple, Verdict};
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;

use crate::context::{ends_of_ops, field, wide_field};
use crate::maps::{self, ORIGIN};
use crate::report;

/// Called in `connect()`: the connection passes through.
#[inline(always)]
pub fn announce(socket: *mut bpf_sock, pod: &Pod) {
    let account = maps::account(socket, true);
    if !account.is_null() {
        // SAFETY: storage of this socket, which nobody else is connecting.
        unsafe { *account = Account { pod: pod.id, flags: 0, opened: 0, received_at_fin: 0 } };
    }
}

/// Called in `connect()`: the agent carries the connection, whatever the socket was used for before.
#[inline(always)]
pub fn forget(socket: *mut bpf_sock) {
    maps::drop_account(socket);
}

/// Called for every event of a TCP socket below the cgroup.
#[sock_ops]
pub fn account(context: SockOpsContext) -> u32 {
    let raw = context.ops;
    let operation = field!(raw, bpf_sock_ops, op);
    let connecting = operation == BPF_SOCK_OPS_TCP_CONNECT_CB;
    let accepting = operation == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
    if !connecting && !accepting && operation != BPF_SOCK_OPS_STATE_CB {
        return 0;
    }
    // SAFETY: the kernel fills it in; null is checked.
    let socket = unsafe { (*raw).__bindgen_anon_2.sk };
    if socket.is_null() {
        return 0;
    }
    if accepting {
        accepted(raw, socket);
    } else if !connecting {
        changed(raw, socket);
    } else if !maps::account(socket, false).is_null() {
        follow(raw);
    }
    0
}

/// A pod has accepted a connection: ignored if the agent has, or if it comes from the agent.
#[inline(always)]
fn accepted(raw: *mut bpf_sock_ops, socket: *mut bpf_sock) {
    // SAFETY: the helper takes the context it was called with.
    let cookie = unsafe { bpf_get_netns_cookie(raw.cast()) };
    let Some(pod) = maps::pod_by_cookie(cookie) else { return };
    // A connection from the agent has inherited the mark (net.ipv4.tcp_fwmark_accept).
    if field!(socket, bpf_sock, mark) == MARK {
        return;
    }
    let ends = ends_of_ops(raw);
    let foreign = maps::is_own(pod.id, ends.local) && !ends.remote.is_loopback() && !maps::is_own(pod.id, ends.remote);
    if !foreign || ends.local_port == HBONE_PORT as u32 {
        return;
    }
    let tuple =
        Tuple { remote: ends.remote, local: ends.local, remote_port: ends.remote_port, local_port: ends.local_port };
    let probe = ORIGIN.remove(&tuple).is_ok();
    if !probe && !matches!(Verdict::from_raw(maps::verdict(pod, ends.local_port)), Verdict::Pass) {
        return;
    }
    let account = maps::account(socket, true);
    if account.is_null() {
        return;
    }
    let flags = if probe { Account::INBOUND | Account::PROBE } else { Account::INBOUND };
    // SAFETY: not null; callbacks of one socket do not run at the same time.
    unsafe { *account = Account { pod: pod.id, flags, opened: now(), received_at_fin: 0 } };
    follow(raw);
    report::send(&report::inbound(EventKind::Opened, pod.id, flags, &ends));
}

/// A tracked connection has changed its state.
#[inline(always)]
fn changed(raw: *mut bpf_sock_ops, socket: *mut bpf_sock) {
    // SAFETY: `args` is what a state callback has.
    let (old, new) = unsafe { ((*raw).__bindgen_anon_1.args[0], (*raw).__bindgen_anon_1.args[1]) };
    let (old, new) = (State(old), State(new));
    if new != State::ESTABLISHED && new != State::FIN_WAIT2 && new != State::CLOSE {
        return;
    }
    let account = maps::account(socket, false);
    if account.is_null() {
        return;
    }
    // SAFETY: not null; callbacks of one socket do not run at the same time.
    let account = unsafe { &mut *account };
    if new == State::FIN_WAIT2 {
        account.received_at_fin = wide_field!(raw, bpf_sock_ops, bytes_received);
    } else if new == State::CLOSE {
        ended(raw, socket, account, old);
    } else if account.opened == 0 {
        account.opened = now();
        report::send(&report::outbound(EventKind::Opened, account.pod, account.flags, &ends_of_ops(raw)));
    }
}

/// A tracked connection is closed.
#[inline(always)]
fn ended(raw: *mut bpf_sock_ops, socket: *mut bpf_sock, account: &Account, old: State) {
    let ends = ends_of_ops(raw);
    let mut event = if account.flags & Account::INBOUND != 0 {
        report::inbound(EventKind::Closed, account.pod, account.flags, &ends)
    } else {
        report::outbound(EventKind::Closed, account.pod, account.flags, &ends)
    };
    finish(raw, account, old, &mut event);
    maps::drop_account(socket);
    report::send(&event);
}

/// Completes the last event of a connection with bytes and duration.
#[inline(always)]
fn finish(raw: *mut bpf_sock_ops, account: &Account, old: State, event: &mut Event) {
    if account.opened == 0 {
        event.kind = EventKind::Failed as u32;
        return;
    }
    let all_acked = field!(raw, bpf_sock_ops, snd_una) == field!(raw, bpf_sock_ops, snd_nxt);
    event.sent = account.sent(wide_field!(raw, bpf_sock_ops, bytes_acked), old, all_acked);
    event.received = account.received(wide_field!(raw, bpf_sock_ops, bytes_received), old);
    event.duration = now() - account.opened;
}

/// Subscribes to state changes of this socket, in addition to other programs' subscriptions.
#[inline(always)]
fn follow(raw: *mut bpf_sock_ops) {
    let flags = field!(raw, bpf_sock_ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
    // SAFETY: the helper takes the context it was called with.
    unsafe { bpf_sock_ops_cb_flags_set(raw, flags as i32) };
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
