//! Pure. `security.istio.io` PeerAuthentication and AuthorizationPolicy.
//!
//! Unknown fields are errors here: a misspelt `principals` that is ignored would admit everybody. Agents and waypoints
//! read an AuthorizationPolicy by this schema and no other.

use std::collections::BTreeMap;
use std::str::FromStr;

use http::HeaderName;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::value::{Cidr, PathText, Pattern, PortText, Principal};

/// `type.istio.io` WorkloadSelector.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Selector {
    pub(crate) match_labels: BTreeMap<String, String>,
}

/// `spec` of a PeerAuthentication.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct PeerAuthenticationSpec {
    pub(crate) selector: Option<Selector>,
    pub(crate) mtls: MutualTls,
    pub(crate) port_level_mtls: BTreeMap<PortText, MutualTls>,
}

/// `spec.mtls`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MutualTls {
    pub(crate) mode: Mode,
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Mode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

/// `spec` of an AuthorizationPolicy.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "RawAuthorizationPolicySpec")]
pub(crate) struct AuthorizationPolicySpec {
    pub(crate) selector: Option<Selector>,
    /// Whether it names what it applies to: then waypoints enforce it.
    pub(crate) has_targets: bool,
    pub(crate) action: Action,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawAuthorizationPolicySpec {
    selector: Option<Selector>,
    target_ref: Option<IgnoredAny>,
    target_refs: Vec<IgnoredAny>,
    action: Action,
    rules: Vec<Rule>,
    /// Of CUSTOM, which is not supported, whoever provides it.
    #[serde(rename = "provider")]
    _provider: Option<IgnoredAny>,
}

/// `spec.action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// One entry of `spec.rules`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(deserialize_with = "filled_list")]
    pub(crate) from: Option<Vec<From>>,
    #[serde(deserialize_with = "filled_list")]
    pub(crate) to: Option<Vec<To>>,
    pub(crate) when: Vec<Condition>,
}

/// One entry of `from`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct From {
    #[serde(deserialize_with = "filled")]
    pub(crate) source: Source,
}

/// `from[].source`: every field must hold.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) principals: Vec<Principal>,
    pub(crate) not_principals: Vec<Principal>,
    pub(crate) request_principals: Vec<Pattern>,
    pub(crate) not_request_principals: Vec<Pattern>,
    pub(crate) namespaces: Vec<Pattern>,
    pub(crate) not_namespaces: Vec<Pattern>,
    pub(crate) service_accounts: Vec<ServiceAccount>,
    pub(crate) not_service_accounts: Vec<ServiceAccount>,
    pub(crate) ip_blocks: Vec<Cidr>,
    pub(crate) not_ip_blocks: Vec<Cidr>,
    pub(crate) remote_ip_blocks: Vec<Cidr>,
    pub(crate) not_remote_ip_blocks: Vec<Cidr>,
    pub(crate) trust_domains: Vec<Pattern>,
    pub(crate) not_trust_domains: Vec<Pattern>,
}

/// One entry of `to`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct To {
    #[serde(deserialize_with = "filled")]
    pub(crate) operation: Operation,
}

/// `to[].operation`: every field must hold.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Operation {
    pub(crate) hosts: Vec<Pattern>,
    pub(crate) not_hosts: Vec<Pattern>,
    pub(crate) ports: Vec<PortText>,
    pub(crate) not_ports: Vec<PortText>,
    pub(crate) methods: Vec<Pattern>,
    pub(crate) not_methods: Vec<Pattern>,
    pub(crate) paths: Vec<PathText>,
    pub(crate) not_paths: Vec<PathText>,
}

/// A service account, `namespace/name` or `name` in the policy's namespace. No wildcards.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ServiceAccount {
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

/// One entry of `when`: the values of its key.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawCondition")]
pub(crate) enum Condition {
    SourceIp(Values<Cidr>),
    SourceNamespace(Values<Pattern>),
    SourcePrincipal(Values<Principal>),
    SourceServiceAccount(Values<ServiceAccount>),
    SourceTrustDomain(Values<Pattern>),
    DestinationIp(Values<Cidr>),
    DestinationPort(Values<PortText>),
    RemoteIp(Values<Cidr>),
    ServerName(Values<Pattern>),
    RequestPrincipal(Values<Pattern>),
    Audience(Values<Pattern>),
    Presenter(Values<Pattern>),
    Claim(Box<[Box<str>]>, Values<Pattern>),
    Header(HeaderName, Values<Pattern>),
    Host(Values<Pattern>),
    Method(Values<Pattern>),
}

