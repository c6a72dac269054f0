//! Pure. Which address a CONNECT may reach at this workload.

use std::net::SocketAddr;

use mesh::model::connection::{Fault, ResponseFlag};
use mesh::model::name::Hostname;
use mesh::model::service::ServiceKey;
use mesh::model::waypoint::HBONE_PORT;
use mesh::model::workload::Workload;
use mesh::state::snapshot::Snapshot;
use thiserror::Error;
use transport::hbone::Authority;

use crate::connection::failure::Failure;

/// The target of an admitted CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Address and port of the application.
    pub(crate) address: SocketAddr,
    /// The service, if it was named by host name.
    pub(crate) service: Option<ServiceKey>,
}

/// Why the target of a CONNECT is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Misdirected {
    /// The authority's address is not the one that was dialled.
    #[error("authority {asked} is not the address that was dialled, {dialled}")]
    Address {
        /// The requested address.
        asked: SocketAddr,
        /// The address to which the tunnel was dialled.
        dialled: SocketAddr,
    },
    /// Unknown host, or one that this workload does not serve.
    #[error("authority {0} is not a service of this workload")]
    Host(Hostname),
    /// The service has no such port on this workload.
    #[error("authority {0}: the service has no port {1} on this workload")]
    Port(Hostname, u16),
    /// The mesh's own port.
    #[error("{0} is the mesh's own port")]
    OwnPort(SocketAddr),
}

impl Misdirected {
    /// Which side caused it: 400 for a foreign address, 503 for an unknown service (like ztunnel).
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Address { .. } => Fault::Client,
            Self::Host(_) | Self::Port(..) | Self::OwnPort(_) => Fault::Upstream,
        }
    }
}

impl From<Misdirected> for Failure {
    fn from(misdirected: Misdirected) -> Self {
        Self { fault: misdirected.fault(), flag: ResponseFlag::Connect, text: misdirected.to_string() }
    }
}

/// Resolves the target of a CONNECT to `workload`. `dialled` is the local address of the tunnel's socket.
pub(crate) fn find(
    mesh: &Snapshot,
    workload: &Workload,
    dialled: SocketAddr,
    asked: &Authority,
) -> Result<Target, Misdirected> {
    let dialled = SocketAddr::new(dialled.ip().to_canonical(), dialled.port());
    let target = match asked {
        Authority::Address(asked) => {
            let asked = SocketAddr::new(asked.ip().to_canonical(), asked.port());
            if asked.ip() != dialled.ip() {
                return Err(Misdirected::Address { asked, dialled });
            }
            Target { address: asked, service: None }
        }
        Authority::Host(host, port) => {
            let service = mesh
                .service_named(host, &workload.namespace)
                .and_then(|entry| workload.services.iter().find(|s| s.service == entry.service.key))
                .ok_or_else(|| Misdirected::Host(host.clone()))?;
            let target_port = service.ports.iter().find(|p| p.service_port == *port).map(|p| p.target_port);
            let target_port = target_port.filter(|p| *p != 0).ok_or_else(|| Misdirected::Port(host.clone(), *port))?;
            Target { address: SocketAddr::new(dialled.ip(), target_port), service: Some(service.service.clone()) }
        }
    };
    if target.address.port() == HBONE_PORT || target.address.port() == 0 {
        return Err(Misdirected::OwnPort(target.address));
    }
    Ok(target)
}

/// Whether plaintext to `original_dst` may be forwarded: it must be an address of the workload, and no port of the
/// mesh. Anything else was sent to the listener itself, and would come back here for ever.
pub(crate) fn reachable(workload: &Workload, original_dst: SocketAddr) -> Result<(), Misdirected> {
    let own = workload.addresses.contains(&original_dst.ip().to_canonical());
    if own && ![15001, 15006, HBONE_PORT].contains(&original_dst.port()) {
        Ok(())
    } else {
        Err(Misdirected::OwnPort(original_dst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::model::service::Service;
    use mesh::model::update::Update;
    use mesh::model::workload::WorkloadService;
    use mesh::state::store::Store;

    fn found(asked: Authority) -> Result<Target, Misdirected> {
        let service = Service::sample("shop", "default", &["10.96.0.1".parse().unwrap()], &[(80, 8080)]);
        let other = Service::sample("other", "default", &["10.96.0.2".parse().unwrap()], &[(80, 8080)]);
        let workload = Workload {
            services: [WorkloadService {
                service: service.key.clone(),
                ports: service.ports.clone(),
                health: mesh::model::workload::Health::Healthy,
            }]
            .into(),
            ..Workload::sample("shop-1", "default", &["10.0.0.1".parse().unwrap()])
        };
        let store = Store::new(None);
        store.apply([
            Update::Service(Box::new(service)),
            Update::Service(Box::new(other)),
            Update::Workload(Box::new(workload.clone())),
        ]);
        find(&store.snapshot(), &workload, "10.0.0.1:15008".parse().unwrap(), &asked)
    }

    fn address(text: &str) -> Authority {
        Authority::Address(text.parse().unwrap())
    }

    #[test]
    fn an_authority_must_name_the_address_that_was_dialled() {
        assert_eq!(found(address("10.0.0.1:80")).unwrap().address, "10.0.0.1:80".parse().unwrap());
        assert_eq!(found(address("[::ffff:10.0.0.1]:80")).unwrap().address, "10.0.0.1:80".parse().unwrap());
        for wrong in ["10.0.0.2:80", "127.0.0.1:80", "10.96.0.1:80"] {
            assert_eq!(found(address(wrong)).unwrap_err().fault(), Fault::Client, "{wrong}");
        }
    }

    #[test]
    fn the_meshs_own_port_is_no_target() {
        assert!(matches!(found(address("10.0.0.1:15008")), Err(Misdirected::OwnPort(_))));
        assert!(matches!(found(address("10.0.0.1:0")), Err(Misdirected::OwnPort(_))));
    }

    #[test]
    fn plaintext_reaches_only_the_workloads_own_addresses() {
        let workload = Workload::sample("shop-1", "default", &["10.0.0.1".parse().unwrap()]);
        let may = |to: &str| reachable(&workload, to.parse().unwrap()).is_ok();
        assert!(may("10.0.0.1:80") && may("[::ffff:10.0.0.1]:80"));
        assert!(!may("10.0.0.2:80") && !may("127.0.0.1:15006") && !may("10.0.0.1:15006"));
    }

    #[test]
    fn a_host_name_must_be_a_service_of_this_workload() {
        let host = |name: &str, port| Authority::Host(format!("{name}.default.svc.cluster.local").into(), port);
        assert_eq!(found(host("shop", 80)).unwrap().address, "10.0.0.1:8080".parse().unwrap());
        assert!(matches!(found(host("shop", 81)), Err(Misdirected::Port(..))));
        assert!(matches!(found(host("other", 80)), Err(Misdirected::Host(_))));
        assert!(matches!(found(host("nowhere", 80)), Err(Misdirected::Host(_))));
    }
}
