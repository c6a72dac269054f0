//! Asks the kernel which pod has an address that several pods claim.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use sources::objects::holders::Evidence;
use sources::objects::world::Question;

use crate::capture;

/// Timeout of one namespace. A pod's manifest may name anything as its namespace.
const PATIENCE: Duration = Duration::from_millis(500);
/// Unanswered queries after which no more are started.
const STUCK: usize = 8;

static ASKING: AtomicUsize = AtomicUsize::new(0);

/// The addresses that are present in the namespaces of the pods that claim them. About a namespace that does not answer
/// nothing is known.
pub(crate) fn shown(questions: &[Question]) -> Evidence {
    let mut evidence = Evidence::default();
    for question in questions {
        let Some(there) = ask(PathBuf::from(&*question.netns), question.addresses.clone()) else { continue };
        for address in &question.addresses {
            evidence.insert((question.pod.clone(), *address), there.contains(address));
        }
    }
    evidence
}

fn ask(netns: PathBuf, addresses: Vec<IpAddr>) -> Option<Vec<IpAddr>> {
    if ASKING.fetch_add(1, Ordering::Relaxed) >= STUCK {
        ASKING.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    let (tell, told) = mpsc::channel();
    let asking =
        std::thread::Builder::new().name("culvert-witness".to_owned()).stack_size(256 << 10).spawn(move || {
            let found = capture::addresses_shown(&netns, &addresses).ok();
            ASKING.fetch_sub(1, Ordering::Relaxed);
            // The caller may have given up.
            let _late = tell.send(found);
        });
    if asking.is_err() {
        ASKING.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    told.recv_timeout(PATIENCE).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sources::objects::kind::ObjectKey;

    #[test]
    fn of_what_is_no_namespace_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [fifo.as_path(), dir.path(), &dir.path().join("nothing"), std::path::Path::new("/proc/self/ns/net")]
        {
            let pod = ObjectKey { namespace: "a".into(), name: "b".into() };
            let netns = path.to_str().unwrap().into();
            let question = Question { pod, netns, addresses: vec!["10.0.0.1".parse().unwrap()] };
            assert!(shown(&[question]).is_empty(), "{}", path.display());
        }
    }
}
