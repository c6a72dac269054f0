//! Pure. One endpoint out of those that may be used.
//!
//! The cost algorithms look at two endpoints chosen without replacement and take the cheaper one: enough to avoid the
//! slow, and no herd runs to the one that looks best. The two are chosen among the usable ones: choosing first and
//! discarding then would leave the other of the pair without competition, however slow it is.

use std::time::Instant;

use serde::Serialize;
use smallvec::SmallVec;

use super::load::{Load, LoadSettings};
use super::maglev::Maglev;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Algorithm {
    /// The cheaper of two by latency and requests in flight.
    PeakEwma,
    /// The cheaper of two by requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// By a hash of the request.
    ConsistentHash,
}

impl Algorithm {
    /// MeshPolicy's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeakEwma => "peakEwma",
            Self::LeastRequest => "leastRequest",
            Self::RoundRobin => "roundRobin",
            Self::Random => "random",
            Self::ConsistentHash => "consistentHash",
        }
    }

    /// Reads MeshPolicy's and DestinationRule's names.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "peakEwma" => Some(Self::PeakEwma),
            "leastRequest" | "LEAST_REQUEST" | "LEAST_CONN" => Some(Self::LeastRequest),
            "roundRobin" | "ROUND_ROBIN" => Some(Self::RoundRobin),
            "random" | "RANDOM" => Some(Self::Random),
            "consistentHash" => Some(Self::ConsistentHash),
            "UNSPECIFIED" => Some(Self::PeakEwma),
            _ => None,
        }
    }
}

/// What there is to choose from.
pub struct Candidates<'a, E> {
    /// The endpoints.
    pub endpoints: &'a [E],
    /// The load of one.
    pub load: fn(&E) -> &Load,
    /// How load becomes cost.
    pub settings: &'a LoadSettings,
    /// The table of [`Algorithm::ConsistentHash`], over the same endpoints.
    pub maglev: Option<&'a Maglev>,
    /// A number that grows by one with each request, for [`Algorithm::RoundRobin`].
    pub turn: usize,
    /// The request's hash, for [`Algorithm::ConsistentHash`].
    pub hash: u64,
}

/// With consistent hashing an endpoint takes at most this many times the average of requests in flight.
const BOUNDED_LOAD: f64 = 1.25;

/// The index of the chosen endpoint, or `None` when none is usable.
pub fn pick<E>(
    algorithm: Algorithm,
    from: &Candidates<'_, E>,
    usable: impl Fn(&E) -> bool,
    now: Instant,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    let usable_at = |index: &usize| usable(&from.endpoints[*index]);
    if algorithm == Algorithm::ConsistentHash
        && let Some(table) = from.maglev
    {
        return hashed(from, table, &usable);
    }
    let all: SmallVec<[usize; 64]> = (0..from.endpoints.len()).filter(usable_at).collect();
    let load = |index: usize| (from.load)(&from.endpoints[index]);
    match (algorithm, all.len()) {
        (_, 0) => None,
        (_, 1) => Some(all[0]),
        (Algorithm::RoundRobin, count) => Some(all[from.turn % count]),
        (Algorithm::Random | Algorithm::ConsistentHash, count) => Some(all[random.usize(..count)]),
        (Algorithm::PeakEwma, _) => {
            let (a, b) = two_of(&all, random);
            Some(cheaper(a, b, |index| load(index).ewma_cost(from.settings, now)))
        }
        (Algorithm::LeastRequest, _) => {
            let (a, b) = two_of(&all, random);
            Some(cheaper(a, b, |index| load(index).request_cost(from.settings, now)))
        }
    }
}

fn two_of(all: &[usize], random: &mut fastrand::Rng) -> (usize, usize) {
    let first = random.usize(..all.len());
    let second = (first + 1 + random.usize(..all.len() - 1)) % all.len();
    (all[first], all[second])
}

fn cheaper(a: usize, b: usize, cost: impl Fn(usize) -> f64) -> usize {
    if cost(b) < cost(a) { b } else { a }
}

