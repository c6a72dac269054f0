//! Pure. The result of a check out of the problems of manifests.

use crate::view::ProblemView;
use process::telemetry::escape::line;

use super::report::Finding;

/// Warns of problems and fails on errors; notes do not count.
pub(super) fn judge(all: &[ProblemView]) -> Finding {
    let of = |severity: &str| all.iter().any(|problem| problem.severity == severity);
    let telling = all.iter().filter(|problem| problem.severity != "info");
    // Each on a line of its own, whatever the names in it are.
    let told = |problem: &ProblemView| line(&format!("{}: {problem}", problem.severity)).into_owned();
    let what = telling.map(told).collect::<Vec<_>>().join("\n");
    match (of("error"), of("warning")) {
        (true, _) => Finding::wrong(what, "what a broken file said before stays in effect"),
        (false, true) => Finding::warning(what, ""),
        (false, false) => Finding::Fine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_problem_decides_and_remarks_do_not_count() {
        let problem = |severity: &str| ProblemView {
            severity: severity.into(),
            file: "a.yaml".into(),
            line: 3,
            object: Some("Pod default/web".into()),
            field: None,
            message: "no".into(),
        };
        assert_eq!(judge(&[]), Finding::Fine);
        assert_eq!(judge(&[problem("info")]), Finding::Fine);
        let warning = "warning: a.yaml:3: Pod default/web: no";
        assert_eq!(judge(&[problem("info"), problem("warning")]), Finding::warning(warning, ""));
        assert!(matches!(judge(&[problem("warning"), problem("error")]), Finding::Wrong { .. }));
        let forging = ProblemView { message: "no\nerror: b.yaml".into(), ..problem("warning") };
        assert_eq!(judge(&[forging]), Finding::warning(format!("{warning}\\nerror: b.yaml"), ""));
    }
}
