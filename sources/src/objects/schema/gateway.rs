//! Pure. `gateway.networking.k8s.io` Gateway and GatewayClass, as far as waypoints go.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::meta::Condition;
use super::value::Port;

/// `spec` of a Gateway.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewaySpec {
    pub(crate) gateway_class_name: String,
    #[serde(default)]
    pub(crate) listeners: Vec<Listener>,
}

/// One entry of `spec.listeners`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listener {
    pub(crate) port: Port,
    pub(crate) protocol: String,
    #[serde(default)]
    pub(crate) allowed_routes: AllowedRoutes,
}

/// `allowedRoutes` of a listener.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AllowedRoutes {
    pub(crate) namespaces: RouteNamespaces,
}

/// `allowedRoutes.namespaces`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RouteNamespaces {
    pub(crate) from: From,
    pub(crate) selector: Option<LabelSelector>,
}

/// `allowedRoutes.namespaces.from`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum From {
    All,
    #[default]
    Same,
    Selector,
    None,
}

/// `meta/v1` LabelSelector.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LabelSelector {
    pub(crate) match_labels: BTreeMap<String, String>,
    pub(crate) match_expressions: Vec<Requirement>,
}

/// One entry of `matchExpressions`.
#[derive(Debug, Deserialize)]
pub(crate) struct Requirement {
    pub(crate) key: String,
    pub(crate) operator: Operator,
    #[serde(default)]
    pub(crate) values: Vec<String>,
}

/// `operator` of a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// `status` of a Gateway.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GatewayStatus {
    pub(crate) addresses: Vec<GatewayAddress>,
    pub(crate) conditions: Vec<Condition>,
}

/// One entry of `status.addresses`.
#[derive(Debug, Deserialize)]
pub(crate) struct GatewayAddress {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) value: String,
}

/// `spec` of a GatewayClass.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayClassSpec {
    pub(crate) controller_name: String,
}
