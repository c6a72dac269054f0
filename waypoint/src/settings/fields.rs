//! Pure. The settings: names as MeshPolicy writes them, types, and the defaults that apply without any configuration.

use std::time::Duration;

use transport::net::backoff::Backoff;

use super::value::{Effective, GrpcCodes, HashOn, Show};
use crate::balance::{Algorithm, LoadSettings};
use crate::request::grpc::GrpcCode;
use crate::resilience::breaker::BreakerLimits;
use crate::resilience::limit::Rate;
use crate::resilience::retry::{BudgetLimits, RetryPolicy, StatusSet};
use mesh::policy::path::Normalization;

macro_rules! settings {
    ($($(#[$doc:meta])* $name:literal $field:ident: $type:ty = $default:expr;)*) => {
        /// Every setting with a value.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $($(#[$doc])* pub $field: $type,)*
            /// Whether the route has a `retry` stanza of its own.
            pub retry_asked: bool,
        }

        /// What one source says; `None` is nothing.
        #[derive(Clone, Debug, PartialEq, Default)]
        pub struct Overlay {
            $($(#[$doc])* pub $field: Option<$type>,)*
            /// Whether it is the `retry` stanza of a route.
            pub retry_asked: bool,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($field: $default,)* retry_asked: false }
            }
        }

        impl Settings {
            /// Takes over what the overlay says.
            pub fn apply(&mut self, overlay: &Overlay) {
                $(if let Some(value) = &overlay.$field {
                    self.$field = value.clone();
                })*
                self.retry_asked |= overlay.retry_asked;
            }

            /// Every value by name, said to come from `source`.
            pub fn effective(&self, source: &str) -> Vec<Effective> {
                vec![$(Effective { name: $name, value: self.$field.show(), source: source.into() },)*]
            }
        }

        impl Overlay {
            /// What the overlay says, by name, in the order of [`Settings::effective`].
            pub fn said(&self) -> Vec<(&'static str, Option<String>)> {
                vec![$(($name, self.$field.as_ref().map(Show::show)),)*]
            }
        }
    };
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

settings! {
    /// Timeout from the end of the request to response headers, unless `deadline.request` is set; the caller's deadline
    /// can only shorten it.
    "deadline.default" deadline_default: Option<Duration> = Some(secs(15));
    /// Timeout of the whole exchange, retries included.
    "deadline.request" deadline_request: Option<Duration> = None;
    /// Whether the caller's deadline (`grpc-timeout`, `x-envoy-expected-rq-timeout-ms`) is honoured and forwarded.
    "deadline.propagate" deadline_propagate: bool = true;
    /// Idle timeout of a stream: no byte in either direction.
    "deadline.idle" idle: Option<Duration> = Some(secs(300));
    /// Timeout of TCP connect and TLS handshake with an endpoint.
    "connect.timeout" connect_timeout: Duration = secs(1);
    /// Most retries; 0 is off.
    "retry.attempts" retry_attempts: u32 = 2;
    /// HTTP status codes that are retried.
    "retry.codes" retry_codes: StatusSet = [502, 503, 504].into_iter().collect();
    /// gRPC status codes that are retried.
    "retry.grpcCodes" retry_grpc: GrpcCodes = [GrpcCode::UNAVAILABLE].into_iter().collect();
    /// Whether methods that are not idempotent are never repeated once they may have been received.
    "retry.idempotentOnly" retry_idempotent_only: bool = true;
    /// The least wait before the first retry.
    "retry.backoff.base" backoff_base: Duration = millis(25);
    /// The least wait grows no further than this.
    "retry.backoff.max" backoff_max: Duration = secs(1);
    /// Timeout of one attempt. Off by default: it would repeat requests that are merely slow.
    "retry.perTryTimeout" per_try_timeout: Option<Duration> = None;
    /// Whether `Retry-After` lengthens the wait.
    "retry.retryAfter" retry_after: bool = true;
    /// Most bytes of a request body that are buffered for a retry.
    "retry.maxBodyBytes" retry_body: usize = 64 << 10;
    /// Retries per hundred requests.
    "retry.budget.percent" budget_percent: u32 = 20;
    /// The time over which requests and retries are counted.
    "retry.budget.interval" budget_interval: Duration = secs(10);
    /// Retries per second that are always allowed.
    "retry.budget.minPerSecond" budget_min: f64 = 10.0;
    /// Retries per second that are always allowed to rules whose route asks for retries; `None`: a budget was set,
    /// which applies to these retries too.
    "retry.budget.minPerSecondAsked" budget_asked: Option<f64> = Some(100.0);
    /// Whether a retry that the budget refuses is answered with 503 (XBackendTrafficPolicy) or with what the backend
    /// said.
    "retry.budget.reject" budget_reject: bool = false;
    /// How an endpoint is chosen.
    "loadBalancing.algorithm" algorithm: Algorithm = Algorithm::PeakEwma;
    /// Time constant of the latency average.
    "loadBalancing.decay" decay: Duration = secs(10);
    /// Latency that an endpoint without samples is assumed to have.
    "loadBalancing.initialRtt" initial_rtt: Duration = millis(30);
    /// The latency that a failure counts as.
    "loadBalancing.failurePenalty" failure_penalty: Duration = secs(5);
    /// How long a new endpoint is warmed up.
    "loadBalancing.slowStart" slow_start: Duration = secs(10);
    /// What `consistentHash` hashes.
    "loadBalancing.hashOn" hash_on: Option<HashOn> = None;
    /// Failures in a row that eject an endpoint; 0 is off.
    "circuitBreaker.endpoint.consecutive" breaker_consecutive: u32 = 5;
    /// The lowest success rate, 0 to 1, that does not eject an endpoint; 0 is off.
    "circuitBreaker.endpoint.successRate" breaker_success_rate: f64 = 0.8;
    /// The time over which the success rate is measured.
    "circuitBreaker.endpoint.window" breaker_window: Duration = secs(10);
    /// Fewest requests within the window for which the success rate counts.
    "circuitBreaker.endpoint.minRequests" breaker_min_requests: u32 = 5;
    /// Duration of the first ejection; each further one in a row lasts twice as long.
    "circuitBreaker.endpoint.open.min" breaker_open_min: Duration = secs(1);
    /// The longest ejection.
    "circuitBreaker.endpoint.open.max" breaker_open_max: Duration = secs(60);
    /// Percent of a service's endpoints that may be ejected at once.
    "circuitBreaker.endpoint.maxEjected" max_ejected: u32 = 50;
    /// Most requests in flight to the service.
    "circuitBreaker.service.maxInFlight" max_in_flight: u32 = 8192;
    /// Most requests that wait for one of those to end.
    "circuitBreaker.service.maxPending" max_pending: u32 = 1024;
    /// How long a request waits at most.
    "circuitBreaker.service.maxWait" max_wait: Duration = secs(1);
    /// Most connections to one endpoint.
    "circuitBreaker.endpoint.maxConnections" max_connections: u32 = 1024;
    /// Most requests on one connection; 0 is unlimited.
    "connect.maxRequestsPerConnection" max_requests_per_connection: u32 = 0;
    /// An idle connection to an endpoint is closed after this.
    "connect.idle" connection_idle: Duration = secs(60);
    /// Requests per second to the service or rule, per waypoint instance.
    "rateLimit" rate: Option<Rate> = None;
    /// Fraction of new traces that are sampled, 0 to 1.
    "tracing.sampling" sampling: f64 = 0.01;
    /// How paths are normalized before they are matched and sent.
    "pathNormalization" normalization: Normalization = Normalization::Base;
}

/// Settings that bound what a service has to bear, whoever its callers are.
pub const SHARED: [&str; 4] = [
    "retry.budget.percent",
    "circuitBreaker.service.maxInFlight",
    "circuitBreaker.service.maxPending",
    "circuitBreaker.endpoint.maxConnections",
];

impl Settings {
    /// These settings for some of a service's clients, within what the service has for all of them ([`SHARED`]).
    #[must_use]
    pub fn within(&self, everybody: &Self) -> Self {
        Self {
            budget_percent: self.budget_percent.min(everybody.budget_percent),
            max_in_flight: self.max_in_flight.min(everybody.max_in_flight),
            max_pending: self.max_pending.min(everybody.max_pending),
            max_connections: self.max_connections.min(everybody.max_connections),
            ..self.clone()
        }
    }

    /// The retry policy in one piece.
    pub fn retry(&self) -> RetryPolicy {
        RetryPolicy {
            attempts: self.retry_attempts,
            codes: self.retry_codes,
            grpc: self.retry_grpc.0,
            idempotent_only: self.retry_idempotent_only,
            backoff: Backoff { first: self.backoff_base, longest: self.backoff_max },
            honour_retry_after: self.retry_after,
        }
    }

    /// The retry budget's limits.
    pub fn budget(&self) -> BudgetLimits {
        BudgetLimits { percent: self.budget_percent, interval: self.budget_interval, min_per_second: self.budget_min }
    }

    /// The same for a retry of a rule: what a route asks for is not held to a budget that nobody set, as long as it is
    /// little in itself.
    pub fn budget_for(&self, rule: &Self) -> BudgetLimits {
        let asked = self.budget_asked.filter(|_| rule.retry_asked).unwrap_or_default();
        BudgetLimits { min_per_second: self.budget_min.max(asked), ..self.budget() }
    }

    /// How latency becomes cost.
    pub fn load(&self) -> LoadSettings {
        LoadSettings {
            decay: self.decay,
            initial: self.initial_rtt,
            failure_penalty: self.failure_penalty,
            slow_start: self.slow_start,
        }
    }

    /// When an endpoint is ejected.
    pub fn breaker(&self) -> BreakerLimits {
        BreakerLimits {
            consecutive: self.breaker_consecutive,
            success_rate: self.breaker_success_rate,
            window: self.breaker_window,
            min_requests: self.breaker_min_requests,
            open_min: self.breaker_open_min,
            open_max: self.breaker_open_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bounds_a_service_is_bounded_for_each_of_its_clients() {
        let (mut some, mut everybody) = (Settings::default(), Settings::default());
        (some.max_in_flight, some.max_pending, some.max_connections, some.budget_percent) = (9, 9, 9, 9);
        (everybody.max_in_flight, everybody.max_pending) = (5, 5);
        (everybody.max_connections, everybody.budget_percent) = (5, 5);
        some.connect_timeout = secs(7);
        let seen = some.within(&everybody);
        assert_eq!(seen, Settings { connect_timeout: secs(7), ..everybody.clone() });
        assert_eq!(everybody.within(&some), everybody);
        let (before, after) = (some.effective(""), seen.effective(""));
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b).map(|(row, _)| row.name);
        assert_eq!(changed.collect::<Vec<_>>(), SHARED, "the list names them all");
    }
}
