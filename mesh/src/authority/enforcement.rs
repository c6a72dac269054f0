//! Pure. Whether a port behind a waypoint accepts traffic that bypasses the waypoint: which objects may set it, and
//! which setting takes precedence.

use crate::model::waypoint::{Enforcement, EnforcementMode};

/// Label or annotation of Service, ServiceEntry, Pod, Namespace and Gateway that sets the mode.
pub const ENFORCEMENT: &str = "culvert.dev/waypoint-enforcement";

/// The mode that an object sets, and the object as `Kind namespace/name`.
pub type Word = (EnforcementMode, String);

/// The modes set for one port or workload, the most specific first.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Set by the Service, or by the Pod for its own address.
    pub own: Option<Word>,
    /// Set by its Namespace.
    pub namespace: Option<Word>,
    /// Set by the Gateway.
    pub gateway: Option<Word>,
    /// Whether the Gateway may decide for the namespace. If not, its mode can close a port but never open one.
    pub gateway_may_relax: bool,
}

/// The enforcement that results from the modes that are set, the mesh's default, and the policy that guards the port at
/// the waypoint (`Kind namespace/name`), if there is one.
pub fn decide<N>(words: Words, default: EnforcementMode, guard: Option<N>) -> Enforcement
where
    N: Into<crate::model::name::Name>,
{
    let of_mesh = (default, "the default of the mesh".to_owned());
    let gateway = words.gateway.filter(|(mode, _)| words.gateway_may_relax || *mode > default);
    let (mode, who) = words.own.or(words.namespace).or(gateway).unwrap_or(of_mesh);
    match (mode, guard) {
        (EnforcementMode::Off, _) => Enforcement::Off(who.as_str().into()),
        (EnforcementMode::Strict, _) => Enforcement::Strict(who.as_str().into()),
        (EnforcementMode::Policy, Some(guard)) => Enforcement::Guarded(guard.into()),
        (EnforcementMode::Policy, None) => Enforcement::Unguarded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EnforcementMode::{Off, Policy, Strict};

    fn word(mode: Option<EnforcementMode>, who: &str) -> Option<Word> {
        mode.map(|mode| (mode, who.to_owned()))
    }

    #[test]
    fn the_closest_word_counts_and_policy_asks_for_a_guard() {
        let guard = Some("AuthorizationPolicy shop/only-front");
        for (own, namespace, gateway, default, guard, expected) in [
            (None, None, None, Policy, None, Enforcement::Unguarded),
            (None, None, None, Policy, guard, Enforcement::Guarded("AuthorizationPolicy shop/only-front".into())),
            (None, None, None, Strict, None, Enforcement::Strict("the default of the mesh".into())),
            (None, None, None, Off, guard, Enforcement::Off("the default of the mesh".into())),
            (None, None, Some(Strict), Off, None, Enforcement::Strict("gateway".into())),
            (None, Some(Off), Some(Strict), Policy, guard, Enforcement::Off("namespace".into())),
            (Some(Policy), Some(Strict), Some(Strict), Strict, None, Enforcement::Unguarded),
            (Some(Strict), Some(Off), None, Off, None, Enforcement::Strict("own".into())),
            (Some(Off), None, None, Strict, guard, Enforcement::Off("own".into())),
        ] {
            let words = Words {
                own: word(own, "own"),
                namespace: word(namespace, "namespace"),
                gateway: word(gateway, "gateway"),
                gateway_may_relax: true,
            };
            assert_eq!(decide(words, default, guard), expected, "{own:?} {namespace:?} {gateway:?} {default:?}");
        }
    }

    #[test]
    fn the_gateway_of_another_namespace_closes_and_never_opens() {
        let of = |mode, default| {
            let words = Words { gateway: word(Some(mode), "gateway"), ..Words::default() };
            decide(words, default, Some("guard")).is_closed()
        };
        for (mode, default, closed) in [
            (Off, Policy, true),
            (Off, Strict, true),
            (Policy, Strict, true),
            (Strict, Policy, true),
            (Strict, Off, true),
            (Policy, Off, true),
            (Off, Off, false),
        ] {
            assert_eq!(of(mode, default), closed, "{mode:?} under {default:?}");
        }
    }
}
