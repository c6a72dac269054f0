//! `connect()` of a process in a pod: captured connections are redirected to `lo`, where `lookup` finds them; the
//! destination address stays as the application wrote it.

use core::ffi::c_void;

use agent_abi::{Address, Counter, LOOPBACK_INDEX, MARK, Pod, config_flag, pod_flag};
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::context::{TCP, field, socket_of, user_v4, user_v6};
use crate::report::count;
use crate::{account, maps};

/// What a sock_addr program returns.
const ALLOW: i32 = 1;
/// `connect()` fails with EPERM.
const DENY: i32 = 0;

/// SOL_SOCKET.
const SOCKET: i32 = 1;
/// SO_BINDTODEVICE.
const BIND_TO_DEVICE: i32 = 25;
/// SO_MARK.
const SET_MARK: i32 = 36;

/// `connect()` on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn outbound4(context: SockAddrContext) -> i32 {
    if field!(context.sock_addr, bpf_sock_addr, protocol) != TCP {
        return ALLOW;
    }
    connect(context.sock_addr, user_v4(context.sock_addr))
}

/// `connect()` on an IPv6 socket, possibly to an IPv4-mapped address.
#[cgroup_sock_addr(connect6)]
pub fn outbound6(context: SockAddrContext) -> i32 {
    if field!(context.sock_addr, bpf_sock_addr, protocol) != TCP {
        return ALLOW;
    }
    connect(context.sock_addr, user_v6(context.sock_addr))
}

#[inline(always)]
fn connect(context: *mut bpf_sock_addr, to: Address) -> i32 {
    let socket = socket_of(context);
    // A socket whose connect failed may be reused for a destination that is not captured.
    let marked = field!(socket, bpf_sock, mark) == MARK;
    let local = to.is_local();
    if local && !marked {
        return ALLOW;
    }
    // SAFETY: the helper takes the context it was called with.
    let cookie = unsafe { bpf_get_netns_cookie(context.cast()) };
    let Some(config) = maps::config() else { return ALLOW };
    let Some(pod) = maps::pod_by_cookie(cookie) else {
        // Read only if not empty: pods that are not enrolled should not pay for it.
        let closed = config.flags & config_flag::SOME_CLOSED != 0 && !local && maps::is_closed(cookie);
        return if closed { refuse() } else { ALLOW };
    };
    if maps::is_agent(config) {
        return ALLOW;
    }
    if local || maps::is_own(pod.id, to) {
        return leave(context, marked);
    }
    if pod.flags & pod_flag::CLOSED != 0 {
        return refuse();
    }
    let captured =
        pod.flags & pod_flag::PROXY_ALL != 0 || config.flags & config_flag::MESH_OVERFLOW != 0 || maps::is_mesh(to);
    let closed = pod.flags & pod_flag::FAIL_CLOSED != 0;
    // Without an agent the mesh addresses may be stale: when failing closed, no destination counts as outside the mesh.
    if (captured || closed) && !maps::has_agent(pod.id) {
        count(Counter::NoAgent);
        return if closed { DENY } else { leave(context, marked) };
    }
    if !captured {
        account::announce(socket, pod);
        return leave(context, marked);
    }
    account::forget(socket);
    capture(context, pod)
}

/// Redirects the connection to `lo`. The mark alone would do; but if somebody removed the routing rule, a marked socket
/// would send plaintext to the network, while a socket that is also bound to `lo` cannot.
#[inline(always)]
fn capture(context: *mut bpf_sock_addr, pod: &Pod) -> i32 {
    let mark = MARK;
    let lo = *b"lo\0\0";
    let turned = set(context, SET_MARK, (&raw const mark).cast()) && set(context, BIND_TO_DEVICE, lo.as_ptr().cast());
    // A pod can give the name `lo` to another interface, for example the one that leads out.
    if turned && field!(socket_of(context), bpf_sock, bound_dev_if) == LOOPBACK_INDEX {
        return ALLOW;
    }
    count(Counter::NotTurned);
    if pod.flags & pod_flag::FAIL_CLOSED != 0 { DENY } else { leave(context, true) }
}

/// Refuses a connection of a closed pod.
#[inline(always)]
fn refuse() -> i32 {
    count(Counter::Closed);
    DENY
}

/// Lets the connection pass through; a socket that was redirected to `lo` before is reset to normal.
#[inline(always)]
fn leave(context: *mut bpf_sock_addr, marked: bool) -> i32 {
    if marked {
        let nothing = 0_u32;
        set(context, SET_MARK, (&raw const nothing).cast());
        set(context, BIND_TO_DEVICE, (&raw const nothing).cast());
    }
    ALLOW
}

/// Sets a socket option of four bytes.
#[inline(always)]
fn set(context: *mut bpf_sock_addr, option: i32, value: *const c_void) -> bool {
    // SAFETY: the value has four bytes.
    unsafe { bpf_setsockopt(context.cast(), SOCKET, option, value.cast_mut(), 4) == 0 }
}
