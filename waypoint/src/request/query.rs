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
        let pairs = self.parsed.get_or_init(|| form_urlencoded::parse(self.text.as_bytes()).collect());
        pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// A query without the parameters of these names; `None` when nothing is left.
pub fn without(text: &str, names: &[String]) -> Option<String> {
    let is_named = |name: &str| names.iter().any(|known| known == name);
    let is_kept = |pair: &&str| !form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| is_named(&name));
    let left: Vec<&str> = text.split('&').filter(is_kept).collect();
    (!left.is_empty()).then(|| left.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_name_counts() {
        let query = Query::new("a=1&b=x%20y&a=2&c&d=+%2&&e=%zz&%66=a=b%ff");
        for (name, value) in [("a", "1"), ("b", "x y"), ("c", ""), ("d", " %2"), ("e", "%zz"), ("f", "a=b\u{fffd}")] {
            assert_eq!(query.get(name), Some(value), "{name}");
        }
        assert_eq!(query.get("A"), None);
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(Query::new("").get(""), None);
    }

    #[test]
    fn a_parameter_is_taken_off_in_every_form_and_nothing_else_changes() {
        for (text, left) in [
            ("access_token=x", None),
            ("a=1&access_token=x&b=%2f", Some("a=1&b=%2f")),
            ("access%5Ftoken=x&access_token=x&a", Some("a")),
            ("access_token", None),
            ("access_token=x&", Some("")),
            (
                "a=access_token&Access_token=1&my_access_token=2",
                Some("a=access_token&Access_token=1&my_access_token=2"),
            ),
            ("a=1&&b=2", Some("a=1&&b=2")),
        ] {
            assert_eq!(without(text, &["access_token".to_owned()]).as_deref(), left, "{text}");
        }
    }
}
