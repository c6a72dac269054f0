//! Pure. Header changes of a route (`requestHeaderModifier`, `responseHeaderModifier`).

use http::{HeaderMap, HeaderName, HeaderValue};

/// Changes to one set of headers: set, then add, then remove.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderChanges {
    /// Replaces whatever value there is.
    pub set: Box<[(HeaderName, HeaderValue)]>,
    /// Appends to whatever value there is.
    pub add: Box<[(HeaderName, HeaderValue)]>,
    /// Takes away.
    pub remove: Box<[HeaderName]>,
}

impl HeaderChanges {
    /// Carries the changes out.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_set_added_and_removed_in_this_order() {
        let pair = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let changes = HeaderChanges {
            set: [pair("x-set", "new"), pair("x-gone", "set")].into(),
            add: [pair("x-add", "second")].into(),
            remove: [HeaderName::from_static("x-gone")].into(),
        };
        let mut headers: HeaderMap = [pair("x-set", "old"), pair("x-add", "first")].into_iter().collect();
        headers.append("x-set", HeaderValue::from_static("older"));
        changes.apply(&mut headers);
        assert_eq!(headers.get_all("x-set").iter().collect::<Vec<_>>(), ["new"]);
        assert_eq!(headers.get_all("x-add").iter().collect::<Vec<_>>(), ["first", "second"]);
        assert!(!headers.contains_key("x-gone"));
    }
}
