//! Pure. `gateway.networking.k8s.io`: HTTPRoute, GRPCRoute and TCPRoute, all versions. Enumerations are text, so that
//! an unknown value costs one rule and not the route.

use serde::{Deserialize, Serialize};

/// Spec of any of the three. Fields that a kind does not have stay empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteSpec {
    /// `parentRefs`.
    pub parent_refs: Vec<ParentRef>,
    /// `hostnames`.
    pub hostnames: Vec<String>,
    /// `rules`; HTTPRoute has one that matches everything when there is none.
    pub rules: Option<Vec<RouteRule>>,
}

/// `ParentReference`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Default `gateway.networking.k8s.io`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Default `Gateway`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Default the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `name`.
    pub name: String,
    /// For a Service: the name of a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// For a Service: one of its ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A rule of any of the three.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteRule {
    /// `name`.
    pub name: Option<String>,
    /// `matches`.
    pub matches: Vec<RouteMatch>,
    /// `filters`.
    pub filters: Vec<Filter>,
    /// `backendRefs`.
    pub backend_refs: Vec<BackendRef>,
    /// `timeouts`.
    pub timeouts: Timeouts,
    /// `retry`.
    pub retry: Option<Retry>,
    /// `sessionPersistence`: reported as not supported.
    pub session_persistence: Option<serde_json::Value>,
}

/// `HTTPRouteMatch` or `GRPCRouteMatch`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteMatch {
    /// `path` (HTTP).
    pub path: Option<TypedValue>,
    /// `headers`.
    pub headers: Vec<NamedValue>,
    /// `queryParams` (HTTP).
    pub query_params: Vec<NamedValue>,
    /// `method`: a text in HTTP, an object in gRPC.
    pub method: Option<MethodMatch>,
}

/// `method` of either kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum MethodMatch {
    /// HTTP.
    Http(String),
    /// gRPC.
    Grpc(GrpcMethod),
}

/// `GRPCMethodMatch`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcMethod {
    /// `Exact` (default) or `RegularExpression`.
    pub r#type: Option<String>,
    /// `service`.
    pub service: Option<String>,
    /// `method`.
    pub method: Option<String>,
}

/// A type and a value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypedValue {
    /// `type`.
    pub r#type: Option<String>,
    /// `value`.
    pub value: Option<String>,
}

/// A type, a name and a value.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedValue {
    /// `type`.
    pub r#type: Option<String>,
    /// `name`.
    pub name: String,
    /// `value`.
    pub value: String,
}

/// `HTTPRouteFilter` or `GRPCRouteFilter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// Which of the fields below counts.
    pub r#type: String,
    /// `requestHeaderModifier`.
    pub request_header_modifier: Option<HeaderModifier>,
    /// `responseHeaderModifier`.
    pub response_header_modifier: Option<HeaderModifier>,
    /// `requestMirror`.
    pub request_mirror: Option<RequestMirror>,
    /// `requestRedirect`.
    pub request_redirect: Option<RequestRedirect>,
    /// `urlRewrite`.
    pub url_rewrite: Option<UrlRewrite>,
    /// `cors`.
    pub cors: Option<CorsFilter>,
}

/// `HTTPHeaderFilter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderModifier {
    /// `set`.
    pub set: Vec<Header>,
    /// `add`.
    pub add: Vec<Header>,
    /// `remove`.
    pub remove: Vec<String>,
}

/// `HTTPHeader`.
#[derive(Clone, Debug, Deserialize)]
pub struct Header {
    /// `name`.
    pub name: String,
    /// `value`.
    pub value: String,
}

/// `HTTPRequestMirrorFilter`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    /// `backendRef`.
    pub backend_ref: BackendRef,
    /// `percent`.
    pub percent: Option<u32>,
    /// `fraction`.
    pub fraction: Option<Fraction>,
}

/// `Fraction`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Fraction {
    /// `numerator`.
    pub numerator: u32,
    /// `denominator`, default 100.
    pub denominator: Option<u32>,
}

/// `HTTPRequestRedirectFilter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirect {
    /// `scheme`.
    pub scheme: Option<String>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `path`.
    pub path: Option<PathModifier>,
    /// `port`.
    pub port: Option<u16>,
    /// `statusCode`, default 302.
    pub status_code: Option<u16>,
}

/// `HTTPURLRewriteFilter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UrlRewrite {
    /// `hostname`.
    pub hostname: Option<String>,
    /// `path`.
    pub path: Option<PathModifier>,
}

/// `HTTPPathModifier`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    pub r#type: String,
    /// `replaceFullPath`.
    pub replace_full_path: Option<String>,
    /// `replacePrefixMatch`.
    pub replace_prefix_match: Option<String>,
}

/// `HTTPCORSFilter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsFilter {
    /// `allowOrigins`.
    pub allow_origins: Vec<String>,
    /// `allowCredentials`.
    pub allow_credentials: Option<bool>,
    /// `allowMethods`.
    pub allow_methods: Vec<String>,
    /// `allowHeaders`.
    pub allow_headers: Vec<String>,
    /// `exposeHeaders`.
    pub expose_headers: Vec<String>,
    /// `maxAge`, default 5.
    pub max_age: Option<u32>,
}

/// `HTTPBackendRef`, `GRPCBackendRef`, `BackendRef`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Default the core group.
    pub group: Option<String>,
    /// Default `Service`.
    pub kind: Option<String>,
    /// `name`.
    pub name: String,
    /// Default the route's.
    pub namespace: Option<String>,
    /// Required for a Service.
    pub port: Option<u16>,
    /// Default 1.
    pub weight: Option<u32>,
    /// `filters`.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// `HTTPRouteTimeouts`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// `request`.
    pub request: Option<String>,
    /// `backendRequest`.
    pub backend_request: Option<String>,
}

/// `HTTPRouteRetry`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// `codes`.
    pub codes: Option<Vec<u16>>,
    /// `attempts`.
    pub attempts: Option<u32>,
    /// `backoff`.
    pub backoff: Option<String>,
}
