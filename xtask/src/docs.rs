//! `cargo xtask documents`: what documents and comments name is there, no line is too long, and the words are the
//! field's.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::shell::{step, workspace};
use crate::source::Text;
use crate::words;

/// Columns of a line of a document or a comment. What rustfmt leaves longer is a literal.
const COLUMNS: usize = 120;
/// Ends of names that are files wherever they stand between backticks.
const ENDINGS: [&str; 4] = [".rs", ".md", ".toml", ".yaml"];

/// Looks through every document and every comment.
pub(crate) fn run() -> Result<()> {
    step(format!("documents: paths that are named exist, no line over {COLUMNS} columns, the field's own words"));
    let files = files()?;
    let texts = texts(&files)?;
    let mut broken: Vec<String> = texts.iter().flat_map(|text| missing(text, &files)).collect();
    let paths = broken.len();
    let long: Vec<String> = texts.iter().flat_map(long).collect();
    let said = words::search(&texts);
    eprintln!(
        "    {} texts, {paths} paths that are not there, {} long lines, {} words that are not said",
        texts.len(),
        long.len(),
        said.len()
    );
    broken.extend(long);
    broken.extend(said);
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} breaches of the laws of documents:\n  {}", broken.len(), broken.join("\n  "))
}

/// Every file of the checkout, and every directory, below the workspace.
fn files() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    walk(workspace(), &mut found)?;
    Ok(found)
}

fn walk(directory: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        let below = path.strip_prefix(workspace()).unwrap_or(&path);
        found.insert(below.to_string_lossy().into_owned());
        if path.is_dir() {
            walk(&path, found)?;
        }
    }
    Ok(())
}

fn texts(files: &BTreeSet<String>) -> Result<Vec<Text>> {
    let ours = files.iter().filter(|path| path.ends_with(".md") || path.ends_with(".rs"));
    let read = |path: &String| {
        let text = std::fs::read_to_string(workspace().join(path)).with_context(|| format!("reading {path}"))?;
        Ok(Text { path: path.clone(), text })
    };
    ours.map(read).collect()
}

/// Lines that are too long. Rows of a table and what is quoted as code cannot be wrapped.
fn long(text: &Text) -> Vec<String> {
    let lines = running(text).filter(|(_, line)| !bare(line).starts_with('|'));
    let lines = lines.map(|(number, line)| (number, line.chars().count()));
    let long = lines.filter(|(_, columns)| *columns > COLUMNS);
    long.map(|(number, columns)| format!("{}:{number}: {columns} columns, the limit is {COLUMNS}", text.path)).collect()
}

/// A line without its indentation and the signs of a comment.
fn bare(line: &str) -> &str {
    line.trim_start().trim_start_matches(['/', '!']).trim_start()
}

/// The lines of prose outside blocks of code, each with its number.
fn running(text: &Text) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.prose().filter(move |(_, line)| {
        let is_fence = bare(line).starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    })
}

/// Paths that are named between backticks and are not there.
fn missing(text: &Text, files: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in running(text) {
        for named in line.split('`').skip(1).step_by(2) {
            for path in expanded(named) {
                if is_path(&path, files) && !is_there(&path, files) {
                    found.push(format!("{}:{number}: `{path}` is not there", text.path));
                }
            }
        }
    }
    found
}

/// `x/{y,z}` as `x/y` and `x/z`.
fn expanded(named: &str) -> Vec<String> {
    let braces = named.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match braces {
        Some((before, (middle, after))) => middle.split(',').map(|part| format!("{before}{part}{after}")).collect(),
        None => vec![named.to_owned()],
    }
}

/// Whether a name means a file or directory of ours: it begins with a top-level directory, or ends as a source file
/// does.
fn is_path(named: &str, files: &BTreeSet<String>) -> bool {
    let plain = !named.is_empty() && named.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
    let below = named.split_once('/').is_some_and(|(first, rest)| !rest.is_empty() && files.contains(first));
    plain && !named.starts_with(['/', '.', '-']) && (below || ENDINGS.iter().any(|ending| named.ends_with(ending)))
}

/// Whether it is there: as written from the top of the checkout, or as the end of a path.
fn is_there(named: &str, files: &BTreeSet<String>) -> bool {
    let named = named.trim_end_matches('/');
    let end = format!("/{named}");
    files.contains(named) || files.iter().any(|path| path.ends_with(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str, text: &str) -> Text {
        Text { path: path.to_owned(), text: text.to_owned() }
    }

    fn files() -> BTreeSet<String> {
        ["mesh", "mesh/src", "mesh/src/a.rs", "mesh/src/b.rs", "docs/x.md"].map(str::to_owned).into()
    }

    #[test]
    fn a_path_that_is_named_exists() {
        let found = |line: &str| missing(&text("A.md", line), &files());
        assert_eq!(found("`mesh/src/{a,b}.rs`, `b.rs`, `src/a.rs`, `mesh/src`, `docs/x.md`"), Vec::<String>::new());
        assert_eq!(found("see `mesh/src/{a,c}.rs`"), ["A.md:1: `mesh/src/c.rs` is not there"]);
        assert_eq!(found("\n`gone.rs`, `mesh/gone`").len(), 2);
        assert_eq!(found("`istio.io/dry-run`, `/etc/x.yaml`, `NAME.md…`, `a b.rs`"), Vec::<String>::new());
        assert_eq!(found("```\n`gone.rs`\n```"), Vec::<String>::new());
        assert_eq!(missing(&text("a.rs", "//! See `gone.rs`.\nlet x = \"`other.rs`\";\n"), &files()).len(), 1);
    }

    #[test]
    fn a_line_that_is_too_long_is_found() {
        let line = "é".repeat(COLUMNS);
        assert_eq!(long(&text("A.md", &line)), Vec::<String>::new());
        assert_eq!(long(&text("A.md", &format!("{line}x"))), ["A.md:1: 121 columns, the limit is 120"]);
        assert_eq!(long(&text("a.rs", &format!("    // {line}"))).len(), 1);
        assert_eq!(long(&text("a.rs", &format!("let a = \"{line}\";"))), Vec::<String>::new());
    }
}
