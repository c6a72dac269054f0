//! Pure. Joins several lines of one header into one (RFC 9110, 5.3), so that two readers cannot differ on whether the
//! first or the last counts.

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

/// What stands between the values: cookies have their own sign (RFC 9113, 8.2.3).
pub fn joint(name: &HeaderName) -> &'static [u8] {
    if *name == COOKIE { b"; " } else { b"," }
}

/// Makes the lines of a field one.
pub fn join(headers: &mut HeaderMap, name: &HeaderName) {
    if headers.get_all(name).iter().nth(1).is_none() {
        return;
    }
    let joined = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(joint(name));
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_field_become_one() {
        for (name, lines, joined) in [
            ("x-role", &[&b"guest"[..], b"admin"][..], &b"guest,admin"[..]),
            ("x-role", &[b"guest"], b"guest"),
            ("x-role", &[b"", b"admin"], b",admin"),
            ("x-role", &[b"\xff", b"admin"], b"\xff,admin"),
            ("cookie", &[b"a=1", b"b=2"], b"a=1; b=2"),
        ] {
            let name = HeaderName::from_static(name);
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&name, HeaderValue::from_bytes(line).unwrap());
            }
            join(&mut headers, &name);
            let values: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
            assert_eq!(values, [joined], "{name} {lines:?}");
        }
        let mut none = HeaderMap::new();
        join(&mut none, &COOKIE);
        assert!(none.is_empty());
    }
}
