//! The endpoints of one port of one service. There is one cluster however many routes lead to it, so that what one
//! route learns about an endpoint all of them know.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mesh::balance::health::Admitted;
use mesh::balance::locality;
use mesh::model::hop;
use mesh::model::name::{Namespace, WorkloadUid};
use mesh::model::service::{AppProtocol, Service, ServiceKey};
use mesh::model::workload::Workload;
use mesh::state::endpoints::Endpoint as Known;
use parking_lot::{Mutex, RwLock};

use super::connect::Target;
use super::endpoint::{Endpoint, InFlight, Roll, State};
use super::gate::{Full, Gate, Passes};
use crate::balance::{Algorithm, Candidates, Load, Maglev, pick};
use crate::config::Plan;
use crate::config::services::protocol;
use crate::resilience::breaker::ALONE;
use crate::resilience::retry::Budget;
use crate::settings::Settings;
use crate::world::World;

/// A probe that no expendable request came for is sent with any.
const PROBE_OVERDUE: Duration = Duration::from_secs(5);

/// All clusters.
#[derive(Default)]
pub struct Clusters {
    known: RwLock<HashMap<Place, Arc<Cluster>>>,
}

/// A service, a port, and the namespace whose clients have a cluster of their own; `None` is the cluster of all others.
type Place = (ServiceKey, u16, Option<Namespace>);

/// The endpoints of one port of one service.
pub struct Cluster {
    service: ServiceKey,
    port: u16,
    /// The namespace whose clients alone use it; `None` is everybody.
    client: Option<Namespace>,
    /// Everybody's, within whose limits one of some clients stays.
    pub everybody: Option<Arc<Self>>,
    /// The world that `set` was made for.
    version: AtomicU64,
    set: ArcSwap<Set>,
    writing: Mutex<()>,
    turn: AtomicUsize,
    roll: Arc<Roll>,
    /// Requests in flight.
    pub gate: Arc<Gate>,
    /// Retries.
    pub budget: Mutex<Budget>,
}

/// The endpoints at one time.
#[derive(Default)]
pub struct Set {
    source: Option<Arc<[Arc<Known>]>>,
    settings: Option<Arc<Settings>>,
    /// The endpoints, in the order of the mesh.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// The application protocol of the port.
    pub protocol: Option<AppProtocol>,
    maglev: Option<Maglev>,
    tiers: usize,
}

/// What a choice depends on.
pub struct Wanted<'a> {
    /// Endpoints that have failed for this request.
    pub tried: &'a [WorkloadUid],
    /// The hash of the request, for consistent hashing.
    pub hash: u64,
    /// Whether the request can be sent again if it serves as a probe and fails.
    pub expendable: bool,
}

/// Why no endpoint can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// No endpoint is ready.
    NoneReady,
    /// Those that are ready are ejected; the first may be tried again then.
    Ejected(Option<Instant>),
}

impl Clusters {
    /// The cluster of a service port as clients of this namespace use it, as of this world. What is known of endpoints
    /// is everybody's, unless a rule of the clients' own namespace sets limits and trust for them alone.
    pub fn get(
        &self,
        (service, port): (&ServiceKey, u16),
        client: &Namespace,
        world: &World,
        here: &Workload,
    ) -> Arc<Cluster> {
        let everybody = self.one((service.clone(), port, None), None, world, here);
        let Some((client, _)) = world.plan.scoped(service, client) else { return everybody };
        self.one((service.clone(), port, Some(client.clone())), Some(everybody), world, here)
    }

    fn one(&self, place: Place, everybody: Option<Arc<Cluster>>, world: &World, here: &Workload) -> Arc<Cluster> {
        let found = self.known.read().get(&place).cloned();
        let cluster = found.unwrap_or_else(|| {
            let mut known = self.known.write();
            let make = |place: &Place| Arc::new(Cluster::new(place.clone(), everybody));
            Arc::clone(known.entry(place).or_insert_with_key(make))
        });
        cluster.refresh(world, here);
        cluster
    }

    /// Every cluster.
    pub fn list(&self) -> Vec<Arc<Cluster>> {
        self.known.read().values().cloned().collect()
    }

    /// Closes idle connections, and forgets clusters of services that are gone.
    pub fn sweep(&self, world: &World, now: Instant) {
        for cluster in self.list() {
            let idle = cluster.settings(&world.plan).connection_idle;
            for endpoint in &cluster.set.load().endpoints {
                endpoint.state.connections.sweep(now, idle);
            }
        }
        self.known.write().retain(|(service, _, client), cluster| {
            let known = world.snapshot.service(service).is_some() || world.workload(service).is_some();
            let seen = client.as_ref().is_none_or(|client| world.plan.scoped(service, client).is_some());
            known && seen || Arc::strong_count(cluster) > 1
        });
    }
}

