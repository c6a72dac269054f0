//! `bench capture`: what it costs to bring a pod's connections to a proxy, whatever the proxy then does with them.

use anyhow::{Result, bail};

use super::phases::Options;
use super::report::Report;

/// Not there yet.
pub fn run(_options: &Options) -> Result<Report> {
    bail!("the capture bench waits for the capture library")
}
