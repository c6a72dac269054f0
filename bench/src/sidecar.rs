//! The sidecar of a pod as a mesh configures it: Envoy with HTTP routes and retries to every service, mutual TLS in and
//! out; or any other program, through an adapter.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::envoy::{Authority, binary};
use crate::rules::{INBOUND_PORT, OUTBOUND_PORT, SIDECAR_GROUP};
use harness::process::{Place, Process};

/// Names of the types in a configuration.
const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// Port of every service and of the applications behind it.
pub const SERVICE_PORT: u16 = 80;
pub const TARGET_PORT: u16 = 8080;

/// A service of the mesh.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its short name, which is also its workloads' service account.
    pub name: String,
    /// Its virtual address.
    pub vip: Ipv4Addr,
    /// Addresses of its workloads.
    pub endpoints: Vec<Ipv4Addr>,
}

impl Service {
    /// Its full host name.
    pub fn host(&self) -> String {
        format!("{}.bench.svc.cluster.local", self.name)
    }
}

/// Another program in the place of Envoy, read from JSON. docs/benchmarks/README.md describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Name of the subject in the report.
    pub name: String,
    /// Program and arguments; `{directory}`, `{pod}`, `{ip}`, `{inbound}`, `{outbound}` and `{services}` are put in.
    pub command: Vec<String>,
    /// Environment, with the same words put in.
    #[serde(default)]
    pub environment: std::collections::BTreeMap<String, String>,
}

/// What stands in each pod.
#[derive(Clone, Debug)]
pub enum Sidecar {
    /// An Envoy: its name in the report and its path.
    Envoy(String, PathBuf),
    /// Something else.
    Other(Adapter),
}

impl Sidecar {
    /// `envoy`, the path of another Envoy, or that of an adapter (`*.json`).
    pub fn parse(text: &str) -> Result<Self> {
        if text == "envoy" {
            return Ok(Self::Envoy(text.to_owned(), binary()?));
        }
        let path = Path::new(text);
        if path.extension().is_none_or(|extension| extension != "json") {
            ensure!(path.is_file(), "--sidecar {text}: there is no such file");
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            return Ok(Self::Envoy(name, path.to_owned()));
        }
        let json = fs::read(text).with_context(|| format!("reading the adapter {text}"))?;
        let adapter: Adapter = serde_json::from_slice(&json).with_context(|| format!("the adapter {text}"))?;
        ensure!(!adapter.command.is_empty(), "the adapter {text} has an empty command");
        Ok(Self::Other(adapter))
    }

    /// Name in the report.
    pub fn name(&self) -> &str {
        match self {
            Self::Envoy(name, _) => name,
            Self::Other(adapter) => &adapter.name,
        }
    }

    /// Starts it in a pod, which it is told about through files in a directory of its own.
    pub fn start(&self, pod: &Pod<'_>, services: &[Service], authority: &Authority) -> Result<Process> {
        fs::create_dir_all(pod.directory)?;
        authority.issue(&format!("spiffe://cluster.local/ns/bench/sa/{}", pod.account), pod.directory)?;
        // Its group is how the rules know its own connections, as in Istio.
        let mut command = pod.place.command("setpriv")?;
        command.args([&format!("--regid={SIDECAR_GROUP}"), "--clear-groups", "--"]);
        match self {
            Self::Envoy(_, program) => {
                let file = pod.directory.join("envoy.json");
                fs::write(&file, serde_json::to_vec(&configuration(pod.directory, services))?)?;
                command.arg(program);
                command
                    .args(["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning", "-c"])
                    .arg(&file);
            }
            Self::Other(adapter) => {
                let file = pod.directory.join("services.json");
                fs::write(&file, serde_json::to_vec(&listed(services))?)?;
                let words = |text: &str| {
                    text.replace("{directory}", &pod.directory.to_string_lossy())
                        .replace("{services}", &file.to_string_lossy())
                        .replace("{pod}", pod.account)
                        .replace("{ip}", &pod.ip.to_string())
                        .replace("{inbound}", &INBOUND_PORT.to_string())
                        .replace("{outbound}", &OUTBOUND_PORT.to_string())
                };
                command.args(adapter.command.iter().map(|word| words(word)));
                command.envs(adapter.environment.iter().map(|(name, value)| (name, words(value))));
            }
        }
        Process::logging(pod.place, command, &pod.directory.join("sidecar.log"))
    }
}

