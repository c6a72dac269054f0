//! The keyring with a scripted CA. Time is paused, so waiting costs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::*;
use crate::ca::{EmbeddedCa, IssueError, IssueFuture, Issuer, LEAF_LIFETIME, SigningRequest};
use mesh::model::identity::Identity;

/// An embedded CA that can be told to fail, to be slow, or to confuse identities.
struct Ca {
    ca: EmbeddedCa,
    down: Mutex<Option<&'static str>>,
    delay: Mutex<Duration>,
    confused: Mutex<bool>,
    asked: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

impl Ca {
    fn new(lifetime: Duration) -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let ca = EmbeddedCa::open(&directory.path().join("ca"), &"cluster.local".into(), lifetime).unwrap();
        Arc::new(Self {
            ca,
            down: Mutex::default(),
            delay: Mutex::default(),
            confused: Mutex::default(),
            asked: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Issuer for Ca {
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> IssueFuture<'a> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_running.fetch_max(running, Ordering::SeqCst);
            let delay = *self.delay.lock();
            sleep(delay).await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            let down = *self.down.lock();
            if let Some(why) = down {
                return Err(IssueError::Unavailable(why.to_owned()));
            }
            let confused = *self.confused.lock();
            if confused {
                let other = SigningRequest::new(identity("somebody")).unwrap();
                return self.ca.issue(&other).await;
            }
            self.ca.issue(request).await
        })
    }
}

fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "default", name)
}

