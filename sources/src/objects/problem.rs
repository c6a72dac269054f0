//! Pure. What is wrong with the objects, and where: origin, object and field.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::origin::Origin;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is not in effect as written.
    Error,
    /// The object is in effect, but probably not as its author intended.
    Warning,
    /// Worth knowing.
    Info,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is: in a file on a line, 0 for the whole file, or in an object of an API.
    #[serde(flatten)]
    pub at: Origin,
    /// The object, as `Kind namespace/name`, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The field, as `spec.ports[0].port`, if it is one field's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong, and what follows from it.
    pub message: String,
}

impl Problem {
    /// A problem of an object, at the object's first line.
    pub fn of(at: &Origin, object: impl Into<String>, severity: Severity, message: impl Into<String>) -> Self {
        Self { severity, at: at.clone(), object: Some(object.into()), field: None, message: message.into() }
    }

    /// A problem of no object that is known: of a document, or of a whole file.
    pub fn at(at: Origin, severity: Severity, message: impl Into<String>) -> Self {
        Self { severity, at, object: None, field: None, message: message.into() }
    }

    /// A problem of a whole file.
    pub fn of_file(file: &Arc<Path>, severity: Severity, message: impl Into<String>) -> Self {
        Self::at(Origin::line_of(file, 0), severity, message)
    }

    /// The same problem, pinned to a field.
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The name of an API object is its place.
        match (&self.at, &self.object) {
            (Origin::Manifest { .. }, Some(object)) => write!(f, "{}: {object}", self.at)?,
            (Origin::Api(_), Some(object)) => f.write_str(object)?,
            (Origin::Api(api), None) => write!(f, "{}", api.key)?,
            (Origin::Manifest { .. }, None) => write!(f, "{}", self.at)?,
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::origin::{ApiKey, ApiKind, ApiObject};

    #[test]
    fn a_problem_reads_like_a_compiler_message() {
        let file: Arc<Path> = Arc::from(Path::new("mesh/shop.yaml"));
        let at = Origin::line_of(&file, 7);
        let problem =
            Problem::of(&at, "Service default/shop", Severity::Error, "70000 must be a number from 1 to 65535")
                .field("spec.ports[0].port");
        assert_eq!(
            problem.to_string(),
            "mesh/shop.yaml:7: Service default/shop: spec.ports[0].port: 70000 must be a number from 1 to 65535"
        );
        assert_eq!(
            Problem::of_file(&file, Severity::Error, "no such file").to_string(),
            "mesh/shop.yaml: no such file"
        );
        let key = ApiKey {
            kind: ApiKind { group: "".into(), kind: "Service".into() },
            namespace: "default".into(),
            name: "shop".into(),
        };
        let at = Origin::Api(Arc::new(ApiObject { key, uid: "u".into(), resource_version: "7".into() }));
        let problem =
            Problem::of(&at, "Service default/shop", Severity::Error, "70000 must be a number from 1 to 65535")
                .field("spec");
        assert_eq!(problem.to_string(), "Service default/shop: spec: 70000 must be a number from 1 to 65535");
        assert_eq!(Problem::at(at, Severity::Error, "is odd").to_string(), "Service default/shop: is odd");
    }
}
