//! A CA, keyrings and an echo server behind HBONE: what the tests here need of a mesh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mesh::ca::{EmbeddedCa, LEAF_LIFETIME};
use mesh::hbone::{Authority, ConnectHead, Dial, DialFuture, Pool, PoolOptions, Request, Settings, TunnelKey, accept};
use mesh::keyring::{Keyring, Options};
use mesh::model::identity::Identity;
use tokio::net::{TcpListener, TcpStream};

/// An identity of namespace `default` in `cluster.local`.
pub(crate) fn identity(service_account: &str) -> Identity {
    Identity::new("cluster.local", "default", service_account)
}

/// A CA in a folder of its own.
pub(crate) fn new_ca() -> Arc<EmbeddedCa> {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(EmbeddedCa::open(&folder.path().join("ca"), &"cluster.local".into(), LEAF_LIFETIME).unwrap())
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
}

/// Two ends that trust each other: `client` dials, `server` accepts.
pub(crate) struct Mesh {
    pub(crate) keyring: Arc<Keyring>,
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
        Self { keyring, dialler, pool }
    }

    /// A server that gives each request to `handler`, in a task of its own.
    pub(crate) async fn serve<F, R>(&self, settings: Settings, handler: F) -> SocketAddr
    where
        F: Fn(Request) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let keyring = Arc::clone(&self.keyring);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                let tls = keyring.server_config(&identity("server")).await.unwrap();
                let (settings, handler) = (settings.clone(), handler.clone());
                tokio::spawn(async move {
                    let Ok(mut connection) = accept(tcp, &tls, &settings).await else { return };
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
