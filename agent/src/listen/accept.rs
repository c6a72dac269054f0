//! Accepts connections for as long as a listener lives, even when the process runs out of file descriptors.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

/// Consecutive accept errors before the loop pauses between them.
const PATIENCE: u32 = 16;
/// The longest pause.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the future is dropped or the listener is dead: anybody with NET_ADMIN in its namespace can destroy it
/// (`ss -K`). Returns the kernel's error then. Each connection is handed to `each`, which must not block.
pub(crate) async fn until_dead(listener: &TcpListener, what: &str, each: impl Fn(TcpStream, SocketAddr)) -> io::Error {
    let mut failed: u32 = 0;
    loop {
        let error = match listener.accept().await {
            Ok((stream, peer)) => {
                failed = 0;
                each(stream, peer);
                continue;
            }
            Err(error) => error,
        };
        match about(&error, || SockRef::from(listener).is_listener().unwrap_or(false)) {
            About::Descriptors => {
                let refused = RESERVE.refuse_one(listener);
                report(what, &error, refused);
                tokio::time::sleep(Duration::from_millis(if refused { 1 } else { 50 })).await;
            }
            About::Connection => {
                debug!("accepting on the {what} listener: {error}");
                failed = failed.saturating_add(1);
                pause(failed).await;
            }
            About::Listener => return error,
        }
    }
}

/// What an error of accept(2) refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// Out of file descriptors or memory.
    Descriptors,
    /// A connection that died in the backlog (ECONNABORTED and the like); the next one is unaffected.
    Connection,
    /// The listener is dead.
    Listener,
}

/// Classifies an error. accept(2) reports pending network errors of the new connection, so most refer to that;
/// `listens` asks the listener whether it still listens.
fn about(error: &io::Error, listens: impl FnOnce() -> bool) -> About {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => About::Descriptors,
        Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) => About::Listener,
        _ if listens() => About::Connection,
        _ => About::Listener,
    }
}

/// No pause for the first errors, then longer and longer ones: a listener that only fails must not cost a core.
async fn pause(failed: u32) {
    match failed.checked_sub(PATIENCE) {
        None => tokio::task::yield_now().await,
        Some(more) => tokio::time::sleep(Duration::from_millis(u64::from(more) + 1).min(PAUSE)).await,
    }
}

/// One spare descriptor, so that a connection can be accepted in order to be refused. Without it clients would wait in
/// the backlog until they time out.
static RESERVE: Reserve = Reserve(Mutex::new(None));

struct Reserve(Mutex<Option<std::fs::File>>);

impl Reserve {
    fn refuse_one(&self, listener: &TcpListener) -> bool {
        let mut reserve = self.0.lock();
        *reserve = None;
        // Not tokio's accept: this must complete before the spare descriptor is reopened.
        let refused = match SockRef::from(listener).accept() {
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

/// Opens the spare descriptor. Called once at startup.
pub(crate) fn reserve_descriptor() -> io::Result<()> {
    *RESERVE.0.lock() = Some(std::fs::File::open("/dev/null")?);
    Ok(())
}

/// Logs at most one line a second, however many connections are refused.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn only_what_is_about_the_listener_ends_it() {
        for one in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(about(&code(one), || true), About::Descriptors);
        }
        for one in [libc::ECONNABORTED, libc::EPROTO, libc::ENETDOWN, libc::EHOSTUNREACH, libc::EPERM, libc::EINTR] {
            assert_eq!(about(&code(one), || true), About::Connection, "{one}");
        }
        // A destroyed listener answers EINVAL, and is none any more.
        assert_eq!(about(&code(libc::EINVAL), || false), About::Listener);
        assert_eq!(about(&code(libc::ECONNABORTED), || false), About::Listener);
        assert_eq!(about(&code(libc::EBADF), || true), About::Listener);
    }

    #[tokio::test]
    async fn a_listener_that_is_none_any_more_is_not_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // On a listener this does what destroying it does: it leaves the state LISTEN, and the poller is told.
        SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), until_dead(&listener, "test", |_, _| {})).await;
        assert_eq!(ended.unwrap().raw_os_error(), Some(libc::EINVAL));
    }
}
