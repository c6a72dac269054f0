//! The parts of the admin state that only a waypoint has.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use process::admin::AdminState;
use serde::Serialize;
use serde_json::json;
use sources::manifests::status::Status;

use crate::config::{Routing, ServicePlan, Services, explain};
use crate::shared::Shared;
use crate::upstream::Cluster;
use crate::upstream::cluster::ejected;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterView {
    service: String,
    port: u16,
    /// The namespace whose clients alone use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients_of: Option<String>,
    in_flight: u32,
    ejected: usize,
    endpoints: Vec<EndpointView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointView {
    workload: String,
    address: String,
    tier: usize,
    latency_ms: f64,
    in_flight: u32,
    ejected: bool,
    connections: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteView {
    service: String,
    port: u16,
    group: String,
    rules: Vec<String>,
}

/// Adds the parts of a waypoint.
pub fn parts(state: AdminState, shared: &Arc<Shared>, status: Arc<ArcSwap<Status>>) -> AdminState {
    let of = || Arc::clone(shared);
    let (mesh, routes, statuses, clusters, explained) = (of(), of(), of(), of(), of());
    state
        .mesh(move || Arc::clone(&mesh.worlds.load().snapshot))
        .part("routes", move || routes_of(&routes))
        .part("statuses", move || statuses.worlds.load().plan.statuses.clone())
        .part("clusters", move || clusters.clusters.list().iter().map(view).collect::<Vec<_>>())
        .part("manifests", move || Status::clone(&status.load()))
        .query("explain", move |query| {
            let name = query.get("service").unwrap_or_default();
            let Some((namespace, name)) = name.split_once('/') else {
                return Err(process::admin::Refusal {
                    status: http::StatusCode::BAD_REQUEST,
                    message: "service=NAMESPACE/NAME is missing".to_owned(),
                });
            };
            let world = explained.worlds.load();
            let services = Services::new(world.snapshot.services().map(|entry| Arc::clone(&entry.service)));
            let objects = explained.worlds.objects();
            explain(&objects, &services, &None, (namespace, name), query.get("route"))
                .map(|explained| json!(explained))
                .map_err(|message| process::admin::Refusal { status: http::StatusCode::NOT_FOUND, message })
        })
}

fn routes_of(shared: &Shared) -> Vec<RouteView> {
    let world = shared.worlds.load();
    let mut views: Vec<RouteView> = world.plan.services.values().flat_map(|service| routes(service)).collect();
    views.sort_by(|a, b| (&a.service, a.port, &a.group).cmp(&(&b.service, b.port, &b.group)));
    views
}

fn routes(service: &ServicePlan) -> Vec<RouteView> {
    let mut views = vec![];
    for (port, plan) in &service.ports {
        let consumers = plan.consumers.iter().map(|(namespace, routing)| (format!("consumer {namespace}"), routing));
        let others = [("gateway", &plan.gateway), ("producer", &plan.producer)];
        let others = others.into_iter().filter_map(|(name, routing)| Some((name.to_owned(), routing.as_ref()?)));
        let all = std::iter::once(("implicit".to_owned(), &plan.implicit)).chain(others).chain(consumers);
        views.extend(all.map(|(group, routing)| RouteView {
            service: service.service.key.to_string(),
            port: *port,
            group,
            rules: match &**routing {
                Routing::Http(table) => table.entries().map(|found| found.rule.id.to_string()).collect(),
                Routing::Tcp(rule) => vec![rule.id.to_string()],
            },
        }));
    }
    views
}

fn view(cluster: &Arc<Cluster>) -> ClusterView {
    let now = Instant::now();
    let settings = crate::settings::Settings::default().load();
    let set = cluster.endpoints();
    let endpoints = set.endpoints.iter().map(|endpoint| EndpointView {
        workload: endpoint.workload.uid.to_string(),
        address: endpoint.target.address.to_string(),
        tier: endpoint.tier,
        latency_ms: endpoint.state.load.latency(&settings, now).as_secs_f64() * 1000.0,
        in_flight: endpoint.state.load.pending(),
        ejected: !endpoint.state.is_trusted(),
        connections: endpoint.state.connections.open(),
    });
    ClusterView {
        service: cluster.service().to_string(),
        port: cluster.port(),
        clients_of: cluster.client().map(ToString::to_string),
        in_flight: cluster.gate.inside(),
        ejected: ejected(cluster),
        endpoints: endpoints.collect(),
    }
}
