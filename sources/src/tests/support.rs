//! A mesh from a text.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::Options;
use crate::objects::kind::Shared;
use crate::objects::parse::{Parsed, parse};
use crate::objects::problem::Severity;
use crate::objects::world::World;
use mesh::model::policy::Authorization;
use mesh::model::service::Service;
use mesh::model::update::Update;
use mesh::model::workload::Workload;

/// What was published, by the names that people use.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub(super) struct Mesh {
    pub(super) workloads: BTreeMap<String, Workload>,
    pub(super) services: BTreeMap<String, Service>,
    pub(super) authorizations: BTreeMap<String, Authorization>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) reserved: BTreeMap<String, String>,
}

impl Mesh {
    pub(super) fn apply(&mut self, updates: Vec<Update>) {
        for update in updates {
            match update {
                Update::Workload(workload) => _ = self.workloads.insert(workload.uid.to_string(), *workload),
                Update::WorkloadGone(uid) => assert!(self.workloads.remove(uid.as_str()).is_some(), "{uid}"),
                Update::Service(service) => _ = self.services.insert(service.key.to_string(), *service),
                Update::ServiceGone(key) => assert!(self.services.remove(&key.to_string()).is_some(), "{key}"),
                Update::Authorization(policy) => _ = self.authorizations.insert(policy.key.to_string(), *policy),
                Update::AuthorizationGone(key) => {
                    assert!(self.authorizations.remove(&key.to_string()).is_some(), "{key}");
                }
                Update::Reserved(reserved) => {
                    _ = self.reserved.insert(reserved.address.to_string(), format!("{:?}", reserved.by));
                }
                Update::ReservedGone(address) => {
                    assert!(self.reserved.remove(&address.to_string()).is_some(), "{address}");
                }
            }
        }
    }

    /// The pod of this name in namespace `default`.
    pub(super) fn pod(&self, name: &str) -> &Workload {
        self.workloads.get(&format!("Kubernetes//Pod/default/{name}")).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// The service of this name in namespace `default`.
    pub(super) fn service(&self, name: &str) -> &Service {
        let key = format!("default/{name}.default.svc.cluster.local");
        self.services.get(&key).unwrap_or_else(|| panic!("no service {name}"))
    }
}

pub(super) fn read(text: &str) -> Parsed {
    parse(&Arc::from(Path::new("mesh.yaml")), text, &mut Shared::default())
}

/// The mesh of a text, and everything that is wrong with it as text.
pub(super) fn load(text: &str) -> (Mesh, Vec<String>) {
    let mut parsed = read(text);
    let mut world = World::new(Options::default());
    let mut mesh = Mesh::default();
    for stand_in in parsed.stand_ins {
        parsed.objects.push(stand_in.object);
        parsed.problems.push(stand_in.problem);
    }
    mesh.apply(world.change(&[], &parsed.objects));
    let problems = parsed.problems.into_iter().chain(world.problems());
    (mesh, problems.map(|problem| problem.to_string()).collect())
}

/// The mesh of a text with which nothing is wrong.
pub(super) fn mesh(text: &str) -> Mesh {
    let (mesh, problems) = load(text);
    assert_eq!(problems, [""; 0]);
    mesh
}

/// The mesh of a text in which nothing is an error.
pub(super) fn accepted(text: &str) -> Mesh {
    let parsed = read(text);
    let errors: Vec<_> = parsed.problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    load(text).0
}

/// A pod in namespace `default`, with the given lines of `metadata` and `spec` (flow style).
pub(super) fn pod(name: &str, ip: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{metadata}}}\nspec: {{nodeName: a{spec}}}\n\
         status: {{podIP: {ip}}}\n"
    )
}
