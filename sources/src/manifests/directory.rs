//! The files of a directory and the objects last read from each. Only changed files are read again; a file that cannot
//! be read keeps its last good objects.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use super::files::{self, Found, Stamp};
use super::touched::Touched;
use crate::objects::kind::{Documents, Object, Shared};
use crate::objects::last_good::{Changed, LastGood};
use crate::objects::parse::{Parsed, parse};
use crate::objects::problem::{Problem, Severity};

/// A file larger than this is not read: it is hardly a manifest.
const MAX_SIZE: u64 = 512 << 20;

/// A directory, with the last good objects of each file.
#[derive(Default)]
pub(crate) struct Directory {
    dir: PathBuf,
    files: BTreeMap<Arc<Path>, File>,
    shared: Shared,
    /// What is wrong with the directory itself.
    problems: Vec<Problem>,
    missing: bool,
    /// Whether it was listed, and whether there was a symbolic link in it.
    listed: bool,
    linked: bool,
    /// Files that changed so lately that they are read again at the next look.
    unsettled: BTreeSet<Arc<Path>>,
    /// Files that are or were broken, or of which anything is to be said.
    troubled: BTreeSet<Arc<Path>>,
    elsewhere: Vec<PathBuf>,
    loads: u64,
    failures: u64,
}

/// One file.
#[derive(Default)]
pub(crate) struct File {
    stamp: Option<Stamp>,
    content: Option<u64>,
    said: LastGood,
    /// When it was last read without an error.
    last_good: Option<SystemTime>,
    loads: u64,
    failures: u64,
}

/// What another look at the directory changed.
#[derive(Default)]
pub(crate) struct Changes {
    /// Objects that are gone or new, and problems that are.
    pub(crate) of: Changed,
    /// Whether anything was read, or is gone.
    pub(crate) any: bool,
}

impl Changes {
    /// Whether an object that the consumer reads by itself is among them.
    pub(super) fn has_documents(&self) -> bool {
        self.of.removed.iter().chain(&self.of.added).any(|object| object.document.is_some())
    }
}

impl Directory {
    pub(crate) fn new(dir: PathBuf, documents: Documents) -> Self {
        Self { dir, shared: Shared::new(documents), ..Self::default() }
    }

    /// The same, in which workloads may have these addresses although they are local everywhere.
    pub(crate) fn with_local_addresses(mut self, ranges: &[IpNet]) -> Self {
        self.shared.local_addresses = ranges.to_vec();
        self
    }

    /// Looks again at what was touched. A directory that is gone keeps what its files said: an unmounted volume is no
    /// reason to end a mesh.
    pub(crate) fn refresh(&mut self, touched: &Touched) -> Changes {
        let mut changes = Changes::default();
        match self.found(touched) {
            Some(found) => found.into_iter().for_each(|(path, found)| self.look_at(path, found, &mut changes)),
            None => self.look_everywhere(&mut changes),
        }
        if changes.any {
            self.shared.forget_unused();
        }
        changes
    }

    /// What is at the paths that were touched, so that the others need not be looked at; `None` when they must be.
    fn found(&self, touched: &Touched) -> Option<Vec<(Arc<Path>, Found)>> {
        if !self.listed || self.missing || !self.problems.is_empty() {
            return None;
        }
        let paths = touched.paths(self.linked)?;
        let unsettled = self.unsettled.iter().filter_map(|path| path.strip_prefix(&self.dir).ok());
        let paths: BTreeSet<&Path> = paths.iter().map(AsRef::as_ref).chain(unsettled).collect();
        let found = paths.into_iter().map(|below| {
            let path: Arc<Path> = self.dir.join(below).into();
            match files::look(&self.dir, below) {
                Found::More => None,
                // What was a directory is seen by listing only.
                Found::Nothing if self.has_below(&path) => None,
                found => Some((path, found)),
            }
        });
        found.collect()
    }

    fn has_below(&self, dir: &Path) -> bool {
        let mut next = self.files.range::<Path, _>((Bound::Excluded(dir), Bound::Unbounded));
        next.next().is_some_and(|(path, _)| path.starts_with(dir))
    }

    fn look_at(&mut self, path: Arc<Path>, found: Found, changes: &mut Changes) {
        match found {
            Found::Manifest(stamp) => self.see(path, stamp, changes),
            Found::Nothing | Found::More => {
                if let Some(file) = self.files.remove(&path) {
                    self.forget(&path);
                    changes.any = true;
                    file.said.end(&mut changes.of);
                }
            }
        }
    }

    fn look_everywhere(&mut self, changes: &mut Changes) {
        let listing = match files::list(&self.dir) {
            Ok(listing) => listing,
            Err(error) => return self.fail(&error, changes),
        };
        changes.any |= self.missing;
        (self.listed, self.missing, self.linked) = (true, false, listing.linked);
        let errors: Vec<Problem> = listing.errors.iter().map(|(path, error)| unreadable(path, error)).collect();
        changes.of.problems.extend(errors.iter().filter(|problem| !self.problems.contains(problem)).cloned());
        self.problems = errors;
        self.elsewhere = listing.elsewhere;
        let unlisted: Vec<&Path> = listing.errors.iter().map(|(path, _)| path.as_path()).collect();
        let mut gone = Vec::new();
        self.files.retain(|path, file| {
            // Files below a directory that cannot be listed are not known to be gone.
            let stays = listing.files.contains_key(path) || unlisted.iter().any(|dir| path.starts_with(dir));
            if !stays {
                changes.any = true;
                std::mem::take(&mut file.said).end(&mut changes.of);
                gone.push(Arc::clone(path));
            }
            stays
        });
        gone.iter().for_each(|path| self.forget(path));
        for (path, stamp) in listing.files {
            self.see(path, stamp, changes);
        }
    }

