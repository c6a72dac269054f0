//! Sockets, buffers and copying bytes, without any knowledge of the mesh.

pub mod splice; // bidirectional copy between two sockets, with splice(2) once they stream
pub mod copy; // bidirectional copy; counts bytes; keeps half-close and reset
mod flow; // one direction of a copy
mod watch; // byte counters and timeouts of a copy
pub mod tcp; // TCP as one end of a copy
pub mod buffers; // bounds on the buffer memory of one workload
pub mod duplex; // one end of a copy, and the bytes in flight
pub mod connect; // connect with a timeout
pub mod interfaces; // the machine's own addresses and its routers
pub mod socket; // socket options
pub mod handshakes; // concurrent handshakes per peer
pub mod backoff; // exponential backoff with jitter
