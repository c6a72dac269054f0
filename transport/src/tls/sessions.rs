//! The tickets that a client may resume with: a few per server, for a bounded number of servers.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use parking_lot::Mutex;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Tickets kept for one server. Each is good for one resumption, so this is how many tunnels can start at once.
const TICKETS_PER_SERVER: usize = 4;
/// Servers whose tickets are kept, per source and set of expected identities.
const SERVERS: usize = 64;

/// A store without a reservation: an identity that called nobody costs nothing, which the one of rustls does not offer.
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
            // Any of them: which server is called next is not known, and a miss costs one full handshake.
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
