//! Pure. A fast path: replaces some services without converting anything else again.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::objects::inventory::{GATEWAY_NAME, Inventory};
use crate::objects::kind::{self, Item, ObjectKey};
use mesh::model::service::{Service, ServiceKey};

use super::context::Context;
use super::options::Options;
use super::service::Assembly;

/// The services that a change removes or alters, and those that it adds or alters.
#[derive(Debug, Default)]
pub struct Exchange {
    /// The services before the change.
    pub gone: Vec<Item<kind::Service>>,
    /// The services after the change.
    pub come: Vec<Item<kind::Service>>,
}

/// What was published of the services of an [`Exchange`], and what is.
#[derive(Debug, Default)]
pub struct Exchanged {
    /// Before.
    pub before: BTreeMap<ServiceKey, Service>,
    /// After.
    pub after: BTreeMap<ServiceKey, Service>,
}

impl Exchange {
    /// Whether no service changes.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.come.is_empty()
    }

    /// All of its services.
    pub fn services(&self) -> impl Iterator<Item = &Item<kind::Service>> {
        self.gone.iter().chain(&self.come)
    }
}

impl Context {
    /// Whether an exchange concerns nothing but its services and the pods that they select: no other object shares a
    /// name or an address with one of them, writes its endpoints down, or is a waypoint by it.
    pub fn is_apart(&self, exchange: &Exchange, inventory: &Inventory, options: &Options) -> bool {
        let services = &self.services;
        let mut keys: HashMap<ObjectKey, (usize, usize)> = HashMap::new();
        let mut claims: HashMap<IpAddr, (u32, u32)> = HashMap::new();
        exchange.gone.iter().for_each(|item| keys.entry(item.meta.key()).or_default().0 += 1);
        exchange.come.iter().for_each(|item| keys.entry(item.meta.key()).or_default().1 += 1);
        for item in &exchange.gone {
            vips(item).for_each(|vip| claims.entry(vip).or_default().0 += 1);
        }
        for item in &exchange.come {
            vips(item).for_each(|vip| claims.entry(vip).or_default().1 += 1);
        }
        let alone = |(key, (gone, come)): (&ObjectKey, &(usize, usize))| {
            let known = inventory.services.all(&key.namespace, &key.name);
            known <= 1 && known + come <= 1 + gone
        };
        let claimed_once = |(vip, (gone, come)): (&IpAddr, &(u32, u32))| {
            let known = services.claims.get(vip).copied().unwrap_or(0);
            let nobodys = inventory.holders.node(*vip).is_none() && inventory.claimants(*vip).is_empty();
            let plain = !inventory.holders.is_contested(*vip) && !services.by_address.contains_key(vip);
            known <= 1 && known + come <= 1 + gone && nobodys && plain
        };
        keys.iter().all(alone)
            && claims.iter().all(claimed_once)
            && exchange.services().all(|item| {
                let key = Self::service_key(item, options);
                item.spec.external.is_empty()
                    && item.meta.labels.get(GATEWAY_NAME).is_none()
                    && !services.sliced.contains(&item.meta.key())
                    && !services.others.contains(&key)
                    && !self.waypoints.name(&key.hostname)
                    && !self.names_addresses(item.spec.addresses.iter().copied())
            })
    }

    /// Makes an exchange that is [apart](Self::is_apart).
    pub fn exchange(&mut self, exchange: &Exchange, inventory: &Inventory, options: &Options) -> Exchanged {
        let mut exchanged = Exchanged::default();
        for item in exchange.gone.iter().filter(|item| !item.spec.external_name) {
            let key = Self::service_key(item, options);
            if let Some(selection) = self.services.selecting.get_mut(&key.namespace) {
                selection.remove(&item.spec.selector, |selecting| selecting.service == key);
            }
            for vip in vips(item) {
                // Apart: nobody else claims it.
                self.services.claims.remove(&vip);
            }
            if !self.problems.is_empty() {
                let object = format!("Service {}", item.meta.key());
                self.problems.retain(|problem| problem.object.as_ref() != Some(&object));
            }
            exchanged.before.extend(self.services.published.remove_entry(&key));
        }
        for item in exchange.come.iter().filter(|item| !item.spec.external_name) {
            let services = std::mem::take(&mut self.services);
            let assembly = Assembly::new(inventory, options, &self.waypoints, &mut self.problems);
            self.services = assembly.add(services, item);
            let key = Self::service_key(item, options);
            exchanged
                .after
                .extend(self.services.published.get_key_value(&key).map(|(key, now)| (key.clone(), now.clone())));
        }
        exchanged
    }
}

