//! The stage: two nodes, five pods, their applications, and the manifests of `deploy/examples/shop`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, AgentOptions, Ports};
use crate::apps::{self, Server, Talk};
use crate::eventually::eventually;
use crate::mesh::{apply, private_folder};
use crate::net::{Net, Node, PodNet};
use crate::peer::Outcome;
use crate::run::Run;

/// The prefix of namespaces in the manifests.
const NAME: &str = "culvert-demo";
/// The files of the example.
const FILES: [(&str, &str); 5] = [
    ("pods.yaml", include_str!("../../../deploy/examples/shop/pods.yaml")),
    ("services.yaml", include_str!("../../../deploy/examples/shop/services.yaml")),
    ("enrol.yaml", include_str!("../../../deploy/examples/shop/enrol.yaml")),
    ("strict.yaml", include_str!("../../../deploy/examples/shop/strict.yaml")),
    ("policy.yaml", include_str!("../../../deploy/examples/shop/policy.yaml")),
];

/// Everything the steps act on.
#[derive(Debug)]
pub struct Stage {
    /// The agents, east and west.
    pub agents: [Agent; 2],
    _servers: Vec<Server>,
    /// shop/web, on east.
    pub web: PodNet,
    /// guest/visitor, on east.
    pub visitor: PodNet,
    /// legacy/batch, on east, never enrolled.
    pub batch: PodNet,
    /// shop/orders, on west.
    pub orders: PodNet,
    /// bank/ledger, on west.
    pub ledger: PodNet,
    /// The nodes, east and west.
    pub nodes: [Arc<Node>; 2],
    /// The folder that the agents watch.
    pub manifests: PathBuf,
    /// The wire.
    pub net: Arc<Net>,
    /// The path of `culvert`.
    pub program: PathBuf,
}

impl Stage {
    /// Builds it, without starting the agents.
    pub fn build(program: PathBuf, keep: bool) -> Result<Self> {
        let net = Net::in_run(Run::named(&free_name())?, keep)?;
        let nodes = [net.node("east")?, net.node("west")?];
        let [east, west] = &nodes;
        let (web, visitor, batch) = (east.pod("web")?, east.pod("visitor")?, east.pod("batch")?);
        let (orders, ledger) = (west.pod("orders")?, west.pod("ledger")?);
        for pod in [&web, &visitor, &batch, &orders, &ledger] {
            ensure!(FILES[0].1.contains(&format!("podIP: {}\n", pod.ip4)), "{} is not at {}", pod.name, pod.ip4);
        }
        let servers = vec![
            Server::start(&orders.place, "orders", &["who:8080", "echo:7000"])?,
            Server::start(&ledger.place, "ledger", &["who:8080"])?,
            Server::start(&batch.place, "batch", &["who:8080"])?,
        ];
        let files = net.run.files();
        let (manifests, ca_dir) = (files.join("manifests"), files.join("ca"));
        fs::create_dir_all(&manifests)?;
        private_folder(&ca_dir)?;
        let agents = nodes.clone().map(|node| {
            let options = AgentOptions {
                program: program.clone(),
                manifests: manifests.clone(),
                ca_dir: ca_dir.clone(),
                flags: Vec::new(),
                log_format: "json".to_owned(),
                open_files: None,
                ports: Ports::default(),
            };
            Agent::prepare(&node, options, files.clone())
        });
        Ok(Self { agents, _servers: servers, web, visitor, batch, orders, ledger, nodes, manifests, net, program })
    }

    /// Applies a file of the example.
    pub fn apply(&self, name: &str) -> Result<()> {
        let (_, text) = FILES.iter().find(|(n, _)| *n == name).context("no such file in the example")?;
        let netns = format!("/run/netns/{}-", self.net.run.id());
        apply(&self.manifests, name, &text.replace(&format!("/run/netns/{NAME}-"), &netns))
    }

    /// The service address of `orders` in either family, with a port.
    pub fn service(&self, port: u16) -> [SocketAddr; 2] {
        [SocketAddr::from(([10, 96, 0, 10], port)), SocketAddr::from(([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10], port))]
    }

    /// One HTTP request from a pod.
    pub fn get(&self, from: &PodNet, target: SocketAddr) -> Result<Outcome> {
        apps::call(&from.place, target, &["who"], &["--timeout", "5"])
    }

    /// A conversation that stays open.
    pub fn talk(&self, from: &PodNet, target: SocketAddr) -> Result<Talk> {
        Talk::open(&from.place, target, &[])
    }

    /// Waits until the agents have captured exactly these many pods.
    pub fn captured(&self, counts: [usize; 2]) -> Result<()> {
        for (agent, wanted) in self.agents.iter().zip(counts) {
            eventually(&format!("{} captures {wanted} pods", agent.node.name), || {
                let dump = agent.dump()?;
                let captures = dump["captures"].as_array().context("no captures in the dump")?;
                let captured = captures.iter().filter(|c| c["state"] == "captured").count();
                ensure!(captured == wanted, "{captured} are captured: {captures:?}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The name that the manifests use when it is free, so that they work as they stand; else one that is free.
fn free_name() -> String {
    let taken = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    if taken.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{NAME}-"))) {
        return format!("{NAME}{}", std::process::id());
    }
    NAME.to_owned()
}
