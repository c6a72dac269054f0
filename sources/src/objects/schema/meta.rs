//! Pure. What every object has: `apiVersion`, `kind` and `metadata`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::value::Timestamp;

/// `metadata` (`meta/v1` ObjectMeta).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) creation_timestamp: Option<Timestamp>,
    pub(crate) deletion_timestamp: Option<String>,
    pub(crate) owner_references: Vec<OwnerReference>,
}

/// One entry of `metadata.ownerReferences`.
#[derive(Debug, Deserialize)]
pub(crate) struct OwnerReference {
    pub(crate) kind: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) controller: bool,
}

/// One entry of `status.conditions`.
#[derive(Debug, Deserialize)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
}

/// An object of which only the envelope matters (Namespace, and the kinds that are only kept).
#[derive(Debug, Deserialize)]
pub(crate) struct Bare {
    #[serde(default)]
    pub(crate) metadata: Metadata,
}

/// An object with a required `spec` and a `status`.
#[derive(Debug, Deserialize)]
pub(crate) struct Full<Spec, Status> {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    pub(crate) spec: Spec,
    #[serde(default = "none")]
    pub(crate) status: Option<Status>,
}

/// An object whose `spec` may be left out.
#[derive(Debug, Deserialize)]
pub(crate) struct Lenient<Spec> {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default = "none")]
    pub(crate) spec: Option<Spec>,
}

fn none<T>() -> Option<T> {
    None
}
