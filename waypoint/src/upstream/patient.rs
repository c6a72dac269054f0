//! A stream whose broken half does not hide what its other half has to say.
//!
//! A server may answer before it has read the request, and close (RFC 9112, 9.6): what is still sent to it then fails,
//! maybe before its answer was read. The failure is kept back, and what is written is forgotten, until reading has come
//! to its end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream.
pub struct Patient<S> {
    stream: S,
    /// Nobody listens any more.
    deaf: bool,
}

impl<S> Patient<S> {
    /// Wraps a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, deaf: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.deaf {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, buf)) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(_) => self.deaf = true,
            }
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.deaf && ready!(Pin::new(&mut self.stream).poll_flush(cx)).is_err() {
            self.deaf = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf { Poll::Ready(Ok(())) } else { Pin::new(&mut self.stream).poll_shutdown(cx) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_though_nothing_more_can_be_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(b"too much").await.unwrap();
            // Unread bytes make the close a reset.
            tcp.readable().await.unwrap();
        };
        let client = async {
            let mut patient = Patient::new(TcpStream::connect(address).await.unwrap());
            patient.write_all(&[0; 1 << 16]).await.unwrap();
            patient
        };
        let ((), mut patient) = tokio::join!(server, client);
        for _ in 0..50 {
            patient.write_all(&[0; 1 << 16]).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!(patient.deaf);
        let mut said = [0; 8];
        patient.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"too much");
    }
}
