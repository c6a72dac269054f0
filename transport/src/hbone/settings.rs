//! Sizes and timeouts of a tunnel, for both ends.

use std::time::Duration;

/// Settings of a tunnel. The defaults interoperate with ztunnel and Envoy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Timeout of the TLS and HTTP/2 handshakes together.
    pub handshake: Duration,
    /// The most concurrent streams that a client opens in one tunnel, even if the peer allows more (Envoy stops at
    /// 100).
    pub max_streams: u32,
    /// The most concurrent streams that a server accepts (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub max_accepted_streams: u32,
    /// Largest request head in bytes (`SETTINGS_MAX_HEADER_LIST_SIZE`).
    pub max_head: u32,
    /// Largest accepted frame in bytes (`SETTINGS_MAX_FRAME_SIZE`).
    pub max_frame: u32,
    /// Initial window of a stream, in bytes.
    pub stream_window: u32,
    /// Largest window of a stream, in bytes; reached by bulk transfers.
    pub largest_stream_window: u32,
    /// Window of the connection, in stream windows.
    pub streams_in_window: u32,
    /// Bytes that one stream buffers for sending.
    pub send_buffer: usize,
    /// Keepalive: a ping is sent after this long without a byte from the peer.
    pub ping_after: Duration,
    /// Keepalive timeout: the tunnel is closed this long after a ping without a byte from the peer.
    pub ping_timeout: Duration,
    /// Streams that a client may reset within ten seconds before they were answered; beyond that the tunnel is closed.
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
