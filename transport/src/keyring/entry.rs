//! What is known of one identity: its certificate, the configurations made from it, the last failure.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::tls::{Certificate, ClientConfig, ServerConfig, TlsError};
use mesh::model::identity::Identity;

/// A certificate and what is made from it once.
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
        // Two may have made it at once: all use the first, or tickets of one could not be read by the other.
        Ok(Arc::clone(self.server.get_or_init(|| made)))
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(self.client.get_or_init(|| Arc::new(ClientConfig::new(&self.certificate))))
    }

    pub(crate) fn expired(&self, now: SystemTime) -> bool {
        self.certificate.not_after() < now
    }
}

/// What a waiting connection looks at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The newest certificate, kept when its renewal fails.
    pub(crate) keys: Option<Arc<Keys>>,
    /// Why the last attempt failed; `None` after a success.
    pub(crate) failure: Option<Arc<str>>,
}

/// One line of the list of certificates.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Whose certificate.
    pub identity: Identity,
    /// The newest certificate, if there is one.
    pub certificate: Option<Arc<Certificate>>,
    /// Why the last attempt to get or renew it failed.
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
