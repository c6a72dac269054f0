//! Objects as the manifest source keeps them -> objects as the configuration reads them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use mesh::model::update::Update;
use sources::objects::kind;
use sources::{Documents, Loaded, ManifestSource, Options};

use crate::config::{Object, Services};

/// The objects, in the order of their files.
pub fn objects(read: &[kind::Object]) -> Vec<Arc<Object>> {
    let of = |(place, object): (usize, &kind::Object)| {
        let document = object.document.as_ref()?;
        Object::from_document(document, &object.at.to_string(), place).map(Arc::new)
    };
    read.iter().enumerate().filter_map(of).collect()
}

/// A directory, read once: what the source says, the objects, and the services.
pub fn load(dir: &Path) -> Result<(Loaded, Vec<Arc<Object>>, Services)> {
    ensure!(dir.is_dir(), "{} is not a directory", dir.display());
    let loaded = ManifestSource::load_once(dir, &Options { documents: Documents::OfWaypoints, ..Options::default() });
    let services = Services::new(loaded.updates.iter().filter_map(|update| match update {
        Update::Service(service) => Some(Arc::new((**service).clone())),
        _ => None,
    }));
    let objects = objects(&loaded.documents);
    Ok((loaded, objects, services))
}
