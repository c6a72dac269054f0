//! Pure. The services that routes refer to, by the names that routes use.

use std::collections::HashMap;
use std::sync::Arc;

use mesh::model::service::{AppProtocol, Service, ServiceKey};

/// An index over services.
#[derive(Default)]
pub struct Services {
    by_name: HashMap<(Arc<str>, Arc<str>), Arc<Service>>,
    by_host: HashMap<Arc<str>, Vec<Arc<Service>>>,
}

impl Services {
    /// Indexes services. A Kubernetes Service wins over a ServiceEntry of the same name.
    pub fn new(services: impl IntoIterator<Item = Arc<Service>>) -> Self {
        let mut index = Self::default();
        for service in services {
            let name = (Arc::from(service.key.namespace.as_str()), Arc::from(service.name.as_str()));
            let host = Arc::from(service.key.hostname.as_str());
            if service.canonical || !index.by_name.contains_key(&name) {
                index.by_name.insert(name, Arc::clone(&service));
            }
            index.by_host.entry(host).or_default().push(service);
        }
        index
    }

    /// The Service of this namespace and name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.by_name.get(&(Arc::from(namespace), Arc::from(name)))
    }

    /// The service of a host as DestinationRules write it: `shop`, `shop.default`, `shop.default.svc.cluster.local`.
    pub fn of_host(&self, host: &str, namespace: &str) -> Option<&Arc<Service>> {
        // A ServiceEntry of somebody else's that claims the same host does not stand in the way of one's own.
        let claims = self.by_host.get(host).map_or(&[][..], |claims| claims);
        let of = |matches: &dyn Fn(&Service) -> bool| claims.iter().find(|service| matches(service));
        let found = of(&|service| service.canonical)
            .or_else(|| of(&|service| service.key.namespace.as_str() == namespace))
            .or_else(|| claims.iter().min_by(|a, b| a.key.cmp(&b.key)));
        if found.is_some() {
            return found;
        }
        match host.split('.').collect::<Vec<_>>()[..] {
            [name] => self.get(namespace, name),
            [name, namespace] | [name, namespace, "svc"] => self.get(namespace, name),
            _ => None,
        }
    }

    /// Every service.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_name.values()
    }
}

/// Whether the service names this waypoint.
pub fn is_fronted(service: &Service, gateway: Option<(&str, &str)>) -> bool {
    let Some((namespace, name)) = gateway else { return true };
    service.waypoint.as_ref().is_some_and(|waypoint| &*waypoint.namespace == namespace && &*waypoint.name == name)
}

/// Whether the service has this port.
pub fn has_port(service: &Service, port: u16) -> bool {
    service.ports.iter().any(|known| known.service_port == port)
}

/// What is declared to be spoken on a port.
pub fn protocol(service: &Service, port: u16) -> AppProtocol {
    let known = service.ports.iter().find(|known| known.service_port == port);
    known.map_or(AppProtocol::Unknown, |port| port.app_protocol)
}

/// `namespace/name` of a service's key, for messages.
pub fn full_name(service: &Service) -> String {
    let ServiceKey { namespace, .. } = &service.key;
    format!("{namespace}/{}", service.name)
}
