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
    /// `kind`: Mesh, Namespace, Gateway, Service, HTTPRoute, GRPCRoute; for security also GatewayClass and
    /// ServiceEntry.
    pub kind: String,
    /// `name`; a reference to `Mesh` may leave it out.
    #[serde(default)]
    pub name: String,
    /// `namespace`; must be the namespace of the policy itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `sectionName`: the name of a rule of the route.
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
    /// What it applies to. When empty: the namespace of the policy, or the whole mesh in a root namespace.
    pub target_refs: Vec<TargetRef>,
    /// Timeouts of requests and streams.
    pub deadline: Deadline,
    /// Retries and their budget.
    pub retry: Retry,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// Ejection of endpoints, and concurrency limits.
    pub circuit_breaker: CircuitBreaker,
    /// Local rate limit.
    pub rate_limit: Option<RateLimit>,
    /// Sampling and export of spans.
    pub tracing: Tracing,
    /// Connections to endpoints.
    pub connect: Connect,
    /// `BASE`, `MERGE_SLASHES` or `DECODE_AND_MERGE_SLASHES`.
    pub path_normalization: Option<String>,
}

/// `spec.deadline`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Deadline {
    /// Timeout until response headers, unless `request` is set; `0s` is off.
    pub default: Option<String>,
    /// Timeout of the whole exchange, retries included; `0s` is off.
    pub request: Option<String>,
    /// Whether deadlines in request headers are honoured and forwarded.
    pub propagate: Option<bool>,
    /// Idle timeout of a stream; `0s` is off.
    pub idle: Option<String>,
}

/// `spec.retry`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Retry {
    /// Most retries of a request; 0 is off.
    pub attempts: Option<u32>,
    /// HTTP status codes that are retried, 400 to 599.
    pub codes: Option<Vec<u16>>,
    /// gRPC status codes that are retried, as names or numbers.
    pub grpc_codes: Option<Vec<Word>>,
    /// Whether only idempotent methods are repeated.
    pub idempotent_only: Option<bool>,
    /// Wait before a retry.
    pub backoff: Backoff,
    /// Timeout of one attempt; `0s` is off.
    pub per_try_timeout: Option<String>,
    /// What `Retry-After` does: `honour` or `ignore`.
    pub retry_after: Option<String>,
    /// Retry budget of the service.
    pub budget: Budget,
    /// Most bytes of a request body that are buffered for a retry: `64Ki` or a number.
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
    /// Wait before the first retry, without jitter.
    pub base: Option<String>,
    /// Longest wait, without jitter.
    pub max: Option<String>,
    /// `full-additive`, the only kind.
    pub jitter: Option<String>,
}

/// `spec.retry.budget`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Budget {
    /// Retries per hundred requests.
    pub percent: Option<u32>,
    /// The time over which requests and retries are counted, 1 s to 1 h.
    pub interval: Option<String>,
    /// Retries per second that are allowed whatever `percent` says.
    pub min_per_second: Option<f64>,
}

/// `spec.loadBalancing`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LoadBalancing {
    /// `peakEwma`, `leastRequest`, `roundRobin`, `random` or `consistentHash`.
    pub algorithm: Option<String>,
    /// Time constant of the moving average of latency.
    pub decay: Option<String>,
    /// Latency that an endpoint without samples is assumed to have.
    pub initial_rtt: Option<String>,
    /// Latency that a failed request counts as.
    pub failure_penalty: Option<String>,
    /// How long a new endpoint is warmed up.
    pub slow_start: Option<String>,
    /// What `consistentHash` hashes.
    pub hash_on: Option<HashOn>,
}

/// `spec.loadBalancing.hashOn`: exactly one field.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HashOn {
    /// The name of a request header.
    pub header: Option<String>,
    /// The name of a cookie.
    pub cookie: Option<String>,
    /// The name of a query parameter.
    pub query: Option<String>,
    /// The client's address.
    pub source_ip: Option<bool>,
}

/// `spec.circuitBreaker`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Ejection of single endpoints (outlier detection).
    pub endpoint: EndpointBreaker,
    /// Concurrency limits of the service.
    pub service: ServiceLimits,
}

/// `spec.circuitBreaker.endpoint`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EndpointBreaker {
    /// Failures in a row that eject an endpoint; 0 is off.
    pub consecutive: Option<u32>,
    /// The lowest success rate, 0 to 1, that does not eject an endpoint; 0 is off.
    pub success_rate: Option<f64>,
    /// The time over which the success rate is measured.
    pub window: Option<String>,
    /// Fewest requests within `window` for which the success rate counts.
    pub min_requests: Option<u32>,
    /// Duration of an ejection.
    pub open: Open,
    /// Most of a service's endpoints that may be ejected at once: `50%` or a number of percent.
    pub max_ejected: Option<Word>,
    /// Most connections to one endpoint.
    pub max_connections: Option<u32>,
}

/// `spec.circuitBreaker.endpoint.open`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Open {
    /// Duration of the first ejection; each further one in a row lasts twice as long.
    pub min: Option<String>,
    /// Longest ejection, before jitter.
    pub max: Option<String>,
}

/// `spec.circuitBreaker.service`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServiceLimits {
    /// Most requests in flight to the service.
    pub max_in_flight: Option<u32>,
    /// Most requests that wait for one of those to end.
    pub max_pending: Option<u32>,
    /// How long a request waits at most.
    pub max_wait: Option<String>,
}

/// `spec.rateLimit`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Sustained rate, per waypoint instance.
    pub requests_per_second: f64,
    /// Requests that may come at once; default one second's worth.
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
    /// Timeout of TCP connect and TLS handshake.
    pub timeout: Option<String>,
    /// How long an unused connection is kept.
    pub idle: Option<String>,
    /// Most requests on one connection; 0 is unlimited.
    pub max_requests_per_connection: Option<u32>,
}

/// Spec of XBackendTrafficPolicy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTrafficSpec {
    /// The Services that it applies to.
    pub target_refs: Vec<TargetRef>,
    /// The retry budget.
    pub retry_constraint: Option<RetryConstraint>,
}

/// `spec.retryConstraint`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryConstraint {
    /// Retries as a percentage of requests.
    pub budget: ConstraintBudget,
    /// Retry rate that is always allowed.
    pub min_retry_rate: RequestRate,
}

/// `spec.retryConstraint.budget`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConstraintBudget {
    /// Retries per hundred requests; default 20.
    pub percent: Option<u32>,
    /// The time over which they are counted; default 10s.
    pub interval: Option<String>,
}

/// `spec.retryConstraint.minRetryRate`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRate {
    /// Retries per `interval`; default 10.
    pub count: Option<u32>,
    /// The time that `count` is for; default 1s.
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
