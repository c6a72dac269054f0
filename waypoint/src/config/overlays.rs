//! Pure. Settings from MeshPolicy, XBackendTrafficPolicy and DestinationRule.

use std::time::Duration;

use serde_json::Value;

use super::schema::policy::{
    BackendTrafficSpec, CircuitBreaker, ConsistentHash, HashOn as HashOnSpec, LoadBalancing, MeshPolicySpec,
    OutlierDetection, Retry, TrafficPolicy, Word,
};
use crate::balance::Algorithm;
use crate::duration;
use crate::request::grpc::GrpcCode;
use crate::resilience::limit::Rate;
use crate::resilience::retry::StatusSet;
use crate::settings::{GrpcCodes, HashOn, Overlay};
use mesh::policy::path::Normalization;

type Read<T> = Result<Option<T>, String>;

fn time(field: &str, text: Option<&String>) -> Read<Duration> {
    text.map(|text| duration::parse(text)).transpose().map_err(|error| format!("{field}: {error}"))
}

/// A duration of which zero means off.
fn optional(field: &str, text: Option<&String>) -> Read<Option<Duration>> {
    Ok(time(field, text)?.map(|time| (!time.is_zero()).then_some(time)))
}

/// A duration that must not be zero.
fn positive(field: &str, text: Option<&String>) -> Read<Duration> {
    match time(field, text)? {
        Some(time) if time.is_zero() => Err(format!("{field}: must be more than 0s")),
        time => Ok(time),
    }
}

fn fraction(field: &str, value: Option<f64>) -> Read<f64> {
    match value {
        Some(fraction) if !(0.0..=1.0).contains(&fraction) => Err(format!("{field}: {fraction} is not within 0 to 1")),
        fraction => Ok(fraction),
    }
}

/// What a MeshPolicy says.
pub fn mesh_policy(spec: &MeshPolicySpec) -> Result<Overlay, String> {
    let mut out = Overlay {
        deadline_default: optional("deadline.default", spec.deadline.default.as_ref())?,
        deadline_request: optional("deadline.request", spec.deadline.request.as_ref())?,
        deadline_propagate: spec.deadline.propagate,
        idle: optional("deadline.idle", spec.deadline.idle.as_ref())?,
        connect_timeout: positive("connect.timeout", spec.connect.timeout.as_ref())?,
        connection_idle: positive("connect.idle", spec.connect.idle.as_ref())?,
        max_requests_per_connection: spec.connect.max_requests_per_connection,
        sampling: spec.tracing.sampling.as_ref().map(percentage).transpose()?,
        ..Overlay::default()
    };
    retry(&spec.retry, &mut out)?;
    load_balancing(&spec.load_balancing, &mut out)?;
    circuit_breaker(&spec.circuit_breaker, &mut out)?;
    if let Some(limit) = spec.rate_limit {
        if !(limit.requests_per_second > 0.0 && limit.requests_per_second.is_finite()) {
            return Err("rateLimit.requestsPerSecond: must be more than 0".to_owned());
        }
        let burst = limit.burst.unwrap_or(limit.requests_per_second.ceil().min(1e9) as u32);
        out.rate = Some(Some(Rate { per_second: limit.requests_per_second, burst: burst.max(1) }));
    }
    if let Some(text) = &spec.path_normalization {
        let unknown = || format!("pathNormalization: {text:?} is not BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES");
        out.normalization = Some(Normalization::parse(text).ok_or_else(unknown)?);
    }
    Ok(out)
}

