//! `culvert explain`: asks the agent which path a connection would take.

use crate::view::{Explanation, Judged};
use anyhow::{Context, Result};
use process::admin::Client;
use process::telemetry::escape::line;

use super::command::{ExplainArgs, Output};
use super::get::{json, yaml};

/// What `culvert explain` prints, and whether the connection would be refused.
pub(crate) async fn explain(args: &ExplainArgs) -> Result<(String, bool)> {
    let source = in_namespace(&args.source, &args.namespace);
    let parameters = [("src", source.as_str()), ("dst", args.destination.as_str())];
    let body = Client::new(args.asked.admin).get("/explain", &parameters).await?;
    let explanation: Explanation = serde_json::from_slice(&body).context("reading the agent's explanation")?;
    let text = match args.output {
        Output::Json => json(&explanation)?,
        Output::Yaml => yaml(&explanation)?,
        Output::Table | Output::Wide => tell(&explanation),
    };
    Ok((text, explanation.is_refused()))
}

fn in_namespace(name: &str, namespace: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("{namespace}/{name}") }
}

fn tell(explanation: &Explanation) -> String {
    let identity = explanation.source_identity.as_deref().unwrap_or("no identity");
    let mut out = format!("{} ({}) -> {}\n", line(&explanation.source), line(identity), explanation.destination);
    for step in &explanation.path {
        out.push_str(&format!("  {}\n", line(step)));
    }
    for endpoint in &explanation.endpoints {
        out.push_str(&format!("\n{} by {}\n", line(&endpoint.workload), line(&endpoint.via)));
        if let Some(waypoint) = &endpoint.waypoint {
            out.push_str(&format!("  {}\n", line(waypoint)));
        }
        let width = endpoint.policies.iter().map(|judged| judged.policy.chars().count()).max().unwrap_or_default();
        for judged in &endpoint.policies {
            let policy = line(&judged.policy);
            out.push_str(&format!("  {:<5}  {policy:<width$}  {}\n", judged.action, answer(judged)));
            for rule in &judged.rules {
                out.push_str(&format!("           {}\n", line(rule)));
            }
        }
        let sign = if endpoint.admitted { '√' } else { '×' };
        out.push_str(&format!("{sign} {}\n", line(&endpoint.verdict)));
    }
    if let Some(refused) = &explanation.refused {
        out.push_str(&format!("× {}\n", line(refused)));
    }
    out
}

fn answer(judged: &Judged) -> &'static str {
    match (judged.matches, judged.dry_run) {
        (true, false) => "matches",
        (false, false) => "does not match",
        (true, true) => "matches, but is only tried (dry-run)",
        (false, true) => "does not match, and is only tried (dry-run)",
    }
}

#[cfg(test)]
mod tests {
    use crate::view::Verdict;

    use super::*;

    fn explanation() -> Explanation {
        let judged = |policy: &str, action: &str, matches, rule: &str| Judged {
            policy: policy.into(),
            action: action.into(),
            matches,
            rules: vec![rule.into()],
            dry_run: false,
        };
        Explanation {
            source: "default/client".into(),
            source_identity: Some("spiffe://cluster.local/ns/default/sa/client".into()),
            destination: "10.96.0.1:80".parse().unwrap(),
            path: vec!["10.96.0.1:80 is port 80 of service default/shop".into()],
            endpoints: vec![Verdict {
                workload: "default/shop-1".into(),
                via: "HBONE 10.0.0.2:15008 for 10.0.0.2:8080".into(),
                waypoint: Some("port 8080 is open past waypoint default/gate: nothing guards it there".into()),
                policies: vec![
                    judged("default/no-client", "DENY", true, "rule 0 (yes): asks for nothing"),
                    judged("default/web", "ALLOW", false, "rule 0 (no): to[0].ports [80] of 8080: no"),
                ],
                verdict: "refused: explicitly denied by: default/no-client".into(),
                admitted: false,
            }],
            refused: None,
        }
    }

    #[test]
    fn every_endpoint_is_told_with_its_policies() {
        let expected = "default/client (spiffe://cluster.local/ns/default/sa/client) -> 10.96.0.1:80\n  \
            10.96.0.1:80 is port 80 of service default/shop\n\n\
            default/shop-1 by HBONE 10.0.0.2:15008 for 10.0.0.2:8080\n  \
            port 8080 is open past waypoint default/gate: nothing guards it there\n  \
            DENY   default/no-client  matches\n           \
            rule 0 (yes): asks for nothing\n  \
            ALLOW  default/web        does not match\n           \
            rule 0 (no): to[0].ports [80] of 8080: no\n\
            × refused: explicitly denied by: default/no-client\n";
        assert_eq!(tell(&explanation()), expected);
        assert!(explanation().is_refused());
    }

    #[test]
    fn a_connection_that_cannot_be_made_is_refused() {
        let nowhere = Explanation { endpoints: vec![], refused: Some("no healthy upstream".into()), ..explanation() };
        assert!(tell(&nowhere).ends_with("\n× no healthy upstream\n"));
        assert!(nowhere.is_refused());
        assert!(!Explanation { refused: None, ..nowhere }.is_refused());
    }

    #[test]
    fn a_bare_name_is_of_the_given_namespace() {
        assert_eq!(in_namespace("client", "default"), "default/client");
        assert_eq!(in_namespace("prod/client", "default"), "prod/client");
    }
}
