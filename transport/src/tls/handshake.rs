//! Drives a handshake over TCP with rustls's unbuffered interface, then takes over its traffic keys.

use std::io;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, ExtractedSecrets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::error::TlsError;

/// Largest handshake in bytes: two certificate chains and some slack.
const LONGEST: usize = 128 * 1024;
/// Bytes read at once.
const READ: usize = 4 * 1024;

/// What rustls still handles after the handshake: key updates, and a client's tickets.
pub(crate) enum Session {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// Either side of a handshake: rustls has no common type for them.
pub(crate) trait Handshake {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn state(&self) -> &CommonState;
    fn into_session(self) -> Result<(ExtractedSecrets, Session), rustls::Error>;
}

impl Handshake for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_session(self) -> Result<(ExtractedSecrets, Session), rustls::Error> {
        let (secrets, session) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Session::Client(session)))
    }
}

impl Handshake for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_session(self) -> Result<(ExtractedSecrets, Session), rustls::Error> {
        let (secrets, session) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Session::Server(session)))
    }
}

/// A handshake in progress, without its socket.
struct Shaking<H> {
    connection: H,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    early: Vec<u8>,
}

/// A completed handshake: the parts of a stream.
pub(crate) struct Done {
    pub(crate) tcp: TcpStream,
    pub(crate) secrets: ExtractedSecrets,
    pub(crate) session: Session,
    /// Bytes received after the handshake, still encrypted.
    pub(crate) incoming: Vec<u8>,
    /// Application data that was decrypted with the last handshake message.
    pub(crate) early: Vec<u8>,
}

/// The next step of the driver.
enum Step {
    Go,
    Read,
    Write,
    Done,
    Eof,
}

impl<H: Handshake> Shaking<H> {
    fn new(connection: H) -> Self {
        Self { connection, incoming: Vec::new(), outgoing: Vec::new(), early: Vec::new() }
    }

    fn step(&mut self) -> Result<Step, rustls::Error> {
        let UnbufferedStatus { discard, state } = self.connection.process(&mut self.incoming);
        let mut may_be_done = false;
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.outgoing).map(|()| Step::Go),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Write)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Read),
            Ok(ConnectionState::ReadTraffic(mut data)) => {
                while let Some(record) = data.next_record() {
                    self.early.extend_from_slice(record?.payload);
                }
                Ok(Step::Go)
            }
            Ok(ConnectionState::WriteTraffic(_)) => {
                may_be_done = true;
                Ok(Step::Read)
            }
            Ok(_) => Ok(Step::Eof),
            Err(why) => Err(why),
        };
        self.incoming.drain(..discard);
        if may_be_done && !self.connection.state().is_handshaking() {
            return Ok(Step::Done);
        }
        step
    }

    fn queue_alert(&mut self) {
        // Asked only while there is something to send: rustls panics if asked again after it has failed.
        while self.connection.state().wants_write() {
            let said = match self.connection.process(&mut self.incoming).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.outgoing),
                _ => return,
            };
            if said.is_err() {
                return;
            }
        }
    }
}

/// Runs a handshake to its end; `examine` judges the outcome. A rejected peer is sent an alert.
pub(crate) async fn shake_hands<H: Handshake, P>(
    mut tcp: TcpStream,
    connection: H,
    examine: impl FnOnce(&CommonState) -> Result<P, TlsError>,
) -> Result<(Done, P), TlsError> {
    let mut shaking = Shaking::new(connection);
    loop {
        match shaking.step() {
            Ok(Step::Go) => {}
            Ok(Step::Write) => {
                tcp.write_all(&shaking.outgoing).await.map_err(TlsError::Io)?;
                shaking.outgoing.clear();
            }
            Ok(Step::Read) => read(&mut tcp, &mut shaking).await?,
            Ok(Step::Done) => break,
            Ok(Step::Eof) => return Err(eof()),
            Err(why) => {
                shaking.queue_alert();
                // Best effort: the original failure is what is reported.
                let _ = tcp.write_all(&shaking.outgoing).await;
                return Err(why.into());
            }
        }
    }
    let examined = examine(shaking.connection.state())?;
    let Shaking { connection, incoming, early, .. } = shaking;
    let (secrets, session) = connection.into_session()?;
    Ok((Done { tcp, secrets, session, incoming, early }, examined))
}

async fn read<H>(tcp: &mut TcpStream, shaking: &mut Shaking<H>) -> Result<(), TlsError> {
    if shaking.incoming.len() + shaking.early.len() >= LONGEST {
        return Err(TlsError::TooLong);
    }
    shaking.incoming.reserve(READ);
    match tcp.read_buf(&mut shaking.incoming).await {
        Ok(0) => Err(eof()),
        Ok(_) => Ok(()),
        Err(why) => Err(TlsError::Io(why)),
    }
}

fn eof() -> TlsError {
    TlsError::Io(io::ErrorKind::UnexpectedEof.into())
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), rustls::Error> {
    let start = out.len();
    loop {
        match data.encode(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) => out.resize(start + needed.required_size, 0),
            Err(EncodeError::AlreadyEncoded) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;

    use super::*;
    use crate::tls::tests::{Ca, plain_client, plain_server};

    fn pair(ca: &Ca) -> (Shaking<UnbufferedClientConnection>, Shaking<UnbufferedServerConnection>) {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let client = Arc::new(plain_client(ca, Some("client")));
        let server = Arc::new(plain_server(ca, ca.sign_for("server")));
        let client = UnbufferedClientConnection::new(client, name).unwrap();
        let server = UnbufferedServerConnection::new(server).unwrap();
        (Shaking::new(client), Shaking::new(server))
    }

    /// Advances one side as far as possible; returns true when it can get no further.
    fn advance<H: Handshake>(side: &mut Shaking<H>) -> bool {
        loop {
            match side.step() {
                Ok(Step::Go | Step::Write) => {}
                Ok(Step::Read) => return false,
                Ok(Step::Done | Step::Eof) => return true,
                Err(_) => {
                    side.queue_alert();
                    return true;
                }
            }
        }
    }

    fn damage(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
        if bytes.is_empty() || random.u8(..) < 128 {
            return;
        }
        for _ in 0..random.usize(1..5) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, random.u8(..)),
                _ => bytes.extend_from_within(at..),
            }
        }
    }

    #[test]
    fn no_damage_makes_a_handshake_panic() {
        let ca = Ca::new();
        let mut whole = 0;
        for seed in 0..1500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut client, mut server) = pair(&ca);
            let (mut client_ended, mut server_ended) = (false, false);
            for _ in 0..6 {
                client_ended = client_ended || advance(&mut client);
                let mut flight = std::mem::take(&mut client.outgoing);
                damage(&mut flight, &mut random);
                server.incoming.extend(flight);
                server_ended = server_ended || advance(&mut server);
                let mut flight = std::mem::take(&mut server.outgoing);
                damage(&mut flight, &mut random);
                client.incoming.extend(flight);
            }
            let done = |state: &CommonState| usize::from(!state.is_handshaking());
            whole += done(client.connection.state()) * done(server.connection.state());
        }
        assert!((1..1500).contains(&whole), "{whole} of 1500 came through: the damage is not what it should be");
    }
}
