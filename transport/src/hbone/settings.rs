//! Sizes and times of a tunnel, for both ends.

use std::time::Duration;

/// The port that HBONE is spoken on.
pub const PORT: u16 = 15008;

/// How a tunnel is set up. The defaults speak to ztunnel and to Envoy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TLS and HTTP/2 handshake together.
    pub handshake: Duration,
    /// Streams that one tunnel carries at most; a client opens no more even if the peer allows it (Envoy stops at 100).
    pub max_streams: u32,
    /// Streams that a server lets a client open (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub max_accepted_streams: u32,
    /// Bytes of one head (`SETTINGS_MAX_HEADER_LIST_SIZE`).
    pub max_head: u32,
    /// Longest frame that is accepted (`SETTINGS_MAX_FRAME_SIZE`).
    pub max_frame: u32,
    /// Window of a stream at first.
    pub stream_window: u32,
    /// Window of a stream in a tunnel that carries bulk.
    pub largest_stream_window: u32,
    /// Window of the tunnel, in stream windows.
    pub streams_in_window: u32,
    /// Bytes that one stream holds for sending.
    pub send_buffer: usize,
    /// A ping is sent after this long without a byte from the peer.
    pub ping_after: Duration,
    /// The tunnel is given up this long after a ping without a byte from the peer.
    pub ping_timeout: Duration,
    /// Streams that a client may reset before they were answered, within ten seconds, and stay connected.
    pub max_resets: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            max_streams: 100,
            max_accepted_streams: 200,
            max_head: 64 * 1024,
            max_frame: 1024 * 1024,
            stream_window: 256 * 1024,
            largest_stream_window: 4 * 1024 * 1024,
            streams_in_window: 4,
            send_buffer: 512 * 1024,
            ping_after: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            max_resets: 500,
        }
    }
}
