//! Pure. An object of one kind: its origin, its metadata and the fields of its kind.

use std::ops::Deref;
use std::sync::Arc;

use crate::objects::origin::Origin;

use super::meta::Meta;

/// Origin and metadata of an object.
#[derive(Debug)]
pub struct Head {
    /// Its origin.
    pub at: Origin,
    /// Its key, labels and age.
    pub meta: Meta,
}

/// An object of one known kind. Cheap to clone.
#[derive(Debug)]
pub struct Item<T> {
    pub(super) head: Arc<Head>,
    /// The fields of its kind.
    pub spec: Arc<T>,
}

impl<T> Item<T> {
    /// An object that was read.
    pub(in crate::objects) fn new(at: Origin, meta: Meta, spec: T) -> Self {
        Self { head: Arc::new(Head { at, meta }), spec: Arc::new(spec) }
    }

    /// Whether both are the same allocation, not only equal.
    pub(in crate::objects) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.head, &other.head)
    }
}

impl<T> Clone for Item<T> {
    fn clone(&self) -> Self {
        Self { head: Arc::clone(&self.head), spec: Arc::clone(&self.spec) }
    }
}

impl<T> Deref for Item<T> {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Head {
    /// Sorts older objects first: by creation time, by place in the files where there is none, then by name.
    pub fn age(&self) -> impl Ord + '_ {
        let place = match &self.at {
            Origin::Manifest { file, line } if self.meta.created.is_none() => Some((file, line)),
            _ => None,
        };
        (self.meta.created.unwrap_or(i64::MAX), place, &self.meta.namespace, &self.meta.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::kind::Labels;

    #[test]
    fn age_goes_by_time_then_place_then_name() {
        let item = |created, line, name: &str| {
            let at = Origin::line_of(&std::path::Path::new("a.yaml").into(), line);
            let meta = Meta { namespace: "ns".into(), name: name.into(), labels: Labels::default(), created };
            Item::new(at, meta, ())
        };
        let mut items = [
            item(None, 1, "z"),
            item(Some(9), 2, "b"),
            item(Some(9), 1, "c"),
            item(None, 3, "a"),
            item(Some(1), 9, "y"),
        ];
        items.sort_by(|a, b| a.age().cmp(&b.age()));
        let names: Vec<&str> = items.iter().map(|item| item.meta.name.as_str()).collect();
        assert_eq!(names, ["y", "b", "c", "z", "a"]);
    }
}
