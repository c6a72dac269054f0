//! Pure. The claims of a valid token.

use http::HeaderValue;
use mesh::policy::subject::Token;
use process::telemetry::escape::is_hidden;
use serde_json::{Map, Value};

/// What a valid token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `issuer/subject`; empty when the token names no subject, as Istio has it.
    pub principal: String,
    /// `aud`.
    pub audiences: Vec<String>,
    /// Everything.
    pub all: Map<String, Value>,
    /// Claims whose text is a list of words.
    pub space_delimited: Vec<Box<str>>,
}

impl Claims {
    /// The values of a claim by path: words of a list, or of a text that is one.
    pub fn values(&self, path: &[Box<str>]) -> Vec<String> {
        let Some((first, rest)) = path.split_first() else { return vec![] };
        let Some(value) = self.all.get(&**first) else { return vec![] };
        let Some(value) = rest.iter().try_fold(value, |value, key| value.get(&**key)) else { return vec![] };
        let split =
            rest.is_empty() && (matches!(&**first, "scope" | "permission") || self.space_delimited.contains(first));
        match value {
            Value::String(text) if split => text.split_ascii_whitespace().map(str::to_owned).collect(),
            Value::Array(items) => items.iter().filter_map(plain).collect(),
            other => plain(other).into_iter().collect(),
        }
    }

    /// A claim as a header tells it: values joined by commas. `None` when there is none, or when it could be read as
    /// another: a character that no header has or that is not seen, or a comma in one of several values.
    pub fn header(&self, path: &[Box<str>]) -> Option<HeaderValue> {
        let values = self.values(path);
        let is_ambiguous = values.len() > 1 && values.iter().any(|value| value.contains(','));
        let text = values.join(",");
        if text.trim().is_empty() || is_ambiguous || text.contains(is_hidden) {
            return None;
        }
        HeaderValue::try_from(text).ok()
    }
}

impl Token for Claims {
    fn principal(&self) -> &str {
        &self.principal
    }

    fn audiences(&self) -> &[String] {
        &self.audiences
    }

    fn claim(&self, path: &[Box<str>]) -> Vec<String> {
        self.values(path)
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
