//! Pure. Compares two versions of the model's parts and returns the updates between them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh::model::name::WorkloadUid;
use mesh::model::policy::{Authorization, PolicyKey};
use mesh::model::reserved::Reserved;
use mesh::model::service::{Service, ServiceKey};
use mesh::model::update::Update;
use mesh::model::workload::Workload;

/// A kind of thing that is published.
pub(super) trait Published: PartialEq + Clone {
    /// Its key.
    type Key: Ord + Clone;

    /// The update for a new or changed value.
    fn changed(self) -> Update;

    /// The update for a removed value.
    fn gone(key: Self::Key) -> Update;
}

impl Published for Workload {
    type Key = WorkloadUid;

    fn changed(self) -> Update {
        Update::Workload(Box::new(self))
    }

    fn gone(key: WorkloadUid) -> Update {
        Update::WorkloadGone(key)
    }
}

impl Published for Service {
    type Key = ServiceKey;

    fn changed(self) -> Update {
        Update::Service(Box::new(self))
    }

    fn gone(key: ServiceKey) -> Update {
        Update::ServiceGone(key)
    }
}

impl Published for Authorization {
    type Key = PolicyKey;

    fn changed(self) -> Update {
        Update::Authorization(Box::new(self))
    }

    fn gone(key: PolicyKey) -> Update {
        Update::AuthorizationGone(key)
    }
}

impl Published for Reserved {
    type Key = IpAddr;

    fn changed(self) -> Update {
        Update::Reserved(Box::new(self))
    }

    fn gone(address: IpAddr) -> Update {
        Update::ReservedGone(address)
    }
}

/// The updates from one version of a workload to the next.
pub(super) fn workload(before: Option<Workload>, after: Option<Workload>) -> Option<Update> {
    match (before, after) {
        (Some(before), Some(after)) => (before != after).then(|| after.changed()),
        (Some(before), None) => Some(Workload::gone(before.uid)),
        (None, Some(after)) => Some(after.changed()),
        (None, None) => None,
    }
}

/// The updates from one set of values to the next.
pub(super) fn maps<T: Published>(before: &BTreeMap<T::Key, T>, after: &BTreeMap<T::Key, T>, updates: &mut Vec<Update>) {
    updates.extend(before.keys().filter(|key| !after.contains_key(key)).map(|key| T::gone(key.clone())));
    let changed = after.iter().filter(|(key, value)| before.get(key) != Some(value));
    updates.extend(changed.map(|(_, value)| value.clone().changed()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(specs: &[(&str, u16)]) -> BTreeMap<ServiceKey, Service> {
        let of = |&(name, port): &(&str, u16)| Service::sample(name, "default", &[], &[(port, port)]);
        specs.iter().map(of).map(|service| (service.key.clone(), service)).collect()
    }

    #[test]
    fn only_what_differs_is_published() {
        let before = services(&[("a", 1), ("b", 2), ("c", 3)]);
        let after = services(&[("b", 2), ("c", 4), ("d", 5)]);
        let mut updates = Vec::new();
        maps(&before, &after, &mut updates);
        let names: Vec<String> = updates
            .iter()
            .map(|update| match update {
                Update::Service(service) => format!("+{}", service.name),
                Update::ServiceGone(key) => format!("-{}", key.hostname),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["-a.default.svc.cluster.local", "+c", "+d"]);
    }

    #[test]
    fn a_workload_is_published_when_it_is_new_different_or_gone() {
        let one = Workload::sample("a", "default", &["10.0.0.1".parse().unwrap()]);
        let two = Workload::sample("a", "default", &["10.0.0.2".parse().unwrap()]);
        assert_eq!(workload(None, None), None);
        assert_eq!(workload(Some(one.clone()), Some(one.clone())), None);
        assert_eq!(workload(None, Some(one.clone())), Some(Update::Workload(Box::new(one.clone()))));
        assert_eq!(workload(Some(one.clone()), Some(two.clone())), Some(Update::Workload(Box::new(two))));
        assert_eq!(workload(Some(one.clone()), None), Some(Update::WorkloadGone(one.uid)));
    }
}
