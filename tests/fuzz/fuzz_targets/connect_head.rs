//! The head of a CONNECT: authority, `forwarded`, `traceparent`, `baggage`, from a peer that may say anything.
#![no_main]

use std::str::FromStr as _;

use http::{HeaderValue, Method, Request};
use libfuzzer_sys::fuzz_target;
use transport::hbone::{Authority, ConnectHead};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let Some(authority) = parts.next().and_then(|part| std::str::from_utf8(part).ok()) else { return };
    if let Ok(parsed) = Authority::from_str(authority) {
        assert_eq!(Authority::from_str(&parsed.to_string()).ok(), Some(parsed), "it prints as it parses");
    }
    let Ok(mut request) = Request::builder().method(Method::CONNECT).uri(authority).body(()) else { return };
    for (name, value) in ["forwarded", "traceparent", "baggage"].into_iter().zip(parts) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request.headers_mut().insert(name, value);
        }
    }
    if let Ok(head) = ConnectHead::parse(&request) {
        let _ = head.to_request();
    }
});
