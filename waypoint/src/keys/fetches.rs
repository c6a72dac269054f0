//! Pure. Which keys of token issuers are fetched next: side by side, so that no issuer waits for another, and bounded
//! for each namespace, so that no tenant takes what others need.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Fetches under way at once. Each holds one key set of bounded size at most.
const ALL: usize = 128;
/// Fetches under way at once for one namespace.
const OF_NAMESPACE: usize = 32;
/// Of those, fetches from issuers that failed the last time: a dead one takes no place that a good one needs.
const OF_FAILING: usize = 8;
/// URLs that one namespace may have keys behind; further ones are not fetched.
pub const URLS: usize = 1024;

/// Keys are fetched anew after this.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);

/// What is known of the fetches from one URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// When the next is due.
    pub next: Instant,
    /// Whether one is under way.
    pub under_way: bool,
    /// Failures in a row.
    pub failures: u32,
}

impl Progress {
    /// Nothing was fetched yet: it is due now.
    pub fn new(now: Instant) -> Self {
        Self { next: now, under_way: false, failures: 0 }
    }

    /// A fetch has ended.
    pub fn ended(&mut self, success: bool, now: Instant) {
        self.under_way = false;
        self.failures = if success { 0 } else { self.failures.saturating_add(1) };
        self.next = now + if success { REFRESH } else { AGAIN };
    }
}

/// One URL, the namespaces that want what is behind it, and how far that is. What several namespaces want waits for
/// none of them: it counts for the one with the most room.
pub type Wanted<'a> = (&'a Arc<str>, &'a [Arc<str>], Progress);

/// What is begun now, the most promising first.
pub fn begin<'a>(wanted: impl IntoIterator<Item = Wanted<'a>>, now: Instant) -> Vec<Arc<str>> {
    let mut room = Room::default();
    let mut due = Vec::new();
    for (url, namespaces, progress) in wanted {
        if progress.under_way {
            room.take(namespaces, progress);
        } else if progress.next <= now {
            due.push((progress.failures, progress.next, url, namespaces, progress));
        }
    }
    due.sort_by_key(|(failures, next, url, ..)| (*failures, *next, *url));
    due.into_iter()
        .filter(|(.., namespaces, progress)| room.take_if_free(namespaces, *progress))
        .map(|(_, _, url, ..)| Arc::clone(url))
        .collect()
}

/// Places that are taken: of all, and by namespace those of all and of the failing.
#[derive(Default)]
struct Room<'a> {
    all: usize,
    namespaces: HashMap<&'a str, (usize, usize)>,
}

impl<'a> Room<'a> {
    fn least(&self, namespaces: &'a [Arc<str>]) -> Option<(&'a str, (usize, usize))> {
        let taken = |namespace: &str| self.namespaces.get(namespace).copied().unwrap_or_default();
        namespaces.iter().map(|namespace| (&**namespace, taken(namespace))).min_by_key(|(_, taken)| *taken)
    }

    fn take_if_free(&mut self, namespaces: &'a [Arc<str>], progress: Progress) -> bool {
        let Some((_, (all, failing))) = self.least(namespaces) else { return false };
        let is_free = match progress.failures > 0 {
            true => all < OF_NAMESPACE && failing < OF_FAILING && self.all < ALL / 2,
            false => all < OF_NAMESPACE && self.all < ALL,
        };
        if is_free {
            self.take(namespaces, progress);
        }
        is_free
    }

    fn take(&mut self, namespaces: &'a [Arc<str>], progress: Progress) {
        self.all += 1;
        if let Some((namespace, (all, failing))) = self.least(namespaces) {
            self.namespaces.insert(namespace, (all + 1, failing + usize::from(progress.failures > 0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct One {
        url: Arc<str>,
        namespaces: Vec<Arc<str>>,
        progress: Progress,
    }

    fn wanted(name: &str, namespaces: &[&str], progress: Progress) -> One {
        One { url: name.into(), namespaces: namespaces.iter().map(|name| Arc::from(*name)).collect(), progress }
    }

    fn begin(wanted: Vec<One>, now: Instant) -> Vec<Arc<str>> {
        super::begin(wanted.iter().map(|one| (&one.url, one.namespaces.as_slice(), one.progress)), now)
    }

    fn many(count: usize, namespace: &str, progress: Progress) -> Vec<One> {
        (0..count).map(|n| wanted(&format!("{namespace}-{n:04}"), &[namespace], progress)).collect()
    }

    #[test]
    fn dead_issuers_take_no_place_that_a_good_one_needs() {
        let now = Instant::now();
        let dead = Progress { failures: 3, ..Progress::new(now) };
        let mut all = many(40, "tenant", dead);
        assert_eq!(begin(all.clone(), now).len(), OF_FAILING);
        // Also while as many of them as may be are under way.
        all.iter_mut().take(OF_FAILING).for_each(|one| one.progress.under_way = true);
        all.push(wanted("good", &["tenant"], Progress::new(now)));
        assert_eq!(begin(all, now), [Arc::from("good")]);
    }

    #[test]
    fn one_namespace_with_a_thousand_urls_delays_no_other() {
        let now = Instant::now();
        for progress in [Progress::new(now), Progress { failures: 1, ..Progress::new(now) }] {
            let mut all = many(1000, "greedy", progress);
            let first = begin(all.clone(), now);
            assert!(first.len() <= OF_NAMESPACE, "{}", first.len());
            for one in &mut all {
                one.progress.under_way = first.contains(&one.url);
            }
            all.push(wanted("bank", &["bank"], Progress { failures: 9, ..Progress::new(now) }));
            assert_eq!(begin(all.clone(), now), [Arc::from("bank")]);
            // Who wants the same as somebody else is not held to that one's room.
            all.push(wanted("theirs", &["greedy", "bank"], Progress::new(now)));
            assert!(begin(all, now).contains(&Arc::from("theirs")));
        }
    }

    #[test]
    fn all_together_are_bounded_and_the_failing_leave_half() {
        let now = Instant::now();
        let of = |progress| (0..64).flat_map(|n| many(40, &format!("ns{n}"), progress)).collect::<Vec<_>>();
        assert_eq!(begin(of(Progress::new(now)), now).len(), ALL);
        assert_eq!(begin(of(Progress { failures: 1, ..Progress::new(now) }), now).len(), ALL / 2);
    }

    #[test]
    fn what_is_not_due_or_under_way_is_left_alone() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        assert_eq!(begin(vec![wanted("a", &["x"], progress)], now).len(), 1);
        progress.under_way = true;
        assert!(begin(vec![wanted("a", &["x"], progress)], now).is_empty());
        progress.ended(false, now);
        assert_eq!((progress.failures, progress.next), (1, now + AGAIN));
        assert!(begin(vec![wanted("a", &["x"], progress)], now).is_empty());
        progress.ended(true, now);
        assert_eq!((progress.failures, progress.next), (0, now + REFRESH));
    }
}
