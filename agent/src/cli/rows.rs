//! Pure. The parts of a dump as tables, in the columns that users of istioctl know.

use crate::view::{CaptureState, CaptureView, CertificateView, ConnectionView, ProblemView};
use mesh::model::connection::Direction;
use process::admin::dump::{PolicyView, ServiceView, WaypointView, WorkloadView};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::command::Noun;
use super::table::Table;

/// Lays out one part. Fails when the agent speaks another version of it.
pub(crate) fn table(noun: Noun, items: Vec<Value>, wide: bool) -> Result<String, serde_json::Error> {
    let table = match noun {
        Noun::Workloads => workloads(&read(items)?, wide),
        Noun::Services => services(&read(items)?, wide),
        Noun::Policies => policies(&read(items)?, wide),
        Noun::Certificates => certificates(&read(items)?),
        Noun::Connections => connections(&read(items)?, wide),
        Noun::Captures => captures(&read(items)?, wide),
        Noun::Problems => problems(&read(items)?),
        Noun::Routes => routes(&items),
    };
    Ok(table.render(noun.name()))
}

fn read<T: DeserializeOwned>(items: Vec<Value>) -> Result<Vec<T>, serde_json::Error> {
    serde_json::from_value(Value::Array(items))
}

/// Whether `item` belongs to `namespace`. A connection does when either end does.
pub(crate) fn belongs(noun: Noun, item: &Value, namespace: &str) -> bool {
    let is = |field: &str| item.get(field).and_then(Value::as_str) == Some(namespace);
    match noun {
        Noun::Connections => is("sourceNamespace") || is("destinationNamespace"),
        Noun::Certificates => {
            let identity = item.get("identity").and_then(Value::as_str).unwrap_or_default();
            identity.contains(&format!("/ns/{namespace}/sa/"))
        }
        // `Kind <namespace>/<name>`; a whole file has no namespace and always counts.
        Noun::Problems => match item.get("object").and_then(Value::as_str) {
            Some(object) => object.split_once(' ').is_some_and(|(_, name)| name.starts_with(&format!("{namespace}/"))),
            None => true,
        },
        Noun::Workloads | Noun::Services | Noun::Policies | Noun::Captures | Noun::Routes => is("namespace"),
    }
}

/// The columns of both kinds of table.
fn columns(wide: bool, always: &[&'static str], more: &[&'static str]) -> Table {
    Table::new(&if wide { [always, more].concat() } else { always.to_vec() })
}

fn workloads(all: &[WorkloadView], wide: bool) -> Table {
    let mut table = columns(
        wide,
        &["NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"],
        &["STATUS", "SERVICE ACCOUNT", "WORKLOAD", "CLUSTER", "NETWORK", "SERVICES"],
    );
    for w in all {
        let always = [
            w.namespace.clone(),
            w.name.clone(),
            w.workload_ips.join(","),
            w.node.clone(),
            waypoint(w.waypoint.as_ref()),
            w.protocol.clone(),
        ];
        let more = [
            w.status.clone(),
            w.service_account.clone(),
            format!("{}/{}", w.workload_type, w.workload_name),
            w.cluster_id.clone(),
            w.network.clone(),
            w.services.join(","),
        ];
        table.row(always.into_iter().chain(wide.then_some(more).into_iter().flatten()));
    }
    table
}

fn waypoint(waypoint: Option<&WaypointView>) -> String {
    match waypoint {
        None => "None".to_owned(),
        Some(w) if w.destination.is_none() => format!("{} (not ready)", w.gateway),
        Some(w) => w.gateway.clone(),
    }
}

/// Whether calls past the waypoint are admitted, and why.
fn past(waypoint: &WaypointView) -> String {
    format!("{}: {}", if waypoint.closed { "closed" } else { "open" }, waypoint.enforcement)
}

