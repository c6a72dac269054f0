//! Kubernetes objects as they are written: only the fields we read, and nothing checked beyond their types.
//!
//! Unknown fields are ignored, except in policies, where a misspelt field would widen access.

pub(super) mod policy; // security.istio.io
pub(super) mod gateway; // gateway.networking.k8s.io
pub(super) mod service; // Service, EndpointSlice, ServiceEntry
pub(super) mod pod; // Pod
pub(super) mod meta; // metadata and the envelope of every object
pub(super) mod value; // values with a form: ports, ranges, patterns, times
