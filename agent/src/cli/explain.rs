//! `culvert explain`: asks the agent which path a connection would take.

use anyhow::{Context, Result};
use mesh::admin::Client;
use mesh::admin::dump::{Explanation, Verdict};

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
    Ok((text, explanation.verdict == Verdict::Refused))
}

fn in_namespace(name: &str, namespace: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("{namespace}/{name}") }
}

fn tell(explanation: &Explanation) -> String {
    let mut out = format!("{} -> {}\n", explanation.source, explanation.destination);
    let width = explanation.steps.iter().map(|step| step.step.chars().count()).max().unwrap_or_default();
    for step in &explanation.steps {
        let indent = format!("\n{:width$}", "", width = width + 4);
        out.push_str(&format!("  {:<width$}  {}\n", step.step, step.finding.replace('\n', &indent)));
    }
    let verdict = match explanation.verdict {
        Verdict::Permitted => "PERMITTED",
        Verdict::Refused => "REFUSED",
        Verdict::Beyond => "BEYOND THIS AGENT",
    };
    out.push_str(&format!("{verdict}: {}\n", explanation.reason));
    out
}

#[cfg(test)]
mod tests {
    use mesh::admin::dump::Step;

    use super::*;

    #[test]
    fn steps_stand_in_order_and_the_verdict_last() {
        let step = |step: &str, finding: &str| Step { step: step.into(), finding: finding.into() };
        let explanation = Explanation {
            source: "default/client".into(),
            destination: "shop:80".into(),
            steps: vec![step("service", "default/shop.default.svc.cluster.local"), step("policy", "one\ntwo")],
            verdict: Verdict::Refused,
            reason: "explicitly denied by: default/no".into(),
        };
        let expected = "default/client -> shop:80\n  service  default/shop.default.svc.cluster.local\n  policy   one\n           two\n\
                        REFUSED: explicitly denied by: default/no\n";
        assert_eq!(tell(&explanation), expected);
    }

    #[test]
    fn a_bare_name_is_of_the_given_namespace() {
        assert_eq!(in_namespace("client", "default"), "default/client");
        assert_eq!(in_namespace("prod/client", "default"), "prod/client");
    }
}
