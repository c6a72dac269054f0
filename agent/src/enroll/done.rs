//! What the crew answers when it has worked in a pod.

use std::net::TcpListener;

use mesh::model::name::WorkloadUid;
use tokio::sync::mpsc::UnboundedSender;

use crate::capture::Listener;
use crate::listen::listeners::Original;
use crate::listen::steering::{Enrolled, Refused};

/// What has become of a piece of work.
pub(crate) enum Done {
    /// A workload was enrolled, or could not be.
    Enrolled {
        /// Which.
        uid: WorkloadUid,
        /// What came of it.
        result: Result<Enrolled, Refused>,
    },
    /// A listener was made anew, or could not be.
    Listening {
        /// Number of the capture.
        pod: u32,
        /// Which listener.
        which: Listener,
        /// What came of it.
        result: Result<(TcpListener, Original), String>,
    },
}

/// The answer that somebody waits for: it comes also when the work ends without one.
pub(crate) struct Answer(Option<(UnboundedSender<Done>, WorkloadUid)>);

impl Answer {
    /// To be given once.
    pub(crate) fn new(to: UnboundedSender<Done>, uid: WorkloadUid) -> Self {
        Self(Some((to, uid)))
    }

    /// Gives it. When nobody hears it any more, what it holds is dropped: listeners that nobody serves are closed.
    pub(crate) fn give(mut self, result: Result<Enrolled, Refused>) {
        if let Some((to, uid)) = self.0.take() {
            let _gone = to.send(Done::Enrolled { uid, result });
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some((to, uid)) = self.0.take() {
            let result = Err(Refused::new("busy", "the work was not finished"));
            let _gone = to.send(Done::Enrolled { uid, result });
        }
    }
}
