//! Pure. The path that a connection would take and what policy would say, step by step.
//!
//! It asks the functions that decide on real connections, so the answer cannot differ from what happens.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::view::{Explanation, Judged, Verdict};
use mesh::balance::health::Admitted;
use mesh::model::connection::{Facts, OnBehalfOf};
use mesh::model::identity::Identity;
use mesh::model::policy::{Action, Authorization};
use mesh::model::workload::Workload;
use mesh::policy::authorize::{self, Applying, Refusal};
use mesh::policy::instances::Instances;
use mesh::policy::matcher;
use mesh::policy::plaintext;
use mesh::state::snapshot::{ServiceEntry, Snapshot};

use crate::connection::outbound::next_hop::{self, Destination, Hop, ToWaypoint, Via};

/// Explains a connection from `source` (`[namespace/]pod`) to `destination` (`address:port` or
/// `service[.namespace]:port`).
pub(crate) fn explain(mesh: &Snapshot, source: &str, destination: &str) -> Result<Explanation, String> {
    let source = find_workload(mesh, source)?;
    let destination = find_destination(mesh, &source, destination)?;
    let mut explanation = Explanation {
        source: format!("{}/{}", source.namespace, source.name),
        source_identity: source.is_enrolled().then(|| source.identity().to_string()),
        destination,
        path: Vec::new(),
        endpoints: Vec::new(),
        refused: None,
    };
    if !source.is_enrolled() {
        explanation.path.push("the source is not enrolled: its connections are plain TCP, without identity".to_owned());
    }
    match next_hop::resolve(mesh, &source, destination) {
        Ok(found) => follow(mesh, &source, found, &mut explanation),
        Err(refused) => explanation.refused = Some(refused.to_string()),
    }
    Ok(explanation)
}

fn follow(mesh: &Snapshot, source: &Workload, destination: Destination, explanation: &mut Explanation) {
    let called = explanation.destination;
    match destination {
        Destination::Outside(to) => {
            explanation.path.push(format!("{to} is outside the mesh: plain TCP, left to the kernel"));
        }
        Destination::Workload(workload, to) => {
            explanation.path.push(format!("{to} is workload {}/{}", workload.namespace, workload.name));
            explanation.endpoints.push(judge(mesh, source, &next_hop::to_workload(source, &workload, to, &[]), None));
        }
        Destination::Service(entry, port) => {
            explanation.path.push(format!("{called} is port {port} of service {}", entry.service.key));
            let admitted = admitted(&entry);
            let hops =
                entry.endpoints.iter().filter(|e| admitted.admits(e.health)).filter_map(|endpoint| {
                    next_hop::to_endpoint(mesh, source, &entry, endpoint, port, called.is_ipv6())
                });
            explanation.endpoints = hops.map(|hop| judge(mesh, source, &hop, None)).collect();
            let total = entry.endpoints.len();
            explanation.path.push(format!("{} of its {total} endpoints can be used", explanation.endpoints.len()));
            if explanation.endpoints.is_empty() {
                explanation.refused = Some(next_hop::Refused::NoEndpoint(entry.service.key.clone()).to_string());
            }
        }
        Destination::Waypoint(to) => follow_waypoint(mesh, source, &to, explanation),
    }
}

fn admitted(entry: &ServiceEntry) -> Admitted {
    Admitted::among(entry.endpoints.iter().map(|endpoint| endpoint.health), &entry.service.load_balancing)
}

