//! Pure. The policies that guard ports behind waypoints, by target.

use std::collections::HashMap;

use crate::objects::inventory::Inventory;
use crate::objects::kind::{Guard, Item, ObjectKey, WAYPOINT_CLASSES};
use mesh::authority::attachment::{self, Reference, Target, Unattached};
use mesh::model::name::{Name, Namespace};

use super::options::Options;

/// The policies that guard ports behind waypoints: the first one of each target, as `Kind namespace/name`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Guards {
    mesh: Option<Name>,
    /// Services of a namespace, by MeshPolicies; as by waypoints, workloads behind Gateways of the namespace too.
    namespaces: HashMap<Namespace, Name>,
    /// A policy whose target cannot be read applies to every target that it may have.
    doubtful: HashMap<Namespace, Name>,
    classes: HashMap<Name, Name>,
    gateways: HashMap<ObjectKey, Name>,
    services: HashMap<ObjectKey, Name>,
}

impl Guards {
    /// Collects all policies that guard a target.
    pub(super) fn new(inventory: &Inventory, options: &Options) -> Self {
        let mut guards = Self::default();
        for item in inventory.policies.iter() {
            guards.add("AuthorizationPolicy", item, item.spec.guard.as_ref(), options);
        }
        for item in inventory.authentications.iter() {
            guards.add("RequestAuthentication", item, Some(&item.spec), options);
        }
        for item in inventory.mesh_policies.iter() {
            guards.add("MeshPolicy", item, Some(&item.spec), options);
        }
        guards
    }

    fn add<T>(&mut self, kind: &str, item: &Item<T>, guard: Option<&Guard>, options: &Options) {
        let Some(guard) = guard.filter(|guard| guard.active) else { return };
        let home = item.meta.namespace.as_str();
        let root = options.is_root(home);
        let who: Name = format!("{kind} {}", item.meta.key()).into();
        if guard.unreadable {
            match root {
                true => _ = self.mesh.get_or_insert(who.clone()),
                false => _ = self.doubtful.entry(item.meta.namespace.clone()).or_insert(who.clone()),
            }
        }
        let settings = kind == "MeshPolicy";
        if settings && !guard.has_targets() {
            self.place(attachment::without_targets(home, root), &who);
        }
        for target in &guard.targets {
            let reference = Reference {
                group: &target.group,
                kind: &target.kind,
                name: &target.name,
                namespace: target.namespace.as_deref(),
            };
            let of = if settings { attachment::of_settings } else { attachment::of_security };
            match of(home, root, reference) {
                Ok(target) => self.place(target, &who),
                Err(Unattached::Unknown) if !settings => {
                    for target in attachment::in_doubt(home, root, reference.name) {
                        self.place(target, &who);
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn place(&mut self, target: Target<'_>, who: &Name) {
        let key = |namespace: &str, name: &str| ObjectKey { namespace: namespace.into(), name: name.into() };
        let who = || who.clone();
        match target {
            Target::Mesh => _ = self.mesh.get_or_insert_with(who),
            Target::Namespace(namespace) => _ = self.namespaces.entry(namespace.into()).or_insert_with(who),
            Target::Class(class) => _ = self.classes.entry(class.into()).or_insert_with(who),
            Target::Gateway(namespace, name) => _ = self.gateways.entry(key(namespace, name)).or_insert_with(who),
            Target::Service(namespace, name) => _ = self.services.entry(key(namespace, name)).or_insert_with(who),
            // A route is a way that a client may take, not what stands in front of a port.
            Target::Route(..) => {}
        }
    }

    /// The policy that guards a service behind a Gateway.
    pub(super) fn of_service(&self, service: &ObjectKey, gateway: &ObjectKey, class: Option<&Name>) -> Option<&Name> {
        let own = self.services.get(service);
        let doubtful = || self.doubtful.get(&service.namespace);
        own.or_else(|| self.namespaces.get(&service.namespace))
            .or_else(doubtful)
            .or_else(|| self.of_gateway(gateway, class))
    }

    /// The policy that guards workloads behind a Gateway.
    pub(super) fn of_workload(&self, gateway: &ObjectKey, class: Option<&Name>) -> Option<&Name> {
        self.of_gateway(gateway, class).or_else(|| self.namespaces.get(&gateway.namespace))
    }

    fn of_gateway(&self, gateway: &ObjectKey, class: Option<&Name>) -> Option<&Name> {
        // Waypoints enforce what applies to one of their two classes whatever their own is.
        let ours = || WAYPOINT_CLASSES.iter().find_map(|class| self.classes.get(*class));
        let own = self.gateways.get(gateway).or_else(|| self.doubtful.get(&gateway.namespace));
        own.or_else(ours).or_else(|| self.classes.get(class?)).or(self.mesh.as_ref())
    }

    /// Whether workloads are guarded as by the other.
    pub(super) fn are_the_same_for_workloads(&self, other: &Self) -> bool {
        self.mesh == other.mesh
            && self.namespaces == other.namespaces
            && self.doubtful == other.doubtful
            && self.classes == other.classes
            && self.gateways == other.gateways
    }
}
