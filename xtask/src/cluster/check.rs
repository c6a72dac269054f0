//! What a cluster must be able to do, tried out: two pods of different nodes, names and addresses, probes, a Job.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::build::version;
use super::enter::{apply, kubectl, quiet, until};
use super::images::workload;
use super::layout::machines;
use super::state::State;
use super::template::fill;
use crate::programs::command;
use crate::shell::step;

/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The namespace that everything lies in.
const NAMESPACE: &str = "cluster-check";

/// One check: what is true when it passes.
type Check = (&'static str, fn(&State) -> Result<()>);

const CHECKS: [Check; 14] = [
    ("server and client run on different nodes", on_two_nodes),
    ("probes by HTTP, TCP and exec make a pod Ready", |state| wait(state, "condition=Ready", "pod/server")),
    ("a probe by gRPC makes a pod Ready", |state| wait(state, "condition=Ready", "pod/server-grpc")),
    ("a probe that fails keeps a pod from being Ready, and out of its Service", unready),
    ("a liveness probe that fails starts a container again", restarted),
    ("a pod reaches another node's pod by its IP, from its own address", by_pod_ip),
    ("a pod reaches a Service by its VIP", by_vip),
    ("a pod reaches a Service by its name, short and long, HTTP and TCP", by_name),
    ("a name that is not there is not there", no_such_name),
    ("exec carries the exit code", exec_code),
    ("logs are what the program wrote", logs),
    ("a Job ends", |state| wait(state, "condition=Complete", "job/once")),
    ("a pod that is deleted goes, and its address no longer answers", deleted),
    ("helm is the pinned version and reaches the API server", helm),
];

/// Runs every check and says what each showed.
///
/// # Errors
/// When one fails: all are run, and the count is in the message.
pub(crate) fn run(state: &State) -> Result<()> {
    let nodes = machines(state.nodes);
    let (first, last) = (nodes[1].name(), nodes[nodes.len() - 1].name());
    let text = include_str!("../../../tests/cluster/config/check.yaml");
    let workload = workload().name;
    let values = [("workload", workload.as_str()), ("server_node", &first), ("client_node", &last)];
    clear(state)?;
    // A new namespace has its service account a moment later.
    let manifest = fill(text, &values)?;
    until("the check's objects are made", PATIENCE, || apply(state, &manifest, "check.yaml"))?;
    let mut failed = 0;
    for (what, check) in CHECKS {
        let begun = Instant::now();
        match check(state) {
            Ok(()) => step(format!("ok      {what} ({:.1} s)", begun.elapsed().as_secs_f32())),
            Err(error) => {
                failed += 1;
                step(format!("FAILED  {what}: {error:#}"));
            }
        }
    }
    eprintln!("{} passed, {failed} failed", CHECKS.len() - failed);
    if failed > 0 {
        bail!("{failed} of {} checks failed", CHECKS.len());
    }
    clear(state)
}

fn clear(state: &State) -> Result<()> {
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    quiet(&mut kubectl(state, &["delete", "namespace", NAMESPACE, "--ignore-not-found", &timeout])?).map(|_| ())
}

fn on_two_nodes(state: &State) -> Result<()> {
    wait(state, "condition=Ready", "pod/client")?;
    wait(state, "condition=Ready", "pod/server")?;
    let nodes = ["client", "server"].map(|pod| get(state, &format!("pod/{pod}"), "{.spec.nodeName}"));
    let [client, server] = nodes;
    let (client, server) = (client?, server?);
    if state.nodes > 1 && client == server {
        bail!("both run on {client}");
    }
    Ok(())
}

fn unready(state: &State) -> Result<()> {
    let ready = r#"{.status.conditions[?(@.type=="Ready")].status}"#;
    let running = until("the unready pod runs", PATIENCE, || {
        let phase = get(state, "pod/unready", "{.status.phase}")?;
        if phase == "Running" { Ok(()) } else { bail!("it is {phase}") }
    });
    running?;
    // Long enough for its first probe.
    std::thread::sleep(Duration::from_secs(2));
    expect(&get(state, "pod/unready", ready)?, "False")?;
    let address = get(state, "pod/unready", "{.status.podIP}")?;
    let slices = ["get", "endpointslices", "--selector=kubernetes.io/service-name=server"];
    let serving = r#"--output=jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses}"#;
    let served = run_kubectl(state, &[&slices[..], &[serving]].concat())?;
    if served.contains(&address) {
        bail!("{address} is among {served}");
    }
    Ok(())
}

fn restarted(state: &State) -> Result<()> {
    until("a container is started again", PATIENCE, || {
        let count = get(state, "pod/unlively", "{.status.containerStatuses[0].restartCount}")?;
        if count.parse::<u32>().unwrap_or_default() > 0 { Ok(()) } else { bail!("restarted {count} times") }
    })
}

fn by_pod_ip(state: &State) -> Result<()> {
    let server = get(state, "pod/server", "{.status.podIP}")?;
    let client = get(state, "pod/client", "{.status.podIP}")?;
    let answer = exec(state, &["get", &format!("http://{server}:8080/")])?;
    expect(&answer, &format!("server=server client={client} host={server}:8080"))
}

fn by_vip(state: &State) -> Result<()> {
    let vip = get(state, "service/server", "{.spec.clusterIP}")?;
    let client = get(state, "pod/client", "{.status.podIP}")?;
    let answer = exec(state, &["get", &format!("http://{vip}/")])?;
    expect(&answer, &format!("server=server client={client} host={vip}"))
}

fn by_name(state: &State) -> Result<()> {
    for name in ["server", "server.cluster-check", "server.cluster-check.svc.cluster.local"] {
        let answer = exec(state, &["get", &format!("http://{name}/")])?;
        if !answer.starts_with("server=server ") {
            bail!("{name} answered `{answer}`");
        }
    }
    expect(&exec(state, &["dial", "server:9090"])?, "server hello")
}

fn no_such_name(state: &State) -> Result<()> {
    match exec(state, &["resolve", "nobody.cluster-check.svc.cluster.local"]) {
        Ok(addresses) => bail!("it has {addresses}"),
        Err(error) if format!("{error:#}").contains("no such host") => Ok(()),
        Err(error) => Err(error),
    }
}

fn exec_code(state: &State) -> Result<()> {
    let output =
        kubectl(state, &["--namespace", NAMESPACE, "exec", "client", "--", "/workload", "exit", "7"])?.output()?;
    if output.status.code() != Some(7) {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn logs(state: &State) -> Result<()> {
    expect(&run_kubectl(state, &["logs", "server"])?, "serving as server")
}

fn deleted(state: &State) -> Result<()> {
    let address = get(state, "pod/server-grpc", "{.status.podIP}")?;
    let url = format!("http://{address}:8080/");
    exec(state, &["get", &url])?;
    run_kubectl(state, &["delete", "pod", "server-grpc", "--timeout=60s"])?;
    if let Ok(answer) = exec(state, &["get", &url]) {
        bail!("{address} still answers `{answer}`");
    }
    Ok(())
}

fn helm(state: &State) -> Result<()> {
    let mut helm = command(state.program("helm"))?;
    let printed = quiet(helm.args(["version", "--template={{.Version}}"]))?;
    expect(&printed, &version("helm")?)?;
    let mut list = command(state.program("helm"))?;
    quiet(list.env("KUBECONFIG", super::state::kubeconfig()).args(["list", "--all-namespaces", "--short"])).map(|_| ())
}

fn wait(state: &State, condition: &str, object: &str) -> Result<()> {
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    run_kubectl(state, &["wait", &format!("--for={condition}"), object, &timeout]).map(|_| ())
}

fn get(state: &State, object: &str, path: &str) -> Result<String> {
    let text = run_kubectl(state, &["get", object, &format!("--output=jsonpath={path}")])?;
    if text.is_empty() { bail!("{object} has no {path} yet") } else { Ok(text) }
}

/// What the client's program prints.
fn exec(state: &State, arguments: &[&str]) -> Result<String> {
    run_kubectl(state, &[&["exec", "client", "--", "/workload"], arguments].concat())
}

fn run_kubectl(state: &State, arguments: &[&str]) -> Result<String> {
    quiet(kubectl(state, &["--namespace", NAMESPACE])?.args(arguments)).context("asking the cluster")
}

fn expect(found: &str, wanted: &str) -> Result<()> {
    if found == wanted { Ok(()) } else { bail!("`{found}`, not `{wanted}`") }
}
