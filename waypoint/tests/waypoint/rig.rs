//! The real binary on loopback: clients that speak HBONE to it, backends that do as they are told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh::model::identity::Identity;
use tokio::net::{TcpSocket, TcpStream};
use transport::ca::{EmbeddedCa, LEAF_LIFETIME};
use transport::hbone::{Authority, ConnectHead, Dial, DialFuture, Pool, PoolOptions, Stream, TunnelKey};
use transport::keyring::{Keyring, Options};

use super::turn::Turn;

/// The port of the service, and of the pods behind it.
pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET: u16 = 8080;

/// Ports of the admin, metrics and readiness servers, on the rig's own address. Below those that the kernel gives away:
/// a port that it gave and took back may still be held for a moment by a program that another test is just starting.
pub(crate) const SERVERS: [u16; 3] = [21_000, 21_020, 21_021];

/// A waypoint process, and what is needed to call through it.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) net: Net,
    pub(crate) keyring: Arc<Keyring>,
    pool: Arc<Pool>,
    process: Child,
    /// Given back last.
    _turn: Turn,
}

/// The part of loopback that belongs to one rig.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net(u8, u8);

impl Net {
    fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes run beside one another: the id keeps them apart.
        let unique = (std::process::id() as u16).wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let [high, low] = unique.to_be_bytes();
        Self(high.clamp(1, 250), low)
    }

    pub(crate) fn ip(self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, self.1, host).into()
    }
}

struct From(IpAddr);

impl Dial for From {
    fn dial<'a>(&'a self, key: &'a TunnelKey) -> DialFuture<'a> {
        Box::pin(async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(self.0, 0))?;
            let tcp = socket.connect(key.destination).await?;
            tcp.set_nodelay(true)?;
            Ok::<TcpStream, std::io::Error>(tcp)
        })
    }
}

