//! Our own Rust files, read and parsed once for every check that looks at them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::shell::workspace;

/// The directories that hold our sources.
const DIRECTORIES: [&str; 11] = [
    "mesh",
    "sources",
    "transport",
    "process",
    "agent",
    "agent-ebpf",
    "waypoint",
    "xtask",
    "tests",
    "bench",
    "controller",
];

/// One Rust file.
pub(crate) struct SourceFile {
    /// Path below the workspace.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
}

impl SourceFile {
    /// Reads and parses one file given by its path below the workspace.
    pub(crate) fn read(path: PathBuf) -> Result<Self> {
        let text =
            std::fs::read_to_string(workspace().join(&path)).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(path, text)
    }

    /// Parses a text that came from elsewhere.
    pub(crate) fn parse(path: PathBuf, text: String) -> Result<Self> {
        let syntax = syn::parse_file(&text).with_context(|| {
            let line = syn::parse_file(&text).err().map_or(0, |error| error.span().start().line);
            format!("parsing {}:{line}", path.display())
        })?;
        Ok(Self { path, text, syntax })
    }

    /// What the first line says the file is for, without the `//!`.
    pub(crate) fn purpose(&self) -> Option<&str> {
        self.text.lines().next()?.strip_prefix("//!").map(str::trim)
    }
}

/// Every Rust file below our directories, in path order.
pub(crate) fn all() -> Result<Vec<SourceFile>> {
    let mut paths = Vec::new();
    for directory in DIRECTORIES {
        walk(&workspace().join(directory), &mut paths)?;
    }
    paths.sort();
    paths.into_iter().map(|path| SourceFile::read(below_workspace(&path))).collect()
}

fn below_workspace(path: &Path) -> PathBuf {
    path.strip_prefix(workspace()).unwrap_or(path).to_path_buf()
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// A text of ours: a document, or a Rust file.
pub(crate) struct Text {
    /// Path below the workspace.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Text {
    pub(crate) fn is_document(&self) -> bool {
        self.path.ends_with(".md")
    }

    /// Its lines that people read as prose, each with its number: all of a document, the comments of code.
    pub(crate) fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let all = self.is_document();
        let lines = self.text.lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.filter(move |(_, line)| all || is_comment(line))
    }
}

/// Whether a line of code is nothing but a comment.
pub(crate) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Whether an item is compiled for tests only: `#[test]`, `#[cfg(test)]` and everything that needs `test`.
pub(crate) fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().segments.last().is_some_and(|last| last.ident == "test") {
            return true;
        }
        let syn::Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident("cfg") && requires_test(list.tokens.clone())
    })
}

/// Whether a `cfg` condition can only hold in a test build: `test` itself, or `all(..)` with such a part.
fn requires_test(condition: proc_macro2::TokenStream) -> bool {
    let Ok(meta) = syn::parse2::<syn::Meta>(condition) else { return false };
    match meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("all") => {
            use syn::punctuated::Punctuated;
            list.parse_args_with(Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated)
                .is_ok_and(|parts| parts.iter().any(|part| requires_test(quote::ToTokens::to_token_stream(part))))
        }
        _ => false,
    }
}

/// The attributes of an item, whatever it is.
pub(crate) fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    use syn::Item;
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Where the file of `mod name;` lies, seen from the file with that line.
pub(crate) fn file_of(parent: &Path, name: &str) -> Option<PathBuf> {
    let directory = parent.parent()?;
    let directory = match parent.file_stem()?.to_str()? {
        "lib" | "main" | "mod" => directory.to_path_buf(),
        own_name => directory.join(own_name),
    };
    let candidates = [directory.join(format!("{name}.rs")), directory.join(name).join("mod.rs")];
    candidates.into_iter().find(|path| workspace().join(path).exists())
}

/// The value of `#[path = "…"]`.
pub(crate) fn path_attribute(attribute: &syn::Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) if pair.path.is_ident("path") => {
            Some(text.value())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_is_for_tests(code: &str) -> bool {
        let file = SourceFile::parse(PathBuf::from("a.rs"), code.to_owned()).unwrap();
        is_for_tests(attributes(&file.syntax.items[0]))
    }

    #[test]
    fn only_what_needs_a_test_build_is_for_tests() {
        assert!(first_is_for_tests("#[cfg(test)] mod tests {}"));
        assert!(first_is_for_tests("#[cfg(all(unix, test))] mod tests {}"));
        assert!(first_is_for_tests("#[tokio::test] async fn f() {}"));
        assert!(!first_is_for_tests("#[cfg(not(test))] mod real {}"));
        assert!(!first_is_for_tests("#[cfg(any(test, unix))] mod both {}"));
        assert!(!first_is_for_tests("mod real {}"));
    }
}
