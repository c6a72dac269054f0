//! Which checks there are, in which order.

use super::report::Report;
use super::{files, host, running};
use crate::cli::command::CheckArgs;

/// Checks everything that can be checked with these flags.
pub(crate) async fn check(args: &CheckArgs) -> Report {
    let mut report = Report::default();
    report.section("host", host::checks());
    if let Some(dir) = &args.ca_dir {
        report.section("certificate authority", files::ca_dir(dir));
    }
    if let Some(dir) = &args.manifests {
        report.section("manifests", files::manifests(dir));
    }
    match running::agent(args.asked.admin).await {
        Some(checks) => report.section("agent", checks),
        None => {
            let servers = [("admin", args.asked.admin), ("metrics", args.stats), ("readiness", args.ready)];
            report.section("ports", running::ports(&servers));
        }
    }
    report
}
