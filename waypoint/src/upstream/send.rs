//! Sends one request until an endpoint answers it: chooses endpoints, retries, enforces timeouts, and says why when no
//! endpoint answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Request, StatusCode};
use mesh::model::name::WorkloadUid;

use super::attempt::{Answer, AttemptError, How, attempt};
use super::body::RequestBody;
use super::cluster::{Cluster, NoEndpoint, Wanted};
use super::connect::{Client, ConnectError, Connector};
use super::connections::{Limits, Version};
use super::endpoint::{Endpoint, InFlight};
use super::gate::{Full, Passes};
use super::interim::Hearing;
use super::replay::Replay;
use crate::identity::RETRIED;
use crate::rejection::Rejection;
use crate::request::hygiene::answer::BadAnswer;
use crate::resilience::breaker::{PATIENCE, Sign};
use crate::resilience::deadline::{self, Deadline, Upload};
use crate::resilience::retry::{self, Attempt, Decision, GaveUp, Outcome, RetryPolicy};
use crate::settings::Settings;

/// A request on its way out.
pub struct Outgoing<'a> {
    /// The head, ready for the backend but for its deadline.
    pub parts: Parts,
    /// The body; `None` when there is none.
    pub body: Option<&'a Replay>,
    /// The first attempt's body, when it is copied on the way or is a copy.
    pub teed: Teed,
    /// The HTTP version towards the backend.
    pub version: Version,
    /// Whether the connection is to become a WebSocket; the head is then that of HTTP/1.
    pub upgrade: bool,
    /// Whether the request is gRPC.
    pub grpc: bool,
    /// The settings of the rule.
    pub rule: &'a Settings,
    /// The settings of the backend's service, as these clients see them.
    pub service: &'a Settings,
    /// The same, as everybody sees them.
    pub everybody: &'a Settings,
    /// The deadline.
    pub deadline: Deadline,
    /// The sink of interim responses; `None` with HTTP/2 backends, whose interim responses hyper drops.
    pub interim: Option<Hearing>,
    /// Whether the backend is told the deadline (`grpc-timeout`, `x-envoy-expected-rq-timeout-ms`).
    pub tell_deadline: bool,
    /// The hash of the request, for consistent hashing.
    pub hash: u64,
    /// The client on whose behalf it is sent.
    pub client: &'a Client,
}

impl<'a> Outgoing<'a> {
    fn limit(&self) -> Limit<'a> {
        Limit { deadline: self.deadline, body: self.body, idle: self.rule.idle }
    }

    /// Whether the endpoint has not got the whole request yet. A client that dawdles must not make an endpoint look
    /// bad.
    fn is_uploading(&self) -> bool {
        matches!(self.body.map(Replay::upload), Some(Upload::Flowing(_)))
    }

    /// What is left until response headers must be there.
    fn left(&self, now: Instant) -> Option<Duration> {
        self.limit().end().map(|end| end.saturating_duration_since(now))
    }
}

/// When response headers must be there, as far as that is known while the body flows.
struct Limit<'a> {
    deadline: Deadline,
    body: Option<&'a Replay>,
    idle: Option<Duration>,
}

impl Limit<'_> {
    fn end(&self) -> Option<Instant> {
        self.deadline.headers(self.body.map(Replay::upload), self.idle)
    }

    /// The deadline, or the next check of the body's progress, whichever is sooner.
    fn next(&self, now: Instant) -> Option<Instant> {
        let again = self.deadline.next_check(self.body.map(Replay::upload), now);
        deadline::least(self.end(), again)
    }
}

/// A body that only one attempt can have.
pub enum Teed {
    /// There is no such body.
    None,
    /// The body, for the first attempt.
    Ready(RequestBody),
    /// The first attempt has taken it.
    Taken,
}

/// The response of an endpoint.
pub struct Sent {
    /// The response.
    pub answer: Answer,
    /// Keeps the endpoint's figures until the body has ended.
    pub flight: InFlight,
    /// Keeps the service's figures until the body has ended.
    pub pass: Passes,
    /// Retries that were made.
    pub retries: u32,
}

/// Why there is no answer.
pub struct Failure {
    /// The rejection that the caller gets.
    pub rejection: Rejection,
    /// Human-readable text.
    pub detail: String,
    /// `Retry-After` for the caller.
    pub retry_after: Option<Duration>,
    /// Retries that were made.
    pub retries: u32,
    /// The endpoint that was tried last.
    pub endpoint: Option<Arc<Endpoint>>,
}

