//! Pure. The programs of a machine, with their arguments.
//!
//! All paths are those that a program sees inside its machine.

use super::layout::{API_PORT, CONTROL, DNS, ETC, Machine, PODS, PROGRAMS, SERVICES};
use super::template::fill;

use anyhow::Result;

/// The identity in tokens of service accounts.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A program that a machine keeps running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its name, which its file and its log bear too.
    pub(crate) name: &'static str,
    pub(crate) arguments: Vec<String>,
}

impl Service {
    fn new<const N: usize>(name: &'static str, arguments: [&str; N]) -> Self {
        Self { name, arguments: arguments.map(str::to_owned).to_vec() }
    }

    /// Its file inside the machine.
    pub(crate) fn program(&self) -> String {
        format!("{PROGRAMS}/bin/{}", self.name)
    }
}

/// What a machine runs.
pub(crate) fn of(machine: Machine) -> Vec<Service> {
    match machine {
        Machine::Control => vec![etcd(), api_server(), controller_manager(), scheduler()],
        Machine::Node(_) => vec![containerd(), kubelet(machine), kube_proxy()],
    }
}

/// A node's configuration files: where each lies below `/etc/cluster`, and its text.
pub(crate) fn files(machine: Machine, pause: &str) -> Result<Vec<(&'static str, String)>> {
    let Some(subnet) = machine.pods() else { return Ok(Vec::new()) };
    let (name, dns) = (machine.name(), DNS.to_string());
    let containerd = include_str!("../../../tests/cluster/config/containerd.toml");
    let kubelet = include_str!("../../../tests/cluster/config/kubelet.yaml");
    let kube_proxy = include_str!("../../../tests/cluster/config/kube-proxy.yaml");
    let cni = include_str!("../../../tests/cluster/config/cni.conflist");
    Ok(vec![
        ("containerd.toml", fill(containerd, &[("pause", pause)])?),
        ("kubelet.yaml", fill(kubelet, &[("name", &name), ("dns", &dns)])?),
        ("kube-proxy.yaml", fill(kube_proxy, &[("name", &name), ("pods", PODS)])?),
        ("cni.conflist", fill(cni, &[("subnet", &subnet)])?),
    ])
}

/// A kubeconfig for the user whose key and certificate lie in `directory`.
pub(crate) fn kubeconfig(user: &str, directory: &str) -> Result<String> {
    let text = include_str!("../../../tests/cluster/config/kubeconfig.yaml");
    let server = format!("https://{CONTROL}:{API_PORT}");
    fill(text, &[("server", &server), ("user", user), ("directory", directory)])
}

fn etcd() -> Service {
    Service::new(
        "etcd",
        [
            "--data-dir=/var/lib/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            // Nothing of it outlives the cluster, and the disk is shared with builds.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    )
}

fn api_server() -> Service {
    let mut service = Service::new(
        "kube-apiserver",
        [
            "--etcd-servers=http://127.0.0.1:2379",
            "--client-ca-file=/etc/cluster/ca.crt",
            "--tls-cert-file=/etc/cluster/kube-apiserver.crt",
            "--tls-private-key-file=/etc/cluster/kube-apiserver.key",
            "--kubelet-certificate-authority=/etc/cluster/ca.crt",
            "--kubelet-client-certificate=/etc/cluster/kube-apiserver-kubelet-client.crt",
            "--kubelet-client-key=/etc/cluster/kube-apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-key-file=/etc/cluster/service-accounts.key",
            "--service-account-signing-key-file=/etc/cluster/service-accounts.key",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
        ],
    );
    service.arguments.extend([
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--advertise-address={CONTROL}"),
        format!("--secure-port={API_PORT}"),
    ]);
    service
}

fn controller_manager() -> Service {
    let mut service = Service::new(
        "kube-controller-manager",
        [
            "--root-ca-file=/etc/cluster/ca.crt",
            "--cluster-signing-cert-file=/etc/cluster/ca.crt",
            "--cluster-signing-key-file=/etc/cluster/ca.key",
            "--service-account-private-key-file=/etc/cluster/service-accounts.key",
            "--use-service-account-credentials=true",
            // The nodes' routes are laid by hand, so their pods' addresses are given by hand too.
            "--allocate-node-cidrs=false",
            "--node-monitor-period=2s",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ],
    );
    service.arguments.push(config("kubeconfig", "kube-controller-manager.kubeconfig"));
    service.arguments.push(format!("--cluster-cidr={PODS}"));
    service
}

fn scheduler() -> Service {
    let mut service = Service::new("kube-scheduler", ["--bind-address=127.0.0.1", "--leader-elect=false"]);
    service.arguments.push(config("kubeconfig", "kube-scheduler.kubeconfig"));
    service
}

fn containerd() -> Service {
    Service { name: "containerd", arguments: vec![config("config", "containerd.toml")] }
}

fn kubelet(machine: Machine) -> Service {
    Service {
        name: "kubelet",
        arguments: vec![
            config("config", "kubelet.yaml"),
            config("kubeconfig", "kubelet.kubeconfig"),
            format!("--hostname-override={}", machine.name()),
            format!("--node-ip={}", machine.address()),
        ],
    }
}

fn kube_proxy() -> Service {
    Service { name: "kube-proxy", arguments: vec![config("config", "kube-proxy.yaml")] }
}

fn config(flag: &str, file: &str) -> String {
    format!("--{flag}={ETC}/{file}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_configuration_file_of_a_node_names_the_node_and_has_no_hole() {
        let files = files(Machine::Node(2), "pause:1").unwrap();
        let text = |name: &str| &files.iter().find(|(file, _)| *file == name).unwrap().1;
        assert!(text("containerd.toml").contains("sandbox = \"pause:1\""));
        assert!(text("kubelet.yaml").contains("/etc/cluster/node2.crt"));
        assert!(text("kube-proxy.yaml").contains("hostnameOverride: node2"));
        assert!(text("cni.conflist").contains("\"subnet\": \"10.148.2.0/24\""));
        assert_eq!(super::files(Machine::Control, "pause:1").unwrap(), []);
    }

    #[test]
    fn a_node_is_told_its_name_and_address() {
        let kubelet = kubelet(Machine::Node(7)).arguments;
        assert!(kubelet.contains(&"--hostname-override=node7".to_owned()), "{kubelet:?}");
        assert!(kubelet.contains(&"--node-ip=10.147.0.107".to_owned()), "{kubelet:?}");
    }
}
