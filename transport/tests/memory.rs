//! What an idle connection in a tunnel costs in this process, counted at the allocator.
#![expect(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

#[path = "hbone/mesh.rs"]
#[expect(dead_code, reason = "shared with the other tests of HBONE, which use the rest")]
#[cfg(test)]
mod mesh;

#[cfg(test)]
mod idle {
    //! One test: the count is of the whole process.

    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicIsize, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use transport::hbone::{PoolOptions, Settings};
    use transport::net::copy::Timeouts;

    use crate::mesh::{Carried, Mesh};

    struct Counting;

    static LIVE: AtomicIsize = AtomicIsize::new(0);

    fn count(bytes: usize, sign: isize) {
        LIVE.fetch_add(sign * isize::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }

    // SAFETY: every call goes to the system's allocator unchanged.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count(layout.size(), 1);
            // SAFETY: as the caller promises.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            count(layout.size(), -1);
            // SAFETY: as the caller promises.
            unsafe { System.dealloc(at, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    const CONNECTIONS: usize = 600;
    /// The budget of each side.
    const MOST: usize = 3000;

    async fn open(mesh: &Mesh, far: &crate::mesh::Far, count: usize) -> Vec<Carried> {
        let mut open = Vec::with_capacity(count);
        for _ in 0..count {
            let mut carried = mesh.carry(far, Timeouts::default()).await;
            // Each has carried something in both directions, as one that is idle in earnest has.
            let mut received = [0; 2000];
            carried.client.write_all(&received).await.unwrap();
            carried.server.read_exact(&mut received).await.unwrap();
            carried.server.write_all(&received).await.unwrap();
            carried.client.read_exact(&mut received).await.unwrap();
            open.push(carried);
        }
        open
    }

    #[tokio::test]
    async fn an_idle_connection_holds_no_buffer() {
        let files = nix::sys::resource::Resource::RLIMIT_NOFILE;
        let (_, hard) = nix::sys::resource::getrlimit(files).unwrap();
        nix::sys::resource::setrlimit(files, hard, hard).unwrap();
        let mesh = Mesh::with(PoolOptions { spread: 1, ..PoolOptions::default() });
        let far = mesh.far(Settings::default()).await;
        let warm = open(&mesh, &far, 20).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = LIVE.load(Ordering::Relaxed);
        let connections = open(&mesh, &far, CONNECTIONS).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let grown = usize::try_from(LIVE.load(Ordering::Relaxed) - before).unwrap();
        // Both sides are here, and the sockets of both applications, which are counted in.
        let each = grown / CONNECTIONS / 2;
        assert!(each <= MOST, "{each} bytes for each side of an idle connection");
        println!("{each} bytes for each side of an idle connection");
        drop((connections, warm));
    }
}
