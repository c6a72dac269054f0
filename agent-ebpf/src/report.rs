//! Reporting to user space: events through a ring buffer, and counters.

use agent_abi::{Counter, Event, EventKind};

use crate::context::Ends;
use crate::maps::{COUNTERS, EVENTS};

/// BPF_RB_AVAIL_DATA.
const AVAILABLE: u64 = 0;
/// BPF_RB_NO_WAKEUP.
const QUIET: u64 = 1;
/// BPF_RB_FORCE_WAKEUP.
const WAKE: u64 = 2;
/// Bytes in the buffer from which on the agent is woken. Below that it reads on its timer, so that a passthrough
/// connection costs no context switch.
const WAKE_AT: u64 = 64 * 1024;

/// Bytes in the buffer from which on refused connections are no longer reported: a flood of them at one pod must not
/// hide open connections of others, which the agent has to close when policy changes.
const REFUSED_UP_TO: u64 = 128 * 1024;

/// Increments a counter.
#[inline(always)]
pub fn count(what: Counter) {
    if let Some(counter) = COUNTERS.get_ptr_mut(what as u32) {
        // SAFETY: the counter is this CPU's.
        unsafe { *counter += 1 };
    }
}

/// An event of an inbound connection (`ends` from the pod's side).
#[inline(always)]
pub fn inbound(kind: EventKind, pod: u32, flags: u32, ends: &Ends) -> Event {
    event(kind, pod, flags, (&ends.remote, ends.remote_port), (&ends.local, ends.local_port))
}

/// An event of an outbound connection (`ends` from the pod's side).
#[inline(always)]
pub fn outbound(kind: EventKind, pod: u32, flags: u32, ends: &Ends) -> Event {
    event(kind, pod, flags, (&ends.local, ends.local_port), (&ends.remote, ends.remote_port))
}

#[inline(always)]
fn event(
    kind: EventKind,
    pod: u32,
    flags: u32,
    (source, source_port): (&agent_abi::Address, u32),
    (destination, destination_port): (&agent_abi::Address, u32),
) -> Event {
    Event {
        kind: kind as u32,
        pod,
        flags,
        source_port: source_port as u16,
        destination_port: destination_port as u16,
        source: *source,
        destination: *destination,
        sent: 0,
        received: 0,
        duration: 0,
    }
}

/// Sends an event to the agent, or counts it as lost.
#[inline(always)]
pub fn send(event: &Event) {
    let waiting = EVENTS.query(AVAILABLE);
    let crowded = event.kind == EventKind::Refused as u32 && waiting >= REFUSED_UP_TO;
    let flags = if waiting >= WAKE_AT { WAKE } else { QUIET };
    if crowded || EVENTS.output::<Event>(event, flags).is_err() {
        count(Counter::EventsLost);
    }
}
