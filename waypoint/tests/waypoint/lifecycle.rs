//! Things come and go while requests are under way: pods, and the waypoint itself.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::backend::{Act, Backend, ok};
use super::programs;
use super::rig::{Rig, SHOP, get, got, shop};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_come_and_go_without_one_failure() {
    let rig = Rig::start(&shop("http", &[11, 12])).await;
    let mut backends = vec![];
    for host in [11, 12, 13] {
        backends.push(Backend::start(&rig, host, |_, _| Act { delay: Duration::from_millis(30), ..ok("fine") }).await);
    }
    let (stop, done, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut calling = vec![];
    for _ in 0..8 {
        let mut sender = rig.one(SHOP).await;
        let (stop, done, failed) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&failed));
        calling.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // POST: nothing hides behind retries.
                let request = http::Request::post("/").header("host", "shop");
                let request = request.body(http_body_util::Full::from("pay")).unwrap();
                match sender.send_request(request).await {
                    Ok(response) => {
                        _ = failed.fetch_add(usize::from(got(response).await.status != 200), Ordering::Relaxed)
                    }
                    Err(_) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for pods in [&[11, 12, 13][..], &[13], &[12, 13], &[12], &[11, 12]] {
        rig.write("mesh.yaml", &shop("http", pods));
        tokio::time::sleep(Duration::from_millis(350)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for call in calling {
        call.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert!(done.load(Ordering::Relaxed) > 200, "{done:?}");
    assert!(backends[2].hits() > 20, "the pod that came was used: {}", backends[2].hits());
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_it_has_begun() {
    let mut rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| Act { delay: Duration::from_millis(800), ..ok("late") }).await;
    let mut sender = rig.one(SHOP).await;
    let calling = tokio::spawn(async move { got(sender.send_request(get("/")).await.unwrap()).await });
    rig.eventually("arrived", async || backend.hits() == 1).await;
    terminate(rig.pid());
    let began = Instant::now();
    let answer = calling.await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "late"));
    let status = rig.exited().await;
    assert!(status.success(), "{status}");
    // Three seconds are its time to drain; it need not take them.
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    assert!(rig.log().contains("SIGTERM"), "{}", rig.log());
}

#[tokio::test]
async fn told_twice_it_cuts_what_it_has_begun() {
    let mut rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| Act { delay: Duration::from_secs(60), ..ok("late") }).await;
    let mut sender = rig.one(SHOP).await;
    let calling = tokio::spawn(async move { sender.send_request(get("/")).await.map(|answer| answer.status()) });
    rig.eventually("arrived", async || backend.hits() == 1).await;
    terminate(rig.pid());
    rig.eventually("draining", async || rig.log().contains("draining")).await;
    // The handler of the second signal is installed when the draining begins, just after its line.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    terminate(rig.pid());
    let status = rig.exited().await;
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}: the three seconds of --drain", began.elapsed());
    assert!(rig.log().contains("connections are cut"), "{}", rig.log());
    assert!(!matches!(calling.await.unwrap(), Ok(http::StatusCode::OK)));
}

#[test]
fn told_while_it_waits_for_its_ca_it_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ca_dir = dir.path().join("ca");
    std::fs::DirBuilder::new().mode(0o700).create(&ca_dir).unwrap();
    let lock = std::fs::File::create(ca_dir.join(".lock")).unwrap();
    lock.lock().unwrap();
    let log = dir.path().join("log");
    let mut process = programs::command(env!("CARGO_BIN_EXE_culvert-waypoint"))
        .unwrap()
        .args(["--gateway", "default/wp", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--stats", "127.0.0.1:0", "--ready", "127.0.0.1:0", "--manifests"])
        .arg(dir.path())
        .arg("--ca-dir")
        .arg(&ca_dir)
        .stdout(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    // Its handlers are installed by then; without them the signal would end it without a word.
    std::thread::sleep(Duration::from_millis(500));
    assert!(process.try_wait().unwrap().is_none(), "it waits for the lock");
    terminate(process.id());
    let began = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(3) {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("it waited for the lock: {}", std::fs::read_to_string(&log).unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(0));
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("SIGTERM: ending before the start was finished"), "{said}");
}

fn terminate(pid: u32) {
    let kill = programs::command("kill").unwrap().args(["-TERM", &pid.to_string()]).status().unwrap();
    assert!(kill.success());
}
