//! Pure. Whose word counts for whom: a namespace speaks for itself, a root namespace for all.

use crate::model::name::Namespace;

/// Whether an object of namespace `speaker` may decide about what belongs to namespace `subject`: about its capture,
/// its waypoint, its ports and its policy.
pub fn speaks_for(roots: &[Namespace], speaker: &str, subject: &str) -> bool {
    speaker == subject || is_root(roots, speaker)
}

/// Whether a namespace speaks for the whole mesh (`culvert-system`, `istio-system`).
pub fn is_root(roots: &[Namespace], namespace: &str) -> bool {
    roots.iter().any(|root| root.as_str() == namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_speaks_for_itself_and_a_root_for_all() {
        let roots = [Namespace::from("culvert-system")];
        assert!(speaks_for(&roots, "shop", "shop"));
        assert!(speaks_for(&roots, "culvert-system", "shop"));
        assert!(!speaks_for(&roots, "evil", "shop"));
        assert!(!speaks_for(&roots, "shop", "culvert-system"));
    }
}
