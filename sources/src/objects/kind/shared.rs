//! Pure. Interning: equal parts of objects are kept once (names, sets of labels, the common part of a workload's pods).

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use ipnet::IpNet;

use mesh::model::name::{Interner, Name};

use super::known::Documents;
use super::template::PodTemplate;

/// Makes equal parts of objects share one allocation, for as long as the objects are read from the same source.
#[derive(Default)]
pub struct Shared {
    pub(super) names: Interner,
    pub(super) labels: Pool<[(Name, Name)]>,
    pub(super) templates: Pool<PodTemplate>,
    /// The objects whose documents are kept.
    pub(crate) documents: Documents,
    /// Addresses that workloads may have although they are local everywhere.
    pub(crate) local_addresses: Vec<IpNet>,
}

impl Shared {
    /// For a source whose consumer asks for these documents.
    pub fn new(documents: Documents) -> Self {
        Self { documents, ..Self::default() }
    }

    /// Drops values that no object uses any more. Cheap enough to be called after every change.
    pub fn forget_unused(&mut self) {
        self.templates.forget_unused();
        self.labels.forget_unused();
        self.names.forget_unused();
    }
}

/// Equal values, each kept once.
pub(super) struct Pool<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// Number of values from which on unused ones are looked for.
    enough: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), enough: 0 }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    /// The one copy of a value.
    pub(super) fn intern(&mut self, value: impl AsRef<T> + Into<Arc<T>>) -> Arc<T> {
        if let Some(known) = self.known.get(value.as_ref()) {
            return Arc::clone(known);
        }
        let fresh = value.into();
        self.known.insert(Arc::clone(&fresh));
        fresh
    }

    fn forget_unused(&mut self) {
        if self.known.len() >= self.enough {
            self.known.retain(|value| Arc::strong_count(value) > 1);
            self.enough = self.known.len() * 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once_and_only_while_they_are_used() {
        let mut pool: Pool<[u32]> = Pool::default();
        let one = pool.intern(vec![1, 2]);
        let other = pool.intern(vec![1, 2]);
        assert!(Arc::ptr_eq(&one, &other));
        drop(pool.intern(vec![3]));
        pool.forget_unused();
        assert_eq!(pool.known.len(), 1);
        assert!(Arc::ptr_eq(&one, &pool.intern(vec![1, 2])));
    }
}
