//! Pure. The plan: the compiled configuration of every service.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::model::name::Namespace;
use mesh::model::policy::{Action, Authorization};
use mesh::model::service::{AppProtocol, Service, ServiceKey};

use super::security::Security;
use super::status::ObjectStatus;
use crate::route::{Rule, Table};
use crate::settings::Settings;

/// One compiled configuration. Immutable; a request uses one from its first byte to its last.
#[derive(Default)]
pub struct Plan {
    /// Services behind this waypoint.
    pub services: HashMap<ServiceKey, Arc<ServicePlan>>,
    /// Settings of every service that has any of its own.
    pub settings: HashMap<ServiceKey, Arc<Settings>>,
    /// Settings of services as clients of one namespace see them, where they differ.
    pub of_clients: HashMap<ServiceKey, HashMap<Namespace, Arc<Settings>>>,
    /// Settings of all others.
    pub default_settings: Arc<Settings>,
    /// What applies to workloads that are called by their own address.
    pub of_workloads: OfWorkloads,
    /// What became of each object.
    pub statuses: Vec<ObjectStatus>,
    /// Where spans go.
    pub otlp: Option<Arc<str>>,
}

/// What applies to workloads that are called by their own address: there are no routes for them.
#[derive(Default)]
pub struct OfWorkloads {
    /// As a backend.
    pub settings: Arc<Settings>,
    /// What is enforced.
    pub security: Security,
}

/// What the waypoint does for one service.
pub struct ServicePlan {
    /// The service.
    pub service: Arc<Service>,
    /// Its settings, as a backend.
    pub settings: Arc<Settings>,
    /// Its ports.
    pub ports: HashMap<u16, PortPlan>,
    /// What is enforced before routing.
    pub security: Security,
}

/// What the waypoint does on one port.
pub struct PortPlan {
    /// What is declared to be spoken.
    pub protocol: AppProtocol,
    /// Without any route.
    pub implicit: Arc<Routing>,
    /// Routes attached to the Gateway.
    pub gateway: Option<Arc<Routing>>,
    /// Routes of the service's own namespace, for all clients.
    pub producer: Option<Arc<Routing>>,
    /// Routes of other namespaces, for clients there.
    pub consumers: HashMap<Namespace, Arc<Routing>>,
}

/// How requests or connections are routed.
pub enum Routing {
    /// HTTP, by table.
    Http(Box<Table>),
    /// Connections, by the one rule.
    Tcp(Arc<Rule>),
}

impl PortPlan {
    /// The routes for a client of this namespace: those on the Gateway, else the client's own, else the service's, else
    /// the way to the service itself. They never mix.
    pub fn routing(&self, client: Option<&Namespace>) -> &Arc<Routing> {
        let consumer = client.and_then(|client| self.consumers.get(client));
        self.gateway.as_ref().or(consumer).or(self.producer.as_ref()).unwrap_or(&self.implicit)
    }
}

impl ServicePlan {
    /// Whether something on this port looks at requests, for clients of this namespace: routes, a policy on what HTTP
    /// says, tokens, a rate. Then no connection may pass as mere bytes that could be HTTP.
    pub fn judges_requests(&self, port: &PortPlan, client: Option<&Namespace>) -> bool {
        let security = &self.security;
        !Arc::ptr_eq(port.routing(client), &port.implicit)
            || !security.jwt.is_empty()
            || self.settings.rate.is_some()
            || security.policies.iter().any(|policy| looks_at_http(policy))
    }

    /// Ports that declare no protocol and on which something looks at requests of some clients: servers that speak
    /// first are not heard there.
    pub fn silent_ports(&self) -> Vec<u16> {
        let routed = |port: &PortPlan| port.gateway.is_some() || port.producer.is_some() || !port.consumers.is_empty();
        let silent = self.ports.iter().filter(|(_, port)| {
            port.protocol == AppProtocol::Unknown && (routed(port) || self.judges_requests(port, None))
        });
        let mut ports: Vec<u16> = silent.map(|(number, _)| *number).collect();
        ports.sort_unstable();
        ports
    }
}

/// Whether a policy that is enforced asks for what only a request says.
fn looks_at_http(policy: &Authorization) -> bool {
    let enforced = !policy.dry_run && policy.action != Action::Audit;
    enforced && policy.rules.iter().flat_map(|rule| rule.tests()).any(|test| test.attribute.is_of_http())
}

/// The key under which a workload stands that is called by its own address.
pub fn workload_key(namespace: &Namespace, address: IpAddr) -> ServiceKey {
    ServiceKey { namespace: namespace.clone(), hostname: address.to_string().into() }
}

/// The address of a workload's key; `None` is a service.
pub fn address_of(key: &ServiceKey) -> Option<IpAddr> {
    let may_be = key.hostname.ends_with(|last: char| last.is_ascii_hexdigit() || last == ':');
    may_be.then(|| key.hostname.parse().ok()).flatten()
}

impl Plan {
    /// The settings of a service as a backend of clients of this namespace.
    pub fn settings_for(&self, service: &ServiceKey, client: &Namespace) -> &Arc<Settings> {
        self.scoped(service, client).map_or_else(|| self.settings_of(service), |(_, settings)| settings)
    }

    /// The settings that only clients of this namespace see, if there are any.
    pub fn scoped(&self, service: &ServiceKey, client: &Namespace) -> Option<(&Namespace, &Arc<Settings>)> {
        if self.of_clients.is_empty() {
            return None;
        }
        self.of_clients.get(service)?.get_key_value(client)
    }

    /// The settings of a service as a backend, of clients that see no others.
    pub fn settings_of(&self, service: &ServiceKey) -> &Arc<Settings> {
        self.settings.get(service).unwrap_or_else(|| match address_of(service) {
            Some(_) => &self.of_workloads.settings,
            None => &self.default_settings,
        })
    }
}
