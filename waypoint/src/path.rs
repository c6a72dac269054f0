//! Pure. Paths brought into one form, so that what routes and policies judge is what the backend gets.
//!
//! RFC 3986, 6.2.2: escaped unreserved characters are decoded, remaining escapes get upper-case digits, dot segments are
//! removed. `\` becomes `/`, as browsers read it. `%00` and control characters are refused.

use std::borrow::Cow;

use serde::Serialize;
use thiserror::Error;

/// How far a path is normalised before it is matched and sent (`MeshPolicy` `pathNormalization`; Istio's names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Normalization {
    /// RFC 3986 and `\` to `/`.
    #[default]
    Base,
    /// As `Base`, and `//` becomes `/`.
    MergeSlashes,
    /// As `MergeSlashes`, after `%2F` and `%5C` became `/`.
    DecodeAndMergeSlashes,
}

impl Normalization {
    /// Reads the name; `NONE` is not offered, because then policies and backends would see different paths.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "BASE" | "DEFAULT" => Some(Self::Base),
            "MERGE_SLASHES" => Some(Self::MergeSlashes),
            "DECODE_AND_MERGE_SLASHES" => Some(Self::DecodeAndMergeSlashes),
            _ => None,
        }
    }

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "BASE",
            Self::MergeSlashes => "MERGE_SLASHES",
            Self::DecodeAndMergeSlashes => "DECODE_AND_MERGE_SLASHES",
        }
    }
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PathError {
    /// It contains `%00`.
    #[error("the path contains an escaped NUL")]
    Nul,
    /// It does not start with `/`.
    #[error("the path does not start with /")]
    NotAbsolute,
    /// It contains a control character or a space.
    #[error("the path contains a control character")]
    Control,
}

/// The normal form of an absolute path (no query). Borrowed when it is normal already; always ASCII.
pub fn normalize(path: &[u8], how: Normalization) -> Result<Cow<'_, str>, PathError> {
    if path.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let mut odd = false;
    let mut before = 0;
    for &byte in path {
        if byte <= b' ' || byte == 0x7f {
            return Err(PathError::Control);
        }
        odd |= byte == b'%' || byte == b'\\' || byte >= 0x80;
        odd |= before == b'/' && (byte == b'.' || byte == b'/' && how != Normalization::Base);
        before = byte;
    }
    match std::str::from_utf8(path) {
        Ok(normal) if !odd => Ok(Cow::Borrowed(normal)),
        _ => {
            let mut out = unescape(path, how == Normalization::DecodeAndMergeSlashes)?;
            if how != Normalization::Base {
                out.dedup_by(|a, b| *a == b'/' && *b == b'/');
            }
            Ok(Cow::Owned(text_of(&remove_dot_segments(&out))))
        }
    }
}

/// The path as the most lenient backend could read it: every escape decoded once, slashes merged, dot segments removed.
/// Authorization looks at this form too, so that no escape can step around a rule. Borrowed when nothing changes.
pub fn canonical(normal: &str) -> Cow<'_, str> {
    if !normal.contains('%') && !normal.contains("//") {
        return Cow::Borrowed(normal);
    }
    let mut out = Vec::with_capacity(normal.len());
    let bytes = normal.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let (byte, taken) = escape_at(bytes, at).map_or((byte, 1), |decoded| (decoded, 3));
        out.push(if byte == b'\\' { b'/' } else { byte });
        at += taken;
    }
    out.dedup_by(|a, b| *a == b'/' && *b == b'/');
    Cow::Owned(text_of(&remove_dot_segments(&out)))
}

