//! HBONE over loopback: real TLS, real sockets, both ends of this library and peers that misbehave.

#[cfg(test)]
mod mesh;

#[cfg(test)]
mod tunnel; // streams through tunnels: bytes, ends, resets, sharing

#[cfg(test)]
mod copying; // half-close, resets, back-pressure and timeouts of connections in tunnels

#[cfg(test)]
mod stalling; // stalled readers hold up their own streams only

#[cfg(test)]
mod sharing; // which tunnels a pool opens, reuses and closes

#[cfg(test)]
mod mischief; // peers with valid certificates that misbehave
