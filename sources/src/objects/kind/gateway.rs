//! Pure. Gateway and GatewayClass: the fields that concern waypoints.

use std::net::IpAddr;

use crate::objects::problem::Severity;
use crate::objects::schema::gateway as schema;
use crate::objects::schema::meta::Full;
use mesh::authority::listeners::{AllowedNamespaces, Operator, Requirement};
use mesh::model::name::{Hostname, Name};
use mesh::model::waypoint::HBONE_PORT;

use super::item::Item;
use super::meta::Reader;

/// Gateway classes of waypoints.
pub const WAYPOINT_CLASSES: [&str; 2] = ["culvert-waypoint", "istio-waypoint"];
/// Label that selects the traffic that a waypoint accepts.
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// `spec.gatewayClassName`.
    pub class: Name,
    /// Port of its HBONE listener, 15008 by default.
    pub hbone_port: u16,
    /// Which namespaces may use its HBONE listener.
    pub allowed: AllowedNamespaces,
    /// Label `istio.io/waypoint-for`.
    pub waypoint_for: WaypointFor,
    /// The first address in `status.addresses`.
    pub address: Option<GatewayAddress>,
    /// Whether condition Programmed is False.
    pub broken: bool,
}

/// One address of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayAddress {
    /// Type IPAddress.
    Ip(IpAddr),
    /// Type Hostname: the host name of a service.
    Hostname(Hostname),
}

/// The traffic that a waypoint accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaypointFor {
    /// Traffic addressed to services.
    pub services: bool,
    /// Traffic addressed to workloads.
    pub workloads: bool,
}

/// A GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayClass {
    /// `spec.controllerName`.
    pub controller: Name,
}

impl WaypointFor {
    fn parse(label: Option<&str>) -> Option<Self> {
        match label.unwrap_or("service") {
            "service" => Some(Self { services: true, workloads: false }),
            "workload" => Some(Self { services: false, workloads: true }),
            "all" => Some(Self { services: true, workloads: true }),
            "none" => Some(Self { services: false, workloads: false }),
            _ => None,
        }
    }
}

impl Gateway {
    pub(super) fn read(raw: Full<schema::GatewaySpec, schema::GatewayStatus>, reader: &mut Reader<'_>) -> Item<Self> {
        reader.check_enforcement(&raw.metadata);
        let meta = reader.meta(&raw.metadata, true);
        let status = raw.status.unwrap_or_default();
        let label = meta.labels.get(WAYPOINT_FOR).map(Name::as_str);
        let waypoint_for = WaypointFor::parse(label).unwrap_or_else(|| {
            let message = "not one of service, workload, all, none; all is assumed, so that nothing goes past it";
            reader.note(Severity::Warning, "metadata.labels[istio.io/waypoint-for]", message);
            WaypointFor { services: true, workloads: true }
        });
        let listener = raw.spec.listeners.into_iter().find(|listener| listener.protocol == "HBONE");
        let address = status.addresses.first().and_then(|address| read_address(address, reader));
        let gateway = Self {
            class: reader.name(&raw.spec.gateway_class_name),
            hbone_port: listener.as_ref().map_or(HBONE_PORT, |listener| listener.port.0),
            allowed: listener
                .map_or(AllowedNamespaces::Same, |listener| allowed(listener.allowed_routes.namespaces, reader)),
            waypoint_for,
            address,
            broken: status
                .conditions
                .iter()
                .any(|condition| condition.kind == "Programmed" && condition.status == "False"),
        };
        Item::new(reader.at.clone(), meta, gateway)
    }
}

fn read_address(address: &schema::GatewayAddress, reader: &mut Reader<'_>) -> Option<GatewayAddress> {
    match address.kind.as_deref() {
        None | Some("IPAddress") => match address.value.parse() {
            Ok(ip) => Some(GatewayAddress::Ip(ip)),
            Err(_) => {
                reader.note(
                    Severity::Error,
                    "status.addresses[0].value",
                    format!("{:?} is not an address", address.value),
                );
                None
            }
        },
        Some("Hostname") => Some(GatewayAddress::Hostname(reader.name(&address.value))),
        Some(_) => None,
    }
}

fn allowed(namespaces: schema::RouteNamespaces, reader: &mut Reader<'_>) -> AllowedNamespaces {
    match namespaces.from {
        schema::From::All => AllowedNamespaces::All,
        schema::From::Same => AllowedNamespaces::Same,
        schema::From::None => AllowedNamespaces::Nobody,
        schema::From::Selector => match namespaces.selector {
            None => AllowedNamespaces::Nobody,
            Some(selector) => AllowedNamespaces::Selected {
                labels: selector
                    .match_labels
                    .iter()
                    .map(|(key, value)| (reader.name(key), reader.name(value)))
                    .collect(),
                requirements: selector
                    .match_expressions
                    .iter()
                    .map(|requirement| Requirement {
                        key: reader.name(&requirement.key),
                        operator: operator(requirement.operator),
                        values: requirement.values.iter().map(|value| reader.name(value)).collect(),
                    })
                    .collect(),
            },
        },
    }
}

fn operator(written: schema::Operator) -> Operator {
    match written {
        schema::Operator::In => Operator::In,
        schema::Operator::NotIn => Operator::NotIn,
        schema::Operator::Exists => Operator::Exists,
        schema::Operator::DoesNotExist => Operator::DoesNotExist,
    }
}

impl GatewayClass {
    pub(super) fn read(
        raw: Full<schema::GatewayClassSpec, serde::de::IgnoredAny>,
        reader: &mut Reader<'_>,
    ) -> Item<Self> {
        let meta = reader.meta(&raw.metadata, false);
        Item::new(reader.at.clone(), meta, Self { controller: reader.name(&raw.spec.controller_name) })
    }
}
