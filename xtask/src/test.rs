//! `cargo xtask test`: builds everything, runs the tests, and counts them.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::build_ebpf::ensure_object;
use crate::programs::command;
use crate::setup::{Purpose, envoy, programs as install_programs};
use crate::shell::{as_root, cargo, output, run as run_command, step};
use crate::{docs, doors, layers, once, pure, sizes};

/// Seconds after which one test program is ended and counted as failed.
const PROGRAM_TIMEOUT: &str = "1500";

/// Which tests to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Unit tests: no root, no kernel programs.
    Unit,
    /// The real binaries with eBPF in network namespaces, as root.
    E2e,
    /// Both, and the rules of the code.
    All,
}

/// Runs the tests of one level whose names contain one of `filter`, and prints the count on a line of its own.
pub(crate) fn run(level: Level, filter: &[String]) -> Result<()> {
    let mut tally = Tally::default();
    if level != Level::E2e && filter.is_empty() {
        tally.rule("layers", layers::run());
        tally.rule("once", once::run());
        tally.rule("sizes", sizes::run());
        tally.rule("pure", pure::run());
        tally.rule("doors", doors::run());
        tally.rule("documents", docs::run());
    }
    let mut surroundings = Vec::new();
    // The waypoint's tests need no root, but start curl, h2load and others.
    install_programs(Purpose::Test)?;
    if level != Level::Unit {
        surroundings.push(format!("CULVERT_ENVOY={}", envoy()?.display()));
        ensure_object()?;
        step("building the programs that the end-to-end tests run");
        run_command(cargo().args(["build", "--workspace", "--bins"]))?;
    }
    for program in build()? {
        if level == Level::All || (level == Level::E2e) == program.needs_root {
            tally.program(&program, &surroundings, filter)?;
        }
    }
    if level != Level::E2e && filter.is_empty() {
        step("examples in the documentation");
        tally.watch("doc", cargo().args(["test", "--quiet", "--workspace", "--doc"]))?;
    }
    tally.close()
}

/// One compiled test program.
struct Program {
    /// Package and target, as in `mesh`, or with a slash between them.
    name: String,
    executable: PathBuf,
    /// The directory in which cargo would run it.
    directory: PathBuf,
    needs_root: bool,
}

/// Compiles all tests and says where they are.
fn build() -> Result<Vec<Program>> {
    step("building the tests");
    let arguments = ["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"];
    let messages = output(cargo().args(arguments))?;
    let mut programs: Vec<Program> = messages.lines().filter_map(program_of).collect();
    programs.sort_by(|a, b| (a.needs_root, &a.name).cmp(&(b.needs_root, &b.name)));
    Ok(programs)
}

/// The test program that one of cargo's messages announces, if it does.
fn program_of(message: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let executable = PathBuf::from(message["executable"].as_str()?);
    let directory = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let package = directory.file_name()?.to_str()?.to_owned();
    let target = message["target"]["name"].as_str()?;
    let is_integration = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
    let needs_root = is_integration && matches!(package.as_str(), "agent" | "bench" | "tests");
    let name = if target == package { package } else { format!("{package}/{target}") };
    Some(Program { name, executable, directory, needs_root })
}

/// The counts of tests, and the failed ones.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
}

impl Tally {
    /// Counts a rule of the code as one test.
    fn rule(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                eprintln!("{name}: {error:#}");
                self.fail(name);
            }
        }
    }

    fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.to_owned());
    }

    /// Runs one test program, as root if it must, and counts its tests.
    fn program(&mut self, program: &Program, surroundings: &[String], filter: &[String]) -> Result<()> {
        step(format!("tests of {}{}", program.name, if program.needs_root { " (as root)" } else { "" }));
        let mut command = if program.needs_root { as_root("env", &[])? } else { command("env")? };
        command.args(surroundings).args(["timeout", "--kill-after=20", PROGRAM_TIMEOUT]);
        command.arg(&program.executable).args(filter).current_dir(&program.directory);
        self.watch(&program.name, &mut command)
    }

    /// Runs a command that prints as libtest does, passing its output on.
    fn watch(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("starting tests of {name}"))?;
        let lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        let failed_before = self.failed;
        for line in lines {
            let line = line.with_context(|| format!("reading the output of {name}"))?;
            eprintln!("{line}");
            if let Some([passed, failed, skipped]) = counts(&line) {
                self.passed += passed;
                self.failed += failed;
                self.skipped += skipped;
            } else if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
                self.failures.push(format!("{name}: {test}"));
            }
        }
        let status = child.wait().with_context(|| format!("waiting for tests of {name}"))?;
        if !status.success() && self.failed == failed_before {
            self.fail(&format!("{name} ended early: {status}"));
        }
        Ok(())
    }

    /// Prints the total, which is the last line on standard output, and turns failures into an error.
    #[expect(clippy::print_stdout, reason = "the count is the result of the command")]
    fn close(self) -> Result<()> {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        if self.failed > 0 {
            bail!("{} tests failed", self.failed);
        }
        if self.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }
}

/// Passed, failed and ignored tests from libtest's closing line.
fn counts(line: &str) -> Option<[u64; 3]> {
    let (_, sums) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |label: &str| {
        let part = sums.split("; ").find(|part| part.ends_with(label))?;
        part.split(' ').next()?.parse().ok()
    };
    Some([number(" passed")?, number(" failed")?, number(" ignored")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_a_test_program_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(counts(line), Some([12, 3, 1]));
        assert_eq!(counts("test result: ok. nonsense"), None);
        assert_eq!(counts("test policy::works ... ok"), None);
    }

    #[test]
    fn end_to_end_tests_run_as_root() {
        let message = |package: &str, kind: &str| {
            let text = r#"{"reason":"compiler-artifact","manifest_path":"/w/PKG/Cargo.toml","executable":"/w/x","target":{"name":"policy","kind":["KIND"]},"profile":{"test":true}}"#;
            program_of(&text.replace("PKG", package).replace("KIND", kind)).unwrap()
        };
        assert!(message("tests", "test").needs_root);
        assert!(message("bench", "test").needs_root);
        assert!(!message("tests", "lib").needs_root);
        assert!(!message("mesh", "test").needs_root);
        assert_eq!(message("tests", "test").name, "tests/policy");
    }

    #[test]
    fn a_failure_is_an_error_and_so_is_nothing() {
        assert!(Tally { passed: 1, ..Tally::default() }.close().is_ok());
        assert!(Tally { passed: 1, failed: 1, ..Tally::default() }.close().is_err());
        assert!(Tally::default().close().is_err());
    }
}
