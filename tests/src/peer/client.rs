//! Clients: each makes its calls, verifies the responses and reports.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::pattern::{Pattern, TO_CLIENT, TO_SERVER};
use super::report::{LoadCount, Outcome, TalkLine};
use super::server::EARLY_ANSWER;
pub use super::socket::SocketOptions;
use super::socket::{connect, plain, say};

const BLOCK: usize = 64 * 1024;

/// What a client does once connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Exchange {
    /// One HTTP request; the answer's body is the text.
    Who,
    /// Sends N bytes and reads them back, both at once.
    Echo {
        /// How many bytes.
        bytes: u64,
    },
    /// Sends N bytes and its end, then reads the verdict.
    Send {
        /// How many bytes.
        bytes: u64,
    },
    /// Asks for N bytes and checks them.
    Receive {
        /// How many bytes.
        bytes: u64,
    },
    /// Says nothing; the server's first line is the text.
    First,
    /// Reads the server's 1,000 bytes and its end, then sends N bytes and its own end.
    Half {
        /// How many bytes.
        bytes: u64,
    },
    /// Sends N bytes, or as many as are accepted, and reads the response that arrives before their end.
    Upload {
        /// How many bytes.
        bytes: u64,
    },
    /// Connects, waits for the end, sends nothing.
    Wait,
}

/// Makes one call.
pub fn call(target: SocketAddr, options: &SocketOptions, exchange: Exchange) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome { stage: "connect".to_owned(), ..Outcome::default() };
    let result = connect(target, options).and_then(|mut stream| {
        outcome.stage = "exchange".to_owned();
        outcome.peer = Some(plain(stream.peer_addr()?));
        outcome.local = Some(plain(stream.local_addr()?));
        match exchange {
            Exchange::Who => who(&mut stream, &mut outcome),
            Exchange::Echo { bytes } => echo(&stream, bytes, &mut outcome),
            Exchange::Send { bytes } => send(&mut stream, bytes, &mut outcome),
            Exchange::Receive { bytes } => receive(&mut stream, bytes, &mut outcome),
            Exchange::First => first(&stream, &mut outcome),
            Exchange::Half { bytes } => half(&mut stream, bytes, &mut outcome),
            Exchange::Upload { bytes } => upload(&stream, bytes, &mut outcome),
            Exchange::Wait => expect_end(&mut stream, &mut outcome),
        }
    });
    match result {
        Ok(()) => {
            outcome.ok = true;
            outcome.stage = "done".to_owned();
        }
        Err(error) => {
            outcome.errno = error.raw_os_error();
            outcome.error = Some(error.to_string());
        }
    }
    outcome.millis = started.elapsed().as_millis() as u64;
    outcome
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn who(stream: &mut TcpStream, outcome: &mut Outcome) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: peer\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| wrong(format!("no answer: {answer:?}")))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(wrong(head));
    }
    outcome.received = answer.len() as u64;
    outcome.text = body.trim_end().to_owned();
    Ok(())
}

fn send_pattern(mut stream: &TcpStream, bytes: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(TO_SERVER);
    let mut block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(BLOCK as u64) as usize;
        pattern.fill(&mut block[..n]);
        stream.write_all(&block[..n])?;
        left -= n as u64;
    }
    stream.shutdown(Shutdown::Write)
}

fn read_pattern(mut stream: &TcpStream, seed: u64, bytes: u64, received: &mut u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut block = vec![0; BLOCK];
    loop {
        let n = stream.read(&mut block)?;
        if n == 0 {
            break;
        }
        *received += n as u64;
        pattern.check(&block[..n]).map_err(|at| wrong(format!("wrong at byte {at}")))?;
    }
    if *received == bytes { Ok(()) } else { Err(wrong(format!("{received} bytes came, not {bytes}"))) }
}

fn echo(stream: &TcpStream, bytes: u64, outcome: &mut Outcome) -> io::Result<()> {
    thread::scope(|scope| {
        let writer = scope.spawn(|| send_pattern(stream, bytes));
        let read = read_pattern(stream, TO_SERVER, bytes, &mut outcome.received);
        let wrote = writer.join().unwrap_or_else(|_| Err(io::Error::other("writer panicked")));
        outcome.sent = bytes;
        wrote.and(read)
    })
}

fn upload(stream: &TcpStream, bytes: u64, outcome: &mut Outcome) -> io::Result<()> {
    thread::scope(|scope| {
        let _not_all_of_it_is_taken = scope.spawn(|| send_pattern(stream, bytes));
        let read = read_pattern(stream, TO_CLIENT, EARLY_ANSWER as u64, &mut outcome.received);
        // The writer may still be writing.
        let _gone = stream.shutdown(Shutdown::Both);
        read
    })
}

fn send(stream: &mut TcpStream, bytes: u64, outcome: &mut Outcome) -> io::Result<()> {
    send_pattern(stream, bytes)?;
    outcome.sent = bytes;
    stream.read_to_string(&mut outcome.text)?;
    if outcome.text == format!("{bytes} intact") { Ok(()) } else { Err(wrong(outcome.text.clone())) }
}

