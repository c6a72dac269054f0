//! The TLS of the mesh against another implementation of its I/O (tokio-rustls) and against itself, over loopback.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::provider::VERSIONS;
use super::*;
use mesh::model::identity::Identity;

/// A root and what it signs.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<Roots>,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let roots = Arc::new(Roots::new(vec![root.der().clone()]).unwrap());
        Self { issuer: Issuer::new(params, key), roots }
    }

    /// A certificate with these URIs, valid for a day around `at`.
    fn sign(&self, uris: &[&str], at: SystemTime) -> Chain {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect::<Vec<_>>();
        params.not_before = (at - DAY / 2).into();
        params.not_after = (at + DAY / 2).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (vec![leaf.der().clone()], key)
    }

    pub(crate) fn sign_for(&self, account: &str) -> Chain {
        self.sign(&[&identity(account).to_string()], SystemTime::now())
    }

    fn certificate(&self, account: &str) -> Certificate {
        let (chain, key) = self.sign_for(account);
        Certificate::new(chain, der(&key), Arc::clone(&self.roots)).unwrap()
    }
}

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "default", account)
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// Both of our ends, connected.
async fn ours(server: &ServerConfig, client: &ClientConfig) -> ((TlsStream, Peer), (TlsStream, Peer)) {
    let (near, far) = sockets().await;
    let expected = [identity("server")];
    let (near, far) = tokio::join!(client.connect(near, &expected), server.accept(far));
    (near.unwrap(), far.unwrap())
}

/// Sends the same bytes both ways at once, in writes of many sizes, and checks what arrives.
async fn exchange<A, B>(a: A, b: B, len: usize)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(len).collect();
    let ((mut a_read, mut a_write), (mut b_read, mut b_write)) = (split(a), split(b));
    let send = async |write: &mut (dyn tokio::io::AsyncWrite + Unpin)| {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let size = fastrand::usize(1..=[100, 17_000, 300_000][fastrand::usize(..3)]).min(rest.len());
            write.write_all(&rest[..size]).await.unwrap();
            if fastrand::bool() {
                write.flush().await.unwrap();
            }
            rest = &rest[size..];
        }
        write.flush().await.unwrap();
    };
    let receive = async |read: &mut (dyn tokio::io::AsyncRead + Unpin)| {
        let mut received = vec![0; bytes.len()];
        read.read_exact(&mut received).await.unwrap();
        assert!(received == bytes);
    };
    tokio::join!(send(&mut a_write), receive(&mut b_read), send(&mut b_write), receive(&mut a_read));
}

const MEGABYTES: usize = 5_000_000;

#[tokio::test]
async fn bytes_survive_between_our_own_ends() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let client = ClientConfig::new(&ca.certificate("client"));
    let ((near, near_peer), (far, far_peer)) = ours(&server, &client).await;
    assert_eq!((near_peer.identity, far_peer.identity), (identity("server"), identity("client")));
    exchange(near, far, MEGABYTES).await;
}

#[tokio::test]
async fn bytes_survive_with_a_client_of_another_kind() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let client = TlsConnector::from(Arc::new(plain_client(&ca, Some("client"))));
    let (near, far) = sockets().await;
    let (near, far) = tokio::join!(client.connect(name(), near), server.accept(far));
    exchange(near.unwrap(), far.unwrap().0, MEGABYTES).await;
}

#[tokio::test]
async fn bytes_survive_with_a_server_of_another_kind() {
    let ca = Ca::new();
    let client = ClientConfig::new(&ca.certificate("client"));
    let server = TlsAcceptor::from(Arc::new(plain_server(&ca, ca.sign_for("server"))));
    let (near, far) = sockets().await;
    let expected = [identity("server")];
    let (near, far) = tokio::join!(client.connect(near, &expected), server.accept(far));
    exchange(near.unwrap().0, far.unwrap(), MEGABYTES).await;
}

#[tokio::test]
async fn keys_are_changed_before_they_are_used_up() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let client = TlsConnector::from(Arc::new(plain_client(&ca, Some("client"))));
    let (near, far) = sockets().await;
    let (near, far) = tokio::join!(client.connect(name(), near), server.accept(far));
    let (near, mut far) = (near.unwrap(), far.unwrap().0);
    far.records_per_key = 5;
    exchange(near, far, MEGABYTES).await;
}

#[tokio::test]
async fn a_peer_may_change_its_key_and_ask_for_ours() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let client = TlsConnector::from(Arc::new(plain_client(&ca, Some("client"))));
    let (near, far) = sockets().await;
    let (near, far) = tokio::join!(client.connect(name(), near), server.accept(far));
    let (mut near, mut far) = (near.unwrap(), far.unwrap().0);
    for round in 0..10_u8 {
        near.get_mut().1.refresh_traffic_keys().unwrap();
        near.write_all(&[round; 100]).await.unwrap();
        near.flush().await.unwrap();
        let mut received = [0; 100];
        far.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [round; 100]);
        far.write_all(&received).await.unwrap();
        far.flush().await.unwrap();
        near.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [round; 100]);
    }
}

