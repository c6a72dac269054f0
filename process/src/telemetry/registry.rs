//! Where metrics are registered, and their text in the OpenMetrics format.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Inner;

use super::openmetrics::OpenMetrics;
use super::process;
use super::sample::Collector;

/// Content type of [`Registry::encode`]'s answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics that give their samples when asked, because their series come and go or are kept elsewhere.
pub trait Source: Send + Sync {
    /// Tells all samples. `now` is the time of the scrape.
    fn collect(&self, now: Instant, to: &mut dyn Collector);
}

/// All metrics of a process.
pub struct Registry {
    inner: Mutex<Inner>,
    sources: Mutex<Vec<Arc<dyn Source>>>,
}

impl Registry {
    /// A registry with what every process tells: `istio_build{component,tag}` and `process_*`.
    pub fn new(component: &str, tag: &str) -> Arc<Self> {
        let mut inner = Inner::default();
        let build = Family::<Vec<(String, String)>, Gauge>::default();
        build.get_or_create(&vec![("component".into(), component.into()), ("tag".into(), tag.into())]).set(1);
        inner.register("istio_build", "What is running", build);
        Arc::new(Self { inner: Mutex::new(inner), sources: Mutex::default() })
    }

    /// Registers further metrics.
    pub fn register(&self, register: impl FnOnce(&mut Inner)) {
        register(&mut self.inner.lock());
    }

    /// Adds metrics that give their own samples.
    pub fn add(&self, source: Arc<dyn Source>) {
        self.sources.lock().push(source);
    }

    /// The text of a scrape.
    pub fn encode(&self, now: Instant) -> Result<String, fmt::Error> {
        let mut out = String::with_capacity(16 << 10);
        text::encode_registry(&mut out, &self.inner.lock())?;
        let mut samples = OpenMetrics::new(&mut out);
        process::collect(&mut samples);
        let sources = self.sources.lock().clone();
        for source in sources {
            source.collect(now, &mut samples);
        }
        text::encode_eof(&mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_tells_the_build_and_the_process_and_ends() {
        let text = Registry::new("culvert", "0.1.0").encode(Instant::now()).unwrap();
        assert!(text.contains("istio_build{component=\"culvert\",tag=\"0.1.0\"} 1\n"), "{text}");
        assert!(text.contains("\nprocess_open_fds "), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
