//! The embedded CA on a real disk: made once, by one of many, and only where nobody else can reach it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::tls::{Certificate, Roots};
use mesh::model::identity::Identity;
use mesh::model::name::TrustDomain;

fn open(directory: &Path) -> Result<EmbeddedCa, DirectoryError> {
    EmbeddedCa::open(directory, &TrustDomain::from("cluster.local"), LEAF_LIFETIME)
}

fn shop() -> Identity {
    Identity::new("cluster.local", "default", "shop")
}

async fn issue(ca: &EmbeddedCa) -> Certificate {
    let request = SigningRequest::new(shop()).unwrap();
    let issued = ca.issue(&request).await.unwrap();
    let certificate = Certificate::new(issued.chain, request.key(), issued.roots).unwrap();
    certificate.verify(SystemTime::now()).unwrap();
    certificate
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A directory that only its owner can access.
fn private_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o700);
    directory
}

/// The same with files of `testdata`.
fn with_files(files: &[(&str, &str)]) -> TempDir {
    let directory = private_directory();
    for (from, to) in files {
        let content = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ca/testdata").join(from)).unwrap();
        fs::write(directory.path().join(to), content).unwrap();
        set_mode(&directory.path().join(to), 0o600);
    }
    directory
}

#[tokio::test]
async fn the_first_start_makes_a_ca_and_the_next_uses_it() {
    let directory = private_directory();
    let path = directory.path().join("deep").join("ca");
    let first = open(&path).unwrap();
    assert_eq!((mode(&path), mode(&path.join("ca-key.pem"))), (0o700, 0o600));
    let second = open(&path).unwrap();
    assert_eq!(first.roots(), second.roots());
    // A leaf of either is trusted by the other's peers.
    let certificate = issue(&first).await;
    let (_, root) = X509Certificate::from_der(&second.roots().der()[0]).unwrap();
    assert!(root.is_ca());
    let years = Duration::from_secs(9 * 365 * 24 * 3600);
    assert!(SystemTime::from(root.validity().not_after.to_datetime()) > SystemTime::now() + years);
    certificate.verify(SystemTime::now() + Duration::from_secs(23 * 3600)).unwrap();
    assert!(certificate.verify(SystemTime::now() + Duration::from_secs(25 * 3600)).is_err());
}

#[tokio::test]
async fn a_leaf_names_the_identity_critically_and_nothing_else() {
    let directory = private_directory();
    let certificate = issue(&open(&directory.path().join("ca")).unwrap()).await;
    assert_eq!(*certificate.identity(), shop());
    let (_, leaf) = X509Certificate::from_der(&certificate.chain()[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    assert!(matches!(san.value.general_names[..], [GeneralName::URI("spiffe://cluster.local/ns/default/sa/shop")]));
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth);
    assert!(!leaf.is_ca());
}

#[test]
fn agents_that_start_together_end_with_one_ca() {
    for _ in 0..20 {
        let directory = private_directory();
        let path = directory.path().join("ca");
        let start = Barrier::new(8);
        let roots: Vec<_> = std::thread::scope(|scope| {
            let agent = || {
                start.wait();
                open(&path).unwrap().roots().der()[0].clone()
            };
            let agents: Vec<_> = (0..8).map(|_| scope.spawn(agent)).collect();
            agents.into_iter().map(|agent| agent.join().unwrap()).collect()
        });
        assert!(roots.iter().all(|root| *root == roots[0]));
        let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [".lock", "ca-cert.pem", "ca-key.pem"]);
    }
}

#[test]
fn a_key_whose_certificate_was_not_written_is_used() {
    let directory = private_directory();
    open(directory.path()).unwrap();
    let key = fs::read(directory.path().join("ca-key.pem")).unwrap();
    fs::remove_file(directory.path().join("ca-cert.pem")).unwrap();
    open(directory.path()).unwrap();
    assert_eq!(fs::read(directory.path().join("ca-key.pem")).unwrap(), key);
}

#[test]
fn a_certificate_without_its_key_is_not_replaced() {
    let directory = private_directory();
    open(directory.path()).unwrap();
    fs::remove_file(directory.path().join("ca-key.pem")).unwrap();
    let error = open(directory.path()).map(drop).unwrap_err();
    assert!(error.to_string().contains("there is a certificate and no ca-key.pem"), "{error}");
}

#[test]
fn what_others_can_reach_is_refused() {
    let directory = private_directory();
    open(directory.path()).unwrap();
    let key = directory.path().join("ca-key.pem");
    for (path, bad, says) in [
        (directory.path(), 0o777, "lets others replace the CA's key in it"),
        (directory.path(), 0o720, "lets others replace the CA's key in it"),
        (directory.path(), 0o755, "lets others look into the CA's directory"),
        (&*key, 0o644, "lets others read the CA's key"),
        (&*key, 0o640, "lets others read the CA's key"),
        (&*key, 0o602, "lets others write the CA's key"),
    ] {
        let good = mode(path);
        set_mode(path, bad);
        let error = open(directory.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(&format!("{bad:04o}")), "{error}");
        assert!(error.contains("chmod "), "{error}");
        set_mode(path, good);
        open(directory.path()).unwrap();
    }
}

