//! Envoy as a sidecar of one pod: mTLS in and out, connections carried as TCP.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::{Value, json};

use crate::rules::{INBOUND_PORT, OUTBOUND_PORT, SIDECAR_GROUP};
use harness::process::{Place, Process};

/// Names of the types in a configuration.
const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Where the Envoy binary is: `CULVERT_ENVOY`, which `cargo xtask` sets.
pub fn binary() -> Result<PathBuf> {
    let path =
        std::env::var_os("CULVERT_ENVOY").context("CULVERT_ENVOY is not set; run this through `cargo xtask bench`")?;
    let path = PathBuf::from(path);
    ensure!(path.exists(), "{} does not exist", path.display());
    Ok(path)
}

/// Copies a program into a directory. Processes of one file share its pages, and each is charged only part of them:
/// other processes on the machine must not change what is measured.
pub fn copy(program: &Path, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let copied = directory.join(program.file_name().with_context(|| format!("{} is no file", program.display()))?);
    if !copied.exists() {
        fs::copy(program, &copied).with_context(|| format!("copying {}", program.display()))?;
    }
    Ok(copied)
}

/// A CA that signs for the sidecars of one run.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a root with a P-256 key.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        // A leaf with the name of its issuer would pass for self-signed.
        params.distinguished_name.push(DnType::CommonName, "bench root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Writes root, chain and key for one identity into a directory.
    pub fn issue(&self, identity: &str, directory: &Path) -> Result<()> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        fs::create_dir_all(directory)?;
        fs::write(directory.join("root.pem"), &self.certificate)?;
        fs::write(directory.join("chain.pem"), leaf.pem())?;
        fs::write(directory.join("key.pem"), key.serialize_pem())?;
        Ok(())
    }
}

/// Starts the sidecar of a pod, to which the pod's iptables rules redirect traffic (`rules::sidecar`).
pub fn start(pod: &Place, name: &str, authority: &Authority, directory: &Path) -> Result<Process> {
    authority.issue(&format!("spiffe://cluster.local/ns/bench/sa/{name}"), directory)?;
    let file = directory.join("envoy.json");
    fs::write(&file, serde_json::to_vec_pretty(&configuration(directory))?)?;
    // The rules exempt its own connections by this group, as in Istio.
    let mut command = pod.command("setpriv")?;
    command.args([&format!("--regid={SIDECAR_GROUP}"), "--clear-groups", "--"]).arg(binary()?);
    command.args(["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning", "-c"]).arg(&file);
    Process::logging(pod, command, &directory.join("envoy.log"))
}

/// Both listeners with original-destination clusters.
fn configuration(directory: &Path) -> Value {
    let file = |name: &str| json!({"filename": directory.join(name)});
    let tls = json!({
        "tls_certificates": [{"certificate_chain": file("chain.pem"), "private_key": file("key.pem")}],
        "validation_context": {
            "trusted_ca": file("root.pem"),
            "match_typed_subject_alt_names":
                [{"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/ns/bench/sa/"}}],
        },
    });
    let mut inbound = listener("inbound", INBOUND_PORT);
    inbound["filter_chains"][0]["transport_socket"] = json!({
        "name": "tls",
        "typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": tls,
        },
    });
    let mut to_application = cluster("inbound");
    to_application["upstream_bind_config"] = json!({"source_address": {"address": "127.0.0.6", "port_value": 0}});
    let mut to_peer = cluster("outbound");
    to_peer["transport_socket"] = json!({
        "name": "tls",
        "typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
            "common_tls_context": tls,
        },
    });
    json!({"static_resources": {
        "listeners": [listener("outbound", OUTBOUND_PORT), inbound],
        "clusters": [to_peer, to_application],
    }})
}

fn listener(name: &str, port: u16) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "listener_filters": [{
            "name": "original_dst",
            "typed_config": {"@type": format!("{TYPES}.filters.listener.original_dst.v3.OriginalDst")},
        }],
        "filter_chains": [{"filters": [{
            "name": "tcp",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": name,
                "cluster": name,
            },
        }]}],
    })
}

fn cluster(name: &str) -> Value {
    json!({
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
        // The default limit of 1024 would refuse the idle connections; Istio raises it too.
        "circuit_breakers": {"thresholds": [
            {"max_connections": u32::MAX, "max_pending_requests": u32::MAX, "max_requests": u32::MAX},
        ]},
    })
}
