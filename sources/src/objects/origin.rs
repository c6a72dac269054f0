//! Pure. The origin of an object: a file and line, or an object of a Kubernetes API.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use mesh::model::name::{Name, Namespace};

/// The origin of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum Origin {
    /// In a file.
    Manifest {
        /// The file.
        file: Arc<Path>,
        /// The line, from 1; 0 for the whole file.
        line: u32,
    },
    /// In a Kubernetes API.
    Api(Arc<ApiObject>),
}

/// One version of an object of a Kubernetes API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiObject {
    /// Which object.
    #[serde(flatten)]
    pub key: ApiKey,
    /// `metadata.uid`: another object of the same key has another.
    pub uid: Box<str>,
    /// `metadata.resourceVersion`.
    pub resource_version: Box<str>,
}

/// Which object of a Kubernetes API: one key has one object at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ApiKey {
    /// Which kind.
    #[serde(flatten)]
    pub kind: ApiKind,
    /// Namespace; empty for kinds that have none.
    pub namespace: Namespace,
    /// Name.
    pub name: Name,
}

/// A kind of a Kubernetes API, whichever version it is served in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ApiKind {
    /// API group; empty for the core group.
    pub group: Name,
    /// `kind`.
    pub kind: Name,
}

impl ApiObject {
    /// The origin of an object as an API answers it; `None` if it lacks `apiVersion`, `kind` or `metadata.name`.
    pub fn of(object: &serde_json::Value) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(serde_json::Value::as_str);
        let (api_version, kind) = (text("/apiVersion")?, text("/kind")?);
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let key = ApiKey {
            kind: ApiKind { group: group.into(), kind: kind.into() },
            namespace: text("/metadata/namespace").unwrap_or_default().into(),
            name: text("/metadata/name")?.into(),
        };
        let or_empty = |pointer: &str| text(pointer).unwrap_or_default().into();
        Some(Self { key, uid: or_empty("/metadata/uid"), resource_version: or_empty("/metadata/resourceVersion") })
    }
}

impl Origin {
    /// A line of a file.
    pub fn line_of(file: &Arc<Path>, line: u32) -> Self {
        Self::Manifest { file: Arc::clone(file), line }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Manifest { file, .. } => Some(file),
            Self::Api(_) => None,
        }
    }

    /// The line in the file, from 1; 0 where there is none.
    pub fn line(&self) -> u32 {
        match self {
            Self::Manifest { line, .. } => *line,
            Self::Api(_) => 0,
        }
    }

    /// Whether both origins have the same place in the order of objects. The place of an API object is its key,
    /// whatever its version.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Api(one), Self::Api(other)) => one.key == other.key,
            _ => self == other,
        }
    }
}

/// `file:line`, or what holds the object.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest { file, line: 0 } => write!(f, "{}", file.display()),
            Self::Manifest { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Api(_) => f.write_str("the Kubernetes API"),
        }
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        match namespace.is_empty() {
            true => write!(f, "{} {name}", kind.kind),
            false => write!(f, "{} {namespace}/{name}", kind.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(name: &str, resource_version: &str) -> Origin {
        let kind = ApiKind { group: "".into(), kind: "Service".into() };
        let key = ApiKey { kind, namespace: "shop".into(), name: name.into() };
        Origin::Api(Arc::new(ApiObject { key, uid: "u".into(), resource_version: resource_version.into() }))
    }

    #[test]
    fn versions_of_an_api_object_have_one_place_and_lines_of_a_file_have_not() {
        let file: Arc<Path> = Path::new("a.yaml").into();
        let line = |line| Origin::line_of(&file, line);
        assert!(api("web", "1").is_same_place(&api("web", "2")));
        assert!(!api("web", "1").is_same_place(&api("cart", "1")));
        assert!(line(1).is_same_place(&line(1)) && !line(1).is_same_place(&line(2)));
        assert!(!line(1).is_same_place(&api("web", "1")));
    }

    #[test]
    fn the_origin_of_an_api_object_is_in_the_object() {
        let metadata = serde_json::json!({"name": "a", "namespace": "b", "uid": "u", "resourceVersion": "7"});
        let route = serde_json::json!({"apiVersion": "x.io/v1beta1", "kind": "Route", "metadata": metadata});
        let ApiObject { key, uid, resource_version } = ApiObject::of(&route).unwrap();
        assert_eq!((key.kind.group.as_str(), key.to_string().as_str()), ("x.io", "Route b/a"));
        assert_eq!((&*uid, &*resource_version), ("u", "7"));
        let node = ApiObject::of(&serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}));
        assert_eq!(node.unwrap().key.to_string(), "Node n");
        for missing in ["apiVersion", "kind", "metadata"] {
            let mut route = route.clone();
            route.as_object_mut().unwrap().remove(missing);
            assert_eq!(ApiObject::of(&route), None, "{missing}");
        }
    }

    #[test]
    fn an_origin_is_shown_as_people_look_for_it() {
        let file: Arc<Path> = Path::new("a.yaml").into();
        assert_eq!(Origin::line_of(&file, 7).to_string(), "a.yaml:7");
        assert_eq!(Origin::line_of(&file, 0).to_string(), "a.yaml");
        let json = serde_json::to_value([Origin::line_of(&file, 7), api("web", "12")]).unwrap();
        let of_api = serde_json::json!({
            "group": "", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u", "resourceVersion": "12",
        });
        assert_eq!(json, serde_json::json!([{"file": "a.yaml", "line": 7}, of_api]));
    }
}
