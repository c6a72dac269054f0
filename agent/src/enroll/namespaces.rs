//! Which network namespace is at each path, polled on a thread of its own. A path that does not answer keeps that
//! thread; the next one polls the other paths.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use super::plan::Namespace;

/// A path that takes longer counts as unresponsive.
const PATIENCE: Duration = Duration::from_secs(1);
/// Unresponsive paths after which polling stops.
const MOST_SILENT: usize = 64;

/// The last result for each path.
#[derive(Clone, Default)]
pub(crate) struct Namespaces(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    seen: HashMap<PathBuf, Namespace>,
    /// The path that is being polled, and since when.
    at: Option<(PathBuf, Instant)>,
    /// Generation of the polling thread.
    turn: u64,
    looking: bool,
    silent: HashSet<PathBuf>,
}

impl Namespaces {
    /// The last result for a path.
    pub(crate) fn at(&self, path: &Path) -> Namespace {
        self.0.lock().seen.get(path).copied().unwrap_or(Namespace::Unknown)
    }

    /// Records what another task found at a path.
    pub(crate) fn found(&self, path: &Path, namespace: Namespace) {
        self.0.lock().seen.insert(path.to_owned(), namespace);
    }

    /// Starts polling these paths unless a poll is in progress; all others are forgotten.
    pub(crate) fn look(&self, paths: Vec<PathBuf>) {
        let turn = {
            let mut state = self.0.lock();
            let silent = match &state.at {
                Some((path, since)) if since.elapsed() > PATIENCE => Some(path.clone()),
                _ if state.looking => return,
                _ => None,
            };
            if let Some(path) = silent {
                warn!("{}: opening it takes longer than {PATIENCE:?}", path.display());
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
        let namespaces = self.clone();
        let thread = std::thread::Builder::new().name("looks".to_owned()).stack_size(128 * 1024);
        if let Err(error) = thread.spawn(move || namespaces.go_through(&paths, turn)) {
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
