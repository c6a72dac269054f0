//! Where results go: the terminal, and files that can be looked at and compared later.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::compare;
use crate::page::page;
use crate::report::{All, Report};

/// How and where a result is shown.
#[derive(Clone, Debug, clap::Args)]
pub struct Output {
    /// How the result is printed
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
    /// Where the page goes; the JSON goes beside it [default: target/bench/NAME.html]
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table
    Text,
    /// One JSON document
    Json,
}

impl Output {
    /// Prints one bench's result, and writes its page and its JSON.
    pub fn one(&self, report: &Report) -> Result<()> {
        let json = serde_json::to_string_pretty(report)? + "\n";
        self.write(&report.bench, &json, std::slice::from_ref(report))?;
        say(if self.output == Format::Json { json } else { report.table() })
    }

    /// Prints the results of several benches, and writes one page and one JSON of them.
    pub fn all(&self, benches: Vec<Report>) -> Result<()> {
        ensure!(!benches.is_empty(), "there are no results to show");
        let all = All { bench: "all".to_owned(), benches };
        let json = serde_json::to_string_pretty(&all)? + "\n";
        self.write("all", &json, &all.benches)?;
        let tables: Vec<String> = all.benches.iter().map(Report::table).collect();
        say(if self.output == Format::Json { json } else { tables.join("\n") })
    }

    /// Only writes: for a bench that is one of several.
    pub fn keep(report: &Report) -> Result<()> {
        let output = Self { output: Format::Text, html: None };
        output.write(&report.bench, &(serde_json::to_string_pretty(report)? + "\n"), std::slice::from_ref(report))
    }

    fn write(&self, name: &str, json: &str, reports: &[Report]) -> Result<()> {
        let html = self.html.clone().unwrap_or_else(|| directory().join(format!("{name}.html")));
        if let Some(directory) = html.parent() {
            fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        }
        let title = if name == "all" { "Culvert: benchmarks".to_owned() } else { format!("Culvert: bench {name}") };
        for (path, text) in [(&html, &page(&title, reports)), (&html.with_extension("json"), &json.to_owned())] {
            fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
            done(&format!("wrote {}", path.display()));
        }
        Ok(())
    }
}

/// The results that are already there, of these benches.
pub fn saved(benches: &[&str]) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for path in benches.iter().map(|bench| directory().join(format!("{bench}.json"))).filter(|path| path.exists()) {
        reports.extend(read(&path)?);
    }
    Ok(reports)
}

/// Prints the ratios of two runs.
pub fn compare(a: &Path, b: &Path, format: Format) -> Result<()> {
    let pairs = compare::pairs(&read(a)?, &read(b)?);
    ensure!(!pairs.is_empty(), "{} and {} have no measure in common", a.display(), b.display());
    say(match format {
        Format::Text => compare::table(&pairs),
        Format::Json => serde_json::to_string_pretty(&serde_json::json!({"bench": "compare", "pairs": pairs}))? + "\n",
    })
}

fn read(path: &Path) -> Result<Vec<Report>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    compare::runs(&text).with_context(|| format!("{} is not a bench's JSON", path.display()))
}

/// Where results are kept: `CULVERT_BENCH_DIR`, which `cargo xtask` sets.
fn directory() -> PathBuf {
    std::env::var_os("CULVERT_BENCH_DIR").map_or_else(|| PathBuf::from("target/bench"), PathBuf::from)
}

fn say(text: String) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("writing the result")
}

/// Says on standard error how far a bench is, from 0 to 1: on a terminal as a bar that grows, elsewhere when `what`
/// changes.
pub fn progress(fraction: f64, what: &str) {
    static LAST: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
    let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if std::io::stderr().is_terminal() {
        let full = (fraction.clamp(0.0, 1.0) * 24.0).round() as usize;
        let (filled, empty) = ("█".repeat(full), "░".repeat(24 - full));
        eprint!("\r{filled}{empty} {:3.0} % {what}\x1b[K", fraction * 100.0);
    } else if *last != what {
        eprintln!("{:3.0} % {what}", fraction * 100.0);
        what.clone_into(&mut last);
    }
}

/// A line on standard error, after whatever bar stood there.
pub fn done(text: &str) {
    let clear = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    eprintln!("{clear}{text}");
}
