//! `bind()` of a process in a pod: the HBONE port and those of the agent's listeners are reserved for the agent.

use agent_abi::{Counter, HBONE_PORT};
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::context::{TCP, field, user_port};
use crate::maps;
use crate::report::count;

/// `bind()` on an IPv4 socket.
#[cgroup_sock_addr(bind4)]
pub fn bind4(context: SockAddrContext) -> i32 {
    bind(context.sock_addr)
}

/// `bind()` on an IPv6 socket.
#[cgroup_sock_addr(bind6)]
pub fn bind6(context: SockAddrContext) -> i32 {
    bind(context.sock_addr)
}

/// 1 allows it, 0 is EPERM.
#[inline(always)]
fn bind(context: *mut bpf_sock_addr) -> i32 {
    let port = user_port(context);
    if port == 0 || field!(context, bpf_sock_addr, protocol) != TCP {
        return 1;
    }
    // SAFETY: the helper takes the context it was called with.
    let cookie = unsafe { bpf_get_netns_cookie(context.cast()) };
    let (Some(pod), Some(config)) = (maps::pod_by_cookie(cookie), maps::config()) else { return 1 };
    if maps::is_agent(config) || !(port == HBONE_PORT as u32 || maps::is_reserved(pod.id, port)) {
        return 1;
    }
    count(Counter::BindRefused);
    0
}