fn retry(from: &Retry, out: &mut Overlay) -> Result<(), String> {
    out.retry_attempts = from.attempts;
    out.retry_idempotent_only = from.idempotent_only;
    if let Some(codes) = &from.codes {
        let mut set = StatusSet::default();
        if let Some(code) = codes.iter().find(|code| !set.insert(**code)) {
            return Err(format!("retry.codes: {code} is not within 400 to 599"));
        }
        out.retry_codes = Some(set);
    }
    if let Some(words) = &from.grpc_codes {
        let code = |word: &Word| {
            let text = match word {
                Word::Number(number) => number.to_string(),
                Word::Text(text) => text.clone(),
            };
            GrpcCode::parse(&text).ok_or_else(|| format!("retry.grpcCodes: {text:?} is not a gRPC status code"))
        };
        out.retry_grpc = Some(words.iter().map(code).collect::<Result<GrpcCodes, _>>()?);
    }
    if let Some(jitter) = from.backoff.jitter.as_deref().filter(|jitter| *jitter != "full-additive") {
        return Err(format!(
            "retry.backoff.jitter: {jitter:?}; jitter is always full-additive and cannot be switched off"
        ));
    }
    out.backoff_base = positive("retry.backoff.base", from.backoff.base.as_ref())?;
    out.backoff_max = positive("retry.backoff.max", from.backoff.max.as_ref())?;
    out.per_try_timeout = optional("retry.perTryTimeout", from.per_try_timeout.as_ref())?;
    out.retry_after = match from.retry_after.as_deref() {
        None => None,
        Some("honour" | "honor") => Some(true),
        Some("ignore") => Some(false),
        Some(other) => return Err(format!("retry.retryAfter: {other:?} is neither honour nor ignore")),
    };
    out.budget_percent = from.budget.percent;
    out.budget_interval = positive("retry.budget.interval", from.budget.interval.as_ref())?;
    out.budget_min = from.budget.min_per_second;
    let said = out.budget_percent.is_some() || out.budget_interval.is_some() || out.budget_min.is_some();
    out.budget_asked = said.then_some(None);
    if out.budget_percent.is_some_and(|percent| percent > 100) || out.budget_min.is_some_and(|rate| rate < 0.0) {
        return Err("retry.budget: percent is within 0 to 100, minPerSecond not negative".to_owned());
    }
    out.retry_body = from.max_body_bytes.as_ref().map(bytes).transpose()?;
    Ok(())
}

fn load_balancing(from: &LoadBalancing, out: &mut Overlay) -> Result<(), String> {
    if let Some(text) = &from.algorithm {
        let unknown = || format!("loadBalancing.algorithm: {text:?} is not known");
        out.algorithm = Some(Algorithm::parse(text).ok_or_else(unknown)?);
    }
    out.decay = positive("loadBalancing.decay", from.decay.as_ref())?;
    out.initial_rtt = positive("loadBalancing.initialRtt", from.initial_rtt.as_ref())?;
    out.failure_penalty = time("loadBalancing.failurePenalty", from.failure_penalty.as_ref())?;
    out.slow_start = time("loadBalancing.slowStart", from.slow_start.as_ref())?;
    out.hash_on = from.hash_on.as_ref().map(|on| hash_on(on).map(Some)).transpose()?;
    Ok(())
}

fn hash_on(from: &HashOnSpec) -> Result<HashOn, String> {
    let field = "loadBalancing.hashOn";
    match (&from.header, &from.cookie, &from.query, from.source_ip) {
        (Some(header), None, None, None) => {
            header.parse().map(HashOn::Header).map_err(|_| format!("{field}: {header:?} is not a header name"))
        }
        (None, Some(cookie), None, None) => Ok(HashOn::Cookie(cookie.as_str().into())),
        (None, None, Some(query), None) => Ok(HashOn::Query(query.as_str().into())),
        (None, None, None, Some(true)) => Ok(HashOn::SourceIp),
        _ => Err(format!("{field}: needs exactly one of header, cookie, query, sourceIp")),
    }
}

fn circuit_breaker(from: &CircuitBreaker, out: &mut Overlay) -> Result<(), String> {
    let endpoint = &from.endpoint;
    out.breaker_consecutive = endpoint.consecutive;
    out.breaker_success_rate = fraction("circuitBreaker.endpoint.successRate", endpoint.success_rate)?;
    out.breaker_window = positive("circuitBreaker.endpoint.window", endpoint.window.as_ref())?;
    out.breaker_min_requests = endpoint.min_requests;
    out.breaker_open_min = positive("circuitBreaker.endpoint.open.min", endpoint.open.min.as_ref())?;
    out.breaker_open_max = positive("circuitBreaker.endpoint.open.max", endpoint.open.max.as_ref())?;
    out.max_connections = endpoint.max_connections.map(|most| most.max(1));
    if let Some(word) = &endpoint.max_ejected {
        let percent = match word {
            Word::Number(number) => u32::try_from(*number).ok(),
            Word::Text(text) => text.strip_suffix('%').unwrap_or(text).parse().ok(),
        };
        let range = || "circuitBreaker.endpoint.maxEjected: not within 0% to 100%".to_owned();
        out.max_ejected = Some(percent.filter(|percent| *percent <= 100).ok_or_else(range)?);
    }
    out.max_in_flight = from.service.max_in_flight.map(|most| most.max(1));
    out.max_pending = from.service.max_pending;
    out.max_wait = time("circuitBreaker.service.maxWait", from.service.max_wait.as_ref())?;
    Ok(())
}

