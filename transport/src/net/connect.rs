//! Connects a socket that the caller has prepared: bound, marked, in any network namespace.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Connect timeout.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Connects within `limit`; a timeout is an error of kind `TimedOut`. The socket must be TCP; it is made non-blocking.
pub async fn connect(socket: Socket, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    socket.set_nonblocking(true)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    match timeout(limit, socket.connect(to)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {to} in {} s", limit.as_secs()))),
    }
}
