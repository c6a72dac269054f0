//! Role: very many connections out of several pods, held open; on demand some of them are asked again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

use crate::load::{Connection, Seen, say};
use crate::pods::{self, Member};

/// Connections that are being opened at once.
const AT_ONCE: usize = 64;
/// How long one may take to be set up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to hold.
#[derive(Clone, Debug, Args)]
pub struct Hold {
    /// JSON: the pods, and what they dial
    #[arg(long)]
    pub plan: PathBuf,
    /// Connections of all pods together
    #[arg(long)]
    pub count: usize,
}

/// Opens the connections, each with one request, and says how long that took. Then for each line with a number on
/// standard input so many of them, chosen without order, are asked once more, one after the other. All close when the
/// input ends.
pub async fn run(hold: &Hold) -> Result<()> {
    let members = pods::read(&hold.plan)?;
    ensure!(!members.is_empty(), "a plan without pods");
    let started = Instant::now();
    let mut open = Vec::with_capacity(hold.count);
    while open.len() < hold.count {
        let mut opening = JoinSet::new();
        for number in open.len()..hold.count.min(open.len() + AT_ONCE) {
            let member = &members[number % members.len()];
            let socket = pods::socket_in(&member.netns)?;
            opening.spawn(connect(socket, member.clone()));
        }
        while let Some(connection) = opening.join_next().await {
            open.push(connection.context("a connection")??);
        }
    }
    let units = open.len() as u64;
    say(&Seen { units, units_ever: units, seconds: started.elapsed().as_secs_f64(), ..Seen::default() })?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let count: usize = line.trim().parse().context("how many are to be asked")?;
        let started = Instant::now();
        let mut times = Vec::with_capacity(count);
        for turn in 0..count {
            let number = turn.wrapping_mul(7_919) % open.len();
            let begin = Instant::now();
            open[number].ask().await.with_context(|| format!("connection {number} no longer answers"))?;
            times.push(begin.elapsed().as_nanos() as u64);
        }
        say(&Seen { seconds: started.elapsed().as_secs_f64(), ..Seen::of(times) })?;
    }
    Ok(())
}

async fn connect(socket: tokio::net::TcpSocket, member: Member) -> Result<Connection> {
    let opened = async {
        let mut connection = Connection::over(socket.connect(member.at).await?)?;
        connection.ask().await?;
        anyhow::Ok(connection)
    };
    let opened =
        tokio::time::timeout(PATIENCE, opened).await.unwrap_or_else(|_| Err(anyhow::anyhow!("takes too long")));
    opened.with_context(|| format!("connecting to {} from {}", member.at, member.netns.display()))
}