#[test]
fn a_key_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can give a file away; the check itself is the same for the directory.
        return;
    }
    let directory = private_directory();
    open(directory.path()).unwrap();
    std::os::unix::fs::chown(directory.path().join("ca-key.pem"), Some(12345), None).unwrap();
    let error = open(directory.path()).map(drop).unwrap_err().to_string();
    assert!(error.contains("owned by uid 12345"), "{error}");
}

const RSA: [(&str, &str); 4] = [
    ("rsa/ca-key.pem", "ca-key.pem"),
    ("rsa/ca-cert.pem", "ca-cert.pem"),
    ("rsa/cert-chain.pem", "cert-chain.pem"),
    ("rsa/root-cert.pem", "root-cert.pem"),
];

const EC: [(&str, &str); 4] = [
    ("ec/ca-key.pem", "ca-key.pem"),
    ("ec/ca-cert.pem", "ca-cert.pem"),
    ("ec/cert-chain.pem", "cert-chain.pem"),
    ("ec/root-cert.pem", "root-cert.pem"),
];

#[tokio::test]
async fn a_users_own_intermediate_signs() {
    let mut pkcs8 = EC;
    pkcs8[0].0 = "ec/ca-key.pkcs8.pem";
    for files in [RSA, EC, pkcs8] {
        let directory = with_files(&files);
        let ca = open(directory.path()).unwrap();
        let certificate = issue(&ca).await;
        // Leaf and intermediate, without the root that cert-chain.pem repeats.
        assert_eq!(certificate.chain().len(), 2);
        let root = fs::read(directory.path().join("root-cert.pem")).unwrap();
        assert_eq!(**ca.roots(), Roots::from_pem(&root).unwrap());
        // The directory is read, nothing is written.
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
    }
}

#[tokio::test]
async fn a_root_without_chain_files_signs_by_itself() {
    let directory = private_directory();
    open(directory.path()).unwrap();
    assert_eq!(issue(&open(directory.path()).unwrap()).await.chain().len(), 1);
}

#[test]
fn files_that_do_not_belong_together_are_named() {
    let swap = |mut files: [(&'static str, &'static str); 4], at: usize, with: &'static str| {
        files[at].0 = with;
        files
    };
    for (files, says) in [
        (swap(RSA, 0, "ec/ca-key.pem"), "ca-cert.pem: it is not the certificate of the key in ca-key.pem"),
        (swap(RSA, 0, "rsa/ca-cert.pem"), "ca-key.pem: not a private key in PEM"),
        (swap(RSA, 1, "README.md"), "ca-cert.pem: ca-cert.pem: no certificate"),
        (swap(RSA, 3, "ec/root-cert.pem"), "what it signs does not chain to the roots"),
        (swap(EC, 2, "rsa/cert-chain.pem"), ""),
    ] {
        let directory = with_files(&files);
        match open(directory.path()) {
            Err(error) => assert!(error.to_string().contains(says) && !says.is_empty(), "{error}"),
            // A chain that is not needed does not hurt: the certificate of the key is always in what is sent.
            Ok(_) => assert!(says.is_empty(), "{says}"),
        }
    }
}

#[tokio::test]
async fn no_leaf_outlives_its_ca() {
    let directory = with_files(&EC);
    let long = Duration::from_secs(300 * 365 * 24 * 3600);
    let ca = EmbeddedCa::open(directory.path(), &TrustDomain::from("cluster.local"), long).unwrap();
    let certificate = issue(&ca).await;
    let (_, intermediate) = X509Certificate::from_der(&certificate.chain()[1]).unwrap();
    assert_eq!(certificate.not_after(), SystemTime::from(intermediate.validity().not_after.to_datetime()));
}

#[tokio::test]
async fn a_request_whose_sender_has_not_the_key_is_refused() {
    let directory = private_directory();
    let ca = open(directory.path()).unwrap();
    let mut request = SigningRequest::new(shop()).unwrap();
    let mut der = request.der.to_vec();
    *der.last_mut().unwrap() ^= 1;
    request.der = der.into();
    assert!(matches!(ca.issue(&request).await, Err(IssueError::Refused(_))));
}

#[tokio::test]
async fn what_is_no_identity_is_not_signed_whoever_asks() {
    let directory = private_directory();
    let ca = open(directory.path()).unwrap();
    for account in ["x;URI=root,By=y", "a/sa/b", "Shop", "a b", ""] {
        let mut request = SigningRequest::new(shop()).unwrap();
        request.identity = Identity::new("cluster.local", "default", account);
        assert!(matches!(ca.issue(&request).await, Err(IssueError::Refused(_))), "{account}");
    }
}
