//! Pure. Which routes a Gateway's listeners admit: `allowedRoutes`, `sectionName` and `port` (Gateway API,
//! ParentReference and AllowedRoutes).

use crate::model::name::Name;

/// The label with each namespace's name, set by Kubernetes. The name is used whatever the label says.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Which namespaces may use a Gateway (`allowedRoutes.namespaces`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedNamespaces {
    /// Any.
    All,
    /// The Gateway's own.
    Same,
    /// None.
    Nobody,
    /// Those whose labels match.
    Selected {
        /// `matchLabels`.
        labels: Box<[(Name, Name)]>,
        /// `matchExpressions`.
        requirements: Box<[Requirement]>,
    },
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Key of the label.
    pub key: Name,
    /// The condition on its value.
    pub operator: Operator,
    /// The values that the operator compares with.
    pub values: Box<[Name]>,
}

/// `operator` of a requirement (meta/v1, LabelSelectorRequirement).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is missing.
    NotIn,
    /// The label exists, with any value.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

/// One listener: the fields that decide whether a route may attach to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `name`, which `sectionName` of a reference refers to.
    pub name: Name,
    /// `port`.
    pub port: u16,
    /// Kinds of routes (`allowedRoutes.kinds`) of group `gateway.networking.k8s.io`; `None` is any.
    pub kinds: Option<Box<[Name]>>,
    /// Namespaces of routes.
    pub namespaces: AllowedNamespaces,
}

/// A route that asks to be attached.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// Its kind.
    pub kind: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// `parentRefs[].sectionName`.
    pub section: Option<&'a str>,
    /// `parentRefs[].port`.
    pub port: Option<u16>,
}

/// Why a route is not attached. The caller adds the names of route and Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turned {
    /// `NoMatchingParent`: no listener has this name and port.
    NoListener,
    /// `NotAllowedByListeners`: none of those that do admits the namespace.
    Namespace,
    /// `NotAllowedByListeners`: none of those that do admits the kind.
    Kind,
}

impl Requirement {
    fn is_met_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let value = label(&self.key);
        let listed = value.is_some_and(|value| self.values.iter().any(|listed| listed.as_str() == value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl AllowedNamespaces {
    /// Whether `namespace` may use a Gateway of `home`; `label` gives the values of the namespace's labels.
    pub fn admits<'a>(&self, home: &str, namespace: &'a str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let label = |key: &str| if key == NAME_LABEL { Some(namespace) } else { label(key) };
        match self {
            Self::All => true,
            Self::Same => home == namespace,
            Self::Nobody => false,
            Self::Selected { labels, requirements } => {
                labels.iter().all(|(key, value)| label(key) == Some(value))
                    && requirements.iter().all(|requirement| requirement.is_met_by(label))
            }
        }
    }
}

/// Whether one of these listeners, of a Gateway in `home`, admits the route; the error says why not. A listener has to
/// match both `sectionName` and `port` where both are given.
pub fn admit<'a>(
    listeners: &[Listener],
    home: &str,
    applicant: &Applicant<'a>,
    label: impl Fn(&str) -> Option<&'a str> + Copy,
) -> Result<(), Turned> {
    let referenced = listeners.iter().filter(|listener| {
        applicant.section.is_none_or(|section| listener.name.as_str() == section)
            && applicant.port.is_none_or(|port| listener.port == port)
    });
    let mut turned = Turned::NoListener;
    for listener in referenced {
        let of_kind =
            listener.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| kind.as_str() == applicant.kind));
        let of_namespace = listener.namespaces.admits(home, applicant.namespace, label);
        turned = match (of_namespace, of_kind) {
            (true, true) => return Ok(()),
            (false, _) => Turned::Namespace,
            (true, false) => Turned::Kind,
        };
    }
    Err(turned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, port: u16, namespaces: AllowedNamespaces) -> Listener {
        Listener { name: name.into(), port, kinds: None, namespaces }
    }

    fn selected(pairs: &[(&str, &str)], requirements: &[(&str, Operator, &[&str])]) -> AllowedNamespaces {
        let requirement = |&(key, operator, values): &(&str, Operator, &[&str])| Requirement {
            key: key.into(),
            operator,
            values: values.iter().map(|&value| value.into()).collect(),
        };
        AllowedNamespaces::Selected {
            labels: pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
            requirements: requirements.iter().map(requirement).collect(),
        }
    }

    fn asks(namespace: &str) -> Applicant<'_> {
        Applicant { kind: "HTTPRoute", namespace, section: None, port: None }
    }

    const fn unlabelled(_: &str) -> Option<&'static str> {
        None
    }

    #[test]
    fn by_default_only_the_gateways_own_namespace_is_admitted() {
        let listeners = [listener("mesh", 15008, AllowedNamespaces::Same)];
        assert_eq!(admit(&listeners, "shop", &asks("shop"), unlabelled), Ok(()));
        assert_eq!(admit(&listeners, "shop", &asks("evil"), unlabelled), Err(Turned::Namespace));
        assert_eq!(admit(&[], "shop", &asks("shop"), unlabelled), Err(Turned::NoListener));
    }

    #[test]
    fn section_and_port_are_of_one_listener() {
        let listeners = [listener("a", 1, AllowedNamespaces::All), listener("b", 2, AllowedNamespaces::Same)];
        for (section, port, expected) in [
            (Some("a"), Some(1), Ok(())),
            (Some("a"), None, Ok(())),
            (None, Some(1), Ok(())),
            (None, None, Ok(())),
            (Some("a"), Some(2), Err(Turned::NoListener)),
            (Some("c"), None, Err(Turned::NoListener)),
            (Some("A"), None, Err(Turned::NoListener)),
            (None, Some(3), Err(Turned::NoListener)),
            (Some("b"), Some(2), Err(Turned::Namespace)),
        ] {
            let applicant = Applicant { section, port, ..asks("evil") };
            assert_eq!(admit(&listeners, "shop", &applicant, unlabelled), expected, "{section:?} {port:?}");
        }
    }

    #[test]
    fn a_selector_goes_by_the_labels_of_the_namespace() {
        let labels = |key: &str| match key {
            "team" => Some("red"),
            "kubernetes.io/metadata.name" => Some("shop"),
            _ => None,
        };
        let admits = |allowed: &AllowedNamespaces| allowed.admits("shop", "evil", labels);
        assert!(admits(&selected(&[("team", "red")], &[])));
        assert!(!admits(&selected(&[("team", "blue")], &[])));
        assert!(!admits(&selected(&[("team", "red")], &[("stage", Operator::Exists, &[])])));
        assert!(admits(&selected(&[], &[("stage", Operator::DoesNotExist, &[]), ("team", Operator::In, &["red"])])));
        assert!(!admits(&selected(&[], &[("team", Operator::NotIn, &["red"])])));
        let named = selected(&[("kubernetes.io/metadata.name", "shop")], &[]);
        assert!(!admits(&named), "a namespace cannot give itself another's name");
        assert!(named.admits("x", "shop", unlabelled), "and has its own without a label");
        assert!(!AllowedNamespaces::Nobody.admits("shop", "shop", labels));
    }

    #[test]
    fn kinds_are_admitted_by_name() {
        let mut only = listener("mesh", 15008, AllowedNamespaces::All);
        only.kinds = Some(["GRPCRoute".into()].into());
        assert_eq!(admit(&[only.clone()], "shop", &asks("shop"), unlabelled), Err(Turned::Kind));
        let grpc = Applicant { kind: "GRPCRoute", ..asks("evil") };
        assert_eq!(admit(&[only], "shop", &grpc, unlabelled), Ok(()));
    }
}
