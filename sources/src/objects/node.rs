//! Pure. A YAML document as a tree in which every value knows its line; and typed objects read from such a tree, with
//! errors that name the field.
//!
//! JSON is read the same way: every JSON document is a YAML document.

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_saphyr::Spanned;

/// One value of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Its line within the parsed text, from 1; 0 for what was no text.
    pub(super) line: u32,
    /// What stands there.
    pub(super) value: Value,
}

/// What can stand in a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// A decode error: a value that does not have the type it is read into.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DecodeError {
    /// Line of the value; 0 while it is not known.
    pub(super) line: u32,
    /// Steps to the field, innermost first.
    steps: Vec<String>,
    /// What is wrong.
    pub(super) message: String,
}

impl Node {
    /// The entry `key` of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The text of a string.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Reads the tree into a type.
    pub(super) fn read<T: de::DeserializeOwned>(self) -> Result<T, DecodeError> {
        let line = self.line;
        T::deserialize(self).map_err(|error| error.at(line))
    }

    /// The same as plain JSON, for kinds that are only kept.
    pub(super) fn into_json(self) -> serde_json::Value {
        match self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => value.into(),
            Value::Unsigned(value) => value.into(),
            Value::Signed(value) => value.into(),
            Value::Float(value) => value.into(),
            Value::Text(value) => value.into(),
            Value::List(items) => items.into_iter().map(Self::into_json).collect(),
            Value::Map(entries) => entries.into_iter().map(|(key, node)| (key, node.into_json())).collect(),
        }
    }
}

impl DecodeError {
    /// What is wrong with the value at a place; the steps to it are written innermost first.
    pub(super) fn of(line: u32, steps: Vec<String>, message: String) -> Self {
        Self { line, steps, message }
    }

    /// The field, as `spec.ports[0].port`.
    pub(super) fn field(&self) -> Option<String> {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            if !path.is_empty() && !step.starts_with('[') {
                path.push('.');
            }
            path.push_str(step);
        }
        (!path.is_empty()).then_some(path)
    }

    /// What is wrong, behind the field.
    pub(super) fn with_field(&self) -> String {
        self.field().map_or_else(|| self.message.clone(), |field| format!("{field}: {}", self.message))
    }

    /// The same one step further out.
    pub(super) fn below(mut self, step: String) -> Self {
        self.steps.push(step);
        self
    }

    fn at(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }

    fn within(mut self, line: u32, step: impl FnOnce() -> String) -> Self {
        self.steps.push(step());
        self.at(line)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { line: 0, steps: Vec::new(), message: message.to_string() }
    }
}

