//! Pure. The same services and routes for both waypoints: as manifests, and as Envoy's configuration.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde_json::{Value, json};

use crate::hbone::VERSION;

/// Names of the types in a configuration.
const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// Routes of one service, and of one HTTPRoute.
const PER_SERVICE: usize = 100;
const PER_OBJECT: usize = 10;
/// Port of the services and of the endpoints.
pub const SERVICE_PORT: u16 = 80;
pub const TARGET_PORT: u16 = 8080;
/// Retries of both: how many and on what.
const ATTEMPTS: u32 = 2;
const CODE: u16 = 503;

/// What both waypoints are given: so many routes, to endpoints at these addresses.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Routes beside the one that every request of the bench takes.
    pub routes: usize,
    /// Endpoints of every service.
    pub endpoints: Vec<Ipv4Addr>,
}

impl Setup {
    /// Services: one, and more when there are many routes.
    pub fn services(&self) -> usize {
        self.routes.div_ceil(PER_SERVICE).max(1)
    }

    /// Virtual address of a service.
    pub fn vip(service: usize) -> SocketAddr {
        SocketAddr::from(([10, 96, (service / 250) as u8, (service % 250) as u8 + 1], SERVICE_PORT))
    }

    /// Host of a service.
    pub fn host(service: usize) -> String {
        format!("shop-{service}.bench.svc.cluster.local")
    }

    fn of_service(&self, service: usize) -> std::ops::Range<usize> {
        service * PER_SERVICE..self.routes.min((service + 1) * PER_SERVICE)
    }

