//! Our HBONE on the wire, seen from the other end.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tests::eventually::eventually;
use tests::manifest::{PodSpec, service};
use tests::mesh::{Mesh, MeshOptions, Pod};
use tests::pki::Authority;
use tests::scribe::{Manner, Scribe};

/// A client with our agent, and a pod on a node without one, where the test itself speaks HBONE.
struct Scene {
    mesh: Arc<Mesh>,
    client: Pod,
    far: Pod,
    scribe: Scribe,
}

fn scene(manner: Manner) -> Result<Scene> {
    let ca = Authority::new("Test")?;
    let mesh = Mesh::prepare(MeshOptions { ca_files: ca.files(), ..MeshOptions::default() })?;
    mesh.agents[0].launch()?;
    mesh.agents[0].wait_ready()?;
    let client = mesh.pod(PodSpec::new("app", "client").label("version", "v7"))?;
    let far = mesh.pod(PodSpec::new("app", "far").on(1))?;
    let scribe = Scribe::start(&far.place, &ca, &ca.identity("app", "far")?, manner)?;
    Ok(Scene { mesh, client, far, scribe })
}

#[test]
fn a_connect_has_the_head_that_ztunnel_sends() -> Result<()> {
    let s = scene(Manner::Echo)?;
    for target in [s.far.at(7000), s.far.at6(7000)] {
        let outcome = s.client.call_ok(target, &["echo", "100000"])?;
        let heads = s.scribe.heads();
        let head = heads.last().context("no request came")?;
        ensure!(head.method == "CONNECT" && head.version == http::Version::HTTP_2, "{head:?}");
        ensure!(head.uri.authority().is_some_and(|a| a.as_str() == target.to_string()), "{:?}", head.uri);
        ensure!(head.uri.scheme().is_none() && head.uri.path_and_query().is_none(), "extended: {:?}", head.uri);
        let header = |name: &str| {
            let value = head.headers.get(name).with_context(|| format!("no {name} in {:?}", head.headers))?;
            anyhow::Ok(value.to_str()?.to_owned())
        };
        let baggage = header("baggage")?;
        for member in [
            "k8s.cluster.name=Kubernetes",
            "k8s.namespace.name=app",
            "k8s.pod.name=client",
            "service.name=client",
            "service.version=v7",
        ] {
            ensure!(baggage.split(',').any(|m| m == member), "{member} is not in {baggage}");
        }
        let local = outcome.local.context("no local address")?;
        ensure!(header("forwarded")? == format!("for=\"{local}\""), "{}", header("forwarded")?);
        let trace = header("traceparent")?;
        let parts: Vec<&str> = trace.split('-').collect();
        ensure!(parts.len() == 4 && parts[0] == "00" && parts[1].len() == 32 && parts[2].len() == 16, "{trace}");
    }
    let traces: std::collections::BTreeSet<_> =
        s.scribe.heads().iter().map(|h| h.headers["traceparent"].clone()).map(|v| v.as_bytes().to_vec()).collect();
    ensure!(traces.len() == 2, "a trace was used twice");
    Ok(())
}

#[test]
fn a_service_is_named_in_the_head_and_the_authority_is_the_pods() -> Result<()> {
    let s = scene(Manner::Echo)?;
    let vip = s.mesh.vips().0;
    s.mesh.apply_seen("svc.yaml", &service("app", "far", "far", &[&vip], &[("tcp", 7, "7000")]), &vip)?;
    s.client.call_ok(format!("{vip}:7").parse()?, &["echo", "10"])?;
    let heads = s.scribe.heads();
    let head = heads.last().context("no request came")?;
    ensure!(head.uri.authority().is_some_and(|a| a.as_str() == s.far.at(7000).to_string()), "{:?}", head.uri);
    let forwarded = head.headers["forwarded"].to_str()?;
    ensure!(forwarded.ends_with(";host=far.app.svc.cluster.local"), "{forwarded}");
    Ok(())
}

#[test]
fn tls_is_as_the_mesh_has_it_and_sessions_are_resumed() -> Result<()> {
    let s = scene(Manner::GoAwayAfterFirst)?;
    for _ in 0..8 {
        s.client.call_ok(s.far.at(7000), &["echo", "1000"])?;
    }
    let seen = s.scribe.seen();
    ensure!(seen.len() >= 3, "GOAWAY was not heeded: {} connections", seen.len());
    ensure!(seen.iter().all(|c| c.alpn.as_deref() == Some(b"h2") && c.sni.is_none()), "{seen:?}");
    ensure!(!seen[0].resumed && seen.iter().any(|c| c.resumed), "no session was resumed");
    Ok(())
}

#[test]
fn a_goaway_cuts_no_open_connection_and_new_ones_take_a_new_tunnel() -> Result<()> {
    let s = scene(Manner::GoAwayAfterFirst)?;
    let mut talks = Vec::new();
    for i in 0..6 {
        let mut talk = s.client.talk(s.far.at(7000))?;
        talk.echo(&format!("conversation {i}"))?;
        talks.push(talk);
    }
    for talk in &mut talks {
        talk.echo("still open")?;
    }
    let tunnels = s.scribe.seen().len();
    ensure!(tunnels == 6, "{tunnels} tunnels for 6 connections that each got a GOAWAY");
    Ok(())
}

#[test]
fn connections_of_one_workload_use_common_tunnels_and_those_of_another_do_not() -> Result<()> {
    let s = scene(Manner::Echo)?;
    let other = s.mesh.pod(PodSpec::new("app", "other"))?;
    let mut talks = Vec::new();
    for pod in [&s.client, &other] {
        for _ in 0..20 {
            let mut talk = pod.talk(s.far.at(7000))?;
            talk.echo("hello")?;
            talks.push(talk);
        }
    }
    let seen = s.scribe.seen();
    ensure!(seen.len() <= 8, "{} tunnels for 40 connections", seen.len());
    for tunnel in seen {
        let pods: std::collections::BTreeSet<_> =
            tunnel.heads.iter().map(|h| h.headers["baggage"].as_bytes().to_vec()).collect();
        ensure!(pods.len() <= 1, "two workloads share a tunnel");
    }
    Ok(())
}

#[test]
fn any_other_status_is_a_refusal_with_the_status_in_the_log() -> Result<()> {
    for status in [400, 401, 404, 500, 503] {
        let s = scene(Manner::Status(status))?;
        let outcome = s.client.call_refused(s.far.at(7000), &["echo", "10"])?;
        ensure!(outcome.millis < 10_000, "{outcome:?}");
        s.client.agent().access("the refusal", |l| l.get("error").contains(&status.to_string()))?;
        let metrics = s.client.agent().metrics()?;
        eventually("it is counted", || {
            let failed = metrics
                .sum("istio_tcp_connections_failed_total", &[("reporter", "source"), ("destination_workload", "far")]);
            ensure!(failed >= 1.0, "{failed}");
            Ok(())
        })?;
    }
    Ok(())
}
