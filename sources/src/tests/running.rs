//! The running source: what it sends, and when.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::support::{Mesh, pod};
use crate::manifests::status::Status;
use crate::{Batch, ManifestSource, Options};
use mesh::model::update::Update;

/// Ten times what is promised: this is a test of what happens, not of how fast a busy machine is.
const SOON: Duration = Duration::from_secs(2);

struct Running {
    mesh: Mesh,
    batches: mpsc::Receiver<Vec<Update>>,
    status: Arc<ArcSwap<Status>>,
    _stop: DropGuard,
}

impl Running {
    /// Starts a source and waits for its first batch.
    async fn start(dir: &Path) -> Self {
        let mut running = Self::start_without_batch(dir);
        running.next().await;
        running
    }

    fn start_without_batch(dir: &Path) -> Self {
        let source = ManifestSource::new(dir, Options::default());
        let (sender, batches) = mpsc::channel(64);
        let status = source.status();
        let stop = CancellationToken::new();
        tokio::spawn(source.run(move |batch: Batch| sender.try_send(batch.updates).unwrap(), stop.clone()));
        Self { mesh: Mesh::default(), batches, status, _stop: stop.drop_guard() }
    }

    async fn next(&mut self) -> usize {
        let batch = timeout(SOON, self.batches.recv()).await.expect("a change comes into effect").unwrap();
        let changes = batch.len();
        self.mesh.apply(batch);
        changes
    }

    fn pods(&self) -> Vec<&str> {
        self.mesh.workloads.values().map(|workload| workload.name.as_str()).collect()
    }

    /// Waits until the mesh has these pods.
    async fn until(&mut self, pods: &[&str]) {
        while self.pods() != pods {
            self.next().await;
        }
    }

    async fn eventually(&self, what: &str, matches: impl Fn(&Status) -> bool) -> Arc<Status> {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.status.load_full();
            if matches(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn put(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[tokio::test]
async fn a_change_of_a_file_comes_into_effect() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a.yaml", &pod("a", "10.0.0.1", "", ""));
    let mut running = Running::start(dir.path()).await;
    assert_eq!(running.pods(), ["a"]);

    put(dir.path(), "b.yaml", &pod("b", "10.0.0.2", "", ""));
    running.until(&["a", "b"]).await;

    put(dir.path(), "b.yaml", &pod("c", "10.0.0.3", "", ""));
    running.until(&["a", "c"]).await;

    fs::write(dir.path().join(".tmp"), pod("d", "10.0.0.4", "", "")).unwrap();
    fs::rename(dir.path().join(".tmp"), dir.path().join("b.yaml")).unwrap();
    running.until(&["a", "d"]).await;

    fs::create_dir_all(dir.path().join("x/y")).unwrap();
    put(
        dir.path(),
        "x/y/e.json",
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"e"},"status":{"podIP":"10.0.0.5"}}"#,
    );
    running.until(&["a", "d", "e"]).await;

    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    running.until(&["d", "e"]).await;
}

#[tokio::test]
async fn a_config_map_that_is_swapped_comes_into_effect_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("..1")).unwrap();
    put(dir.path(), "..1/a.yaml", &pod("a", "10.0.0.1", "", ""));
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let mut running = Running::start(dir.path()).await;
    assert_eq!(running.pods(), ["a"]);

    fs::create_dir(dir.path().join("..2")).unwrap();
    put(dir.path(), "..2/a.yaml", &pod("b", "10.0.0.2", "", ""));
    symlink("..2", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    fs::remove_dir_all(dir.path().join("..1")).unwrap();
    assert_eq!(running.next().await, 2);
    assert_eq!(running.pods(), ["b"]);
}

#[tokio::test]
async fn a_directory_that_is_removed_keeps_its_mesh_until_there_is_another() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("mesh");
    let mut running = Running::start_without_batch(&dir);
    running
        .eventually("a missing directory is a problem", |status| !status.problems.is_empty() && !status.synced)
        .await;

    fs::create_dir(&dir).unwrap();
    assert_eq!(running.next().await, 0);
    put(&dir, "a.yaml", &pod("a", "10.0.0.1", "", ""));
    running.until(&["a"]).await;

    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(parent.path().join("new")).unwrap();
    put(&parent.path().join("new"), "b.yaml", &pod("b", "10.0.0.2", "", ""));
    fs::rename(parent.path().join("new"), &dir).unwrap();
    running.until(&["b"]).await;
    put(&dir, "c.yaml", &pod("c", "10.0.0.3", "", ""));
    running.until(&["b", "c"]).await;
}

#[tokio::test]
async fn a_broken_file_keeps_what_it_last_said() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a.yaml", &pod("a", "10.0.0.1", "", ""));
    let mut running = Running::start(dir.path()).await;

    put(dir.path(), "a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: [a}\n");
    let status = running.eventually("the failure is counted", |status| status.failures == 1).await;
    assert_eq!(status.troubled.len(), 1);
    assert!(status.troubled[0].broken && status.troubled[0].last_good.is_some());
    assert!(status.problems[0].to_string().contains("a.yaml:3: not valid YAML"), "{:?}", status.problems);
    assert!(running.batches.try_recv().is_err(), "nothing changes");

    put(dir.path(), "a.yaml", &pod("b", "10.0.0.2", "", ""));
    running.until(&["b"]).await;
    let status = running.eventually("the problem is gone", |status| status.problems.is_empty()).await;
    assert!(!status.troubled[0].broken && status.troubled[0].failures == 1);
}
