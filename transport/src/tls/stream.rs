//! An established TLS connection: application data, key updates and alerts.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::handshake::{Done, Session};
use super::inbox::Inbox;
use super::messages::{Heard, Messages};
use super::outbox::Outbox;
use super::record::{Content, Opener, RECORDS_PER_KEY, RecordError, Sealer};

/// TLS over TCP. Writes are collected into full records until a flush or a full buffer.
pub struct TlsStream {
    pub(crate) tcp: TcpStream,
    session: Session,
    opener: Opener,
    sealer: Sealer,
    inbox: Inbox,
    outbox: Outbox,
    messages: Messages,
    closed: bool,
    pub(crate) records_per_key: u64,
}

impl TlsStream {
    pub(crate) fn new(done: Done) -> Result<Self, RecordError> {
        Ok(Self {
            tcp: done.tcp,
            session: done.session,
            opener: Opener::new(done.secrets.rx)?,
            sealer: Sealer::new(done.secrets.tx)?,
            inbox: Inbox::new(done.early, &done.incoming),
            outbox: Outbox::default(),
            messages: Messages::default(),
            closed: false,
            records_per_key: RECORDS_PER_KEY,
        })
    }

    /// The underlying TCP connection.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Reads records until `buf` is full or nothing more is there. Ready with an empty `buf` is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            let before_record = buf.filled().len();
            match self.inbox.next(&mut self.opener, buf).map_err(invalid)? {
                Some(Content::Data) if buf.filled().len() > before_record => self.messages.data_came(),
                Some(Content::Data) => self.messages.nothing_came().map_err(invalid)?,
                Some(of) => self.hear(of)?,
                None if buf.remaining() == 0 || buf.filled().len() > before => {
                    return Poll::Ready(Ok(()));
                }
                None => {
                    if ready!(self.inbox.poll_read(cx, &mut self.tcp))? == 0 {
                        // Only an alert ends a TLS connection in order: anybody on the path can forge a FIN (RFC 8446,
                        // 6.1).
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }

    /// Handles handshake messages and alerts between the data.
    fn hear(&mut self, of: Content) -> io::Result<()> {
        let content = self.inbox.take_message();
        if of == Content::Alert {
            if !Messages::is_good_end(&content) {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer sent a TLS alert"));
            }
            self.closed = true;
            return Ok(());
        }
        self.messages.add(&content).map_err(invalid)?;
        while let Some(heard) = self.messages.next(&mut self.session).map_err(invalid)? {
            if let Heard::NewKey { answer } = heard {
                self.opener = Opener::new(self.session.next_receive_key()?).map_err(invalid)?;
                if answer {
                    self.change_key()?;
                }
            }
        }
        Ok(())
    }

    /// Sends `KeyUpdate` and switches to the next send key (RFC 8446, 4.6.3).
    fn change_key(&mut self) -> io::Result<()> {
        self.outbox.seal_message(&mut self.sealer, Content::Handshake, &Messages::KEY_UPDATE).map_err(invalid)?;
        self.sealer = Sealer::new(self.session.next_send_key()?).map_err(invalid)?;
        Ok(())
    }

    fn poll_collect(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        for buf in bufs {
            let mut rest = &buf[..];
            while !rest.is_empty() {
                if self.sealer.sealed() >= self.records_per_key {
                    self.change_key()?;
                }
                let len = self.outbox.collect(&mut self.sealer, rest).map_err(invalid)?;
                if len == 0 {
                    match self.outbox.poll_write(cx, &mut self.tcp)? {
                        Poll::Ready(()) => continue,
                        Poll::Pending if taken > 0 => return Poll::Ready(Ok(taken)),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                taken += len;
                rest = &rest[len..];
            }
        }
        Poll::Ready(Ok(taken))
    }
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsStream").field(&self.tcp).finish()
    }
}

fn invalid(why: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.poll_fill(cx, buf);
        self.inbox.rest();
        read
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_collect(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_collect(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.outbox.finish_record(&mut this.sealer).map_err(invalid)?;
        this.outbox.poll_write(cx, &mut this.tcp)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.outbox.is_closed() {
            this.outbox.close(&mut this.sealer, &Messages::CLOSE_NOTIFY).map_err(invalid)?;
        }
        ready!(this.outbox.poll_write(cx, &mut this.tcp))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}