/// The pod that a sidecar is for.
pub struct Pod<'a> {
    /// Where it runs: the pod's namespace, a cgroup of the sidecar's own.
    pub place: &'a Place,
    /// Service account.
    pub account: &'a str,
    /// Address.
    pub ip: Ipv4Addr,
    /// For its files.
    pub directory: &'a Path,
}

/// The services as an adapter's program finds them in `{services}`.
fn listed(services: &[Service]) -> Value {
    let one = |service: &Service| {
        json!({"host": service.host(), "vip": service.vip, "port": SERVICE_PORT,
               "endpoints": service.endpoints, "target_port": TARGET_PORT,
               "identity": format!("spiffe://cluster.local/ns/bench/sa/{}", service.name)})
    };
    services.iter().map(one).collect()
}

/// The whole configuration of one Envoy.
fn configuration(directory: &Path, services: &[Service]) -> Value {
    let file = |name: &str| json!({"filename": directory.join(name)});
    let mut clusters: Vec<Value> = services.iter().map(outbound_cluster).collect();
    clusters.push(inbound_cluster());
    json!({
        // Istio lets its sidecars count no more than this, which saves them much memory.
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [
            {"prefix": "server"}, {"prefix": "cluster_manager"}, {"prefix": "listener_manager"},
        ]}}},
        "static_resources": {
            "secrets": [
                {"name": "default", "tls_certificate":
                    {"certificate_chain": file("chain.pem"), "private_key": file("key.pem")}},
                {"name": "ROOTCA", "validation_context": {"trusted_ca": file("root.pem")}},
            ],
            "listeners": [virtual_outbound(), outbound_listener(services), inbound_listener()],
            "clusters": clusters,
        },
    })
}

fn tls(kind: &str, peer: Value, alpn: &str) -> Value {
    let mut context = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.{kind}TlsContext"),
        "common_tls_context": {
            "alpn_protocols": [alpn],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [{"name": "default"}],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}]},
                "validation_context_sds_secret_config": {"name": "ROOTCA"},
            },
        },
    });
    if kind == "Downstream" {
        context["require_client_certificate"] = json!(true);
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn http(prefix: &str, routes: Value) -> Value {
    json!({"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": prefix,
            "route_config": routes,
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
            }],
            "use_remote_address": false,
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "normalize_path": true,
        },
    }]})
}

fn original_destination() -> Value {
    json!([{
        "name": "envoy.filters.listener.original_dst",
        "typed_config": {"@type": format!("{TYPES}.filters.listener.original_dst.v3.OriginalDst")},
    }])
}

/// Takes everything that leaves the pod and hands it to the listener of its port.
fn virtual_outbound() -> Value {
    json!({
        "name": "virtualOutbound",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": OUTBOUND_PORT}},
        "use_original_dst": true,
        "listener_filters": original_destination(),
        "filter_chains": [{"filters": [{
            "name": "tcp",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "BlackHoleCluster",
                "cluster": "inbound",
            },
        }]}],
    })
}

