//! Servers: one thread per connection, one listener per `mode:port`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::SockRef;

use super::pattern::{Pattern, TO_CLIENT, TO_SERVER};
use super::report::Event;
use super::socket::{bind_udp, listen, plain, say};
use super::web::{Next, Web};

/// Size of a read.
const BLOCK: usize = 64 * 1024;

/// What a server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Echoes; ends when the client ends.
    Echo,
    /// Answers one HTTP request with the server's name and both addresses.
    Who,
    /// Reads to the end, then reports the number of bytes and whether they were correct.
    Sink,
    /// Reads a number and a line feed, then sends that many bytes of the pattern.
    Source,
    /// Speaks first, then echoes.
    First,
    /// Sends 1,000 bytes and its end at once, then reads to the client's end.
    Half,
    /// Never reads, never writes.
    Stall,
    /// Resets the connection on the first byte.
    Reset,
    /// Reads 64 KiB every 10 ms, then answers as `Sink` does.
    Slow,
    /// Responds after reading a little, ends, and closes with unread bytes.
    Early,
    /// Echoes every datagram.
    Udp,
    /// Answers HTTP, with a behaviour set on the control path.
    Http,
}

/// Bytes of the early response.
pub const EARLY_ANSWER: usize = 20_000;

/// A listener: mode and port.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// What it does.
    pub mode: Mode,
    /// Where it listens, on every address of both families.
    pub port: u16,
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (mode, port) = text.split_once(':').context("expected MODE:PORT")?;
        let mode = match mode {
            "echo" => Mode::Echo,
            "who" => Mode::Who,
            "sink" => Mode::Sink,
            "source" => Mode::Source,
            "first" => Mode::First,
            "half" => Mode::Half,
            "stall" => Mode::Stall,
            "reset" => Mode::Reset,
            "slow" => Mode::Slow,
            "early" => Mode::Early,
            "udp" => Mode::Udp,
            "http" => Mode::Http,
            other => bail!("no such mode: {other}"),
        };
        Ok(Self { mode, port: port.parse().with_context(|| format!("port {port}"))? })
    }
}

/// Serves until killed.
pub fn serve(name: &str, specs: &[Spec], next: Option<Next>) -> Result<()> {
    let mut threads = Vec::new();
    let web = Web::new(name, next);
    for &spec in specs {
        if spec.mode == Mode::Http {
            let listeners = listen(spec.port).with_context(|| format!("listen on {}", spec.port))?;
            let web = web.clone();
            threads.push(thread::spawn(move || {
                if let Err(error) = web.serve(listeners) {
                    let error = Some(error.to_string());
                    let peer = SocketAddr::from(([0, 0, 0, 0], 0));
                    say(&Event::Closed { mode: "http".to_owned(), peer, received: 0, error });
                }
            }));
            continue;
        }
        if spec.mode == Mode::Udp {
            for socket in bind_udp(spec.port).with_context(|| format!("bind UDP {}", spec.port))? {
                threads.push(thread::spawn(move || echo_datagrams(&socket)));
            }
            continue;
        }
        for listener in listen(spec.port).with_context(|| format!("listen on {}", spec.port))? {
            let name = name.to_owned();
            threads.push(thread::spawn(move || {
                loop {
                    match listener.accept() {
                        Ok((stream, peer)) => {
                            let name = name.clone();
                            thread::spawn(move || connection(&name, spec.mode, stream, plain(peer)));
                        }
                        Err(_) => thread::sleep(Duration::from_millis(10)),
                    }
                }
            }));
        }
    }
    say(&Event::Listening);
    for thread in threads {
        let _panicked = thread.join();
    }
    Ok(())
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut datagram = [0; 2048];
    loop {
        if let Ok((n, from)) = socket.recv_from(&mut datagram) {
            // The client may be gone.
            let _gone = socket.send_to(&datagram[..n], from);
        }
    }
}

