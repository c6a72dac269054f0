//! HBONE: HTTP/2 CONNECT over mTLS on port 15008, one stream for each connection of an application.
//!
//! Client: [`Pool::connect`] finds or dials a tunnel and opens a [`Stream`] in it. Server: [`accept`] does the handshakes,
//! then [`ServerConnection::next`] gives each CONNECT, to be accepted or refused. A stream is copied with
//! [`crate::net::copy::both_ways`] or used as `AsyncRead + AsyncWrite`.

mod pool; // tunnels by key: one dial at a time, streams spread, idle ones released
mod server; // the far end: each CONNECT of one TLS connection
mod client; // the near end: one tunnel
mod stream; // one connection in a tunnel
mod driver; // what both ends do for the HTTP/2 connection: ping, windows, flush
mod load; // the streams of one tunnel: how many, who waits, what is unread
mod window; // how wide the windows of a tunnel are
mod transport; // TLS under HTTP/2, flushed once per turn
mod settings; // sizes and times of a tunnel
mod head; // CONNECT head: authority, forwarded, baggage, traceparent
mod baggage; // W3C baggage and workload labels

pub use baggage::Baggage;
pub use client::{Tunnel, TunnelError};
pub use head::{Authority, ConnectHead, Forwarded, HeadError, Traceparent, canonical};
pub use pool::{Dial, DialFuture, Pool, PoolOptions, TunnelKey};
pub use server::{AcceptError, Ended, Request, ServerConnection, accept, accept_within};
pub use settings::{PORT, Settings};
pub use stream::{Opened, Stream};
