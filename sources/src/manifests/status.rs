//! Pure. What the source says of itself, for the admin API and `culvert check`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::objects::kind::Kind;
use crate::objects::problem::Problem;

/// The state of the source.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The directory.
    pub dir: PathBuf,
    /// Whether the directory was read at least once, so that the mesh is complete as far as it can be.
    pub synced: bool,
    /// How many files there are.
    pub files: usize,
    /// How many objects of each kind are in effect.
    pub objects: BTreeMap<Kind, usize>,
    /// How many times a file was read because it was new or had changed.
    pub loads: u64,
    /// How many of those times it could not be understood.
    pub failures: u64,
    /// When the last change came into effect, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_change: Option<String>,
    /// Files that are broken now, or ever were.
    pub troubled: Vec<FileStatus>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

/// The state of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    /// The file.
    pub file: Arc<Path>,
    /// Whether it is broken now.
    pub broken: bool,
    /// When it was last read without an error, in RFC 3339: that state is in effect. Never: only what could be
    /// understood of it is, and what stands in for policies that could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good: Option<String>,
    /// How many times it was read.
    pub loads: u64,
    /// How many of those times it could not be understood.
    pub failures: u64,
}
