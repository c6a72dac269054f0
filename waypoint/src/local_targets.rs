//! What is close to this waypoint, looked at again and again: its own interfaces, its node. Every dial asks it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use mesh::authority::dial::{Off, Surroundings, may_dial};
use thiserror::Error;
use tokio::net::TcpStream;
use transport::net::interfaces;

/// What is close to this waypoint.
#[derive(Debug, Default)]
pub struct Around {
    now: ArcSwap<Surroundings>,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// The address is never dialled.
    #[error("{0} is {1}, which a waypoint never dials (--allow-local-targets)")]
    Off(SocketAddr, Off),
    /// It was, in vain.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Around {
    /// Servers of the waypoint itself, and what its operator allows.
    pub fn new(served: Vec<SocketAddr>, allowed: Vec<IpNet>) -> Self {
        let around = Self { now: ArcSwap::from_pointee(Surroundings { served, allowed, ..Surroundings::default() }) };
        around.refresh(&[], vec![]);
        around
    }

    /// Looks at the interfaces again. `pod` is where the mesh says that this waypoint is, `node` where its node is.
    pub fn refresh(&self, pod: &[IpAddr], mut node: Vec<IpAddr>) {
        let before = self.now.load_full();
        let own = match interfaces::addresses() {
            Ok(own) => own.into_iter().chain(pod.iter().copied()).collect(),
            Err(error) => {
                tracing::warn!("the addresses of this machine cannot be read: {error}; the last known stay");
                before.own.clone()
            }
        };
        node.extend(interfaces::routers());
        let now = Surroundings { own, node, ..Surroundings::clone(&before) };
        if now != *before {
            self.now.store(now.into());
        }
    }

    /// Whether `target` may be dialled.
    pub fn check(&self, target: SocketAddr) -> Result<(), DialError> {
        may_dial(&self.now.load(), target).map_err(|off| DialError::Off(target, off))
    }

    /// Dials `target`, if it may be dialled.
    pub async fn dial(&self, target: SocketAddr) -> Result<TcpStream, DialError> {
        self.check(target)?;
        let stream = TcpStream::connect(target).await?;
        // An interface that came up since the last look: the kernel answers for its own addresses from the same
        // address.
        if stream.local_addr()?.ip() == stream.peer_addr()?.ip() {
            let now = Surroundings::clone(&self.now.load());
            let around = Surroundings { own: vec![target.ip()], ..now };
            may_dial(&around, target).map_err(|off| DialError::Off(target, off))?;
        }
        Ok(stream)
    }

    /// Dials a server outside the mesh by name. What the name resolves to is checked, and what was checked is dialled:
    /// whoever answers for the name cannot say another thing in between.
    pub async fn dial_name(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let mut failed = DialError::Io(io::Error::new(io::ErrorKind::NotFound, format!("{host:?} has no address")));
        for target in tokio::net::lookup_host((host, port)).await? {
            match self.dial(target).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_that_lead_back_here_are_not_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let around = Around::new(vec![], vec![]);
        for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"] {
            let refused = around.dial_name(host, port).await.unwrap_err().to_string();
            assert!(refused.contains("never dials"), "{host}: {refused}");
        }
        let allowed = Around::new(vec![], vec!["127.0.0.0/8".parse().unwrap()]);
        allowed.dial_name("127.0.0.1", port).await.unwrap();
        let served = Around::new(vec![listener.local_addr().unwrap()], vec!["127.0.0.0/8".parse().unwrap()]);
        assert!(served.dial_name("127.0.0.1", port).await.is_err(), "not even where all is allowed");
    }
}
