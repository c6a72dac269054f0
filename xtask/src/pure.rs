//! `cargo xtask pure`: a file marked "Pure." only computes.
//!
//! "Pure." as the first word of a file promises: no I/O, no clock, no randomness, no async. Time and randomness come in
//! as arguments. Test code is exempt.

use anyhow::{Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;

use crate::shell::step;
use crate::source::{self, SourceFile, attributes, is_for_tests};

/// Words that are forbidden in such a file.
const FORBIDDEN: [&str; 9] =
    ["async", "await", "getrandom", "socket2", "tokio", "File", "TcpListener", "TcpStream", "UdpSocket"];
/// Pairs joined by `::` that are.
const FORBIDDEN_PATHS: [(&str, &str); 9] = [
    ("Instant", "now"),
    ("OffsetDateTime", "now_utc"),
    ("Rng", "new"),
    ("SystemTime", "now"),
    ("std", "env"),
    ("std", "fs"),
    ("std", "process"),
    ("std", "thread"),
    ("thread", "sleep"),
];

/// Looks through every file marked pure and fails when one does more than compute.
pub(crate) fn run() -> Result<()> {
    step("pure: a file that says \"Pure.\" has no I/O, clock, randomness or async");
    let files = source::all()?;
    let pure: Vec<&SourceFile> = files.iter().filter(|file| is_marked(file)).collect();
    let broken: Vec<String> = pure.iter().flat_map(|file| violations(file)).collect();
    eprintln!("    {} pure files, {} broken", pure.len(), broken.len());
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} breaches of a file's promise to be pure:\n  {}", broken.len(), broken.join("\n  "))
}

fn is_marked(file: &SourceFile) -> bool {
    file.purpose().is_some_and(|purpose| purpose.starts_with("Pure."))
}

/// What one file does beyond computing, as lines to print.
fn violations(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    for item in file.syntax.items.iter().filter(|item| !is_for_tests(attributes(item))) {
        search(item.to_token_stream(), &mut |line, what| {
            found.push(format!("{}:{line}: a pure file uses `{what}`", file.path.display()));
        });
    }
    found
}

fn search(tokens: TokenStream, report: &mut impl FnMut(usize, String)) {
    let mut before: Option<String> = None;
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                let (word, line) = (ident.to_string(), ident.span().start().line);
                if FORBIDDEN.contains(&word.as_str()) {
                    report(line, word.clone());
                }
                let first = before.take().filter(|_| colons == 2);
                if let Some(first) = first.filter(|first| is_forbidden(first, &word)) {
                    report(line, format!("{first}::{word}"));
                }
                before = Some(word);
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                search(group.stream(), report);
                before = None;
            }
            _ => before = None,
        }
    }
}

/// Whether `first::second` has side effects. A random generator may be an argument, so its type may be named.
fn is_forbidden(first: &str, second: &str) -> bool {
    FORBIDDEN_PATHS.contains(&(first, second)) || (matches!(first, "fastrand" | "rand") && second != "Rng")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn violations_of(code: &str) -> Vec<String> {
        violations(&SourceFile::parse(PathBuf::from("a.rs"), format!("//! Pure. A.\n{code}")).unwrap())
    }

    #[test]
    fn computing_is_allowed() {
        let code = "use std::net::IpAddr; use std::time::Instant; fn f(now: Instant, ip: IpAddr) -> bool { true }";
        assert_eq!(violations_of(code), Vec::<String>::new());
        assert_eq!(violations_of("fn f(random: &mut fastrand::Rng) {}"), Vec::<String>::new());
    }

    #[test]
    fn a_clock_randomness_and_io_are_found() {
        assert_eq!(violations_of("fn f() {\n let t = Instant::now(); }"), ["a.rs:3: a pure file uses `Instant::now`"]);
        assert_eq!(violations_of("fn f() { fastrand::u8(..); }").len(), 1);
        assert_eq!(violations_of("fn f() { fastrand::Rng::new(); }").len(), 1);
        assert_eq!(violations_of("fn f() { std::fs::read(p); }").len(), 1);
        assert_eq!(violations_of("async fn f() {}").len(), 1);
    }

    #[test]
    fn its_tests_may_do_as_they_like() {
        assert_eq!(violations_of("#[cfg(test)] mod tests { fn f() { Instant::now(); } }"), Vec::<String>::new());
    }

    #[test]
    fn only_the_first_word_marks_a_file() {
        let file = |text: &str| SourceFile::parse(PathBuf::from("a.rs"), text.to_owned()).unwrap();
        assert!(is_marked(&file("//! Pure. Counts.\n")));
        assert!(!is_marked(&file("//! Counts. Pure.\n")));
    }
}
