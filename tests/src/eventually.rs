//! The only way to wait in tests: poll until a condition holds or a timeout is over.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Timeout of `eventually`, multiplied by `CULVERT_TEST_PATIENCE` (default 1) for slow machines.
pub fn patience() -> Duration {
    Duration::from_secs(15).mul_f64(factor())
}

/// Polls until `ask` succeeds and returns its result. On timeout, returns the last error with `what` was waited for.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Result<T>) -> Result<T> {
    within(patience(), what, ask)
}

/// Like `eventually`, with a timeout of its own: for guarantees about time.
pub fn within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if started.elapsed() > limit => {
                return Err(error).with_context(|| format!("waited {limit:?} for: {what}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(15)),
        }
    }
}

/// Checks that a condition holds for a while, by polling.
pub fn always<T>(duration: Duration, what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < duration {
        ask().with_context(|| format!("must stay so: {what}"))?;
        thread::sleep(Duration::from_millis(25));
    }
    Ok(())
}

/// A guaranteed duration, extended on slow machines.
pub fn allow(duration: Duration) -> Duration {
    duration.mul_f64(factor())
}

fn factor() -> f64 {
    std::env::var("CULVERT_TEST_PATIENCE").ok().and_then(|v| v.parse().ok()).unwrap_or(1.0)
}
