//! The outcomes of jobs in pods.

use std::net::TcpListener;

use mesh::model::name::WorkloadUid;
use tokio::sync::mpsc::UnboundedSender;

use crate::capture::Listener;
use crate::listen::listeners::Original;
use crate::listen::steering::{Enrolled, Refused};

/// The outcome of a job.
pub(crate) enum Outcome {
    /// A workload was enrolled, or could not be.
    Enrolled {
        /// The workload.
        uid: WorkloadUid,
        /// The result.
        result: Result<Enrolled, Refused>,
    },
    /// A listener was recreated, or could not be.
    Listening {
        /// Id of the capture.
        pod: u32,
        /// The listener.
        which: Listener,
        /// The result.
        result: Result<(TcpListener, Original), String>,
    },
}

/// A pending answer; it is sent even when the job ends without one.
pub(crate) struct Answer(Option<(UnboundedSender<Outcome>, WorkloadUid)>);

impl Answer {
    /// An answer for `uid`, to be sent once.
    pub(crate) fn new(to: UnboundedSender<Outcome>, uid: WorkloadUid) -> Self {
        Self(Some((to, uid)))
    }

    /// Sends the answer. If the receiver is gone, its content is dropped, which closes the listeners.
    pub(crate) fn give(mut self, result: Result<Enrolled, Refused>) {
        if let Some((to, uid)) = self.0.take() {
            let _gone = to.send(Outcome::Enrolled { uid, result });
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some((to, uid)) = self.0.take() {
            let result = Err(Refused::new("busy", "the work was not finished"));
            let _gone = to.send(Outcome::Enrolled { uid, result });
        }
    }
}