/// `1%`, `"1%"` or 0.01.
fn percentage(value: &Value) -> Result<f64, String> {
    let read = match value {
        Value::String(text) => match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().ok().map(|percent| percent / 100.0),
            None => text.parse().ok(),
        },
        Value::Number(number) => number.as_f64(),
        _ => None,
    };
    let range = || format!("tracing.sampling: {value} is not within 0% to 100%");
    read.filter(|fraction| (0.0..=1.0).contains(fraction)).ok_or_else(range)
}

/// `64Ki`, `1Mi` or a number.
fn bytes(word: &Word) -> Result<usize, String> {
    let read = match word {
        Word::Number(number) => usize::try_from(*number).ok(),
        Word::Text(text) => {
            let (digits, unit) = match text.strip_suffix("Ki") {
                Some(digits) => (digits, 1 << 10),
                None => text.strip_suffix("Mi").map_or((text.as_str(), 1), |digits| (digits, 1 << 20)),
            };
            digits.parse::<usize>().ok().and_then(|number| number.checked_mul(unit))
        }
    };
    let range = || "retry.maxBodyBytes: not within 0 to 1Mi".to_owned();
    read.filter(|bytes| *bytes <= 1 << 20).ok_or_else(range)
}

/// What an XBackendTrafficPolicy says. Over its budget the specification demands 503.
pub fn backend_traffic(spec: &BackendTrafficSpec) -> Result<Overlay, String> {
    let Some(constraint) = &spec.retry_constraint else { return Ok(Overlay::default()) };
    let interval = positive("retryConstraint.budget.interval", constraint.budget.interval.as_ref())?;
    let per = positive("retryConstraint.minRetryRate.interval", constraint.min_retry_rate.interval.as_ref())?;
    let count = f64::from(constraint.min_retry_rate.count.unwrap_or(10));
    let percent = constraint.budget.percent.unwrap_or(20);
    if percent > 100 {
        return Err(format!("retryConstraint.budget.percent: {percent} is above 100"));
    }
    Ok(Overlay {
        budget_percent: Some(percent),
        budget_interval: Some(interval.unwrap_or(Duration::from_secs(10))),
        budget_min: Some(count / per.unwrap_or(Duration::from_secs(1)).as_secs_f64()),
        budget_asked: Some(None),
        budget_reject: Some(true),
        ..Overlay::default()
    })
}

/// What a DestinationRule's traffic policy says, and what of it has no effect here.
pub fn destination_rule(policy: &TrafficPolicy) -> Result<Overlay, String> {
    let pool = &policy.connection_pool;
    let idle = pool.http.idle_timeout.as_ref().or(pool.tcp.idle_timeout.as_ref());
    let mut out = Overlay {
        max_connections: pool.tcp.max_connections.filter(|most| *most > 0),
        connect_timeout: positive("connectionPool.tcp.connectTimeout", pool.tcp.connect_timeout.as_ref())?,
        connection_idle: positive("connectionPool.http.idleTimeout", idle)?,
        max_pending: pool.http.http1_max_pending_requests,
        max_in_flight: pool.http.http2_max_requests.filter(|most| *most > 0),
        max_requests_per_connection: pool.http.max_requests_per_connection,
        budget_percent: policy
            .retry_budget
            .as_ref()
            .and_then(|budget| budget.percent)
            .map(|percent| percent.clamp(0.0, 100.0) as u32),
        budget_asked: policy.retry_budget.is_some().then_some(None),
        ..Overlay::default()
    };
    if let Some(balancer) = &policy.load_balancer {
        if let Some(simple) = &balancer.simple {
            let unknown = || format!("loadBalancer.simple: {simple:?} is not supported");
            out.algorithm = Some(Algorithm::parse(simple).ok_or_else(unknown)?);
        }
        if let Some(hash) = &balancer.consistent_hash {
            out.algorithm = Some(Algorithm::ConsistentHash);
            out.hash_on = Some(Some(hash_of(hash)?));
        }
        let warmup = balancer.warmup.as_ref().and_then(|warmup| warmup.duration.as_ref());
        out.slow_start = time("loadBalancer.warmup.duration", warmup)?;
    }
    if let Some(outlier) = &policy.outlier_detection {
        outlier_detection(outlier, &mut out)?;
    }
    Ok(out)
}

