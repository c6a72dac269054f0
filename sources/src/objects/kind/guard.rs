//! Pure. The part of a waypoint's policies that agents need: which targets they guard.
//!
//! Only waypoints read their rules for requests. A policy that cannot be read guards its targets too, because it was
//! written to restrict access.

use crate::objects::node::{Node, Value};
use mesh::model::name::Name;

use super::meta::Reader;

/// The targets that a policy guards at a waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Whether it guards at all: a MeshPolicy without a rate limit does not.
    pub active: bool,
    /// `targetRefs`, and `targetRef`.
    pub targets: Box<[TargetRef]>,
    /// Whether some target could not be read: then it stands for everything that the policy may apply to.
    pub unreadable: bool,
}

/// One entry of `targetRefs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRef {
    /// `group`.
    pub group: Name,
    /// `kind`.
    pub kind: Name,
    /// `name`.
    pub name: Name,
    /// `namespace`, if one is given.
    pub namespace: Option<Name>,
}

impl Guard {
    /// The targets of a security policy.
    pub(super) fn security(node: &Node, reader: &mut Reader<'_>) -> Self {
        Self { active: true, ..Self::targets(node, reader) }
    }

    /// The targets of a MeshPolicy: it guards them if it has a rate limit.
    pub(super) fn mesh_policy(node: &Node, reader: &mut Reader<'_>) -> Self {
        let limit = node.get("spec").and_then(|spec| spec.get("rateLimit"));
        let active = limit.is_some_and(|limit| limit.value != Value::Null);
        Self { active, ..Self::targets(node, reader) }
    }

    /// The targets of a policy that cannot be read, as far as they are known.
    pub(super) fn in_doubt(self, node: &Node) -> Self {
        let unknown = !matches!(node.get("spec").map(|spec| &spec.value), Some(Value::Map(_)));
        Self { active: self.active || unknown, unreadable: self.unreadable || unknown, ..self }
    }

    /// Whether it has any targets.
    pub fn has_targets(&self) -> bool {
        self.unreadable || !self.targets.is_empty()
    }

    fn targets(node: &Node, reader: &mut Reader<'_>) -> Self {
        let spec = node.get("spec");
        let entry = |key| spec.and_then(|spec| spec.get(key)).filter(|node| node.value != Value::Null);
        let mut found = Vec::new();
        let mut unreadable = false;
        let mut read = |node: &Node| match target(node, reader) {
            Some(target) => found.push(target),
            None => unreadable = true,
        };
        match entry("targetRefs").map(|node| &node.value) {
            Some(Value::List(items)) => items.iter().for_each(&mut read),
            Some(_) => read(&Node { line: 0, value: Value::Null }),
            None => {}
        }
        entry("targetRef").into_iter().for_each(&mut read);
        Self { active: false, targets: found.into(), unreadable }
    }
}

fn target(node: &Node, reader: &mut Reader<'_>) -> Option<TargetRef> {
    let text = |key| match node.get(key).map(|node| &node.value) {
        None | Some(Value::Null) => Some(None),
        Some(Value::Text(text)) => Some(Some(text.as_str())),
        Some(_) => None,
    };
    let (group, name, namespace) =
        (text("group")?.unwrap_or_default(), text("name")?.unwrap_or_default(), text("namespace")?);
    let kind = text("kind")??;
    Some(TargetRef {
        group: reader.name(group),
        kind: reader.name(kind),
        name: reader.name(name),
        namespace: namespace.map(|namespace| reader.name(namespace)),
    })
}
