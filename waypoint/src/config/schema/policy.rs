//! Pure. `culvert.dev/v1alpha1 MeshPolicy`, and the fields of XBackendTrafficPolicy and DestinationRule that have an
//! effect here. MeshPolicy is ours, so a misspelt field is an error.

use mesh::authority::attachment::Reference;
use serde::{Deserialize, Serialize};

/// What a policy applies to.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// `group`.
    #[serde(default)]
    pub group: String,
    /// `kind`: Mesh, Namespace, Gateway, Service, HTTPRoute, GRPCRoute; also GatewayClass and ServiceEntry for security.
    pub kind: String,
    /// `name`; the whole kind without, for Mesh.
    #[serde(default)]
    pub name: String,
    /// Must be the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// A rule's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

impl TargetRef {
    /// The same for those who decide what it means.
    pub fn reference(&self) -> Reference<'_> {
        let (group, kind, name) = (&self.group, &self.kind, &self.name);
        Reference { group, kind, name, namespace: self.namespace.as_deref() }
    }
}

/// Spec of MeshPolicy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MeshPolicySpec {
    /// Without: the namespace of the policy, or the whole mesh in a root namespace.
    pub target_refs: Vec<TargetRef>,
    /// How long.
    pub deadline: Deadline,
    /// How often.
    pub retry: Retry,
    /// Where to.
    pub load_balancing: LoadBalancing,
    /// Where not to.
    pub circuit_breaker: CircuitBreaker,
    /// How many.
    pub rate_limit: Option<RateLimit>,
    /// What is recorded.
    pub tracing: Tracing,
    /// How endpoints are connected to.
    pub connect: Connect,
    /// BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES.
    pub path_normalization: Option<String>,
}

/// `spec.deadline`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Deadline {
    /// Until response headers; `0s` is off.
    pub default: Option<String>,
    /// For the whole exchange; `0s` is off.
    pub request: Option<String>,
    /// Whether callers' deadlines count and go on.
    pub propagate: Option<bool>,
    /// For streams; `0s` is off.
    pub idle: Option<String>,
}

/// `spec.retry`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Retry {
    /// 0 is off.
    pub attempts: Option<u32>,
    /// 400 to 599.
    pub codes: Option<Vec<u16>>,
    /// Names or numbers.
    pub grpc_codes: Option<Vec<Word>>,
    /// Whether only idempotent methods are repeated.
    pub idempotent_only: Option<bool>,
    /// How long to wait.
    pub backoff: Backoff,
    /// For one attempt; `0s` is off.
    pub per_try_timeout: Option<String>,
    /// `honour` or `ignore`.
    pub retry_after: Option<String>,
    /// For the service.
    pub budget: Budget,
    /// `64Ki` or a number.
    pub max_body_bytes: Option<Word>,
}

/// A text or a number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// `spec.retry.backoff`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Backoff {
    /// The first wait.
    pub base: Option<String>,
    /// The longest wait.
    pub max: Option<String>,
    /// `full-additive`; it cannot be switched off.
    pub jitter: Option<String>,
}

/// `spec.retry.budget`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Budget {
    /// Of requests.
    pub percent: Option<u32>,
    /// 1 s to 1 h.
    pub interval: Option<String>,
    /// Always allowed.
    pub min_per_second: Option<f64>,
}

/// `spec.loadBalancing`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LoadBalancing {
    /// peakEwma, leastRequest, roundRobin, random, consistentHash.
    pub algorithm: Option<String>,
    /// Of the average.
    pub decay: Option<String>,
    /// Of a new endpoint.
    pub initial_rtt: Option<String>,
    /// Of a failure.
    pub failure_penalty: Option<String>,
    /// Of a new endpoint.
    pub slow_start: Option<String>,
    /// For consistentHash.
    pub hash_on: Option<HashOn>,
}

/// `spec.loadBalancing.hashOn`: exactly one field.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HashOn {
    /// A header's name.
    pub header: Option<String>,
    /// A cookie's name.
    pub cookie: Option<String>,
    /// A query parameter's name.
    pub query: Option<String>,
    /// The client's address.
    pub source_ip: Option<bool>,
}

/// `spec.circuitBreaker`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Of one endpoint.
    pub endpoint: EndpointBreaker,
    /// Of the service.
    pub service: ServiceLimits,
}

/// `spec.circuitBreaker.endpoint`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EndpointBreaker {
    /// 0 is off.
    pub consecutive: Option<u32>,
    /// 0 to 1; 0 is off.
    pub success_rate: Option<f64>,
    /// Of the success rate.
    pub window: Option<String>,
    /// Of the success rate.
    pub min_requests: Option<u32>,
    /// How long.
    pub open: Open,
    /// `50%` or a number.
    pub max_ejected: Option<Word>,
    /// Connections to one endpoint.
    pub max_connections: Option<u32>,
}

