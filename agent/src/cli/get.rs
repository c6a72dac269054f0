//! `culvert get`: prints what the admin server knows, as a table, JSON or YAML.

use anyhow::{Context, Result, bail};
use process::admin::Client;
use process::telemetry::escape;
use serde_json::Value;

use super::command::{GetArgs, Output};
use super::rows;

/// What `culvert get` prints.
pub(crate) async fn get(args: &GetArgs) -> Result<String> {
    let (name, (part, field)) = (args.noun.name(), args.noun.part());
    let body = Client::new(args.asked.admin).get(&format!("/config_dump/{part}"), &[]).await?;
    let mut answer: Value = serde_json::from_slice(&body).with_context(|| format!("reading {name} of the agent"))?;
    if let Some(field) = field {
        answer = answer[field].take();
    }
    let Value::Array(mut items) = answer else { bail!("{name} of the agent are not a list") };
    if let Some(namespace) = &args.namespace {
        items.retain(|item| rows::belongs(args.noun, item, namespace));
    }
    match args.output {
        Output::Json => json(&items),
        Output::Yaml => yaml(&items),
        Output::Table | Output::Wide => rows::table(args.noun, items, args.output == Output::Wide).with_context(|| {
            format!("reading {name} of the agent: is it of another version? -o json shows them as they are")
        }),
    }
}

/// JSON for people and programs.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String> {
    Ok(escape::lines(&serde_json::to_string_pretty(value)?).into_owned() + "\n")
}

/// The same as YAML.
pub(crate) fn yaml(value: &impl serde::Serialize) -> Result<String> {
    let text = escape::lines(&serde_saphyr::to_string(value)?).into_owned();
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use process::admin::{AdminState, Bound, Surface};
    use process::telemetry::logging::LogControl;
    use process::telemetry::registry::Registry;
    use serde_json::json;

    use super::super::command::{Cli, Command};
    use super::*;

    async fn run(line: &str) -> Result<String> {
        let policy = |name: &str, namespace: &str| json!({"name": name, "namespace": namespace, "scope": "Namespace", "action": "Deny", "rules": []});
        let state = AdminState::new("culvert", "0", Registry::new("culvert", "0"), LogControl::detached("info"))
            .part("manifests", || {
                json!({"synced": true, "problems": [{"severity": "error", "file": "a.yaml", "line": 3, "message": "no"}]})
            })
            .part("policies", move || vec![policy("strict", "default"), policy("none", "prod")]);
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), Surface::Admin).unwrap();
        let admin = bound.local_addr();
        tokio::spawn(bound.serve(Arc::new(state)));
        let line = format!("culvert get {line} --admin {admin}");
        let Command::Get(args) = Cli::parse_from(line.split_whitespace()).command else { panic!("{line}") };
        get(&args).await
    }

    #[tokio::test]
    async fn every_output_tells_the_same() {
        let table = "NAMESPACE  POLICY NAME  ACTION  SCOPE\nprod       none         Deny    Namespace\n";
        assert_eq!(run("policies -n prod").await.unwrap(), table);
        let expected =
            json!([{"name": "none", "namespace": "prod", "scope": "Namespace", "action": "Deny", "rules": []}]);
        let json = run("policies -n prod -o json").await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), expected);
        let yaml = run("policies -n prod -o yaml").await.unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), expected, "{yaml}");
        assert_eq!(run("policies -n other").await.unwrap(), "No policies found.\n");
    }

    #[tokio::test]
    async fn problems_are_those_of_the_manifests() {
        let expected = "SEVERITY  AT        OBJECT  FIELD  PROBLEM\nerror     a.yaml:3  -       -      no\n";
        assert_eq!(run("problems").await.unwrap(), expected);
    }

    #[tokio::test]
    async fn what_this_agent_does_not_have_is_an_error() {
        let error = run("routes").await.unwrap_err().to_string();
        assert!(error.contains("no part \"routes\""), "{error}");
    }
}
