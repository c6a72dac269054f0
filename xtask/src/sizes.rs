//! `cargo xtask sizes`: files stay small enough to be read in one sitting, and say what they are for.

use anyhow::{Result, bail};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::shell::step;
use crate::source::{self, SourceFile, is_for_tests};

/// Lines in a file, its tests included.
const FILE_LINES: usize = 600;
/// Lines in a function, signature included.
const FUNCTION_LINES: usize = 80;
/// Lines in a `mod.rs`, which holds docs, `mod` and `pub use` only.
const DIRECTORY_LINES: usize = 80;

/// Measures every file of ours and fails when one is too long or does not say what it is for.
pub(crate) fn run() -> Result<()> {
    step(format!(
        "sizes: files up to {FILE_LINES} lines, functions up to {FUNCTION_LINES}, each file says what it is for"
    ));
    let files = source::all()?;
    let broken: Vec<String> = files.iter().flat_map(violations).collect();
    let lines: usize = files.iter().map(|file| file.text.lines().count()).sum();
    eprintln!("    {} files, {lines} lines, {} broken", files.len(), broken.len());
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} breaches of the size limits:\n  {}", broken.len(), broken.join("\n  "))
}

/// What is wrong with one file, as lines to print.
fn violations(file: &SourceFile) -> Vec<String> {
    let path = file.path.display();
    let mut found = Vec::new();
    if file.purpose().is_none_or(str::is_empty) {
        found.push(format!("{path}:1: the first line does not say what the file is for (`//! …`)"));
    }
    let is_directory = file.path.file_name().is_some_and(|name| name == "mod.rs");
    let (lines, limit) = (file.text.lines().count(), if is_directory { DIRECTORY_LINES } else { FILE_LINES });
    if lines > limit {
        found.push(format!("{path}: {lines} lines, the limit is {limit}"));
    }
    if is_directory {
        let others = file.syntax.items.iter().filter(|item| !belongs_in_mod_rs(item));
        found.extend(
            others.map(|item| {
                format!("{path}:{}: a mod.rs holds docs, `mod` and `pub use` only", item.span().start().line)
            }),
        );
    }
    let mut functions = Functions { long: Vec::new() };
    functions.visit_file(&file.syntax);
    found.extend(functions.long.into_iter().map(|(line, name, lines)| {
        format!("{path}:{line}: function `{name}` has {lines} lines, the limit is {FUNCTION_LINES}")
    }));
    found
}

fn belongs_in_mod_rs(item: &syn::Item) -> bool {
    match item {
        syn::Item::Mod(module) => module.content.is_none() || is_for_tests(&module.attrs),
        syn::Item::Use(import) => !matches!(import.vis, syn::Visibility::Inherited),
        _ => false,
    }
}

/// Collects functions over the limit: line, name, length.
struct Functions {
    long: Vec<(usize, String, usize)>,
}

impl Functions {
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let (first, last) = (signature.span().start().line, body.span().end().line);
        let lines = last + 1 - first;
        if lines > FUNCTION_LINES {
            self.long.push((first, signature.ident.to_string(), lines));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.measure(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn violations_of(path: &str, text: &str) -> Vec<String> {
        violations(&SourceFile::parse(PathBuf::from(path), text.to_owned()).unwrap())
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        assert_eq!(violations_of("a.rs", "//! Counts.\nfn f() {}\n"), Vec::<String>::new());
        assert_eq!(violations_of("a.rs", "fn f() {}\n").len(), 1);
        assert_eq!(violations_of("a.rs", "//!\n//! Late.\n").len(), 1);
    }

    #[test]
    fn a_long_function_is_named_with_its_line() {
        let body = "    call();\n".repeat(FUNCTION_LINES - 2);
        assert_eq!(violations_of("a.rs", &format!("//! A.\nfn fits() {{\n{body}}}\n")), Vec::<String>::new());
        let found = violations_of("a.rs", &format!("//! A.\nfn grew() {{\n{body}    more();\n}}\n"));
        assert_eq!(found, ["a.rs:2: function `grew` has 81 lines, the limit is 80"]);
    }

    #[test]
    fn a_long_file_is_found() {
        let text = format!("//! A.\n{}", "const A: u8 = 1;\n".repeat(FILE_LINES));
        assert_eq!(violations_of("a.rs", &text), ["a.rs: 601 lines, the limit is 600"]);
    }

    #[test]
    fn a_mod_rs_holds_no_code() {
        assert_eq!(violations_of("a/mod.rs", "//! A.\nmod b;\npub use self::b::C;\n"), Vec::<String>::new());
        assert_eq!(violations_of("a/mod.rs", "//! A.\nmod b;\nfn f() {}\nuse std::fmt;\n").len(), 2);
    }
}
