//! The applications in pods: servers, clients and load generators.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::eventually::{eventually, patience};
use super::observe;
use super::peer::{Behaviour, CONTROL, Event, LoadCount, Outcome, TalkLine, WebAnswer, WebCount};
use super::process::{Place, Process};

/// The directory that cargo built the binaries into.
pub fn built() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("where am I")?;
    let directory = exe.parent().context("an executable is in a directory")?;
    let directory = if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
    Ok(directory.to_owned())
}

/// Path of a binary: from the environment variable when set, else beside this program.
pub fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => built()?.join(name),
    };
    ensure!(path.exists(), "{} is missing: build it first (cargo build), or set {variable}", path.display());
    Ok(path)
}

fn peer() -> Result<PathBuf> {
    binary("culvert-peer", "CULVERT_PEER_BIN")
}

/// A server in a pod. Ends when dropped.
#[derive(Debug)]
pub struct Server {
    events: Arc<Mutex<Vec<Event>>>,
    process: Arc<Mutex<Process>>,
    place: Place,
    http: Option<u16>,
}

impl Server {
    /// Starts `culvert-peer serve` and waits until it listens.
    pub fn start(place: &Place, name: &str, specs: &[&str]) -> Result<Self> {
        Self::start_with(place, name, &[], specs)
    }

    /// Like `start`, with further options: `--next ADDRESS:PORT`.
    pub fn start_with(place: &Place, name: &str, options: &[&str], specs: &[&str]) -> Result<Self> {
        let mut args = vec!["serve".to_owned(), "--name".to_owned(), name.to_owned()];
        args.extend(options.iter().map(|&o| o.to_owned()));
        args.extend(specs.iter().map(|&s| s.to_owned()));
        let process = if place.outlive {
            // Nobody reads its output then.
            let mut command = place.command(peer()?)?;
            command.args(args);
            let process = Process::logging(place, command, Path::new("/dev/null"))?;
            thread::sleep(Duration::from_millis(100));
            process
        } else {
            let process = Process::talking(place, peer()?, &args)?;
            let Event::Listening = process.expect()? else { bail!("{name} did not begin to listen") };
            process
        };
        let events = Arc::new(Mutex::new(Vec::new()));
        let http = specs.iter().find_map(|spec| spec.strip_prefix("http:")).and_then(|port| port.parse().ok());
        Ok(Self { events, process: Arc::new(Mutex::new(process)), place: place.clone(), http })
    }

    /// The events at the server so far.
    pub fn events(&self) -> Vec<Event> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some(line)) = process.read_line(Duration::ZERO) {
            events.extend(serde_json::from_str::<Event>(&line));
        }
        events.clone()
    }

    /// Sets the behaviour of an HTTP server.
    pub fn behave(&self, behaviour: Behaviour) -> Result<()> {
        self.control(&behaviour.path()).map(drop)
    }

    /// The counts of an HTTP server since the last query or change of behaviour.
    pub fn count(&self) -> Result<WebCount> {
        self.control("count")
    }

    fn control(&self, wanted: &str) -> Result<WebCount> {
        let port = self.http.context("this is no HTTP server")?;
        let (status, body) =
            observe::http(&self.place, ([127, 0, 0, 1], port).into(), "GET", &format!("{CONTROL}{wanted}"))?;
        ensure!(status == 200, "{status} {body}");
        serde_json::from_str(&body).with_context(|| format!("parse {body}"))
    }

    /// Waits for an event that matches.
    pub fn event<T>(&self, what: &str, matches: impl Fn(&Event) -> Option<T>) -> Result<T> {
        eventually(what, || {
            let events = self.events();
            events.iter().find_map(&matches).with_context(|| format!("events: {events:?}"))
        })
    }

    /// Connections accepted so far. What the application has said of one arrives a little after its caller has been
    /// answered, so the count is taken once it stands still.
    pub fn accepted(&self) -> usize {
        let count = || self.events().iter().filter(|e| matches!(e, Event::Accepted { .. })).count();
        let (mut last, mut times) = (0, 0);
        let _moving = eventually("the count of accepted connections stands still", || {
            let now = count();
            times = if now == last { times + 1 } else { 0 };
            last = now;
            ensure!(times > 4, "{now} and counting");
            Ok(())
        });
        last
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).pid()
    }
}

/// A conversation that stays open.
#[derive(Debug)]
pub struct Talk {
    process: Process,
    /// The client's own address.
    pub local: Option<SocketAddr>,
}

impl Talk {
    /// Connects; the conversation may be refused later, so `say` before relying on it.
    pub fn open(place: &Place, target: SocketAddr, options: &[&str]) -> Result<Self> {
        let mut args = vec!["talk".to_owned(), target.to_string()];
        args.extend(options.iter().map(|&o| o.to_owned()));
        let process = Process::talking(place, peer()?, &args)?;
        match process.expect()? {
            TalkLine::Connected { local } => Ok(Self { process, local: Some(local) }),
            other => bail!("talk to {target}: {other:?}"),
        }
    }

