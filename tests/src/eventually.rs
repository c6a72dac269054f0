//! The only wait of the tests: ask again until it is so, or until patience ends.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long `eventually` waits, times `CULVERT_TEST_PATIENCE` (default 1) for slow machines.
pub fn patience() -> Duration {
    Duration::from_secs(15).mul_f64(factor())
}

/// Asks until `ask` succeeds; then gives its answer. The error is the last one, with what was waited for.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Result<T>) -> Result<T> {
    within(patience(), what, ask)
}

/// As `eventually`, with a limit of its own: for promises about time.
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

/// Checks that something stays so for a while: what must never happen is asked for over and over.
pub fn always<T>(duration: Duration, what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < duration {
        ask().with_context(|| format!("must stay so: {what}"))?;
        thread::sleep(Duration::from_millis(25));
    }
    Ok(())
}

/// A duration that a promise allows, stretched on slow machines.
pub fn allow(duration: Duration) -> Duration {
    duration.mul_f64(factor())
}

fn factor() -> f64 {
    std::env::var("CULVERT_TEST_PATIENCE").ok().and_then(|v| v.parse().ok()).unwrap_or(1.0)
}
