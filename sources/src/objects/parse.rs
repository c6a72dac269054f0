//! Pure. The text of a file, or the JSON of an API -> objects and problems.
//!
//! A file holds any number of documents, of which each is one object or a `List`. Documents are read one by one, so
//! that an invalid one does not hide those after it.

use std::path::Path;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::kind::{Kind, Object, Reader, Shared};
use super::names;
use super::node::{DecodeError, Node, Value};
use super::origin::{ApiObject, Origin};
use super::problem::{Problem, Severity};

/// The content of a file.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Objects that could be read, in order.
    pub objects: Vec<Object>,
    /// Substitutes for policies that could not be read, used if there is no earlier version of the file to keep.
    pub stand_ins: Vec<StandIn>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// The substitute for a policy that could not be read.
#[derive(Debug)]
pub struct StandIn {
    /// A policy that refuses.
    pub object: Object,
    /// Says so.
    pub problem: Problem,
}

impl Parsed {
    /// Whether anything could not be read.
    pub fn is_broken(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

/// Reads a file. YAML and JSON alike: every JSON document is a YAML document.
pub fn parse(file: &Arc<Path>, text: &str, shared: &mut Shared) -> Parsed {
    let place = Place::Manifest { file, offset: 0 };
    let mut reading = Reading { place, shared, list: None, parsed: Parsed::default() };
    for document in documents(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        reading.document(&document);
    }
    reading.parsed
}

/// One version of an object of an API, read.
#[derive(Debug)]
pub struct Version {
    /// Which version of which object.
    pub at: Arc<ApiObject>,
    /// Its content.
    pub parsed: Parsed,
}

/// Reads an object as an API answers it, with `apiVersion` and `kind`: in lists they stand at the list, and the caller
/// adds them to each object. What is understood, and what is said of the rest, is the same as of the same object in a
/// file.
pub fn parse_value(at: ApiObject, value: &serde_json::Value, shared: &mut Shared) -> Version {
    let at = Arc::new(at);
    let place = Place::Api(Arc::clone(&at));
    let mut reading = Reading { place, shared, list: None, parsed: Parsed::default() };
    reading.object(Node::from(value));
    Version { at, parsed: reading.parsed }
}

/// One document of a file.
struct YamlDocument<'a> {
    /// Number of lines before it.
    offset: u32,
    text: &'a str,
}

/// Cuts a file at its document markers. `---` or `...` at the beginning of a line is a marker wherever it stands: YAML
/// allows it neither in quoted nor in block scalars (YAML 1.2, 9.1.2).
fn documents(text: &str) -> Vec<YamlDocument<'_>> {
    let mut found = Vec::new();
    let (mut start, mut offset, mut position) = (0, 0, 0);
    let mut push = |from: usize, to: usize, offset: u32| {
        if has_content(&text[from..to]) {
            found.push(YamlDocument { offset, text: &text[from..to] });
        }
    };
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let marker = |marker: &str| {
            line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if marker("---") {
            push(start, position, offset);
            (start, offset) = (position, number);
        } else if marker("...") {
            push(start, position, offset);
            (start, offset) = (position + line.len(), number + 1);
        }
        position += line.len();
    }
    push(start, text.len(), offset);
    found
}

/// Whether there is more than comments, directives and the marker itself.
fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !line.is_empty() && !line.starts_with(['#', '%'])
    })
}

pub(crate) fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // A List of every pod of a cluster is one document. What aliases may multiply is limited by `alias_limits`.
        budget: serde_saphyr::budget! {
            max_events: 1 << 30,
            max_nodes: 1 << 30,
            max_total_scalar_bytes: 1 << 30,
            max_documents: 1,
        },
        emit_comments: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    }
}

/// Where what is read stands.
enum Place<'a> {
    /// In a file, in the document behind so many lines.
    Manifest { file: &'a Arc<Path>, offset: u32 },
    /// In an API.
    Api(Arc<ApiObject>),
}

impl Place<'_> {
    fn at(&self, line: u32) -> Origin {
        match self {
            Self::Manifest { file, offset } => Origin::line_of(file, line.saturating_add(*offset)),
            Self::Api(object) => Origin::Api(Arc::clone(object)),
        }
    }

    fn offset(&self) -> Option<u32> {
        match self {
            Self::Manifest { offset, .. } => Some(*offset),
            Self::Api(_) => None,
        }
    }
}

