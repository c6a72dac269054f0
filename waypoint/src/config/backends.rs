//! Pure. Compiles `backendRefs`: references with weights and filters.

use super::filters;
use super::reference::Resolver;
use super::schema::route::BackendRef;
use super::status::Findings;
use crate::route::{Backend, BackendTarget};

/// Most of a weight (Gateway API).
const MAX_WEIGHT: u32 = 1_000_000;

impl Resolver<'_> {
    /// The backends of a rule.
    pub fn backends(&self, references: &[BackendRef], findings: &mut Findings) -> Box<[Backend]> {
        references.iter().map(|reference| self.backend(reference, findings)).collect()
    }

    fn backend(&self, reference: &BackendRef, findings: &mut Findings) -> Backend {
        let mut target = self.target(reference, findings);
        let filters = filters::compile(&reference.filters, self, findings);
        if let Some(failure) = filters.failure {
            target = BackendTarget::Invalid(failure.into());
        }
        let weight = reference.weight.unwrap_or(1);
        if weight > MAX_WEIGHT {
            findings.reject("UnsupportedValue", format!("weight {weight} is above {MAX_WEIGHT}"));
        }
        Backend {
            target,
            weight,
            request_headers: filters.request_headers,
            response_headers: filters.response_headers,
            rewrite: filters.rewrite,
            redirect: filters.redirect,
            mirrors: filters.mirrors.into(),
        }
    }
}
