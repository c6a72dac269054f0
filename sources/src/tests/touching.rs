//! Only what was touched is looked at, and it is as if everything had been.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::support::{Mesh, pod};
use crate::manifests::directory::Directory;
use crate::manifests::touched::Touched;
use crate::{Batch, Documents, ManifestSource, Options};

/// Far shorter than the time after which everything is looked at in any case.
const SOON: Duration = Duration::from_secs(5);

/// Repeatable disorder (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }
}

fn touched(dir: &Path, names: &[&str]) -> Touched {
    let mut touched = Touched::default();
    for name in names {
        let event = Event::new(EventKind::Access(AccessKind::Close(AccessMode::Write)));
        touched.note(dir, &event.add_path(dir.join(name)));
    }
    touched
}

fn put(dir: &Path, name: &str, pod_name: &str, ip: &str) {
    fs::write(dir.join(name), pod(pod_name, ip, "", "")).unwrap();
}

#[test]
fn what_nobody_touched_is_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a.yaml", "a", "10.0.0.1");
    put(dir.path(), "b.yaml", "b", "10.0.0.2");
    std::thread::sleep(Duration::from_millis(120));
    let mut directory = Directory::new(dir.path().to_owned(), Documents::None);
    // The first look is at everything, whatever is said.
    assert_eq!(directory.refresh(&Touched::default()).of.added.len(), 2);
    put(dir.path(), "a.yaml", "c", "10.0.0.1");
    put(dir.path(), "b.yaml", "d", "10.0.0.2");
    let changes = directory.refresh(&touched(dir.path(), &["a.yaml", ".hidden", "notes.txt", "gone.yaml"]));
    assert_eq!((changes.of.removed.len(), changes.of.added.len()), (1, 1));
    assert_eq!(changes.of.added[0].meta.name.as_str(), "c");
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    let changes = directory.refresh(&touched(dir.path(), &["a.yaml"]));
    assert_eq!((changes.of.removed.len(), changes.of.added.len(), directory.len()), (1, 0, 1));
    assert_eq!(directory.refresh(&Touched::everything()).of.added[0].meta.name.as_str(), "d");
}

#[test]
fn a_directory_or_a_link_makes_everything_be_looked_at() {
    for what in ["directory", "link", "directory that is gone"] {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "a.yaml", "a", "10.0.0.1");
        fs::create_dir(dir.path().join("sub")).unwrap();
        put(dir.path(), "sub/b.yaml", "b", "10.0.0.2");
        let mut directory = Directory::new(dir.path().to_owned(), Documents::None);
        directory.refresh(&Touched::everything());
        std::thread::sleep(Duration::from_millis(120));
        directory.refresh(&Touched::everything());
        put(dir.path(), "a.yaml", "c", "10.0.0.1");
        let name = match what {
            "directory" => "sub",
            "link" => {
                symlink("a.yaml", dir.path().join("l.yaml")).unwrap();
                "l.yaml"
            }
            _ => {
                fs::rename(dir.path().join("sub"), dir.path().join(".sub")).unwrap();
                "sub"
            }
        };
        let changes = directory.refresh(&touched(dir.path(), &[name]));
        assert!(changes.of.added.iter().any(|object| object.meta.name.as_str() == "c"), "{what}");
    }
}

/// Does something to a directory; `serial` makes every pod another one.
fn disturb(dir: &Path, random: &mut Random, serial: usize) {
    let directories = ["", "x", "x/y", "z", ".hidden"];
    let names = ["a.yaml", "b.yml", "c.json", "d.yaml", "e.txt", ".f.yaml"];
    let mut pick = || dir.join(directories[random.below(directories.len())]).join(names[random.below(names.len())]);
    let (one, other) = (pick(), pick());
    let (directory, other_directory) = (one.parent().unwrap(), other.parent().unwrap());
    let text = pod(&format!("p{serial}"), &format!("10.0.{}.{}", serial / 250, serial % 250 + 1), "", "");
    // What cannot be done (a directory that is not there, or is not empty) is not done.
    _ = match random.below(100) {
        0..40 => fs::write(&one, text),
        40..52 => fs::rename(&one, &other),
        52..64 => fs::remove_file(&one),
        64..70 => fs::write(dir.join(".tmp"), text).and_then(|()| fs::rename(dir.join(".tmp"), &one)),
        70..78 => fs::create_dir_all(directory),
        78..83 if directory != dir => fs::rename(directory, other_directory),
        83..86 if directory != dir => fs::remove_dir_all(directory),
        86..88 => symlink(&other, &one),
        88..90 if directory != dir => symlink(other_directory, directory),
        90..94 => fs::write(&one, "kind: [broken"),
        94..97 => fs::hard_link(&other, &one),
        _ => fs::write(&one, "").and_then(|()| fs::write(&one, text)),
    };
}

fn fresh(dir: &Path) -> Mesh {
    let mut mesh = Mesh::default();
    mesh.apply(ManifestSource::load_once(dir, &Options::default()).updates);
    mesh
}

/// A broken file keeps what it last said only for those who knew it: they are mended before the comparison.
fn mend(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            mend(&entry.path());
        } else if kind.is_file() && fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("broken")) {
            fs::write(entry.path(), "").unwrap();
        }
    }
}

async fn follow_a_disturbed_directory(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(seed);
    let (sender, mut batches) = mpsc::channel(1024);
    let stop = CancellationToken::new();
    let source = ManifestSource::new(dir.path(), Options::default());
    let running = tokio::spawn(source.run(move |batch: Batch| sender.try_send(batch.updates).unwrap(), stop.clone()));
    let mut mesh = Mesh::default();
    for round in 0..12 {
        for step in 0..=random.below(9) {
            disturb(dir.path(), &mut random, round * 10 + step);
            if random.below(5) == 0 {
                tokio::time::sleep(Duration::from_millis(random.below(60) as u64)).await;
            }
        }
        mend(dir.path());
        let (wanted, deadline) = (fresh(dir.path()), Instant::now() + SOON);
        while mesh != wanted {
            let batch = timeout(deadline - Instant::now(), batches.recv()).await;
            mesh.apply(
                batch.unwrap_or_else(|_| panic!("seed {seed}, round {round}: {mesh:#?}\nis not {wanted:#?}")).unwrap(),
            );
        }
    }
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_directory_that_was_followed_says_what_a_fresh_look_says() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = seed.map_or(0..16, |seed| seed..seed + 1);
    let running: Vec<_> = seeds.map(|seed| tokio::spawn(follow_a_disturbed_directory(seed))).collect();
    for one in running {
        one.await.unwrap();
    }
}
