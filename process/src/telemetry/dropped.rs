//! Log lines that were dropped, as a metric.

use std::sync::Arc;
use std::time::Instant;

use super::registry::{Registry, Source};
use super::sample::{Collector, Kind, Metric, Value};
use super::writer::LogWriter;

/// Shows `culvert_access_log_dropped_total`: lines that found no room because stdout was read too slowly.
pub fn register_dropped(registry: &Registry, writer: LogWriter) {
    registry.add(Arc::new(Dropped(writer)));
}

struct Dropped(LogWriter);

const DROPPED: Metric = Metric {
    name: "culvert_access_log_dropped",
    help: "Lines dropped because stdout was read too slowly",
    kind: Kind::Counter,
};

impl Source for Dropped {
    fn collect(&self, _now: Instant, to: &mut dyn Collector) {
        to.single(&DROPPED, Value::Integer(self.0.dropped()));
    }
}
