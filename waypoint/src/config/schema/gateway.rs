//! Pure. `gateway.networking.k8s.io` Gateway, as far as attaching routes goes. Enumerations are text: an unknown value
//! admits nobody.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GatewaySpec {
    /// `listeners`.
    pub listeners: Vec<Listener>,
}

/// One entry of `listeners`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// `name`.
    #[serde(default)]
    pub name: String,
    /// `port`.
    pub port: u16,
    /// `protocol`; waypoints serve `HBONE`.
    pub protocol: String,
    /// `allowedRoutes`.
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

/// `AllowedRoutes`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// `namespaces`.
    pub namespaces: Namespaces,
    /// `kinds`; any when empty.
    pub kinds: Vec<Kind>,
}

/// `RouteNamespaces`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// `Same` (default), `All`, `Selector` or `None`.
    pub from: Option<String>,
    /// With `Selector`.
    pub selector: Option<Selector>,
}

/// `RouteGroupKind`.
#[derive(Clone, Debug, Deserialize)]
pub struct Kind {
    /// Default `gateway.networking.k8s.io`.
    pub group: Option<String>,
    /// `kind`.
    pub kind: String,
}

/// meta/v1 LabelSelector.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// `matchLabels`.
    pub match_labels: BTreeMap<String, String>,
    /// `matchExpressions`.
    pub match_expressions: Vec<Requirement>,
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, Deserialize)]
pub struct Requirement {
    /// `key`.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// `values`.
    #[serde(default)]
    pub values: Vec<String>,
}
