//! What a request decides on: the plan and the mesh it was compiled for, published together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh::model::name::Network;
use mesh::model::service::ServiceKey;
use mesh::model::update::Update;
use mesh::model::workload::Workload;
use mesh::state::snapshot::Snapshot;
use mesh::state::store::Store;
use parking_lot::Mutex;

use crate::config::{GatewayName, History, Object, Plan, ServicePlan, Services, address_of, compile, of_workload};

/// One view. Immutable; a request uses one from its first byte to its last.
#[derive(Default)]
pub struct World {
    /// What to do.
    pub plan: Arc<Plan>,
    /// With whom.
    pub snapshot: Arc<Snapshot>,
    /// Grows with each view.
    pub version: u64,
    here: Here,
    /// Plans of workloads that were called by their own address.
    workloads: Mutex<HashMap<(ServiceKey, u16), Arc<ServicePlan>>>,
}

/// Which waypoint this is, and where.
#[derive(Clone, Default)]
struct Here {
    gateway: GatewayName,
    network: Network,
}

/// Plans of workloads that are kept at most; others are made anew for each connection and request.
const MOST: usize = 4096;

impl World {
    /// What to do for a service, or for a workload that is called by its own address and names this waypoint.
    pub fn service(&self, key: &ServiceKey, port: u16) -> Option<Arc<ServicePlan>> {
        if let Some(plan) = self.plan.services.get(key) {
            return Some(Arc::clone(plan));
        }
        let (address, workload) = self.workload(key)?;
        let place = (key.clone(), port);
        let mut known = self.workloads.lock();
        if let Some(plan) = known.get(&place) {
            return Some(Arc::clone(plan));
        }
        let plan = Arc::new(of_workload(&self.plan, workload, address, port));
        if known.len() < MOST {
            known.insert(place, Arc::clone(&plan));
        }
        Some(plan)
    }

    /// The workload of a key that stands for one.
    pub fn workload(&self, key: &ServiceKey) -> Option<(IpAddr, &Arc<Workload>)> {
        let address = address_of(key)?;
        Some((address, self.workload_at(address)?)).filter(|(_, workload)| workload.namespace == key.namespace)
    }

    /// The workload at an address, if it names this waypoint.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        let (namespace, name) = self.here.gateway.as_ref()?;
        let workload = self.snapshot.workload_at(&self.here.network, address)?;
        let named = workload.waypoint.as_ref()?;
        (*named.namespace == **namespace && *named.name == **name).then_some(workload)
    }
}

/// Takes changes in and publishes views.
pub struct Worlds {
    here: Here,
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
    pub fn new(gateway: GatewayName, network: Network) -> Self {
        let writer = Writer { store: Store::new(None), objects: vec![], history: History::default() };
        Self { here: Here { gateway, network }, published: ArcSwap::default(), writer: Mutex::new(writer) }
    }

    /// The view of now.
    pub fn load(&self) -> Arc<World> {
        self.published.load_full()
    }

    /// Applies changes of the mesh, and the whole of the objects if any of them has changed. Routes are compiled anew
    /// when objects or services changed; endpoints come and go without.
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
            writer.objects = objects;
        }
        let snapshot = writer.store.snapshot();
        let plan = if recompile {
            let services = Services::new(snapshot.services().map(|entry| Arc::clone(&entry.service)));
            let Writer { objects, history, .. } = &mut *writer;
            Arc::new(compile(objects, &services, &self.here.gateway, history))
        } else {
            Arc::clone(&before.plan)
        };
        self.published.store(Arc::new(World {
            plan,
            snapshot,
            version: before.version + 1,
            here: self.here.clone(),
            workloads: Mutex::default(),
        }));
    }

    /// The objects that are in effect, for `explain`.
    pub fn objects(&self) -> Vec<Arc<Object>> {
        self.writer.lock().objects.clone()
    }
}
