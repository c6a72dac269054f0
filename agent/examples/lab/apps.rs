//! Servers and clients. A server reads one line from a connection and does what it says:
//!
//! `who` answers both addresses that it sees; `give N` sends N bytes and closes; `take N` reads N bytes, answers `ok`
//! and waits for the end; `both U D` reads until the client has no more, U bytes, then sends D and closes; `echo` sends
//! every line back.
#![expect(clippy::print_stdout, reason = "what the tests read")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

#[derive(clap::Args)]
pub(crate) struct Serve {
    addresses: Vec<SocketAddr>,
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        let mut threads = Vec::new();
        for address in self.addresses {
            let listener = TcpListener::bind(address).with_context(|| address.to_string())?;
            threads.push(thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || serve(stream));
                }
            }));
        }
        println!("ready");
        threads.into_iter().for_each(|thread| drop(thread.join()));
        Ok(())
    }
}

fn serve(stream: TcpStream) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    match words.first().copied() {
        Some("who") => {
            writeln!(writer, "peer={} local={}", writer.peer_addr()?, writer.local_addr()?)?;
            io::copy(&mut reader, &mut io::sink())?;
        }
        Some("give") => give(&mut writer, number(1))?,
        Some("take") => {
            io::copy(&mut reader.by_ref().take(number(1)), &mut io::sink())?;
            writer.write_all(b"ok\n")?;
            io::copy(&mut reader, &mut io::sink())?;
        }
        Some("both") => {
            io::copy(&mut reader, &mut io::sink())?;
            give(&mut writer, number(2))?;
        }
        _ => loop {
            writer.write_all(line.as_bytes())?;
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                break;
            }
        },
    }
    Ok(())
}

fn give(writer: &mut TcpStream, count: u64) -> io::Result<()> {
    io::copy(&mut io::repeat(b'x').take(count), writer).map(drop)
}

/// How a client's socket is made.
#[derive(clap::Args)]
struct Made {
    /// Bind to this address first.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Bind to this interface first.
    #[arg(long)]
    device: Option<String>,
    /// Connect to IPv4 through an IPv6 socket.
    #[arg(long)]
    mapped: bool,
    /// Connect here first, take that back, and use the same socket again.
    #[arg(long)]
    first: Option<SocketAddr>,
}

impl Made {
    fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let to = match to {
            SocketAddr::V4(v4) if self.mapped => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            to => to,
        };
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(address) = self.bind {
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
        }
        if let Some(first) = self.first {
            socket.connect_timeout(&first.into(), Duration::from_secs(5))?;
            disconnect(&socket)?;
        }
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(socket.into())
    }
}

/// `connect` to AF_UNSPEC: the socket is as new.
#[expect(unsafe_code, reason = "no library offers it")]
fn disconnect(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let address = [0_u8; 16];
    // SAFETY: sixteen zero bytes are an address of the family AF_UNSPEC.
    let done = unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), 16) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[derive(clap::Args)]
pub(crate) struct Connect {
    to: SocketAddr,
    #[command(flatten)]
    made: Made,
    /// The line to send.
    #[arg(long, default_value = "who")]
    say: String,
    /// Bytes to send after it.
    #[arg(long, default_value_t = 0)]
    send: u64,
    /// Say that there is no more to come, before reading.
    #[arg(long)]
    half_close: bool,
    /// End with a reset.
    #[arg(long)]
    reset: bool,
    /// Stop reading after this many bytes instead of at the end.
    #[arg(long)]
    read: Option<u64>,
    /// Do so as often at the same time.
    #[arg(long)]
    parallel: Option<usize>,
}

impl Connect {
    /// Prints `local=… peer=… reply=…`, where a long reply is its length, or `error=ERRNO`; of many, how many were
    /// answered.
    pub(crate) fn run(self) -> Result<()> {
        if let Some(count) = self.parallel {
            let answered = thread::scope(|scope| {
                let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| self.talk())).collect();
                threads.into_iter().filter_map(|thread| thread.join().ok()?.ok()).count()
            });
            println!("answered={answered}");
            return Ok(());
        }
        match self.talk() {
            Ok(line) => println!("{line}"),
            Err(error) => println!("error={}", error.raw_os_error().unwrap_or(0)),
        }
        Ok(())
    }

    fn talk(&self) -> io::Result<String> {
        let mut stream = self.made.connect(self.to)?;
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        writeln!(stream, "{}", self.say)?;
        give(&mut stream, self.send)?;
        if self.half_close {
            stream.shutdown(Shutdown::Write)?;
        }
        let mut reply = Vec::new();
        if self.say == "who" {
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line)?;
            reply = line.trim().into();
        } else {
            Read::by_ref(&mut stream).take(self.read.unwrap_or(u64::MAX)).read_to_end(&mut reply)?;
        }
        if self.reset {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        let reply =
            if reply.len() > 200 { reply.len().to_string() } else { String::from_utf8_lossy(&reply).trim().to_owned() };
        Ok(format!("local={local} peer={peer} reply={reply}"))
    }
}

#[derive(clap::Args)]
pub(crate) struct Hold {
    to: SocketAddr,
}

impl Hold {
    pub(crate) fn run(self) -> Result<()> {
        let mut stream = TcpStream::connect(self.to)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        println!("connected");
        for line in io::stdin().lines() {
            let mut answer = String::new();
            let talked = writeln!(stream, "{}", line?).and_then(|()| reader.read_line(&mut answer));
            match talked {
                Ok(0) => println!("closed"),
                Ok(_) => print!("{answer}"),
                Err(error) => println!("error={}", error.raw_os_error().unwrap_or(0)),
            }
            io::stdout().flush()?;
        }
        Ok(())
    }
}

#[derive(clap::Args)]
pub(crate) struct Bind {
    address: SocketAddr,
    /// With SO_REUSEPORT and SO_REUSEADDR.
    #[arg(long)]
    reuse: bool,
}

impl Bind {
    /// Prints `bound` or `error=ERRNO`.
    pub(crate) fn run(self) -> Result<()> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        if self.reuse {
            socket.set_reuse_port(true)?;
            socket.set_reuse_address(true)?;
        }
        match socket.bind(&self.address.into()).and_then(|()| socket.listen(1)) {
            Ok(()) => println!("bound"),
            Err(error) => println!("error={}", error.raw_os_error().unwrap_or(0)),
        }
        Ok(())
    }
}
