//! Pure. Compiles objects and services into the plan.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use mesh::authority::reach;
use mesh::model::name::{Name, Namespace};
use mesh::model::service::{AppProtocol, LoadBalancing, Reach, Service, ServiceKey, ServicePort, Vip};
use mesh::model::workload::Workload;

use super::attach::{Attachment, Group, Route, attach};
use super::gateways::Gateways;
use super::history::History;
use super::object::Object;
use super::plan::{OfWorkloads, Plan, PortPlan, Routing, ServicePlan, workload_key};
use super::policies::Policies;
use super::reference::Resolver;
use super::rules::{self, CompiledRule, RouteKind};
use super::schema::route::RouteSpec;
use super::security::Securities;
use super::services::{Services, is_fronted, protocol};
use super::status::{Findings, ObjectStatus};
use super::unique::unique;
use crate::route::{Action, Age, Backend, BackendTarget, Rank, Rule, RuleId, Table, TableKind};
use crate::settings::{Layer, Overlay, Settings, merge};

/// Which waypoint this is: namespace and name of the Gateway. `None` plans for every service, as `check` does.
pub type GatewayName = Option<(Arc<str>, Arc<str>)>;

/// Compiles everything.
pub fn compile(objects: &[Arc<Object>], services: &Services, gateway: &GatewayName, history: &mut History) -> Plan {
    let gateway = gateway.as_ref().map(|(namespace, name)| (&**namespace, &**name));
    let mut statuses = Vec::new();
    let objects = &unique(objects, &mut statuses)[..];
    let gateways = Gateways::read(objects);
    let policies = Policies::read(objects, services, history, &mut statuses);
    let securities = Securities::read(objects, services, history, &mut statuses);
    let routes = read_routes(objects, services, history);
    let attachments = attach(&routes, services, (gateway, &gateways), &mut statuses);
    unsupported(objects, &mut statuses);
    history.retain(objects);

    let mut compiler = Compiler { policies: &policies, gateway, merged: HashMap::new() };
    let mut plan = Plan {
        default_settings: compiler.settings(&policies.of_mesh()),
        of_workloads: OfWorkloads {
            settings: compiler.settings(&policies.of_workloads(gateway)),
            security: securities.of_gateway(gateway),
        },
        statuses,
        otlp: policies.otlp.clone(),
        ..Plan::default()
    };
    let mut by_port: BTreeMap<(&ServiceKey, u16, &Group), Vec<&Attachment>> = BTreeMap::new();
    for attachment in &attachments {
        by_port.entry((&attachment.service, attachment.port, &attachment.group)).or_default().push(attachment);
    }
    for service in services.iter() {
        let layers = compiler.layers(service);
        let settings = compiler.settings(&layers);
        if !Arc::ptr_eq(&settings, &plan.default_settings) {
            plan.settings.insert(service.key.clone(), Arc::clone(&settings));
        }
        let scopes = compiler.scopes(service, &settings);
        if !scopes.is_empty() {
            plan.of_clients.insert(service.key.clone(), scopes);
        }
        if !is_fronted(service, gateway) {
            continue;
        }
        let mut ports = HashMap::new();
        for port in service.ports.iter().map(|port| port.service_port) {
            let mut port_plan = implicit(service, port, &settings);
            let groups = by_port.range((&service.key, port, &Group::Gateway)..);
            for ((_, _, group), found) in groups.take_while(|((key, at, _), _)| **key == service.key && *at == port) {
                let routing = Arc::new(compiler.routing(&layers, &routes, found));
                match group {
                    Group::Gateway => port_plan.gateway = Some(routing),
                    Group::Producer => port_plan.producer = Some(routing),
                    Group::Consumer(namespace) => {
                        port_plan.consumers.insert(Namespace::from(Arc::clone(namespace)), routing);
                    }
                }
            }
            ports.insert(port, port_plan);
        }
        let security = securities.of((&service.key.namespace, &service.name), gateway);
        let compiled = ServicePlan { service: Arc::clone(service), settings, ports, security };
        plan.services.insert(service.key.clone(), Arc::new(compiled));
    }
    plan
}

