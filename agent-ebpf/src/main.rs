//! The kernel half of capture (`agent::capture` is the other one).
//!
//! ```text
//!  connect() ─▶ outbound4|6 ─▶ mark, bind to lo ─▶ SYN on lo ─┐
//!                    └▶ not in the mesh: left alone, counted   ├─▶ lookup ─▶ the agent's listener in the pod
//!  SYN from the network ──────────────────────────────────────┘        └──▶ the application, or a reset
//!  connect() of the kubelet ─▶ origin: announces the connection, so that lookup lets it pass
//!  bind() ─▶ bind4|6: the agent's ports are the agent's
//!  a connection left alone opens, ends ─▶ account: bytes and duration
//! ```
//!
//! No program runs per packet, and no helper that is reserved for GPL programs is used.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod bind; // bind(): what only the agent may bind
mod lookup; // sk_lookup: who gets a SYN that arrives in a pod
mod origin; // sockops: connections of the kubelet and of the agent, announced
mod outbound; // connect(): what is captured
mod account; // sockops: connections that the agent does not carry
mod report; // the ring buffer and the counters
mod maps; // the maps
mod context; // reading what the kernel hands to a program

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