/// The instances of the waypoint, and the verdict of each destination on a call through it on behalf of the source.
fn follow_waypoint(mesh: &Snapshot, source: &Workload, to: &ToWaypoint, explanation: &mut Explanation) {
    let what = to.service.as_ref().map_or_else(|| to.target.to_string(), ToString::to_string);
    explanation.path.push(format!("{what} is behind waypoint {}, which routes and judges it", to.gateway));
    let instances: Vec<Arc<Workload>> = match &to.instances {
        Instances::Service(entry) => {
            let admitted = admitted(entry);
            entry.endpoints.iter().filter(|e| admitted.admits(e.health)).map(|e| Arc::clone(&e.workload)).collect()
        }
        Instances::Workload(workload) => vec![Arc::clone(workload)],
    };
    let hops: Vec<Hop> = instances.iter().filter_map(|instance| next_hop::to_instance(to, instance)).collect();
    let handed = source.is_enrolled();
    if !handed {
        explanation.path.push("nothing hands the connection to it: it goes to an endpoint itself".to_owned());
    }
    for Hop { workload, via } in hops.iter().filter(|_| handed) {
        if let Via::Tunnel(t) = via {
            let (namespace, name, identity) = (&workload.namespace, &workload.name, workload.identity());
            let line = format!("instance {namespace}/{name} as {identity}: HBONE {} for {}", t.via, t.target);
            explanation.path.push(line);
        }
    }
    let Some(instance) = hops.first().map(|hop| &hop.workload) else { return };
    let waypoint = instance.identity();
    let ipv6 = to.target.is_ipv6();
    let endpoints: Vec<Hop> = match to.service.as_ref().and_then(|key| mesh.service(key)) {
        Some(entry) => entry
            .endpoints
            .iter()
            .filter_map(|endpoint| next_hop::to_endpoint(mesh, instance, entry, endpoint, to.target.port(), ipv6))
            .collect(),
        None => {
            let workload = mesh.workload_at(&source.network, to.target.ip());
            workload.map(|workload| next_hop::to_workload(instance, workload, to.target, &[])).into_iter().collect()
        }
    };
    if handed {
        explanation.path.push("from there, unless a route says otherwise, on behalf of the source:".to_owned());
    }
    explanation.endpoints = endpoints.iter().map(|hop| judge(mesh, source, hop, Some(&waypoint))).collect();
}

/// The verdict of the destination on a call of the source, or of a waypoint on its behalf.
fn judge(mesh: &Snapshot, source: &Workload, hop: &Hop, waypoint: Option<&Identity>) -> Verdict {
    let identity = source.is_enrolled().then(|| source.identity());
    let (via, target, proven) = match &hop.via {
        Via::Plain(to) => (format!("TCP {to}"), *to, None),
        Via::Tunnel(t) if identity.is_some() => (format!("HBONE {} for {}", t.via, t.target), t.target, identity),
        Via::Tunnel(t) => (format!("TCP {}", t.target), t.target, None),
    };
    let applying = Applying::to(mesh, &hop.workload);
    let address = SocketAddr::new(source.addresses.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0])), 0);
    let mut facts = Facts::plaintext(address, target);
    match (waypoint, proven) {
        (Some(waypoint), Some(identity)) => {
            facts.source_identity = Some(waypoint.clone());
            facts.on_behalf_of = Some(Box::new(OnBehalfOf { identity, source: Some(address) }));
        }
        (_, proven) => facts.source_identity = proven,
    }
    let judged = applying.policies.iter().map(|policy| judged(policy, &applying, &facts)).collect();
    let enforced = hop.workload.is_enrolled();
    let outcome = if enforced { authorize::authorize(&applying, &facts).map(|p| p.by().cloned()) } else { Ok(None) };
    let verdict = match &outcome {
        Ok(_) if !enforced => "admitted: the destination is not enrolled, nothing judges it".to_owned(),
        Ok(Some(policy)) => format!("admitted by {policy}"),
        Ok(None) => "admitted: no ALLOW policy applies".to_owned(),
        Err(Refusal::NotAllowed) => format!("refused: {}{}", Refusal::NotAllowed, plaintext_hint(&applying, &facts)),
        Err(refusal) => format!("refused: {refusal}"),
    };
    let workload = format!("{}/{}", hop.workload.namespace, hop.workload.name);
    let waypoint = applying.coverage.told(target.port()).filter(|_| enforced);
    Verdict { workload, via, waypoint, policies: judged, verdict, admitted: outcome.is_ok() }
}

/// Whether one policy matches. Where both the peer and the client that it names are judged, a DENY must match one of
/// them, an ALLOW both.
fn judged(policy: &Authorization, applying: &Applying, facts: &Facts) -> Judged {
    let (caller, named) = authorize::subjects(&applying.coverage, facts);
    let mut both = std::iter::once(caller).chain(named);
    let takes_effect = |subject| matcher::effective_rule(policy, &subject).is_some();
    let matches = if policy.action == Action::Deny { both.any(takes_effect) } else { both.all(takes_effect) };
    let rules = authorize::trace(policy, &applying.coverage, facts);
    Judged {
        policy: policy.key.to_string(),
        action: policy.action.as_str().to_owned(),
        matches,
        rules: rules.iter().map(ToString::to_string).collect(),
        dry_run: policy.dry_run,
    }
}

/// A hint where the connection is refused because it is plaintext.
fn plaintext_hint(applying: &Applying, facts: &Facts) -> &'static str {
    use mesh::model::policy::PlaintextVerdict;
    let refuses = plaintext::compile(applying).default == PlaintextVerdict::Refuse;
    if facts.source_identity.is_none() && refuses { " (the connection carries no identity)" } else { "" }
}

