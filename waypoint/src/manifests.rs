//! Objects as the manifest source keeps them -> objects as the configuration reads them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use mesh::model::update::Update;
use sources::objects::kind::{Item, Raw};
use sources::{Loaded, ManifestSource, Options};

use crate::config::{Object, Services};

/// The objects, in the order of their files.
pub fn objects(raw: &[Arc<Item<Raw>>]) -> Vec<Arc<Object>> {
    let read = |(place, item): (usize, &Arc<Item<Raw>>)| {
        let origin = format!("{}:{}", item.at.file.display(), item.at.line);
        let object = Object::from_json(&item.spec.value, &origin, place)?;
        Some(Arc::new(Object { error: item.spec.error.as_deref().map(Arc::from), ..object }))
    };
    raw.iter().enumerate().filter_map(read).collect()
}

/// A directory, read once: what the source says, the objects, and the services.
pub fn load(dir: &Path) -> Result<(Loaded, Vec<Arc<Object>>, Services)> {
    ensure!(dir.is_dir(), "{} is not a directory", dir.display());
    let loaded = ManifestSource::load_once(dir, &Options { keeps_raw: true, ..Options::default() });
    let services = Services::new(loaded.updates.iter().filter_map(|update| match update {
        Update::Service(service) => Some(Arc::new((**service).clone())),
        _ => None,
    }));
    let objects = objects(&loaded.raw);
    Ok((loaded, objects, services))
}