fn connection(name: &str, mode: Mode, mut stream: TcpStream, peer: SocketAddr) {
    let label = format!("{mode:?}").to_lowercase();
    if let Ok(local) = stream.local_addr() {
        say(&Event::Accepted { mode: label.clone(), peer, local: plain(local) });
    }
    let _unsupported = stream.set_nodelay(true);
    let mut received = 0;
    let result = match mode {
        Mode::Echo => echo(&mut stream, &mut received),
        Mode::Who => who(name, &mut stream, peer, &mut received),
        Mode::Sink => sink(&mut stream, &mut received, Duration::ZERO),
        Mode::Slow => sink(&mut stream, &mut received, Duration::from_millis(10)),
        Mode::Source => source(&mut stream, &mut received),
        Mode::First => first(name, &mut stream, &mut received),
        Mode::Half => half(&mut stream, &mut received),
        Mode::Stall => {
            // The harness kills the process.
            thread::sleep(Duration::from_secs(3600));
            Ok(())
        }
        Mode::Reset => reset(&stream, &mut received),
        Mode::Early => early(&mut stream, &mut received),
        Mode::Udp | Mode::Http => Err(io::Error::other("served elsewhere")),
    };
    say(&Event::Closed { mode: label, peer, received, error: result.err().map(|e| e.to_string()) });
}

fn echo(stream: &mut TcpStream, received: &mut u64) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        let n = stream.read(&mut block)?;
        if n == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        *received += n as u64;
        stream.write_all(&block[..n])?;
    }
}

fn who(name: &str, stream: &mut TcpStream, peer: SocketAddr, received: &mut u64) -> io::Result<()> {
    let local = plain(stream.local_addr()?);
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        let n = reader.read_line(&mut line)?;
        *received += n as u64;
        if n == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
    }
    let body = format!("server={name} peer={peer} local={local}\n");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.shutdown(Shutdown::Write)
}

fn sink(stream: &mut TcpStream, received: &mut u64, pause: Duration) -> io::Result<()> {
    let mut expected = Pattern::new(TO_SERVER);
    let mut verdict = "intact".to_owned();
    let mut block = vec![0; BLOCK];
    loop {
        let n = stream.read(&mut block)?;
        if n == 0 {
            break;
        }
        *received += n as u64;
        if verdict == "intact"
            && let Err(offset) = expected.check(&block[..n])
        {
            verdict = format!("wrong at byte {offset}");
        }
        thread::sleep(pause);
    }
    write!(stream, "{received} {verdict}")?;
    stream.shutdown(Shutdown::Write)
}

fn source(stream: &mut TcpStream, received: &mut u64) -> io::Result<()> {
    let mut line = String::new();
    *received = BufReader::new(stream.try_clone()?).read_line(&mut line)? as u64;
    let mut left: u64 = line.trim().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let mut pattern = Pattern::new(TO_CLIENT);
    let mut block = vec![0; BLOCK];
    while left > 0 {
        let n = left.min(BLOCK as u64) as usize;
        pattern.fill(&mut block[..n]);
        stream.write_all(&block[..n])?;
        left -= n as u64;
    }
    stream.shutdown(Shutdown::Write)
}

fn first(name: &str, stream: &mut TcpStream, received: &mut u64) -> io::Result<()> {
    writeln!(stream, "220 {name} ready")?;
    echo(stream, received)
}

fn half(stream: &mut TcpStream, received: &mut u64) -> io::Result<()> {
    let mut bytes = vec![0; 1000];
    Pattern::new(TO_CLIENT).fill(&mut bytes);
    stream.write_all(&bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut expected = Pattern::new(TO_SERVER);
    let mut block = vec![0; BLOCK];
    loop {
        let n = stream.read(&mut block)?;
        if n == 0 {
            return Ok(());
        }
        *received += n as u64;
        expected.check(&block[..n]).map_err(|at| io::Error::other(format!("wrong at byte {at}")))?;
    }
}

fn reset(mut stream: &TcpStream, received: &mut u64) -> io::Result<()> {
    let mut byte = [0];
    *received = stream.read(&mut byte)? as u64;
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

fn early(stream: &mut TcpStream, received: &mut u64) -> io::Result<()> {
    *received = stream.read(&mut [0; 1000])? as u64;
    let mut bytes = vec![0; EARLY_ANSWER];
    Pattern::new(TO_CLIENT).fill(&mut bytes);
    stream.write_all(&bytes)?;
    stream.shutdown(Shutdown::Write)?;
    thread::sleep(Duration::from_millis(100));
    Ok(())
}