impl Cluster {
    fn new((service, port, client): Place, everybody: Option<Arc<Self>>) -> Self {
        Self {
            service,
            port,
            client,
            everybody,
            version: AtomicU64::new(0),
            set: ArcSwap::default(),
            writing: Mutex::new(()),
            turn: AtomicUsize::new(0),
            roll: Arc::default(),
            gate: Arc::default(),
            budget: Mutex::new(Budget::new(Instant::now())),
        }
    }

    /// The service.
    pub fn service(&self) -> &ServiceKey {
        &self.service
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The namespace whose clients alone use it; `None` is everybody.
    pub fn client(&self) -> Option<&Namespace> {
        self.client.as_ref()
    }

    fn settings<'a>(&self, plan: &'a Plan) -> &'a Arc<Settings> {
        match &self.client {
            Some(client) => plan.settings_for(&self.service, client),
            None => plan.settings_of(&self.service),
        }
    }

    /// Lets a request in by the gate of these clients, then by everybody's; it waits at each for `patience` at most.
    pub async fn enter(&self, own: &Settings, everybody: &Settings, patience: Duration) -> Result<Passes, Full> {
        let pass = self.gate.enter(own.max_in_flight, own.max_pending, patience).await?;
        let shared = match &self.everybody {
            Some(all) => Some(all.gate.enter(everybody.max_in_flight, everybody.max_pending, patience).await?),
            None => None,
        };
        Ok(Passes::new(pass, shared))
    }

    /// The endpoints now.
    pub fn endpoints(&self) -> Arc<Set> {
        self.set.load_full()
    }

    fn refresh(&self, world: &World, here: &Workload) {
        if self.version.load(Ordering::Acquire) >= world.version {
            return;
        }
        let _writing = self.writing.lock();
        if self.version.load(Ordering::Acquire) >= world.version {
            return;
        }
        let old = self.set.load_full();
        let entry = world.snapshot.service(&self.service);
        let source = entry.map(|entry| Arc::clone(&entry.endpoints));
        let settings = self.settings(&world.plan);
        if let Some((address, workload)) = world.workload(&self.service) {
            self.follow(&old, workload, address, settings);
            self.version.store(world.version, Ordering::Release);
            return;
        }
        let same = |a: &Option<Arc<[Arc<Known>]>>| match (a, &source) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if !same(&old.source) || !old.settings.as_ref().is_some_and(|old| Arc::ptr_eq(old, settings)) {
            let service = entry.map(|entry| &*entry.service);
            self.set.store(Arc::new(self.build(&old, service, source, settings, here)));
        }
        self.version.store(world.version, Ordering::Release);
    }

    /// The one endpoint of a workload that is called by its own address.
    fn follow(&self, old: &Set, workload: &Arc<Workload>, address: IpAddr, settings: &Arc<Settings>) {
        let tunnel = hop::tunnel_to(workload, address, &[]);
        let target = Target { address: SocketAddr::new(address, self.port), tunnel };
        let before = old.endpoints.first();
        if before.is_some_and(|before| Arc::ptr_eq(&before.workload, workload) && before.target == target) {
            return;
        }
        let state = match before.filter(|before| before.target == target) {
            Some(before) => Arc::clone(&before.state),
            None => State::new(settings, workload.capacity, Instant::now()),
        };
        let endpoint = Endpoint { workload: Arc::clone(workload), target, tier: 0, state };
        self.roll.replace([Arc::clone(&endpoint.state)].into());
        let endpoints = [Arc::new(endpoint)].into();
        self.set.store(Arc::new(Set { endpoints, tiers: 1, ..Set::default() }));
    }

    fn build(
        &self,
        old: &Set,
        service: Option<&Service>,
        source: Option<Arc<[Arc<Known>]>>,
        settings: &Arc<Settings>,
        here: &Workload,
    ) -> Set {
        let now = Instant::now();
        let mut endpoints: Vec<Arc<Endpoint>> = vec![];
        if let (Some(service), Some(source)) = (service, &source) {
            let balancing = &service.load_balancing;
            let most = balancing.routing_preference.len();
            let within_reach: Vec<_> = source
                .iter()
                .filter_map(|known| {
                    let target = target_of(service, known, self.port)?;
                    Some((known, target, locality::rank(balancing, here, &known.workload)?))
                })
                .collect();
            let admitted = Admitted::among(within_reach.iter().map(|(known, ..)| known.health), balancing);
            for (known, target, rank) in within_reach.into_iter().filter(|(known, ..)| admitted.admits(known.health)) {
                let workload = &known.workload;
                let before = old.endpoints.iter().find(|e| e.workload.uid == workload.uid && e.target == target);
                let state = match before {
                    Some(before) => Arc::clone(&before.state),
                    None => State::new(settings, workload.capacity, now),
                };
                let workload = Arc::clone(workload);
                endpoints.push(Arc::new(Endpoint { workload, target, tier: most - rank.min(most), state }));
            }
        }
        for gone in &old.endpoints {
            if !endpoints.iter().any(|endpoint| Arc::ptr_eq(&endpoint.state, &gone.state)) {
                gone.state.connections.retire();
            }
        }
        self.roll.replace(endpoints.iter().map(|endpoint| Arc::clone(&endpoint.state)).collect());
        let hashes = settings.algorithm == Algorithm::ConsistentHash;
        let maglev = hashes.then(|| {
            let names: Vec<String> = endpoints.iter().map(|endpoint| endpoint.target.address.to_string()).collect();
            Maglev::new(names.iter().zip(&endpoints).map(|(name, e)| (name.as_bytes(), e.state.load.weight())))
        });
        let tiers = endpoints.iter().map(|endpoint| endpoint.tier + 1).max().unwrap_or(0);
        let protocol = service.map(|service| protocol(service, self.port));
        Set { source, settings: Some(Arc::clone(settings)), endpoints: endpoints.into(), protocol, maglev, tiers }
    }

    /// An endpoint for one request: a probe if one is due and the request is expendable; else one that was not tried,
    /// of the closest that can be used; else one that was.
    pub fn choose(&self, settings: &Settings, wanted: &Wanted<'_>, now: Instant) -> Result<InFlight, NoEndpoint> {
        let set = self.set.load();
        let fly = |endpoint: &Arc<Endpoint>, probe| {
            InFlight::new(Arc::clone(endpoint), Arc::clone(&self.roll), settings.load(), probe, now)
        };
        let tried = |endpoint: &Endpoint| wanted.tried.contains(&endpoint.workload.uid);
        // Where no request is expendable, one has to be spent after a while.
        let as_of = if wanted.expendable { Some(now) } else { now.checked_sub(PROBE_OVERDUE) };
        if self.roll.ejected() > 0
            && let Some(as_of) = as_of
        {
            let due = set.endpoints.iter().filter(|endpoint| !tried(endpoint) && endpoint.state.probe_due(as_of));
            if let Some(endpoint) = due.into_iter().find(|endpoint| endpoint.state.probe(now)) {
                return Ok(fly(endpoint, true));
            }
        }
        let from = Candidates {
            endpoints: &set.endpoints,
            load: load_of,
            settings: &settings.load(),
            maglev: set.maglev.as_ref(),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
            hash: wanted.hash,
        };
        let mut random = fastrand::Rng::new();
        for again in [false, true] {
            for tier in 0..set.tiers {
                let usable = |endpoint: &Arc<Endpoint>| {
                    endpoint.tier == tier && endpoint.state.is_trusted() && (again || !tried(endpoint))
                };
                if let Some(index) = pick(settings.algorithm, &from, usable, now, &mut random) {
                    return Ok(fly(&set.endpoints[index], false));
                }
            }
            if wanted.tried.is_empty() {
                break;
            }
        }
        self.last_resort(&set, now, fly)
    }

    /// All are ejected: those that are left do not answer. Probes are sent more often than where others serve.
    fn last_resort(
        &self,
        set: &Set,
        now: Instant,
        fly: impl Fn(&Arc<Endpoint>, bool) -> InFlight,
    ) -> Result<InFlight, NoEndpoint> {
        if set.endpoints.is_empty() {
            return Err(NoEndpoint::NoneReady);
        }
        match set.endpoints.iter().find(|endpoint| endpoint.state.probe_early(now, ALONE)) {
            Some(endpoint) => Ok(fly(endpoint, true)),
            None => {
                let until = set.endpoints.iter().filter_map(|endpoint| endpoint.state.ejected_until(now)).min();
                let until = until.map(|until| until.min(now + ALONE));
                Err(NoEndpoint::Ejected(until))
            }
        }
    }
}

fn load_of(endpoint: &Arc<Endpoint>) -> &Load {
    &endpoint.state.load
}

/// How an endpoint is reached on a port of the service; `None` when it does not have the port.
fn target_of(service: &Service, known: &Known, port: u16) -> Option<Target> {
    let workload = &known.workload;
    let address = hop::address_of(workload, false)?;
    let target_port = known.target_port(port)?;
    let tunnel = hop::tunnel_to(workload, address, &service.subject_alt_names);
    Some(Target { address: SocketAddr::new(address, target_port), tunnel })
}

/// The number of ejected endpoints, for dumps.
pub fn ejected(cluster: &Cluster) -> usize {
    cluster.roll.ejected()
}