/// Fields of other people's kinds that have an effect here, by what they begin with.
const DESTINATION_RULE: [&str; 19] = [
    "host",
    "exportTo",
    "trafficPolicy.loadBalancer.simple",
    "trafficPolicy.loadBalancer.consistentHash.httpHeaderName",
    "trafficPolicy.loadBalancer.consistentHash.httpCookie.name",
    "trafficPolicy.loadBalancer.consistentHash.useSourceIp",
    "trafficPolicy.loadBalancer.consistentHash.httpQueryParameterName",
    "trafficPolicy.loadBalancer.consistentHash.maglev",
    "trafficPolicy.loadBalancer.warmup.duration",
    "trafficPolicy.connectionPool.tcp.maxConnections",
    "trafficPolicy.connectionPool.tcp.connectTimeout",
    "trafficPolicy.connectionPool.tcp.idleTimeout",
    "trafficPolicy.connectionPool.http.http1MaxPendingRequests",
    "trafficPolicy.connectionPool.http.http2MaxRequests",
    "trafficPolicy.connectionPool.http.maxRequestsPerConnection",
    "trafficPolicy.connectionPool.http.idleTimeout",
    "trafficPolicy.outlierDetection",
    "trafficPolicy.retryBudget.percent",
    "trafficPolicy.tls.mode=ISTIO_MUTUAL",
];
const BACKEND_TRAFFIC: [&str; 2] = ["targetRefs", "retryConstraint"];
const OUTLIER: [&str; 5] =
    ["consecutive5xxErrors", "consecutiveGatewayErrors", "interval", "baseEjectionTime", "maxEjectionPercent"];

/// What a DestinationRule or XBackendTrafficPolicy says that has no effect here, so that nobody relies on it.
pub fn without_effect(kind: &str, spec: &Value) -> Vec<String> {
    let known: &[&str] = match kind {
        "DestinationRule" => &DESTINATION_RULE,
        "XBackendTrafficPolicy" => &BACKEND_TRAFFIC,
        _ => return vec![],
    };
    let mut found = vec![];
    collect(spec, &mut String::new(), &mut |path, value| {
        let said = format!("{path}={}", value.as_str().unwrap_or_default());
        let outlier = path.strip_prefix("trafficPolicy.outlierDetection.");
        let is_known = known.iter().any(|known| path == *known || said == *known || below(path, known));
        if !is_known || outlier.is_some_and(|field| !OUTLIER.contains(&field)) {
            found.push(format!("spec.{path} has no effect"));
        }
    });
    found
}

fn below(path: &str, known: &str) -> bool {
    path.strip_prefix(known).is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// Tells every value that is not an object; lists are told as a whole.
fn collect(value: &Value, path: &mut String, tell: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let before = path.len();
                if before > 0 {
                    path.push('.');
                }
                path.push_str(name);
                collect(field, path, tell);
                path.truncate(before);
            }
        }
        other => tell(path, other),
    }
}

fn hash_of(hash: &ConsistentHash) -> Result<HashOn, String> {
    hash_on(&HashOnSpec {
        header: hash.http_header_name.clone(),
        cookie: hash.http_cookie.as_ref().map(|cookie| cookie.name.clone()),
        query: hash.http_query_parameter_name.clone(),
        source_ip: hash.use_source_ip,
    })
    .map_err(|_| "loadBalancer.consistentHash: needs exactly one key".to_owned())
}