/// A JSON value of which no lines are known.
impl From<&serde_json::Value> for Node {
    fn from(json: &serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => Value::Unsigned(value),
                (None, Some(value)) => Value::Signed(value),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(items) => Value::List(items.iter().map(Self::from).collect()),
            serde_json::Value::Object(entries) => {
                Value::Map(entries.iter().map(|(key, value)| (key.clone(), value.into())).collect())
            }
        };
        Self { line: 0, value }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key()? {
            entries.push((key, access.next_value()?));
        }
        Ok(Value::Map(entries))
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Unsigned(value) => visitor.visit_u64(value),
            Value::Signed(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::Text(value) => visitor.visit_string(value),
            Value::List(items) => visitor.visit_seq(Items { items: items.into_iter(), index: 0 }),
            Value::Map(entries) => {
                visitor.visit_map(Entries { entries: entries.into_iter(), value: None, skip_nulls: false })
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.value {
            // A field that is null counts as absent, as it does for the Kubernetes API.
            Value::Map(entries) => {
                visitor.visit_map(Entries { entries: entries.into_iter(), value: None, skip_nulls: true })
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Text(variant) => visitor.visit_enum(Variant(variant)),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items {
    items: std::vec::IntoIter<Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let (line, index) = (node.line, self.index);
        self.index += 1;
        seed.deserialize(node).map(Some).map_err(|error| error.within(line, || format!("[{index}]")))
    }
}

struct Entries {
    entries: std::vec::IntoIter<(String, Node)>,
    value: Option<(String, Node)>,
    skip_nulls: bool,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        for (key, node) in self.entries.by_ref() {
            if self.skip_nulls && node.value == Value::Null {
                continue;
            }
            let line = node.line;
            let deserializer: StringDeserializer<DecodeError> = key.clone().into_deserializer();
            self.value = Some((key, node));
            return seed.deserialize(deserializer).map(Some).map_err(|error| error.at(line));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some((key, node)) = self.value.take() else { return Err(de::Error::custom("a value without a key")) };
        let line = node.line;
        seed.deserialize(node).map_err(|error| error.within(line, || key))
    }
}

struct Variant(String);

impl<'de> EnumAccess<'de> for Variant {
    type Error = DecodeError;
    type Variant = Unit;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Unit), DecodeError> {
        let deserializer: StringDeserializer<DecodeError> = self.0.into_deserializer();
        Ok((seed.deserialize(deserializer)?, Unit))
    }
}

struct Unit;

impl<'de> VariantAccess<'de> for Unit {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, DecodeError> {
        Err(de::Error::custom("expected a plain word"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, DecodeError> {
        Err(de::Error::custom("expected a plain word"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, DecodeError> {
        Err(de::Error::custom("expected a plain word"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Thing {
        name: String,
        #[serde(default)]
        ports: Vec<Port>,
        #[serde(default)]
        labels: BTreeMap<String, String>,
        mode: Option<Mode>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Port {
        port: u16,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "UPPERCASE")]
    enum Mode {
        On,
        Off,
    }

    fn node(text: &str) -> Node {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn a_tree_reads_into_a_type_and_null_counts_as_absent() {
        let thing: Thing =
            node("name: a\nports: null\nmode: 'ON'\nlabels: {x: \"1\"}\nother: {deep: [1, 2.5, true]}\n")
                .read()
                .unwrap();
        assert_eq!(thing.name, "a");
        assert_eq!(thing.ports, []);
        assert_eq!(thing.mode, Some(Mode::On));
        assert_eq!(thing.labels["x"], "1");
    }

    #[test]
    fn a_decode_error_names_line_and_field() {
        for (text, line, field, message) in [
            ("name: a\nports:\n- port: 1\n- port: x\n", 4, "ports[1].port", "invalid type: string \"x\", expected u16"),
            ("name: a\nmode: MAYBE\n", 2, "mode", "unknown variant `MAYBE`, expected `ON` or `OFF`"),
            ("name: a\nlabels:\n  v: 1.10\n", 3, "labels.v", "invalid type: floating point `1.1`, expected a string"),
            ("name: a\nlabels:\n  v:\n", 3, "labels.v", "invalid type: unit value, expected a string"),
            ("\nports:\n- port: 1\n", 2, "", "missing field `name`"),
            ("name: a\nports: [7]\n", 2, "ports[0]", "invalid type: integer `7`, expected struct Port"),
        ] {
            let error = node(text).read::<Thing>().unwrap_err();
            let field = (!field.is_empty()).then(|| field.to_owned());
            assert_eq!((error.line, error.field(), error.message.as_str()), (line, field, message), "{text}");
        }
    }

    #[test]
    fn json_is_read_with_lines_too() {
        let tree = node("{\n  \"name\": \"a\",\n  \"ports\": [\n    {\"port\": 80}\n  ]\n}\n");
        assert_eq!(tree.get("ports").map(|ports| ports.line), Some(3));
        assert_eq!(tree.read::<Thing>().unwrap().ports, [Port { port: 80 }]);
    }

    #[test]
    fn json_that_was_no_text_is_the_same_tree_without_lines() {
        let json = serde_json::json!({"a": [null, true, 7, -7, 1.5, "x", {"b": {}}]});
        let tree = Node::from(&json);
        assert_eq!((tree.line, tree.get("a").map(|list| list.line)), (0, Some(0)));
        assert_eq!(tree.into_json(), json);
        let wrong =
            Node::from(&serde_json::json!({"name": "a", "ports": [{"port": 70000}]})).read::<Thing>().unwrap_err();
        assert_eq!((wrong.line, wrong.field().as_deref()), (0, Some("ports[0].port")));
    }
}
