//! Every timeout and limit of the proxy, in one place, each with its default and what happens when it is reached.

use std::net::SocketAddr;
use std::time::Duration;

/// What one proxy instance is told at start. Nothing of it changes while it runs; what changes are the
/// [`Routes`](super::Routes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The service's name: a metrics label, and the only name that clients see in the proxy's own answers.
    pub service: String,
    /// Where to listen; port 0 takes a free one (see [`Proxy::local_addr`](super::Proxy::local_addr)).
    pub listen: SocketAddr,
    /// How long one connection attempt to one backend may take (2 s), then the next endpoint is tried; 504 when none
    /// is left.
    pub connect_timeout: Duration,
    /// How long a backend may take until the head of its answer is there (60 s), then 504. Bodies, streams and tunnels
    /// have no time limit: a quiet event stream is healthy.
    pub answer_timeout: Duration,
    /// How long a client may take to send a complete request head, counted from the connection's start or the head's
    /// first byte (10 s; seen at the latest after twice that), then the connection is closed.
    pub head_timeout: Duration,
    /// How long a client's connection may stay open between two requests (75 s; seen within `head_timeout`), then it
    /// is closed (HTTP/2: GOAWAY).
    pub idle_timeout: Duration,
    /// How long an unused connection to a backend is kept (4 s). Shorter than common servers' own limit (Node.js: 5 s),
    /// so that a backend seldom closes a connection in the moment it is used again.
    pub backend_idle_timeout: Duration,
    /// Client connections at the same time (4096); further ones wait in the kernel's queue, and a counter says so.
    pub max_connections: usize,
    /// Bytes of one request head (64 KiB), then 431. The number of headers is limited to 100 by hyper, also 431.
    pub max_head_bytes: usize,
    /// Unused connections kept per endpoint (256); further ones are closed after use.
    pub max_idle_per_endpoint: usize,
    /// The largest request body that is mirrored (64 KiB); its length must be declared. Larger ones are not mirrored,
    /// and counted.
    pub mirror_body_bytes: u64,
    /// Mirrored requests at the same time (64); further ones are dropped and counted.
    pub mirror_concurrency: usize,
}

impl ProxyConfig {
    /// The defaults for `service` on `listen`.
    pub fn new(service: impl Into<String>, listen: SocketAddr) -> Self {
        Self {
            service: service.into(),
            listen,
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            backend_idle_timeout: Duration::from_secs(4),
            max_connections: 4096,
            max_head_bytes: 64 * 1024,
            max_idle_per_endpoint: 256,
            mirror_body_bytes: 64 * 1024,
            mirror_concurrency: 64,
        }
    }
}
