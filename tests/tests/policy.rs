//! Who may talk to whom, in tunnels: between two nodes and on one.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tests::eventually::eventually;
use tests::manifest::{PodSpec, authorization};
use tests::mesh::{Mesh, MeshOptions};

#[cfg(test)]
#[path = "cases/policy.rs"]
mod cases;

use cases::rule_from;

/// The node of the server.
const FAR: usize = 1;

fn mesh() -> Result<Arc<Mesh>> {
    Mesh::shared()
}

fn options() -> MeshOptions {
    MeshOptions::default()
}

#[test]
fn policy_is_judged_between_pods_of_one_node_too() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("near");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let intruder = mesh.pod(PodSpec::new(&ns, "intruder"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let _app = server.serve(&["who:80"])?;
    let rule = rule_from(&format!("serviceAccounts: [\"{ns}/client\"]"));
    mesh.apply(&format!("policy-{ns}.yaml"), &authorization(&ns, "only", "server", "ALLOW", &rule))?;
    eventually("only the client may", || {
        for target in [server.at(80), server.at6(80)] {
            ensure!(client.call(target, &["who"])?.ok);
            ensure!(!intruder.call(target, &["who"])?.ok);
        }
        Ok(())
    })
}
