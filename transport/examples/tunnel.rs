//! Carries TCP connections through HBONE on one machine, to measure what that costs: no capture, no policy, no
//! telemetry.
//!
//! ```text
//! tunnel far  CA_DIR 127.0.0.1:15008                                   # accepts HBONE, dials each CONNECT's target
//! tunnel near CA_DIR 127.0.0.1:9000 127.0.0.1:15008 127.0.0.1:5201     # listens, tunnels each connection to the target
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use mesh::model::identity::Identity;
use tokio::net::{TcpListener, TcpStream};
use transport::ca::{EmbeddedCa, LEAF_LIFETIME};
use transport::hbone::{
    Authority, ConnectHead, Dial, DialFuture, Pool, PoolOptions, Request, Settings, TunnelKey, accept,
};
use transport::keyring::{Keyring, Options};
use transport::net::copy::{Counters, Timeouts, both_ways};
use transport::net::socket::tune_local;
use transport::net::tcp::Tcp;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Dialler;

impl Dial for Dialler {
    fn dial<'a>(&'a self, key: &'a TunnelKey) -> DialFuture<'a> {
        Box::pin(dial(key.destination))
    }
}

async fn dial(to: SocketAddr) -> std::io::Result<TcpStream> {
    let tcp = TcpStream::connect(to).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "default", name)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["far", ca, listen] => far(keyring(ca, "far")?, listen.parse()?).await,
        ["near", ca, listen, hbone, target] => {
            near(keyring(ca, "near")?, listen.parse()?, hbone.parse()?, target.parse()?).await
        }
        _ => Err("usage: tunnel far CA_DIR LISTEN | tunnel near CA_DIR LISTEN HBONE TARGET".into()),
    }
}

fn keyring(ca: &str, name: &str) -> Result<Arc<Keyring>, Failure> {
    let ca = EmbeddedCa::open(Path::new(ca), &"cluster.local".into(), LEAF_LIFETIME)?;
    let keyring = Keyring::new(Arc::new(ca), Options::default());
    keyring.want(identity(name));
    Ok(keyring)
}

async fn far(keyring: Arc<Keyring>, listen: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen).await?;
    let tls = keyring.server_config(&identity("far")).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let tls = Arc::clone(&tls);
        tokio::spawn(async move {
            let mut connection = accept(tcp, &tls, &Settings::default()).await?;
            while let Some(request) = connection.next().await {
                tokio::spawn(answer(request));
            }
            Ok::<_, Failure>(())
        });
    }
}

async fn answer(request: Request) -> Result<(), Failure> {
    let Ok(ConnectHead { authority: Authority::Address(target), .. }) = request.head() else {
        request.refuse(http::StatusCode::BAD_REQUEST);
        return Ok(());
    };
    let tcp = dial(*target).await?;
    tune_local(&tcp);
    let mut tcp = Tcp::new(tcp);
    let mut stream = request.accept(None)?;
    both_ways(&mut stream, &mut tcp, &Counters::default(), &Timeouts::default()).await?;
    Ok(())
}

async fn near(keyring: Arc<Keyring>, listen: SocketAddr, hbone: SocketAddr, target: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen).await?;
    let pool = Pool::new(keyring, Arc::new(Dialler), PoolOptions::default());
    let key = TunnelKey {
        workload: "near".into(),
        source: identity("near"),
        destination: hbone,
        expected: Arc::new([identity("far")]),
    };
    let head = ConnectHead::new(Authority::Address(target));
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        tune_local(&tcp);
        let (pool, key, head) = (Arc::clone(&pool), key.clone(), head.clone());
        tokio::spawn(async move {
            let mut opened = pool.connect(&key, &head).await?;
            let mut tcp = Tcp::new(tcp);
            both_ways(&mut tcp, &mut opened.stream, &Counters::default(), &Timeouts::default()).await?;
            Ok::<_, Failure>(())
        });
    }
}