/// The routes among the objects.
pub fn read_routes(objects: &[Arc<Object>], services: &Services, history: &mut History) -> Vec<Route> {
    objects.iter().filter_map(|object| read(object, services, history)).collect()
}

fn read(object: &Arc<Object>, services: &Services, history: &mut History) -> Option<Route> {
    let kind = RouteKind::of(object)?;
    let ((spec, rules), findings) = history.read(object, |object, findings| {
        let spec = object.read::<RouteSpec>().unwrap_or_else(|message| {
            findings.reject("UnsupportedValue", message);
            // The references are read apart from the rest, so that the status says something to each.
            let references = object.spec.get("parentRefs").cloned().unwrap_or_default();
            RouteSpec { parent_refs: serde_json::from_value(references).unwrap_or_default(), ..RouteSpec::default() }
        });
        if !spec.hostnames.is_empty() {
            findings.notes.push("hostnames have no effect: services are told apart by their addresses".to_owned());
        }
        let resolver = Resolver { services, namespace: &object.namespace };
        let rules = rules::compile(object, kind, &spec, &resolver, findings);
        (spec, rules)
    });
    Some(Route { object: Arc::clone(object), kind, spec, rules, findings })
}

/// Kinds that somebody could take for effective.
fn unsupported(objects: &[Arc<Object>], statuses: &mut Vec<ObjectStatus>) {
    for object in objects {
        let what = match (object.group(), &*object.kind) {
            ("gateway.networking.k8s.io", "TLSRoute") => "TLSRoute is not supported by this waypoint",
            ("gateway.networking.k8s.io", "BackendTLSPolicy") => "BackendTLSPolicy is not supported by this waypoint",
            ("networking.istio.io", "VirtualService") => "VirtualService is not supported: write an HTTPRoute",
            ("telemetry.istio.io", "Telemetry") => "Telemetry is not supported: write MeshPolicy tracing",
            _ => continue,
        };
        let mut findings = Findings::default();
        findings.reject("UnsupportedValue", what);
        statuses.push(ObjectStatus::of(object, serde_json::Value::Null, findings.conditions(object, None)));
    }
}

/// The way to the service itself, when no route says otherwise.
fn implicit(service: &Service, port: u16, settings: &Arc<Settings>) -> PortPlan {
    let name = format!("{}/{}", service.key.namespace, service.name).into();
    let id = RuleId { kind: "Service", route: name, index: 0, name: None };
    let target = BackendTarget::Service(service.key.clone(), port);
    let mut rule = Rule::new(id, Action::Forward([Backend::plain(target, 1)].into()));
    rule.settings = Arc::clone(settings);
    let rule = Arc::new(rule);
    let protocol = protocol(service, port);
    let routing = match protocol {
        AppProtocol::Tcp | AppProtocol::Tls => Routing::Tcp(rule),
        _ => Routing::Http(Box::new(everything(rule))),
    };
    let implicit = Arc::new(routing);
    PortPlan { protocol, implicit, gateway: None, producer: None, consumers: HashMap::new() }
}

/// The plan of a workload that is called by its own address, for the port that is called.
pub fn of_workload(plan: &Plan, workload: &Workload, address: IpAddr, port: u16) -> ServicePlan {
    let called = ServicePort {
        name: Name::default(),
        service_port: port,
        target_port: port,
        app_protocol: AppProtocol::Unknown,
    };
    let service = Service {
        name: workload.name.clone(),
        key: workload_key(&workload.namespace, address),
        vips: [Vip::Address(address)].into(),
        headless: false,
        ports: [called].into(),
        subject_alt_names: Box::default(),
        waypoint: None,
        load_balancing: LoadBalancing::default(),
        canonical: true,
        reach: Reach::default(),
    };
    let OfWorkloads { settings, security } = &plan.of_workloads;
    let ports = [(port, implicit(&service, port, settings))].into();
    let (settings, security) = (Arc::clone(settings), security.clone());
    ServicePlan { service: Arc::new(service), settings, ports, security }
}

