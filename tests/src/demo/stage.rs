//! The stage: two nodes, their pods and applications, and the manifests of `deploy/examples`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, AgentOptions, Ports};
use crate::apps::{self, Server, Talk};
use crate::eventually::eventually;
use crate::mesh::{apply, private_directory};
use crate::net::{Net, Node, PodNet};
use crate::peer::Outcome;
use crate::run::Run;
use crate::waypoint::{Waypoint, WaypointOptions};

/// The prefix of namespaces in the manifests.
const NAME: &str = "culvert-demo";
/// The files of the examples.
const FILES: [(&str, &str); 12] = [
    ("pods.yaml", include_str!("../../../deploy/examples/shop/pods.yaml")),
    ("services.yaml", include_str!("../../../deploy/examples/shop/services.yaml")),
    ("enroll.yaml", include_str!("../../../deploy/examples/shop/enroll.yaml")),
    ("strict.yaml", include_str!("../../../deploy/examples/shop/strict.yaml")),
    ("policy.yaml", include_str!("../../../deploy/examples/shop/policy.yaml")),
    ("market-namespace.yaml", include_str!("../../../deploy/examples/waypoint/namespace.yaml")),
    ("market-gateway.yaml", include_str!("../../../deploy/examples/waypoint/gateway.yaml")),
    ("market-services.yaml", include_str!("../../../deploy/examples/waypoint/services.yaml")),
    ("market-pods.yaml", include_str!("../../../deploy/examples/waypoint/pods.yaml")),
    ("market-route.yaml", include_str!("../../../deploy/examples/waypoint/route.yaml")),
    ("market-policy.yaml", include_str!("../../../deploy/examples/waypoint/policy.yaml")),
    ("market-access.yaml", include_str!("../../../deploy/examples/waypoint/access.yaml")),
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
    /// The market, behind a waypoint.
    pub market: Market,
    /// The nodes, east and west.
    pub nodes: [Arc<Node>; 2],
    /// The directory that the agents watch.
    pub manifests: PathBuf,
    /// The network.
    pub net: Arc<Net>,
    /// The path of `culvert`.
    pub program: PathBuf,
}

const fn vip(last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, last)), 80)
}

/// Three tiers of services, a service of six pods, and a waypoint.
#[derive(Debug)]
pub struct Market {
    /// The servers of front, cart and stock, each of which asks the next.
    pub tiers: [Vec<Server>; 3],
    /// The six servers of the catalog.
    pub catalog: Vec<Server>,
    /// The pods of the catalog.
    pub pods: Vec<PodNet>,
    tier_pods: [Vec<PodNet>; 3],
    /// An enrolled pod that serves nothing.
    pub stranger: PodNet,
    /// The pod of the waypoint.
    pub gate: PodNet,
    /// The waypoint, started when its step comes.
    pub waypoint: Option<Waypoint>,
    /// The path of `culvert-waypoint`.
    program: PathBuf,
    ca_dir: PathBuf,
}

impl Market {
    /// Where the first tier is.
    pub const FRONT: SocketAddr = vip(20);
    /// Where the second tier is.
    const CART: SocketAddr = vip(21);
    /// Where the third tier is.
    const STOCK: SocketAddr = vip(23);
    /// Where the catalog is.
    pub const CATALOG: SocketAddr = vip(22);

    /// Ends its servers and the waypoint.
    pub fn close(&mut self) {
        self.tiers = Default::default();
        self.catalog.clear();
        self.waypoint = None;
    }

    fn build([east, west]: &[Arc<Node>; 2], program: PathBuf, ca_dir: PathBuf) -> Result<Self> {
        let front = east.pod("front")?;
        let mut catalog = Vec::new();
        for n in [0, 2, 4] {
            catalog.push(east.pod(&format!("catalog-{n}"))?);
        }
        let (stranger, gate, cart) = (east.pod("stranger")?, east.pod("gate")?, west.pod("cart")?);
        for n in [1, 3, 5] {
            catalog.push(west.pod(&format!("catalog-{n}"))?);
        }
        let stock = vec![west.pod("stock-0")?, west.pod("stock-1")?];
        let serve = |pod: &PodNet, options: &[&str]| Server::start_with(&pod.place, &pod.name, options, &["http:8080"]);
        let next = [Self::CART, Self::STOCK].map(|next| format!("{next},forward"));
        let servers = catalog.iter().map(|pod| serve(pod, &[])).collect::<Result<_>>()?;
        let tiers = [
            vec![serve(&front, &["--next", &next[0]])?],
            vec![serve(&cart, &["--next", &next[1]])?],
            stock.iter().map(|pod| serve(pod, &[])).collect::<Result<_>>()?,
        ];
        let tier_pods = [vec![front], vec![cart], stock];
        Ok(Self { tiers, catalog: servers, pods: catalog, tier_pods, stranger, gate, waypoint: None, program, ca_dir })
    }
}

impl Stage {
    /// Builds it, without starting agents and waypoint.
    pub fn build(program: PathBuf, waypoint: PathBuf, keep: bool) -> Result<Self> {
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
        private_directory(&ca_dir)?;
        let market = Market::build(&nodes, waypoint, ca_dir.clone())?;
        for pod in market.pods.iter().chain(market.tier_pods.iter().flatten()).chain([&market.stranger, &market.gate]) {
            let listed = [6, 8].iter().any(|&file| FILES[file].1.contains(&format!("podIP: {}\n", pod.ip4)));
            ensure!(listed, "{} is not at {}", pod.name, pod.ip4);
        }
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
        Ok(Self {
            agents,
            _servers: servers,
            web,
            visitor,
            batch,
            orders,
            ledger,
            market,
            nodes,
            manifests,
            net,
            program,
        })
    }

    /// Starts the waypoint in its pod.
    pub fn start_waypoint(&mut self) -> Result<()> {
        let market = &mut self.market;
        let options = WaypointOptions {
            program: market.program.clone(),
            gateway: "market/gate".to_owned(),
            manifests: self.manifests.clone(),
            ca_dir: market.ca_dir.clone(),
            log: self.net.run.files().join("waypoint.log"),
            flags: Vec::new(),
        };
        market.waypoint = Some(Waypoint::start(&market.gate.place, market.gate.ips().to_vec(), options)?);
        Ok(())
    }

    /// Applies a file of the examples.
    pub fn apply(&self, name: &str) -> Result<()> {
        self.apply_changed(name, |text| text)
    }

    /// Applies a file of the examples with a change to it.
    pub fn apply_changed(&self, name: &str, change: impl FnOnce(String) -> String) -> Result<()> {
        let (_, text) = FILES.iter().find(|(n, _)| *n == name).context("no such file in the example")?;
        let text = change((*text).to_owned());
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

/// The name that the manifests use, if free, so that they work unchanged; else a free one.
fn free_name() -> String {
    let taken = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    if taken.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{NAME}-"))) {
        return format!("{NAME}{}", std::process::id());
    }
    NAME.to_owned()
}