fn services(all: &[ServiceView], wide: bool) -> Table {
    let mut table = columns(
        wide,
        &["NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"],
        &["PORTS", "HOSTNAME", "LOAD BALANCING", "PAST THE WAYPOINT"],
    );
    for s in all {
        let ready = s.endpoints.values().filter(|endpoint| endpoint.status == "Healthy").count();
        // `<network>/<address>`: the network is nearly always empty, and then only the address is shown.
        let vips = s.vips.iter().chain(&s.cidr_vips).map(|vip| vip.strip_prefix('/').unwrap_or(vip));
        let always = [
            s.namespace.clone(),
            s.name.clone(),
            vips.collect::<Vec<_>>().join(","),
            waypoint(s.waypoint.as_ref()),
            format!("{ready}/{}", s.endpoints.len()),
        ];
        let port = |(&port, &target): (&u16, &u16)| match target {
            0 => format!("{port}:(named)"),
            _ => format!("{port}:{target}"),
        };
        let balancing = |b: &process::admin::dump::LoadBalancerView| {
            format!("{} {}", b.mode, b.routing_preferences.join(",")).trim().to_owned()
        };
        let more = [
            s.ports.iter().map(port).collect::<Vec<_>>().join(","),
            s.hostname.clone(),
            s.load_balancer.as_ref().map(balancing).unwrap_or_default(),
            s.waypoint.as_ref().map(past).unwrap_or_default(),
        ];
        table.row(always.into_iter().chain(wide.then_some(more).into_iter().flatten()));
    }
    table
}

fn policies(all: &[PolicyView], wide: bool) -> Table {
    let mut table = columns(wide, &["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"], &["RULES", "DRY RUN"]);
    for p in all {
        let always = [p.namespace.clone(), p.name.clone(), p.action.clone(), p.scope.clone()];
        let more = [p.rules.len().to_string(), p.dry_run.to_string()];
        table.row(always.into_iter().chain(wide.then_some(more).into_iter().flatten()));
    }
    table
}

fn certificates(all: &[CertificateView]) -> Table {
    let header = ["CERTIFICATE NAME", "TYPE", "STATUS", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"];
    let mut table = Table::new(&header);
    for c in all {
        let chain = c.cert_chain.iter().enumerate();
        let of_chain = chain.map(|(at, info)| (if at == 0 { "Leaf" } else { "Intermediate" }, info));
        let mut shown = false;
        for (kind, info) in of_chain.chain(c.root_certs.iter().map(|info| ("Root", info))) {
            table.row([
                c.identity.clone(),
                kind.to_owned(),
                c.state.clone(),
                info.serial_number.clone(),
                info.expiration_time.clone(),
                info.valid_from.clone(),
            ]);
            shown = true;
        }
        if !shown {
            let nothing = String::new;
            table.row([c.identity.clone(), "Leaf".to_owned(), c.state.clone(), nothing(), nothing(), nothing()]);
        }
    }
    table
}

fn connections(all: &[ConnectionView], wide: bool) -> Table {
    let mut table = columns(
        wide,
        &["WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL"],
        &["PEER", "PEER IDENTITY", "VIA", "SERVICE", "SENT", "RECEIVED", "AGE"],
    );
    for c in all {
        let source = full_name(c.source_workload.as_deref(), c.source_namespace.as_deref());
        let destination = full_name(c.destination_workload.as_deref(), c.destination_namespace.as_deref());
        let connected = c.actual_destination.unwrap_or(c.original_destination).to_string();
        let (own, peer, peer_identity, local, remote, word) = match c.direction {
            Direction::Outbound => {
                (source, destination, &c.destination_identity, c.source.to_string(), connected, "Outbound")
            }
            Direction::Inbound => (destination, source, &c.source_identity, connected, c.source.to_string(), "Inbound"),
        };
        let target = c.original_destination.to_string();
        let always = [own, word.to_owned(), local, remote, target, c.protocol.clone()];
        let more = [
            peer,
            peer_identity.clone().unwrap_or_default(),
            c.source_via.clone().unwrap_or_default(),
            c.service.clone().unwrap_or_default(),
            c.bytes_sent.to_string(),
            c.bytes_received.to_string(),
            age(c.age_ms),
        ];
        table.row(always.into_iter().chain(wide.then_some(more).into_iter().flatten()));
    }
    table
}

/// `<name>.<namespace>`.
fn full_name(name: Option<&str>, namespace: Option<&str>) -> String {
    match (name, namespace) {
        (Some(name), Some(namespace)) => format!("{name}.{namespace}"),
        (name, _) => name.unwrap_or_default().to_owned(),
    }
}

fn captures(all: &[CaptureView], wide: bool) -> Table {
    let mut table = columns(
        wide,
        &["NAMESPACE", "POD NAME", "STATE", "PLAINTEXT", "IDENTITY", "REASON"],
        &["NETNS", "ID", "COOKIE"],
    );
    for c in all {
        let state = match c.state {
            CaptureState::Pending => "Pending",
            CaptureState::Captured => "Captured",
            CaptureState::Releasing => "Releasing",
            CaptureState::Failed => "Failed",
            CaptureState::Closed => "Closed",
        };
        let plaintext = c.plaintext.iter().chain(&c.plaintext_ports).cloned().collect::<Vec<_>>().join(",");
        let always = [
            c.namespace.clone(),
            c.name.clone(),
            state.to_owned(),
            plaintext,
            c.identity.clone(),
            c.error.clone().unwrap_or_default(),
        ];
        let text = |number: Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
        let more = [c.netns.clone(), text(c.id.map(u64::from)), text(c.netns_cookie)];
        table.row(always.into_iter().chain(wide.then_some(more).into_iter().flatten()));
    }
    table
}

fn problems(all: &[ProblemView]) -> Table {
    let mut table = Table::new(&["SEVERITY", "AT", "OBJECT", "FIELD", "PROBLEM"]);
    for p in all {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        table.row([p.severity.clone(), p.at(), text(&p.object), text(&p.field), p.message.clone()]);
    }
    table
}

/// Routes come from waypoints and have several kinds: only what all kinds have is shown.
fn routes(all: &[Value]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "KIND", "HOSTNAMES"]);
    for route in all {
        let text = |field: &str| match route.get(field) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            _ => String::new(),
        };
        table.row([text("namespace"), text("name"), text("kind"), text("hostnames")]);
    }
    table
}

