//! Pure. The tables of the documentation, as tests read them to compare them with the code. Tests of other crates
//! include this file too.

/// One row: its cells, trimmed, with `\|` as `|`.
pub(crate) type Row = Vec<String>;

/// The rows, without the head, of the first table behind the heading `## {heading}` (of whatever level) and before the
/// next heading; empty when there is no such heading, or no table.
pub(crate) fn rows(markdown: &str, heading: &str) -> Vec<Row> {
    let mut lines = markdown.lines().skip_while(|line| !is_heading(line, heading)).skip(1);
    let before_the_next = lines.by_ref().take_while(|line| !line.starts_with('#'));
    let table = before_the_next.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    // The first two are the head and the line below it.
    table.skip(2).map(cells).collect()
}

fn is_heading(line: &str, heading: &str) -> bool {
    line.starts_with('#') && line.trim_start_matches('#').trim() == heading
}

fn cells(line: &str) -> Row {
    let line = line.trim().trim_start_matches('|').replace("\\|", "\u{1}");
    let line = line.strip_suffix('|').unwrap_or(&line);
    line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// What stands between backticks in a text.
pub(crate) fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What only the documentation names, and what only the code has: both empty when they agree.
pub(crate) fn differences<'a>(
    documented: impl IntoIterator<Item = &'a str>,
    real: impl IntoIterator<Item = &'a str>,
) -> (Vec<String>, Vec<String>) {
    let (documented, real): (Vec<&str>, Vec<&str>) = (documented.into_iter().collect(), real.into_iter().collect());
    let only = |these: &[&str], others: &[&str]| -> Vec<String> {
        let mut only: Vec<String> =
            these.iter().filter(|one| !others.contains(one)).map(|one| one.to_string()).collect();
        only.sort();
        only.dedup();
        only
    };
    (only(&documented, &real), only(&real, &documented))
}

/// The words (`[a-z0-9_.-]`, capitals and `-` alone too) that stand as literals in the function whose signature begins
/// so.
pub(crate) fn arms(source: &str, signature: &str) -> Vec<String> {
    let Some((before, rest)) = source.split_once(signature) else { return Vec::new() };
    let indent = before.len() - before.rfind('\n').map_or(0, |at| at + 1);
    let end = format!("\n{}}}", &before[before.len() - indent..].split(|c: char| c != ' ').next().unwrap_or_default());
    let body = rest.split(&end).next().unwrap_or_default();
    body.split('"').skip(1).step_by(2).filter(|word| is_word(word)).map(str::to_owned).collect()
}

/// The literals that stand right behind `call`, such as `limit_refused(`.
pub(crate) fn after(source: &str, call: &str) -> Vec<String> {
    let calls = source.split(call).skip(1).filter_map(|rest| rest.strip_prefix('"')?.split('"').next());
    calls.map(str::to_owned).collect()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// The fields of a log line that the code of a writer names: the first argument of `line.…("field"`.
pub(crate) fn log_fields(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let calls = code.split("line.").skip(1).filter_map(|rest| {
        let (method, arguments) = rest.split_once("(\"")?;
        method.chars().all(|c| c.is_ascii_lowercase() || c == '_').then_some(())?;
        arguments.split('"').next()
    });
    let mut fields: Vec<String> = calls.filter(|field| is_word(field)).map(str::to_owned).collect();
    fields.sort();
    fields.dedup();
    fields
}

/// The metrics of a scrape, counters with `_total`.
pub(crate) fn families(scrape: &str) -> Vec<String> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_heading_is_found() {
        let text =
            "# A\n\n| x |\n|---|\n| 0 |\n\n## B\n\nWords.\n\n| a | b |\n|---|---|\n| `c\\|d` | |\n| e | f |\n\n| g |\n";
        assert_eq!(rows(text, "B"), [["`c|d`", ""], ["e", "f"]]);
        assert_eq!(rows(text, "A"), [["0"]]);
        assert_eq!(rows(text, "C"), Vec::<Row>::new());
        assert_eq!(rows("# A\n## B\n| a |\n|---|\n| 1 |\n", "A"), Vec::<Row>::new(), "it is another heading's");
    }

    #[test]
    fn both_directions_are_compared() {
        assert_eq!(differences(["a", "b"], ["b", "c"]), (vec!["a".to_owned()], vec!["c".to_owned()]));
        assert_eq!(quoted("`a`, and `b`"), ["a", "b"]);
    }

    #[test]
    fn words_of_code_are_found() {
        let code = "impl A {\n    fn name(self) {\n        \"a_b\" \"not a word\"\n    }\n\n    fn other() {\n        f(\"c\")\n    }\n}";
        assert_eq!(arms(code, "fn name(self)"), ["a_b"]);
        assert_eq!(after(code, "f("), ["c"]);
        assert_eq!(log_fields("line.text(\"b.c\", x); line.number(\"a\", y); line.end();"), ["a", "b.c"]);
        assert_eq!(families("# TYPE a counter\na_total 1\n# TYPE b gauge\nb 1\n"), ["a_total", "b"]);
    }
}
