//! Pure. What is wrong with the manifests, and where: file, line, object and field.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is not in effect as written.
    Error,
    /// The object is in effect, but hardly as meant.
    Warning,
    /// Worth knowing.
    Info,
}

/// Where an object is written down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// The line on which the object begins, from 1.
    pub line: u32,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file it is in.
    pub file: Arc<Path>,
    /// The line it is on, from 1; 0 for a problem of the whole file.
    pub line: u32,
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
        Self {
            severity,
            file: Arc::clone(&at.file),
            line: at.line,
            object: Some(object.into()),
            field: None,
            message: message.into(),
        }
    }

    /// A problem of a whole file.
    pub fn of_file(file: &Arc<Path>, severity: Severity, message: impl Into<String>) -> Self {
        Self { severity, file: Arc::clone(file), line: 0, object: None, field: None, message: message.into() }
    }

    /// The same problem, pinned to a field.
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
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

    #[test]
    fn a_problem_reads_like_a_compiler_message() {
        let file: Arc<Path> = Arc::from(Path::new("mesh/shop.yaml"));
        let at = Origin { file: Arc::clone(&file), line: 7 };
        let problem = Problem::of(&at, "Service default/shop", Severity::Error, "70000 is not a port")
            .field("spec.ports[0].port");
        assert_eq!(
            problem.to_string(),
            "mesh/shop.yaml:7: Service default/shop: spec.ports[0].port: 70000 is not a port"
        );
        assert_eq!(
            Problem::of_file(&file, Severity::Error, "no such file").to_string(),
            "mesh/shop.yaml: no such file"
        );
    }
}
