//! Sockets, below any meaning.

pub mod splice; // both directions between two sockets, inside the kernel once they stream
pub mod copy; // both directions until both end; counts bytes; half-close and reset kept
mod flow; // one direction of a copy
mod watch; // what watches a copy: counts, silence, the wait for last bytes
pub mod tcp; // TCP as one end of a copy
pub mod buffers; // what one workload may have of this process for bytes that nobody takes
pub mod duplex; // what can be copied: the trait, and the bytes under way
pub mod connect; // a socket made ready elsewhere, connected in time
pub mod interfaces; // the machine's own addresses, and those next to it
pub mod socket; // socket options
pub mod handshakes; // how many a peer may have in progress
pub mod backoff; // exponential backoff with jitter
