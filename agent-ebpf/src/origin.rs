//! sockops on the cgroup of the kubelet: announces each connection that it opens, so that `lookup` passes probes
//! whatever the policy. The same on the agent's own cgroup, for kernels on which `lookup` cannot recognize the agent's
//! connections otherwise.

use agent_abi::{Origin, Tuple};
use aya_ebpf::bindings::{BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;

use crate::context::{ends_of_ops, field};
use crate::maps::{AGENT, ORIGIN};

/// Runs on the kubelet's cgroup. The announcement proves nothing once the connection is established; it stays for
/// `account`, which recognizes probes by it.
#[sock_ops]
pub fn origin(context: SockOpsContext) -> u32 {
    let operation = field!(context.ops, bpf_sock_ops, op);
    if operation == BPF_SOCK_OPS_TCP_CONNECT_CB {
        let _ = ORIGIN.insert(&tuple(context.ops), &Origin { time: now(), open: 0 }, 0);
    } else if operation == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        let _ = ORIGIN.insert(&tuple(context.ops), &Origin { time: now(), open: 1 }, 0);
    }
    0
}

/// Runs on the agent's cgroup.
#[sock_ops]
pub fn agent_origin(context: SockOpsContext) -> u32 {
    let operation = field!(context.ops, bpf_sock_ops, op);
    if operation == BPF_SOCK_OPS_TCP_CONNECT_CB {
        let _ = AGENT.insert(&tuple(context.ops), &now(), 0);
    } else if operation == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        let _ = AGENT.remove(&tuple(context.ops));
    }
    0
}

/// The connection from the point of view of the pod that accepts it.
#[inline(always)]
fn tuple(context: *mut bpf_sock_ops) -> Tuple {
    let ends = ends_of_ops(context);
    Tuple { remote: ends.local, local: ends.remote, remote_port: ends.local_port, local_port: ends.remote_port }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
