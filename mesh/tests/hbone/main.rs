//! HBONE over loopback: real TLS, real sockets, both ends of this library and peers that misbehave.

#[cfg(test)]
mod mesh;

#[cfg(test)]
mod tunnel; // streams through tunnels: bytes, ends, resets, sharing
