//! The state of one identity: its certificate, the TLS configurations built from it, the last failure.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::tls::{Certificate, ClientConfig, ServerConfig, TlsError};
use mesh::model::identity::Identity;

/// A certificate and the TLS configurations built from it once.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) certificate: Arc<Certificate>,
    server: OnceLock<Arc<ServerConfig>>,
    client: OnceLock<Arc<ClientConfig>>,
}

impl Keys {
    pub(crate) fn new(certificate: Certificate) -> Self {
        Self { certificate: Arc::new(certificate), server: OnceLock::new(), client: OnceLock::new() }
    }

    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        if let Some(made) = self.server.get() {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(ServerConfig::new(&self.certificate)?);
        // Two callers may have built one at the same time: all use the first, or one's tickets could not be decrypted
        // by the other.
        Ok(Arc::clone(self.server.get_or_init(|| made)))
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(self.client.get_or_init(|| Arc::new(ClientConfig::new(&self.certificate))))
    }

    pub(crate) fn expired(&self, now: SystemTime) -> bool {
        self.certificate.not_after() < now
    }
}

/// What waiting connections watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The newest certificate; kept when its renewal fails.
    pub(crate) keys: Option<Arc<Keys>>,
    /// Why the last attempt failed; `None` after a success.
    pub(crate) failure: Option<Arc<str>>,
}

/// An entry of the list of certificates.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The identity.
    pub identity: Identity,
    /// The newest certificate, if any.
    pub certificate: Option<Arc<Certificate>>,
    /// Why the last issue or renewal failed.
    pub failure: Option<Arc<str>>,
}

impl Listed {
    /// `Available`, `Initializing` or `Unavailable: …`, as `istioctl ztunnel-config certificate` prints it.
    pub fn state(&self, now: SystemTime) -> String {
        match (&self.certificate, &self.failure) {
            (Some(certificate), _) if now <= certificate.not_after() => "Available".to_owned(),
            (_, Some(failure)) => format!("Unavailable: {failure}"),
            (Some(_), None) => "Unavailable: the certificate has expired".to_owned(),
            (None, None) => "Initializing".to_owned(),
        }
    }
}