fn everything(rule: Arc<Rule>) -> Table {
    let route_match = crate::matcher::Match::everything();
    Table::new(TableKind::Http, vec![(Rank::new(&route_match, 1, &Age::default(), 0, 0), route_match, rule)])
}

struct Compiler<'a> {
    policies: &'a Policies,
    gateway: Option<(&'a str, &'a str)>,
    /// Settings by the layers they were merged from: thousands of rules share few.
    merged: HashMap<Vec<*const Overlay>, Arc<Settings>>,
}

impl Compiler<'_> {
    fn layers(&self, service: &Service) -> Vec<Layer> {
        self.layers_for(service, None)
    }

    fn layers_for(&self, service: &Service, client: Option<&str>) -> Vec<Layer> {
        let gateway = self.gateway.or_else(|| {
            service.waypoint.as_ref().map(|waypoint| (waypoint.namespace.as_str(), waypoint.name.as_str()))
        });
        self.policies.of_service((&service.key.namespace, &service.name), gateway, client)
    }

    /// The settings that clients of some namespaces see instead of `everybody`'s. What others share stays within what
    /// everybody has.
    fn scopes(&mut self, service: &Service, everybody: &Arc<Settings>) -> HashMap<Namespace, Arc<Settings>> {
        let mut scopes = HashMap::new();
        let mut bounded: HashMap<*const Settings, Arc<Settings>> = HashMap::new();
        for scope in self.policies.scopes(&service.key.namespace, &service.name) {
            let settings = self.settings(&self.layers_for(service, Some(&scope)));
            if !Arc::ptr_eq(&settings, everybody) {
                let within =
                    bounded.entry(Arc::as_ptr(&settings)).or_insert_with(|| Arc::new(settings.within(everybody)));
                scopes.insert(Namespace::from(scope), Arc::clone(within));
            }
        }
        scopes
    }

    fn settings(&mut self, layers: &[Layer]) -> Arc<Settings> {
        let key = layers.iter().map(|layer| Arc::as_ptr(&layer.overlay)).collect();
        Arc::clone(self.merged.entry(key).or_insert_with(|| Arc::new(merge(layers))))
    }

    fn routing(&mut self, layers: &[Layer], routes: &[Route], attachments: &[&Attachment]) -> Routing {
        let mut ranked = Vec::new();
        let mut kind = RouteKind::Http;
        for attachment in attachments {
            let route = &routes[attachment.route];
            kind = route.kind;
            let age = route.object.age();
            for compiled in &route.rules {
                let foreign = reach::is_foreign(&route.object.namespace, &attachment.service.namespace);
                let rule = self.rule(layers, route, compiled, foreign);
                if kind == RouteKind::Tcp {
                    return Routing::Tcp(rule);
                }
                let index = rule.id.index;
                let entries = compiled.matches.iter().enumerate();
                ranked
                    .extend(entries.map(|(at, entry)| {
                        (entry.rank(&age, index, at), entry.route_match.clone(), Arc::clone(&rule))
                    }));
            }
        }
        let kind = if kind == RouteKind::Grpc { TableKind::Grpc } else { TableKind::Http };
        Routing::Http(Box::new(Table::new(kind, ranked)))
    }

    fn rule(&mut self, layers: &[Layer], route: &Route, compiled: &CompiledRule, foreign: bool) -> Arc<Rule> {
        let layers = rule_layers(self.policies, layers, route, compiled);
        let mut rule = compiled.rule.clone();
        rule.settings = self.settings(&layers);
        rule.foreign = foreign;
        Arc::new(rule)
    }
}

/// The layers of a rule, those of its service first, its own fields last.
pub fn rule_layers(policies: &Policies, service: &[Layer], route: &Route, compiled: &CompiledRule) -> Vec<Layer> {
    let object = &route.object;
    let named = compiled.rule.id.name.as_ref();
    let mut layers = service.to_vec();
    layers.extend(policies.of_rule(route.kind, &object.namespace, &object.name, named));
    if *compiled.overlay != Overlay::default() {
        let source = compiled.rule.id.to_string().into();
        layers.push(Layer { source, overlay: Arc::clone(&compiled.overlay) });
    }
    layers
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "walls_tests.rs"]
mod walls;
