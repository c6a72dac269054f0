//! Role: the clients whose service is measured, several in each of many pods, at a rate that any node could serve.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::http::Asking;
use crate::load::Seen;
use crate::pods::{self, Member, socket_in};

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between the connections that a pod opens, and closes after one answer.
const OPENING: Duration = Duration::from_millis(100);

/// What the clients do.
#[derive(Clone, Debug, Args)]
pub struct Victims {
    /// JSON: the pods, what they dial and ask for
    #[arg(long)]
    pub plan: PathBuf,
    /// Connections that each pod keeps
    #[arg(long, default_value_t = 2)]
    pub kept: usize,
    /// Requests per second on each of them
    #[arg(long, default_value_t = 25.0)]
    pub rate: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
}

/// What the clients of all pods met with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Served {
    /// Requests on kept connections, from when they were due to the end of the answer.
    pub requests: Seen,
    /// The longest of them, in nanoseconds.
    pub longest_request_ns: u64,
    /// New connections, to the end of their first answer.
    pub openings: Seen,
    /// The longest of them, in nanoseconds.
    pub longest_opening_ns: u64,
    /// Requests and connections that failed, or took more than ten seconds.
    pub failures: u64,
    /// What the first of them was.
    pub failure: Option<String>,
}

/// The nanoseconds of what went well, and what did not.
#[derive(Default)]
struct Log {
    times: Vec<u64>,
    failures: Vec<String>,
}

impl Log {
    fn add(&mut self, due: Instant, done: Result<()>) {
        match done {
            Ok(()) => self.times.push(due.elapsed().as_nanos() as u64),
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }
}

/// Runs the clients and says how they were served. A failure is counted, and its connection made anew.
pub async fn run(victims: &Victims) -> Result<Served> {
    let members = pods::read(&victims.plan)?;
    let every = Duration::from_secs_f64(1.0 / victims.rate);
    let (mut keeping, mut opening) = (JoinSet::new(), JoinSet::new());
    let begin = Instant::now() + Duration::from_millis(300);
    let end = begin + Duration::from_secs_f64(victims.seconds);
    let count = members.len() as u32;
    for (index, member) in members.into_iter().enumerate() {
        // Evenly over the time, so that the clients are no burst of their own.
        let index = index as u32;
        for kept in 0..victims.kept {
            let first = begin + every * index / count + every * kept as u32 / (count * victims.kept as u32);
            keeping.spawn(keep(member.clone(), first, every, end));
        }
        opening.spawn(open(member, begin + OPENING * index / count, end));
    }
    let (requests, openings) = (together(keeping).await?, together(opening).await?);
    let failures = [&requests.failures[..], &openings.failures].concat();
    Ok(Served {
        longest_request_ns: requests.times.iter().copied().max().unwrap_or(0),
        longest_opening_ns: openings.times.iter().copied().max().unwrap_or(0),
        requests: Seen::of(requests.times),
        openings: Seen::of(openings.times),
        failures: failures.len() as u64,
        failure: failures.into_iter().next(),
    })
}

async fn together(mut clients: JoinSet<Log>) -> Result<Log> {
    let mut all = Log::default();
    while let Some(log) = clients.join_next().await {
        let log = log.context("a client")?;
        all.times.extend(log.times);
        all.failures.extend(log.failures);
    }
    Ok(all)
}

/// Asks on time. A request that the last answer kept waiting is timed from when it was due.
async fn keep(member: Member, first: Instant, every: Duration, end: Instant) -> Log {
    let (mut log, mut kept, mut due) = (Log::default(), None, first);
    // Connected before the clock starts.
    match connect(&member).await {
        Ok(asking) => kept = Some(asking),
        Err(error) => log.failures.push(format!("{error:#}")),
    }
    while due < end {
        let mut started = due;
        if Instant::now() < due {
            tokio::time::sleep_until(due.into()).await;
            // The timer's own lateness is not the way's.
            started = Instant::now();
        }
        let asked = async {
            let mut asking = match kept.take() {
                Some(asking) => asking,
                None => connect(&member).await?,
            };
            asking.ask().await.context("asking")?;
            kept = Some(asking);
            Ok(())
        };
        log.add(started, asked.await);
        due += every;
    }
    log
}

async fn open(member: Member, first: Instant, end: Instant) -> Log {
    let (mut log, mut due) = (Log::default(), first);
    while due < end {
        tokio::time::sleep_until(due.into()).await;
        let started = Instant::now();
        log.add(started, connect(&member).await.map(drop));
        due = (due + OPENING).max(started);
    }
    log
}

/// Connects and asks once.
async fn connect(member: &Member) -> Result<Asking<TcpStream>> {
    let socket = socket_in(&member.netns)?;
    let stream = tokio::time::timeout(PATIENCE, socket.connect(member.at)).await.context("connecting took too long")?;
    let stream = stream.context("connecting")?;
    stream.set_nodelay(true)?;
    let mut asking = Asking::new(stream, &member.host, "/");
    asking.ask().await.context("the first request")?;
    Ok(asking)
}
