//! Pure. Ownership of addresses: a node or pod takes precedence over a Service's cluster IP, and all of them over any
//! other claim. Between claimants of the same rank neither age nor the order of files proves anything. The addresses
//! that the kernel shows on interfaces decide first, then the CIDRs that the infrastructure allocates, then possession:
//! the current owner keeps the address. If none of them decides, nobody owns it and nobody is reached by it. The same
//! rules apply between a Service of another namespace and a pod that this kernel cannot show, such as one of another
//! node.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::model::name::Namespace;

/// Why neither a workload nor a service can own an address; `None` if one can.
pub fn unusable(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    match () {
        () if address.is_unspecified() => Some("the unspecified address"),
        () if address.is_loopback() => Some("a loopback address"),
        () if link_local => Some("a link-local address"),
        () if address.is_multicast() => Some("a multicast address"),
        () if broadcast => Some("the broadcast address"),
        () => None,
    }
}

/// One of the objects that claim an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant<K> {
    /// The object that claims the address.
    pub key: K,
    /// Whether the kernel shows the address in the claimant's network namespace; `None` if this process cannot look
    /// there.
    pub shown: Option<bool>,
    /// Whether the claim gives way to every claim that does not ([`Agreement::Yields`](super::ranges::Agreement)).
    pub yields: bool,
    /// Namespace of the claimant.
    pub namespace: Namespace,
    /// Whether that is a root namespace, which decides for the whole mesh.
    pub root: bool,
}

/// Former claimants that are remembered for one address, at most.
const REMEMBERED: usize = 8;

/// The order in which claimants of an address appeared. Those that appear in the same change have the same turn. A
/// former claimant is remembered as long as a later one exists: when it returns, it comes before the later one again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue<K>(SmallVec<[(K, i64); 2]>);

impl<K: Eq + Clone> Queue<K> {
    /// The queue of an address with at most one claimant, its owner.
    pub fn of(holder: Option<K>) -> Self {
        Self(holder.into_iter().map(|key| (key, 0)).collect())
    }

    /// Updates the queue to the present claimants.
    pub fn meet(&mut self, claimants: &[K]) {
        let turn = self.0.iter().map(|(_, turn)| turn + 1).max().unwrap_or(0);
        for key in claimants {
            if !self.0.iter().any(|(known, _)| known == key) {
                self.0.push((key.clone(), turn));
            }
        }
        let last = self.0.iter().filter(|(key, _)| claimants.contains(key)).map(|(_, turn)| *turn).max();
        self.0.retain(|(key, turn)| claimants.contains(key) || last.is_some_and(|last| *turn < last));
        while self.0.len() > claimants.len() + REMEMBERED {
            let Some(oldest) = self.0.iter().position(|(key, _)| !claimants.contains(key)) else { break };
            self.0.remove(oldest);
        }
    }

    /// Whether it holds no order: there is at most one claimant.
    pub fn is_plain(&self) -> bool {
        self.0.len() <= 1
    }

    /// Moves a claimant before all others.
    fn promote(&mut self, first: &K) {
        let turn = self.0.iter().map(|(_, turn)| turn - 1).min().unwrap_or(0);
        if let Some(entry) = self.0.iter_mut().find(|(key, _)| key == first) {
            entry.1 = turn;
        }
    }

