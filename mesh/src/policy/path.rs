//! Pure. Normalization of paths, so that routes and policies judge the path that the backend gets.
//!
//! RFC 3986, 6.2.2: escaped unreserved characters are decoded, remaining escapes get upper-case digits, dot segments
//! are removed. `\` becomes `/`, as browsers read it. `%00`, control characters and UTF-8 of more bytes than a
//! character needs are refused.
//!
//! Some backends decode further: they drop path parameters (`;` to the end of the segment: Tomcat, Jetty, and
//! frameworks on them), decode `%2F`, or decode twice. [`Readings`] are these forms. Policy judges all of them, and a
//! path with a dot segment in one of them, such as `/public/..;/admin`, is refused: policy, route and backend could
//! each read another path.

use std::borrow::Cow;

use serde::Serialize;
use smallvec::SmallVec;
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
    /// It contains overlong UTF-8, which can hide `.` and `/` (RFC 3629, 3).
    #[error("the path contains an overlong form of UTF-8")]
    Overlong,
    /// It has a dot segment when it is read as some backends do.
    #[error("the path hides a dot segment behind an escape or a parameter")]
    HiddenDots,
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
            if is_overlong(path) {
                return Err(PathError::Overlong);
            }
            let mut out = unescape(path, how == Normalization::DecodeAndMergeSlashes)?;
            if how != Normalization::Base {
                out.dedup_by(|a, b| *a == b'/' && *b == b'/');
            }
            Ok(Cow::Owned(text_of(&remove_dot_segments(&out))))
        }
    }
}

/// A path in normal form, and the other paths that backends may read in it.
#[derive(Clone, Debug)]
pub struct Readings<'a> {
    /// The path as it is sent to the backend.
    pub sent: &'a str,
    /// Other readings, with slashes merged and dot segments removed. None for most paths.
    pub loose: Vec<String>,
    /// Whether one of the other readings has dot segments.
    has_hidden_dots: bool,
}

impl<'a> Readings<'a> {
    /// The readings of a path in normal form: escapes decoded once and until nothing is left to decode, parameters
    /// left, taken off before decoding and after.
    pub fn of(sent: &'a str) -> Self {
        let mut readings = Self { sent, loose: Vec::new(), has_hidden_dots: false };
        if !sent.contains(['%', ';', '\\']) && !sent.contains("//") {
            return readings;
        }
        for raw in loosened(sent.as_bytes()) {
            readings.has_hidden_dots |= raw.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."));
            let mut raw = raw;
            raw.dedup_by(|a, b| *a == b'/' && *b == b'/');
            let read = text_of(&remove_dot_segments(&raw));
            if read != sent && !readings.loose.contains(&read) {
                readings.loose.push(read);
            }
        }
        readings
    }

    /// Refuses a path that has dot segments in one of its readings.
    pub fn check(&self) -> Result<(), PathError> {
        if self.has_hidden_dots { Err(PathError::HiddenDots) } else { Ok(()) }
    }
}

/// A literal of a policy (a path, its beginning or its end) as a normal path has it, and as loose readings have it.
pub fn literal(text: &str) -> Result<(String, Vec<String>), PathError> {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(PathError::Control);
    }
    let written = text_of(&unescape(text.as_bytes(), false)?);
    let mut loose: Vec<String> = Vec::new();
    for mut raw in loosened(written.as_bytes()) {
        raw.dedup_by(|a, b| *a == b'/' && *b == b'/');
        let read = text_of(&raw);
        if read != written && !loose.contains(&read) {
            loose.push(read);
        }
    }
    Ok((written, loose))
}

/// Rounds of decoding, at most. Each round that is needed costs the sender of the path three bytes.
const ROUNDS: usize = 8;

/// A path decoded once and to the end, each with parameters, and without them taken off before and after.
fn loosened(path: &[u8]) -> SmallVec<[Vec<u8>; 6]> {
    let mut all = SmallVec::new();
    for start in [path.to_vec(), without_parameters(path)] {
        let mut decoded = decode(&start);
        all.push(decoded.clone());
        for _ in 0..ROUNDS {
            let again = decode(&decoded);
            if again == decoded {
                break;
            }
            decoded = again;
        }
        all.push(without_parameters(&decoded));
        all.push(decoded);
    }
    all
}

/// Every escape decoded once, `\` as `/`.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let (byte, taken) = escape_at(path, at).map_or((byte, 1), |decoded| (decoded, 3));
        out.push(if byte == b'\\' { b'/' } else { byte });
        at += taken;
    }
    out
}

/// Each segment up to its first `;` (RFC 3986, 3.3).
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut is_parameter = false;
    for &byte in path {
        is_parameter = byte != b'/' && (is_parameter || byte == b';');
        if !is_parameter {
            out.push(byte);
        }
    }
    out
}

