//! Pure. `security.istio.io`: AuthorizationPolicy and RequestAuthentication, as far as a waypoint enforces them.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Spec of AuthorizationPolicy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AuthorizationSpec {
    /// What it applies to, read apart; without, it is the agents' business.
    pub target_refs: IgnoredAny,
    /// The old singular form.
    pub target_ref: IgnoredAny,
    /// Excludes the other two, and is not a waypoint's business.
    pub selector: Option<Value>,
    /// Of CUSTOM.
    pub provider: IgnoredAny,
    /// Default ALLOW.
    pub action: Option<String>,
    /// Any of them.
    pub rules: Vec<Rule>,
}

/// `rules[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Any of them.
    pub from: Option<Vec<From>>,
    /// Any of them.
    pub to: Option<Vec<To>>,
    /// All of them.
    pub when: Vec<When>,
}

/// `from[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct From {
    /// `source`.
    pub source: Source,
}

/// `from[].source`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of the object, each with its negation")]
pub struct Source {
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    pub trust_domains: Vec<String>,
    pub not_trust_domains: Vec<String>,
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
}

/// `to[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct To {
    /// `operation`.
    pub operation: Operation,
}

/// `to[].operation`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of the object, each with its negation")]
pub struct Operation {
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

/// `when[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct When {
    /// What is looked at.
    pub key: String,
    /// Any fits.
    pub values: Vec<String>,
    /// None fits.
    pub not_values: Vec<String>,
}

/// Spec of RequestAuthentication.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RequestAuthenticationSpec {
    /// What it applies to, read apart; without, it is not a waypoint's business.
    pub target_refs: IgnoredAny,
    /// The old singular form.
    pub target_ref: IgnoredAny,
    /// Excludes the other two.
    pub selector: Option<Value>,
    /// Trusted issuers.
    pub jwt_rules: Vec<JwtRule>,
}

/// `jwtRules[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct JwtRule {
    /// `issuer`.
    pub issuer: String,
    /// `audiences`.
    pub audiences: Vec<String>,
    /// `jwksUri`.
    #[serde(alias = "jwks_uri")]
    pub jwks_uri: Option<String>,
    /// `jwks`.
    pub jwks: Option<String>,
    /// `fromHeaders`.
    pub from_headers: Vec<FromHeader>,
    /// `fromParams`.
    pub from_params: Vec<String>,
    /// `fromCookies`.
    pub from_cookies: Vec<String>,
    /// `outputPayloadToHeader`.
    pub output_payload_to_header: Option<String>,
    /// `outputClaimToHeaders`.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// `forwardOriginalToken`.
    pub forward_original_token: bool,
    /// `spaceDelimitedClaims`.
    pub space_delimited_claims: Vec<String>,
    /// `timeout` for fetching keys: ours is fixed.
    pub timeout: IgnoredAny,
}

/// `fromHeaders[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FromHeader {
    /// The header.
    pub name: String,
    /// What stands before the token.
    pub prefix: String,
}

/// `outputClaimToHeaders[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimToHeader {
    /// The header.
    pub header: String,
    /// The claim, nested ones with dots.
    pub claim: String,
}
