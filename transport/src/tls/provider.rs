//! The crypto provider, protocol versions and cipher suites of all TLS connections.

use std::sync::{Arc, OnceLock};

use rustls::SupportedProtocolVersion;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};

/// TLS 1.3 only: a peer that cannot speak it is not part of a mesh.
pub(crate) static VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The only application protocol inside mesh TLS (RFC 9113, section 3.2).
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// aws-lc-rs with AES-256-GCM before AES-128-GCM and its default key exchange groups. No ChaCha20: every peer that we
/// meet has AES in hardware, and the order is part of the wire format that we share with ztunnel.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256],
            ..aws_lc_rs::default_provider()
        })
    }))
}

/// The signature algorithms that certificates may use.
pub(crate) fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}