/// The byte that `%XX` at `at` stands for.
fn escape_at(bytes: &[u8], at: usize) -> Option<u8> {
    let [b'%', high, low] = bytes.get(at..at + 3)? else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn unescape(path: &[u8], slashes_too: bool) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let escaped = escape_at(path, at);
        match escaped {
            Some(0) => return Err(PathError::Nul),
            Some(decoded) if is_unreserved(decoded) => out.push(decoded),
            Some(b'/' | b'\\') if slashes_too => out.push(b'/'),
            Some(decoded) => push_escaped(&mut out, decoded),
            None if byte == b'\\' => out.push(b'/'),
            // A `%` that starts no escape could become one when the next two characters are decoded.
            None if byte == b'%' || byte >= 0x80 => push_escaped(&mut out, byte),
            None => out.push(byte),
        }
        at += if escaped.is_some() { 3 } else { 1 };
    }
    Ok(out)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn push_escaped(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// RFC 3986, 5.2.4, for absolute paths.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').skip(1).collect();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        match *segment {
            b"." if last => out.push(b""),
            b"." => {}
            b".." => {
                out.pop();
                if last {
                    out.push(b"");
                }
            }
            other => out.push(other),
        }
    }
    if out.is_empty() {
        return b"/".to_vec();
    }
    out.iter().fold(Vec::with_capacity(path.len()), |mut joined, segment| {
        joined.push(b'/');
        joined.extend_from_slice(segment);
        joined
    })
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_take_their_normal_form() {
        use Normalization::{Base, DecodeAndMergeSlashes, MergeSlashes};
        for (path, how, normal) in [
            ("/", Base, "/"),
            ("/shop/cart", Base, "/shop/cart"),
            ("/a/./b/../c", Base, "/a/c"),
            ("/a/..", Base, "/"),
            ("/a/.", Base, "/a/"),
            ("/../../x", Base, "/x"),
            ("/%61dmin", Base, "/admin"),
            ("/%2e%2E/admin", Base, "/admin"),
            ("/a%2fb", Base, "/a%2Fb"),
            ("/a\\..\\b", Base, "/b"),
            ("//a//b", Base, "//a//b"),
            ("//a//b", MergeSlashes, "/a/b"),
            ("/a%2f%5cb", MergeSlashes, "/a%2F%5Cb"),
            ("/a%2f%5cb", DecodeAndMergeSlashes, "/a/b"),
            ("/x%2f..%2fadmin", DecodeAndMergeSlashes, "/admin"),
            ("/100%", Base, "/100%25"),
            ("/%2%65%2%65/admin", Base, "/%252e%252e/admin"),
            ("/.hidden", Base, "/.hidden"),
        ] {
            assert_eq!(normalize(path.as_bytes(), how).as_deref(), Ok(normal), "{path} {how:?}");
        }
        assert_eq!(normalize("/é".as_bytes(), Base).as_deref(), Ok("/%C3%A9"));
    }

    #[test]
    fn a_normal_path_is_not_copied() {
        assert!(matches!(normalize(b"/shop/cart.html", Normalization::MergeSlashes), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn nul_and_control_characters_are_refused() {
        assert_eq!(normalize(b"/a%00b", Normalization::Base), Err(PathError::Nul));
        assert_eq!(normalize(b"/a\tb", Normalization::Base), Err(PathError::Control));
        assert_eq!(normalize(b"a", Normalization::Base), Err(PathError::NotAbsolute));
    }

    #[test]
    fn the_canonical_form_sees_through_escapes() {
        for (path, canon) in
            [("/a/b", "/a/b"), ("/a%2F..%2Fadmin", "/admin"), ("//admin", "/admin"), ("/x/%2E%2E%2Fadmin", "/admin")]
        {
            assert_eq!(canonical(path), canon, "{path}");
        }
    }

    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "//", ".", "..", "%", "%2", "%2e", "%2F", "%5c", "\\", "a", "b", "2", "5", "e", "%25", "%61", "é", "~",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn a_normal_form_stays_as_it_is(path in tricky(), how in 0..3) {
            let how = [Normalization::Base, Normalization::MergeSlashes, Normalization::DecodeAndMergeSlashes][how as usize];
            let once = normalize(path.as_bytes(), how).unwrap().into_owned();
            prop_assert_eq!(normalize(once.as_bytes(), how).unwrap().into_owned(), once.as_str());
            let has_dots = once.split('/').any(|segment| segment == "." || segment == "..");
            prop_assert!(!has_dots, "{}", once);
        }

        #[test]
        fn no_bytes_make_it_panic(path in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(normal) = normalize(&path, Normalization::DecodeAndMergeSlashes) {
                prop_assert!(normal.is_ascii() && normal.starts_with('/'));
                let _ = canonical(&normal);
            }
        }
    }
}
