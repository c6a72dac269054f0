//! The task that issues, renews, retries and forgets.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::entry::Keys;
use super::schedule::Next;
use super::shared::Shared;
use crate::ca::{IssueError, Issuer, SigningRequest};
use crate::tls::Certificate;
use mesh::model::identity::Identity;

type Attempt = (Identity, Result<Keys, IssueError>);

/// Runs until the keyring is dropped.
pub(crate) async fn run(shared: Arc<Shared>, issuer: Arc<dyn Issuer>, issue_timeout: Duration) {
    let mut running: JoinSet<Attempt> = JoinSet::new();
    loop {
        let wake = match shared.with_schedule(|schedule| schedule.next(Instant::now().into_std())) {
            Next::Issue(identity) => {
                running.spawn(attempt(Arc::clone(&issuer), identity, issue_timeout));
                continue;
            }
            Next::Wait(due) => Some(Instant::from_std(due)),
            Next::Idle => None,
        };
        tokio::select! {
            () = shared.changed() => {}
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            Some(done) = running.join_next() => match done {
                Ok((identity, result)) => finish(&shared, &identity, result),
                Err(why) => warn!("issuing a certificate ended unexpectedly: {why}"),
            }
        }
    }
}

async fn attempt(issuer: Arc<dyn Issuer>, identity: Identity, issue_timeout: Duration) -> Attempt {
    let result = match timeout(issue_timeout, issue(&*issuer, &identity)).await {
        Ok(result) => result,
        Err(_) => Err(IssueError::Unavailable(format!("no answer in {} s", issue_timeout.as_secs()))),
    };
    (identity, result)
}

async fn issue(issuer: &dyn Issuer, identity: &Identity) -> Result<Keys, IssueError> {
    let request = SigningRequest::new(identity.clone())?;
    let issued = issuer.issue(&request).await?;
    let unusable = |why: String| IssueError::Unusable(why);
    let certificate =
        Certificate::new(issued.chain, request.key(), issued.roots).map_err(|why| unusable(why.to_string()))?;
    if certificate.identity() != identity {
        return Err(unusable(format!("it is for {}", certificate.identity())));
    }
    certificate.verify(SystemTime::now()).map_err(|why| unusable(why.to_string()))?;
    Ok(Keys::new(certificate))
}

fn finish(shared: &Shared, identity: &Identity, result: Result<Keys, IssueError>) {
    let now = Instant::now().into_std();
    match result {
        Ok(keys) => {
            let clock = SystemTime::now();
            let age = clock.duration_since(keys.certificate.not_before()).unwrap_or_default();
            let remaining = keys.certificate.not_after().duration_since(clock).unwrap_or_default();
            info!(%identity, serial = keys.certificate.serial(), "certificate issued");
            shared.store(identity, Ok(keys));
            shared.with_schedule(|schedule| schedule.issued(identity, now, age, remaining, fastrand::f64()));
        }
        Err(why) => {
            let wait = shared.with_schedule(|schedule| schedule.failed(identity, now, fastrand::f64()));
            warn!(%identity, "no certificate: {why}; next try in {wait:.1?}");
            debug!(?why);
            shared.store(identity, Err(why.to_string().into()));
        }
    }
}