impl Failure {
    fn new(rejection: Rejection, detail: impl Into<String>) -> Self {
        Self { rejection, detail: detail.into(), retry_after: None, retries: 0, endpoint: None }
    }
}

/// Sends a request to a cluster.
pub async fn send(connector: &Connector, cluster: &Arc<Cluster>, outgoing: Outgoing<'_>) -> Result<Sent, Failure> {
    let service = outgoing.service;
    let patience = deadline::least(Some(service.max_wait), outgoing.left(Instant::now()));
    let full = |full| {
        let detail = match full {
            Full::Queue => "too many requests wait for the service",
            Full::Patience => "too many requests are in flight to the service",
        };
        Failure { retry_after: Some(service.max_wait), ..Failure::new(Rejection::Overflow, detail) }
    };
    let entering = cluster.enter(service, outgoing.everybody, patience.unwrap_or(service.max_wait));
    let pass = entering.await.map_err(full)?;
    let mut sending =
        Sending { connector, cluster, policy: outgoing.rule.retry(), outgoing, tried: vec![], retries: 0 };
    sending.run(pass).await
}

struct Sending<'a> {
    connector: &'a Connector,
    cluster: &'a Arc<Cluster>,
    policy: RetryPolicy,
    outgoing: Outgoing<'a>,
    tried: Vec<WorkloadUid>,
    retries: u32,
}

enum Next {
    Done,
    Refused,
    Again(Duration),
}

