//! Pure. Problems for objects that would change another namespace's pod, each with both objects and the rule.

use std::collections::BTreeSet;

use crate::objects::inventory::Inventory;
use crate::objects::kind::{Item, ObjectKey, Pod};
use crate::objects::origin::Origin;
use crate::objects::problem::{Problem, Severity};

use super::context::Context;
use super::options::Options;
use super::service::{Written, WrittenIn};

impl Context {
    /// Gateways at an address of another namespace, and endpoints that are another namespace's pod, where they would
    /// change something about it.
    pub fn trespasses(&self, inventory: &Inventory, options: &Options) -> Vec<Problem> {
        let gateways = self.waypoints.over_the_line().filter_map(|(key, why)| {
            let item = inventory.gateways.get(&key.namespace, &key.name)?;
            let message = format!("has no instances: {why}");
            let problem = Problem::of(&item.at, format!("Gateway {key}"), Severity::Error, message);
            Some(problem.field("status.addresses"))
        });
        let endpoints = self.services.written.iter().filter_map(|written| {
            let named = written.pod().and_then(|(namespace, name)| inventory.pods.get(namespace, name));
            let pod = named.or_else(|| inventory.owner(written.address))?;
            let message = self.without_effect(written, pod, options)?;
            Some(written.problem(message))
        });
        let all: BTreeSet<Problem> = gateways.chain(endpoints).collect();
        all.into_iter().collect()
    }

    /// The change that an endpoint may not make to a pod of another namespace.
    fn without_effect(&self, written: &Written, pod: &Item<Pod>, options: &Options) -> Option<String> {
        let home = &pod.meta.namespace;
        if options.speaks_for(&written.namespace, home) {
            return None;
        }
        let key = &self.services.groups[written.group].service;
        let service = self.services.published.get(key);
        let own = self.waypoint_of(pod, options);
        let what = if let Some(gateway) = self.waypoints.gateways_of(key).next() {
            format!("the pod does not become an instance of a waypoint of namespace {gateway}")
        } else if let Some(waypoint) = service.and_then(|service| service.waypoint.as_deref()) {
            format!("the pod does not stand behind waypoint {}/{}", waypoint.namespace, waypoint.name)
        } else if let Some(waypoint) = own.map(|found| found.waypoint) {
            format!("the pod stays behind waypoint {}/{}", waypoint.namespace, waypoint.name)
        } else {
            return None;
        };
        let pod = pod.meta.key();
        Some(format!(
            "is Pod {pod}, to which it gives traffic and about which it changes nothing: {what}; only namespace {home} or a \
             root namespace may"
        ))
    }
}

impl Written {
    fn problem(&self, message: String) -> Problem {
        let of = |at: &Origin, kind: &str, key: ObjectKey, field: String| {
            Problem::of(at, format!("{kind} {key}"), Severity::Warning, message).field(field)
        };
        match &self.origin {
            WrittenIn::Slice { slice, index } => {
                of(&slice.at, "EndpointSlice", slice.meta.key(), format!("endpoints[{index}]"))
            }
            WrittenIn::Entry { entry, index } => {
                of(&entry.at, "ServiceEntry", entry.meta.key(), format!("spec.endpoints[{index}]"))
            }
        }
    }
}
