//! Pure. The words that are not said, each with the one that is: the field's own (CONTRIBUTING.md, "Words", has the
//! same list).

use proc_macro2::{TokenStream, TokenTree};

use crate::source::{Text, is_comment};

/// One thing, and what it is not called.
struct Word {
    /// What it is called.
    say: &'static str,
    /// Not so in a name: a name of code that has it as a part (`dial_meant`, `LaneId`), or with a `=` before it is
    /// nothing else. Small letters.
    names: &'static [&'static str],
    /// Not so anywhere: neither in a name, nor as a word of a comment, a document or a text that users see. Small
    /// letters.
    everywhere: &'static [&'static str],
}

/// The list.
const WORDS: &[Word] = &[
    Word { say: "original_dst", names: &["meant"], everywhere: &[] },
    Word { say: "passthrough", names: &["=passed"], everywhere: &[] },
    Word { say: "fair queue", names: &[], everywhere: &["lane", "lanes"] },
    Word { say: "quota", names: &["share", "shares"], everywhere: &[] },
    Word { say: "lease", names: &["=also"], everywhere: &[] },
    Word { say: "admin state", names: &["admin_window"], everywhere: &[] },
    Word { say: "waypoint coverage", names: &["cover"], everywhere: &[] },
    Word { say: "effective client", names: &["believed"], everywhere: &[] },
    Word { say: "is waypoint for", names: &["vouches"], everywhere: &["vouches"] },
    Word { say: "matches", names: &["fits"], everywhere: &[] },
    Word { say: "random", names: &[], everywhere: &["dice"] },
    Word { say: "sent, received", names: &["=forth", "=back"], everywhere: &[] },
    Word { say: "decode error", names: &[], everywhere: &["misfit", "misfits"] },
    Word { say: "on_tick", names: &["look_again"], everywhere: &[] },
    Word { say: "directory", names: &[], everywhere: &["folder", "folders"] },
    Word { say: "enroll", names: &[], everywhere: &["enrol", "enrols"] },
    Word { say: "must be a number from 1 to 65535", names: &[], everywhere: &["is not a port"] },
];

/// Where a word, or with an empty one every word, is said all the same, and why.
const EXCEPT: &[(&str, &str, &str)] = &[
    ("xtask/src/words.rs", "", "the list itself"),
    ("CONTRIBUTING.md", "", "the same list for readers"),
    ("CHANGELOG.md", "", "says what things were called"),
    ("xtask/src/test.rs", "passed", "counts tests"),
    ("sources/src/manifests/touched.rs", "folder", "a name of the crate notify"),
];

/// Every place in which a word that is not said stands.
pub(crate) fn search(texts: &[Text]) -> Vec<String> {
    texts.iter().flat_map(of_text).collect()
}

fn of_text(text: &Text) -> Vec<String> {
    let mut found = Vec::new();
    let excepted: Vec<&str> = EXCEPT.iter().filter(|(path, ..)| *path == text.path).map(|(_, word, _)| *word).collect();
    if excepted.contains(&"") {
        return found;
    }
    for (at, line) in text.text.lines().enumerate() {
        if text.is_document() || is_comment(line) {
            prose(line, &mut |not, say| {
                if !excepted.contains(&not) {
                    found.push(format!("{}:{}: say {say}, not {not}", text.path, at + 1));
                }
            });
        }
    }
    if !text.is_document()
        && let Ok(tokens) = text.text.parse::<TokenStream>()
    {
        let mut report = |line: usize, not: &str, say: &str| {
            if !excepted.contains(&not.split(' ').next().unwrap_or_default()) {
                found.push(format!("{}:{line}: say {say}, not {not}", text.path));
            }
        };
        code(tokens, &mut report);
    }
    found.sort();
    found.dedup();
    found
}

/// Looks at names, and at texts that users see. Comments that document are looked at as lines.
fn code(tokens: TokenStream, report: &mut impl FnMut(usize, &str, &str)) {
    for token in tokens {
        let line = token.span().start().line;
        match token {
            TokenTree::Group(group) => {
                let is_doc = group.stream().into_iter().next().is_some_and(|first| first.to_string() == "doc");
                if !is_doc {
                    code(group.stream(), report);
                }
            }
            TokenTree::Ident(name) => {
                let name = name.to_string();
                let parts = parts(&name);
                for word in WORDS {
                    let bad = word.names.iter().chain(word.everywhere);
                    for not in bad.filter(|not| has(&parts, not)) {
                        report(line, &format!("{} (in {name})", not.trim_start_matches('=')), word.say);
                    }
                }
            }
            TokenTree::Literal(literal) => prose(&literal.to_string(), &mut |not, say| report(line, not, say)),
            TokenTree::Punct(_) => {}
        }
    }
}