impl Sending<'_> {
    async fn run(&mut self, pass: Passes) -> Result<Sent, Failure> {
        self.cluster.budget.lock().request(&self.outgoing.service.budget(), Instant::now());
        if let Some(all) = &self.cluster.everybody {
            all.budget.lock().request(&self.outgoing.everybody.budget(), Instant::now());
        }
        loop {
            let mut flight = self.choose()?;
            let endpoint = Arc::clone(&flight.endpoint);
            let began = Instant::now();
            let Some(result) = within(self.outgoing.limit(), self.attempt(&endpoint)).await else {
                self.record_silence(&mut flight, began);
                return Err(self.too_late(Some(endpoint)));
            };
            self.record(&mut flight, &result);
            match self.next(&result) {
                Next::Again(wait) => {
                    self.tried.push(endpoint.workload.uid.clone());
                    self.retries += 1;
                    drop((result, flight));
                    tokio::time::sleep(wait).await;
                }
                Next::Refused if self.outgoing.service.budget_reject => {
                    let detail = "the retry budget of the service is used up";
                    return Err(self.fail(Failure::new(Rejection::RetryBudget, detail), Some(endpoint)));
                }
                Next::Done | Next::Refused => {
                    let retries = self.retries;
                    return match result {
                        Ok(mut answer) => {
                            let grpc_failed = answer.grpc.is_some_and(|code| code.is_server_failure());
                            if retries > 0 && (answer.response.status().is_server_error() || grpc_failed) {
                                answer.response.headers_mut().insert(RETRIED, HeaderValue::from_static("1"));
                            }
                            Ok(Sent { answer, flight, pass, retries })
                        }
                        Err(error) => Err(self.fail(failure_of(&error), Some(endpoint))),
                    };
                }
            }
        }
    }

    fn choose(&self) -> Result<InFlight, Failure> {
        let parts = &self.outgoing.parts;
        let now = Instant::now();
        let wanted = Wanted {
            tried: &self.tried,
            hash: self.outgoing.hash,
            expendable: self.retries < self.policy.attempts && retry::policy::is_idempotent(&parts.method),
        };
        self.cluster.choose(self.outgoing.service, &wanted, now).map_err(|none| match none {
            NoEndpoint::NoneReady => {
                let detail = format!("no endpoint of {} is ready", self.cluster.service());
                self.fail(Failure::new(Rejection::NoEndpoint, detail), None)
            }
            NoEndpoint::Ejected(until) => {
                let detail = format!("every endpoint of {} is ejected", self.cluster.service());
                let retry_after = until.map(|until| until.saturating_duration_since(now));
                let failure = Failure::new(Rejection::CircuitOpen, detail);
                self.fail(Failure { retry_after, ..failure }, None)
            }
        })
    }

    async fn attempt(&mut self, endpoint: &Endpoint) -> Result<Answer, AttemptError> {
        let service = self.outgoing.service;
        let how = How {
            connector: self.connector,
            client: self.outgoing.client,
            version: if self.outgoing.upgrade { Version::H1 } else { self.outgoing.version },
            upgrade: self.outgoing.upgrade.then_some(self.outgoing.version),
            limits: Limits {
                connect: service.connect_timeout,
                connections: service.max_connections,
                requests: service.max_requests_per_connection,
            },
            limit: self.outgoing.rule.per_try_timeout,
            grpc: self.outgoing.grpc,
            interim: self.outgoing.interim.clone(),
        };
        let outgoing = &mut self.outgoing;
        attempt(endpoint, &how, || request(outgoing)).await
    }

    /// The deadline has passed without an answer. An impatient caller does not make a bad endpoint.
    fn record_silence(&self, flight: &mut InFlight, began: Instant) {
        let (now, service) = (Instant::now(), self.outgoing.service);
        if self.outgoing.is_uploading() {
            return;
        }
        let (limits, spare) = (service.breaker(), flight.can_be_spared(service.max_ejected));
        let impatient = self.outgoing.deadline.impatient;
        if !impatient || now.saturating_duration_since(began) >= PATIENCE {
            flight.timed_out(&limits, spare, !impatient, now);
        }
    }

    fn record(&self, flight: &mut InFlight, result: &Result<Answer, AttemptError>) {
        let service = self.outgoing.service;
        let (limits, now) = (service.breaker(), Instant::now());
        let spare = flight.can_be_spared(service.max_ejected);
        match result {
            Ok(answer) => {
                let status = answer.response.status();
                let pushback = retry::policy::retry_after(answer.response.headers()).unwrap_or_default();
                let grpc_failed = answer.grpc.is_some_and(|code| code.is_server_failure());
                if status == StatusCode::TOO_MANY_REQUESTS {
                    flight.pushed_back(&limits, pushback, now);
                } else if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED || grpc_failed {
                    flight.failed(&limits, Sign::Bad { spare }, pushback, now);
                } else {
                    flight.succeeded(&limits, now);
                }
            }
            // Our own limit, or this client's: not the endpoint's failure.
            Err(AttemptError::Connect(error)) if !error.is_of_endpoint() => {}
            Err(AttemptError::TryTimeout(_)) if self.outgoing.is_uploading() => {}
            Err(AttemptError::TryTimeout(_)) => flight.timed_out(&limits, spare, true, now),
            Err(AttemptError::Connect(error)) if error.is_brief() => flight.timed_out(&limits, spare, true, now),
            Err(AttemptError::Connect(_)) => flight.failed(&limits, Sign::Unreachable, Duration::ZERO, now),
            Err(_) => flight.failed(&limits, Sign::Bad { spare }, Duration::ZERO, now),
        }
    }

    fn next(&self, result: &Result<Answer, AttemptError>) -> Next {
        if let Err(AttemptError::Connect(error)) = result
            && error.is_denial()
        {
            return Next::Done;
        }
        let (outcome, headers) = match result {
            Ok(answer) => (outcome_of(answer), Some(answer.response.headers())),
            Err(error) => (error.outcome(), None),
        };
        let now = Instant::now();
        let attempt = Attempt {
            method: &self.outgoing.parts.method,
            has_idempotency_key: self.outgoing.parts.headers.contains_key("idempotency-key"),
            retries: self.retries,
            replayable: self.outgoing.body.is_none_or(Replay::is_whole),
            retried_below: headers.is_some_and(|headers| headers.contains_key(RETRIED)),
            retry_after: headers.and_then(retry::policy::retry_after),
            left: self.outgoing.left(now),
        };
        match self.policy.decide(outcome, &attempt, fastrand::f64()) {
            Decision::Done(GaveUp::Deadline) | Decision::Done(_) => Next::Done,
            Decision::Retry(wait) => {
                let rule = self.outgoing.rule;
                let everybody = || self.outgoing.everybody.budget_for(rule);
                let shared = |all: &Arc<Cluster>| all.budget.lock().retry(&everybody(), now);
                let allowed = self.cluster.budget.lock().retry(&self.outgoing.service.budget_for(rule), now)
                    && self.cluster.everybody.as_ref().is_none_or(shared);
                if allowed { Next::Again(wait) } else { Next::Refused }
            }
        }
    }

    fn too_late(&self, endpoint: Option<Arc<Endpoint>>) -> Failure {
        self.fail(Failure::new(Rejection::Deadline, "the deadline of the request has passed"), endpoint)
    }

    fn fail(&self, failure: Failure, endpoint: Option<Arc<Endpoint>>) -> Failure {
        Failure { retries: self.retries, endpoint, ..failure }
    }
}

