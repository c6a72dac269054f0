//! The capture state of each workload, for the admin server.

use std::collections::BTreeMap;
use std::path::Path;

use crate::view::{CaptureState, CaptureView};
use mesh::model::name::WorkloadUid;
use mesh::model::policy::{PlaintextRules, PlaintextVerdict};
use mesh::model::workload::Workload;
use parking_lot::Mutex;
use sources::objects::origin::Origin;
use sources::objects::problem::{Problem, Severity};

use crate::pod::workload::Pod;

/// The workloads that are, or should be, captured. Written by the reconciler, read by the admin server.
#[derive(Default)]
pub(crate) struct Captures {
    views: Mutex<BTreeMap<WorkloadUid, CaptureView>>,
}

impl Captures {
    /// Records that a workload is captured with these plaintext rules.
    pub(crate) fn captured(&self, pod: &Pod, workload: &Workload, netns: &Path, rules: &PlaintextRules) {
        let view = CaptureView {
            id: Some(pod.id),
            netns_cookie: Some(pod.netns.cookie()),
            plaintext: Some(verdict(rules.default).to_owned()),
            plaintext_ports: rules.ports.iter().map(|(port, v)| format!("{port}={}", verdict(*v))).collect(),
            ..view(workload, netns, CaptureState::Captured)
        };
        self.views.lock().insert(pod.uid.clone(), view);
    }

    /// Records that capturing a workload failed. If `closed`, it neither accepts nor opens new connections.
    pub(crate) fn failed(&self, workload: &Workload, netns: &Path, error: &str, closed: bool) {
        let state = if closed { CaptureState::Closed } else { CaptureState::Failed };
        let view = CaptureView { error: Some(error.to_owned()), ..view(workload, netns, state) };
        self.views.lock().insert(workload.uid.clone(), view);
    }

    /// Records that a workload is being captured.
    pub(crate) fn pending(&self, workload: &Workload, netns: &Path, why: &str) {
        let view = CaptureView { error: Some(why.to_owned()), ..view(workload, netns, CaptureState::Pending) };
        self.views.lock().insert(workload.uid.clone(), view);
    }

    /// Sets or clears the problem of a captured workload, and whether it closes the workload.
    pub(crate) fn note(&self, uid: &WorkloadUid, note: Option<&str>, closed: bool) {
        if let Some(view) = self.views.lock().get_mut(uid)
            && matches!(view.state, CaptureState::Captured | CaptureState::Closed)
        {
            view.state = if closed { CaptureState::Closed } else { CaptureState::Captured };
            view.error = note.map(str::to_owned);
        }
    }

    /// Records that new connections are no longer captured while captured ones are still open.
    pub(crate) fn releasing(&self, uid: &WorkloadUid) {
        if let Some(view) = self.views.lock().get_mut(uid) {
            view.state = CaptureState::Releasing;
        }
    }

    /// Removes a workload.
    pub(crate) fn remove(&self, uid: &WorkloadUid) {
        self.views.lock().remove(uid);
    }

    /// All workloads, sorted by uid.
    pub(crate) fn list(&self) -> Vec<CaptureView> {
        self.views.lock().values().cloned().collect()
    }
}

/// What is wrong with pods that should be captured and are not: a network namespace that another has, for one. Who
/// wrote the Pod finds it among the problems of its manifests.
pub(crate) fn problems(captures: &[CaptureView], directory: &Path) -> Vec<Problem> {
    let at = Origin::line_of(&directory.into(), 0);
    let failed = captures.iter().filter(|view| matches!(view.state, CaptureState::Failed | CaptureState::Closed));
    let problem = |view: &CaptureView| {
        let what = if view.state == CaptureState::Closed { "closed" } else { "not captured" };
        let message = format!("{what}: {}", view.error.as_ref()?);
        Some(Problem::of(&at, format!("Pod {}/{}", view.namespace, view.name), Severity::Error, message))
    };
    failed.filter_map(problem).collect()
}

fn view(workload: &Workload, netns: &Path, state: CaptureState) -> CaptureView {
    CaptureView {
        workload_uid: workload.uid.to_string(),
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        identity: workload.identity().to_string(),
        netns: netns.display().to_string(),
        id: None,
        netns_cookie: None,
        state,
        plaintext: None,
        plaintext_ports: Vec::new(),
        error: None,
    }
}

fn verdict(verdict: PlaintextVerdict) -> &'static str {
    match verdict {
        PlaintextVerdict::Pass => "pass",
        PlaintextVerdict::Refuse => "refuse",
        PlaintextVerdict::Proxy => "proxy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_not_captured_is_a_problem_that_names_it_and_why() {
        let captures = Captures::default();
        let pod = |name: &str| Workload::sample(name, "default", &["10.0.0.1".parse().unwrap()]);
        let netns = Path::new("/run/netns/x");
        let why = "network namespace /run/netns/x belongs to default/first, not to default/second";
        captures.failed(&pod("second"), netns, why, false);
        captures.failed(&pod("third"), netns, "it cannot be served", true);
        captures.pending(&pod("fourth"), netns, "not yet");
        let problems = problems(&captures.list(), Path::new("/etc/culvert"));
        let told: Vec<String> = problems.iter().map(|problem| format!("{problem}")).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("Pod default/second: not captured: ") && told[0].contains(why), "{told:?}");
        assert!(told[1].contains("Pod default/third: closed: it cannot be served"), "{told:?}");
    }
}