/// One virtual host per service, each with Istio's default retries.
fn outbound_listener(services: &[Service]) -> Value {
    let hosts: Vec<Value> = services
        .iter()
        .map(|service| {
            let (name, host) = (&service.name, service.host());
            let names = [&host, name, &format!("{name}.bench"), &format!("{name}.bench.svc"), &service.vip.to_string()];
            let domains: Vec<String> =
                names.into_iter().flat_map(|name| [name.clone(), format!("{name}:{SERVICE_PORT}")]).collect();
            json!({
                "name": format!("{host}:{SERVICE_PORT}"),
                "domains": domains,
                "routes": [{
                    "name": "default",
                    "match": {"prefix": "/"},
                    "route": {
                        "cluster": outbound_name(service),
                        "timeout": "0s",
                        "retry_policy": {
                            "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                            "num_retries": 2,
                            "retriable_status_codes": [503],
                            "retry_host_predicate": [{
                                "name": "envoy.retry_host_predicates.previous_hosts",
                                "typed_config":
                                    {"@type": format!("{TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate")},
                            }],
                            "host_selection_retry_max_attempts": "5",
                        },
                    },
                }],
                "include_request_attempt_count": true,
            })
        })
        .collect();
    json!({
        "name": format!("0.0.0.0_{SERVICE_PORT}"),
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": SERVICE_PORT}},
        "bind_to_port": false,
        "filter_chains": [http("outbound", json!({"name": "80", "virtual_hosts": hosts}))],
    })
}

fn inbound_listener() -> Value {
    let mut chain = http(
        "inbound",
        json!({"name": "inbound", "virtual_hosts": [{
            "name": "inbound|http|80",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "inbound", "timeout": "0s"}}],
        }]}),
    );
    chain["transport_socket"] = tls("Downstream", json!({"prefix": "spiffe://cluster.local/"}), "istio-http/1.1");
    json!({
        "name": "virtualInbound",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": INBOUND_PORT}},
        "listener_filters": original_destination(),
        "filter_chains": [chain],
    })
}

fn outbound_name(service: &Service) -> String {
    format!("outbound|{SERVICE_PORT}||{}", service.host())
}

fn unlimited() -> Value {
    let most = u32::MAX;
    json!({"thresholds": [
        {"max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most},
    ]})
}

fn outbound_cluster(service: &Service) -> Value {
    let endpoints: Vec<Value> = service
        .endpoints
        .iter()
        .map(|ip| {
            json!({"endpoint": {"address": {"socket_address": {"address": ip, "port_value": TARGET_PORT}}},
                   "metadata": {"filter_metadata": {"envoy.transport_socket_match": {"tlsMode": "istio"}}},
                   "load_balancing_weight": 1})
        })
        .collect();
    let identity = format!("spiffe://cluster.local/ns/bench/sa/{}", service.name);
    json!({
        "name": outbound_name(service),
        "type": "STATIC",
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": unlimited(),
        "load_assignment": {"cluster_name": outbound_name(service), "endpoints": [{"lb_endpoints": endpoints}]},
        "transport_socket_matches": [
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"},
             "transport_socket": tls("Upstream", json!({"exact": identity}), "istio-http/1.1")},
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": {
                "name": "envoy.transport_sockets.raw_buffer",
                "typed_config": {"@type": format!("{TYPES}.transport_sockets.raw_buffer.v3.RawBuffer")}}},
        ],
    })
}

fn inbound_cluster() -> Value {
    json!({
        "name": "inbound",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
        "circuit_breakers": unlimited(),
        "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> Service {
        Service { name: name.into(), vip: Ipv4Addr::new(10, 96, 0, 1), endpoints: vec![Ipv4Addr::new(10, 244, 0, 10)] }
    }

    #[test]
    fn every_service_has_a_route_with_retries_and_a_cluster_with_its_identity() {
        let all = configuration(Path::new("/x"), &[service("a"), service("b")]);
        let resources = &all["static_resources"];
        assert_eq!(resources["clusters"].as_array().unwrap().len(), 3);
        let manager = &resources["listeners"][1]["filter_chains"][0]["filters"][0]["typed_config"];
        let hosts = manager["route_config"]["virtual_hosts"].as_array().unwrap();
        assert_eq!(hosts.len(), 2);
        assert_eq!(hosts[1]["routes"][0]["route"]["retry_policy"]["num_retries"], 2);
        assert!(resources["clusters"][1].to_string().contains("spiffe://cluster.local/ns/bench/sa/b"));
    }

    #[test]
    fn an_adapter_is_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Adapter>(text);
        assert_eq!(read(r#"{"name": "x", "command": ["./x", "{directory}"]}"#).unwrap().command.len(), 2);
        assert!(read(r#"{"name": "x", "command": [], "comand": 1}"#).is_err());
    }
}