fn find_workload(mesh: &Snapshot, name: &str) -> Result<Arc<Workload>, String> {
    let matches = |w: &&Arc<Workload>| match name.split_once('/') {
        Some((namespace, name)) => w.namespace.as_str() == namespace && w.name.as_str() == name,
        None => w.name.as_str() == name || w.addresses.iter().any(|a| a.to_string() == name),
    };
    let mut found: Vec<_> = mesh.workloads().filter(matches).collect();
    found.sort_by(|a, b| a.uid.cmp(&b.uid));
    match found[..] {
        [] => Err(format!("no workload is named {name}")),
        [one] => Ok(Arc::clone(one)),
        _ => {
            let names: Vec<_> = found.iter().map(|w| format!("{}/{}", w.namespace, w.name)).collect();
            Err(format!("{name} may be any of {}: say which namespace", names.join(", ")))
        }
    }
}

fn find_destination(mesh: &Snapshot, source: &Workload, text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text} has no port"))?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("port {port:?} must be a number from 1 to 65535"))?;
    let matches = |hostname: &str| {
        hostname == host
            || hostname.strip_prefix(host).is_some_and(|rest| {
                rest.starts_with('.') && (host.contains('.') || rest[1..].starts_with(source.namespace.as_str()))
            })
    };
    let mut services: Vec<_> = mesh.services().filter(|e| matches(&e.service.key.hostname)).collect();
    services.sort_by(|a, b| a.service.key.cmp(&b.service.key));
    if let Some(entry) = services.first() {
        let vip = entry.service.vips.iter().find_map(mesh::model::service::Vip::address);
        let vip = vip.ok_or_else(|| format!("service {} has no virtual address: name a pod", entry.service.key))?;
        return Ok(SocketAddr::new(vip, port));
    }
    let workload =
        find_workload(mesh, host).map_err(|_| format!("neither a service nor a workload is named {host}"))?;
    let address = workload.addresses.first().ok_or_else(|| format!("workload {host} has no address"))?;
    Ok(SocketAddr::new(*address, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::model::policy::{PolicyKey, Scope};
    use mesh::model::rule::{Attribute, Rule, Test};
    use mesh::model::service::Service;
    use mesh::model::update::Update;
    use mesh::model::waypoint::{Waypoint, WaypointDestination};
    use mesh::model::workload::{Health, TunnelProtocol, WorkloadService};
    use mesh::state::store::Store;

    fn mesh() -> Store {
        let shop = Service::sample("shop", "default", &["10.96.0.1".parse().unwrap()], &[(80, 8080)]);
        let served = WorkloadService { service: shop.key.clone(), ports: shop.ports.clone(), health: Health::Healthy };
        let deny = Authorization {
            key: PolicyKey { namespace: "default".into(), name: "no-client".into() },
            scope: Scope::Namespace,
            action: Action::Deny,
            rules: [Rule::of_source([Test::is(Attribute::Principal(["*/sa/client".parse().unwrap()].into()))])].into(),
            dry_run: false,
        };
        let store = Store::new(None);
        store.apply([
            Update::Service(Box::new(shop)),
            Update::Authorization(Box::new(deny)),
            Update::Workload(Box::new(Workload {
                services: [served].into(),
                ..Workload::sample("shop-1", "default", &["10.0.0.2".parse().unwrap()])
            })),
            Update::Workload(Box::new(Workload {
                service_account: "client".into(),
                ..Workload::sample("client", "default", &["10.0.0.1".parse().unwrap()])
            })),
            Update::Workload(Box::new(Workload {
                protocol: TunnelProtocol::None,
                ..Workload::sample("outsider", "default", &["10.0.0.3".parse().unwrap()])
            })),
        ]);
        store
    }

    #[test]
    fn a_denied_call_names_the_policy() {
        for to in ["shop:80", "shop.default:80", "shop.default.svc.cluster.local:80", "10.96.0.1:80"] {
            let said = explain(&mesh().snapshot(), "client", to).unwrap();
            assert!(!said.endpoints[0].admitted, "{to}: {said:?}");
            assert!(said.endpoints[0].verdict.contains("default/no-client"));
            let rule = "rule 0 (yes): from[0].principals [*/sa/client] of \"cluster.local/ns/default/sa/client\": yes";
            assert_eq!(said.endpoints[0].policies[0].rules, [rule]);
            assert_eq!(said.endpoints[0].via, "HBONE 10.0.0.2:15008 for 10.0.0.2:8080");
        }
    }

    #[test]
    fn a_source_that_is_not_enrolled_has_no_identity() {
        let said = explain(&mesh().snapshot(), "default/outsider", "shop-1:8080").unwrap();
        assert_eq!(said.source_identity, None);
        assert!(said.endpoints[0].admitted && said.endpoints[0].via.starts_with("TCP "));
    }

    #[test]
    fn a_service_behind_a_waypoint_shows_the_hop_and_the_verdict_on_the_client() {
        let store = mesh();
        let wp = Service::sample("wp", "default", &[], &[(15008, 15008)]);
        let destination =
            WaypointDestination::Service { namespace: "default".into(), hostname: wp.key.hostname.clone() };
        let waypoint = Waypoint::sample("default", "wp", Some(destination));
        let shop = Service::sample("shop", "default", &["10.96.0.1".parse().unwrap()], &[(80, 8080)]);
        let instance = Workload {
            native_tunnel: true,
            service_account: "wp".into(),
            services: [WorkloadService { service: wp.key.clone(), ports: wp.ports.clone(), health: Health::Healthy }]
                .into(),
            ..Workload::sample("wp-1", "default", &["10.0.0.9".parse().unwrap()])
        };
        store.apply([
            Update::Service(Box::new(wp)),
            Update::Service(Box::new(Service { waypoint: Some(Box::new(waypoint)), ..shop })),
            Update::Workload(Box::new(instance)),
        ]);
        let said = explain(&store.snapshot(), "client", "shop:80").unwrap();
        let path = said.path.join("\n");
        assert!(path.contains("behind waypoint default/wp"), "{path}");
        assert!(
            path.contains("default/wp-1 as spiffe://cluster.local/ns/default/sa/wp: HBONE 10.0.0.9:15008"),
            "{path}"
        );
        assert!(said.endpoints[0].verdict.contains("default/no-client"), "{said:?}");
        let plain = explain(&store.snapshot(), "outsider", "shop:80").unwrap();
        assert!(!plain.path.join("\n").contains("HBONE"), "{plain:?}");
        assert!(plain.endpoints[0].verdict.contains("bypassed_waypoint"), "{plain:?}");
        let direct = explain(&store.snapshot(), "client", "10.0.0.2:8080").unwrap();
        assert!(direct.endpoints[0].verdict.contains("bypassed_waypoint"), "{direct:?}");
        let closed =
            "port 8080 takes only what came through waypoint default/wp: AuthorizationPolicy default/guard guards it";
        assert_eq!(direct.endpoints[0].waypoint.as_deref(), Some(closed));
    }

    #[test]
    fn through_the_waypoint_of_another_namespace_the_client_is_judged_too() {
        let store = mesh();
        let own = Service::sample("own", "evil", &[], &[(15008, 15008)]);
        let trap = Service::sample("trap", "evil", &["10.96.6.6".parse().unwrap()], &[(80, 8080)]);
        let served = |service: &Service| WorkloadService {
            service: service.key.clone(),
            ports: service.ports.clone(),
            health: Health::Healthy,
        };
        let destination = WaypointDestination::Service { namespace: "evil".into(), hostname: own.key.hostname.clone() };
        let instance = Workload {
            native_tunnel: true,
            services: [served(&own)].into(),
            ..Workload::sample("own-1", "evil", &["10.0.0.9".parse().unwrap()])
        };
        let endpoint = Workload {
            services: [served(&trap)].into(),
            ..Workload::sample("shop-1", "default", &["10.0.0.2".parse().unwrap()])
        };
        let waypoint = Waypoint::sample("evil", "own", Some(destination));
        store.apply([
            Update::Service(Box::new(own)),
            Update::Service(Box::new(Service { waypoint: Some(Box::new(waypoint)), ..trap })),
            Update::Workload(Box::new(instance)),
            Update::Workload(Box::new(endpoint)),
        ]);
        let said = explain(&store.snapshot(), "client", "10.96.6.6:80").unwrap();
        let verdict = &said.endpoints[0];
        assert!(!verdict.admitted && verdict.verdict.contains("refused was the client"), "{said:?}");
        assert!(verdict.policies[0].matches && verdict.waypoint.is_none(), "{said:?}");
    }

    #[test]
    fn what_is_not_known_is_said() {
        assert!(explain(&mesh().snapshot(), "nobody", "shop:80").unwrap_err().contains("nobody"));
        assert!(explain(&mesh().snapshot(), "client", "nothing:80").unwrap_err().contains("nothing"));
        assert!(explain(&mesh().snapshot(), "client", "shop").unwrap_err().contains("port"));
        assert!(explain(&mesh().snapshot(), "client", "shop:81").unwrap().refused.unwrap().contains("no port 81"));
    }
}