    /// The earliest of some claimants. If several of different namespaces have the earliest turn, there is none; within
    /// one namespace the first in `among` wins, since no other namespace is harmed by that.
    fn first<'a>(&self, among: &[&'a Claimant<K>]) -> Option<&'a Claimant<K>> {
        let turn = |claimant: &Claimant<K>| self.0.iter().find(|(key, _)| *key == claimant.key).map(|(_, turn)| *turn);
        let first = among.iter().filter_map(|claimant| turn(claimant)).min()?;
        let mut found = among.iter().filter(|claimant| turn(claimant) == Some(first));
        let one = found.next()?;
        found.all(|other| other.namespace == one.namespace).then_some(*one)
    }

    /// Decides which claimant owns the address; `None` if nothing decides.
    pub fn settle(&mut self, claimants: &[Claimant<K>]) -> Option<K> {
        let shown: Vec<&Claimant<K>> = claimants.iter().filter(|claimant| claimant.shown == Some(true)).collect();
        let proven = !shown.is_empty();
        let candidates =
            if proven { shown } else { claimants.iter().filter(|claimant| claimant.shown != Some(false)).collect() };
        let firm: Vec<&Claimant<K>> = candidates.iter().copied().filter(|claimant| !claimant.yields).collect();
        let candidates = if proven || firm.is_empty() { candidates } else { firm };
        let roots: Vec<&Claimant<K>> = candidates.iter().copied().filter(|claimant| claimant.root).collect();
        let candidates = if roots.is_empty() { candidates } else { roots };
        let found = match candidates[..] {
            [one] => Some(one),
            _ => self.first(&candidates),
        };
        if let Some(found) = found.filter(|_| proven) {
            self.promote(&found.key);
        }
        found.map(|found| found.key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimants(keys: &[&'static str]) -> Vec<Claimant<&'static str>> {
        keys.iter()
            .map(|&key| Claimant { key, shown: None, yields: false, namespace: key.into(), root: false })
            .collect()
    }

    /// Applies each step as one change of the claimants, and returns the owner after the last.
    fn after(steps: &[&[&'static str]]) -> Option<&'static str> {
        let (mut queue, mut owner) = (Queue::default(), None);
        for step in steps {
            queue.meet(step);
            owner = queue.settle(&claimants(step));
        }
        owner
    }

    #[test]
    fn who_has_an_address_keeps_it_and_who_come_together_have_it_not() {
        for (steps, owner) in [
            (&[&["a"][..]][..], Some("a")),
            (&[&["a"], &["a", "b"]], Some("a")),
            (&[&["b"], &["a", "b"]], Some("b")),
            (&[&["a", "b"]], None),
            (&[&["a", "b"], &["a", "b", "c"]], None),
            (&[&["a", "b"], &["b"]], Some("b")),
            (&[&["a", "b"], &["b"], &["a", "b"]], Some("b")),
            // The late one has it while the first is away, and no longer.
            (&[&["a"], &["a", "b"], &["b"]], Some("b")),
            (&[&["a"], &["a", "b"], &["b"], &["a", "b"]], Some("a")),
            (&[&["a"], &["a", "b"], &["b"], &["b", "c"]], Some("b")),
            (&[&["a"], &["a", "b"], &["b"], &[], &["a", "b"]], None),
        ] {
            assert_eq!(after(steps), owner, "{steps:?}");
        }
    }

    #[test]
    fn what_the_kernel_shows_decides_before_who_was_first_and_a_root_namespace_before_others() {
        let claim =
            |key: &'static str, shown, root| Claimant { key, shown, yields: false, namespace: key.into(), root };
        for (two, owner) in [
            ([claim("a", None, false), claim("b", Some(true), false)], Some("b")),
            ([claim("a", Some(false), false), claim("b", None, false)], Some("b")),
            ([claim("a", Some(true), false), claim("b", Some(true), false)], Some("a")),
            ([claim("a", Some(false), false), claim("b", Some(false), false)], None),
            ([claim("a", None, false), claim("b", None, true)], Some("b")),
            ([claim("a", Some(true), false), claim("b", None, true)], Some("a")),
        ] {
            let mut queue = Queue::of(Some("a"));
            queue.meet(&["a", "b"]);
            assert_eq!(queue.settle(&two), owner, "{two:?}");
        }
        // Whom the kernel once showed keeps the address when it cannot be asked any more.
        let mut queue = Queue::of(Some("a"));
        queue.meet(&["a", "b"]);
        queue.settle(&[claim("a", None, false), claim("b", Some(true), false)]);
        assert_eq!(queue.settle(&claimants(&["a", "b"])), Some("b"));
    }

    #[test]
    fn who_contradicts_a_range_gives_way_but_to_the_kernel() {
        let claim =
            |key: &'static str, shown, yields, root| Claimant { key, shown, yields, namespace: key.into(), root };
        for (two, owner) in [
            ([claim("a", None, true, false), claim("b", None, false, false)], Some("b")),
            ([claim("a", None, true, true), claim("b", None, false, false)], Some("b")),
            ([claim("a", None, true, false), claim("b", None, true, false)], Some("a")),
            ([claim("a", Some(true), true, false), claim("b", None, false, false)], Some("a")),
            ([claim("a", None, false, false), claim("b", Some(false), false, false)], Some("a")),
        ] {
            let mut queue = Queue::of(Some("a"));
            queue.meet(&["a", "b"]);
            assert_eq!(queue.settle(&two), owner, "{two:?}");
        }
    }

    #[test]
    fn those_of_one_namespace_come_as_they_stand() {
        let of = |key, namespace: &str| Claimant {
            key,
            shown: None,
            yields: false,
            namespace: namespace.into(),
            root: false,
        };
        let mut queue = Queue::default();
        queue.meet(&["b", "a"]);
        assert_eq!(queue.settle(&[of("b", "x"), of("a", "x")]), Some("b"));
        assert_eq!(queue.settle(&[of("b", "x"), of("a", "y")]), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let mut queue = Queue::default();
        for pair in names.windows(2) {
            queue.meet(pair);
        }
        assert!(queue.0.len() <= 2 + REMEMBERED);
        queue.meet(&[]);
        assert!(queue.is_plain());
    }

    #[test]
    fn some_addresses_are_nobodys() {
        for text in [
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(unusable(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "240.240.0.1", "fd00::1", "2001:db8::1"] {
            assert!(unusable(text.parse().unwrap()).is_none(), "{text}");
        }
    }
}
