//! HBONE: HTTP/2 CONNECT over mTLS on port 15008, one stream for each application connection.
//!
//! Client: [`Pool::connect`] finds or dials a tunnel and opens a [`Stream`] in it. Server: [`accept`] performs the
//! handshakes, then [`ServerConnection::next`] yields each CONNECT, to be accepted or refused. A stream is copied with
//! [`crate::net::copy::both_ways`] or used as `AsyncRead + AsyncWrite`.

mod pool; // client tunnels by key: one dial at a time, streams spread, idle tunnels closed
mod server; // server end: each CONNECT of one TLS connection
mod client; // client end of one tunnel
mod stream; // one connection in a tunnel
mod driver; // upkeep of the HTTP/2 connection: pings, windows, flush
mod load; // streams of one tunnel: number, flow control, unread bytes
mod window; // sizes of flow-control windows
mod transport; // TLS under HTTP/2, flushed once per turn
mod settings; // sizes and times of a tunnel
mod head; // CONNECT head: authority, forwarded, baggage, traceparent
mod traceparent; // W3C Trace Context
mod baggage; // W3C baggage and workload labels

pub use baggage::Baggage;
pub use client::{Tunnel, TunnelError};
pub use head::{Authority, ConnectHead, Forwarded, HeadError, canonical};
pub use pool::{Dial, DialFuture, Pool, PoolOptions, TunnelKey};
pub use server::{AcceptError, Ended, Request, ServerConnection, accept, accept_within};
pub use settings::Settings;
pub use stream::{Opened, Stream};
pub use traceparent::{Traceparent, push_hex};
