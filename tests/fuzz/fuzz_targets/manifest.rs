//! A manifest file, as a user writes it: objects, updates and problems, never a panic.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sources::Options;
use sources::objects::kind::Shared;
use sources::objects::parse::parse;
use sources::objects::world::World;
use mesh::state::store::Store;

fuzz_target!(|text: &str| {
    let file: Arc<Path> = Arc::from(Path::new("fuzz.yaml"));
    let parsed = parse(&file, text, &mut Shared::default());
    let mut world = World::new(Options::default());
    let store = Store::new(Some("node".into()));
    store.apply(world.change(&[], &parsed.objects));
    let _ = world.problems();
    store.apply(world.change(&parsed.objects, &[]));
    assert_eq!(store.snapshot().counts(), (0, 0), "what was taken away is gone");
});
