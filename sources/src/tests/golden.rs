//! A whole mesh as people write it, against what it has to become.
//!
//! After a wanted change, write the new expectation with `UPDATE_GOLDEN=1 cargo test -p mesh golden` and read the diff.

use std::path::Path;

use super::support::Mesh;
use crate::{Documents, ManifestSource, Options};

#[test]
fn bookinfo_becomes_what_it_always_became() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden");
    let options = Options { documents: Documents::OfWaypoints, ..Options::default() };
    let loaded = ManifestSource::load_once(&golden.join("bookinfo"), &options);
    let problems: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, [""; 0]);
    let raw = loaded.documents.iter().map(|object| object.kind().name());
    let raw: Vec<&str> = raw.filter(|kind| !["Namespace", "Node", "GatewayClass", "Pod"].contains(kind)).collect();
    assert_eq!(raw, ["AuthorizationPolicy", "AuthorizationPolicy", "Gateway", "HTTPRoute"]);
    let mut mesh = Mesh::default();
    mesh.apply(loaded.updates);

    let found = serde_json::to_string_pretty(&mesh).unwrap() + "\n";
    let expected = golden.join("bookinfo.expected.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&expected, &found).unwrap();
    }
    let expected = std::fs::read_to_string(expected).unwrap();
    assert!(found == expected, "{found}");
}
