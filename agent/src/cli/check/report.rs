//! Pure. The results of checks as lines for people and as JSON; the JSON has the shape of `linkerd check -o json`.

use std::borrow::Cow;

use anyhow::Result;
use process::telemetry::escape;
use serde_json::{Value, json};

/// All checks, by section.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sections: Vec<(&'static str, Vec<Check>)>,
}

/// One check. Ids are stable: documents and scripts name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    id: Cow<'static, str>,
    title: String,
    finding: Finding,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// As it should be.
    Fine,
    /// An agent runs, but look at this.
    Warning { what: String, hint: String },
    /// No agent can run, or it does not do what it is configured to.
    Wrong { what: String, hint: String },
}

impl Finding {
    pub(crate) fn warning(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Warning { what: what.into(), hint: hint.into() }
    }

    pub(crate) fn wrong(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), hint: hint.into() }
    }
}

impl Check {
    pub(crate) fn new(id: impl Into<Cow<'static, str>>, title: impl Into<String>, finding: Finding) -> Self {
        Self { id: id.into(), title: title.into(), finding }
    }

    #[cfg(test)]
    pub(crate) fn finding(&self) -> &Finding {
        &self.finding
    }
}

impl Report {
    pub(crate) fn section(&mut self, name: &'static str, checks: Vec<Check>) {
        self.sections.push((name, checks));
    }

    /// Whether nothing is wrong. Warnings are fine.
    pub(crate) fn is_fine(&self) -> bool {
        !self.checks().any(|check| matches!(check.finding, Finding::Wrong { .. }))
    }

    fn checks(&self) -> impl Iterator<Item = &Check> {
        self.sections.iter().flat_map(|(_, checks)| checks)
    }

    pub(crate) fn text(&self, colours: bool) -> String {
        let paint = |code: &str, sign: &str| {
            if colours { format!("\x1b[{code}m{sign}\x1b[0m") } else { sign.to_owned() }
        };
        let mut out = String::new();
        for (name, checks) in &self.sections {
            out.push_str(&format!("{name}\n{}\n", "-".repeat(name.chars().count())));
            for check in checks {
                let (sign, more) = match &check.finding {
                    Finding::Fine => (paint("32", "√"), None),
                    Finding::Warning { what, hint } => (paint("33", "‼"), Some((what, hint))),
                    Finding::Wrong { what, hint } => (paint("31", "×"), Some((what, hint))),
                };
                out.push_str(&format!("{sign} {}\n", escape::line(&check.title)));
                for text in more.into_iter().flat_map(|(what, hint)| [what, hint]).filter(|text| !text.is_empty()) {
                    for line in text.lines() {
                        out.push_str(&format!("    {}\n", escape::line(line)));
                    }
                }
            }
            out.push('\n');
        }
        let sign = if self.is_fine() { paint("32", "√") } else { paint("31", "×") };
        out.push_str(&format!("Status check results are {sign}\n"));
        out
    }

    pub(crate) fn json(&self) -> Result<String> {
        let categories: Vec<Value> = self
            .sections
            .iter()
            .map(|(name, checks)| json!({"categoryName": name, "checks": checks.iter().map(data).collect::<Vec<_>>()}))
            .collect();
        let all = json!({"success": self.is_fine(), "categories": categories});
        Ok(escape::lines(&serde_json::to_string_pretty(&all)?).into_owned() + "\n")
    }
}

fn data(check: &Check) -> Value {
    let mut data = json!({"id": check.id, "description": check.title});
    let (result, more) = match &check.finding {
        Finding::Fine => ("success", None),
        Finding::Warning { what, hint } => ("warning", Some((what, hint))),
        Finding::Wrong { what, hint } => ("error", Some((what, hint))),
    };
    data["result"] = result.into();
    if let Some((what, hint)) = more {
        data["error"] = what.as_str().into();
        data["hint"] = hint.as_str().into();
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(last: Finding) -> Report {
        let mut report = Report::default();
        report.section("kernel", vec![Check::new("kernel-btf", "the kernel describes its types", Finding::Fine)]);
        report.section(
            "agent",
            vec![
                Check::new("agent-ports", "ports are free", Finding::warning("15000 is taken\nby whom?", "ss -ltnp")),
                Check::new("agent-x", "x", last),
            ],
        );
        report
    }

    #[test]
    fn one_line_to_a_check_with_what_is_wrong_below_it() {
        let expected = "kernel\n------\n√ the kernel describes its types\n\n\
            agent\n-----\n‼ ports are free\n    15000 is taken\n    by whom?\n    ss -ltnp\n√ x\n\n\
            Status check results are √\n";
        assert_eq!(report(Finding::Fine).text(false), expected);
        assert!(report(Finding::Fine).text(true).contains("\x1b[33m‼\x1b[0m ports are free\n"));
    }

    #[test]
    fn what_is_wrong_fails_the_whole() {
        let wrong = report(Finding::wrong("no", ""));
        assert!(!wrong.is_fine());
        assert!(wrong.text(false).ends_with("× x\n    no\n\nStatus check results are ×\n"));
    }

    #[test]
    fn the_data_has_the_shape_of_linkerd() {
        let data: Value = serde_json::from_str(&report(Finding::wrong("no", "do this")).json().unwrap()).unwrap();
        assert_eq!(data["success"], false);
        assert_eq!(
            data["categories"][0],
            json!({"categoryName": "kernel", "checks": [
                {"id": "kernel-btf", "description": "the kernel describes its types", "result": "success"}
            ]})
        );
        assert_eq!(
            data["categories"][1]["checks"][1],
            json!({"id": "agent-x", "description": "x", "result": "error", "error": "no", "hint": "do this"})
        );
    }
}
