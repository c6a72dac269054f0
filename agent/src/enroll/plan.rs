//! Pure. Which workloads of this node to capture, and the steps from the current state.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh::model::identity::Identity;
use mesh::model::name::WorkloadUid;
use mesh::model::workload::{NetworkMode, Workload};

/// What is at the path of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// Not known yet.
    Unknown,
    /// There is none.
    Missing,
    /// The namespace with this device and inode.
    Is(u64, u64),
}

/// The parameters of a capture: if one changes, the workload is released and enrolled again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Path of the network namespace.
    pub(crate) netns: PathBuf,
    /// The namespace at the path: a path may be reused for another namespace.
    pub(crate) namespace: Namespace,
    /// The identity whose certificate is presented.
    pub(crate) identity: Identity,
    /// Addresses of the workload.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Place {
    /// Whether both are the same capture, as far as is known.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let known = |place: &Self| place.namespace != Namespace::Unknown;
        let same = !known(self) || !known(other) || self.namespace == other.namespace;
        same && self.netns == other.netns && self.identity == other.identity && self.addresses == other.addresses
    }
}

/// A step for one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Stop capturing new connections.
    Release(WorkloadUid),
    /// Start capturing.
    Enroll(WorkloadUid, Place),
}

/// The parameters to capture a workload with; `None` if it is not to be captured.
pub(crate) fn place_of(workload: &Workload, namespace_of: impl Fn(&Path) -> Namespace) -> Option<Place> {
    if !workload.is_enrolled() || workload.network_mode != NetworkMode::Standard {
        return None;
    }
    let netns = PathBuf::from(&**workload.netns.as_ref()?);
    let mut addresses = workload.addresses.to_vec();
    addresses.sort();
    Some(Place { namespace: namespace_of(&netns), netns, identity: workload.identity(), addresses })
}

/// The steps from `captured` to `wanted`; releases first, since a namespace may pass from one workload to another.
pub(crate) fn steps(wanted: &BTreeMap<WorkloadUid, Place>, captured: &BTreeMap<WorkloadUid, Place>) -> Vec<Step> {
    let same = |one: Option<&Place>, other: &Place| one.is_some_and(|one| one.is(other));
    let gone = captured.iter().filter(|(uid, place)| !same(wanted.get(*uid), place));
    let new = wanted.iter().filter(|(uid, place)| !same(captured.get(*uid), place));
    gone.map(|(uid, _)| Step::Release(uid.clone()))
        .chain(new.map(|(uid, place)| Step::Enroll(uid.clone(), place.clone())))
        .collect()
}

/// The workloads of this node to capture.
pub(crate) fn wanted<'a>(
    local: impl Iterator<Item = &'a Arc<Workload>>,
    namespace_of: impl Fn(&Path) -> Namespace,
) -> BTreeMap<WorkloadUid, Place> {
    local.filter_map(|workload| Some((workload.uid.clone(), place_of(workload, &namespace_of)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::model::workload::TunnelProtocol;

    fn pod(name: &str, netns: &str) -> Arc<Workload> {
        let address = "10.0.0.1".parse().unwrap();
        Arc::new(Workload { netns: Some(netns.into()), ..Workload::sample(name, "default", &[address]) })
    }

    fn plan(local: &[Arc<Workload>], inode: u64) -> BTreeMap<WorkloadUid, Place> {
        wanted(local.iter(), |_| Namespace::Is(0, inode))
    }

    #[test]
    fn an_enrolled_pod_with_a_namespace_is_captured_and_nothing_else() {
        let mut plain = (*pod("plain", "/ns/plain")).clone();
        plain.protocol = TunnelProtocol::None;
        let mut host = (*pod("host", "/ns/host")).clone();
        host.network_mode = NetworkMode::HostNetwork;
        let mut nowhere = (*pod("nowhere", "")).clone();
        nowhere.netns = None;
        let local = [pod("a", "/ns/a"), Arc::new(plain), Arc::new(host), Arc::new(nowhere)];
        let uids: Vec<_> = plan(&local, 1).into_keys().collect();
        assert_eq!(uids, ["Kubernetes//Pod/default/a".into()]);
    }

    #[test]
    fn nothing_to_do_is_no_step() {
        let now = plan(&[pod("a", "/ns/a")], 1);
        assert!(steps(&now, &now).is_empty());
    }

    #[test]
    fn a_namespace_made_anew_under_the_same_path_is_enrolled_anew() {
        let (before, after) = (plan(&[pod("a", "/ns/a")], 1), plan(&[pod("a", "/ns/a")], 2));
        let uid: WorkloadUid = "Kubernetes//Pod/default/a".into();
        assert_eq!(
            steps(&after, &before),
            [Step::Release(uid.clone()), Step::Enroll(uid.clone(), after[&uid].clone())]
        );
    }

    #[test]
    fn releases_come_before_enrolments() {
        let (before, after) = (plan(&[pod("b", "/ns/x")], 1), plan(&[pod("a", "/ns/x")], 1));
        let kinds: Vec<_> = steps(&after, &before).iter().map(|s| matches!(s, Step::Release(_))).collect();
        assert_eq!(kinds, [true, false]);
    }

    #[test]
    fn a_namespace_that_nobody_has_looked_at_is_no_other() {
        let known = plan(&[pod("a", "/ns/a")], 1);
        let unknown = wanted([pod("a", "/ns/a")].iter(), |_| Namespace::Unknown);
        assert!(steps(&unknown, &known).is_empty() && steps(&known, &unknown).is_empty());
        let missing = wanted([pod("a", "/ns/a")].iter(), |_| Namespace::Missing);
        assert_eq!(steps(&missing, &known).len(), 2);
    }
}
