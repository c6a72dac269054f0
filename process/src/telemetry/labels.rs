//! Pure. Source and destination of a connection, as access log and metrics name them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::sample::{Labels, LabelsBuilder};
use mesh::model::connection::{Direction, ResponseFlag};
use mesh::model::identity::Identity;
use mesh::model::service::ServiceKey;
use mesh::model::workload::Workload;

/// Source and destination of a connection. Cheap to clone; one value serves both the access log and the metrics.
///
/// Two values are equal when they name the same workload *objects*: comparing is on every connection's path.
#[derive(Clone, Debug)]
pub struct ConnectionLabels {
    /// Which side we report for: outbound is `reporter="source"`, inbound `reporter="destination"`.
    pub direction: Direction,
    /// The workload that called, if known.
    pub source: Option<Arc<Workload>>,
    /// What the source proved; `None` on plain text.
    pub source_identity: Option<Identity>,
    /// The waypoint between source and destination, if any. Only the access log names it: the metrics are ztunnel's.
    pub via: Option<Identity>,
    /// The workload that was called, if known.
    pub destination: Option<Arc<Workload>>,
    /// What the destination proved; `None` on plain text.
    pub destination_identity: Option<Identity>,
    /// The service that was called, if it was one.
    pub service: Option<ServiceKey>,
    /// Whether the bytes travelled under mutual TLS (`connection_security_policy="mutual_tls"`).
    pub mutual_tls: bool,
}

impl ConnectionLabels {
    /// Labels of a connection of which nothing is known but its direction.
    pub fn new(direction: Direction) -> Self {
        Self {
            direction,
            source: None,
            source_identity: None,
            via: None,
            destination: None,
            destination_identity: None,
            service: None,
            mutual_tls: false,
        }
    }

    /// The labels in the order that ztunnel emits; what is not known is `unknown`.
    pub fn render(&self, flag: ResponseFlag) -> Labels {
        let mut out = LabelsBuilder::default();
        out.put("reporter", reporter(self.direction));
        put_side(&mut out, &SOURCE, self.source.as_deref(), self.source_identity.as_ref());
        let service = self.service.as_ref();
        out.put("destination_service", service.map_or("", |s| &s.hostname));
        out.put("destination_service_namespace", service.map_or("", |s| &s.namespace));
        out.put("destination_service_name", service.map_or("", service_name));
        put_side(&mut out, &DESTINATION, self.destination.as_deref(), self.destination_identity.as_ref());
        out.put("request_protocol", "tcp");
        out.put("response_flags", flag.as_str());
        out.put("connection_security_policy", if self.mutual_tls { "mutual_tls" } else { "" });
        for (keys, workload) in [(&SOURCE, &self.source), (&DESTINATION, &self.destination)] {
            let locality = workload.as_ref().and_then(|w| w.locality.as_deref());
            out.put(keys.region, locality.map_or("", |l| &l.region));
            out.put(keys.zone, locality.map_or("", |l| &l.zone));
        }
        out.build()
    }
}

impl PartialEq for ConnectionLabels {
    fn eq(&self, other: &Self) -> bool {
        self.direction == other.direction
            && self.mutual_tls == other.mutual_tls
            && address(self.source.as_ref()) == address(other.source.as_ref())
            && address(self.destination.as_ref()) == address(other.destination.as_ref())
            && self.service == other.service
            && self.source_identity == other.source_identity
            && self.destination_identity == other.destination_identity
    }
}

impl Eq for ConnectionLabels {}

impl Hash for ConnectionLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.direction, self.mutual_tls).hash(state);
        address(self.source.as_ref()).hash(state);
        address(self.destination.as_ref()).hash(state);
        self.service.hash(state);
        self.source_identity.hash(state);
        self.destination_identity.hash(state);
    }
}

fn address(workload: Option<&Arc<Workload>>) -> Option<*const Workload> {
    workload.map(Arc::as_ptr)
}

/// The value of the label `reporter`.
pub fn reporter(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "destination",
        Direction::Outbound => "source",
    }
}

/// The object's name in front of a cluster-local host name; for any other host name all of it, as Istio reports
/// hosts of a ServiceEntry.
fn service_name(service: &ServiceKey) -> &str {
    match service.hostname.split_once('.') {
        Some((name, rest)) if rest.strip_prefix(service.namespace.as_str()).is_some_and(|r| r.starts_with(".svc")) => {
            name
        }
        _ => &service.hostname,
    }
}

struct Side {
    workload: &'static str,
    canonical_service: &'static str,
    canonical_revision: &'static str,
    namespace: &'static str,
    principal: &'static str,
    app: &'static str,
    version: &'static str,
    cluster: &'static str,
    region: &'static str,
    zone: &'static str,
}

