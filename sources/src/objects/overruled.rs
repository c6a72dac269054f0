//! Pure. Problems for claims to addresses that belong to another object.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::convert::Context;
use super::inventory::Inventory;
use super::kind::Item;
use super::problem::{Problem, Severity};
use mesh::model::service::Vip;

const RULE: &str = "an address of a node, a Pod or a Service is its own, whatever others claim";

/// A problem for every claim of a ServiceEntry or Service, and every endpoint, that has no effect because another
/// object owns the address.
pub(super) fn overruled(inventory: &Inventory, context: &Context) -> Vec<Problem> {
    let claims = claims(inventory);
    let endpoints = context.endpoints_at_cluster_ips();
    if claims.is_empty() && endpoints.is_empty() {
        return Vec::new();
    }
    let taken = taken(inventory, context);
    let mut problems = Vec::new();
    for Claim { at, object, net, field } in claims {
        if net.prefix_len() == net.max_prefix_len() {
            if let Some(owner) = taken.get(&net.addr()) {
                let message = format!("{} belongs to {owner} and the claim has no effect: {RULE}", net.addr());
                problems.push(Problem::of(at, object, Severity::Error, message).field(field));
            }
            continue;
        }
        let mut inside = taken.range(net.network()..=net.broadcast());
        if let Some((address, owner)) = inside.next() {
            let more = match inside.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let message = format!("{net} holds {address} of {owner}{more}, on which it has no effect: {RULE}");
            problems.push(Problem::of(at, object, Severity::Warning, message).field(field));
        }
    }
    for (at, object, address) in endpoints {
        let owner = taken.get(&address).map(String::as_str).unwrap_or("a Service");
        let message = format!(
            "endpoint {address} belongs to {owner} and has no effect: an endpoint must be a workload's address"
        );
        problems.push(Problem::of(at, object, Severity::Warning, message));
    }
    problems
}

struct Claim<'a> {
    at: &'a super::origin::Origin,
    object: String,
    net: IpNet,
    field: &'static str,
}

fn claims(inventory: &Inventory) -> Vec<Claim<'_>> {
    fn claim<'a, T>(kind: &str, item: &'a Item<T>, net: IpNet, field: &'static str) -> Claim<'a> {
        Claim { at: &item.at, object: format!("{kind} {}", item.meta.key()), net, field }
    }
    let entries = inventory.entries.iter();
    let entries = entries.flat_map(|item| {
        item.spec.addresses.iter().map(move |net| claim("ServiceEntry", item, *net, "spec.addresses"))
    });
    let services = inventory.services.iter();
    let services = services.flat_map(|item| {
        item.spec.external.iter().map(move |address| claim("Service", item, IpNet::from(*address), "spec.externalIPs"))
    });
    entries.chain(services).collect()
}

/// Every address that a node, a pod or a service owns, with its owner.
fn taken(inventory: &Inventory, context: &Context) -> BTreeMap<IpAddr, String> {
    let mut taken = BTreeMap::new();
    for service in context.services().values().filter(|service| service.canonical) {
        for vip in &service.vips {
            if let Vip::Address(address) = vip {
                taken.insert(*address, format!("Service {}/{}", service.key.namespace, service.name));
            }
        }
    }
    for (address, first) in inventory.holders.claimed() {
        if inventory.holders.is_of_service(address) {
            continue;
        }
        let pod = inventory.owner(address).unwrap_or(first);
        taken.insert(address, format!("Pod {}", pod.meta.key()));
    }
    taken.extend(inventory.holders.nodes().map(|(address, node)| (address, format!("Node {node}"))));
    taken
}
