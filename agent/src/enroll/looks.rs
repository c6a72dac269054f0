//! Which network namespace is at each path, looked at again and again on a thread of its own. A path that does not answer is left to
//! the thread that waits for it; the others are looked at by the next one.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use super::plan::Namespace;

/// A path that takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Paths that may fail to answer before nothing is looked at any more.
const MOST_SILENT: usize = 64;

/// What was seen last.
#[derive(Clone, Default)]
pub(crate) struct Looks(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    seen: HashMap<PathBuf, Namespace>,
    /// Which path is being looked at, and since when.
    at: Option<(PathBuf, Instant)>,
    /// Which thread is the one that looks.
    turn: u64,
    looking: bool,
    silent: HashSet<PathBuf>,
}

impl Looks {
    /// What was at a path when it was last looked at.
    pub(crate) fn at(&self, path: &Path) -> Namespace {
        self.0.lock().seen.get(path).copied().unwrap_or(Namespace::Unknown)
    }

    /// Notes what was found at a path by somebody who opened it.
    pub(crate) fn found(&self, path: &Path, namespace: Namespace) {
        self.0.lock().seen.insert(path.to_owned(), namespace);
    }

    /// Begins to look at all these paths, unless the last look still goes on; what is not among them is forgotten.
    pub(crate) fn look(&self, paths: Vec<PathBuf>) {
        let turn = {
            let mut state = self.0.lock();
            let silent = match &state.at {
                Some((path, since)) if since.elapsed() > PATIENCE => Some(path.clone()),
                _ if state.looking => return,
                _ => None,
            };
            if let Some(path) = silent {
                warn!("{}: looking at it takes longer than {PATIENCE:?}", path.display());
                state.silent.insert(path);
            }
            if state.silent.len() > MOST_SILENT {
                return;
            }
            let asked: HashSet<&PathBuf> = paths.iter().collect();
            state.seen.retain(|path, _| asked.contains(path));
            state.turn += 1;
            state.looking = true;
            state.at = None;
            state.turn
        };
        let looks = self.clone();
        let thread = std::thread::Builder::new().name("looks".to_owned()).stack_size(128 * 1024);
        if let Err(error) = thread.spawn(move || looks.go_through(&paths, turn)) {
            warn!("starting a thread that looks at network namespaces: {error}");
            self.0.lock().looking = false;
        }
    }

    fn go_through(&self, paths: &[PathBuf], turn: u64) {
        for path in paths {
            {
                let mut state = self.0.lock();
                if state.turn != turn {
                    return;
                }
                if state.silent.contains(path) {
                    continue;
                }
                state.at = Some((path.clone(), Instant::now()));
            }
            let found = match std::fs::metadata(path) {
                Ok(found) => Namespace::Is(found.dev(), found.ino()),
                Err(_) => Namespace::Missing,
            };
            let mut state = self.0.lock();
            state.silent.remove(path);
            if state.turn != turn {
                return;
            }
            state.seen.insert(path.clone(), found);
        }
        let mut state = self.0.lock();
        if state.turn == turn {
            (state.at, state.looking) = (None, false);
        }
    }
}
