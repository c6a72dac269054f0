//! The report of the demo: checks and figures, printed as they happen and summed up at the end, as text or JSON.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One object at the end, nothing else on standard output.
    Json,
}

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Stable name.
    pub id: &'static str,
    /// The claim.
    pub title: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// The evidence, one fact per line.
    pub evidence: String,
}

/// Memory of one process of the mesh.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryRow {
    /// Which process.
    pub process: String,
    /// How many pods it serves.
    pub pods: usize,
    /// Resident.
    pub rss_kib: u64,
    /// Resident, shared pages counted in part.
    pub pss_kib: u64,
    /// Private to it.
    pub private_kib: u64,
}

/// The report in the making.
#[derive(Debug)]
pub struct Report {
    format: Format,
    checks: Vec<Check>,
    memory: Vec<MemoryRow>,
}

impl Report {
    /// An empty report.
    pub fn new(format: Format) -> Self {
        Self { format, checks: Vec::new(), memory: Vec::new() }
    }

    /// Prints a line of text; nothing in JSON format.
    pub fn say(&self, line: &str) {
        if self.format == Format::Text {
            let mut out = io::stdout().lock();
            let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }

    /// Begins a step.
    pub fn step(&self, title: &str, words: &str) {
        self.say(&format!("\n── {title}"));
        for line in words.lines() {
            self.say(&format!("   {}", line.trim()));
        }
    }

    /// Records and prints a check. An error is a failed check with the error as its evidence.
    pub fn check(&mut self, id: &'static str, title: &'static str, result: Result<String>) {
        let (ok, evidence) = match result {
            Ok(evidence) => (true, evidence),
            Err(error) => (false, format!("{error:#}")),
        };
        self.say(&format!("   {} {title}", if ok { "√" } else { "×" }));
        for line in evidence.lines() {
            self.say(&format!("       {line}"));
        }
        self.checks.push(Check { id, title, ok, evidence });
    }

    /// Adds a process to the table of memory.
    pub fn memory(&mut self, row: MemoryRow) {
        self.memory.push(row);
    }

    /// Whether every check passed, and there were some.
    pub fn ok(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|c| c.ok)
    }

    /// Prints the summary: two tables, or the JSON object.
    pub fn close(&self) -> Result<()> {
        if self.format == Format::Json {
            let whole = serde_json::json!({"ok": self.ok(), "checks": self.checks, "memory": self.memory});
            writeln!(io::stdout(), "{whole}")?;
            return Ok(());
        }
        self.say("\n── What was checked");
        for check in &self.checks {
            self.say(&format!("   {} {:<24} {}", if check.ok { "√" } else { "×" }, check.id, check.title));
        }
        self.say("\n── Memory that the mesh took (KiB)");
        self.say(&format!("   {:<16} {:>5} {:>9} {:>9} {:>9}", "process", "pods", "rss", "pss", "private"));
        for row in &self.memory {
            self.say(&format!(
                "   {:<16} {:>5} {:>9} {:>9} {:>9}",
                row.process, row.pods, row.rss_kib, row.pss_kib, row.private_kib
            ));
        }
        let failed = self.checks.iter().filter(|c| !c.ok).count();
        self.say(&match failed {
            0 => format!("\nAll {} checks passed.", self.checks.len()),
            _ => format!("\n{failed} of {} checks failed.", self.checks.len()),
        });
        Ok(())
    }
}