fn ring(ca: &Arc<Ca>) -> Arc<Keyring> {
    Keyring::new(Arc::clone(ca) as _, Options::default())
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_for_the_first_certificate() {
    let ca = Ca::new(LEAF_LIFETIME);
    *ca.delay.lock() = Duration::from_secs(2);
    let ring = ring(&ca);
    ring.want(identity("shop"));
    assert_eq!(ring.list()[0].state(SystemTime::now()), "Initializing");
    let certificate = ring.certificate(&identity("shop")).await.unwrap();
    assert_eq!(*certificate.identity(), identity("shop"));
    assert_eq!(ring.list()[0].state(SystemTime::now()), "Available");
    assert_eq!(ca.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_is_not_known() {
    let ring = ring(&Ca::new(LEAF_LIFETIME));
    assert!(matches!(ring.certificate(&identity("shop")).await, Err(KeyringError::Unknown(_))));
}

#[tokio::test(start_paused = true)]
async fn one_certificate_serves_all_workloads_of_an_identity_and_goes_with_the_last() {
    let ca = Ca::new(LEAF_LIFETIME);
    let ring = ring(&ca);
    for _ in 0..3 {
        ring.want(identity("shop"));
    }
    ring.certificate(&identity("shop")).await.unwrap();
    ring.forget(&identity("shop"));
    ring.forget(&identity("shop"));
    ring.certificate(&identity("shop")).await.unwrap();
    ring.forget(&identity("shop"));
    assert!(matches!(ring.certificate(&identity("shop")).await, Err(KeyringError::Unknown(_))));
    ring.forget(&identity("shop"));
    sleep(Duration::from_secs(48 * 3600)).await;
    assert_eq!(ca.asked(), 1);
    assert!(ring.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn configurations_are_made_once_per_certificate() {
    let ca = Ca::new(LEAF_LIFETIME);
    let ring = ring(&ca);
    ring.want(identity("shop"));
    let (server, client) = (ring.server_config(&identity("shop")).await, ring.client_config(&identity("shop")).await);
    let (server, client) = (server.unwrap(), client.unwrap());
    assert!(Arc::ptr_eq(&server, &ring.server_config(&identity("shop")).await.unwrap()));
    assert!(Arc::ptr_eq(&client, &ring.client_config(&identity("shop")).await.unwrap()));
    sleep(Duration::from_secs(14 * 3600)).await;
    assert_eq!(ca.asked(), 2);
    assert!(!Arc::ptr_eq(&server, &ring.server_config(&identity("shop")).await.unwrap()));
    assert!(!Arc::ptr_eq(&client, &ring.client_config(&identity("shop")).await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_half_life_give_or_take() {
    let ca = Ca::new(LEAF_LIFETIME);
    let ring = ring(&ca);
    ring.want(identity("shop"));
    ring.certificate(&identity("shop")).await.unwrap();
    sleep(Duration::from_secs(10 * 3600)).await;
    assert_eq!(ca.asked(), 1);
    sleep(Duration::from_secs(4 * 3600)).await;
    assert_eq!(ca.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_the_ca_is_down_the_old_certificate_stays_and_the_ca_is_not_stormed() {
    let ca = Ca::new(LEAF_LIFETIME);
    let ring = ring(&ca);
    ring.want(identity("shop"));
    let first = ring.certificate(&identity("shop")).await.unwrap();
    *ca.down.lock() = Some("gone fishing");
    sleep(Duration::from_secs(14 * 3600)).await;
    let kept = ring.certificate(&identity("shop")).await.unwrap();
    assert_eq!(kept.serial(), first.serial());
    let listed = &ring.list()[0];
    assert_eq!(listed.state(SystemTime::now()), "Available");
    assert!(listed.failure.as_ref().unwrap().contains("gone fishing"));
    // At most every two minutes once it is known to be down.
    assert!((10..4 * 3600 / 100).contains(&ca.asked()), "{}", ca.asked());
    *ca.down.lock() = None;
    sleep(Duration::from_secs(200)).await;
    assert_ne!(ring.certificate(&identity("shop")).await.unwrap().serial(), first.serial());
    assert!(ring.list()[0].failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_does_not_wait_for_ever() {
    let ca = Ca::new(LEAF_LIFETIME);
    *ca.down.lock() = Some("gone fishing");
    let ring = ring(&ca);
    ring.want(identity("shop"));
    let began = Instant::now();
    let error = ring.certificate(&identity("shop")).await.unwrap_err();
    assert_eq!(began.elapsed(), Options::default().patience);
    assert!(error.to_string().contains("gone fishing"), "{error}");
    assert!(ring.list()[0].state(SystemTime::now()).starts_with("Unavailable: "));
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_does_not_answer_is_asked_again() {
    let ca = Ca::new(LEAF_LIFETIME);
    *ca.delay.lock() = Duration::from_secs(3600);
    let ring = ring(&ca);
    ring.want(identity("shop"));
    sleep(Duration::from_secs(10)).await;
    *ca.delay.lock() = Duration::ZERO;
    sleep(Duration::from_secs(1)).await;
    ring.certificate(&identity("shop")).await.unwrap();
    assert_eq!(ca.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_somebody_else_is_not_used() {
    let ca = Ca::new(LEAF_LIFETIME);
    *ca.confused.lock() = true;
    let ring = ring(&ca);
    ring.want(identity("shop"));
    let error = ring.certificate(&identity("shop")).await.unwrap_err();
    assert!(error.to_string().contains("the CA's answer cannot be used"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_asks_for_eight_at_a_time() {
    let ca = Ca::new(LEAF_LIFETIME);
    *ca.delay.lock() = Duration::from_millis(100);
    let ring = ring(&ca);
    for n in 0..50 {
        ring.want(identity(&format!("sa-{n}")));
    }
    for n in 0..50 {
        ring.certificate(&identity(&format!("sa-{n}"))).await.unwrap();
    }
    assert_eq!((ca.asked(), ca.most_running.load(Ordering::SeqCst)), (50, 8));
}

#[tokio::test]
async fn an_expired_certificate_is_not_used() {
    let ca = Ca::new(Duration::from_secs(2));
    let ring = ring(&ca);
    ring.want(identity("shop"));
    ring.certificate(&identity("shop")).await.unwrap();
    *ca.down.lock() = Some("gone fishing");
    sleep(Duration::from_millis(3100)).await;
    let error = ring.certificate(&identity("shop")).await.unwrap_err();
    assert!(matches!(error, KeyringError::Expired { .. }), "{error}");
    assert!(ring.list()[0].state(SystemTime::now()).starts_with("Unavailable: "));
}