    /// Everything but the route whose version changes.
    pub fn manifests(&self, waypoint: Ipv4Addr, client: Ipv4Addr) -> String {
        let mut yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: bench, labels: {{istio.io/use-waypoint: waypoint}}}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: waypoint, namespace: bench}}\n\
             spec: {{gatewayClassName: culvert-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n---\n\
             apiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: bench, namespace: culvert-system}}\n\
             spec: {{loadBalancing: {{algorithm: leastRequest}}, retry: {{attempts: {ATTEMPTS}, codes: [{CODE}]}}}}\n"
        );
        pod(&mut yaml, "client", "client", "ambient", client);
        pod(&mut yaml, "waypoint", "waypoint", "none", waypoint);
        for (number, ip) in self.endpoints.iter().enumerate() {
            pod(&mut yaml, &format!("shop-{number}"), "shop", "ambient", *ip);
        }
        for service in 0..self.services() {
            let _ok = write!(
                yaml,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: shop-{service}, namespace: bench}}\n\
                 spec: {{clusterIP: {}, selector: {{app: shop}}, ports: [{{name: http, port: {SERVICE_PORT}, targetPort: {TARGET_PORT}}}]}}\n",
                Self::vip(service).ip()
            );
            let routes: Vec<usize> = self.of_service(service).collect();
            for (number, some) in routes.chunks(PER_OBJECT).enumerate() {
                let rules: Vec<String> = some
                    .iter()
                    .map(|route| {
                        format!(
                            "{{matches: [{{path: {{type: Exact, value: /r/{route}}}}}], \
                             backendRefs: [{{name: shop-{service}, port: {SERVICE_PORT}}}]}}"
                        )
                    })
                    .collect();
                http_route(&mut yaml, &format!("shop-{service}-{number}"), service, &rules.join(", "));
            }
        }
        yaml
    }

    /// The routes that requests of the bench take; their answers carry a version. One for each service that has routes.
    pub fn versioned(&self, version: usize) -> String {
        let mut yaml = String::new();
        for service in 0..self.services() {
            let rule = format!(
                "{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: {VERSION}, value: '{version}'}}]}}}}], \
                 backendRefs: [{{name: shop-{service}, port: {SERVICE_PORT}}}]}}"
            );
            http_route(&mut yaml, &format!("default-{service}"), service, &rule);
        }
        yaml
    }

    /// What Envoy reads its routes from, and reads again when the file is replaced.
    pub fn envoy_routes(&self, version: usize) -> Value {
        let hosts: Vec<Value> = (0..self.services())
            .map(|service| {
                let mut routes: Vec<Value> = self
                    .of_service(service)
                    .map(|route| json!({"match": {"path": format!("/r/{route}")}, "route": action(service)}))
                    .collect();
                routes.push(json!({
                    "match": {"prefix": "/"},
                    "route": action(service),
                    "response_headers_to_add": [{
                        "header": {"key": VERSION, "value": version.to_string()},
                        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                    }],
                }));
                let host = Self::host(service);
                json!({"name": host, "domains": [host, format!("{host}:{SERVICE_PORT}")], "routes": routes})
            })
            .collect();
        json!({"version_info": version.to_string(), "resources": [{
            "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            "name": "inner",
            "virtual_hosts": hosts,
        }]})
    }

    /// Envoy as Istio makes a waypoint of it: tunnels end in one listener, HTTP is routed in a second, which is
    /// internal, and a third, internal too, puts what leaves into tunnels.
    pub fn envoy(&self, at: SocketAddr, routes: &Path, certificates: &Path, endpoint: &str) -> Value {
        let file = |name: &str| json!({"filename": certificates.join(name)});
        let tls = |kind: &str, peer: Value| {
            let mut context = json!({
                "@type": format!("{TYPES}.transport_sockets.tls.v3.{kind}TlsContext"),
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                    "tls_certificates": [{"certificate_chain": file("chain.pem"), "private_key": file("key.pem")}],
                    "validation_context": {
                        "trusted_ca": file("root.pem"),
                        "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}],
                    },
                },
            });
            if kind == "Downstream" {
                context["require_client_certificate"] = json!(true);
            }
            json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
        };
        let mut clusters: Vec<Value> = (0..self.services()).map(|service| self.cluster(service)).collect();
        clusters.push(json!({
            "name": "inner",
            "type": "STATIC",
            "circuit_breakers": unlimited(),
            "load_assignment": {"cluster_name": "inner", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": "inner"}}}},
            ]}]},
        }));
        clusters.push(json!({
            "name": "outgoing",
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "5s",
            "circuit_breakers": unlimited(),
            "original_dst_lb_config": {"upstream_port_override": 15008},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
            "transport_socket": tls("Upstream", json!({"exact": endpoint})),
        }));
        json!({
            "node": {"id": "bench", "cluster": "bench"},
            "bootstrap_extensions": [{
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {"@type": format!("{TYPES}.bootstrap.internal_listener.v3.InternalListener")},
            }],
            // As Istio's: no more statistics than these.
            "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [
                {"prefix": "server"}, {"prefix": "cluster_manager"}, {"prefix": "listener_manager"},
            ]}}},
            "static_resources": {
                "listeners": [
                    {
                        "name": "terminate",
                        "address": {"socket_address": {"address": at.ip(), "port_value": at.port()}},
                        // A tunnel is one connection: without this one worker may get all of them.
                        "connection_balance_config": {"exact_balance": {}},
                        "filter_chains": [{
                            "transport_socket": tls("Downstream", json!({"prefix": "spiffe://cluster.local/ns/bench/sa/"})),
                            "filters": [terminate()],
                        }],
                    },
                    {"name": "inner", "internal_listener": {}, "filter_chains": [{"filters": [inner(routes)]}]},
                    originate(),
                ],
                "clusters": clusters,
            },
        })
    }

    fn cluster(&self, service: usize) -> Value {
        let endpoints: Vec<Value> = self
            .endpoints
            .iter()
            .map(|ip| {
                let address = format!("{ip}:{TARGET_PORT}");
                json!({
                    "endpoint": {"address": {"envoy_internal_address":
                        {"server_listener_name": "originate", "endpoint_id": address}}},
                    "metadata": {"filter_metadata": {"envoy.filters.listener.original_dst": {"local": address}}},
                })
            })
            .collect();
        let name = format!("shop-{service}");
        json!({
            "name": name,
            "type": "STATIC",
            "lb_policy": "LEAST_REQUEST",
            "circuit_breakers": unlimited(),
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
            "transport_socket": {
                "name": "envoy.transport_sockets.internal_upstream",
                "typed_config": {
                    "@type": format!("{TYPES}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport"),
                    "passthrough_metadata": [{"kind": {"host": {}}, "name": "envoy.filters.listener.original_dst"}],
                    "transport_socket": {
                        "name": "envoy.transport_sockets.raw_buffer",
                        "typed_config": {"@type": format!("{TYPES}.transport_sockets.raw_buffer.v3.RawBuffer")},
                    },
                },
            },
        })
    }
}

