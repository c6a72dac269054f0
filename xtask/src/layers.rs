//! `cargo xtask layers`: a module uses only what is declared below it.
//!
//! The `mod` lines of a crate root and of each `mod.rs` stand from outermost to innermost, and that order is the law:
//! a module may use modules declared after it in the same file and their insides, never those before it and never the
//! file that declares it. Test code is exempt. See CONTRIBUTING.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::shell::{cargo, output, step, workspace};
use crate::source::{SourceFile, attributes, file_of, is_for_tests, path_attribute};

/// Crate roots whose module order is checked.
const ROOTS: [&str; 10] = [
    "mesh/src/lib.rs",
    "sources/src/lib.rs",
    "transport/src/lib.rs",
    "process/src/lib.rs",
    "agent/src/lib.rs",
    "agent-ebpf/src/main.rs",
    "waypoint/src/lib.rs",
    "tests/src/lib.rs",
    "bench/src/lib.rs",
    "xtask/src/main.rs",
];

/// The crates of ours that each crate may depend on. A crate that is not listed may use none.
const MAY_USE: [(&str, &[&str]); 6] = [
    ("sources", &["mesh"]),
    ("transport", &["mesh"]),
    ("process", &["mesh", "transport"]),
    ("agent", &["agent-abi", "mesh", "process", "sources", "transport"]),
    ("waypoint", &["mesh", "process", "sources", "transport"]),
    ("bench", &["agent", "mesh", "sources", "tests", "transport"]),
];

/// Crates whose errors are types, since somebody asks which error it was.
const LIBRARIES: [&str; 4] = ["mesh", "sources", "transport", "process"];

/// A module's place: the names from the crate root down. The root is empty.
type Place = Vec<String>;

/// Checks every crate, prints one line each and fails when anything points up.
pub(crate) fn run() -> Result<()> {
    step("layers: a module uses only what is declared below it");
    let mut broken = crate_edges()?;
    for root in ROOTS.into_iter().filter(|root| workspace().join(root).exists()) {
        let mut house = House::default();
        house.enter(Path::new(root), Vec::new())?;
        let found = house.violations();
        eprintln!("    {root}: {} modules, {} references, {} broken", house.rooms.len(), house.uses.len(), found.len());
        broken.extend(found);
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} breaches of the layer law:\n  {}", broken.len(), broken.join("\n  "))
}

/// Dependencies between our crates that the picture in ARCHITECTURE.md does not have.
fn crate_edges() -> Result<Vec<String>> {
    let text = output(cargo().args(["metadata", "--format-version=1", "--no-deps", "--offline"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("reading cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut broken = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let allowed = MAY_USE.iter().find(|(user, _)| *user == name).map_or(&[][..], |(_, used)| used);
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        for used in dependencies.filter(|dependency| dependency["kind"] != "dev").filter_map(|d| d["name"].as_str()) {
            if ours.contains(used) && !allowed.contains(&used) || used == "anyhow" && LIBRARIES.contains(&name) {
                broken.push(format!("crate {name} must not depend on crate {used}"));
            }
        }
    }
    Ok(broken)
}

/// All modules of one crate and what they use.
#[derive(Default)]
struct House {
    /// For each module, the modules it declares in order.
    rooms: BTreeMap<Place, Vec<String>>,
    uses: Vec<Use>,
}

/// One path in the code that names a place in the same crate.
struct Use {
    from: Place,
    /// As written, with `crate`, `self` and `super` resolved; longer than a module's place when it names an item.
    to: Place,
    /// Whether a macro is called, since exported macros live at the root wherever they are written.
    is_macro: bool,
    file: PathBuf,
    line: usize,
}

impl House {
    /// Reads a module's file and, from its `mod` lines, all files below it.
    fn enter(&mut self, file: &Path, place: Place) -> Result<()> {
        let source = SourceFile::read(file.to_path_buf())?;
        self.rooms.insert(place.clone(), Vec::new());
        let mut reader = Reader { house: self, file, place, files: Vec::new() };
        reader.visit_file(&source.syntax);
        for (child, named) in reader.files {
            let name = child.last().expect("a declared module has a name");
            let child_file = match named {
                Some(path) => file.parent().map(|directory| directory.join(path)),
                None => file_of(file, name),
            };
            self.enter(&child_file.with_context(|| format!("{}: no file for `mod {name}`", file.display()))?, child)?;
        }
        Ok(())
    }

    /// The module that a path leads into: its longest prefix that is a module.
    fn room_of<'a>(&self, path: &'a [String]) -> &'a [String] {
        let lengths = (0..=path.len()).rev();
        lengths.map(|length| &path[..length]).find(|prefix| self.rooms.contains_key(*prefix)).unwrap_or(&[])
    }

    fn violations(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.uses.iter().filter_map(|used| self.violation(used)).collect();
        lines.dedup();
        lines
    }

    /// The violation of one reference, as a line to print.
    fn violation(&self, used: &Use) -> Option<String> {
        let target = self.room_of(&used.to);
        let fork = used.from.iter().zip(target).take_while(|(mine, theirs)| mine == theirs).count();
        if fork == used.from.len() || (used.is_macro && target.is_empty()) {
            return None;
        }
        let what = if fork == target.len() {
            "the module that holds it"
        } else {
            let order = self.rooms.get(&used.from[..fork])?;
            let rank = |name: &String| order.iter().position(|declared| declared == name);
            if rank(&target[fork]) > rank(&used.from[fork]) {
                return None;
            }
            "a module declared above it"
        };
        let (file, line) = (used.file.display(), used.line);
        Some(format!("{file}:{line}: `{}` uses {what}: crate::{}", used.from.join("::"), used.to.join("::")))
    }
}

/// Walks one file and notes what it declares and what it names.
struct Reader<'a> {
    house: &'a mut House,
    file: &'a Path,
    /// The module being read; deeper than the file inside `mod x { .. }`.
    place: Place,
    /// Modules that live in files of their own, with the file if a `path` attribute names it.
    files: Vec<(Place, Option<String>)>,
}

