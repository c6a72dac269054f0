//! Pure. Kubernetes manifests as a user would write them.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

/// Label of the pods and services of a Gateway.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The specification of a pod.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Name, which is also its label `app`.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Index of its node.
    pub node: usize,
    /// Whether it is enrolled.
    pub enrolled: bool,
    /// More labels.
    pub labels: Vec<(String, String)>,
    /// Named container ports.
    pub ports: Vec<(String, u16)>,
}

impl PodSpec {
    /// An enrolled pod on the first node whose service account has its name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            service_account: name.to_owned(),
            node: 0,
            enrolled: true,
            labels: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// On this node instead.
    pub fn on(mut self, node: usize) -> Self {
        self.node = node;
        self
    }

    /// Not enrolled.
    pub fn plain(mut self) -> Self {
        self.enrolled = false;
        self
    }

    /// With this service account.
    pub fn account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// With one more label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With a named port.
    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.ports.push((name.to_owned(), number));
        self
    }

    /// The manifest.
    pub fn yaml(&self, node: &str, netns: &Path, ips: &[IpAddr]) -> String {
        let Self { name, namespace, service_account, .. } = self;
        let mode = if self.enrolled { "ambient" } else { "none" };
        let mut yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  labels:\n    app: {name}\n    \
             istio.io/dataplane-mode: {mode}\n"
        );
        for (key, value) in &self.labels {
            let _ok = writeln!(yaml, "    {key}: {value:?}");
        }
        let _ok = write!(
            yaml,
            "  annotations:\n    culvert.dev/netns: {}\nspec:\n  nodeName: {node}\n  serviceAccountName: {service_account}\n  \
             containers:\n  - name: app\n",
            netns.display()
        );
        if !self.ports.is_empty() {
            yaml.push_str("    ports:\n");
            for (name, number) in &self.ports {
                let _ok = writeln!(yaml, "    - name: {name}\n      containerPort: {number}");
            }
        }
        if let Some(first) = ips.first() {
            let _ok = writeln!(yaml, "status:\n  podIP: {first}\n  podIPs:");
            for ip in ips {
                let _ok = writeln!(yaml, "  - ip: {ip}");
            }
        }
        yaml
    }
}

/// A service: `ports` are `(name, port, target)`; `vips` empty makes it headless.
pub fn service(namespace: &str, name: &str, app: &str, vips: &[&str], ports: &[(&str, u16, &str)]) -> String {
    let mut yaml =
        format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n");
    match vips.first() {
        None => yaml.push_str("  clusterIP: None\n"),
        Some(first) => {
            let _ok = writeln!(yaml, "  clusterIP: {first:?}\n  clusterIPs:");
            for vip in vips {
                let _ok = writeln!(yaml, "  - {vip:?}");
            }
        }
    }
    let _ok = writeln!(yaml, "  selector:\n    app: {app}\n  ports:");
    for (name, port, target) in ports {
        let _ok = writeln!(yaml, "  - name: {name}\n    port: {port}\n    targetPort: {target}");
    }
    yaml
}

/// A namespace with labels.
pub fn namespace(name: &str, labels: &[(&str, &str)]) -> String {
    let mut yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    x: y\n");
    for (key, value) in labels {
        let _ok = writeln!(yaml, "    {key}: {value:?}");
    }
    yaml
}

/// The Gateway of a waypoint. `traffic` is what it is for: `service`, `workload`, `all` or `none`.
pub fn waypoint(namespace: &str, name: &str, traffic: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         labels:\n    istio.io/waypoint-for: {traffic}\nspec:\n  gatewayClassName: culvert-waypoint\n  listeners:\n  \
         - name: mesh\n    port: 15008\n    protocol: HBONE\n"
    )
}

/// A service that names a waypoint. The arguments are those of [`service`].
pub fn service_behind(
    waypoint: &str,
    namespace: &str,
    name: &str,
    app: &str,
    vips: &[&str],
    ports: &[(&str, u16, &str)],
) -> String {
    let yaml = service(namespace, name, app, vips, ports);
    yaml.replacen("\nspec:", &format!("\n  labels:\n    istio.io/use-waypoint: {waypoint}\nspec:"), 1)
}

/// A PeerAuthentication. `app` empty: for the whole namespace. `ports` are `(port, mode)`.
pub fn peer_authentication(namespace: &str, name: &str, app: &str, mode: &str, ports: &[(u16, &str)]) -> String {
    let mut yaml = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n"
    );
    if !app.is_empty() {
        let _ok = writeln!(yaml, "  selector:\n    matchLabels:\n      app: {app}");
    }
    let _ok = writeln!(yaml, "  mtls:\n    mode: {mode}");
    if !ports.is_empty() {
        yaml.push_str("  portLevelMtls:\n");
        for (port, mode) in ports {
            let _ok = writeln!(yaml, "    {port}:\n      mode: {mode}");
        }
    }
    yaml
}

/// An AuthorizationPolicy that allows everybody, on a waypoint (kind `Gateway`) or a service behind one (kind
/// `Service`): with it, the waypoint cannot be bypassed.
pub fn guard(namespace: &str, kind: &str, name: &str) -> String {
    let group = if kind == "Gateway" { "gateway.networking.k8s.io" } else { "\"\"" };
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: guard\n  namespace: {namespace}\nspec:\n  \
         targetRefs:\n  - group: {group}\n    kind: {kind}\n    name: {name}\n  rules:\n  - {{}}\n"
    )
}

/// An AuthorizationPolicy. `rules` is YAML of the list, indented by two; empty for none at all.
pub fn authorization(namespace: &str, name: &str, app: &str, action: &str, rules: &str) -> String {
    let mut yaml = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n"
    );
    if !app.is_empty() {
        let _ok = writeln!(yaml, "  selector:\n    matchLabels:\n      app: {app}");
    }
    let _ok = writeln!(yaml, "  action: {action}");
    if !rules.is_empty() {
        let _ok = writeln!(yaml, "  rules:\n{}", rules.trim_end());
    }
    yaml
}
