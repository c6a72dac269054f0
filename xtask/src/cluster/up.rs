//! From nothing to a cluster that answers.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::enter::{apply, kubectl, quiet, until};
use super::layout::{DNS, Machine, STATE, machines};
use super::machine::{GO, log};
use super::state::{State, kubeconfig, ready};
use super::template::fill;
use super::{build, cgroups, images, network, pki, services};
use crate::programs::command;
use crate::setup::{Purpose, programs as install_programs};
use crate::shell::{cache, step};

/// How long any one thing may take. A machine that is busy with builds is slow, and it may be halted for a measurement.
const PATIENCE: Duration = Duration::from_secs(300);

/// What can be done before, by anybody: installs and builds all that a cluster starts.
pub(crate) fn prepare() -> Result<PathBuf> {
    install_programs(Purpose::Test)?;
    let directory = build::programs()?;
    images::archives(&directory)?;
    Ok(directory)
}

/// Makes a cluster where there is nothing of one.
pub(crate) fn make(nodes: u8, programs: PathBuf) -> Result<()> {
    let begun = Instant::now();
    let said = |what: &str| step(format!("{:5.1} s  {what}", begun.elapsed().as_secs_f32()));
    let all = machines(nodes);
    fs::create_dir(STATE).with_context(|| format!("making {STATE}"))?;
    let names: Vec<String> = all.iter().map(|machine| machine.name()).collect();
    // Noted before they are made, so that whatever happens they are found again.
    let cgroups = cgroups::hierarchies()?.iter().map(cgroups::Hierarchy::cluster).collect();
    let state = State { nodes, programs, cgroups };
    state.save()?;
    cgroups::make(&names)?;
    pki::make(&all)?;
    let pause = images::pause()?.name;
    for machine in &all {
        for (name, text) in services::files(*machine, &pause)? {
            let file = machine.directory().join("etc").join(name);
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        }
    }
    said("keys and configuration are made");
    start(&all)?;
    said(&format!("{} machines are started", all.len()));
    let imports: Vec<_> = all[1..]
        .iter()
        .map(|node| {
            (
                *node,
                thread::spawn({
                    let node = *node;
                    move || images::import(node)
                }),
            )
        })
        .collect();
    serve(&state)?;
    said("the API server answers");
    for (node, import) in imports {
        let done = import.join().map_err(|_| anyhow!("the import ended in a panic"))?;
        done.with_context(|| format!("importing images into {}", node.name()))?;
    }
    said("images are imported");
    nodes_ready(&state, &all[1..])?;
    said(&format!("{nodes} nodes are Ready"));
    dns_answers(&state)?;
    said("the cluster's DNS answers in a pod");
    fs::write(ready(), "").context("noting that the cluster is up")?;
    Ok(())
}

/// How to use a cluster that is up.
pub(crate) fn usage() -> String {
    format!(
        "export KUBECONFIG={}\n\
         cargo xtask cluster shell                          # a shell with KUBECONFIG and kubectl, helm in PATH\n\
         cargo xtask cluster shell --on node1               # the same inside a node\n\
         cargo xtask cluster shell --on control -- tcpdump -i nodes   # all that goes from node to node\n\
         cargo xtask cluster status | check | down\n",
        kubeconfig().display()
    )
}

/// Copies the logs of a cluster that did not come up to where they outlive it.
pub(crate) fn keep_logs() -> Result<Option<PathBuf>> {
    let Some(state) = State::load()? else { return Ok(None) };
    let kept = cache()?.join("cluster-logs");
    if kept.exists() {
        fs::remove_dir_all(&kept).with_context(|| format!("removing {}", kept.display()))?;
    }
    for machine in machines(state.nodes) {
        let target = kept.join(machine.name());
        fs::create_dir_all(&target).with_context(|| format!("making {}", target.display()))?;
        for entry in fs::read_dir(machine.directory().join("log")).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                fs::copy(entry.path(), target.join(entry.file_name()))?;
            }
        }
    }
    Ok(Some(kept))
}

/// Starts every machine, connects them, and lets their programs start.
fn start(all: &[Machine]) -> Result<()> {
    let mut waiting: Vec<ChildStdin> = Vec::new();
    for machine in all {
        let logs = machine.directory().join("log");
        fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
        let log = log(&logs, "machine")?;
        let mut first = command(std::env::current_exe()?)?;
        first.args(["cluster", "machine", &machine.name()]);
        let mut first = first.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()?;
        waiting.push(first.stdin.take().context("a machine has no standard input")?);
        if !first.wait()?.success() {
            bail!("machine {} was not made: {}", machine.name(), last_line(&logs.join("machine.log")));
        }
    }
    network::connect(all)?;
    for mut machine in waiting {
        machine.write_all(GO.as_bytes()).context("a machine ended before its network was there")?;
    }
    Ok(())
}

/// Waits for the API server and hands it what a cluster needs before its nodes are there.
fn serve(state: &State) -> Result<()> {
    until("the API server answers", PATIENCE, || quiet(&mut kubectl(state, &["get", "--raw=/readyz"])?))?;
    let dns = include_str!("../../../tests/cluster/config/dns.yaml");
    let (coredns, workload) = (images::coredns()?.name, images::workload().name);
    let manifest = fill(dns, &[("image", &coredns), ("workload", &workload), ("dns", &DNS.to_string())])?;
    // Its last object is a pod, which is refused until its namespace has a service account.
    until("the cluster's DNS is declared", PATIENCE, || apply(state, &manifest, "dns.yaml"))
}

/// Gives each node the addresses of its pods and waits until all are Ready.
fn nodes_ready(state: &State, nodes: &[Machine]) -> Result<()> {
    for node in nodes {
        let (name, pods) = (node.name(), node.pods().context("a node without pods")?);
        let patch = format!(r#"{{"spec":{{"podCIDR":"{pods}","podCIDRs":["{pods}"]}}}}"#);
        until(&format!("{name} is registered"), PATIENCE, || {
            quiet(&mut kubectl(state, &["patch", "node", &name, "--patch", &patch])?)
        })?;
    }
    let patience = format!("--timeout={}s", PATIENCE.as_secs());
    quiet(&mut kubectl(state, &["wait", "--for=condition=Ready", "nodes", "--all", &patience])?).map(|_| ())
}

/// Waits until a pod has been told an address by the cluster's DNS, and takes the pod away.
fn dns_answers(state: &State) -> Result<()> {
    let pod = ["--namespace=kube-system", "pod/dns-answers"];
    let patience = format!("--timeout={}s", PATIENCE.as_secs());
    let ended = "--for=jsonpath={.status.phase}=Succeeded";
    quiet(kubectl(state, &["wait", ended, &patience])?.args(pod))?;
    quiet(kubectl(state, &["delete", "--wait=false"])?.args(pod)).map(|_| ())
}

fn last_line(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}
