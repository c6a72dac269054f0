//! A CA, keyrings and an echo server behind HBONE: what the tests here need of a mesh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mesh::model::identity::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use transport::ca::{EmbeddedCa, LEAF_LIFETIME};
use transport::hbone::{
    Authority, Baggage, ConnectHead, Dial, DialFuture, Opened, Pool, PoolOptions, Request, Settings, Stream, TunnelKey,
    accept, accept_within,
};
use transport::keyring::{Keyring, Options};
use transport::net::buffers::Buffers;
use transport::net::copy::{CopyError, Counters, Timeouts, both_ways};
use transport::net::tcp::Tcp;

/// An identity of namespace `default` in `cluster.local`.
pub(crate) fn identity(service_account: &str) -> Identity {
    Identity::new("cluster.local", "default", service_account)
}

/// A CA in a directory of its own.
pub(crate) fn new_ca() -> Arc<EmbeddedCa> {
    let directory = tempfile::tempdir().unwrap();
    Arc::new(EmbeddedCa::open(&directory.path().join("ca"), &"cluster.local".into(), LEAF_LIFETIME).unwrap())
}

/// A keyring that wants the certificates of some service accounts.
pub(crate) fn keyring(ca: &Arc<EmbeddedCa>, accounts: &[&str]) -> Arc<Keyring> {
    let keyring = Keyring::new(Arc::clone(ca) as _, Options::default());
    for account in accounts {
        keyring.want(identity(account));
    }
    keyring
}

/// Dials on loopback and counts.
#[derive(Default)]
pub(crate) struct Dialler {
    pub(crate) dials: AtomicUsize,
    /// Of all tunnels that are dialled, as if they were one workload's.
    pub(crate) buffers: Arc<Buffers>,
}

impl Dial for Dialler {
    fn dial<'a>(&'a self, key: &'a TunnelKey) -> DialFuture<'a> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let tcp = TcpStream::connect(key.destination).await?;
            tcp.set_nodelay(true)?;
            Ok(tcp)
        })
    }

    fn buffers(&self, _: &TunnelKey) -> Arc<Buffers> {
        Arc::clone(&self.buffers)
    }
}

/// Two ends that trust each other: `client` dials, `server` accepts.
pub(crate) struct Mesh {
    pub(crate) keyring: Arc<Keyring>,
    /// Of all tunnels that are accepted.
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) dialler: Arc<Dialler>,
    pub(crate) pool: Arc<Pool>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self::with(PoolOptions { spread: 1, ..PoolOptions::default() })
    }

    pub(crate) fn with(options: PoolOptions) -> Self {
        let keyring = keyring(&new_ca(), &["client", "server"]);
        let dialler = Arc::new(Dialler::default());
        let pool = Pool::new(Arc::clone(&keyring), Arc::clone(&dialler) as _, options);
        Self { keyring, buffers: Arc::default(), dialler, pool }
    }

    /// A server that gives each request to `handler`, in a task of its own.
    pub(crate) async fn serve<F, R>(&self, settings: Settings, handler: F) -> SocketAddr
    where
        F: Fn(Request) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (keyring, buffers) = (Arc::clone(&self.keyring), Arc::clone(&self.buffers));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                let tls = keyring.server_config(&identity("server")).await.unwrap();
                let (settings, handler, buffers) = (settings.clone(), handler.clone(), Arc::clone(&buffers));
                tokio::spawn(async move {
                    let accepted = accept_within(tcp, &tls, &settings, &buffers).await;
                    let Ok(mut connection) = accepted else { return };
                    while let Some(request) = connection.next().await {
                        tokio::spawn(handler(request));
                    }
                });
            }
        });
        address
    }

    pub(crate) fn key(&self, destination: SocketAddr) -> TunnelKey {
        TunnelKey {
            workload: "Kubernetes//Pod/default/client".into(),
            source: identity("client"),
            destination,
            expected: Arc::new([identity("server")]),
        }
    }
}

/// One connection of an application through a tunnel: both sockets of the applications, and how the copies end.
pub(crate) struct Carried {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    pub(crate) near: JoinHandle<Result<(), CopyError>>,
    pub(crate) far: JoinHandle<Result<(), CopyError>>,
    pub(crate) counters: Arc<Counters>,
}

/// A far end that gives each accepted stream to whoever carries a connection.
pub(crate) struct Far {
    address: SocketAddr,
    streams: Mutex<mpsc::Receiver<Stream>>,
}

impl Mesh {
    pub(crate) async fn far(&self, settings: Settings) -> Far {
        let (give, streams) = mpsc::channel(1);
        let address = self
            .serve(settings, move |request| {
                let give = give.clone();
                async move {
                    let _ = give.send(request.accept(None).unwrap()).await;
                }
            })
            .await;
        Far { address, streams: Mutex::new(streams) }
    }

    /// A connection that is carried at its far end only.
    pub(crate) async fn carry_far(&self, far: &Far) -> (Opened, TcpStream, JoinHandle<Result<(), CopyError>>) {
        let (server, app) = sockets().await;
        let opened = self.pool.connect(&self.key(far.address), &head()).await.unwrap();
        let mut stream = far.streams.lock().await.recv().await.unwrap();
        let carrying = tokio::spawn(async move {
            both_ways(&mut stream, &mut Tcp::new(app), &Counters::default(), &Timeouts::default()).await
        });
        (opened, server, carrying)
    }

    pub(crate) async fn carry(&self, far: &Far, timeouts: Timeouts) -> Carried {
        let (server, far_app) = sockets().await;
        self.carry_to(far, timeouts, server, far_app).await
    }

