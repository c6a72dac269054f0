//! The `baggage` header, as a peer sends it: what was understood is understood again after printing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transport::hbone::Baggage;

fuzz_target!(|text: &str| {
    let parsed = Baggage::parse(text);
    assert_eq!(Baggage::parse(&parsed.print()), parsed);
});