/// `spec.circuitBreaker.endpoint.open`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Open {
    /// The first.
    pub min: Option<String>,
    /// The longest.
    pub max: Option<String>,
}

/// `spec.circuitBreaker.service`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServiceLimits {
    /// Requests in flight.
    pub max_in_flight: Option<u32>,
    /// Requests waiting.
    pub max_pending: Option<u32>,
    /// How long they wait.
    pub max_wait: Option<String>,
}

/// `spec.rateLimit`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// In the long run.
    pub requests_per_second: f64,
    /// At once; default one second's worth.
    pub burst: Option<u32>,
}

/// `spec.tracing`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tracing {
    /// `1%` or 0 to 1.
    pub sampling: Option<serde_json::Value>,
    /// `http://collector:4318`: where spans go. Only from the mesh's default policy.
    pub otlp: Option<String>,
}

/// `spec.connect`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Connect {
    /// Of TCP and TLS.
    pub timeout: Option<String>,
    /// Of an idle connection.
    pub idle: Option<String>,
    /// 0 is unlimited.
    pub max_requests_per_connection: Option<u32>,
}

/// Spec of XBackendTrafficPolicy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTrafficSpec {
    /// Services.
    pub target_refs: Vec<TargetRef>,
    /// The budget.
    pub retry_constraint: Option<RetryConstraint>,
}

/// `spec.retryConstraint`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryConstraint {
    /// The share.
    pub budget: ConstraintBudget,
    /// The rate.
    pub min_retry_rate: RequestRate,
}

/// `spec.retryConstraint.budget`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConstraintBudget {
    /// Default 20.
    pub percent: Option<u32>,
    /// Default 10s.
    pub interval: Option<String>,
}

/// `spec.retryConstraint.minRetryRate`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRate {
    /// Default 10.
    pub count: Option<u32>,
    /// Default 1s.
    pub interval: Option<String>,
}

/// Spec of DestinationRule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRuleSpec {
    /// A service's host name, short or full.
    pub host: String,
    /// Namespaces whose clients it concerns: `*` (default), `.`, `~` or names.
    pub export_to: Vec<String>,
    /// What applies to it.
    pub traffic_policy: TrafficPolicy,
}

/// `spec.trafficPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: ConnectionPool,
    /// `outlierDetection`.
    pub outlier_detection: Option<OutlierDetection>,
    /// `retryBudget`.
    pub retry_budget: Option<RetryBudget>,
}

/// `loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// ROUND_ROBIN and so on.
    pub simple: Option<String>,
    /// What to hash.
    pub consistent_hash: Option<ConsistentHash>,
    /// Slow start.
    pub warmup: Option<Warmup>,
}

/// `loadBalancer.consistentHash`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHash {
    /// A header.
    pub http_header_name: Option<String>,
    /// A cookie.
    pub http_cookie: Option<CookieName>,
    /// The client's address.
    pub use_source_ip: Option<bool>,
    /// A query parameter.
    pub http_query_parameter_name: Option<String>,
}

/// `loadBalancer.consistentHash.httpCookie`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CookieName {
    /// Its name.
    pub name: String,
}

/// `loadBalancer.warmup`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Warmup {
    /// How long.
    pub duration: Option<String>,
}

/// `connectionPool`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConnectionPool {
    /// `tcp`.
    pub tcp: TcpPool,
    /// `http`.
    pub http: HttpPool,
}

/// `connectionPool.tcp`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpPool {
    /// `maxConnections`.
    pub max_connections: Option<u32>,
    /// `connectTimeout`.
    pub connect_timeout: Option<String>,
    /// `idleTimeout`.
    pub idle_timeout: Option<String>,
}

/// `connectionPool.http`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPool {
    /// Requests waiting.
    pub http1_max_pending_requests: Option<u32>,
    /// Requests in flight.
    pub http2_max_requests: Option<u32>,
    /// `maxRequestsPerConnection`.
    pub max_requests_per_connection: Option<u32>,
    /// `idleTimeout`.
    pub idle_timeout: Option<String>,
}

/// `outlierDetection`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// `consecutive5xxErrors`.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// `consecutiveGatewayErrors`.
    pub consecutive_gateway_errors: Option<u32>,
    /// `interval`.
    pub interval: Option<String>,
    /// `baseEjectionTime`.
    pub base_ejection_time: Option<String>,
    /// `maxEjectionPercent`.
    pub max_ejection_percent: Option<u32>,
}

/// `retryBudget`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Default 20.
    pub percent: Option<f64>,
}