    /// Sends a line; gives the line that comes back.
    pub fn say(&mut self, line: &str) -> Result<String> {
        self.process.write_line(line)?;
        match self.process.expect()? {
            TalkLine::Line { text } => Ok(text),
            other => bail!("said {line:?}, heard {other:?}"),
        }
    }

    /// Sends a line and checks that an echo server gave it back.
    pub fn echo(&mut self, line: &str) -> Result<()> {
        let heard = self.say(line)?;
        ensure!(heard == line, "said {line:?}, heard {heard:?}");
        Ok(())
    }

    /// Waits until the connection is over; the error is `None` for a clean end.
    pub fn ended(&mut self, limit: Duration) -> Result<Option<String>> {
        match self.process.read(limit)? {
            TalkLine::End { error } => Ok(error),
            other => bail!("expected the end, heard {other:?}"),
        }
    }

    /// Whether nothing has been heard since the last line: the connection is still open.
    pub fn is_quiet(&self) -> bool {
        matches!(self.process.read_line(Duration::ZERO), Ok(None))
    }
}

/// A load generator.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

impl Load {
    /// Starts calling a `who` server over and over.
    pub fn start(place: &Place, target: SocketAddr, threads: u32) -> Result<Self> {
        let args = ["load".to_owned(), target.to_string(), "--threads".to_owned(), threads.to_string()];
        Ok(Self { process: Process::talking(place, peer()?, &args)? })
    }

    /// The counts since the last query.
    pub fn count(&mut self) -> Result<LoadCount> {
        self.process.write_line("count")?;
        self.process.expect()
    }
}

/// An open-loop HTTP load.
#[derive(Debug)]
pub struct WebLoad {
    process: Process,
}

impl WebLoad {
    /// Starts sending `rate` requests a second. `options` are words of `culvert-peer web-load`.
    pub fn start(place: &Place, target: SocketAddr, rate: u32, options: &[&str]) -> Result<Self> {
        let mut args = vec!["web-load".to_owned(), target.to_string(), "--rate".to_owned(), rate.to_string()];
        args.extend(options.iter().map(|&o| o.to_owned()));
        Ok(Self { process: Process::talking(place, peer()?, &args)? })
    }

    /// The counts since the last query.
    pub fn count(&mut self) -> Result<WebCount> {
        self.process.write_line("count")?;
        self.process.expect()
    }
}

/// Makes one HTTP request from a place. `options` are words of `culvert-peer fetch`.
pub fn fetch(place: &Place, target: SocketAddr, options: &[&str]) -> Result<WebAnswer> {
    let target = target.to_string();
    let mut args = vec!["fetch", &target];
    args.extend(options);
    let said = place.run(&peer()?.to_string_lossy(), &args)?;
    serde_json::from_str(&said).with_context(|| format!("parse {said:?}"))
}

/// Idle connections, held open until dropped.
#[derive(Debug)]
pub struct Hold {
    _process: Process,
    /// How many were opened, and what went wrong with the others.
    pub count: LoadCount,
}

impl Hold {
    /// Opens `connections` and keeps them.
    pub fn open(place: &Place, target: SocketAddr, connections: u32) -> Result<Self> {
        let args = ["hold".to_owned(), target.to_string(), connections.to_string()];
        let process = Process::talking(place, peer()?, &args)?;
        let count = process.read(patience() * 4)?;
        Ok(Self { _process: process, count })
    }
}

/// Makes one call from a place. `exchange` and `options` are words of `culvert-peer call`.
pub fn call(place: &Place, target: SocketAddr, exchange: &[&str], options: &[&str]) -> Result<Outcome> {
    let target = target.to_string();
    let mut args = vec!["call", &target];
    args.extend(options);
    args.extend(exchange);
    outcome(place, &args)
}

/// Sends a datagram from a place and waits for it to come back.
pub fn datagram(place: &Place, target: SocketAddr, text: &str) -> Result<Outcome> {
    outcome(place, &["udp", &target.to_string(), text])
}

/// Tries to listen on an address from a place.
pub fn bind(place: &Place, address: SocketAddr, reuse_port: bool) -> Result<Outcome> {
    let address = address.to_string();
    let mut args = vec!["bind", &address];
    if reuse_port {
        args.push("--reuse-port");
    }
    outcome(place, &args)
}

fn outcome(place: &Place, args: &[&str]) -> Result<Outcome> {
    let said = place.run(&peer()?.to_string_lossy(), args)?;
    serde_json::from_str(&said).with_context(|| format!("parse {said:?}"))
}
