//! Which manifest files a directory has, and by what it is seen that one has changed.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Directories within directories, at most. Symbolic links can make circles.
const MAX_DEPTH: usize = 32;

/// By what it is seen, without reading, that a file may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Last change of the content and of the inode, in nanoseconds since 1970: the second cannot be set back.
    modified: i128,
    changed: i128,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file changed so shortly before `now` (nanoseconds since 1970) that the clock of the file system may
    /// not tell a later change from this one.
    pub(super) fn is_fresh(&self, now: i128) -> bool {
        now - self.changed < 100_000_000
    }
}

/// What a look at a directory found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Every manifest file.
    pub(super) files: BTreeMap<Arc<Path>, Stamp>,
    /// Whether anything in it is a symbolic link.
    pub(super) linked: bool,
    /// Directories outside of this one in which files are that links point to.
    pub(super) elsewhere: Vec<PathBuf>,
    /// Directories that could not be listed.
    pub(super) errors: Vec<(PathBuf, io::Error)>,
}

/// Looks for `*.yaml`, `*.yml` and `*.json` in a directory and those below.
///
/// What begins with a dot is passed over, and symbolic links are followed. So a mounted ConfigMap, whose files are
/// links into a hidden directory `..data`, is read once.
pub(super) fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let real = dir.canonicalize()?;
    let mut seen = vec![];
    let entries = std::fs::read_dir(dir)?;
    walk(dir, entries, &real, &mut seen, &mut listing);
    listing.elsewhere.sort();
    listing.elsewhere.dedup();
    Ok(listing)
}

/// What is at a path that was told of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A manifest.
    Manifest(Stamp),
    /// Nothing, or nothing that is read.
    Nothing,
    /// A directory, a link, or something that cannot be looked at: what it comes to is seen by listing only.
    More,
}

/// Looks at one path below a directory in which nothing is a link.
pub(super) fn look(dir: &Path, below: &Path) -> Found {
    if below.components().count() >= MAX_DEPTH {
        return Found::More;
    }
    let path = dir.join(below);
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() || metadata.is_symlink() => Found::More,
        Ok(metadata) if metadata.is_file() && is_manifest(&path) => Found::Manifest(Stamp::of(&metadata)),
        Ok(_) => Found::Nothing,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Found::Nothing,
        Err(_) => Found::More,
    }
}

fn walk(dir: &Path, entries: std::fs::ReadDir, root: &Path, above: &mut Vec<(u64, u64)>, listing: &mut Listing) {
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                listing.errors.push((dir.to_owned(), error));
                return;
            }
        };
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        listing.linked |= is_link;
        // Gone since it was listed, or a link to nowhere: no file. Follows links.
        let Ok(metadata) = path.metadata() else { continue };
        if is_link {
            note_elsewhere(&path, metadata.is_dir(), root, listing);
        }
        if metadata.is_dir() {
            let id = (metadata.dev(), metadata.ino());
            if above.contains(&id) || above.len() >= MAX_DEPTH {
                continue;
            }
            match std::fs::read_dir(&path) {
                Ok(entries) => {
                    above.push(id);
                    walk(&path, entries, root, above, listing);
                    above.pop();
                }
                Err(error) => listing.errors.push((path, error)),
            }
        } else if metadata.is_file() && is_manifest(&path) {
            listing.files.insert(path.into(), Stamp::of(&metadata));
        }
    }
}

fn note_elsewhere(path: &Path, is_dir: bool, root: &Path, listing: &mut Listing) {
    let Ok(real) = path.canonicalize() else { return };
    let directory = if is_dir { Some(real.as_path()) } else { real.parent() };
    if let Some(directory) = directory.filter(|directory| !directory.starts_with(root)) {
        listing.elsewhere.push(directory.to_owned());
    }
}

fn is_manifest(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let listing = list(dir).unwrap();
        assert!(listing.errors.is_empty());
        listing.files.keys().map(|path| path.strip_prefix(dir).unwrap().display().to_string()).collect()
    }

    #[test]
    fn manifests_are_found_in_directories_and_hidden_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir_all(dir.path().join(".git")).unwrap();
        for name in ["x.yaml", "a/y.yml", "a/b/z.json", "a/notes.txt", ".x.yaml", ".git/x.yaml", "x.yaml~", "yaml"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(names(dir.path()), ["a/b/z.json", "a/y.yml", "x.yaml"]);
    }

    #[test]
    fn a_mounted_config_map_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("..2026_01_01/sub")).unwrap();
        fs::write(dir.path().join("..2026_01_01/x.yaml"), "").unwrap();
        fs::write(dir.path().join("..2026_01_01/sub/y.yaml"), "").unwrap();
        symlink("..2026_01_01", dir.path().join("..data")).unwrap();
        symlink("..data/x.yaml", dir.path().join("x.yaml")).unwrap();
        symlink("..data/sub", dir.path().join("sub")).unwrap();
        assert_eq!(names(dir.path()), ["sub/y.yaml", "x.yaml"]);
    }

    #[test]
    fn circles_and_dangling_links_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/x.yaml"), "").unwrap();
        fs::write(outside.path().join("o.yaml"), "").unwrap();
        symlink("..", dir.path().join("a/up")).unwrap();
        symlink("nowhere", dir.path().join("n.yaml")).unwrap();
        symlink(outside.path().join("o.yaml"), dir.path().join("o.yaml")).unwrap();
        let listing = list(dir.path()).unwrap();
        assert!(listing.files.keys().any(|path| path.ends_with("a/x.yaml")));
        assert!(listing.files.keys().any(|path| path.ends_with("o.yaml")));
        assert_eq!(listing.elsewhere, [outside.path().canonicalize().unwrap()]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        assert_eq!(list(Path::new("/nonexistent/directory")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
