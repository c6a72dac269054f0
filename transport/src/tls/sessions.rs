//! The session tickets of a client: a few per server, for a bounded number of servers.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use parking_lot::Mutex;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Tickets kept per server. A ticket is used once, so this is how many tunnels can resume at the same time.
const TICKETS_PER_SERVER: usize = 4;
/// Servers whose tickets are kept, per source and set of expected identities.
const SERVERS: usize = 64;

/// A store that allocates on use: an identity that has connected to nobody costs nothing, unlike rustls's own store.
#[derive(Default)]
pub(crate) struct Sessions {
    servers: Mutex<HashMap<ServerName<'static>, VecDeque<Tls13ClientSessionValue>>>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({})", self.servers.lock().len())
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut servers = self.servers.lock();
        if servers.len() >= SERVERS && !servers.contains_key(&server) {
            // Any victim will do: which server is called next is unknown, and a miss costs one full handshake.
            let victim = servers.keys().next().cloned();
            victim.and_then(|victim| servers.remove(&victim));
        }
        let tickets = servers.entry(server).or_default();
        if tickets.len() >= TICKETS_PER_SERVER {
            tickets.pop_front();
        }
        tickets.push_back(ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut servers = self.servers.lock();
        let tickets = servers.get_mut(server)?;
        let newest = tickets.pop_back();
        if tickets.is_empty() {
            servers.remove(server);
        }
        newest
    }
}
