//! The iptables rules that our capture is compared with, as Istio lays them into a pod.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::forward::MARK;
use harness::process::{Place, spawn};

/// Group of a sidecar's process, by which the rules know its own connections.
pub const SIDECAR_GROUP: u32 = 1337;
/// Where connections are taken that leave a pod.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where connections are taken that arrive.
pub const INBOUND_PORT: u16 = 15006;

/// Rules of the ambient mode: what leaves and what arrives goes to the proxy's ports, but for the proxy's own
/// connections, which it marks; connection tracking keeps the mark for the answers.
pub fn ambient(pod: &Place) -> Result<()> {
    restore(
        pod,
        &format!(
            "*mangle\n\
             :CAPTURE_IN - [0:0]\n:CAPTURE_OUT - [0:0]\n\
             -A PREROUTING -j CAPTURE_IN\n-A OUTPUT -j CAPTURE_OUT\n\
             -A CAPTURE_IN -m mark --mark {MARK:#x}/0xfff -j CONNMARK --set-xmark 0x111/0xfff\n\
             -A CAPTURE_OUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff\n\
             COMMIT\n\
             *nat\n\
             :CAPTURE_IN - [0:0]\n:CAPTURE_OUT - [0:0]\n\
             -A PREROUTING -j CAPTURE_IN\n-A OUTPUT -j CAPTURE_OUT\n\
             -A CAPTURE_OUT -d 169.254.7.127/32 -p tcp -j ACCEPT\n\
             -A CAPTURE_OUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT\n\
             -A CAPTURE_OUT ! -d 127.0.0.1/32 -o lo -j ACCEPT\n\
             -A CAPTURE_OUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark {MARK:#x}/0xfff -j REDIRECT --to-ports {OUTBOUND_PORT}\n\
             -A CAPTURE_IN -s 169.254.7.127/32 -p tcp -j ACCEPT\n\
             -A CAPTURE_IN ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m mark ! --mark {MARK:#x}/0xfff -j REDIRECT --to-ports {INBOUND_PORT}\n\
             COMMIT\n"
        ),
    )
}

/// Rules of a sidecar: what leaves goes to its outbound port, what arrives to its inbound port, its own connections
/// pass.
pub fn sidecar(pod: &Place) -> Result<()> {
    restore(
        pod,
        &format!(
            "*nat\n\
             :CAPTURE_IN - [0:0]\n:CAPTURE_OUT - [0:0]\n\
             -A PREROUTING -p tcp -j CAPTURE_IN\n-A OUTPUT -p tcp -j CAPTURE_OUT\n\
             -A CAPTURE_IN -p tcp -j REDIRECT --to-ports {INBOUND_PORT}\n\
             -A CAPTURE_OUT -s 127.0.0.6/32 -o lo -j RETURN\n\
             -A CAPTURE_OUT -o lo -j RETURN\n\
             -A CAPTURE_OUT -m owner --gid-owner {SIDECAR_GROUP} -j RETURN\n\
             -A CAPTURE_OUT -d 127.0.0.1/32 -j RETURN\n\
             -A CAPTURE_OUT -p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}\n\
             COMMIT\n"
        ),
    )
}

fn restore(pod: &Place, rules: &str) -> Result<()> {
    let mut command = pod.command("iptables-restore")?;
    command.arg("--noflush").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = spawn(command).context("starting iptables-restore (package iptables)")?;
    child.stdin.take().context("standard input is piped")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "iptables-restore: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