struct Reading<'a> {
    place: Place<'a>,
    shared: &'a mut Shared,
    /// `apiVersion` and `kind` of the list that is being read, as far as known.
    list: Option<(String, String)>,
    parsed: Parsed,
}

impl Reading<'_> {
    fn document(&mut self, document: &YamlDocument<'_>) {
        if let Place::Manifest { offset, .. } = &mut self.place {
            *offset = document.offset;
        }
        self.list = None;
        let read = serde_saphyr::with_deserializer_from_str_with_options(document.text, yaml_options(), |yaml| {
            DocumentSeed(self).deserialize(yaml)
        });
        let Err(error) = read else { return };
        let line = error.location().map_or(1, |location| u32::try_from(location.line()).unwrap_or(u32::MAX));
        let message = error.to_string();
        // The position stands before the message, and what may be set is set here.
        let message = message.split(" at line ").next().unwrap_or(&message);
        let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
        let problem = Problem::at(self.place.at(line), Severity::Error, format!("not valid YAML: {message}"));
        self.parsed.problems.push(problem);
        if let Some((kind, node)) = salvage(document.text) {
            self.stand_in(kind, &node, None);
        }
    }

    fn error(&mut self, line: u32, object: Option<String>, error: &DecodeError) {
        self.parsed.problems.push(Problem {
            severity: Severity::Error,
            at: self.place.at(line),
            object,
            field: error.field(),
            message: error.message.clone(),
        });
    }

    fn object(&mut self, mut node: Node) {
        self.inherit_kind(&mut node);
        let (api_version, kind_name) = match (text_of(&node, "apiVersion"), text_of(&node, "kind")) {
            (Ok(api_version), Ok(kind)) => (api_version, kind),
            (Err(error), _) | (_, Err(error)) => return self.error(node.line, None, &error),
        };
        let Some(kind) = Kind::of(&api_version, &kind_name) else {
            return self.unknown(&node, &api_version, &kind_name);
        };
        let label = label(kind, &kind_name, &node);
        let line = node.line;
        if let Err(error) = names::check(kind, &node) {
            return self.unread(kind, &kind_name, &node, &error);
        }
        let policy = kind.is_policy().then(|| node.clone());
        let at = self.place.at(line);
        let problems = &mut self.parsed.problems;
        let mut reader = Reader { shared: self.shared, at, object: label.clone(), problems };
        let document = reader.shared.documents.of(kind, &node, self.place.offset());
        match (Object::read(kind, node, &mut reader), policy) {
            (Ok(object), _) => self.parsed.objects.extend(object.map(|object| object.with_document(document))),
            (Err(error), Some(node)) => self.unread(kind, &kind_name, &node, &error),
            (Err(error), None) => self.error(error.line.max(line), Some(label), &error),
        }
    }

    /// An object of a known kind that could not be read: of a policy something stands in for it, and waypoints get it
    /// as it is, with what is wrong.
    fn unread(&mut self, kind: Kind, kind_name: &str, node: &Node, error: &DecodeError) {
        self.error(error.line.max(node.line), Some(label(kind, kind_name, node)), error);
        if kind.is_policy() {
            self.stand_in(kind, node, Some(error));
        }
    }

    fn stand_in(&mut self, kind: Kind, node: &Node, error: Option<&DecodeError>) {
        let label = label(kind, kind.name(), node);
        let at = self.place.at(node.line);
        let mut reader = Reader { shared: self.shared, at, object: label, problems: &mut Vec::new() };
        if let Some((object, what)) = Object::stand_in(kind, node, &mut reader) {
            let message = format!("while it cannot be read, {what} is in effect in its place");
            let problem = Problem::of(&reader.at, reader.object, Severity::Warning, message);
            let document = error.and_then(|error| {
                let document = reader.shared.documents.of(kind, node, self.place.offset())?;
                Some(document.in_error((&object.meta.namespace, &object.meta.name), error))
            });
            self.parsed.stand_ins.push(StandIn { object: object.with_document(document), problem });
        }
    }

    /// An entry of a typed list (`PodList`, as the API itself answers) has no kind of its own.
    fn inherit_kind(&self, node: &mut Node) {
        let Some((api_version, list)) = &self.list else { return };
        let Some(kind) = list.strip_suffix("List").filter(|kind| !kind.is_empty()) else { return };
        let line = node.line;
        if let (None, Value::Map(entries)) = (node.get("kind").cloned(), &mut node.value) {
            for (key, text) in [("kind", kind), ("apiVersion", api_version)] {
                entries.push((key.to_owned(), Node { line, value: Value::Text(text.to_owned()) }));
            }
        }
    }

    fn unknown(&mut self, node: &Node, api_version: &str, kind: &str) {
        let why = match kind {
            "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob" => {
                "is ignored: nobody makes pods from it here, write the Pods"
            }
            "EnvoyFilter" | "WasmPlugin" | "Sidecar" | "ServiceProfile" | "ProxyConfig" | "WorkloadEntry"
            | "WorkloadGroup" => "is not supported and ignored",
            _ => "is not a kind the mesh knows; it is ignored",
        };
        let object = label(Kind::Ignored, kind, node);
        let message = format!("{} {} {why}", api_version.escape_debug(), kind.escape_debug());
        self.parsed.problems.push(Problem::of(&self.place.at(node.line), object, Severity::Warning, message));
    }
}

