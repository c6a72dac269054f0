//! Accepting connections for as long as a listener lives, also when the process runs out of file descriptors.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

/// Accepts until the future is dropped. Each connection is handed to `each`, which must not block.
pub(crate) async fn forever(listener: TcpListener, what: &str, each: impl Fn(TcpStream, SocketAddr)) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => each(stream, peer),
            Err(error) if out_of_descriptors(&error) => {
                let refused = RESERVE.refuse_one(&listener);
                report(what, &error, refused);
                tokio::time::sleep(Duration::from_millis(if refused { 1 } else { 50 })).await;
            }
            // A connection that died in the backlog (ECONNABORTED and the like) says nothing about the next one.
            Err(error) => {
                debug!("accepting on the {what} listener: {error}");
                tokio::task::yield_now().await;
            }
        }
    }
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// One descriptor kept back, so that a connection can still be accepted in order to be refused. Without it clients would
/// wait in the backlog until they time out.
static RESERVE: Reserve = Reserve(Mutex::new(None));

struct Reserve(Mutex<Option<std::fs::File>>);

impl Reserve {
    fn refuse_one(&self, listener: &TcpListener) -> bool {
        let mut reserve = self.0.lock();
        *reserve = None;
        // Not tokio's accept: this must be over before the descriptor is taken back.
        let refused = match socket2::SockRef::from(listener).accept() {
            Ok((socket, _)) => {
                // Linger 0 makes the close a reset: the client learns at once.
                let _ = socket.set_linger(Some(Duration::ZERO));
                true
            }
            Err(_) => false,
        };
        *reserve = std::fs::File::open("/dev/null").ok();
        refused
    }
}

/// Opens the reserve while there still are descriptors. Called once at start.
pub(crate) fn keep_a_descriptor_back() -> io::Result<()> {
    *RESERVE.0.lock() = Some(std::fs::File::open("/dev/null")?);
    Ok(())
}

/// At most one line a second, however many connections are refused.
fn report(what: &str, error: &io::Error, refused: bool) {
    static LAST: Mutex<Option<(Instant, u64)>> = Mutex::new(None);
    let mut last = LAST.lock();
    let (since, count) = last.unwrap_or_else(|| (Instant::now() - Duration::from_secs(2), 0));
    let count = count + u64::from(refused);
    if since.elapsed() >= Duration::from_secs(1) {
        warn!(
            "out of file descriptors: {count} new connections refused on the {what} listener since the last such line: {error}"
        );
        *last = Some((Instant::now(), 0));
    } else {
        *last = Some((since, count));
    }
}