fn receive(stream: &mut TcpStream, bytes: u64, outcome: &mut Outcome) -> io::Result<()> {
    stream.write_all(format!("{bytes}\n").as_bytes())?;
    read_pattern(stream, TO_CLIENT, bytes, &mut outcome.received)
}

fn first(stream: &TcpStream, outcome: &mut Outcome) -> io::Result<()> {
    let mut line = String::new();
    outcome.received = BufReader::new(stream).read_line(&mut line)? as u64;
    outcome.text = line.trim_end().to_owned();
    if outcome.text.is_empty() { Err(wrong("the server said nothing")) } else { Ok(()) }
}

fn half(stream: &mut TcpStream, bytes: u64, outcome: &mut Outcome) -> io::Result<()> {
    read_pattern(stream, TO_CLIENT, 1000, &mut outcome.received)?;
    outcome.sent = bytes;
    send_pattern(stream, bytes)
}

fn expect_end(stream: &mut TcpStream, outcome: &mut Outcome) -> io::Result<()> {
    let mut rest = Vec::new();
    outcome.received = stream.read_to_end(&mut rest)? as u64;
    outcome.text = String::from_utf8_lossy(&rest).into_owned();
    Ok(())
}

/// Sends each line of standard input, tells each line that comes back, ends when either side does.
pub fn talk(target: SocketAddr, options: &SocketOptions) {
    let options = SocketOptions { timeout: 3600, ..options.clone() };
    let (mut stream, local) = match connect(target, &options).and_then(|s| Ok((s.try_clone()?, s.local_addr()?))) {
        Ok(connected) => connected,
        Err(error) => return say(&TalkLine::End { error: Some(error.to_string()) }),
    };
    say(&TalkLine::Connected { local: plain(local) });
    if let Ok(reading) = stream.try_clone() {
        thread::spawn(move || {
            let mut error = None;
            for line in BufReader::new(reading).lines() {
                match line {
                    Ok(text) => say(&TalkLine::Line { text }),
                    Err(e) => error = Some(e.to_string()),
                }
                if error.is_some() {
                    break;
                }
            }
            say(&TalkLine::End { error });
        });
    }
    for line in io::stdin().lines().map_while(Result::ok) {
        if let Err(error) = stream.write_all(format!("{line}\n").as_bytes()) {
            say(&TalkLine::End { error: Some(error.to_string()) });
        }
    }
}

/// Calls repeatedly from several threads. Each line of standard input makes it print the counts since the last one.
pub fn load(target: SocketAddr, options: &SocketOptions, threads: u32) {
    let count = Arc::new(Mutex::new(LoadCount::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (count, stop, options) = (count.clone(), stop.clone(), options.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let outcome = call(target, &options, Exchange::Who);
                    let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
                    if outcome.ok {
                        count.ok += 1;
                    } else {
                        let reason = format!("{}: {}", outcome.stage, outcome.error.unwrap_or_default());
                        *count.errors.entry(reason).or_default() += 1;
                        drop(count);
                        thread::sleep(Duration::from_millis(5));
                    }
                }
            })
        })
        .collect();
    for _line in io::stdin().lines().map_while(Result::ok) {
        say(&std::mem::take(&mut *count.lock().unwrap_or_else(PoisonError::into_inner)));
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        let _panicked = worker.join();
    }
}

/// Opens many connections and holds them until standard input ends.
pub fn hold(target: SocketAddr, options: &SocketOptions, connections: u32) {
    let mut open = Vec::new();
    let mut count = LoadCount::default();
    for _ in 0..connections {
        match connect(target, options) {
            Ok(stream) => {
                count.ok += 1;
                open.push(stream);
            }
            Err(error) => *count.errors.entry(error.to_string()).or_default() += 1,
        }
    }
    say(&count);
    let _end = io::stdin().lines().count();
}

/// Sends a datagram and waits for it to come back.
pub fn datagram(target: SocketAddr, text: &str) -> Outcome {
    let mut outcome = Outcome { stage: "exchange".to_owned(), ..Outcome::default() };
    let result = (|| {
        let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        outcome.local = Some(socket.local_addr()?);
        socket.send(text.as_bytes())?;
        let mut answer = [0; 2048];
        let n = socket.recv(&mut answer)?;
        outcome.text = String::from_utf8_lossy(&answer[..n]).into_owned();
        if outcome.text == text { Ok(()) } else { Err(wrong("another text came back")) }
    })();
    match result {
        Ok(()) => outcome.ok = true,
        Err(error) => {
            outcome.errno = error.raw_os_error();
            outcome.error = Some(error.to_string());
        }
    }
    outcome
}

/// Tries to listen on an address, as an application that wants the port would.
pub fn bind(address: SocketAddr, reuse_port: bool) -> Outcome {
    let mut outcome = Outcome { stage: "bind".to_owned(), ..Outcome::default() };
    let result = (|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(16)
    })();
    match result {
        Ok(()) => outcome.ok = true,
        Err(error) => {
            outcome.errno = error.raw_os_error();
            outcome.error = Some(error.to_string());
        }
    }
    outcome
}