#[tokio::test]
async fn a_flood_of_key_changes_ends_the_connection() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let client = TlsConnector::from(Arc::new(plain_client(&ca, Some("client"))));
    let (near, far) = sockets().await;
    let (near, far) = tokio::join!(client.connect(name(), near), server.accept(far));
    let (mut near, mut far) = (near.unwrap(), far.unwrap().0);
    let flood = async {
        loop {
            near.get_mut().1.refresh_traffic_keys().unwrap();
            if near.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let error = tokio::select! { () = flood => panic!("the flood ended"), read = far.read_u8() => read.unwrap_err() };
    assert_eq!(error.to_string(), "too many TLS messages without data");
}

#[tokio::test]
async fn the_end_is_told_from_a_cut() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let client = ClientConfig::new(&ca.certificate("client"));
    let ((mut near, _), (mut far, _)) = ours(&server, &client).await;
    near.write_all(b"bye").await.unwrap();
    near.shutdown().await.unwrap();
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"bye");

    let ((mut near, _), (mut far, _)) = ours(&server, &client).await;
    near.tcp.shutdown().await.unwrap();
    assert_eq!(far.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_is_altered_on_the_way_is_refused() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let client = ClientConfig::new(&ca.certificate("client"));
    for forged in [b"\x17\x03\x03\x00\x14not sealed by anyone".to_vec(), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let ((mut near, _), (mut far, _)) = ours(&server, &client).await;
        near.tcp.write_all(&forged).await.unwrap();
        assert_eq!(far.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn a_second_tunnel_resumes_the_session() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let client = ClientConfig::new(&ca.certificate("client"));
    for round in 0..4 {
        let ((mut near, near_peer), (mut far, far_peer)) = ours(&server, &client).await;
        assert_eq!((near_peer.resumed, far_peer.resumed), (round > 0, round > 0), "{round}");
        assert_eq!((near_peer.identity, far_peer.identity), (identity("server"), identity("client")));
        // The ticket comes with the first bytes.
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        near.read_u8().await.unwrap();
    }
}

#[tokio::test]
async fn a_session_does_not_outlive_the_certificate_that_it_began_with() {
    let ca = Ca::new();
    let client = ClientConfig::new(&ca.certificate("client"));
    let before = ServerConfig::new(&ca.certificate("server")).unwrap();
    let ((mut near, _), (mut far, _)) = ours(&before, &client).await;
    far.write_all(b"x").await.unwrap();
    far.flush().await.unwrap();
    near.read_u8().await.unwrap();
    let renewed = ServerConfig::new(&ca.certificate("server")).unwrap();
    let ((_, near_peer), _) = ours(&renewed, &client).await;
    assert!(!near_peer.resumed);
}

#[tokio::test]
async fn a_session_is_not_resumed_for_other_expectations() {
    let ca = Ca::new();
    let client = ClientConfig::new(&ca.certificate("client"));
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let ((mut near, _), (mut far, _)) = ours(&server, &client).await;
    far.write_all(b"x").await.unwrap();
    far.flush().await.unwrap();
    near.read_u8().await.unwrap();
    let (near, far) = sockets().await;
    let expected = [identity("other"), identity("third")];
    let (near, far) = tokio::join!(client.connect(near, &expected), server.accept(far));
    assert_eq!(near.unwrap_err().reason(), "unexpected_identity");
    assert!(far.is_err());
}

fn name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

pub(crate) type Chain = (Vec<CertificateDer<'static>>, KeyPair);

/// A client that is not ours: it verifies as ours does, and sends a name.
pub(crate) fn plain_client(ca: &Ca, account: Option<&str>) -> rustls::ClientConfig {
    plain_client_with(ca, VERSIONS, account.map(|account| ca.sign_for(account)))
}

fn plain_client_with(
    trusts: &Ca,
    versions: &[&'static rustls::SupportedProtocolVersion],
    certificate: Option<Chain>,
) -> rustls::ClientConfig {
    let verifier = verify::ServerVerifier::new(Arc::clone(&trusts.roots), &[identity("server")]);
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match certificate {
        Some((chain, key)) => builder.with_client_auth_cert(chain, der(&key)).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A server that is not ours.
pub(crate) fn plain_server(trusts: &Ca, (chain, key): Chain) -> rustls::ServerConfig {
    let roots = Arc::clone(trusts.roots.store());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, der(&key))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";

/// What our server says of a client with this configuration.
async fn server_says(ca: &Ca, client: rustls::ClientConfig) -> &'static str {
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let (near, far) = sockets().await;
    let client = TlsConnector::from(Arc::new(client));
    // A TLS 1.3 client is done before the server has looked at its certificate.
    let (_near, far) = tokio::join!(client.connect(name(), near), server.accept(far));
    far.unwrap_err().reason()
}

/// What our client says of a server with this configuration.
async fn client_says(ca: &Ca, server: rustls::ServerConfig) -> &'static str {
    let client = ClientConfig::new(&ca.certificate("client"));
    let (near, far) = sockets().await;
    let server = TlsAcceptor::from(Arc::new(server));
    let expected = [identity("server")];
    let (near, far) = tokio::join!(client.connect(near, &expected), server.accept(far));
    drop(far);
    near.unwrap_err().reason()
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let ca = Ca::new();
    assert_eq!(server_says(&ca, plain_client(&ca, None)).await, "no_certificate");
}

#[tokio::test]
async fn a_client_with_a_bad_certificate_is_refused() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let now = SystemTime::now();
    let two = [CLIENT, "spiffe://cluster.local/ns/default/sa/other"];
    let shouted = [CLIENT, "SPIFFE://cluster.local/ns/default/sa/other"];
    for (chain, reason) in [
        (ca.sign(&[CLIENT], now - 2 * DAY), "expired"),
        (ca.sign(&[CLIENT], now + 2 * DAY), "expired"),
        (foreign.sign(&[CLIENT], now), "unknown_root"),
        (self_signed(), "unknown_root"),
        (ca.sign(&["spiffe://elsewhere/ns/default/sa/client"], now), "trust_domain"),
        (ca.sign(&two, now), "several_identities"),
        (ca.sign(&shouted, now), "several_identities"),
        (ca.sign(&["https://cluster.local/x"], now), "no_identity"),
        (ca.sign(&[], now), "no_identity"),
        (ca.sign(&["spiffe://cluster.local/x"], now), "malformed_identity"),
    ] {
        assert_eq!(server_says(&ca, plain_client_with(&ca, VERSIONS, Some(chain))).await, reason);
    }
}

#[tokio::test]
async fn a_server_with_a_bad_certificate_is_refused() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let now = SystemTime::now();
    for (chain, reason) in [
        (ca.sign(&[SERVER], now - 2 * DAY), "expired"),
        (foreign.sign(&[SERVER], now), "unknown_root"),
        (self_signed(), "unknown_root"),
        (ca.sign(&["spiffe://cluster.local/ns/default/sa/other"], now), "unexpected_identity"),
        (ca.sign(&["spiffe://elsewhere/ns/default/sa/server"], now), "unexpected_identity"),
        (ca.sign(&[SERVER, CLIENT], now), "several_identities"),
        (ca.sign(&[], now), "no_identity"),
    ] {
        assert_eq!(client_says(&ca, plain_server(&ca, chain)).await, reason);
    }
}

fn self_signed() -> Chain {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(SERVER.try_into().unwrap())];
    (vec![params.self_signed(&key).unwrap().der().clone()], key)
}

#[tokio::test]
async fn a_peer_that_does_not_offer_h2_is_refused() {
    let ca = Ca::new();
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut client = plain_client(&ca, Some("client"));
        client.alpn_protocols = protocols.clone();
        assert_eq!(server_says(&ca, client).await, "no_alpn");
        let mut server = plain_server(&ca, ca.sign_for("server"));
        server.alpn_protocols = protocols;
        assert_eq!(client_says(&ca, server).await, "no_alpn");
    }
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let ca = Ca::new();
    let chain = ca.sign(&[CLIENT], SystemTime::now());
    let client = plain_client_with(&ca, &[&rustls::version::TLS12], Some(chain));
    assert_eq!(server_says(&ca, client).await, "incompatible");
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    for (said, reason) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "not_tls"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_tls"),
        (&[0; 40], "not_tls"),
        (b"", "transport"),
        (b"\x16\x03\x01\x02", "transport"),
    ] {
        let (mut near, far) = sockets().await;
        near.write_all(said).await.unwrap();
        near.shutdown().await.unwrap();
        assert_eq!(server.accept(far).await.unwrap_err().reason(), reason, "{said:?}");
    }
}

#[tokio::test]
async fn an_endless_handshake_is_refused() {
    let ca = Ca::new();
    let server = ServerConfig::new(&ca.certificate("server")).unwrap();
    let (mut near, far) = sockets().await;
    // A ClientHello that says it is 16 MB long, in records of 16 KiB.
    let flood = async {
        let mut record = vec![0x16, 3, 1, 0x40, 0];
        record.resize(5 + 0x4000, 0);
        record[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        while near.write_all(&record).await.is_ok() {
            record[5..9].copy_from_slice(&[0; 4]);
        }
    };
    let (refused, ()) = tokio::join!(server.accept(far), flood);
    assert!(["too_long", "not_tls", "protocol"].contains(&refused.unwrap_err().reason()));
}
