//! The admin state: what the servers show. The program fills it at its start; every request asks it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;

use super::dump::{PolicyView, ServiceView, WorkloadView};
use super::route::Query;
use crate::telemetry::escape::write_json;
use crate::telemetry::logging::LogControl;
use crate::telemetry::registry::Registry;
use mesh::state::snapshot::Snapshot;

/// Writes one part of `/config_dump` as JSON. It runs on a thread that may block.
pub type Dump = Arc<dyn Fn(&mut dyn io::Write) -> io::Result<()> + Send + Sync>;

/// Answers a route that the process added. It runs on a thread that may block.
pub type QueryFn = Arc<dyn Fn(&Query) -> Result<Answer, Refusal> + Send + Sync>;

/// A JSON answer to a query.
pub type Answer = serde_json::Value;

/// Why a query got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400 for a query that makes no sense, 404 for a name that is not known.
    pub status: StatusCode,
    /// What is wrong, for the user.
    pub message: String,
}

/// What the servers show.
pub struct AdminState {
    /// `culvert` or `culvert-waypoint`.
    pub component: &'static str,
    /// Its version.
    pub version: &'static str,
    /// All metrics.
    pub registry: Arc<Registry>,
    /// The level of the log.
    pub logging: LogControl,
    /// What must still happen before the process is ready; nothing: it is.
    pub pending: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Begins the shutdown.
    pub quit: Arc<dyn Fn() + Send + Sync>,
    parts: BTreeMap<&'static str, Dump>,
    queries: BTreeMap<&'static str, QueryFn>,
}

impl AdminState {
    /// A state without parts: always ready, and nothing happens on quit.
    pub fn new(component: &'static str, version: &'static str, registry: Arc<Registry>, logging: LogControl) -> Self {
        Self {
            component,
            version,
            registry,
            logging,
            pending: Arc::new(Vec::new),
            quit: Arc::new(|| ()),
            parts: BTreeMap::new(),
            queries: BTreeMap::new(),
        }
    }

    /// Says when the process is ready: when `pending` names nothing.
    #[must_use]
    pub fn ready_when(mut self, pending: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.pending = Arc::new(pending);
        self
    }

    /// Says what `POST /quitquitquit` does.
    #[must_use]
    pub fn on_quit(mut self, quit: impl Fn() + Send + Sync + 'static) -> Self {
        self.quit = Arc::new(quit);
        self
    }

    /// Adds a part of `/config_dump`: what `view` returns, at the time of the request.
    #[must_use]
    pub fn part<T: Serialize>(self, name: &'static str, view: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.part_streamed(name, Arc::new(move |out| write_json(out, &view())))
    }

    /// Adds a part that is too large to be held in memory twice, and writes itself.
    #[must_use]
    pub fn part_streamed(mut self, name: &'static str, dump: Dump) -> Self {
        self.parts.insert(name, dump);
        self
    }

    /// Adds the parts `workloads`, `services` and `policies` of a mesh, sorted, one object at a time.
    #[must_use]
    pub fn mesh(self, snapshot: impl Fn() -> Arc<Snapshot> + Clone + Send + Sync + 'static) -> Self {
        let (of_services, of_policies) = (snapshot.clone(), snapshot.clone());
        self.part_streamed(
            "workloads",
            Arc::new(move |out| {
                let mesh = snapshot();
                let mut all: Vec<_> = mesh.workloads().collect();
                all.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
                write_list(out, all.into_iter().map(|workload| WorkloadView::from(&**workload)))
            }),
        )
        .part_streamed(
            "services",
            Arc::new(move |out| {
                let mesh = of_services();
                let mut all: Vec<_> = mesh.services().collect();
                all.sort_unstable_by(|a, b| a.service.key.cmp(&b.service.key));
                write_list(out, all.into_iter().map(|service| ServiceView::from(&**service)))
            }),
        )
        .part_streamed(
            "policies",
            Arc::new(move |out| {
                let mesh = of_policies();
                let mut all: Vec<_> = mesh.authorizations().collect();
                all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                write_list(out, all.into_iter().map(|policy| PolicyView::from(&**policy)))
            }),
        )
    }

    /// Adds a route `GET /<name>?…` that answers JSON.
    #[must_use]
    pub fn query(
        mut self,
        name: &'static str,
        answer: impl Fn(&Query) -> Result<Answer, Refusal> + Send + Sync + 'static,
    ) -> Self {
        self.queries.insert(name, Arc::new(answer));
        self
    }

    pub(super) fn queries(&self) -> Vec<&'static str> {
        self.queries.keys().copied().collect()
    }

    pub(super) fn query_named(&self, name: &str) -> Option<QueryFn> {
        self.queries.get(name).cloned()
    }

    /// Writes all parts as one object, or one part alone.
    pub(super) fn write_dump(&self, part: Option<&str>, out: &mut dyn io::Write) -> io::Result<()> {
        if let Some(dump) = part.and_then(|name| self.parts.get(name)) {
            return dump(out);
        }
        write!(out, "{{\"version\":{}", serde_json::json!({"component": self.component, "version": self.version}))?;
        for (name, dump) in &self.parts {
            write!(out, ",\"{name}\":")?;
            dump(out)?;
        }
        out.write_all(b"}")
    }

    pub(super) fn has_part(&self, name: &str) -> bool {
        self.parts.contains_key(name)
    }

    pub(super) fn help(&self) -> String {
        let mut out = format!("{} {}\n\n", self.component, self.version);
        out.push_str("GET  /config_dump\n");
        for part in self.parts.keys() {
            out.push_str(&format!("GET  /config_dump/{part}\n"));
        }
        for query in self.queries.keys() {
            out.push_str(&format!("GET  /{query}?...\n"));
        }
        out.push_str("GET  /metrics\nGET  /stats/prometheus\nGET  /healthz/ready\nGET  /version\nGET  /logging\n");
        out.push_str("POST /logging?level=LEVEL|TARGET=LEVEL,...\nPOST /quitquitquit\n");
        out
    }
}

/// Writes a list without holding more than one of its items as text.
fn write_list<T: Serialize>(out: &mut dyn io::Write, items: impl Iterator<Item = T>) -> io::Result<()> {
    out.write_all(b"[")?;
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.write_all(b",")?;
        }
        write_json(&mut *out, &item)?;
    }
    out.write_all(b"]")
}