/// The cluster IPs that a service claims, each once.
fn vips(item: &Item<kind::Service>) -> impl Iterator<Item = IpAddr> {
    let addresses = if item.spec.external_name { &[][..] } else { &item.spec.addresses[..] };
    let first = |(place, address): &(usize, &IpAddr)| !addresses[..*place].contains(address);
    addresses.iter().enumerate().filter(first).map(|(_, address)| *address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::kind::{Body, Object};
    use crate::objects::parse::parse;

    fn objects(text: &str) -> Vec<Object> {
        let parsed = parse(&std::path::Path::new("a.yaml").into(), text, &mut Default::default());
        assert!(!parsed.is_broken(), "{:?}", parsed.problems);
        parsed.objects
    }

    fn service(name: &str, labels: &str, address: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n\
             spec: {{clusterIP: {address}, selector: {{app: a}}, ports: [{{port: 80}}]}}\n"
        )
    }

    fn items(text: &str) -> Vec<Item<kind::Service>> {
        let services = objects(text).into_iter().filter_map(|object| match &object.body {
            Body::Service(service) => Some(object.item(service)),
            _ => None,
        });
        services.collect()
    }

    #[test]
    fn only_a_service_that_has_nothing_in_common_is_exchanged_alone() {
        let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                     metadata: {name: s, labels: {kubernetes.io/service-name: sliced}}\naddressType: IPv4\nendpoints: []\n";
        let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\n\
                     spec: {hosts: [named.default.svc.cluster.local], addresses: [10.96.0.9], ports: [{number: 80, name: http}]}\n";
        let others = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nstatus: {podIP: 10.0.0.9}\n\
                      ---\napiVersion: v1\nkind: Node\nmetadata: {name: n}\nstatus: {addresses: [{type: InternalIP, address: 10.0.0.8}]}\n";
        let own = service("own", "", "10.96.0.1");
        let text =
            [&own, slice, entry, others, &service("sliced", "", "10.96.0.2"), &service("other", "", "10.96.0.3")]
                .concat();
        let mut inventory = Inventory::default();
        objects(&text).iter().for_each(|object| inventory.insert(object));
        let options = Options::default();
        let context = Context::new(&inventory, &options);
        let apart = |gone: &str, come: &str| {
            let exchange = Exchange { gone: items(gone), come: items(come) };
            context.is_apart(&exchange, &inventory, &options)
        };
        assert!(apart(&own, &service("own", "x: y", "10.96.0.1")));
        assert!(apart(&own, &service("own", "", "10.96.0.77")));
        assert!(apart(&own, "") && apart("", &service("new", "", "10.96.0.5")));
        let both = [own.clone(), service("other", "", "10.96.0.3")].concat();
        assert!(apart(&both, &[service("own", "", "10.96.0.3"), service("other", "", "10.96.0.1")].concat()));
        for (why, come) in [
            ("the address of another", service("own", "", "10.96.0.3")),
            ("the address of a Pod", service("own", "", "10.0.0.9")),
            ("the address of a Node", service("own", "", "10.0.0.8")),
            ("a Gateway's", service("own", "gateway.networking.k8s.io/gateway-name: g", "10.96.0.1")),
            ("twice", own.repeat(2)),
        ] {
            assert!(!apart(&own, &come), "{why}");
        }
        assert!(!apart("", &own), "a second of its name");
        assert!(!apart("", &service("named", "", "10.96.0.5")), "the name of a ServiceEntry");
        let sliced = service("sliced", "", "10.96.0.2");
        assert!(!apart(&sliced, &sliced), "endpoints that are written down");
    }
}
