//! The cluster's keys, certificates and kubeconfigs, made anew for each cluster and gone with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::enter::quiet;
use super::layout::{API, CONTROL, ETC, Machine, STATE};
use super::services;
use super::state::kubeconfig;
use crate::programs::command;

/// What openssl takes its defaults from, in place of the distribution's file.
const CONFIG: &str = "[req]\ndistinguished_name = name\nx509_extensions = none\n[name]\n[none]\n";
/// Days that a certificate is valid.
const DAYS: &str = "30";

/// A certificate to be made.
struct Wanted {
    /// The name of its files.
    name: String,
    /// Group and user, which are what Kubernetes knows its holder by.
    subject: String,
    /// Names and addresses that its holder serves under.
    serves: Vec<String>,
}

impl Wanted {
    fn client(name: &str, subject: &str) -> Self {
        Self { name: name.to_owned(), subject: subject.to_owned(), serves: Vec::new() }
    }
}

/// Makes all of it: every machine finds its own in `/etc/cluster`, the administrator's kubeconfig lies in the cluster's
/// directory.
pub(crate) fn make(machines: &[Machine]) -> Result<()> {
    let all = Path::new(STATE).join("pki");
    fs::create_dir_all(&all).with_context(|| format!("making {}", all.display()))?;
    fs::set_permissions(STATE, fs::Permissions::from_mode(0o700))?;
    fs::write(all.join("openssl.cnf"), CONFIG)?;
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let mut authority = request(&all, "ca", "/CN=culvert-cluster")?;
    authority.args(key).args(["-addext", "basicConstraints=critical,CA:TRUE"]);
    quiet(authority.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]))?;
    let accounts = all.join("service-accounts.key");
    quiet(
        command("openssl")?
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
            .arg(accounts),
    )?;
    let wanted = wanted(machines);
    for one in &wanted {
        let mut leaf = request(&all, &one.name, &one.subject)?;
        leaf.arg("-CA").arg(all.join("ca.crt")).arg("-CAkey").arg(all.join("ca.key")).args(key);
        leaf.args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=critical,digitalSignature"]);
        if one.serves.is_empty() {
            leaf.args(["-addext", "extendedKeyUsage=clientAuth"]);
        } else {
            leaf.args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"]);
            leaf.arg("-addext").arg(format!("subjectAltName={}", one.serves.join(",")));
        }
        quiet(&mut leaf)?;
    }
    for machine in machines {
        hand_out(*machine, &all)?;
    }
    write(&kubeconfig(), &services::kubeconfig("admin", &all.display().to_string())?)
}

/// A self-signed certificate, unless more is said.
fn request(directory: &Path, name: &str, subject: &str) -> Result<std::process::Command> {
    let file = |ending: &str| directory.join(format!("{name}.{ending}"));
    let mut openssl = command("openssl")?;
    openssl.args(["req", "-x509", "-nodes", "-sha256", "-days", DAYS, "-subj", subject, "-config"]);
    openssl.arg(directory.join("openssl.cnf")).arg("-keyout").arg(file("key")).arg("-out").arg(file("crt"));
    Ok(openssl)
}

fn wanted(machines: &[Machine]) -> Vec<Wanted> {
    let api_names =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let api_addresses = [API.to_string(), CONTROL.to_string(), "127.0.0.1".to_owned()];
    let names = api_names.iter().map(|name| format!("DNS:{name}"));
    let serves = names.chain(api_addresses.iter().map(|address| format!("IP:{address}"))).collect();
    let mut wanted = vec![
        Wanted { name: "kube-apiserver".to_owned(), subject: "/CN=kube-apiserver".to_owned(), serves },
        Wanted::client("kube-apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
        Wanted::client("admin", "/O=system:masters/CN=admin"),
        Wanted::client("kube-controller-manager", "/CN=system:kube-controller-manager"),
        Wanted::client("kube-scheduler", "/CN=system:kube-scheduler"),
        Wanted::client("kube-proxy", "/CN=system:kube-proxy"),
    ];
    for machine in machines.iter().filter(|machine| **machine != Machine::Control) {
        let (name, address) = (machine.name(), machine.address());
        let subject = format!("/O=system:nodes/CN=system:node:{name}");
        let serves = vec![format!("DNS:{name}"), format!("IP:{address}")];
        wanted.push(Wanted { name, subject, serves });
    }
    wanted
}

/// Copies to a machine what it needs and nothing else: a node has no key of another.
fn hand_out(machine: Machine, all: &Path) -> Result<()> {
    let etc = machine.directory().join("etc");
    fs::create_dir_all(&etc).with_context(|| format!("making {}", etc.display()))?;
    let node = machine.name();
    let (pairs, users): (Vec<&str>, Vec<(&str, &str)>) = match machine {
        Machine::Control => (
            vec!["ca", "kube-apiserver", "kube-apiserver-kubelet-client", "kube-controller-manager", "kube-scheduler"],
            vec![("kube-controller-manager", "kube-controller-manager"), ("kube-scheduler", "kube-scheduler")],
        ),
        Machine::Node(_) => (vec![&node, "kube-proxy"], vec![("kubelet", &node), ("kube-proxy", "kube-proxy")]),
    };
    let mut files: Vec<PathBuf> =
        pairs.iter().flat_map(|name| [all.join(format!("{name}.crt")), all.join(format!("{name}.key"))]).collect();
    files.push(all.join("ca.crt"));
    if machine == Machine::Control {
        files.push(all.join("service-accounts.key"));
    }
    for file in files {
        let target = etc.join(file.file_name().unwrap_or_default());
        fs::copy(&file, &target).with_context(|| format!("copying {} to {}", file.display(), target.display()))?;
    }
    for (program, user) in users {
        write(&etc.join(format!("{program}.kubeconfig")), &services::kubeconfig(user, ETC)?)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).with_context(|| format!("closing {}", file.display()))
}
