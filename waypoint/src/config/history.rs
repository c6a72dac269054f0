//! Pure. The last version of each object that could be used: a bad edit keeps it in effect, as a broken file keeps what
//! it last said.

use std::collections::HashMap;
use std::sync::Arc;

use super::object::Object;
use super::status::Findings;

type Key = (Arc<str>, Arc<str>, Arc<str>);

/// Good versions by kind, namespace and name.
#[derive(Debug, Default)]
pub struct History {
    good: HashMap<Key, Arc<Object>>,
}

fn key(object: &Object) -> Key {
    (Arc::clone(&object.kind), Arc::clone(&object.namespace), Arc::clone(&object.name))
}

impl History {
    /// Reads an object; when it is rejected, its last good version instead, which the findings then say.
    pub fn read<T>(
        &mut self,
        object: &Arc<Object>,
        mut read: impl FnMut(&Arc<Object>, &mut Findings) -> T,
    ) -> (T, Findings) {
        let mut findings = Findings::default();
        let fresh = read(object, &mut findings);
        if findings.rejected.is_none() {
            self.good.insert(key(object), Arc::clone(object));
            return (fresh, findings);
        }
        let Some(good) = self.good.get(&key(object)) else { return (fresh, findings) };
        let last = read(good, &mut Findings::default());
        findings.dropped.push("Fall Back: the last good version stays in effect".to_owned());
        (last, findings)
    }

    /// Forgets objects that are gone.
    pub fn retain(&mut self, objects: &[Arc<Object>]) {
        let present: std::collections::HashSet<Key> = objects.iter().map(|object| key(object)).collect();
        self.good.retain(|key, _| present.contains(key));
    }
}
