//! Pure. Resolves a backend reference to a service and a port.

use std::sync::Arc;

use super::schema::route::BackendRef;
use super::services::{Services, has_port};
use super::status::Findings;
use crate::route::BackendTarget;

/// Resolves the references of one route.
pub struct Resolver<'a> {
    /// Where references lead.
    pub services: &'a Services,
    /// The namespace of references that name none.
    pub namespace: &'a str,
}

impl Resolver<'_> {
    /// Where a reference leads; reported when nowhere. Within a mesh no ReferenceGrant is asked for (GEP-1294).
    pub fn target(&self, reference: &BackendRef, findings: &mut Findings) -> BackendTarget {
        let namespace = reference.namespace.as_deref().unwrap_or(self.namespace);
        let kind = (reference.group.as_deref().unwrap_or(""), reference.kind.as_deref().unwrap_or("Service"));
        let mut invalid = |reason, message: String| {
            findings.unresolved.push((reason, message.clone()));
            BackendTarget::Invalid(Arc::from(message))
        };
        if kind != ("", "Service") {
            let group = if kind.0.is_empty() { "core" } else { kind.0 };
            return invalid("InvalidKind", format!("backend kind {group}/{} is not supported", kind.1));
        }
        let Some(service) = self.services.get(namespace, &reference.name) else {
            return invalid("BackendNotFound", format!("there is no Service {namespace}/{}", reference.name));
        };
        match reference.port {
            Some(port) if has_port(service, port) => BackendTarget::Service(service.key.clone(), port),
            Some(port) => {
                invalid("BackendNotFound", format!("Service {namespace}/{} has no port {port}", reference.name))
            }
            None => invalid("BackendNotFound", format!("backend Service {namespace}/{} names no port", reference.name)),
        }
    }
}