/// Two units at most: `850ms`, `12s`, `3m4s`, `5h6m`, `7d8h`.
fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes, seconds) {
        (0, 0, 0, 0) => format!("{milliseconds}ms"),
        (0, 0, 0, _) => format!("{seconds}s"),
        (0, 0, _, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use mesh::model::workload::Workload;
    use serde_json::json;

    use super::*;

    fn lines(noun: Noun, items: Value, wide: bool) -> Vec<String> {
        let Value::Array(items) = items else { panic!("{items}") };
        table(noun, items, wide).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn workloads_have_the_columns_of_istioctl() {
        let mut shop =
            Workload::sample("shop-1", "default", &["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        shop.node = "worker".into();
        let items = json!([WorkloadView::from(&shop)]);
        assert_eq!(
            lines(Noun::Workloads, items.clone(), false),
            [
                "NAMESPACE  POD NAME  ADDRESS           NODE    WAYPOINT  PROTOCOL",
                "default    shop-1    10.0.0.2,fd00::2  worker  None      HBONE",
            ]
        );
        let wide = lines(Noun::Workloads, items, true);
        assert!(
            wide[1].ends_with("HBONE     Healthy  default          pod/shop-1  Kubernetes  -        -"),
            "{wide:?}"
        );
    }

    #[test]
    fn services_show_how_many_endpoints_are_ready() {
        let endpoint =
            |status: &str| json!({"workloadUid": "u", "service": "s", "port": {"80": 8080}, "status": status});
        let items = json!([{
            "name": "shop", "namespace": "default", "hostname": "shop.default.svc.cluster.local",
            "vips": ["/10.96.0.10"], "ports": {"80": 8080, "90": 0}, "subjectAltNames": [], "canonical": true,
            "waypoint": {"gateway": "default/gate", "hboneMtlsPort": 15008},
            "endpoints": {"a": endpoint("Healthy"), "b": endpoint("Healthy"), "c": endpoint("Unhealthy")},
        }]);
        assert_eq!(
            lines(Noun::Services, items.clone(), false),
            [
                "NAMESPACE  SERVICE NAME  SERVICE VIP  WAYPOINT                  ENDPOINTS",
                "default    shop          10.96.0.10   default/gate (not ready)  2/3",
            ]
        );
        assert!(lines(Noun::Services, items, true)[1].contains("80:8080,90:(named)"));
    }

    #[test]
    fn a_connection_is_told_from_the_workload_on_our_side() {
        let of = |direction: &str| {
            json!({
                "id": 1, "direction": direction, "workloadUid": "u", "source": "10.0.0.1:40000",
                "sourceWorkload": "client", "sourceNamespace": "default", "sourceIdentity": "spiffe://td/ns/default/sa/c",
                "originalDestination": "10.96.0.10:80", "actualDestination": "10.0.0.2:15008",
                "destinationWorkload": "shop", "destinationNamespace": "prod", "protocol": "HBONE",
                "bytesSent": 1, "bytesReceived": 2, "ageMs": 184_000,
            })
        };
        let mut behind = of("inbound");
        behind["sourceVia"] = json!("spiffe://td/ns/default/sa/wp");
        let table = lines(Noun::Connections, json!([of("outbound"), of("inbound"), behind]), true);
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(
            cells(&table[1]),
            "client.default Outbound 10.0.0.1:40000 10.0.0.2:15008 10.96.0.10:80 HBONE shop.prod - - - 1 2 3m4s"
        );
        assert_eq!(
            cells(&table[2]),
            "shop.prod Inbound 10.0.0.2:15008 10.0.0.1:40000 10.96.0.10:80 HBONE client.default spiffe://td/ns/default/sa/c - - 1 2 3m4s"
        );
        assert!(table[3].contains("spiffe://td/ns/default/sa/c  spiffe://td/ns/default/sa/wp  -"), "{}", table[3]);
        for (namespace, belongs_there) in [("default", true), ("prod", true), ("other", false)] {
            assert_eq!(belongs(Noun::Connections, &of("inbound"), namespace), belongs_there, "{namespace}");
        }
    }

    #[test]
    fn every_certificate_of_an_identity_has_a_row() {
        let info = |serial: &str| json!({"pem": "", "serialNumber": serial, "validFrom": "2026-01-01T00:00:00Z", "expirationTime": "2026-01-02T00:00:00Z"});
        let items = json!([
            {"identity": "spiffe://td/ns/default/sa/a", "state": "Available", "certChain": [info("1")], "rootCerts": [info("9")]},
            {"identity": "spiffe://td/ns/default/sa/b", "state": "Initializing", "certChain": [], "rootCerts": []},
        ]);
        let table = lines(Noun::Certificates, items.clone(), false);
        assert_eq!(table.len(), 4, "{table:?}");
        assert!(table[2].contains("Root  Available"), "{table:?}");
        assert!(table[3].contains("Leaf  Initializing"), "{table:?}");
        assert!(belongs(Noun::Certificates, &items[0], "default") && !belongs(Noun::Certificates, &items[0], "def"));
    }

    #[test]
    fn a_capture_that_failed_says_why() {
        let items = json!([{
            "workloadUid": "u", "name": "web", "namespace": "default", "identity": "spiffe://td/ns/default/sa/web",
            "netns": "/run/netns/web", "state": "failed", "error": "no such file",
        }]);
        assert_eq!(
            lines(Noun::Captures, items, false)[1],
            "default    web       Failed  -          spiffe://td/ns/default/sa/web  no such file"
        );
    }

    #[test]
    fn a_problem_says_where_it_is() {
        let of_object = json!({"severity": "error", "file": "m/shop.yaml", "line": 7, "object": "Service default/shop",
            "field": "spec.ports[0].port", "message": "70000 must be a number from 1 to 65535"});
        let of_file = json!({"severity": "warning", "file": "m/old.yaml", "line": 0, "message": "it is empty"});
        let table = lines(Noun::Problems, json!([of_object, of_file]), false);
        assert_eq!(
            table[1],
            "error     m/shop.yaml:7  Service default/shop  spec.ports[0].port  70000 must be a number from 1 to 65535"
        );
        assert_eq!(table[2], "warning   m/old.yaml     -                     -                   it is empty");
        for (namespace, expected) in [("default", true), ("def", false), ("prod", false)] {
            assert_eq!(belongs(Noun::Problems, &of_object, namespace), expected, "{namespace}");
            assert!(belongs(Noun::Problems, &of_file, namespace));
        }
    }

    #[test]
    fn another_version_is_an_error_and_not_an_empty_table() {
        assert!(table(Noun::Workloads, vec![json!({"uid": 7})], false).is_err());
    }

    #[test]
    fn ages_have_two_units_at_most() {
        for (milliseconds, text) in
            [(850, "850ms"), (12_999, "12s"), (184_000, "3m4s"), (18_360_000, "5h6m"), (633_600_000, "7d8h")]
        {
            assert_eq!(age(milliseconds), text);
        }
    }
}
