//! `cargo xtask once`: a number that everybody must agree on is written in one place.
//!
//! Test code is exempt: it says the number to see that the product means the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::visit::{self, Visit};

use crate::shell::step;
use crate::source::{self, SourceFile, attributes, file_of, is_for_tests, path_attribute};

/// The port of HBONE.
const NUMBER: &str = "15008";
/// Where it is written.
const PLACE: &str = "mesh/src/model/waypoint.rs";
/// The crates whose sources are looked at. The kernel half is not: it can use none of them, and the agent compares its
/// number with this one when it is compiled (`agent/src/capture/tables.rs`).
const CRATES: [&str; 7] = ["mesh", "sources", "transport", "process", "agent", "waypoint", "controller"];

/// Looks through the product's code and fails unless the number stands in its place and nowhere else.
pub(crate) fn run() -> Result<()> {
    step(format!("once: {NUMBER} is written in {PLACE} and nowhere else"));
    let files = source::all()?;
    let product: Vec<&SourceFile> = files.iter().filter(|file| is_of_product(&file.path)).collect();
    let tests: BTreeSet<PathBuf> = product.iter().flat_map(|file| files_for_tests(file)).collect();
    let code = product.iter().filter(|file| !is_below(&file.path, &tests));
    let found: Vec<(PathBuf, usize)> =
        code.flat_map(|file| found_in(file).map(move |line| (file.path.clone(), line))).collect();
    let (at_home, elsewhere): (Vec<_>, Vec<_>) = found.iter().partition(|(path, _)| path == Path::new(PLACE));
    if at_home.len() == 1 && elsewhere.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = found.iter().map(|(path, line)| format!("{}:{line}", path.display())).collect();
    bail!("{NUMBER} must be written once, in {PLACE}; it is in:\n  {}", lines.join("\n  "))
}

fn is_of_product(path: &Path) -> bool {
    CRATES.iter().any(|name| path.starts_with(Path::new(name).join("src")))
}

/// Whether a file is one of `tests`, or in the directory of one of them.
fn is_below(path: &Path, tests: &BTreeSet<PathBuf>) -> bool {
    let inside = |test: &PathBuf| match test.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod") => test.parent().is_some_and(|directory| path.starts_with(directory)),
        _ => path == test || path.starts_with(test.with_extension("")),
    };
    tests.iter().any(inside)
}

/// The files that a file declares as modules for tests.
fn files_for_tests(file: &SourceFile) -> Vec<PathBuf> {
    let modules = file.syntax.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() && is_for_tests(&module.attrs) => Some(module),
        _ => None,
    });
    let place = |module: &syn::ItemMod| match module.attrs.iter().find_map(path_attribute) {
        Some(path) => file.path.parent().map(|directory| directory.join(path)),
        None => file_of(&file.path, &module.ident.to_string()),
    };
    modules.filter_map(place).collect()
}

/// The lines of a file on which the number stands, in code that is not for tests.
fn found_in(file: &SourceFile) -> impl Iterator<Item = usize> + use<> {
    let mut reader = Reader { lines: Vec::new() };
    reader.visit_file(&file.syntax);
    reader.lines.into_iter()
}

struct Reader {
    lines: Vec<usize>,
}

impl Reader {
    fn read(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.read(group.stream()),
                TokenTree::Literal(literal) if holds_number(&literal.to_string()) => {
                    self.lines.push(literal.span().start().line);
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    /// Documentation may name the number.
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if !attribute.path().is_ident("doc") {
            self.read(attribute.meta.to_token_stream());
        }
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.read(call.tokens.clone());
    }

    fn visit_lit(&mut self, literal: &'ast syn::Lit) {
        self.read(literal.to_token_stream());
    }
}

/// Whether a literal is the number, or is a text in which it stands as a number of its own.
fn holds_number(literal: &str) -> bool {
    let plain = literal.replace('_', "");
    let own = |at: usize| {
        let before = plain[..at].chars().next_back();
        let after = plain[at + NUMBER.len()..].chars().next();
        !before.is_some_and(|c| c.is_ascii_digit()) && !after.is_some_and(|c| c.is_ascii_digit())
    };
    plain.match_indices(NUMBER).any(|(at, _)| own(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(code: &str) -> Vec<usize> {
        found_in(&SourceFile::parse(PathBuf::from("agent/src/a.rs"), code.to_owned()).unwrap()).collect()
    }

    #[test]
    fn the_number_is_found_in_every_form() {
        assert_eq!(lines("const A: u16 = 15008;"), [1]);
        assert_eq!(lines("\nfn f() { g(15_008_u16) }"), [2]);
        assert_eq!(lines("fn f() { println!(\"to {}\", 15008) }"), [1]);
        assert_eq!(lines("struct A {\n #[arg(default_value = \"0.0.0.0:15008\")]\n a: u8 }"), [2]);
        assert_eq!(lines("fn f() { match a { 15008 => 1, _ => 2 } }"), [1]);
    }

    #[test]
    fn documentation_tests_and_other_numbers_are_free() {
        assert_eq!(lines("/// On 15008.\nconst A: u32 = 1_500_800_111;"), Vec::<usize>::new());
        assert_eq!(lines("#[cfg(test)] mod tests { const A: u16 = 15008; }"), Vec::<usize>::new());
        assert_eq!(lines("#[test] fn a() { b(15008) }"), Vec::<usize>::new());
        assert_eq!(lines("const A: &str = \"115008\";"), Vec::<usize>::new());
    }

    #[test]
    fn a_file_below_a_module_for_tests_is_one_for_tests() {
        let tests = [PathBuf::from("a/src/tests/mod.rs"), PathBuf::from("a/src/sizes.rs")].into();
        for test in ["a/src/tests/mod.rs", "a/src/tests/deep/b.rs", "a/src/sizes.rs", "a/src/sizes/c.rs"] {
            assert!(is_below(Path::new(test), &tests), "{test}");
        }
        assert!(!is_below(Path::new("a/src/size.rs"), &tests));
    }
}