    /// Reads a file again if it may have changed.
    fn see(&mut self, path: Arc<Path>, stamp: Stamp, changes: &mut Changes) {
        let file = self.files.entry(Arc::clone(&path)).or_default();
        if file.stamp == Some(stamp) {
            return;
        }
        if file.refresh(&path, stamp, &mut self.shared, changes) {
            self.loads += 1;
            self.failures += u64::from(file.is_broken());
        }
        let (unsettled, troubled) = (file.stamp.is_none(), file.failures > 0 || !file.said.problems().is_empty());
        keep(&mut self.unsettled, &path, unsettled);
        keep(&mut self.troubled, &path, troubled);
    }

    fn forget(&mut self, path: &Path) {
        self.unsettled.remove(path);
        self.troubled.remove(path);
    }

    fn fail(&mut self, error: &io::Error, changes: &mut Changes) {
        let problem = unreadable(&self.dir, error);
        if !self.problems.contains(&problem) {
            self.failures += 1;
            changes.any = true;
            changes.of.problems.push(problem.clone());
            self.problems = vec![problem];
        }
        self.missing = true;
    }

    /// Whether the directory itself could not be listed at the last look.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing
    }

    /// Directories outside of this one that have to be watched too.
    pub(crate) fn elsewhere(&self) -> &[PathBuf] {
        &self.elsewhere
    }

    /// Every problem of the directory and its files.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().chain(self.troubled().flat_map(|(_, file)| file.said.problems()))
    }

    /// Files that are or were broken, or of which anything is to be said.
    pub(crate) fn troubled(&self) -> impl Iterator<Item = (&Arc<Path>, &File)> {
        self.troubled.iter().filter_map(|path| self.files.get_key_value(path))
    }

    /// How many files there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// The objects that the consumer reads by itself, in the order of the files.
    pub(crate) fn with_documents(&self) -> Vec<Object> {
        let objects = self.files.values().flat_map(|file| file.said.objects());
        let mut found: Vec<Object> = objects.filter(|object| object.document.is_some()).cloned().collect();
        // What stands in for a policy stands behind the others of its file.
        found.sort_by(|one, other| one.at.cmp(&other.at));
        found
    }

    /// How many times a file was read, and how many times it was broken.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.loads, self.failures)
    }
}

impl File {
    /// Reads the file again; false if its content is what it was.
    fn refresh(&mut self, path: &Arc<Path>, stamp: Stamp, shared: &mut Shared, changes: &mut Changes) -> bool {
        let read = read(path);
        let now = SystemTime::now();
        // A file that was changed just now may be changed once more without its times showing it: it is read again at
        // the next look, and then compared by content.
        let nanoseconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        self.stamp = (!stamp.is_fresh(i128::try_from(nanoseconds).unwrap_or(i128::MAX))).then_some(stamp);
        let parsed = match read {
            Ok(text) => {
                let mut hasher = DefaultHasher::new();
                hasher.write(text.as_bytes());
                let content = Some(hasher.finish());
                if self.content == content {
                    return false;
                }
                self.content = content;
                parse(path, &text, shared)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            Err(error) => {
                let problems = vec![unreadable(path, &error)];
                if self.said.problems() == problems {
                    return false;
                }
                self.content = None;
                Parsed { problems, ..Parsed::default() }
            }
        };
        self.take(parsed, now, changes);
        true
    }

    fn take(&mut self, parsed: Parsed, now: SystemTime, changes: &mut Changes) {
        self.loads += 1;
        changes.any = true;
        let broken = parsed.is_broken();
        self.failures += u64::from(broken);
        if !broken {
            self.last_good = Some(now);
        }
        self.said.take(parsed, &mut changes.of);
    }

    /// Whether anything in it could not be read the last time.
    pub(crate) fn is_broken(&self) -> bool {
        self.said.is_broken()
    }

    /// When it was last read without an error, and how often it was read and was broken.
    pub(crate) fn history(&self) -> (Option<SystemTime>, u64, u64) {
        (self.last_good, self.loads, self.failures)
    }
}

fn keep(set: &mut BTreeSet<Arc<Path>>, path: &Arc<Path>, wanted: bool) {
    if wanted {
        set.insert(Arc::clone(path));
    } else {
        set.remove(path);
    }
}

fn read(path: &Path) -> io::Result<String> {
    let size = path.metadata()?.len();
    if size > MAX_SIZE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes are too many for a manifest")));
    }
    let bytes = std::fs::read(path)?;
    String::from_utf8(bytes).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8 after byte {}", error.utf8_error().valid_up_to()))
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::of_file(&Arc::from(path), Severity::Error, format!("cannot be read: {error}; what was read last stays"))
}