fn hashed<E>(from: &Candidates<'_, E>, table: &Maglev, usable: &impl Fn(&E) -> bool) -> Option<usize> {
    let pending = |endpoint: &E| f64::from((from.load)(endpoint).pending());
    let total: f64 = from.endpoints.iter().map(pending).sum();
    let most = ((total + 1.0) / from.endpoints.len().max(1) as f64 * BOUNDED_LOAD).ceil();
    let below_bound =
        |index: usize| from.endpoints.get(index).is_some_and(|endpoint| usable(endpoint) && pending(endpoint) < most);
    table
        .get(from.hash, below_bound)
        .or_else(|| table.get(from.hash, |index| from.endpoints.get(index).is_some_and(usable)))
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;
    use std::time::Duration;

    use super::*;

    const SETTINGS: LoadSettings = LoadSettings {
        decay: Duration::from_secs(10),
        initial: Duration::from_millis(30),
        failure_penalty: Duration::from_secs(5),
        slow_start: Duration::ZERO,
    };

    /// Six endpoints under a steady stream of requests, in simulated time. `behave` gives latency and success by
    /// endpoint and time; returns each endpoint's share of the requests sent after `from`, and the share of failures.
    fn simulate(
        algorithm: Algorithm,
        rate: f64,
        seconds: (f64, f64),
        behave: impl Fn(usize, f64) -> (f64, bool),
    ) -> ([f64; 6], f64) {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let loads: Vec<Load> = (0..6).map(|_| Load::new(&SETTINGS, 1, start)).collect();
        let mut random = fastrand::Rng::with_seed(7);
        // Ends of requests, earliest first: (negated microseconds, endpoint, latency in microseconds, success).
        let mut ends: BinaryHeap<(i64, usize, u64, bool)> = BinaryHeap::new();
        let (mut sent, mut failed) = ([0u32; 6], 0u32);
        for turn in 0..(seconds.1 * rate) as usize {
            let now = turn as f64 / rate;
            while ends.peek().is_some_and(|end| (-end.0) as f64 / 1e6 <= now) {
                let Some((ended, index, micros, success)) = ends.pop() else { break };
                loads[index].finish();
                let sample = if success { Duration::from_micros(micros) } else { SETTINGS.failure_penalty };
                loads[index].record(&SETTINGS, sample, at((-ended) as f64 / 1e6));
            }
            let from =
                Candidates { endpoints: &loads, load: |load| load, settings: &SETTINGS, maglev: None, turn, hash: 0 };
            let index = pick(algorithm, &from, |_| true, at(now), &mut random).unwrap();
            let (latency, success) = behave(index, now);
            let latency = latency / 2.0 + latency / 2.0 * -random.f64().max(1e-9).ln();
            loads[index].start();
            ends.push((-((now + latency) * 1e6) as i64, index, (latency * 1e6) as u64, success));
            if now >= seconds.0 {
                sent[index] += 1;
                failed += u32::from(!success);
            }
        }
        let total: u32 = sent.iter().sum();
        (sent.map(|count| f64::from(count) / f64::from(total)), f64::from(failed) / f64::from(total))
    }

    fn one_slow(index: usize, now: f64) -> (f64, bool) {
        (if index == 2 && now >= 20.0 { 0.1 } else { 0.01 }, true)
    }

    #[test]
    fn a_slow_endpoint_loses_its_traffic_within_two_seconds_at_any_rate() {
        for rate in [60.0, 600.0, 3000.0] {
            let (fractions, _) = simulate(Algorithm::PeakEwma, rate, (22.0, 60.0), one_slow);
            assert!(fractions[2] <= 0.01, "{rate}/s: {fractions:?}");
            let (blind, _) = simulate(Algorithm::RoundRobin, rate, (22.0, 60.0), one_slow);
            assert!(blind[2] > 0.16, "the test would not notice: {blind:?}");
        }
    }

    #[test]
    fn a_recovered_endpoint_gets_its_traffic_back_within_a_minute() {
        let recovers = |index, now| if now >= 60.0 { (0.01, true) } else { one_slow(index, now) };
        for rate in [60.0, 600.0] {
            let (fractions, _) = simulate(Algorithm::PeakEwma, rate, (120.0, 150.0), recovers);
            assert!(fractions[2] > 0.10, "{rate}/s: {fractions:?}");
        }
    }

    #[test]
    fn an_endpoint_that_fails_fast_attracts_nothing() {
        let fails = |index, now| if index == 2 && now >= 20.0 { (0.001, false) } else { (0.01, true) };
        for rate in [60.0, 600.0] {
            let (_, failed) = simulate(Algorithm::PeakEwma, rate, (20.0, 120.0), fails);
            assert!(failed <= 0.005, "{rate}/s: {failed}");
        }
    }

    #[test]
    fn only_usable_endpoints_are_picked_and_the_pair_competes() {
        let now = Instant::now();
        let loads: Vec<Load> = (0..6).map(|_| Load::new(&SETTINGS, 1, now)).collect();
        loads[0].record(&SETTINGS, Duration::from_secs(1), now);
        let from =
            Candidates { endpoints: &loads, load: |load| load, settings: &SETTINGS, maglev: None, turn: 0, hash: 0 };
        let mut random = fastrand::Rng::with_seed(1);
        let usable = |load: &Load| !std::ptr::eq(load, &loads[5]) && !std::ptr::eq(load, &loads[4]);
        for _ in 0..500 {
            let index = pick(Algorithm::PeakEwma, &from, usable, now, &mut random).unwrap();
            assert!((1..4).contains(&index), "{index} is slow or not usable");
        }
        assert_eq!(pick(Algorithm::PeakEwma, &from, |_| false, now, &mut random), None);
    }

    #[test]
    fn a_hot_key_does_not_overload_its_endpoint() {
        let now = Instant::now();
        let loads: Vec<Load> = (0..4).map(|_| Load::new(&SETTINGS, 1, now)).collect();
        let names: Vec<String> = (0..4).map(|n| n.to_string()).collect();
        let table = Maglev::new(names.iter().map(|name| (name.as_bytes(), 1)));
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..100 {
            let from = Candidates {
                endpoints: &loads,
                load: |load| load,
                settings: &SETTINGS,
                maglev: Some(&table),
                turn: 0,
                hash: 42,
            };
            let index = pick(Algorithm::ConsistentHash, &from, |_| true, now, &mut random).unwrap();
            loads[index].start();
        }
        assert!(loads.iter().all(|load| load.pending() <= 33), "{loads:?}");
    }
}
