//! Pure. The query parameters of one request, parsed when the first condition asks and never again.

use std::borrow::Cow;
use std::cell::OnceCell;

/// The query of one request.
#[derive(Debug, Default)]
pub struct Query<'a> {
    text: &'a str,
    parsed: OnceCell<Vec<(Cow<'a, str>, Cow<'a, str>)>>,
}

impl<'a> Query<'a> {
    /// The query as it stands after `?`, which may be empty.
    pub fn new(text: &'a str) -> Self {
        Self { text, parsed: OnceCell::new() }
    }

    /// The value of the first parameter of this name; names are compared exactly, escapes and `+` decoded.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The values of all parameters of this name.
    pub fn all<'b>(&'b self, name: &str) -> impl Iterator<Item = &'b str> {
        let pairs =
            self.parsed.get_or_init(|| self.text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect());
        pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value)
    }
}

fn pair(text: &str) -> (Cow<'_, str>, Cow<'_, str>) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (decode(name), decode(value))
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_name_counts() {
        let query = Query::new("a=1&b=x%20y&a=2&c&d=+%2&&e=%zz");
        for (name, value) in [("a", "1"), ("b", "x y"), ("c", ""), ("d", " %2"), ("e", "%zz")] {
            assert_eq!(query.get(name), Some(value), "{name}");
        }
        assert_eq!(query.get("A"), None);
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(Query::new("").get(""), None);
    }
}
