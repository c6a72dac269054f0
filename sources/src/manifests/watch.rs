//! Tells when to look at a directory again: soon after the last of a series of changes, and before long in any case.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::touched::Touched;

/// So long nothing may happen before a series of changes counts as over.
const QUIET: Duration = Duration::from_millis(30);
/// So long after its last event a file that somebody holds open for writing is waited for.
const WRITING: Duration = Duration::from_millis(90);
/// So long a series of changes may last before it is looked at anyway.
const PATIENCE: Duration = Duration::from_millis(150);
/// Without any event the directory is looked at this often: network file systems do not tell of changes elsewhere.
const POLL: Duration = Duration::from_secs(10);
/// The same when the directory is missing, or cannot be watched.
const POLL_BLIND: Duration = Duration::from_millis(100);
/// More files than this written at once are not told apart.
const MAX_WRITING: usize = 1024;

/// What the watcher's thread has seen.
#[derive(Default)]
struct Seen {
    news: Notify,
    /// What it was about.
    touched: Mutex<Touched>,
    /// Files that were written to and not closed since.
    writing: Mutex<HashSet<PathBuf>>,
    /// Whether the directory itself came or went since it was last asked for.
    replaced: AtomicBool,
}

impl Seen {
    fn note(&self, dir: &Path, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.note_everything() };
        let moves =
            matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        if moves && event.paths.iter().any(|path| path == dir) {
            self.replaced.store(true, Ordering::Release);
        }
        if !matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
            self.touched.lock().note(dir, &event);
        }
        let mut writing = self.writing.lock();
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => {
                event.paths.iter().for_each(|path| _ = writing.remove(path));
            }
            EventKind::Modify(ModifyKind::Name(_)) => event.paths.iter().for_each(|path| _ = writing.remove(path)),
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => writing.extend(event.paths),
            EventKind::Create(CreateKind::File) => {
                let files =
                    event.paths.into_iter().filter(|path| path.symlink_metadata().is_ok_and(|file| file.is_file()));
                writing.extend(files);
            }
            _ => {}
        }
        if writing.len() > MAX_WRITING {
            writing.clear();
        }
        drop(writing);
        self.news.notify_one();
    }

    /// What happened is not known, or was not seen.
    fn note_everything(&self) {
        self.touched.lock().note_everything();
        self.news.notify_one();
    }
}

/// Watches one directory.
pub(super) struct Watch {
    dir: PathBuf,
    seen: Arc<Seen>,
    watcher: Option<RecommendedWatcher>,
    /// Device, inode and birth of the directory that is watched: another one may have taken its place, its inode even.
    watched: Option<(u64, u64, Option<SystemTime>)>,
    elsewhere: Vec<PathBuf>,
}

impl Watch {
    /// Begins to watch. A directory that is not there yet is found when it appears.
    pub(super) fn new(dir: &Path) -> Self {
        let seen = Arc::new(Seen::default());
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let (handler, own) = (Arc::clone(&seen), dir.clone());
        let watcher = notify::recommended_watcher(move |event| handler.note(&own, event));
        if let Err(error) = &watcher {
            tracing::warn!(%error, "changes of manifests are looked for by polling: they cannot be watched");
        }
        let mut watch = Self { dir, seen, watcher: watcher.ok(), watched: None, elsewhere: Vec::new() };
        watch.watch_parent();
        watch.follow(&[]);
        watch
    }

    /// Watches whatever directory is at the path now, and those outside of it in which linked files are.
    pub(super) fn follow(&mut self, elsewhere: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut fresh = false;
        let present = self.dir.metadata().ok().filter(std::fs::Metadata::is_dir);
        let present = present.map(|metadata| (metadata.dev(), metadata.ino(), metadata.created().ok()));
        if present != self.watched || self.seen.replaced.swap(false, Ordering::AcqRel) {
            if self.watched.is_some() {
                // The old directory may be gone, and its watch with it.
                _ = watcher.unwatch(&self.dir);
            }
            let result = present.map(|_| watcher.watch(&self.dir, RecursiveMode::Recursive));
            if let Some(Err(error)) = &result {
                tracing::warn!(dir = %self.dir.display(), %error, "changes of manifests are looked for by polling");
            }
            self.watched = present.filter(|_| matches!(result, Some(Ok(()))));
            // What came between the last look and the new watch was told to nobody.
            self.seen.note_everything();
            fresh |= self.watched.is_some();
        }
        if self.elsewhere != elsewhere {
            self.elsewhere.iter().filter(|old| !elsewhere.contains(old)).for_each(|old| _ = watcher.unwatch(old));
            for new in elsewhere.iter().filter(|new| !self.elsewhere.contains(new)) {
                _ = watcher.watch(new, RecursiveMode::NonRecursive);
            }
            elsewhere.clone_into(&mut self.elsewhere);
            fresh = true;
        }
        if fresh {
            // What happened between the last look and now was not seen.
            self.seen.note_everything();
        }
    }

    /// Waits until there is a reason to look again, and tells at what. Not cancel-safe: what has begun to happen is
    /// forgotten.
    pub(super) async fn changed(&self) -> Touched {
        let poll = if self.watched.is_some() { POLL } else { POLL_BLIND };
        if timeout(poll, self.seen.news.notified()).await.is_err() {
            self.seen.touched.lock().take();
            return Touched::everything();
        }
        let limit = Instant::now() + PATIENCE;
        let mut last = Instant::now();
        loop {
            let writing = !self.seen.writing.lock().is_empty();
            let quiet = if writing { last + WRITING } else { last + QUIET };
            tokio::select! {
                () = self.seen.news.notified() => last = Instant::now(),
                () = sleep_until(quiet.min(limit)) => break,
            }
        }
        // Whoever was not done by now is not waited for twice.
        self.seen.writing.lock().clear();
        let touched = self.seen.touched.lock().take();
        if self.watched.is_some() { touched } else { Touched::everything() }
    }

    /// The parent tells when the directory is removed, made again, or another one is put in its place.
    fn watch_parent(&mut self) {
        let parent = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let (Some(watcher), Some(parent)) = (&mut self.watcher, parent) {
            _ = watcher.watch(parent, RecursiveMode::NonRecursive);
        }
    }
}

/// Waits for a moment, if there is one.
pub(super) async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => sleep(Duration::from_secs(u64::from(u32::MAX))).await,
    }
}
