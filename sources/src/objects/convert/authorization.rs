//! Pure. AuthorizationPolicy -> Authorization, and the workloads that it applies to.

use crate::objects::kind::{AuthorizationPolicy, Effect, Item};
use mesh::model::policy::{Authorization, PolicyKey, Scope};

use super::options::Options;

/// The policy of the model; `None` when it is not for agents.
pub(super) fn authorization(item: &Item<AuthorizationPolicy>, options: &Options) -> Option<Authorization> {
    let Effect::Judged { action, rules, dry_run } = &item.spec.effect else { return None };
    let scope = match (item.spec.selector.is_empty(), options.is_root(&item.meta.namespace)) {
        (false, _) => Scope::WorkloadSelector,
        (true, true) => Scope::Global,
        (true, false) => Scope::Namespace,
    };
    Some(Authorization {
        key: PolicyKey { namespace: item.meta.namespace.clone(), name: item.meta.name.clone() },
        scope,
        action: *action,
        rules: rules.clone(),
        dry_run: *dry_run,
    })
}
