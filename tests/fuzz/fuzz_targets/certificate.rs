//! The leaf certificate of a peer: its identity, or why it has none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transport::tls::Leaf;

fuzz_target!(|data: &[u8]| {
    if let Ok(leaf) = Leaf::parse(data) {
        let text = leaf.identity.to_string();
        assert_eq!(text.parse().ok(), Some(leaf.identity));
    }
});
