//! Pure. PeerAuthentication.

use crate::objects::problem::Severity;
use crate::objects::schema::meta::Lenient;
use crate::objects::schema::policy as schema;

use super::item::Item;
use super::meta::{Labels, Meta, Reader};

/// A PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Labels of the workloads in its namespace that it applies to; empty for all.
    pub selector: Labels,
    /// The mTLS mode; `None` (UNSET) inherits it from the level above.
    pub mode: Option<PeerMode>,
    /// Ports of the workload with a mode of their own, ascending.
    pub ports: Box<[(u16, PeerMode)]>,
}

/// The mTLS mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMode {
    /// PERMISSIVE: plaintext is admitted.
    Permissive,
    /// STRICT: peers have to prove an identity.
    Strict,
}

impl PeerAuthentication {
    pub(super) fn read(raw: Lenient<schema::PeerAuthenticationSpec>, reader: &mut Reader<'_>) -> Item<Self> {
        let meta = reader.meta(&raw.metadata, true);
        let spec = raw.spec.unwrap_or_default();
        let selector = Labels::new(&spec.selector.unwrap_or_default().match_labels, reader.shared);
        let mode = read_mode(spec.mtls.mode, "spec.mtls.mode", reader);
        let mut ports: Vec<(u16, PeerMode)> = Vec::new();
        for (port, mtls) in spec.port_level_mtls {
            let field = format!("spec.portLevelMtls[{}].mode", port.0);
            ports.extend(read_mode(mtls.mode, &field, reader).map(|mode| (port.0, mode)));
        }
        if selector.is_empty() && !ports.is_empty() {
            // Istio refuses such an object. Ports that are stricter are kept, ports that are laxer are not.
            ports.retain(|&(_, mode)| mode == PeerMode::Strict);
            let message = "needs a selector; only ports that are STRICT are taken from it";
            reader.note(Severity::Warning, "spec.portLevelMtls", message);
        }
        Item::new(reader.at.clone(), meta, Self { selector, mode, ports: ports.into() })
    }

    /// The substitute for an object that cannot be read: STRICT.
    pub(super) fn stand_in(meta: Meta, selector: Labels, reader: &Reader<'_>) -> Item<Self> {
        let spec = Self { selector, mode: Some(PeerMode::Strict), ports: Box::default() };
        Item::new(reader.at.clone(), meta, spec)
    }
}

fn read_mode(mode: schema::Mode, field: &str, reader: &mut Reader<'_>) -> Option<PeerMode> {
    match mode {
        schema::Mode::Unset => None,
        schema::Mode::Permissive => Some(PeerMode::Permissive),
        schema::Mode::Strict => Some(PeerMode::Strict),
        schema::Mode::Disable => {
            let message = "DISABLE is the same as PERMISSIVE here: peers of the mesh keep using mTLS";
            reader.note(Severity::Warning, field, message);
            Some(PeerMode::Permissive)
        }
    }
}
