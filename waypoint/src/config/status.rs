//! Pure. Status conditions, in the shape of the Gateway API's `status`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::object::Object;

/// `status.parents[].controllerName` of ours.
pub const CONTROLLER: &str = "culvert.dev/waypoint";

/// Why a reference is refused: reason and message.
pub type Rejection = (&'static str, String);

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs` or `PartiallyInvalid`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
    /// One of the Gateway API's reasons.
    pub reason: &'static str,
    /// What is wrong, in words.
    pub message: String,
    /// `metadata.generation` that was looked at.
    pub observed_generation: i64,
}

/// What became of one parent reference of a route, or one target of a policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The reference, as written.
    #[serde(rename = "parentRef")]
    pub reference: Value,
    /// Who says so.
    pub controller_name: &'static str,
    /// What is said.
    pub conditions: Vec<Condition>,
}

/// The status of one object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// Its kind.
    pub kind: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it was read.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub origin: Arc<str>,
    /// One entry per reference.
    pub parents: Vec<ParentStatus>,
}

/// What was found out about a route or policy as a whole; becomes conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why it is not accepted: reason and message.
    pub rejected: Option<Rejection>,
    /// References that do not resolve: reason and message.
    pub unresolved: Vec<Rejection>,
    /// Rules that were dropped, and other things that a user should know.
    pub dropped: Vec<String>,
    /// What is accepted but has no effect.
    pub notes: Vec<String>,
}

impl Findings {
    /// Rejects with the first reason given.
    pub fn reject(&mut self, reason: &'static str, message: impl Into<String>) {
        self.rejected.get_or_insert_with(|| (reason, message.into()));
    }

    /// The conditions of one reference of `object`, which may have been rejected for reasons of its own.
    pub fn conditions(&self, object: &Object, rejected: Option<Rejection>) -> Vec<Condition> {
        let condition = |kind, good: bool, reason, message| Condition {
            kind,
            status: if good { "True" } else { "False" },
            reason,
            message,
            observed_generation: object.generation,
        };
        let mut conditions = match rejected.or_else(|| self.rejected.clone()) {
            Some((reason, message)) => vec![condition("Accepted", false, reason, message)],
            None => vec![condition("Accepted", true, "Accepted", self.notes.join("; "))],
        };
        conditions.push(match self.unresolved.split_first() {
            None => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
            Some(((reason, _), _)) => {
                let messages: Vec<&str> = self.unresolved.iter().map(|(_, message)| message.as_str()).collect();
                condition("ResolvedRefs", false, reason, messages.join("; "))
            }
        });
        if !self.dropped.is_empty() {
            let message = format!("Dropped Rule: {}", self.dropped.join("; "));
            conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", message));
        }
        conditions
    }
}

impl ObjectStatus {
    /// A status of `object` with these parents.
    pub fn new(object: &Object, parents: Vec<ParentStatus>) -> Self {
        Self {
            kind: Arc::clone(&object.kind),
            namespace: Arc::clone(&object.namespace),
            name: Arc::clone(&object.name),
            origin: Arc::clone(&object.origin),
            parents,
        }
    }

    /// A status with one parent.
    pub fn of(object: &Object, reference: Value, conditions: Vec<Condition>) -> Self {
        Self::new(object, vec![ParentStatus { reference, controller_name: CONTROLLER, conditions }])
    }

    /// Whether every reference is accepted, resolved and whole.
    pub fn is_good(&self) -> bool {
        self.conditions().all(|condition| (condition.status == "True") != (condition.kind == "PartiallyInvalid"))
    }

    /// Every condition of every reference.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.parents.iter().flat_map(|parent| &parent.conditions)
    }
}
