//! Pure. The raw document of an object, for consumers that parse it themselves; every value knows its line.

use serde::de::DeserializeOwned;

use super::node::{DecodeError, Node, Value};

/// The raw document of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    root: Node,
    /// Number of lines before the document in its file; `None` for one that was not read from a file.
    offset: Option<u32>,
    /// The error, field first, if the object could not be read.
    error: Option<String>,
}

/// The entries of a Node or a Pod that are kept besides its name: its location. The rest is long, and no waypoint reads
/// it.
const PLACE: [&str; 3] = ["addresses", "hostIP", "hostIPs"];

impl Document {
    /// The whole of an object.
    pub(super) fn new(root: Node, offset: Option<u32>) -> Self {
        Self { root, offset, error: None }
    }

    /// Of a Node or Pod, its name and where it is.
    pub(super) fn place_only(mut root: Node, offset: Option<u32>) -> Self {
        keep(&mut root, None, &["apiVersion", "kind", "metadata", "status"]);
        keep(&mut root, Some("metadata"), &["name", "namespace"]);
        keep(&mut root, Some("status"), &PLACE);
        Self { root, offset, error: None }
    }

    /// A policy that could not be read, under the name and in the namespace of what stands in for it.
    pub(super) fn in_error(mut self, (namespace, name): (&str, &str), error: &DecodeError) -> Self {
        if let Value::Map(entries) = &mut self.root.value {
            let metadata = entries.iter().position(|(key, _)| key == "metadata").map(|place| entries.remove(place).1);
            let (line, mut known) = match metadata {
                Some(Node { line, value: Value::Map(known) }) => (line, known),
                _ => (self.root.line, Vec::new()),
            };
            known.retain(|(key, _)| key != "name" && key != "namespace");
            for (key, text) in [("name", name), ("namespace", namespace)] {
                known.push((key.to_owned(), Node { line, value: Value::Text(text.to_owned()) }));
            }
            entries.push(("metadata".to_owned(), Node { line, value: Value::Map(known) }));
        }
        Self { error: Some(error.with_field()), ..self }
    }

    /// What is wrong with it, field first, when the source could not read it: then nobody accepts it.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The text of a field of the object itself, such as `kind`; empty where there is none.
    pub fn text(&self, key: &str) -> &str {
        self.root.get(key).and_then(Node::text).unwrap_or_default()
    }

    /// The object as plain JSON.
    pub fn to_json(&self) -> serde_json::Value {
        self.root.clone().into_json()
    }

    /// What is wrong with `key` (as `spec`) if it is read as a type: the field, the message, and the line where there
    /// is one. `None` if nothing is, or if there is no such field.
    pub fn misread<T: DeserializeOwned>(&self, key: &str) -> Option<String> {
        let node = self.root.get(key)?;
        let error = node.clone().read::<T>().err()?.below(key.to_owned());
        let message = error.with_field();
        Some(match self.offset {
            Some(offset) => format!("{message} (line {})", error.line.saturating_add(offset)),
            None => message,
        })
    }
}

/// Drops all but some entries of a mapping, which is the root or one entry of it.
fn keep(root: &mut Node, of: Option<&str>, keys: &[&str]) {
    let Value::Map(entries) = &mut root.value else { return };
    match of {
        None => entries.retain(|(key, _)| keys.contains(&key.as_str())),
        Some(of) => {
            for (_, node) in entries.iter_mut().filter(|(key, _)| key == of) {
                keep(node, None, keys);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str, offset: Option<u32>) -> Document {
        Document::new(serde_saphyr::from_str(text).unwrap(), offset)
    }

    #[derive(Debug, serde::Deserialize)]
    struct Spec {
        #[allow(dead_code, reason = "only that it can be read counts")]
        ports: Vec<u16>,
    }

    #[test]
    fn what_is_misread_is_named_with_field_and_line() {
        let text = "kind: X\nspec:\n  ports:\n  - 1\n  - two\n";
        let wrong = "spec.ports[1]: invalid type: string \"two\", expected u16";
        let expected = Some(format!("{wrong} (line 15)"));
        assert_eq!(document(text, Some(10)).misread::<Spec>("spec"), expected);
        assert_eq!(document(text, None).misread::<Spec>("spec").as_deref(), Some(wrong));
        assert_eq!(document("kind: X\nspec: {ports: [1]}\n", None).misread::<Spec>("spec"), None);
        assert_eq!(document("kind: X\n", None).misread::<Spec>("spec"), None);
    }

    #[test]
    fn of_a_pod_only_its_name_and_where_it_is_stays() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: b, labels: {c: d}}\nspec: {nodeName: n}\n\
                    status: {phase: Running, hostIP: 10.0.0.1}\n";
        let document = Document::place_only(document(text, None).root, None);
        let expected = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"}, "status": {"hostIP": "10.0.0.1"},
        });
        assert_eq!(document.to_json(), expected);
        assert_eq!((document.text("kind"), document.text("spec")), ("Pod", ""));
    }
}