/// What an HTTP call gave.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Rig {
    /// Starts a waypoint over these manifests; `$NET` in them is the rig's part of loopback. Backends on loopback are
    /// allowed to it: without a namespace of their own, and so without privileges, tests have no other addresses.
    pub(crate) async fn start(manifests: &str) -> Self {
        let net = Net::new();
        let own = format!("{}/24", net.ip(0));
        Self::start_in(net, manifests, &["--allow-local-targets", &own], Turn::shared()).await
    }

    /// The same, with the machine to itself: for tests that measure time.
    pub(crate) async fn start_alone(manifests: &str) -> Self {
        let turn = Turn::alone();
        let net = Net::new();
        let own = format!("{}/24", net.ip(0));
        Self::start_in(net, manifests, &["--allow-local-targets", &own], turn).await
    }

    /// The same, with further flags.
    pub(crate) async fn start_with(manifests: &str, flags: &[&str]) -> Self {
        let net = Net::new();
        let own = format!("{}/24", net.ip(0));
        let flags = [&["--allow-local-targets", &own], flags].concat();
        Self::start_in(net, manifests, &flags, Turn::shared()).await
    }

    /// Starts a waypoint as its users do: it dials nothing on loopback.
    pub(crate) async fn start_guarded(manifests: &str) -> Self {
        Self::start_in(Net::new(), manifests, &[], Turn::shared()).await
    }

    async fn start_in(net: Net, manifests: &str, flags: &[&str], turn: Turn) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let ca_dir = dir.path().join("ca");
        let ca = EmbeddedCa::open(&ca_dir, &"cluster.local".into(), LEAF_LIFETIME).unwrap();
        let keyring = Keyring::new(Arc::new(ca), Options::default());
        for account in ["client", "shop", "other"] {
            keyring.want(identity(account));
        }
        keyring.want(consumer());
        let options = PoolOptions { spread: 1, ..PoolOptions::default() };
        let pool = Pool::new(Arc::clone(&keyring), Arc::new(From(net.ip(5))), options);
        write(dir.path(), net, "mesh.yaml", manifests);
        let address = |port: u16| SocketAddr::new(net.ip(1), port).to_string();
        let process = super::programs::command(env!("CARGO_BIN_EXE_culvert-waypoint"))
            .unwrap()
            .args(["--gateway", "default/wp", "--drain", "3s", "--log", "warn,access=info,waypoint=debug"])
            .arg("--manifests")
            .arg(dir.path().join("manifests"))
            .arg("--ca-dir")
            .arg(&ca_dir)
            .args(["--listen", &address(15008), "--admin", &address(SERVERS[0])])
            .args(["--stats", &address(SERVERS[1]), "--ready", &address(SERVERS[2])])
            .args(flags)
            .stdout(std::fs::File::create(dir.path().join("log")).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let rig = Self { dir, net, keyring, pool, process, _turn: turn };
        rig.eventually("ready", async || rig.is_ready().await).await;
        rig
    }

    async fn is_ready(&self) -> bool {
        let address = SocketAddr::new(self.net.ip(1), SERVERS[2]);
        matches!(plain_get(address, "/healthz/ready").await, Some((200, _)))
    }

    /// Writes a manifest file at once, as `mv` does.
    pub(crate) fn write(&self, name: &str, manifests: &str) {
        write(self.dir.path(), self.net, name, manifests);
    }

    /// How the process ended, when it has.
    pub(crate) async fn exited(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it never ended; the log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The process's log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        plain_get(SocketAddr::new(self.net.ip(1), SERVERS[1]), "/metrics").await.unwrap().1
    }

    /// Whether the process still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    pub(crate) async fn admin(&self, path: &str) -> String {
        plain_get(SocketAddr::new(self.net.ip(1), SERVERS[0]), path).await.unwrap().1
    }

    /// Opens connections to `vip` beyond the rig's own life.
    pub(crate) fn opener(&self, vip: &str) -> Opener {
        let authority = Authority::Address(SocketAddr::new(vip.parse().unwrap(), PORT));
        Opener { pool: Arc::clone(&self.pool), key: self.key(identity("client")), head: ConnectHead::new(authority) }
    }

    fn key(&self, source: Identity) -> TunnelKey {
        TunnelKey {
            workload: format!("Kubernetes//Pod/{}/client", source.namespace).as_str().into(),
            source,
            destination: SocketAddr::new(self.net.ip(1), 15008),
            expected: Arc::new([identity("wp")]),
        }
    }

    /// A connection through the tunnel to whatever `authority` names, as a service account.
    pub(crate) async fn connect_as(&self, account: &str, authority: Authority) -> Result<Stream, String> {
        self.connect_by(identity(account), authority).await
    }

    /// The same, as anybody.
    pub(crate) async fn connect_by(&self, source: Identity, authority: Authority) -> Result<Stream, String> {
        let opened = self.pool.connect(&self.key(source), &ConnectHead::new(authority)).await;
        opened.map(|opened| opened.stream).map_err(|error| error.to_string())
    }

    pub(crate) async fn connect(&self, vip: &str) -> Stream {
        let authority = Authority::Address(SocketAddr::new(vip.parse().unwrap(), PORT));
        self.connect_as("client", authority).await.unwrap()
    }

    pub(crate) async fn one(&self, vip: &str) -> http1::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(self.connect(vip).await);
        let (sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    pub(crate) async fn two(&self, vip: &str) -> http2::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(self.connect(vip).await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One request on a connection of its own.
    pub(crate) async fn call(&self, request: Request<Full<Bytes>>) -> Got {
        let mut sender = self.one(SHOP).await;
        got(sender.send_request(request).await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        self.call(get(path)).await
    }

    pub(crate) async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !holds().await {
            assert!(Instant::now() < end, "never {what}; the log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What it takes to open a stream.
pub(crate) struct Opener {
    pool: Arc<Pool>,
    key: TunnelKey,
    head: ConnectHead,
}

impl Opener {
    pub(crate) async fn open(&self) -> Stream {
        self.pool.connect(&self.key, &self.head).await.unwrap().stream
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("the end of the waypoint's log:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The address of the service that most tests call.
pub(crate) const SHOP: &str = "10.96.0.10";

pub(crate) fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "default", account)
}

/// The client in namespace `consumer`.
pub(crate) fn consumer() -> Identity {
    Identity::new("cluster.local", "consumer", "client")
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "shop").body(Full::default()).unwrap()
}

/// Reads a response to its end.
pub(crate) async fn got<B>(response: Response<B>) -> Got
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    Got { status: parts.status.as_u16(), headers: parts.headers, body: collected.to_bytes(), trailers }
}

async fn plain_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let tcp = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.ok()?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", address.to_string()).body(Full::<Bytes>::default()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

fn write(dir: &Path, net: Net, name: &str, manifests: &str) {
    let text = manifests.replace("$NET", &format!("127.{}.{}", net.0, net.1));
    let beside = dir.join(format!("{name}.new"));
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, dir.join("manifests").join(name)).unwrap();
}

/// A Service `name` at `vip` behind the waypoint, with these pods; each is the last byte of its address.
pub(crate) fn service(name: &str, vip: &str, app_protocol: &str, pods: &[u8]) -> String {
    let mut out = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default, labels: {{istio.io/use-waypoint: wp}}}}\n\
         spec: {{clusterIP: {vip}, selector: {{app: {name}}}, ports: [{{name: {app_protocol}, port: {PORT}, targetPort: {TARGET}}}]}}\n"
    );
    for host in pods {
        out += &pod(&format!("{name}-{host}"), name, *host, "none");
    }
    out
}

/// A pod; `mode` is `ambient` when it is enrolled.
pub(crate) fn pod(name: &str, app: &str, host: u8, mode: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{app: {app}, istio.io/dataplane-mode: {mode}}}}}\n\
         spec: {{serviceAccountName: {app}}}\nstatus: {{podIP: $NET.{host}}}\n"
    )
}

/// The Gateway, a client, and the service `shop` with these pods.
pub(crate) fn shop(app_protocol: &str, pods: &[u8]) -> String {
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: default}\n\
         spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n\
         status: {addresses: [{type: IPAddress, value: $NET.1}]}\n";
    format!("{gateway}{}{}", pod("client", "client", 5, "ambient"), service("shop", SHOP, app_protocol, pods))
}

/// An HTTPRoute on `shop`; `rules` is YAML in flow style.
pub(crate) fn route(rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: default}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: shop}}], rules: {rules}}}\n"
    )
}

/// A MeshPolicy for everything.
pub(crate) fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: mesh, namespace: culvert-system}}\nspec: {spec}\n"
    )
}
