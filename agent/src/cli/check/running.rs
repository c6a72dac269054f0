//! The agent that runs here, if one does; else whether its ports are free.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::view::{CaptureState, CaptureView, ProblemView};
use process::admin::{Client, ClientError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problems::judge;
use super::report::{Check, Finding};

/// The checks of the section "ports", when no agent answers at `admin`.
pub(super) fn ports(addresses: &[(&'static str, SocketAddr)]) -> Vec<Check> {
    let check = |&(name, address): &(&str, SocketAddr)| {
        let finding = match TcpListener::bind(address) {
            Ok(_) => Finding::Fine,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::wrong(
                format!("{address} is taken"),
                format!("see by whom with: ss -ltnp sport = :{}", address.port()),
            ),
            Err(error) => Finding::wrong(format!("{address}: {error}"), ""),
        };
        Check::new("ports-free", format!("{address} is free for the {name} server"), finding)
    };
    addresses.iter().map(check).collect()
}

/// The checks of the section "agent"; `None` when none answers at `admin`.
pub(super) async fn agent(admin: SocketAddr) -> Option<Vec<Check>> {
    let client = Client::new(admin);
    let version = match client.get("/version", &[]).await {
        Ok(body) => serde_json::from_slice::<Value>(&body).ok()?,
        Err(_) => return None,
    };
    let text = |field: &str| version.get(field).and_then(Value::as_str).unwrap_or("?").to_owned();
    let title = format!("{} {} runs here", text("component"), text("version"));
    let own = env!("CARGO_PKG_VERSION");
    let same = match text("version") {
        theirs if theirs == own => Finding::Fine,
        theirs => Finding::warning(
            format!("it is version {theirs}, this command is {own}"),
            "restart the agent to upgrade it",
        ),
    };
    let ready = match client.get("/healthz/ready", &[]).await {
        Ok(_) => Finding::Fine,
        Err(ClientError::Refused { message, .. }) => Finding::wrong(message, "its log says what it waits for"),
        Err(error) => Finding::wrong(error.to_string(), ""),
    };
    Some(vec![
        Check::new("agent-version", title, same),
        Check::new("agent-ready", "the agent is ready", ready),
        Check::new("agent-config", "the configuration is in effect as written", manifests(&client).await),
        Check::new(
            "agent-captures",
            "every workload that ought to be captured is",
            in_part(&client, "captures", captures).await,
        ),
    ])
}

/// What we read of the part `manifests`.
#[derive(Deserialize)]
struct Manifests {
    problems: Vec<ProblemView>,
}

async fn manifests(client: &Client) -> Finding {
    in_part(client, "manifests", |manifests: Manifests| judge(&manifests.problems)).await
}

async fn in_part<T: DeserializeOwned>(client: &Client, name: &str, judge: fn(T) -> Finding) -> Finding {
    match client.get(&format!("/config_dump/{name}"), &[]).await {
        Ok(body) => match serde_json::from_slice(&body) {
            Ok(content) => judge(content),
            Err(error) => {
                Finding::warning(format!("cannot read {name} of the agent: {error}"), "is it of another version?")
            }
        },
        Err(error) => Finding::warning(error.to_string(), ""),
    }
}

fn captures(all: Vec<CaptureView>) -> Finding {
    let missing =
        all.iter().filter(|c| matches!(c.state, CaptureState::Pending | CaptureState::Failed | CaptureState::Closed));
    let what: Vec<_> =
        missing.map(|c| format!("{}/{}: {}", c.namespace, c.name, c.error.as_deref().unwrap_or("not yet"))).collect();
    if what.is_empty() {
        return Finding::Fine;
    }
    Finding::wrong(what.join("\n"), "it is tried again; culvert get captures shows the state")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use process::admin::{AdminState, Bound, Surface};
    use process::telemetry::logging::LogControl;
    use process::telemetry::registry::Registry;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_taken_port_is_wrong() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ports(&[("admin", taken)])[0].finding(), &Finding::Fine);
        let _held = TcpListener::bind(taken).unwrap();
        match ports(&[("admin", taken)])[0].finding() {
            Finding::Wrong { what, .. } => assert_eq!(*what, format!("{taken} is taken")),
            other => panic!("{other:?}"),
        }
    }

    fn serve(problems: Value, captures: Value, pending: Vec<String>) -> SocketAddr {
        let state = AdminState::new(
            "culvert",
            env!("CARGO_PKG_VERSION"),
            Registry::new("culvert", "0"),
            LogControl::detached("info"),
        )
        .part("manifests", move || json!({"problems": problems}))
        .part("captures", move || captures.clone())
        .ready_when(move || pending.clone());
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), Surface::Admin).unwrap();
        let addr = bound.local_addr();
        tokio::spawn(bound.serve(Arc::new(state)));
        addr
    }

    #[tokio::test]
    async fn an_agent_in_order_is_fine() {
        let checks = agent(serve(json!([]), json!([]), vec![])).await.unwrap();
        assert_eq!(checks.len(), 4);
        assert!(checks.iter().all(|check| *check.finding() == Finding::Fine), "{checks:?}");
    }

    #[tokio::test]
    async fn what_an_agent_cannot_do_is_told() {
        let problem =
            json!({"severity": "error", "file": "pods.yaml", "line": 7, "message": "spec.nodeName is missing"});
        let capture = json!({"workloadUid": "u", "name": "web", "namespace": "default", "identity": "i", "netns": "n",
            "state": "failed", "error": "no such network namespace"});
        let checks = agent(serve(json!([problem]), json!([capture]), vec!["ca".into()])).await.unwrap();
        let wrong: Vec<_> = checks
            .iter()
            .filter_map(|check| match check.finding() {
                Finding::Wrong { what, .. } => Some(what.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(
            wrong,
            [
                "not ready, pending: ca",
                "error: pods.yaml:7: spec.nodeName is missing",
                "default/web: no such network namespace",
            ]
        );
    }

    #[tokio::test]
    async fn nobody_there_is_no_agent() {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(agent(addr).await.is_none());
    }
}
