//! The benches: what capture costs, what the mesh costs. BENCHMARKS.md has the method.
//!
//! `culvert-bench` is one program in several roles: the runner, and in pods the server, the load and the plain
//! forwarder.

pub mod scale; // a mesh of 100,000 workloads
pub mod connections; // 50,000 open connections
pub mod tunnel; // no mesh, Envoy sidecars, our agents
pub mod capture; // one forwarder behind several captures
pub mod waypoint; // Envoy and culvert-waypoint doing the same job
pub mod routes; // what job that is
pub mod memory; // a node full of pods
pub mod fairness; // one greedy pod and ten others
pub mod fleet; // such a node
pub mod sidecar; // Envoy with routes, or another program
pub mod phases; // the loads each subject goes through
pub mod envoy; // Envoy as a sidecar
pub mod rules; // iptables as Istio uses it
pub mod forward; // role: the plain forwarder
pub mod hbone; // role: both ends of a waypoint's way
pub mod library; // role: source and store, measured from within
pub mod hold; // role: very many open connections
pub mod victims; // role: clients whose service is measured
pub mod greedy; // role: a pod that takes all it can get
pub mod pods; // role: the servers and clients of many pods
pub mod load; // role: the client
pub mod serve; // role: the server
pub mod http; // HTTP/1.1, small
pub mod many; // the manifests of a large mesh
pub mod meter; // CPU time and memory of processes
pub mod show; // terminal, page, files
pub mod compare; // two runs
pub mod page; // HTML
pub mod plot; // SVG
pub mod axis; // where values lie
pub mod stats; // medians and ratios
pub mod report; // table and JSON
