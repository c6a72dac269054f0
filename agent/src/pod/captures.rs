//! What is captured, for the admin server.

use std::collections::BTreeMap;
use std::path::Path;

use mesh::model::name::WorkloadUid;
use mesh::model::policy::{PlaintextRules, PlaintextVerdict};
use mesh::model::workload::Workload;
use parking_lot::Mutex;
use process::admin::dump::{CaptureState, CaptureView};

use crate::pod::workload::Pod;

/// The captured workloads, and those that could not be. Written by the reconciler, read by the admin server.
#[derive(Default)]
pub(crate) struct Captures {
    views: Mutex<BTreeMap<WorkloadUid, CaptureView>>,
}

impl Captures {
    /// A workload is captured, by these rules.
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

    /// A workload is not captured though it should be; when it is `closed`, no new connection goes into it or out of it.
    pub(crate) fn failed(&self, workload: &Workload, netns: &Path, error: &str, closed: bool) {
        let state = if closed { CaptureState::Closed } else { CaptureState::Failed };
        let view = CaptureView { error: Some(error.to_owned()), ..view(workload, netns, state) };
        self.views.lock().insert(workload.uid.clone(), view);
    }

    /// A workload is to be captured, and that has not come to an end yet.
    pub(crate) fn pending(&self, workload: &Workload, netns: &Path, why: &str) {
        let view = CaptureView { error: Some(why.to_owned()), ..view(workload, netns, CaptureState::Pending) };
        self.views.lock().insert(workload.uid.clone(), view);
    }

    /// What is not as it should be with a captured workload, and whether that closes it.
    pub(crate) fn note(&self, uid: &WorkloadUid, note: Option<&str>, closed: bool) {
        if let Some(view) = self.views.lock().get_mut(uid)
            && matches!(view.state, CaptureState::Captured | CaptureState::Closed)
        {
            view.state = if closed { CaptureState::Closed } else { CaptureState::Captured };
            view.error = note.map(str::to_owned);
        }
    }

    /// New connections of a workload are its own again; captured ones are still open.
    pub(crate) fn releasing(&self, uid: &WorkloadUid) {
        if let Some(view) = self.views.lock().get_mut(uid) {
            view.state = CaptureState::Releasing;
        }
    }

    /// A workload is no longer to be captured.
    pub(crate) fn remove(&self, uid: &WorkloadUid) {
        self.views.lock().remove(uid);
    }

    /// All of them, by uid.
    pub(crate) fn list(&self) -> Vec<CaptureView> {
        self.views.lock().values().cloned().collect()
    }
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