/// The words of a name, small: `LaneId` and `LANE_ID` are `lane` and `id`.
fn parts(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut before_is_small = false;
    for c in name.chars() {
        if c == '_' {
            parts.push(String::new());
        } else {
            if parts.is_empty() || c.is_uppercase() && before_is_small {
                parts.push(String::new());
            }
            if let Some(last) = parts.last_mut() {
                last.extend(c.to_lowercase());
            }
        }
        before_is_small = c.is_lowercase() || c.is_ascii_digit();
    }
    parts
}

/// Whether the words of `not` (with `_` between them) stand in a row, or with a `=` before them are all that there are.
fn has(parts: &[String], not: &str) -> bool {
    if let Some(whole) = not.strip_prefix('=') {
        return parts.iter().map(String::as_str).eq(whole.split('_'));
    }
    let wanted: Vec<&str> = not.split('_').collect();
    parts.windows(wanted.len()).any(|window| window.iter().zip(&wanted).all(|(part, wanted)| part == wanted))
}

/// Looks at words of a text.
fn prose(line: &str, report: &mut impl FnMut(&str, &str)) {
    let small = line.to_lowercase();
    for word in WORDS {
        for not in word.everywhere.iter().filter(|not| stands(&small, not)) {
            report(not, word.say);
        }
    }
}

/// Whether `not` stands in a text as a word of its own.
fn stands(text: &str, not: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
    text.match_indices(not)
        .any(|(at, _)| !is_part(text[..at].chars().next_back()) && !is_part(text[at + not.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::rows;

    fn found(path: &str, text: &str) -> Vec<String> {
        search(&[Text { path: path.to_owned(), text: text.to_owned() }])
    }

    #[test]
    fn a_name_of_code_is_looked_at_word_by_word() {
        assert_eq!(found("a.rs", "fn dial_meant() {}"), ["a.rs:1: say original_dst, not meant (in dial_meant)"]);
        assert_eq!(found("a.rs", "struct LaneId;\nconst LANE_ID: u8 = 0;").len(), 2);
        assert_eq!(found("a.rs", "fn look_again() {}").len(), 1);
        assert_eq!(found("a.rs", "struct Passed; fn push_back(back: u8) {}").len(), 2, "alone, not as a part");
        assert_eq!(found("a.rs", "fn shared_look(planes: u8) { benefits() }"), Vec::<String>::new());
    }

    #[test]
    fn prose_may_use_a_plain_word_and_no_word_of_a_dialect() {
        assert_eq!(found("A.md", "What was meant fits."), Vec::<String>::new());
        assert_eq!(found("A.md", "a\nEach has a Lane."), ["A.md:2: say fair queue, not lane"]);
        assert_eq!(found("a.rs", "/// Rolls dice.\nfn f() {}").len(), 1);
        assert_eq!(found("a.rs", "fn f() {\n    g(\"80 is not a port: a number\")\n}").len(), 1);
        assert_eq!(found("a.rs", "// planes, airlane-like\nfn f() {}"), Vec::<String>::new());
        assert_eq!(found("CONTRIBUTING.md", "lane"), Vec::<String>::new());
        assert_eq!(found("xtask/src/test.rs", "struct T { passed: u8, dice: u8 }").len(), 1, "one of them is excepted");
    }

    #[test]
    fn readers_have_the_same_list() {
        let contributing = include_str!("../../CONTRIBUTING.md");
        let mut documented: Vec<(String, Vec<String>)> = rows(contributing, "Words")
            .into_iter()
            .filter(|row| !row[1].is_empty())
            .map(|row| (row[0].clone(), row[1].split(", ").map(str::to_owned).collect()))
            .collect();
        let mut listed: Vec<(String, Vec<String>)> = WORDS
            .iter()
            .map(|word| {
                let mut nots: Vec<String> = Vec::new();
                for not in
                    word.names.iter().map(|not| not.trim_start_matches('=')).chain(word.everywhere.iter().copied())
                {
                    if !nots.iter().any(|known| known == not) {
                        nots.push(not.to_owned());
                    }
                }
                (word.say.to_owned(), nots)
            })
            .collect();
        documented.sort();
        listed.sort();
        assert_eq!(documented, listed);
    }
}
