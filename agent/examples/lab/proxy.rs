//! The smallest agent: what is captured is carried on in plain TCP. It shows how the parts of capture go together.
#![expect(clippy::print_stdout, reason = "what the tests read")]

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use agent::capture::{Capture, CaptureConfig, CapturedPod, Netns, PodSpec, app_socket, upstream_socket};
use anyhow::Result;
use ipnet::IpNet;
use mesh::model::policy::{PlaintextRules, PlaintextVerdict};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;

/// Which listener of the agent a connection arrived at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It leaves the pod.
    Outbound,
    /// It comes to the pod without a tunnel.
    Plaintext,
    /// It is a tunnel to the pod.
    Hbone,
}

/// A connection that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Where.
    pub(crate) kind: Kind,
    /// Its far end.
    pub(crate) peer: SocketAddr,
    /// The address that was called.
    pub(crate) called: SocketAddr,
}

/// Serves all listeners of a pod, each in a thread, until they are gone.
pub(crate) fn serve(pod: CapturedPod, addresses: &[IpAddr], saw: impl Fn(Seen) + Send + Sync + 'static) {
    let saw = Arc::new(saw);
    let CapturedPod { netns, outbound, plaintext, hbone, .. } = pod;
    for (kind, listeners) in [(Kind::Outbound, outbound), (Kind::Plaintext, plaintext), (Kind::Hbone, hbone)] {
        for listener in listeners {
            let (netns, addresses, saw) = (Arc::clone(&netns), addresses.to_vec(), Arc::clone(&saw));
            thread::spawn(move || accept(&listener, kind, &netns, &addresses, &*saw));
        }
    }
}

fn accept(listener: &TcpListener, kind: Kind, netns: &Arc<Netns>, addresses: &[IpAddr], saw: &dyn Fn(Seen)) {
    loop {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                use std::os::fd::AsFd;
                let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::from(200_u8));
                continue;
            }
            Err(_) => return,
        };
        let Ok(called) = stream.local_addr() else { continue };
        if called.ip().is_loopback() {
            continue;
        }
        saw(Seen { kind, peer, called });
        let (netns, addresses) = (Arc::clone(netns), addresses.to_vec());
        thread::spawn(move || drop(carry(stream, kind, (peer, called), &netns, &addresses)));
    }
}

fn carry(
    stream: TcpStream,
    kind: Kind,
    (peer, called): (SocketAddr, SocketAddr),
    netns: &Netns,
    addresses: &[IpAddr],
) -> io::Result<()> {
    let onward = match kind {
        Kind::Outbound => upstream_socket(netns, called)?,
        Kind::Plaintext => app_socket(netns, peer.ip(), called, addresses)?,
        Kind::Hbone => {
            use std::io::Write;
            stream.set_nonblocking(false)?;
            writeln!(&stream, "hbone peer={peer} local={called}")?;
            return io::copy(&mut &stream, &mut io::sink()).map(drop);
        }
    };
    match connect(onward, called) {
        Ok(onward) => splice(stream, onward),
        Err(error) => {
            socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
            Err(error)
        }
    }
}

fn connect(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    socket.set_nonblocking(false)?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Copies both ways until both are done.
fn splice(one: TcpStream, other: TcpStream) -> io::Result<()> {
    one.set_nonblocking(false)?;
    let (mut from, mut to) = (one.try_clone()?, other.try_clone()?);
    let there = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (other, one);
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = there.join();
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory on bpffs.
    #[arg(long)]
    bpf_root: PathBuf,
    /// Cgroup of the pods.
    #[arg(long)]
    attach: PathBuf,
    /// Cgroup of the agent.
    #[arg(long)]
    group: PathBuf,
    /// Leave pods alone when the agent is gone.
    #[arg(long)]
    fail_open: bool,
    /// `NETNS,ADDRESS,…` of a pod to capture.
    #[arg(long)]
    pod: Vec<String>,
    /// A range of the mesh.
    #[arg(long)]
    mesh: Vec<IpNet>,
    /// What happens to plaintext: pass, refuse or proxy.
    #[arg(long, default_value = "pass")]
    plaintext: String,
}

impl Args {
    /// Prints `ready ID…` once the pods are captured.
    pub(crate) fn run(self) -> Result<()> {
        let mut config = CaptureConfig::new("lab");
        config.bpf_root = self.bpf_root;
        config.attach_cgroup = Some(self.attach);
        config.agent_cgroup = Some(self.group);
        config.fail_closed = !self.fail_open;
        let capture = Capture::open(config)?;
        capture.replace_mesh(&self.mesh)?;
        let default = match self.plaintext.as_str() {
            "pass" => PlaintextVerdict::Pass,
            "refuse" => PlaintextVerdict::Refuse,
            _ => PlaintextVerdict::Proxy,
        };
        let mut ids = Vec::new();
        let mut live = Vec::new();
        for pod in &self.pod {
            let mut words = pod.split(',');
            let netns: PathBuf = words.next().unwrap_or_default().into();
            let owner = netns.display().to_string();
            let addresses = words.map(str::parse).collect::<Result<Vec<IpAddr>, _>>()?;
            let pod = capture.enroll(&PodSpec { owner, netns, addresses: addresses.clone() })?;
            capture.set_plaintext(pod.id, &PlaintextRules { default, ports: Box::default() })?;
            ids.push(pod.id.to_string());
            live.push(pod.cookie);
            serve(pod, &addresses, |_| {});
        }
        capture.retain(&live)?;
        println!("ready {}", ids.join(" "));
        loop {
            thread::park();
        }
    }
}
