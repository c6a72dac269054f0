//! Pure. One object as its source has it: names, labels and the rest as written.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sources::objects::document::Document;

use crate::route::Age;

/// An object of a kind that waypoints use.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `apiVersion`.
    pub api_version: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.creationTimestamp`; empty when there is none.
    pub created: Arc<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// Where it was read: `file:line`, or empty.
    pub origin: Arc<str>,
    /// Its place among all objects: the age of objects without a timestamp.
    pub place: usize,
    /// `spec`, as written.
    pub spec: Value,
    /// `status`, as written, of a Node or Pod: no other says what is not said elsewhere.
    pub status: Value,
    /// What is wrong with it, when the source could not read it: then it is not accepted here either.
    pub error: Option<Arc<str>>,
    /// As its source has it, which knows the lines.
    pub document: Option<Arc<Document>>,
}

impl Object {
    /// Reads an object from its JSON form; `None` without kind or name.
    pub fn from_json(value: &Value, origin: &str, place: usize) -> Option<Self> {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(Arc::<str>::from);
        let meta = value.get("metadata")?;
        let map = |key: &str| {
            let entries = meta.get(key).and_then(Value::as_object).into_iter().flatten();
            entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        };
        let kind = text(value, "kind")?;
        let status = value.get("status").filter(|_| matches!(&*kind, "Node" | "Pod")).cloned().unwrap_or(Value::Null);
        Some(Self {
            api_version: text(value, "apiVersion")?,
            kind,
            namespace: text(meta, "namespace").filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into()),
            name: text(meta, "name")?,
            labels: map("labels"),
            annotations: map("annotations"),
            created: text(meta, "creationTimestamp").unwrap_or_default(),
            generation: meta.get("generation").and_then(Value::as_i64).unwrap_or(1),
            origin: origin.into(),
            place,
            spec: value.get("spec").cloned().unwrap_or(Value::Null),
            status,
            error: None,
            document: None,
        })
    }

    /// The same from the source's document.
    pub fn from_document(document: &Arc<Document>, origin: &str, place: usize) -> Option<Self> {
        let object = Self::from_json(&document.to_json(), origin, place)?;
        let error = document.error().map(Arc::from);
        Some(Self { error, document: Some(Arc::clone(document)), ..object })
    }

    /// The group of `apiVersion`; empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> Arc<str> {
        format!("{}/{}", self.namespace, self.name).into()
    }

    /// `Kind namespace/name`, as `explain` names a source.
    pub fn label(&self) -> Arc<str> {
        format!("{} {}/{}", self.kind, self.namespace, self.name).into()
    }

    /// What decides between equals. Objects without a timestamp count as younger than those with one.
    pub fn age(&self) -> Age {
        let created =
            if self.created.is_empty() { format!("~{:010}", self.place).into() } else { Arc::clone(&self.created) };
        Age { created, name: self.full_name() }
    }

    /// What the source says is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.error.as_deref().map_or(Ok(()), |error| Err(error.to_owned()))
    }

    /// The spec as its type; the error names the field, and its line if the object was read from a file.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        self.check()?;
        let spec = if self.spec.is_null() { Value::Object(serde_json::Map::new()) } else { self.spec.clone() };
        serde_json::from_value(spec).map_err(|error| {
            let misread = self.document.as_ref().and_then(|document| document.misread::<T>("spec"));
            misread.unwrap_or_else(|| format!("spec: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_without_a_timestamp_are_younger_and_ordered_by_place() {
        let object = |created: Option<&str>, place| {
            let mut value = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}});
            if let Some(created) = created {
                value["metadata"]["creationTimestamp"] = json!(created);
            }
            Object::from_json(&value, "", place).unwrap().age()
        };
        assert!(object(Some("2030-01-01T00:00:00Z"), 9) < object(None, 1));
        assert!(object(None, 9) < object(None, 10));
    }

    #[test]
    fn the_group_is_what_stands_before_the_version() {
        let group = |version: &str| {
            let value = json!({"apiVersion": version, "kind": "X", "metadata": {"name": "a"}});
            Object::from_json(&value, "", 0).unwrap().group().to_owned()
        };
        assert_eq!(group("gateway.networking.k8s.io/v1beta1"), "gateway.networking.k8s.io");
        assert_eq!(group("v1"), "");
    }
}