/// Whether a path, decoded once, has overlong UTF-8.
fn is_overlong(path: &[u8]) -> bool {
    let decoded = decode(path);
    decoded.windows(2).any(|pair| match *pair {
        [0xc0 | 0xc1, next] => next >= 0x80,
        [0xe0, next] => (0x80..0xa0).contains(&next),
        [0xf0, next] => (0x80..0x90).contains(&next),
        _ => false,
    })
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
    fn overlong_forms_are_refused_and_other_bytes_are_not() {
        for path in ["/a/%c0%ae%c0%ae/b", "/a%c0%af..", "/a%C1%9Cb", "/%e0%80%af", "/%f0%80%80%af"] {
            assert_eq!(normalize(path.as_bytes(), Normalization::Base), Err(PathError::Overlong), "{path}");
        }
        for path in ["/caf%E9", "/caf%C3%A9", "/%E0%A4%B9", "/%F0%9F%98%80", "/%C0"] {
            assert!(normalize(path.as_bytes(), Normalization::Base).is_ok(), "{path}");
        }
    }

    fn read(path: &str) -> Vec<String> {
        Readings::of(path).loose
    }

    #[test]
    fn readings_see_through_escapes_parameters_and_empty_segments() {
        for (path, reading) in [
            ("/a%2F..%2Fadmin", "/admin"),
            ("//admin", "/admin"),
            ("/x/%2E%2E%2Fadmin", "/admin"),
            ("/x/%252e%252e%252fadmin", "/admin"),
            ("/x/%25252e%25252e/admin", "/admin"),
            ("/public/..;/admin", "/admin"),
            ("/public/..;a=b;c/admin", "/admin"),
            ("/public/..%3Bx/admin", "/admin"),
            ("/public/.;/admin", "/public/admin"),
            ("/;/admin", "/admin"),
            ("/admin;x=1", "/admin"),
            ("/admin;x=1/users;y", "/admin/users"),
            ("/%61dmin%3Bx", "/admin"),
            ("/ad%5Cmin", "/ad/min"),
            ("/a%20b", "/a b"),
        ] {
            assert!(read(path).iter().any(|read| read == reading), "{path}: {:?}", read(path));
        }
        for plain in ["/", "/shop/cart.html", "/a.b/c-d_e~f", "/a:b@c!d$e&f'g(h)i*j+k,l=m"] {
            assert!(read(plain).is_empty(), "{plain}");
        }
    }

    #[test]
    fn dot_segments_that_only_some_see_are_refused() {
        for hidden in [
            "/public/..;/admin",
            "/public/..;x=1/admin",
            "/public/.;/admin",
            "/public/..%3B/admin",
            "/public/..%2Fadmin",
            "/public/x%2F..%2Fadmin",
            "/public/..%5Cadmin",
            "/public/%252e%252e/admin",
            "/public/%25252E./admin",
            "/public/..;",
        ] {
            assert_eq!(Readings::of(hidden).check(), Err(PathError::HiddenDots), "{hidden}");
        }
        for sound in ["/a;x=../b", "/admin;x=1", "/a%2Fb", "/...;/a", "/a..b%20c", "/100%25", "//a", "/a;b=c%2E"] {
            assert_eq!(Readings::of(sound).check(), Ok(()), "{sound}");
        }
    }

    #[test]
    fn literals_of_policies_take_the_forms_of_paths() {
        assert_eq!(literal("/a%20b"), Ok(("/a%20b".to_owned(), vec!["/a b".to_owned()])));
        assert_eq!(literal("/%61/é"), Ok(("/a/%C3%A9".to_owned(), vec!["/a/é".to_owned()])));
        assert_eq!(literal("/.well-known"), Ok(("/.well-known".to_owned(), vec![])));
        assert_eq!(literal("/m;v=1/").unwrap().1, ["/m/"]);
        assert_eq!(literal("/a b"), Err(PathError::Control));
    }

    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "//", ".", "..", "%", "%2", "%2e", "%2F", ";", "%3b", "%c0%ae", "%5c", "\\", "a", "b", "2", "5", "e",
            "%25", "%61", "é", "~",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn a_normal_form_stays_as_it_is(path in tricky(), how in 0..3) {
            let how = [Normalization::Base, Normalization::MergeSlashes, Normalization::DecodeAndMergeSlashes][how as usize];
            let Ok(once) = normalize(path.as_bytes(), how).map(Cow::into_owned) else { return Ok(()) };
            prop_assert_eq!(normalize(once.as_bytes(), how).unwrap().into_owned(), once.as_str());
            let has_dots = once.split('/').any(|segment| segment == "." || segment == "..");
            prop_assert!(!has_dots, "{}", once);
        }

        #[test]
        fn no_bytes_make_it_panic(path in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(normal) = normalize(&path, Normalization::DecodeAndMergeSlashes) {
                prop_assert!(normal.is_ascii() && normal.starts_with('/'));
                let readings = Readings::of(&normal);
                prop_assert!(readings.loose.iter().all(|read| !read.split('/').any(|segment| matches!(segment, "." | ".."))));
            }
        }
    }
}
