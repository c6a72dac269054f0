//! Upgraded connections: the bytes of a WebSocket in both directions, whether HTTP/1 or HTTP/2 carried its request.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf, copy_bidirectional};

use crate::wrapped::{Reading, Wrapped};

/// Copies bytes in both directions until both have ended, or until none was received for `idle`. `kept` is held until
/// then and handed to `told` with the bytes sent to the backend and to the client.
pub async fn carry<T>(
    client: OnUpgrade,
    response: Response<Incoming>,
    idle: Option<Duration>,
    kept: T,
    told: impl FnOnce(T, u64, u64),
) {
    let backend = hyper::upgrade::on(response).await;
    let (client, backend) = match (client.await, backend) {
        (Ok(client), Ok(backend)) => (client, backend),
        (Err(error), _) | (_, Err(error)) => return tracing::debug!("upgrade: {error}"),
    };
    let (to_backend, to_client) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut client = Wrapped { stream: TokioIo::new(client), reading: Count(&to_backend) };
    let mut backend = Wrapped { stream: TokioIo::new(backend), reading: Count(&to_client) };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut backend) => {}
        () = silence(idle, || to_backend.load(Ordering::Relaxed).wrapping_add(to_client.load(Ordering::Relaxed))) => {}
    }
    told(kept, to_backend.load(Ordering::Relaxed), to_client.load(Ordering::Relaxed));
}

/// Ends when `count` has not changed for `idle`, a quarter more at most.
async fn silence(idle: Option<Duration>, count: impl Fn() -> u64) {
    let Some(idle) = idle else { return std::future::pending().await };
    let (mut last, mut quiet) = (count(), 0);
    while quiet < 4 {
        tokio::time::sleep(idle / 4).await;
        let now = count();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
}

/// Counts what is read.
struct Count<'a>(&'a AtomicU64);

impl Reading for Count<'_> {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = stream.poll_read(cx, buf);
        self.0.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_silence_ends_a_stream() {
        let count = AtomicU64::new(0);
        let began = tokio::time::Instant::now();
        let busy = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(30)).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::join!(busy, silence(Some(Duration::from_secs(60)), || count.load(Ordering::Relaxed)));
        let after = began.elapsed().as_secs();
        assert!((655..=680).contains(&after), "{after}");
    }
}
