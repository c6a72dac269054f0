//! Pure. `security.istio.io`: RequestAuthentication. AuthorizationPolicies are read where agents read them.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

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
