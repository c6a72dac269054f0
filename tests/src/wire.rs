//! A packet capture between the nodes, parsed byte by byte.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::eventually::eventually;
use super::net::{Net, Node};
use super::process::Process;

/// Port of the connection that marks the end of a capture (discard; nobody listens).
const MARKER: u16 = 9;

/// A running `tcpdump` on the wire.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    first: Arc<Node>,
    marker: SocketAddr,
}

/// One TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// A connection is being opened: SYN without ACK.
    pub opening: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A finished capture.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    /// The TCP segments in order.
    pub segments: Vec<Segment>,
}

impl Capture {
    /// Starts capturing what passes the wire to and from the first node, of two at least. `name` is unique in the run.
    pub fn start(net: &Net, name: &str) -> Result<Self> {
        let nodes = net.nodes();
        let [first, second, ..] = &nodes[..] else { bail!("nothing passes a wire with one node") };
        let file = net.run.files().join(format!("{name}.pcap"));
        let log = net.run.files().join(format!("{name}.tcpdump.log"));
        let mut command = net.wire().command("tcpdump")?;
        command.args(["-i", "w10", "-w"]).arg(&file);
        command.args(["-U", "-s", "0", "-B", "16384", "--immediate-mode", "-Z", "root", "tcp"]);
        let process = Process::logging(net.wire(), command, &log).context("package tcpdump")?;
        eventually("tcpdump listens", || {
            let said = fs::read_to_string(&log)?;
            ensure!(said.contains("listening on"), "{said}");
            Ok(())
        })?;
        Ok(Self { process, file, first: first.clone(), marker: second.at(MARKER) })
    }

    /// Ends the capture and reads it. A last connection marks the end: when it has arrived, so has all before it.
    pub fn stop(mut self) -> Result<Packets> {
        let marker = self.marker;
        let _refused = self.first.place.inside(|| TcpStream::connect_timeout(&marker, Duration::from_secs(5)))?;
        let segments = eventually("the capture is complete", || {
            let bytes = fs::read(&self.file).with_context(|| self.file.display().to_string())?;
            let segments = parse_pcap(&bytes).context("read the capture")?;
            ensure!(segments.iter().any(|s| s.destination == marker), "the last packet is not there yet");
            Ok(segments)
        })?;
        self.process.signal(Signal::SIGINT)?;
        eventually("tcpdump ends", || self.process.ended()?.context("still runs"))?;
        let is_marker = |s: &Segment| s.destination == marker || s.source == marker;
        Ok(Packets { segments: segments.into_iter().filter(|s| !is_marker(s)).collect() })
    }
}

impl Packets {
    /// Whether any segment carries these bytes.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.carrying(needle).next().is_some()
    }

    /// The segments that carry these bytes.
    pub fn carrying<'a>(&'a self, needle: &'a [u8]) -> impl Iterator<Item = &'a Segment> {
        self.segments.iter().filter(move |s| s.payload.windows(needle.len().max(1)).any(|w| w == needle))
    }

    /// The connections that were opened, as caller and called. A SYN that was sent again counts once.
    pub fn openings(&self) -> BTreeSet<(SocketAddr, SocketAddr)> {
        self.segments.iter().filter(|s| s.opening).map(|s| (s.source, s.destination)).collect()
    }

    /// How many connections were opened to a port.
    pub fn opened_to(&self, port: u16) -> usize {
        self.openings().iter().filter(|(_, called)| called.port() == port).count()
    }
}

/// Reads the classic pcap format in little-endian order with Ethernet frames, as tcpdump writes it here.
fn parse_pcap(bytes: &[u8]) -> Option<Vec<Segment>> {
    let (magic, mut rest) = (bytes.get(..4)?, bytes.get(24..)?);
    if magic != [0xd4, 0xc3, 0xb2, 0xa1] {
        return None;
    }
    let mut segments = Vec::new();
    while let (Some(head), Some(body)) = (rest.get(..16), rest.get(16..)) {
        let length = u32::from_le_bytes(head[8..12].try_into().ok()?) as usize;
        // The last packet may be cut when the capture is stopped.
        let Some(frame) = body.get(..length) else { break };
        segments.extend(parse_frame(frame));
        rest = body.get(length..)?;
    }
    Some(segments)
}

fn parse_frame(frame: &[u8]) -> Option<Segment> {
    let ip = frame.get(14..)?;
    let (source, destination, tcp): (IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let head = usize::from(ip.first()? & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes(ip.get(2..4)?.try_into().ok()?));
            // Offloaded segments may carry a total length of zero.
            let end = if total == 0 { ip.len() } else { total.min(ip.len()) };
            let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
            (address(12)?, address(16)?, ip.get(head..end)?)
        }
        [0x86, 0xdd] => {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?).into());
            let total = usize::from(u16::from_be_bytes(ip.get(4..6)?.try_into().ok()?));
            let end = if total == 0 { ip.len() } else { (40 + total).min(ip.len()) };
            (address(8)?, address(24)?, ip.get(40..end)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let head = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        source: SocketAddr::new(source, port(0)?),
        destination: SocketAddr::new(destination, port(2)?),
        opening: tcp.get(13)? & 0x12 == 0x02,
        payload: tcp.get(head..)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([
            0x08,
            0x00,
            0x45,
            0,
            0,
            (40 + payload.len()) as u8,
            0,
            0,
            0,
            0,
            64,
            6,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
        ]);
        frame.extend([0x30, 0x39, 0x3a, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn payload_and_openings_are_found_and_padding_is_not_payload() {
        let mut pcap = vec![0xd4, 0xc3, 0xb2, 0xa1];
        pcap.resize(24, 0);
        for mut frame in [frame(0x02, b""), frame(0x18, b"a secret word")] {
            frame.extend(b"pad");
            pcap.extend([0; 8]);
            pcap.extend((frame.len() as u32).to_le_bytes());
            pcap.extend((frame.len() as u32).to_le_bytes());
            pcap.extend(frame);
        }
        let packets = Packets { segments: parse_pcap(&pcap).unwrap() };
        assert_eq!(packets.opened_to(15008), 1);
        assert!(packets.contains(b"secret"));
        assert!(!packets.contains(b"pad"));
        assert_eq!(packets.carrying(b"secret").next().unwrap().destination, "10.0.0.2:15008".parse().unwrap());
    }
}