/// `Kind namespace/name`, as problems name an object.
fn label(kind: Kind, kind_name: &str, node: &Node) -> String {
    let of = |key| node.get("metadata").and_then(|metadata| metadata.get(key)?.text()).filter(|text| !text.is_empty());
    // What is no name is shown too, and is no second line of a log.
    let name = of("name").unwrap_or("?").escape_debug();
    let kind_name = kind_name.escape_debug();
    if kind.is_namespaced() {
        format!("{kind_name} {}/{name}", of("namespace").unwrap_or("default").escape_debug())
    } else {
        format!("{kind_name} {name}")
    }
}

fn text_of(node: &Node, key: &str) -> Result<String, DecodeError> {
    match node.get(key) {
        Some(node) => node.clone().read(),
        None => Err(serde::de::Error::custom(format!("missing field `{key}`: this is not a Kubernetes object"))),
    }
}

/// What can be told of a policy in a document that is not even YAML: its kind, namespace and name, from lines that look
/// as everybody writes them.
fn salvage(text: &str) -> Option<(Kind, Node)> {
    let value = |line: &str, key: &str| {
        let rest = line.strip_prefix(key)?.strip_prefix(':')?.trim();
        Some(rest.split(" #").next().unwrap_or(rest).trim().trim_matches(['"', '\'']).to_owned())
    };
    let find = |key: &str| text.lines().find_map(|line| value(line, key));
    let kind = Kind::of(&find("apiVersion")?, &find("kind")?)?;
    if !kind.is_policy() {
        return None;
    }
    let metadata = text.lines().skip_while(|line| !line.starts_with("metadata:")).skip(1);
    let metadata = metadata.take_while(|line| line.starts_with(' ') || line.trim().is_empty());
    let node = |value| Node { line: 1, value };
    let mut entries = Vec::new();
    for line in metadata {
        for key in ["name", "namespace"] {
            entries.extend(value(line.trim(), key).map(|text| (key.to_owned(), node(Value::Text(text)))));
        }
    }
    Some((kind, node(Value::Map(vec![("metadata".to_owned(), node(Value::Map(entries)))]))))
}

/// Reads one document into `Reading`; the entries of a list one after the other, so that only one is held at a time.
struct DocumentSeed<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for DocumentSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DocumentSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let (mut line, mut listed) = (None, false);
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            line.get_or_insert(u32::try_from(key.referenced.line()).unwrap_or(u32::MAX));
            if key.value == "items" {
                let text = |key: &str| {
                    let entry = entries.iter().find(|(name, _)| name == key);
                    entry.and_then(|(_, node)| node.text()).unwrap_or_default().to_owned()
                };
                self.0.list = Some((text("apiVersion"), text("kind")));
                access.next_value_seed(ItemsSeed(self.0))?;
                listed = true;
            } else {
                entries.push((key.value, access.next_value()?));
            }
        }
        if !listed {
            self.0.object(Node { line: line.unwrap_or(1), value: Value::Map(entries) });
        }
        Ok(())
    }
}

struct ItemsSeed<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for ItemsSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of Kubernetes objects")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        while let Some(node) = access.next_element::<Node>()? {
            self.0.object(node);
        }
        Ok(())
    }
}
