//! Pure. What a log or a terminal never gets raw: the one decision which characters those are, and how they are shown.
//!
//! Escapes are JSON's (RFC 8259, 7), in text as well: `\n`, `\u001b`, and two of them beyond U+FFFF. So JSON text whose
//! strings are escaped here still says the same.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::io;

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

/// Whether a character could end a line, move the cursor, or make a reader see another text than is there: C0, DEL and
/// C1 (which terminals obey), the separators U+2028 and U+2029, the controls of direction (Unicode TR 9), what takes no
/// room (zero-width and invisible characters, tags, variation fillers), and what is no character.
pub fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
            | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{fffe}' | '\u{ffff}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Appends the escape of one character.
pub fn push_escape(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        other => {
            for unit in other.encode_utf16(&mut [0; 2]) {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
}

/// Appends `text`, with those characters escaped that `escapes` names. ASCII that needs nothing costs one pass.
fn push(out: &mut String, text: &str, escapes: impl Fn(char) -> bool) {
    let mut plain = 0;
    for (at, character) in text.char_indices().filter(|(_, character)| escapes(*character)) {
        out.push_str(&text[plain..at]);
        plain = at + character.len_utf8();
        push_escape(out, character);
    }
    out.push_str(&text[plain..]);
}

fn escaped(text: &str, escapes: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&escapes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    push(&mut out, text, escapes);
    Cow::Owned(out)
}

/// One line, or one cell of a table, for people to read: nothing in it ends it.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

/// Several lines, JSON or YAML: what is hidden is escaped, line ends and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| is_hidden(character) && character != '\n' && character != '\t')
}

/// A writer that escapes what is written through it, for the inside of a quoted value. Both formats of log lines escape
/// alike, as JSON does; so a value never holds a raw tab, quote or line end, and no value can forge a field or a line.
pub struct Escaped<'a>(pub &'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nearly always there is nothing to escape; looking at all bytes without leaving early is what vectorises.
        if text.bytes().fold(false, |special, byte| special | is_special(byte)) {
            push(self.0, text, |character| matches!(character, '"' | '\\') || is_hidden(character));
        } else {
            self.0.push_str(text);
        }
        Ok(())
    }
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte >= 0x7f
}

/// A writer that escapes what is hidden and nothing else, for what is text already: the fields of a span.
pub struct Visible<'a>(pub &'a mut String);

impl Write for Visible<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        push(self.0, text, is_hidden);
        Ok(())
    }
}

/// JSON as `serde_json` writes it, but that what is hidden is escaped.
struct Shown;

impl Formatter for Shown {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        out.write_all(line(fragment).as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()> {
        CompactFormatter.write_char_escape(out, escape)
    }
}

/// Writes `value` as JSON that can be shown on a terminal.
pub fn write_json(out: impl io::Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    let mut json = serde_json::Serializer::with_formatter(out, Shown);
    value.serialize(&mut json).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind: line end, tab, escape, DEL, CSI of C1, NEL, separators, direction, no width, a tag.
    const HOSTILE: &str =
        "a\n\r\t\u{1b}[2J\u{7f}\u{9b}2J\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{61c}\u{200b}\u{feff}\u{e0041}é漢😀";

    #[test]
    fn nothing_hidden_gets_through_in_any_form() {
        let mut quoted = String::new();
        Escaped(&mut quoted).write_str(HOSTILE).unwrap();
        let mut visible = String::new();
        Visible(&mut visible).write_str(HOSTILE).unwrap();
        let mut json = Vec::new();
        write_json(&mut json, HOSTILE).unwrap();
        let json = String::from_utf8(json).unwrap();
        for text in [&*line(HOSTILE), &*quoted, &*visible, &*json] {
            assert!(!text.chars().any(is_hidden), "{text:?}");
            assert!(text.contains("é漢😀"), "what can be seen stays: {text}");
            assert!(text.contains(r"\u009b2J") && text.contains(r"\u2028") && text.contains(r"\udb40\udc41"), "{text}");
        }
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), HOSTILE);
        assert_eq!(serde_json::from_str::<String>(&format!("\"{quoted}\"")).unwrap(), HOSTILE);
    }

    #[test]
    fn json_text_says_the_same_when_it_is_shown() {
        let value = serde_json::json!({HOSTILE: [HOSTILE]});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let shown = lines(&text);
        assert!(!shown.chars().any(|character| is_hidden(character) && character != '\n'), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn what_can_be_seen_is_not_copied() {
        for text in ["", "GET /shop/cart", "é漢😀", "quotes \" and \\ are no concern of a line"] {
            assert!(matches!(line(text), Cow::Borrowed(_)), "{text}");
        }
        assert!(matches!(lines("a\nb\tc\n"), Cow::Borrowed(_)));
    }
}
