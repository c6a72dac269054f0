//! Pure except for the session. Handshake messages and alerts after the handshake (RFC 8446, 4.6 and 6).

use std::io;

use rustls::ConnectionTrafficSecrets;
use thiserror::Error;

use super::handshake::Session;

/// Bytes of a handshake message that may be incomplete.
const LONGEST: usize = 64 * 1024;
/// Consecutive messages and empty records without data before the peer counts as hostile.
const IN_A_ROW: u32 = 32;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Why a message is rejected.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum MessageError {
    /// Too many consecutive messages without data.
    #[error("too many TLS messages without data")]
    TooMany,
    /// The message is too long.
    #[error("a TLS message that is too long")]
    TooLong,
    /// The message is not allowed after a handshake.
    #[error("an unexpected TLS message of type {0}")]
    Unexpected(u8),
    /// The message is malformed.
    #[error("a TLS message that cannot be read")]
    Unreadable,
}

/// A processed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// `KeyUpdate`: the peer's next record uses its next key; it may request ours too.
    NewKey { answer: bool },
    /// A session ticket, stored.
    Ticket,
}

/// Reassembles messages, which may span several records.
#[derive(Default)]
pub(crate) struct Messages {
    pending: Vec<u8>,
    in_a_row: u32,
}

impl Messages {
    /// `KeyUpdate` that does not request one in return.
    pub(crate) const KEY_UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
    /// The `close_notify` alert, level warning.
    pub(crate) const CLOSE_NOTIFY: [u8; 2] = [1, 0];

    pub(crate) fn data_came(&mut self) {
        self.in_a_row = 0;
    }

    /// Counts an empty record.
    pub(crate) fn nothing_came(&mut self) -> Result<(), MessageError> {
        self.in_a_row += 1;
        if self.in_a_row > IN_A_ROW { Err(MessageError::TooMany) } else { Ok(()) }
    }

    /// Every alert ends the connection; returns whether it is `close_notify`, the orderly end.
    pub(crate) fn is_good_end(alert: &[u8]) -> bool {
        *alert == Self::CLOSE_NOTIFY
    }

    /// Appends the content of a handshake record.
    pub(crate) fn add(&mut self, content: &[u8]) -> Result<(), MessageError> {
        self.nothing_came()?;
        if self.pending.len() + content.len() > LONGEST {
            return Err(MessageError::TooLong);
        }
        self.pending.extend_from_slice(content);
        Ok(())
    }

    /// Processes the next complete message.
    pub(crate) fn next(&mut self, session: &mut Session) -> Result<Option<Heard>, MessageError> {
        let [kind, a, b, c, ref rest @ ..] = self.pending[..] else { return Ok(None) };
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if len > LONGEST {
            return Err(MessageError::TooLong);
        }
        let Some((body, rest)) = rest.split_at_checked(len) else { return Ok(None) };
        let heard = match (kind, &mut *session) {
            (NEW_SESSION_TICKET, Session::Client(session)) => {
                session.handle_new_session_ticket(body).map_err(|_| MessageError::Unreadable)?;
                Heard::Ticket
            }
            // The key changes with the next record, so nothing may follow in this one (RFC 8446, 5.1).
            (KEY_UPDATE, _) => match (body, rest) {
                ([answer @ (0 | 1)], []) => Heard::NewKey { answer: *answer == 1 },
                _ => return Err(MessageError::Unreadable),
            },
            (kind, _) => return Err(MessageError::Unexpected(kind)),
        };
        self.pending = rest.to_vec();
        Ok(Some(heard))
    }
}

impl Session {
    /// The next key of the records that we receive.
    pub(crate) fn next_receive_key(&mut self) -> io::Result<(u64, ConnectionTrafficSecrets)> {
        let next = match self {
            Self::Client(session) => session.update_rx_secret(),
            Self::Server(session) => session.update_rx_secret(),
        };
        next.map_err(io::Error::other)
    }

    /// The next key of the records that we send.
    pub(crate) fn next_send_key(&mut self) -> io::Result<(u64, ConnectionTrafficSecrets)> {
        let next = match self {
            Self::Client(session) => session.update_tx_secret(),
            Self::Server(session) => session.update_tx_secret(),
        };
        next.map_err(io::Error::other)
    }
}