    /// The same with sockets of one's own at the far end.
    pub(crate) async fn carry_to(
        &self,
        far: &Far,
        timeouts: Timeouts,
        server: TcpStream,
        far_app: TcpStream,
    ) -> Carried {
        let (client, near_app) = sockets().await;
        let mut opened = self.pool.connect(&self.key(far.address), &head()).await.unwrap();
        let mut stream = far.streams.lock().await.recv().await.unwrap();
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        let near =
            tokio::spawn(
                async move { both_ways(&mut Tcp::new(near_app), &mut opened.stream, &*counted, &timeouts).await },
            );
        let far = tokio::spawn(async move {
            both_ways(&mut stream, &mut Tcp::new(far_app), &Counters::default(), &timeouts).await
        });
        Carried { client, server, near, far, counters }
    }
}

impl Mesh {
    /// A server that echoes and drains its first tunnel after some requests; resolves when it has.
    pub(crate) async fn serve_and_drain_after(&self, requests: usize) -> (oneshot::Receiver<()>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drained, wait) = oneshot::channel();
        let mut drained = Some(drained);
        let keyring = Arc::clone(&self.keyring);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = keyring.server_config(&identity("server")).await.unwrap();
                let mut drained = drained.take();
                tokio::spawn(async move {
                    let mut connection = accept(tcp, &tls, &Settings::default()).await.unwrap();
                    let mut served = 0;
                    while let Some(request) = connection.next().await {
                        tokio::spawn(echo(request));
                        served += 1;
                        if served == requests && drained.is_some() {
                            connection.drain();
                            let drained = drained.take();
                            tokio::spawn(async move {
                                // The GOAWAY leaves with the next turn of the tunnel.
                                tokio::time::sleep(Duration::from_millis(50)).await;
                                drained.map(|drained| drained.send(()))
                            });
                        }
                    }
                });
            }
        });
        (wait, address)
    }

    /// A server that echoes; its tunnels up to the number that is sent are drained when it is.
    pub(crate) async fn serve_until_drained(&self) -> (watch::Sender<usize>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, drained) = watch::channel(0);
        let keyring = Arc::clone(&self.keyring);
        tokio::spawn(async move {
            for number in 1.. {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = keyring.server_config(&identity("server")).await.unwrap();
                let mut drained = drained.clone();
                tokio::spawn(async move {
                    let mut connection = accept(tcp, &tls, &Settings::default()).await.unwrap();
                    let mut draining = false;
                    loop {
                        let request = tokio::select! {
                            request = connection.next() => request,
                            told = drained.wait_for(|upto| *upto >= number), if !draining => {
                                draining = true;
                                if told.is_ok() {
                                    connection.drain();
                                }
                                continue;
                            }
                        };
                        let Some(request) = request else { return };
                        tokio::spawn(echo(request));
                    }
                });
            }
        });
        (drain, address)
    }

    /// A server that answers the first CONNECT with frames of the test's own, and perhaps hangs up; after that it
    /// echoes.
    pub(crate) async fn serve_after(&self, frames: &'static [u8], close: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let keyring = Arc::clone(&self.keyring);
        tokio::spawn(async move {
            let tls = keyring.server_config(&identity("server")).await.unwrap();
            let (tcp, _) = listener.accept().await.unwrap();
            let (mut raw, _) = tls.accept(tcp).await.unwrap();
            // SETTINGS without any, then what was asked for once a HEADERS frame has come.
            raw.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            raw.flush().await.unwrap();
            let mut preface = [0; 24];
            raw.read_exact(&mut preface).await.unwrap();
            let mut kind = 0;
            while kind != 1 {
                let mut head = [0; 9];
                raw.read_exact(&mut head).await.unwrap();
                kind = head[3];
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                raw.read_exact(&mut vec![0; length as usize]).await.unwrap();
            }
            raw.write_all(frames).await.unwrap();
            raw.flush().await.unwrap();
            let mut kept = Some(raw);
            if close {
                kept = None;
            }
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let mut connection = accept(tcp, &tls, &Settings::default()).await.unwrap();
                while let Some(request) = connection.next().await {
                    tokio::spawn(echo(request));
                }
                let _ = &kept;
            }
        });
        address
    }

    /// A server whose tunnels can be aborted.
    pub(crate) async fn serve_and_keep_sockets(&self) -> (Arc<Mutex<Vec<AbortHandle>>>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tunnels: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let (keyring, kept) = (Arc::clone(&self.keyring), Arc::clone(&tunnels));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = keyring.server_config(&identity("server")).await.unwrap();
                let tunnel = tokio::spawn(async move {
                    let mut connection = accept(tcp, &tls, &Settings::default()).await.unwrap();
                    while let Some(request) = connection.next().await {
                        tokio::spawn(echo(request));
                    }
                });
                kept.lock().await.push(tunnel.abort_handle());
            }
        });
        (tunnels, address)
    }
}

/// Sends back what comes.
pub(crate) async fn echo(request: Request) {
    let baggage = Baggage { service: Some("echo".into()), ..Baggage::default() };
    let stream = request.accept(Some(&baggage)).unwrap();
    let (mut read, mut write) = split(stream);
    if copy(&mut read, &mut write).await.is_ok() {
        let _ = write.shutdown().await;
    }
}

/// Two ends of a TCP connection.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

pub(crate) fn head() -> ConnectHead {
    ConnectHead::new(Authority::Address("10.0.0.2:8080".parse().unwrap()))
}

/// Waits until `holds`, for at most five seconds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