/// `values` and `notValues`, not both empty.
#[derive(Debug, PartialEq)]
pub(crate) struct Values<T> {
    pub(crate) any: Vec<T>,
    pub(crate) none: Vec<T>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCondition {
    key: String,
    #[serde(default)]
    values: Vec<String>,
    #[serde(default)]
    not_values: Vec<String>,
}

impl FromStr for ServiceAccount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if text.contains('*') || name.is_empty() || name.contains('/') || namespace.is_some_and(str::is_empty) {
            return Err(format!("{text:?} is not a service account: namespace/name or name, without wildcards"));
        }
        Ok(Self { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }
}

impl TryFrom<String> for ServiceAccount {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl TryFrom<RawCondition> for Condition {
    type Error = String;

    fn try_from(raw: RawCondition) -> Result<Self, String> {
        if raw.values.is_empty() && raw.not_values.is_empty() {
            return Err(format!("{} has neither values nor notValues", raw.key));
        }
        Ok(match raw.key.as_str() {
            "source.ip" => Self::SourceIp(Values::parse(&raw)?),
            "source.namespace" => Self::SourceNamespace(Values::parse(&raw)?),
            "source.principal" => Self::SourcePrincipal(Values::parse(&raw)?),
            "source.serviceAccount" => Self::SourceServiceAccount(Values::parse(&raw)?),
            "source.trustDomain" => Self::SourceTrustDomain(Values::parse(&raw)?),
            "destination.ip" => Self::DestinationIp(Values::parse(&raw)?),
            "destination.port" => Self::DestinationPort(Values::parse(&raw)?),
            "remote.ip" => Self::RemoteIp(Values::parse(&raw)?),
            "connection.sni" => Self::ServerName(Values::parse(&raw)?),
            "request.auth.principal" => Self::RequestPrincipal(Values::parse(&raw)?),
            "request.auth.audiences" => Self::Audience(Values::parse(&raw)?),
            "request.auth.presenter" => Self::Presenter(Values::parse(&raw)?),
            key => Self::with_name(key, &raw)?,
        })
    }
}

impl Condition {
    /// Of a header or a claim, which the key names.
    fn with_name(key: &str, raw: &RawCondition) -> Result<Self, String> {
        let inner = |prefix: &str| key.strip_prefix(prefix)?.strip_suffix(']');
        if let Some(name) = inner("request.headers[") {
            return Ok(match name {
                // HTTP/2 has no `host` but `:authority`, and a policy means either.
                ":authority" => Self::Host(Values::parse(raw)?),
                name if name.eq_ignore_ascii_case("host") => Self::Host(Values::parse(raw)?),
                ":method" => Self::Method(Values::parse(raw)?),
                name => {
                    let name = name.parse().map_err(|_| format!("{name:?} is not the name of a header"))?;
                    Self::Header(name, Values::parse(raw)?)
                }
            });
        }
        if let Some(path) = inner("request.auth.claims[") {
            let path: Box<[Box<str>]> = path.split("][").map(Box::from).collect();
            if path.iter().any(|part| part.is_empty() || part.contains(['[', ']'])) {
                return Err(format!("{key:?} must name a claim as in request.auth.claims[a][b]"));
            }
            return Ok(Self::Claim(path, Values::parse(raw)?));
        }
        Err(format!("{key:?} is not a known key"))
    }
}

impl TryFrom<RawAuthorizationPolicySpec> for AuthorizationPolicySpec {
    type Error = &'static str;

    fn try_from(raw: RawAuthorizationPolicySpec) -> Result<Self, &'static str> {
        let has_targets = raw.target_ref.is_some() || !raw.target_refs.is_empty();
        if has_targets && raw.selector.is_some() {
            return Err("selector and targetRefs exclude each other");
        }
        Ok(Self { selector: raw.selector, has_targets, action: raw.action, rules: raw.rules })
    }
}

impl<T: FromStr<Err = String>> Values<T> {
    fn parse(raw: &RawCondition) -> Result<Self, String> {
        let all = |texts: &[String]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<T>, String>>();
        Ok(Self { any: all(&raw.values)?, none: all(&raw.not_values)? })
    }
}

impl<T> Values<T> {
    /// Values that must match, and such that must not.
    pub(crate) fn both(self) -> [Vec<T>; 2] {
        [self.any, self.none]
    }
}

/// A value in which something is named. An empty one would match everything, which is never what was meant.
fn filled<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default + PartialEq>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = T::deserialize(deserializer)?;
    if value == T::default() { Err(D::Error::custom("is empty: it would match everything")) } else { Ok(value) }
}

/// A list with at least one entry, if there is a list.
fn filled_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let list = Option::<Vec<T>>::deserialize(deserializer)?;
    match list {
        Some(list) if list.is_empty() => Err(D::Error::custom("is empty: leave it out, or name something")),
        list => Ok(list),
    }
}
