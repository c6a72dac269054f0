//! Pure. Which files of a directory somebody has touched, as far as the system's events tell it.

use std::collections::{BTreeSet, HashSet};
use std::path::{Component, Path, PathBuf};

use notify::event::{ModifyKind, RenameMode};
use notify::{Event, EventKind};

/// More paths than this are not told apart: listing the directory is cheaper then.
const MAX_PATHS: usize = 4096;

/// What has been touched since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// It is not known what: everything has to be looked at.
    everything: bool,
    /// Something that is no manifest: hidden, or outside of the directory. It matters only where links lead there.
    aside: bool,
    /// Paths below the directory, relative to it.
    paths: BTreeSet<PathBuf>,
    /// Renamings of which only the leaving was told so far: whoever looks now would miss where it went.
    leaving: HashSet<usize>,
}

impl Touched {
    /// Everything may have been.
    pub(crate) fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Notes that anything may have been.
    pub(crate) fn note_everything(&mut self) {
        *self = Self::everything();
    }

    /// Notes what an event tells of a directory.
    pub(crate) fn note(&mut self, dir: &Path, event: &Event) {
        if self.everything || event.need_rescan() || event.paths.is_empty() {
            return self.note_everything();
        }
        match (event.kind, event.tracker()) {
            (EventKind::Modify(ModifyKind::Name(RenameMode::From)), Some(cookie)) => _ = self.leaving.insert(cookie),
            (EventKind::Modify(ModifyKind::Name(_)), Some(cookie)) => _ = self.leaving.remove(&cookie),
            _ => {}
        }
        for path in &event.paths {
            match path.strip_prefix(dir) {
                Ok(below) if below.as_os_str().is_empty() => return self.note_everything(),
                Ok(below) if is_hidden(below) => self.aside = true,
                Ok(below) => {
                    if !self.paths.contains(below) {
                        self.paths.insert(below.to_owned());
                    }
                }
                Err(_) => self.aside = true,
            }
        }
        if self.paths.len() > MAX_PATHS || self.leaving.len() > MAX_PATHS {
            self.note_everything();
        }
    }

    /// All of it; from here on nothing has been.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// The paths to look at, relative to the directory; `None` when that does not do. `linked`: whether anything in the
    /// directory is a symbolic link.
    pub(crate) fn paths(&self, linked: bool) -> Option<&BTreeSet<PathBuf>> {
        let known = !self.everything && self.leaving.is_empty() && !linked;
        known.then_some(&self.paths)
    }
}

fn is_hidden(path: &Path) -> bool {
    path.components().any(|part| matches!(part, Component::Normal(name) if name.as_encoded_bytes().starts_with(b".")))
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, AccessMode, CreateKind, Flag};

    use super::*;

    fn event(kind: EventKind, paths: &[&str]) -> Event {
        paths.iter().fold(Event::new(kind), |event, path| event.add_path(path.into()))
    }

    fn written(path: &str) -> Event {
        event(EventKind::Access(AccessKind::Close(AccessMode::Write)), &[path])
    }

    fn renamed(mode: RenameMode, paths: &[&str]) -> Event {
        event(EventKind::Modify(ModifyKind::Name(mode)), paths).set_tracker(7)
    }

    fn touched(events: &[Event]) -> Touched {
        let mut touched = Touched::default();
        events.iter().for_each(|event| touched.note(Path::new("/mesh"), event));
        touched
    }

    fn paths(events: &[Event], linked: bool) -> Option<Vec<String>> {
        let touched = touched(events);
        Some(touched.paths(linked)?.iter().map(|path| path.display().to_string()).collect())
    }

    #[test]
    fn manifests_are_told_apart_and_what_is_hidden_or_outside_is_not() {
        let events =
            [written("/mesh/a.yaml"), written("/mesh/sub/b.yaml"), written("/mesh/.git/x"), written("/other/c.yaml")];
        assert_eq!(paths(&events, false).unwrap(), ["a.yaml", "sub/b.yaml"]);
        assert_eq!(paths(&events, true), None, "a link may lead there");
        assert!(touched(&events).aside);
    }

    #[test]
    fn what_is_not_told_is_everything() {
        for event in [
            event(EventKind::Other, &[]),
            event(EventKind::Create(CreateKind::Folder), &["/mesh"]),
            event(EventKind::Other, &["/mesh/a.yaml"]).set_flag(Flag::Rescan),
        ] {
            assert_eq!(touched(&[event, written("/mesh/a.yaml")]), Touched::everything());
        }
        let many: Vec<Event> = (0..=MAX_PATHS).map(|file| written(&format!("/mesh/{file}.yaml"))).collect();
        assert_eq!(touched(&many), Touched::everything());
    }

    #[test]
    fn half_of_a_renaming_is_not_enough() {
        let from = renamed(RenameMode::From, &["/mesh/a.yaml"]);
        assert_eq!(paths(std::slice::from_ref(&from), false), None);
        let to = renamed(RenameMode::To, &["/mesh/b.yaml"]);
        assert_eq!(paths(&[from, to], false).unwrap(), ["a.yaml", "b.yaml"]);
    }
}
