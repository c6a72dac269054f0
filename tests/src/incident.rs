//! The incidents that a mesh exists to prevent, made on purpose and measured: for the tests and for the demo.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::apps::{Server, WebLoad};
use super::eventually::within;
use super::peer::{Behaviour, WebAnswer, WebCount};

/// What reached each tier while the last one failed.
#[derive(Clone, Debug)]
pub struct Storm {
    /// Requests that the users made, and what came of them.
    pub users: WebCount,
    /// Requests that reached each tier.
    pub tiers: Vec<u64>,
    /// For how long.
    pub seconds: f64,
}

impl Storm {
    /// Makes every server of the last tier fail for a while and counts what reaches whom.
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

    /// What each tier may be given: what its callers were given, 20 % more, and 10 a second; and in all not more than that
    /// allows from the users on.
    pub fn check(&self) -> Result<String> {
        let mut callers = self.users.sent as f64;
        ensure!(callers > 50.0, "the users made only {callers} requests");
        let mut told = format!("{callers} requests of users in {:.1} s", self.seconds);
        for (tier, &came) in self.tiers.iter().enumerate() {
            // Requests under way when the counting began and ended are counted at one tier only.
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

/// Requests that each server was given since the last time.
pub fn given(servers: &[Server]) -> Result<Vec<u64>> {
    servers.iter().map(|server| Ok(server.count()?.sent)).collect()
}

/// How long a slow pod takes for an answer.
const SLOW_MS: u64 = 1500;

/// One pod of several turns slow.
#[derive(Clone, Debug)]
pub struct Leak {
    /// Which one: the busiest, so that it has a share to lose.
    pub pod: usize,
    /// What each pod was given before.
    pub before: Vec<u64>,
    /// What each was given from two seconds after.
    pub slow: Vec<u64>,
    /// What the users saw, once what they had asked for before was answered.
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
        // Answers to requests from before come for as long as the pod takes.
        let late = Duration::from_millis(SLOW_MS + 100);
        thread::sleep(late);
        load.count()?;
        thread::sleep(during.saturating_sub(late));
        Ok(Self { pod, before, slow: given(servers)?, users: load.count()? })
    }

    /// The server recovers; waits until it has a share again and gives how long that took.
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

    /// At most 1 % while slow (one request is always allowed), and a share before.
    pub fn check(&self) -> Result<String> {
        let (had, before) = (self.before[self.pod], self.before.iter().sum::<u64>());
        let (got, all) = (self.slow[self.pod], self.slow.iter().sum::<u64>());
        let told = format!(
            "before: {had} of {before} requests ({:.1} %); from 2 s after it turned slow: {got} of {all} ({:.2} %); for users \
             p99 is {} ms, {:.2} % failed",
            percent(had, before),
            percent(got, all),
            self.users.p99_ms,
            self.users.failed_share() * 100.0,
        );
        ensure!(had * 8 >= before, "{told}: it had no share to lose");
        ensure!(all > 50 && got <= (all / 100).max(1), "{told}");
        ensure!(self.users.failed_share() <= 0.005, "{told}");
        Ok(told)
    }
}

/// `part` of `all` in percent.
pub fn percent(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 * 100.0 / all as f64 }
}

/// The forms in which a trace context travels: a name, the headers of one, and where its trace is to be found again.
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

/// Checks that the headers an application was given carry this trace, in the form in which it came.
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

/// The traces that each tier of a chain was given, the first tier first.
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
