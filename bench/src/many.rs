//! Pure. The manifests of a mesh of any size: services, each in a file with the pods that it selects.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Kubernetes namespaces that the services are spread over.
const NAMESPACES: usize = 10;
/// Nodes that the pods are spread over.
const NODES: usize = 100;

/// How large a mesh is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pods, all enrolled.
    pub workloads: usize,
    /// Services, each before its share of the pods.
    pub services: usize,
}

impl Size {
    /// The file of a service: the service with this port, and its pods, the first of which is of this version.
    pub fn file(self, service: usize, port: u16, version: &str) -> String {
        let mut text = service_text(service, port);
        for (index, pod) in (service..self.workloads).step_by(self.services).enumerate() {
            text.push_str(&pod_text(pod, service, if index == 0 { version } else { "v1" }));
        }
        text
    }
}

/// The namespaces, all enrolled.
pub fn namespaces() -> String {
    let one = |number| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n{number}, labels: {{istio.io/dataplane-mode: ambient}}}}\n"
        )
    };
    (0..NAMESPACES).map(one).collect()
}

/// Name of the file of a service.
pub fn file_name(service: usize) -> String {
    format!("s{service}.yaml")
}

/// Address of a pod.
pub fn pod_address(pod: usize) -> IpAddr {
    address(10, pod)
}

/// Virtual address of a service.
pub fn service_address(service: usize) -> IpAddr {
    address(11, service)
}

/// Namespace and host name of a service.
pub fn service_host(service: usize) -> (String, String) {
    let namespace = format!("n{}", service % NAMESPACES);
    let host = format!("s{service}.{namespace}.svc.cluster.local");
    (namespace, host)
}

fn address(first: u8, number: usize) -> IpAddr {
    let part = |size: usize| u8::try_from(number / size % 250).unwrap_or_default();
    Ipv4Addr::new(first, part(62_500), part(250), part(1)).into()
}

fn service_text(service: usize, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{service}, namespace: n{}}}\nspec:\n  clusterIP: {}\n  \
         selector: {{app: a{service}}}\n  ports:\n  - {{name: http, port: {port}, targetPort: web}}\n",
        service % NAMESPACES,
        service_address(service)
    )
}

/// About what `kubectl get -o yaml` prints, without managed fields.
fn pod_text(pod: usize, service: usize, version: &str) -> String {
    let address = pod_address(pod);
    let mut text = String::new();
    let _written = write!(
        text,
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p{pod}-5c4d6f447-xk2lp\n  namespace: n{}\n  labels:\n    \
         app: a{service}\n    version: {version}\n    pod-template-hash: 5c4d6f447\n  \
         creationTimestamp: \"2026-03-01T10:00:00Z\"\n  ownerReferences:\n  - apiVersion: apps/v1\n    controller: true\n    \
         kind: ReplicaSet\n    name: a{service}-5c4d6f447\n    uid: u{pod}\nspec:\n  nodeName: node-{}\n  \
         serviceAccountName: a{service}\n  containers:\n  - name: app\n    image: example.com/app:1\n    ports:\n    \
         - name: web\n      containerPort: 8080\n      protocol: TCP\n    resources: {{}}\n  restartPolicy: Always\n  \
         volumes:\n  - name: tmp\n    emptyDir: {{}}\nstatus:\n  conditions:\n  - type: Ready\n    status: \"True\"\n    \
         lastTransitionTime: \"2026-03-01T10:00:05Z\"\n  hostIP: 192.168.0.2\n  phase: Running\n  podIP: {address}\n  \
         podIPs:\n  - ip: {address}\n",
        service % NAMESPACES,
        pod % NODES
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_stands_in_the_file_of_one_service_and_no_address_is_given_twice() {
        let size = Size { workloads: 23, services: 5 };
        let text: String = (0..5).map(|service| size.file(service, 80, "v2")).collect();
        assert_eq!((text.matches("kind: Pod").count(), text.matches("version: v2").count()), (23, 5));
        let addresses: std::collections::BTreeSet<IpAddr> =
            (0..100_000).map(pod_address).chain((0..10_000).map(service_address)).collect();
        assert_eq!(addresses.len(), 110_000);
    }
}
