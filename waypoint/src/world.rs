//! What a request decides on: the plan and the mesh it was compiled for, published together.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh::model::update::Update;
use mesh::state::snapshot::Snapshot;
use mesh::state::store::Store;
use parking_lot::Mutex;

use crate::config::{GatewayName, History, Object, Plan, Services, compile};

/// One view. Immutable; a request uses one from its first byte to its last.
#[derive(Default)]
pub struct World {
    /// What to do.
    pub plan: Arc<Plan>,
    /// With whom.
    pub snapshot: Arc<Snapshot>,
    /// Grows with each view.
    pub version: u64,
}

/// Takes changes in and publishes views.
pub struct Worlds {
    gateway: GatewayName,
    published: ArcSwap<World>,
    writer: Mutex<Writer>,
}

struct Writer {
    store: Store,
    objects: Vec<Arc<Object>>,
    history: History,
}

impl Worlds {
    /// An empty world of this waypoint.
    pub fn new(gateway: GatewayName) -> Self {
        let writer = Writer { store: Store::new(None), objects: vec![], history: History::default() };
        Self { gateway, published: ArcSwap::default(), writer: Mutex::new(writer) }
    }

    /// The view of now.
    pub fn load(&self) -> Arc<World> {
        self.published.load_full()
    }

    /// Applies changes of the mesh, and the whole of the objects if any of them has changed. Routes are compiled anew when
    /// objects or services changed; endpoints come and go without. Of several objects with one name the first counts.
    pub fn apply(&self, updates: Option<Vec<Update>>, objects: Option<Vec<Arc<Object>>>) {
        let mut writer = self.writer.lock();
        let before = self.published.load_full();
        let services =
            updates.iter().flatten().any(|update| matches!(update, Update::Service(_) | Update::ServiceGone(_)));
        let recompile = services || objects.is_some() || before.version == 0;
        if let Some(updates) = updates {
            writer.store.apply(updates);
        }
        if let Some(objects) = objects {
            let mut seen = HashSet::new();
            let name = |object: &Object| (Arc::clone(&object.kind), object.full_name());
            writer.objects = objects.into_iter().filter(|object| seen.insert(name(object))).collect();
        }
        let snapshot = writer.store.snapshot();
        let plan = if recompile {
            let services = Services::new(snapshot.services().map(|entry| Arc::clone(&entry.service)));
            let Writer { objects, history, .. } = &mut *writer;
            Arc::new(compile(objects, &services, &self.gateway, history))
        } else {
            Arc::clone(&before.plan)
        };
        self.published.store(Arc::new(World { plan, snapshot, version: before.version + 1 }));
    }

    /// The objects that are in effect, for `explain`.
    pub fn objects(&self) -> Vec<Arc<Object>> {
        self.writer.lock().objects.clone()
    }
}
