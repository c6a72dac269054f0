//! Access to the context of a program.
//!
//! Fields are loaded by inline assembly: LLVM would merge `if v4 { load ctx+40 } else { load ctx+28 }` into one load at
//! a variable offset, which the verifier rejects ("dereference of modified ctx ptr").

use agent_abi::Address;
use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sock_ops};

/// AF_INET.
const INET: u32 = 2;
/// IPPROTO_TCP.
pub const TCP: u32 = 6;

/// Loads the 32-bit field `$field` (or its word `$word`) of the `$type` that `$pointer` points to.
macro_rules! field {
    ($pointer:expr, $type:ty, $field:ident) => {
        $crate::context::field!($pointer, $type, $field, 0)
    };
    ($pointer:expr, $type:ty, $field:ident, $word:expr) => {{
        let value: u64;
        // SAFETY: a load inside the structure; the verifier checks it again.
        unsafe {
            core::arch::asm!("{0} = *(u32 *)({1} + {2})", out(reg) value, in(reg) $pointer,
                const core::mem::offset_of!($type, $field) + 4 * $word)
        };
        value as u32
    }};
}
/// Loads the 64-bit field `$field` of the `$type` that `$pointer` points to.
macro_rules! wide_field {
    ($pointer:expr, $type:ty, $field:ident) => {{
        let value: u64;
        // SAFETY: a load inside the structure; the verifier checks it again.
        unsafe {
            core::arch::asm!("{0} = *(u64 *)({1} + {2})", out(reg) value, in(reg) $pointer,
                const core::mem::offset_of!($type, $field))
        };
        value
    }};
}
/// Loads the IPv6 address `$field`.
macro_rules! address_field {
    ($pointer:expr, $type:ty, $field:ident) => {
        agent_abi::Address([
            $crate::context::field!($pointer, $type, $field, 0),
            $crate::context::field!($pointer, $type, $field, 1),
            $crate::context::field!($pointer, $type, $field, 2),
            $crate::context::field!($pointer, $type, $field, 3),
        ])
    };
}
pub(crate) use {field, wide_field};

/// The socket of a sock_addr program.
#[inline(always)]
pub fn socket_of(context: *mut bpf_sock_addr) -> *mut bpf_sock {
    // SAFETY: the kernel always fills it in.
    unsafe { (*context).__bindgen_anon_1.sk }
}

/// Destination of connect4, local address of bind4.
#[inline(always)]
pub fn user_v4(context: *mut bpf_sock_addr) -> Address {
    Address::from_v4(field!(context, bpf_sock_addr, user_ip4))
}

/// Destination of connect6, local address of bind6.
#[inline(always)]
pub fn user_v6(context: *mut bpf_sock_addr) -> Address {
    address_field!(context, bpf_sock_addr, user_ip6)
}

/// Port that goes with [`user_v4`] and [`user_v6`].
#[inline(always)]
pub fn user_port(context: *mut bpf_sock_addr) -> u32 {
    u32::from(u16::from_be(field!(context, bpf_sock_addr, user_port) as u16))
}

/// The two ends of a connection, from one side's point of view.
pub struct Ends {
    /// This side.
    pub local: Address,
    /// The other side.
    pub remote: Address,
    /// Port of this side.
    pub local_port: u32,
    /// Port of the other side.
    pub remote_port: u32,
}

/// Both ends of the packet for which `sk_lookup` selects a socket.
#[inline(always)]
pub fn ends_of_lookup(context: *mut bpf_sk_lookup) -> Ends {
    let (local, remote) = if is_v4(context) {
        let local = field!(context, bpf_sk_lookup, local_ip4);
        let remote = field!(context, bpf_sk_lookup, remote_ip4);
        (Address::from_v4(local), Address::from_v4(remote))
    } else {
        (address_field!(context, bpf_sk_lookup, local_ip6), address_field!(context, bpf_sk_lookup, remote_ip6))
    };
    let remote_port = u32::from(u16::from_be(field!(context, bpf_sk_lookup, remote_port) as u16));
    Ends { local, remote, local_port: field!(context, bpf_sk_lookup, local_port), remote_port }
}

/// Whether it is an IPv4 packet.
#[inline(always)]
pub fn is_v4(context: *mut bpf_sk_lookup) -> bool {
    field!(context, bpf_sk_lookup, family) == INET
}

/// Both ends of the socket of a sockops program.
#[inline(always)]
pub fn ends_of_ops(context: *mut bpf_sock_ops) -> Ends {
    let (local, remote) = if field!(context, bpf_sock_ops, family) == INET {
        let local = field!(context, bpf_sock_ops, local_ip4);
        let remote = field!(context, bpf_sock_ops, remote_ip4);
        (Address::from_v4(local), Address::from_v4(remote))
    } else {
        (address_field!(context, bpf_sock_ops, local_ip6), address_field!(context, bpf_sock_ops, remote_ip6))
    };
    // The remote port is in the upper half of the word on little-endian machines (linux/bpf.h: "network byte order").
    let remote_port = u32::from_be(field!(context, bpf_sock_ops, remote_port));
    Ends { local, remote, local_port: field!(context, bpf_sock_ops, local_port), remote_port }
}
