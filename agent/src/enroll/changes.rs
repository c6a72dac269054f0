//! What the store changed since the reconciler last looked: merged, so that nothing is lost and nothing piles up.

use std::collections::HashSet;

use ipnet::IpNet;
use mesh::state::store::Applied;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The mailbox between sources and the reconciler.
#[derive(Default)]
pub(crate) struct Changes {
    pending: Mutex<Pending>,
    some: Notify,
}

/// Everything that changed, net.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Addresses that became the mesh's.
    pub(crate) mesh_added: HashSet<IpNet>,
    /// Addresses that ceased to be.
    pub(crate) mesh_removed: HashSet<IpNet>,
    /// Policies may judge differently.
    pub(crate) policies: bool,
    /// Workloads of this node changed.
    pub(crate) local: bool,
}

impl Changes {
    /// Adds what a batch changed.
    pub(crate) fn add(&self, applied: Applied) {
        self.pending.lock().merge(applied);
        self.some.notify_one();
    }

    /// Waits for something, then takes all there is. Cancel-safe: nothing is taken before it is returned.
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
    async fn an_address_that_went_and_came_back_stays() {
        let changes = Changes::default();
        let one = net("10.0.0.1/32");
        changes.add(Applied { mesh_removed: vec![one], ..Applied::default() });
        changes.add(Applied { mesh_added: vec![one], ..Applied::default() });
        assert_eq!(changes.take().await, Pending::default());
    }
}