fn unlimited() -> Value {
    let most = u32::MAX;
    json!({"thresholds": [
        {"max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most},
    ]})
}

fn action(service: usize) -> Value {
    json!({
        "cluster": format!("shop-{service}"),
        "timeout": "15s",
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
            "num_retries": ATTEMPTS,
            "retriable_status_codes": [CODE],
            "retry_host_predicate": [{
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": format!("{TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate")},
            }],
            "host_selection_retry_max_attempts": "5",
        },
    })
}

fn manager(mut own: Value) -> Value {
    own["@type"] = json!(format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"));
    own["http_filters"] = json!([{
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
    }]);
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": own})
}

fn terminate() -> Value {
    manager(json!({
        "stat_prefix": "terminate",
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"name": "terminate", "virtual_hosts": [{
            "name": "terminate",
            "domains": ["*"],
            "routes": [{
                "match": {"connect_matcher": {}},
                "route": {
                    "cluster": "inner",
                    "timeout": "0s",
                    "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                },
            }],
        }]},
    }))
}

fn inner(routes: &Path) -> Value {
    manager(json!({
        "stat_prefix": "inner",
        "rds": {"route_config_name": "inner", "config_source":
            {"path_config_source": {"path": routes}, "resource_api_version": "V3"}},
    }))
}

fn originate() -> Value {
    json!({
        "name": "originate",
        "internal_listener": {},
        "listener_filters": [{
            "name": "envoy.filters.listener.original_dst",
            "typed_config": {"@type": format!("{TYPES}.filters.listener.original_dst.v3.OriginalDst")},
        }],
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "originate",
                "cluster": "outgoing",
                "tunneling_config": {"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"},
            },
        }]}],
    })
}

fn pod(yaml: &mut String, name: &str, account: &str, mode: &str, ip: Ipv4Addr) {
    let _ok = write!(
        yaml,
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: bench, labels: {{app: {account}, istio.io/dataplane-mode: {mode}}}}}\n\
         spec: {{serviceAccountName: {account}}}\nstatus: {{podIP: {ip}}}\n"
    );
}

fn http_route(yaml: &mut String, name: &str, service: usize, rules: &str) {
    let _ok = write!(
        yaml,
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: shop-{service}}}], rules: [{rules}]}}\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_get_the_same_number_of_routes() {
        let setup = Setup { routes: 250, endpoints: vec![Ipv4Addr::LOCALHOST] };
        assert_eq!(setup.services(), 3);
        let yaml = setup.manifests(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST) + &setup.versioned(1);
        let envoy = setup.envoy_routes(1);
        let hosts = envoy["resources"][0]["virtual_hosts"].as_array().unwrap();
        let routes: usize = hosts.iter().map(|host| host["routes"].as_array().unwrap().len()).sum();
        assert_eq!((yaml.matches("type: Exact").count(), routes), (250, 253));
        assert_eq!(yaml.matches("x-version").count(), 3);
    }

    #[test]
    fn without_more_routes_there_is_one_service_with_one() {
        let setup = Setup { routes: 0, endpoints: vec![Ipv4Addr::LOCALHOST] };
        assert_eq!((setup.services(), setup.versioned(7).matches("value: '7'").count()), (1, 1));
    }
}