impl Reader<'_> {
    /// Notes one path if it stays in this crate by saying so: `crate::`, `self::` or `super::`.
    fn note(&mut self, segments: &[String], line: usize, is_macro: bool) {
        let ups = segments.iter().take_while(|segment| *segment == "super").count();
        let (base, rest) = match segments.first().map(String::as_str) {
            Some("crate") => (Vec::new(), &segments[1..]),
            Some("self") => (self.place.clone(), &segments[1..]),
            Some("super") => (self.place[..self.place.len().saturating_sub(ups)].to_vec(), &segments[ups..]),
            _ => return,
        };
        let (from, file) = (self.place.clone(), self.file.to_path_buf());
        self.house.uses.push(Use { from, to: [&base[..], rest].concat(), is_macro, file, line });
    }

    /// Notes each leaf of a `use` tree.
    fn note_tree(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        let mut leaf = |ident: &syn::Ident| {
            let name = ident.to_string();
            let whole = if name == "self" { prefix.to_vec() } else { [prefix, &[name]].concat() };
            self.note(&whole, ident.span().start().line, false);
        };
        match tree {
            syn::UseTree::Name(name) => leaf(&name.ident),
            syn::UseTree::Rename(rename) => leaf(&rename.ident),
            syn::UseTree::Path(path) => self.note_tree(&path.tree, &[prefix, &[path.ident.to_string()]].concat()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.note_tree(item, prefix)),
            syn::UseTree::Glob(glob) => self.note(prefix, glob.star_token.spans[0].start().line, false),
        }
    }

    /// Notes the paths inside a macro call, which the parser leaves as tokens.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let mut after_colons = false;
        for token in tokens {
            match &token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => after_colons = true,
                TokenTree::Ident(ident) if after_colons && !path.is_empty() => {
                    path.push(ident.to_string());
                    after_colons = false;
                }
                other => {
                    self.note(&std::mem::take(&mut path), line, false);
                    after_colons = false;
                    match other {
                        TokenTree::Ident(ident) => {
                            path.push(ident.to_string());
                            line = ident.span().start().line;
                        }
                        TokenTree::Group(group) => self.note_tokens(group.stream()),
                        _ => {}
                    }
                }
            }
        }
        self.note(&path, line, false);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
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

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let child = [&self.place[..], &[item.ident.to_string()]].concat();
        self.house.rooms.entry(self.place.clone()).or_default().push(item.ident.to_string());
        if item.content.is_none() {
            self.files.push((child, item.attrs.iter().find_map(path_attribute)));
            return;
        }
        self.house.rooms.insert(child.clone(), Vec::new());
        let outer = std::mem::replace(&mut self.place, child);
        visit::visit_item_mod(self, item);
        self.place = outer;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&item.tree, &[]);
    }

    /// `pub(super)` and `pub(crate)` say who may look in, not what is used.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
        self.note(&segments, line, false);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let segments: Vec<String> = call.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = call.path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
        self.note(&segments, line, true);
        self.note_tokens(call.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crate whose root holds `top` above `middle` above `bottom`, with the given text as module `middle`.
    fn violations_in_middle(text: &str) -> Vec<String> {
        let code = format!("mod top {{}} mod middle {{ mod inner {{}} {text} }} mod bottom {{ mod deep {{}} }}");
        let source = SourceFile::parse(PathBuf::from("lib.rs"), code).unwrap();
        let mut house = House::default();
        house.rooms.insert(Vec::new(), Vec::new());
        let mut reader = Reader { house: &mut house, file: Path::new("lib.rs"), place: Vec::new(), files: Vec::new() };
        reader.visit_file(&source.syntax);
        house.violations()
    }

    #[test]
    fn what_lies_below_may_be_used() {
        assert_eq!(violations_in_middle("use crate::bottom::Thing; use self::inner::Other;"), Vec::<String>::new());
        assert_eq!(violations_in_middle("fn f() { super::bottom::deep::g(); }"), Vec::<String>::new());
    }

    #[test]
    fn what_lies_above_may_not() {
        let found = violations_in_middle("use crate::top::Thing;");
        assert_eq!(found, ["lib.rs:1: `middle` uses a module declared above it: crate::top::Thing"]);
    }

    #[test]
    fn the_own_parent_may_not_be_used() {
        assert_eq!(violations_in_middle("use super::Thing;").len(), 1);
        assert_eq!(violations_in_middle("mod nested { use super::Thing; }").len(), 1);
    }

    #[test]
    fn a_path_inside_a_macro_counts() {
        assert_eq!(violations_in_middle("fn f() { println!(\"{}\", crate::top::NAME); }").len(), 1);
        assert_eq!(violations_in_middle("fn f() { select! { x = crate::bottom::g() => {} } }"), Vec::<String>::new());
    }

    #[test]
    fn renamed_and_grouped_imports_count() {
        assert_eq!(violations_in_middle("use crate::{bottom::A, top::{self as t, B}};").len(), 2);
    }

    #[test]
    fn tests_and_visibility_are_free() {
        assert_eq!(violations_in_middle("#[cfg(test)] mod tests { use crate::top::Thing; }"), Vec::<String>::new());
        assert_eq!(violations_in_middle("pub(super) fn f() {}"), Vec::<String>::new());
    }

    #[test]
    fn an_exported_macro_may_be_called() {
        assert_eq!(violations_in_middle("fn f() { crate::name!(); }"), Vec::<String>::new());
    }
}