/// Istio's outlier detection knows rows of errors only: the success rate keeps its default.
fn outlier_detection(from: &OutlierDetection, out: &mut Overlay) -> Result<(), String> {
    out.breaker_consecutive = from.consecutive_5xx_errors.or(from.consecutive_gateway_errors);
    out.breaker_window = positive("outlierDetection.interval", from.interval.as_ref())?;
    out.breaker_open_min = positive("outlierDetection.baseEjectionTime", from.base_ejection_time.as_ref())?;
    if let Some(min) = out.breaker_open_min {
        out.breaker_open_max = Some(min.max(Duration::from_secs(300)));
    }
    if let Some(percent) = from.max_ejection_percent {
        out.max_ejected = Some(percent.min(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mesh(spec: Value) -> Result<Overlay, String> {
        let spec: MeshPolicySpec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
        mesh_policy(&spec)
    }

    #[test]
    fn the_proposed_default_policy_is_the_built_in_default() {
        let overlay = mesh(json!({
            "deadline": {"default": "15s", "propagate": true, "idle": "5m"},
            "retry": {"attempts": 2, "codes": [502, 503, 504], "grpcCodes": ["unavailable"], "idempotentOnly": true,
                "backoff": {"base": "25ms", "max": "1s", "jitter": "full-additive"}, "retryAfter": "honour",
                "budget": {"percent": 20, "interval": "10s", "minPerSecond": 10}, "maxBodyBytes": "64Ki"},
            "loadBalancing": {"algorithm": "peakEwma", "decay": "10s", "initialRtt": "30ms", "failurePenalty": "5s",
                "slowStart": "10s"},
            "circuitBreaker": {"endpoint": {"consecutive": 5, "successRate": 0.8, "window": "10s", "minRequests": 5,
                "open": {"min": "1s", "max": "60s"}, "maxEjected": "50%"},
                "service": {"maxInFlight": 8192, "maxPending": 1024, "maxWait": "1s"}},
            "tracing": {"sampling": "1%"},
        }))
        .unwrap();
        let mut settings = crate::settings::Settings::default();
        settings.apply(&overlay);
        // But for one: a budget that is written down holds every retry.
        assert_eq!(settings.budget_asked, None);
        settings.budget_asked = Some(100.0);
        assert_eq!(settings, crate::settings::Settings::default());
        let said = overlay.said().into_iter().filter(|(_, value)| value.is_some()).count();
        assert!(said >= 27, "{said}");
    }

    #[test]
    fn jitter_cannot_be_switched_off() {
        let error = mesh(json!({"retry": {"backoff": {"jitter": "none"}}})).unwrap_err();
        assert!(error.contains("cannot be switched off"), "{error}");
    }

    #[test]
    fn wrong_values_name_their_field() {
        for (spec, field) in [
            (json!({"retry": {"atempts": 3}}), "atempts"),
            (json!({"retry": {"codes": [200]}}), "retry.codes"),
            (json!({"deadline": {"default": "soon"}}), "deadline.default"),
            (json!({"tracing": {"sampling": "200%"}}), "tracing.sampling"),
            (json!({"loadBalancing": {"algorithm": "best"}}), "loadBalancing.algorithm"),
            (json!({"loadBalancing": {"hashOn": {"header": "a", "cookie": "b"}}}), "hashOn"),
            (json!({"circuitBreaker": {"endpoint": {"maxEjected": "150%"}}}), "maxEjected"),
            (json!({"rateLimit": {"requestsPerSecond": 0}}), "rateLimit"),
            (json!({"retry": {"maxBodyBytes": "1Gi"}}), "maxBodyBytes"),
        ] {
            let error = mesh(spec).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn what_has_no_effect_is_told() {
        let spec = json!({
            "host": "shop", "subsets": [{"name": "v1"}],
            "trafficPolicy": {
                "tls": {"mode": "SIMPLE", "sni": "x"}, "outlierDetection": {"interval": "5s", "minHealthPercent": 10},
                "loadBalancer": {"simple": "RANDOM", "localityLbSetting": {"enabled": true}},
            },
        });
        let mut found = without_effect("DestinationRule", &spec);
        found.sort();
        assert_eq!(
            found,
            [
                "spec.subsets has no effect",
                "spec.trafficPolicy.loadBalancer.localityLbSetting.enabled has no effect",
                "spec.trafficPolicy.outlierDetection.minHealthPercent has no effect",
                "spec.trafficPolicy.tls.mode has no effect",
                "spec.trafficPolicy.tls.sni has no effect",
            ]
        );
        assert!(
            without_effect("DestinationRule", &json!({"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}})).is_empty()
        );
        assert_eq!(
            without_effect("XBackendTrafficPolicy", &json!({"sessionPersistence": {"type": "Cookie"}})).len(),
            1
        );
    }

    #[test]
    fn a_destination_rule_maps_onto_breaker_and_limits() {
        let policy = serde_json::from_value(json!({
            "loadBalancer": {"simple": "LEAST_REQUEST", "warmup": {"duration": "30s"}},
            "connectionPool": {"tcp": {"maxConnections": 10, "connectTimeout": "2s"},
                "http": {"http1MaxPendingRequests": 5, "http2MaxRequests": 50}},
            "outlierDetection": {"consecutive5xxErrors": 3, "interval": "5s", "baseEjectionTime": "30s",
                "maxEjectionPercent": 100},
        }));
        let overlay = destination_rule(&policy.unwrap()).unwrap();
        assert_eq!(overlay.algorithm, Some(Algorithm::LeastRequest));
        assert_eq!(
            (overlay.max_connections, overlay.max_pending, overlay.max_in_flight),
            (Some(10), Some(5), Some(50))
        );
        assert_eq!((overlay.breaker_consecutive, overlay.max_ejected), (Some(3), Some(100)));
        assert_eq!(overlay.breaker_open_min, Some(Duration::from_secs(30)));
        let hash = serde_json::from_value(json!({"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}));
        let overlay = destination_rule(&hash.unwrap()).unwrap();
        assert_eq!(overlay.hash_on, Some(Some(HashOn::Header(http::HeaderName::from_static("x-user")))));
    }
}