const SOURCE: Side = Side {
    workload: "source_workload",
    canonical_service: "source_canonical_service",
    canonical_revision: "source_canonical_revision",
    namespace: "source_workload_namespace",
    principal: "source_principal",
    app: "source_app",
    version: "source_version",
    cluster: "source_cluster",
    region: "source_region",
    zone: "source_zone",
};

const DESTINATION: Side = Side {
    workload: "destination_workload",
    canonical_service: "destination_canonical_service",
    canonical_revision: "destination_canonical_revision",
    namespace: "destination_workload_namespace",
    principal: "destination_principal",
    app: "destination_app",
    version: "destination_version",
    cluster: "destination_cluster",
    region: "destination_region",
    zone: "destination_zone",
};

fn put_side(out: &mut LabelsBuilder, keys: &Side, workload: Option<&Workload>, identity: Option<&Identity>) {
    out.put(keys.workload, workload.map_or("", |w| &w.workload_name));
    out.put(keys.canonical_service, workload.map_or("", |w| &w.canonical_name));
    out.put(keys.canonical_revision, workload.map_or("", |w| &w.canonical_revision));
    out.put(keys.namespace, workload.map_or("", |w| &w.namespace));
    match identity {
        Some(identity) => out.put_display(keys.principal, identity),
        None => out.put(keys.principal, ""),
    }
    // `app` and `version` are the canonical ones in ztunnel too: the workload API does not carry the labels.
    out.put(keys.app, workload.map_or("", |w| &w.canonical_name));
    out.put(keys.version, workload.map_or("", |w| &w.canonical_revision));
    out.put(keys.cluster, workload.map_or("", |w| &w.cluster));
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::model::workload::Locality;

    fn keys(rendered: &str) -> Vec<&str> {
        rendered.split("\",").map(|pair| pair.split_once('=').unwrap().0).collect()
    }

    #[test]
    fn labels_stand_in_the_order_that_ztunnel_emits() {
        let rendered = ConnectionLabels::new(Direction::Outbound).render(ResponseFlag::None);
        let rendered = rendered.as_str();
        let expected = "reporter source_workload source_canonical_service source_canonical_revision \
            source_workload_namespace source_principal source_app source_version source_cluster destination_service \
            destination_service_namespace destination_service_name destination_workload destination_canonical_service \
            destination_canonical_revision destination_workload_namespace destination_principal destination_app \
            destination_version destination_cluster request_protocol response_flags connection_security_policy \
            source_region source_zone destination_region destination_zone";
        assert_eq!(keys(rendered), expected.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_known_is_unknown() {
        let rendered = ConnectionLabels::new(Direction::Inbound).render(ResponseFlag::None);
        let rendered = rendered.as_str();
        assert!(rendered.starts_with(r#"reporter="destination",source_workload="unknown","#), "{rendered}");
        assert_eq!(rendered.matches("\"unknown\"").count(), 24, "{rendered}");
    }

    #[test]
    fn what_is_known_is_told() {
        let mut shop = Workload::sample("shop-1", "default", &[]);
        shop.workload_name = "shop".into();
        shop.locality = Some(Box::new(Locality { region: "eu".into(), zone: "eu-1".into(), subzone: "".into() }));
        let labels = ConnectionLabels {
            source_identity: Some(Identity::new("cluster.local", "default", "client")),
            destination: Some(Arc::new(shop)),
            service: Some(ServiceKey {
                namespace: "default".into(),
                hostname: "shop.default.svc.cluster.local".into(),
            }),
            mutual_tls: true,
            ..ConnectionLabels::new(Direction::Inbound)
        };
        let rendered = labels.render(ResponseFlag::Deny);
        let rendered = rendered.as_str();
        for part in [
            r#"source_principal="spiffe://cluster.local/ns/default/sa/client""#,
            r#"destination_service="shop.default.svc.cluster.local",destination_service_namespace="default",destination_service_name="shop""#,
            r#"destination_workload="shop",destination_canonical_service="shop-1""#,
            r#"response_flags="DENY",connection_security_policy="mutual_tls""#,
            r#"destination_region="eu",destination_zone="eu-1""#,
        ] {
            assert!(rendered.contains(part), "{part} is not in {rendered}");
        }
    }

    #[test]
    fn a_host_outside_the_cluster_is_its_own_service_name() {
        for (hostname, name) in [
            ("shop.default.svc.cluster.local", "shop"),
            ("api.example.com", "api.example.com"),
            ("shop.other.svc.cluster.local", "shop.other.svc.cluster.local"),
            ("single", "single"),
        ] {
            let key = ServiceKey { namespace: "default".into(), hostname: hostname.into() };
            assert_eq!(service_name(&key), name);
        }
    }
}
