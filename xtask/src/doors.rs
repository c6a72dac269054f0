//! `cargo xtask doors`: programs are started through one function, and only those that are declared with their package.
//!
//! That function (`programs::command`) refuses undeclared programs at run time. This check finds them before: a
//! `Command::new` anywhere else, and a literal name that is not in the table.

use std::ffi::OsStr;

use anyhow::{Result, bail};
use proc_macro2::{TokenStream, TokenTree};

use crate::programs::admit;
use crate::shell::step;
use crate::source::{self, SourceFile};

/// The file of that function.
const DOOR: &str = "xtask/src/programs.rs";
/// Functions whose argument, where it is a literal, is a program to start.
const STARTERS: [&str; 2] = ["command", "as_root"];
/// Functions that start a program too when its arguments follow as a list.
const RUNNERS: [&str; 2] = ["output", "run"];
/// The directories whose code starts programs.
const DIRECTORIES: [&str; 9] = [
    "tests",
    "bench",
    "xtask",
    "agent/tests",
    "agent/examples",
    "agent/build.rs",
    "waypoint/tests",
    "transport/tests",
    "transport/examples",
];

/// Checks every source file, and fails if one starts a program in another way.
pub(crate) fn run() -> Result<()> {
    step("doors: every program that is started is declared with its package");
    let files = source::all()?;
    let broken: Vec<String> = files.iter().flat_map(violations).collect();
    eprintln!("    {} files, {} broken", files.len(), broken.len());
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} programs started past the door in {DOOR}:\n  {}", broken.len(), broken.join("\n  "))
}

fn violations(file: &SourceFile) -> Vec<String> {
    let path = file.path.display();
    let mut found = Vec::new();
    if file.path != *DOOR {
        let starts_programs = DIRECTORIES.iter().any(|directory| file.path.starts_with(directory));
        search(quote::ToTokens::to_token_stream(&file.syntax), starts_programs, &mut |line, what| {
            found.push(format!("{path}:{line}: {what}"));
        });
    }
    found
}

fn search(tokens: TokenStream, starts_programs: bool, report: &mut impl FnMut(usize, String)) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if word == "new" && follows_command(&tokens[..index]) => {
                report(word.span().start().line, "`Command::new` must be `programs::command`".to_owned());
            }
            TokenTree::Ident(word) if starts_programs => {
                if let Some(TokenTree::Group(arguments)) = tokens.get(index + 1)
                    && let Some(program) = started(&word.to_string(), arguments.stream())
                    && let Err(error) = admit(OsStr::new(&program))
                {
                    report(word.span().start().line, error.to_string());
                }
            }
            TokenTree::Group(group) => search(group.stream(), starts_programs, report),
            _ => {}
        }
    }
}

/// Whether the tokens end in `Command::`, and not in clap's.
fn follows_command(before: &[TokenTree]) -> bool {
    let words: Vec<String> = before.iter().rev().take(6).map(ToString::to_string).collect();
    let is = |index: usize, text: &str| words.get(index).is_some_and(|word| word == text);
    is(0, ":") && is(1, ":") && is(2, "Command") && !(is(3, ":") && is(4, ":") && is(5, "clap"))
}

/// The program that a call starts, when it is written there: `command("ip")`, `run("ip", &["rule"])`.
fn started(function: &str, arguments: TokenStream) -> Option<String> {
    let mut arguments = arguments.into_iter();
    let first = arguments.next()?;
    let has_list = arguments.nth(1).is_some_and(|second| second.to_string() == "&");
    let starts = STARTERS.contains(&function) || RUNNERS.contains(&function) && has_list;
    let literal = syn::parse2::<syn::LitStr>(TokenStream::from(first)).ok().filter(|_| starts)?;
    Some(literal.value())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn violations_of(path: &str, code: &str) -> Vec<String> {
        violations(&SourceFile::parse(PathBuf::from(path), format!("//! A.\n{code}")).unwrap())
    }

    #[test]
    fn a_command_of_its_own_is_found_wherever_it_stands() {
        let code = "fn f() {\n let a = Command::new(\"ip\"); }";
        assert_eq!(
            violations_of("mesh/src/a.rs", code),
            ["mesh/src/a.rs:3: `Command::new` must be `programs::command`"]
        );
        assert_eq!(violations_of("tests/a.rs", "fn f() { g(|| tokio::process::Command::new(x)); }").len(), 1);
        assert_eq!(violations_of("tests/a.rs", "fn f() { clap::Command::new(\"a\"); }"), Vec::<String>::new());
        assert_eq!(violations_of(DOOR, code), Vec::<String>::new());
    }

    #[test]
    fn a_name_that_the_table_lacks_is_found_before_it_runs() {
        let found = violations_of("tests/a.rs", "fn f() {\n place.run(\"nft\", &[\"list\"]); }");
        assert!(found.len() == 1 && found[0].starts_with("tests/a.rs:3: program `nft` must be declared"), "{found:?}");
        assert_eq!(violations_of("agent/tests/a.rs", "fn f() { programs::command(\"nft\"); }").len(), 1);
        assert_eq!(violations_of("tests/a.rs", "fn f() { place.output(\"ss\", &[]); }"), Vec::<String>::new());
        assert_eq!(violations_of("tests/a.rs", "fn f() { place.command(binary()?); }"), Vec::<String>::new());
        assert_eq!(violations_of("tests/a.rs", "fn f() { run(\"nft\", 10.0); }"), Vec::<String>::new());
        // The product's own functions called `run` start no program.
        assert_eq!(violations_of("mesh/src/a.rs", "fn f() { run(\"nft\"); }"), Vec::<String>::new());
    }
}
