//! Log lines that were dropped, as a metric.

use std::sync::Arc;
use std::time::Instant;

use super::registry::{Registry, Source};
use super::writer::LogWriter;

/// Shows `culvert_access_log_dropped_total`: lines that found no room because stdout was read too slowly.
pub fn register_dropped(registry: &Registry, writer: LogWriter) {
    registry.add(Arc::new(Dropped(writer)));
}

struct Dropped(LogWriter);

impl Source for Dropped {
    fn encode(&self, out: &mut String, _now: Instant) {
        out.push_str("# HELP culvert_access_log_dropped Lines dropped because stdout was read too slowly.\n");
        out.push_str("# TYPE culvert_access_log_dropped counter\n");
        out.push_str("culvert_access_log_dropped_total ");
        out.push_str(&self.0.dropped().to_string());
        out.push('\n');
    }
}
