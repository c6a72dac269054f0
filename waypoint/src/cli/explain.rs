//! `culvert-waypoint explain`: each setting in effect, and the object that it comes from.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use process::telemetry::escape::line;

use crate::args::{ExplainArgs, Output};
use crate::config;
use crate::manifests;

/// Every setting of a service, and of a route on it.
pub(super) fn explain(args: &ExplainArgs) -> Result<String> {
    let (_, objects, services) = manifests::load(&args.manifests)?;
    let service = (&*args.service.namespace, &*args.service.name);
    let explained = config::explain(&objects, &services, &None, service, args.route.as_deref());
    let explained = explained.map_err(|message| anyhow!(message))?;
    if args.output == Output::Json {
        return Ok(serde_json::to_string_pretty(&explained)? + "\n");
    }
    let mut out = String::new();
    for subject in &explained {
        let _ = writeln!(out, "{}", line(&subject.subject));
        for row in &subject.settings {
            let _ = writeln!(out, "  {:<44} {:<28} {}", row.name, line(&row.value), line(&row.source));
        }
    }
    Ok(out)
}
