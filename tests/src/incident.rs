//! Incidents that a mesh prevents, provoked and measured: retry storms and slow pods. For the tests and the demo.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::apps::{Server, WebLoad};
use super::eventually::within;
use super::peer::{Behaviour, WebAnswer, WebCount};

/// A retry storm: the load of each tier while the last one fails.
#[derive(Clone, Debug)]
pub struct Storm {
    /// The users' requests and their outcomes.
    pub users: WebCount,
    /// Requests that reached each tier.
    pub tiers: Vec<u64>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Storm {
    /// Makes every server of the last tier fail for a while and counts the requests of each tier.
    pub fn make(load: &mut WebLoad, tiers: &[Vec<Server>], during: Duration) -> Result<Self> {
        let leaf = tiers.last().context("there are no tiers")?;
        for server in leaf {
            server.behave(Behaviour { fail_per_mille: 1000, ..Behaviour::default() })?;
        }
        let began = Instant::now();
        load.count()?;
        count(tiers)?;
        thread::sleep(during);
        let users = load.count()?;
        let counted = count(tiers)?;
        let seconds = began.elapsed().as_secs_f64();
        for server in leaf {
            server.behave(Behaviour::default())?;
        }
        Ok(Self { users, tiers: counted, seconds })
    }

    /// Checks that each tier got at most 20 % more requests than its callers, plus 10 a second; and in total no more
    /// than that allows from the users on.
    pub fn check(&self) -> Result<String> {
        let mut callers = self.users.sent as f64;
        ensure!(callers > 50.0, "the users made only {callers} requests");
        let mut told = format!("{callers} requests of users in {:.1} s", self.seconds);
        for (tier, &came) in self.tiers.iter().enumerate() {
            // Requests in flight at the beginning or end are counted at one tier only.
            let bound = callers.mul_add(1.2, 10.0 * self.seconds) + 15.0;
            let came = came as f64;
            told += &format!(" → tier {}: {came} (at most {bound:.0})", tier + 1);
            ensure!(came <= bound, "{told}");
            ensure!(came >= 0.8 * callers, "{told}: the storm did not reach the tier");
            callers = came;
        }
        Ok(told)
    }
}

fn count(tiers: &[Vec<Server>]) -> Result<Vec<u64>> {
    let of_tier = |tier: &Vec<Server>| tier.iter().map(|server| Ok(server.count()?.sent)).sum::<Result<u64>>();
    tiers.iter().map(of_tier).collect()
}

/// Requests of each server since the last query.
pub fn given(servers: &[Server]) -> Result<Vec<u64>> {
    servers.iter().map(|server| Ok(server.count()?.sent)).collect()
}

/// Response time of a slow pod in milliseconds.
const SLOW_MS: u64 = 1500;

/// One pod of several becomes slow.
#[derive(Clone, Debug)]
pub struct Leak {
    /// The slow pod: the busiest one, so that it has traffic to lose.
    pub pod: usize,
    /// Requests of each pod before.
    pub before: Vec<u64>,
    /// Requests of each pod from two seconds after it became slow.
    pub slow: Vec<u64>,
    /// What the users saw, without requests from before.
    pub users: WebCount,
}

impl Leak {
    /// Makes a server slow, and leaves it so.
    pub fn make(load: &mut WebLoad, servers: &[Server], during: Duration) -> Result<Self> {
        given(servers)?;
        thread::sleep(Duration::from_secs(2));
        let before = given(servers)?;
        let pod = (0..before.len()).max_by_key(|&n| before[n]).context("there are no servers")?;
        servers[pod].behave(Behaviour { delay_ms: SLOW_MS, ..Behaviour::default() })?;
        thread::sleep(Duration::from_secs(2));
        given(servers)?;
        // Responses to earlier requests arrive within the response time of the slow pod.
        let late = Duration::from_millis(SLOW_MS + 100);
        thread::sleep(late);
        load.count()?;
        thread::sleep(during.saturating_sub(late));
        Ok(Self { pod, before, slow: given(servers)?, users: load.count()? })
    }

