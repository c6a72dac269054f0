//! Pure. What `culvert-peer` says on standard output, one JSON object a line.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What became of one client call.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Everything went as the mode demands.
    pub ok: bool,
    /// How far it got: `bind`, `connect`, `exchange` or `done`.
    pub stage: String,
    /// What went wrong.
    pub error: Option<String>,
    /// The `errno` of it, when the kernel said so.
    pub errno: Option<i32>,
    /// `getpeername()` after connecting.
    pub peer: Option<SocketAddr>,
    /// `getsockname()` after connecting.
    pub local: Option<SocketAddr>,
    /// What the server said, for the modes that show it.
    pub text: String,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// From the first system call to the end.
    pub millis: u64,
}

/// Something that happened at a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// All listeners are bound.
    Listening,
    /// A connection was accepted.
    Accepted {
        /// Mode of the listener.
        mode: String,
        /// `getpeername()`.
        peer: SocketAddr,
        /// `getsockname()`.
        local: SocketAddr,
    },
    /// A connection is over.
    Closed {
        /// Mode of the listener.
        mode: String,
        /// `getpeername()` at accept.
        peer: SocketAddr,
        /// Bytes read.
        received: u64,
        /// Why it ended, if not by a clean end of stream on both sides.
        error: Option<String>,
    },
}

/// Paths below this one control an HTTP server, when they are asked for from inside its pod.
pub const CONTROL: &str = "/-/";

/// How an HTTP server behaves from now on.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// Milliseconds before each answer.
    pub delay_ms: u64,
    /// How many of 1,000 requests fail.
    pub fail_per_mille: u32,
    /// With which status.
    pub status: u16,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { delay_ms: 0, fail_per_mille: 0, status: 503 }
    }
}

impl Behaviour {
    /// The path that asks for it, below [`CONTROL`].
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.delay_ms, self.fail_per_mille, self.status)
    }

    /// What a path asks for.
    pub fn from_path(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let (delay, fail, status) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { delay_ms: delay.parse().ok()?, fail_per_mille: fail.parse().ok()?, status: status.parse().ok()? })
    }
}

/// What an HTTP server or an HTTP load generator counted since it was last asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WebCount {
    /// Requests that left, or came in.
    pub sent: u64,
    /// Answers by status.
    pub statuses: BTreeMap<String, u64>,
    /// Requests without an answer, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Answers by the server that gave them.
    pub servers: BTreeMap<String, u64>,
    /// Answers that a waypoint made itself, by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Half of the answers came within.
    pub p50_ms: u64,
    /// 99 of 100 came within.
    pub p99_ms: u64,
    /// All came within.
    pub max_ms: u64,
}

impl WebCount {
    /// Requests that came to an end.
    pub fn ended(&self) -> u64 {
        self.statuses.values().chain(self.errors.values()).sum()
    }

    /// Of those, the ones that were answered with 200.
    pub fn ok(&self) -> u64 {
        self.statuses.get("200").copied().unwrap_or(0)
    }

    /// The share that was not, of all that ended.
    pub fn failed_share(&self) -> f64 {
        let ended = self.ended();
        if ended == 0 { 0.0 } else { (ended - self.ok()) as f64 / ended as f64 }
    }
}

/// What became of one HTTP request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WebAnswer {
    /// Status; 0 without an answer.
    pub status: u16,
    /// Headers and trailers.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: String,
    /// Why there is no answer.
    pub error: Option<String>,
    /// From connecting to the end.
    pub millis: u64,
}

impl WebAnswer {
    /// The body as an HTTP server of ours writes it.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// What a talking client hears.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "heard", rename_all = "lowercase")]
pub enum TalkLine {
    /// The connection is up.
    Connected {
        /// `getsockname()`.
        local: SocketAddr,
    },
    /// A line from the server.
    Line {
        /// Without its line feed.
        text: String,
    },
    /// The connection is over, or never came up.
    End {
        /// `None` for a clean end of stream.
        error: Option<String>,
    },
}

/// What a load generator counted since it was last asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LoadCount {
    /// Requests answered.
    pub ok: u64,
    /// Requests that failed, by reason.
    pub errors: BTreeMap<String, u64>,
}
