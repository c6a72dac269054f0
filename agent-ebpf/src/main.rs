//! The kernel half of capture; the user-space half is `agent::capture`.
//!
//! ```text
//!  connect() ─▶ outbound4|6 ─▶ mark, bind to lo ─▶ SYN on lo ─┐
//!                    └▶ no mesh address: passthrough, counted ├─▶ lookup ─▶ the agent's listener in the pod
//!  SYN from the network ──────────────────────────────────────┘        └──▶ the application, or a reset
//!  connect() of the kubelet ─▶ origin: announces the connection, so that lookup lets it pass
//!  bind() ─▶ bind4|6: the agent's ports are the agent's
//!  a passthrough connection opens, ends ─▶ account: bytes and duration
//! ```
//!
//! No program runs per packet, and no helper that is reserved for GPL programs is used.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod bind; // bind(): ports reserved for the agent
mod lookup; // sk_lookup: selects the socket for a SYN in a pod
mod origin; // sockops: announces connections of the kubelet and the agent
mod outbound; // connect(): what is captured
mod account; // sockops: accounts for passthrough connections
mod report; // the ring buffer and the counters
mod maps; // the maps
mod context; // access to the context of a program

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