    /// Lets the pod recover; waits until it gets traffic again and returns how long that took.
    pub fn mend(&self, servers: &[Server], limit: Duration) -> Result<Duration> {
        servers[self.pod].behave(Behaviour::default())?;
        let recovered = Instant::now();
        within(limit, "the pod that recovered has a share again", || {
            thread::sleep(Duration::from_millis(500));
            let given = given(servers)?;
            let all: u64 = given.iter().sum();
            ensure!(all > 0 && given[self.pod] * 20 >= all, "it was given {} of {all} requests", given[self.pod]);
            Ok(())
        })?;
        Ok(recovered.elapsed())
    }

    /// Checks that the pod got at most 1 % while slow (one request is always allowed), and more before.
    pub fn check(&self) -> Result<String> {
        let (had, before) = (self.before[self.pod], self.before.iter().sum::<u64>());
        let (got, all) = (self.slow[self.pod], self.slow.iter().sum::<u64>());
        let told = format!(
            "before: {had} of {before} requests ({:.1} %); from 2 s after it turned slow: {got} of {all} ({:.2} %); for users \
             p99 is {} ms, {:.2} % failed",
            percent(had, before),
            percent(got, all),
            self.users.p99_ms,
            self.users.failure_rate() * 100.0,
        );
        ensure!(had * 8 >= before, "{told}: it had no share to lose");
        ensure!(all > 50 && got <= (all / 100).max(1), "{told}");
        ensure!(self.users.failure_rate() <= 0.005, "{told}");
        Ok(told)
    }
}

/// `part` of `all` in percent.
pub fn percent(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 * 100.0 / all as f64 }
}

/// Trace context formats: a name, its headers, and the one that contains the trace id.
pub const CONTEXTS: [(&str, &[&str], &str); 5] = [
    (
        "traceparent",
        &["traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate: vendor=keep"],
        "4bf92f3577b34da6a3ce929d0e0e4736",
    ),
    ("b3", &["b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"], "80f198ee56343ba864fe8b2a57d3eff7"),
    (
        "x-b3",
        &["x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124", "x-b3-spanid: a2fb4a1d1a96d312", "x-b3-sampled: 1"],
        "463ac35c9f6413ad48485a3953bb6124",
    ),
    (
        "unsampled",
        &["traceparent: 00-aaaabbbbccccddddeeeeffff00001111-00f067aa0ba902b7-00"],
        "aaaabbbbccccddddeeeeffff00001111",
    ),
    (
        // Version 0, field 0: the trace, field 1: the span, field 2: sampled.
        "grpc-trace-bin",
        &["grpc-trace-bin: AAAAESIzRFVmd4iZqrvM3e7/AQECAwQFBgcIAgE"],
        "00112233445566778899aabbccddeeff",
    ),
];

/// Checks that the headers seen by an application carry this trace, in its original format.
pub fn kept(form: &str, seen: &serde_json::Value, trace: &str) -> Result<()> {
    let header = |name: &str| seen["headers"][name].as_str().unwrap_or_default().to_owned();
    let found = match form {
        "b3" => header("b3"),
        "x-b3" => header("x-b3-traceid"),
        "grpc-trace-bin" => {
            let kept = !header("grpc-trace-bin").is_empty();
            ensure!(kept, "grpc-trace-bin was lost: {seen}");
            header("traceparent")
        }
        _ => header("traceparent"),
    };
    ensure!(found.contains(trace), "{form} with trace {trace} became {found:?}: {seen}");
    if form == "traceparent" {
        ensure!(header("tracestate").contains("vendor=keep"), "tracestate was lost: {seen}");
    }
    Ok(())
}

/// The trace ids seen by each tier of a chain, the first tier first.
pub fn traces(answer: &WebAnswer) -> Vec<String> {
    let mut seen = answer.json();
    let mut found = Vec::new();
    while seen["server"].is_string() {
        let parent = seen["headers"]["traceparent"].as_str().unwrap_or_default().to_owned();
        found.push(parent.split('-').nth(1).unwrap_or_default().to_owned());
        seen = seen["next"].take();
    }
    found
}
