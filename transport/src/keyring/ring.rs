//! The keyring's interface: answers from memory or waits for the first issue.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::entry::{Keys, Known, Listed};
use super::shared::{Entry, Inner, Shared};
use super::worker;
use crate::ca::Issuer;
use crate::tls::{Certificate, ClientConfig, ServerConfig, TlsError};
use mesh::model::identity::Identity;

/// Why an identity has no certificate.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// No workload of this node has the identity.
    #[error("no workload on this node has the identity {0}")]
    Unknown(Identity),
    /// The first certificate was not issued in time.
    #[error("no certificate for {identity} yet: {why}")]
    NotYet {
        /// The identity.
        identity: Identity,
        /// The last failure.
        why: String,
    },
    /// The last certificate has expired and could not be renewed.
    #[error("the certificate of {identity} has expired: {why}")]
    Expired {
        /// The identity.
        identity: Identity,
        /// The last failure.
        why: String,
    },
    /// The certificate cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Settings of a keyring.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a connection waits for the first certificate.
    pub patience: Duration,
    /// Timeout of one request to the CA.
    pub issue_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { patience: Duration::from_secs(5), issue_timeout: Duration::from_secs(10) }
    }
}

/// The live certificates of the identities in use on this node.
pub struct Keyring {
    shared: Arc<Shared>,
    options: Options,
    worker: AbortHandle,
}

impl Keyring {
    /// An empty keyring; its worker runs on the current runtime until the keyring is dropped.
    pub fn new(issuer: Arc<dyn Issuer>, options: Options) -> Arc<Self> {
        let shared = Arc::new(Shared::default());
        let worker = tokio::spawn(worker::run(Arc::clone(&shared), issuer, options.issue_timeout)).abort_handle();
        Arc::new(Self { shared, options, worker })
    }

    /// Registers a workload with this identity: its certificate is issued and kept fresh. Each call needs one `forget`.
    pub fn want(&self, identity: Identity) {
        let mut inner = self.shared.inner.lock();
        let Inner { entries, schedule } = &mut *inner;
        schedule.want(&identity, Instant::now().into_std());
        entries.entry(identity).or_default().wanted += 1;
        self.shared.changed.notify_one();
    }

    /// Deregisters a workload with this identity; with the last one the key is dropped.
    pub fn forget(&self, identity: &Identity) {
        let mut inner = self.shared.inner.lock();
        let Inner { entries, schedule } = &mut *inner;
        let Some(entry) = entries.get_mut(identity) else { return };
        entry.wanted -= 1;
        if entry.wanted == 0 {
            entries.remove(identity);
            schedule.forget(identity);
        }
    }

    /// The certificate of a registered identity; waits a bounded time for the first one.
    pub async fn certificate(&self, identity: &Identity) -> Result<Arc<Certificate>, KeyringError> {
        Ok(Arc::clone(&self.keys(identity).await?.certificate))
    }

    /// The server configuration of this identity, built once per certificate.
    pub async fn server_config(&self, identity: &Identity) -> Result<Arc<ServerConfig>, KeyringError> {
        Ok(self.keys(identity).await?.server()?)
    }

    /// The client configuration of this identity, built once per certificate.
    pub async fn client_config(&self, identity: &Identity) -> Result<Arc<ClientConfig>, KeyringError> {
        Ok(self.keys(identity).await?.client())
    }

    /// Every registered identity, sorted by name.
    pub fn list(&self) -> Vec<Listed> {
        let mut list: Vec<Listed> = {
            let inner = self.shared.inner.lock();
            let listed = |(identity, entry): (&Identity, &Entry)| {
                let known = entry.known.borrow();
                Listed {
                    identity: identity.clone(),
                    certificate: known.keys.as_ref().map(|keys| Arc::clone(&keys.certificate)),
                    failure: known.failure.clone(),
                }
            };
            inner.entries.iter().map(listed).collect()
        };
        list.sort_by(|a, b| a.identity.cmp(&b.identity));
        list
    }

    async fn keys(&self, identity: &Identity) -> Result<Arc<Keys>, KeyringError> {
        let mut known = {
            let mut inner = self.shared.inner.lock();
            let Inner { entries, schedule } = &mut *inner;
            let entry = entries.get(identity).ok_or_else(|| KeyringError::Unknown(identity.clone()))?;
            if let Some(keys) = &entry.known.borrow().keys {
                return usable(identity, keys, &entry.known.borrow());
            }
            schedule.hurry(identity);
            entry.known.subscribe()
        };
        self.shared.changed.notify_one();
        let deadline = Instant::now() + self.options.patience;
        let came = timeout_at(deadline, known.wait_for(|known| known.keys.is_some())).await;
        match &came {
            Ok(Ok(now)) => match &now.keys {
                Some(keys) => usable(identity, keys, now),
                None => Err(KeyringError::Unknown(identity.clone())),
            },
            // The sender is gone: the identity was forgotten meanwhile.
            Ok(Err(_)) => Err(KeyringError::Unknown(identity.clone())),
            Err(_) => {
                drop(came);
                let why = known.borrow().failure.as_deref().unwrap_or("the CA has not answered").to_owned();
                Err(KeyringError::NotYet { identity: identity.clone(), why })
            }
        }
    }
}

fn usable(identity: &Identity, keys: &Arc<Keys>, known: &Known) -> Result<Arc<Keys>, KeyringError> {
    if keys.expired(SystemTime::now()) {
        let why = known.failure.as_deref().unwrap_or("its renewal has not come").to_owned();
        return Err(KeyringError::Expired { identity: identity.clone(), why });
    }
    Ok(Arc::clone(keys))
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({})", self.shared.inner.lock().entries.len())
    }
}
