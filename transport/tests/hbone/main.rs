//! HBONE over loopback: real TLS, real sockets, both ends of this library and peers that misbehave.

#[cfg(test)]
mod mesh;

#[cfg(test)]
mod tunnel; // streams through tunnels: bytes, ends, resets, sharing

#[cfg(test)]
mod copying; // ends, resets, back-pressure and time limits of connections in tunnels

#[cfg(test)]
mod stalling; // readers that stall hold their own streams and nobody else's

#[cfg(test)]
mod sharing; // which tunnels a pool opens, shares and closes

#[cfg(test)]
mod mischief; // peers with good certificates and bad manners
