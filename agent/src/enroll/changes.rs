//! Changes of the store since the reconciler last read them, merged: nothing is lost and nothing piles up.

use std::collections::HashSet;

use ipnet::IpNet;
use mesh::state::store::Applied;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The queue between sources and the reconciler.
#[derive(Default)]
pub(crate) struct Changes {
    pending: Mutex<Pending>,
    some: Notify,
}

/// The net changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Mesh addresses that were added.
    pub(crate) mesh_added: HashSet<IpNet>,
    /// Mesh addresses that were removed.
    pub(crate) mesh_removed: HashSet<IpNet>,
    /// Policies changed.
    pub(crate) policies: bool,
    /// Workloads of this node changed.
    pub(crate) local: bool,
}

impl Changes {
    /// Merges the changes of a batch.
    pub(crate) fn add(&self, applied: Applied) {
        self.pending.lock().merge(applied);
        self.some.notify_one();
    }

    /// Waits for a change, then takes all changes. Cancel-safe: nothing is taken before it is returned.
    pub(crate) async fn take(&self) -> Pending {
        self.some.notified().await;
        std::mem::take(&mut self.pending.lock())
    }
}

impl Pending {
    fn merge(&mut self, applied: Applied) {
        for net in applied.mesh_added {
            if !self.mesh_removed.remove(&net) {
                self.mesh_added.insert(net);
            }
        }
        for net in applied.mesh_removed {
            if !self.mesh_added.remove(&net) {
                self.mesh_removed.insert(net);
            }
        }
        self.policies |= applied.policies;
        self.local |= applied.local;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn changes_that_cancel_out_are_no_change() {
        let changes = Changes::default();
        let one = net("10.0.0.1/32");
        changes.add(Applied { mesh_added: vec![one], ..Applied::default() });
        changes.add(Applied { mesh_removed: vec![one], policies: true, ..Applied::default() });
        let pending = changes.take().await;
        assert_eq!(pending, Pending { policies: true, ..Pending::default() });
    }

    #[tokio::test]
    async fn an_address_that_was_removed_and_added_again_stays() {
        let changes = Changes::default();
        let one = net("10.0.0.1/32");
        changes.add(Applied { mesh_removed: vec![one], ..Applied::default() });
        changes.add(Applied { mesh_added: vec![one], ..Applied::default() });
        assert_eq!(changes.take().await, Pending::default());
    }
}
