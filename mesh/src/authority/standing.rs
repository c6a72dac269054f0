//! Pure. What a Gateway and a service may decide about a workload, once they are part of the model.
//!
//! Anybody may write an EndpointSlice or a ServiceEntry with an address of another namespace's pod. Such an object
//! sends traffic to that pod and changes nothing about it: the pod does not become an instance of a waypoint, none of
//! its ports is put behind a waypoint, and no port that is behind one is opened.

use crate::model::identity::Identity;
use crate::model::service::Service;
use crate::model::waypoint::Waypoint;
use crate::model::workload::Workload;

/// Whether a workload may be an instance of a waypoint: it lives in the namespace of the Gateway, or the Gateway in a
/// root namespace.
pub fn may_be_instance(waypoint: &Waypoint, workload: &Workload) -> bool {
    waypoint.root || waypoint.namespace == workload.namespace
}

/// Whether an identity may belong to an instance of a waypoint: [`may_be_instance`] for the identities that a
/// ServiceEntry lists for its endpoints (`subjectAltNames`).
pub fn may_speak_as(waypoint: &Waypoint, identity: &Identity) -> bool {
    waypoint.root || waypoint.namespace == identity.namespace
}

/// Whether the endpoints of a service may be the instances of a waypoint.
pub fn may_hold_instances(waypoint: &Waypoint, service: &Service) -> bool {
    waypoint.root || waypoint.namespace == service.key.namespace
}

/// Whether a service may decide about the ports of a workload that is its endpoint: it is in the workload's namespace
/// or in a root namespace.
pub fn decides_about(service: &Service, workload: &Workload) -> bool {
    service.reach.root || service.key.namespace == workload.namespace
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::Reach;

    #[test]
    fn a_gateway_has_its_instances_in_its_own_namespace_unless_that_is_a_root() {
        let own = Workload::sample("gate", "shop", &[]);
        let other = Workload::sample("vault", "bank", &[]);
        for (root, workload, may) in
            [(false, &own, true), (false, &other, false), (true, &own, true), (true, &other, true)]
        {
            let waypoint = Waypoint { root, ..Waypoint::sample("shop", "gate", None) };
            assert_eq!(may_be_instance(&waypoint, workload), may, "{root} {}", workload.namespace);
            assert_eq!(may_speak_as(&waypoint, &workload.identity()), may, "{root} {}", workload.namespace);
            let service = Service::sample("gate", &workload.namespace, &[], &[]);
            assert_eq!(may_hold_instances(&waypoint, &service), may, "{root} {}", workload.namespace);
        }
    }

    #[test]
    fn a_service_decides_about_workloads_of_its_own_namespace_unless_that_is_a_root() {
        let vault = Workload::sample("vault", "bank", &[]);
        for (root, namespace, decides) in [(false, "bank", true), (false, "evil", false), (true, "evil", true)] {
            let reach = Reach { root, ..Reach::default() };
            let service = Service { reach, ..Service::sample("front", namespace, &[], &[]) };
            assert_eq!(decides_about(&service, &vault), decides, "{root} {namespace}");
        }
    }
}
