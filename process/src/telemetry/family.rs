//! Series that come and go by their labels. Counting costs one look-up by what is at hand; labels are rendered when a
//! series is new. A series that nobody has used for [`IDLE`] is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::sample::Labels;

/// How long a series stays that nobody uses.
pub const IDLE: Duration = Duration::from_secs(10 * 60);
/// At most one look for idle series in this time, when new ones appear.
const SWEEP: Duration = Duration::from_secs(60);
/// Bound of the fast lookup table; it only saves work, so it is simply emptied when full.
const RESOLVED: usize = 8192;

/// What a series is found by, as it is at hand where something is counted. Values that are equal render to equal
/// labels.
pub trait LabelSet: Hash {
    /// The same on its own. It holds the objects that are compared by address, so that no address is taken for
    /// another's.
    type Kept;

    /// Keeps it.
    fn keep(&self) -> Self::Kept;

    /// Whether this is what was kept.
    fn is(&self, kept: &Self::Kept) -> bool;

    /// The labels.
    fn render(&self) -> Labels;

    /// The labels of what comes when there are as many series as may be: fewer values, so that few series take it all.
    fn render_rest(&self) -> Labels {
        self.render()
    }
}

/// What is counted for one label set.
pub trait Tally {
    /// Whether it is in use, and stays however long nothing is counted.
    fn is_open(&self) -> bool {
        false
    }
}

/// The series of metrics that share their labels.
pub struct Family<K, C> {
    all: RwLock<All<K, C>>,
    hasher: RandomState,
    most: usize,
}

struct All<K, C> {
    /// Every series by its labels.
    known: BTreeMap<Labels, Arc<Series<C>>>,
    /// Series by the hash of label sets that were seen before, so that nothing is rendered for them again.
    resolved: HashMap<u64, (K, Arc<Series<C>>)>,
    swept: Instant,
}

/// One series.
pub struct Series<C> {
    count: C,
    /// Used since the last sweep.
    touched: AtomicBool,
    /// When a sweep last found it touched or open.
    last_used: Mutex<Instant>,
}

impl<C> Deref for Series<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.count
    }
}

impl<C> Series<C> {
    /// Notes that it is in use.
    pub fn touch(&self) {
        self.touched.store(true, Relaxed);
    }
}

impl<C: Tally> Series<C> {
    fn is_wanted(&self, now: Instant) -> bool {
        let mut last_used = self.last_used.lock();
        if self.touched.swap(false, Relaxed) || self.count.is_open() {
            *last_used = now;
        }
        now.saturating_duration_since(*last_used) < IDLE
    }
}

impl<K, C: Tally> Family<K, C> {
    /// No series yet. Once there are `most` of them, what is new is counted under [`LabelSet::render_rest`].
    pub fn new(most: usize) -> Self {
        let all = All { known: BTreeMap::new(), resolved: HashMap::new(), swept: Instant::now() };
        Self { all: RwLock::new(all), hasher: RandomState::new(), most }
    }

    /// Finds the series of these labels or makes it with `new`, and runs `count` on it before it could expire.
    pub fn with<L: LabelSet<Kept = K>>(
        &self,
        labels: &L,
        new: impl FnOnce() -> C,
        count: impl FnOnce(&C),
    ) -> Arc<Series<C>> {
        let hash = self.hasher.hash_one(labels);
        if let Some((kept, series)) = self.all.read().resolved.get(&hash)
            && labels.is(kept)
        {
            count(series);
            series.touch();
            return Arc::clone(series);
        }
        let mut rendered = labels.render();
        let mut all = self.all.write();
        if all.known.len() >= self.most && !all.known.contains_key(&rendered) {
            rendered = labels.render_rest();
        }
        let series = match all.known.get(&rendered) {
            Some(series) => Arc::clone(series),
            None => all.add(rendered, new(), Instant::now()),
        };
        if all.resolved.len() >= RESOLVED {
            all.resolved.clear();
        }
        all.resolved.insert(hash, (labels.keep(), Arc::clone(&series)));
        count(&series);
        series.touch();
        series
    }

    /// Forgets the series that nobody has used for [`IDLE`]. Runs by itself when series appear; to be called on each
    /// scrape.
    pub fn expire(&self, now: Instant) {
        self.all.write().expire(now);
    }

    /// Every series, in the order of its labels. Copied, so that a slow scrape of many holds no lock that a new one
    /// needs.
    pub fn series(&self) -> Vec<(Labels, Arc<Series<C>>)> {
        self.all.read().known.iter().map(|(labels, series)| (labels.clone(), Arc::clone(series))).collect()
    }
}

impl<K, C: Tally> All<K, C> {
    fn add(&mut self, labels: Labels, count: C, now: Instant) -> Arc<Series<C>> {
        if now.saturating_duration_since(self.swept) >= SWEEP {
            self.expire(now);
        }
        let series = Arc::new(Series { count, touched: AtomicBool::new(true), last_used: Mutex::new(now) });
        self.known.insert(labels, Arc::clone(&series));
        series
    }

    fn expire(&mut self, now: Instant) {
        self.swept = now;
        // Rendering labels again costs a microsecond; keeping outdated objects alive would cost memory.
        self.resolved = HashMap::new();
        self.known.retain(|_, series| series.is_wanted(now));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::telemetry::sample::LabelsBuilder;

    impl Tally for AtomicU64 {}

    #[derive(Hash)]
    struct Named<'a>(&'a str);

    impl LabelSet for Named<'_> {
        type Kept = String;

        fn keep(&self) -> String {
            self.0.to_owned()
        }

        fn is(&self, kept: &String) -> bool {
            self.0 == kept
        }

        fn render(&self) -> Labels {
            let mut labels = LabelsBuilder::default();
            labels.put("name", self.0);
            labels.build()
        }

        fn render_rest(&self) -> Labels {
            Named("rest").render()
        }
    }

    #[test]
    fn beyond_the_limit_one_series_takes_what_is_new() {
        let family = Family::new(3);
        for name in ["a", "b", "c", "d", "e", "a", "d"] {
            family.with(&Named(name), AtomicU64::default, |count| _ = count.fetch_add(1, Relaxed));
        }
        let counts: Vec<(String, u64)> =
            family.series().iter().map(|(labels, count)| (labels.as_str().to_owned(), count.load(Relaxed))).collect();
        let expected = [("a", 2), ("b", 1), ("c", 1), ("rest", 3)];
        assert_eq!(counts, expected.map(|(name, count)| (format!("name=\"{name}\""), count)));
    }
}