async fn within<T>(limit: Limit<'_>, doing: impl Future<Output = T>) -> Option<T> {
    let mut doing = std::pin::pin!(doing);
    loop {
        let Some(next) = limit.next(Instant::now()) else { return Some(doing.await) };
        if let Ok(done) = tokio::time::timeout_at(next.into(), doing.as_mut()).await {
            return Some(done);
        }
        if limit.end().is_some_and(|end| end <= Instant::now()) {
            return None;
        }
    }
}

fn outcome_of(answer: &Answer) -> Outcome {
    match answer.grpc {
        Some(code) if answer.response.status() == StatusCode::OK => Outcome::Grpc(code),
        _ => Outcome::Status(answer.response.status()),
    }
}

fn failure_of(error: &AttemptError) -> Failure {
    let detail = error.to_string();
    match error {
        AttemptError::Connect(ConnectError::Full) => Failure::new(Rejection::Overflow, detail),
        AttemptError::Connect(error) if error.is_denial() => {
            Failure::new(Rejection::DeniedByPeer, "policy of the destination refuses this client")
        }
        AttemptError::Connect(_) | AttemptError::Unsent(_) | AttemptError::BodyGone => {
            Failure::new(Rejection::ConnectFailed, detail)
        }
        AttemptError::Bad(BadAnswer::Unasked) => Failure::new(Rejection::UnaskedUpgrade, detail),
        AttemptError::Bad(_) => Failure::new(Rejection::BadResponse, detail),
        AttemptError::Reset(error) if error.is_parse() => Failure::new(Rejection::BadResponse, detail),
        AttemptError::Reset(_) => Failure::new(Rejection::Reset, detail),
        AttemptError::TryTimeout(_) => Failure::new(Rejection::TryTimeout, detail),
    }
}

/// The request for one attempt; `None` when its body is gone.
fn request(outgoing: &mut Outgoing<'_>) -> Option<Request<RequestBody>> {
    let body = match (std::mem::replace(&mut outgoing.teed, Teed::Taken), outgoing.body) {
        (Teed::Ready(teed), _) => teed,
        (Teed::None | Teed::Taken, Some(body)) => RequestBody::Replay(body.body()),
        (Teed::Taken, None) => return None,
        (Teed::None, None) => {
            outgoing.teed = Teed::None;
            RequestBody::Empty
        }
    };
    let parts = &outgoing.parts;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    *request.version_mut() = match outgoing.version {
        Version::H2 if !outgoing.upgrade => http::Version::HTTP_2,
        Version::H1 | Version::H2 => http::Version::HTTP_11,
    };
    *request.extensions_mut() = parts.extensions.clone();
    tell(outgoing, request.headers_mut());
    if let Some(interim) = &outgoing.interim {
        let (interim, body) = (interim.clone(), outgoing.body.cloned());
        hyper::ext::on_informational(&mut request, move |response| {
            if response.status() == StatusCode::CONTINUE
                && let Some(body) = &body
            {
                body.resume();
            }
            interim.arrived(response.status(), response.headers());
        });
    }
    Some(request)
}

/// Sets the timeout headers for the backend: never more than the time that is left.
fn tell(outgoing: &Outgoing<'_>, headers: &mut http::HeaderMap) {
    if !outgoing.tell_deadline {
        return;
    }
    let left = outgoing.deadline.whole.map(|end| end.saturating_duration_since(Instant::now()));
    let Some(left) = deadline::least(left, outgoing.rule.per_try_timeout) else { return };
    let mut put = |name: &'static str, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    };
    if outgoing.grpc {
        put(deadline::GRPC_TIMEOUT, deadline::print_grpc_timeout(left));
    }
    put(deadline::ENVOY_EXPECTED, left.as_millis().max(1).to_string());
}
