//! The local platform's weighted proxy: one instance in front of each service, between its revisions' processes and
//! everybody else. It does for processes what a Gateway does for pods, and it is what Wade's weights become true on.
//!
//! The idea: a request's way is a function of the routes in force and the request; changing routes is one pointer,
//! and a request keeps the backend it started with. So weights can move every few milliseconds with nothing lost, and
//! a revision is drained when its requests in flight are counted down to 0.
//!
//! What it speaks: HTTP/1.1 with keep-alive on both sides, upgrades (WebSocket) as tunnels, HTTP/2 without TLS from
//! clients that begin with it, then also towards the backend (gRPC, with trailers). Bodies stream. Parsing is
//! hyper's, on both sides: every message is taken apart and written anew, so that client and backend cannot read one
//! differently. A request with both `Content-Length` and `Transfer-Encoding` goes by the latter, loses the former, and
//! its connection is closed after the answer (RFC 9112, 6.1); conflicting lengths and other codings get 400.
//!
//! What it deliberately does not do: TLS (put it in front), caching, compression, buffering or rewriting of bodies,
//! retries onto another revision (they would hide the canary's errors), CONNECT and WebSocket over HTTP/2, limits on
//! rates, health checks (the platform knows its processes). 1xx answers other than 101 are not passed on. While a client does not read its answer, its request's body
//! waits too: one task drives both sides of a connection (see `pool` for what that buys).
//!
//! Read on in the order of a request: [`connection`], [`table`] (with [`spread`] and [`sticky`]), [`forward`],
//! [`headers`], [`pool`], [`body`], [`mirror`], [`tunnel`]; on whose thread: [`workers`]; what is seen of it:
//! [`counters`], [`metrics`].

mod body;
mod config;
mod connection;
mod counters;
mod forward;
mod headers;
mod metrics;
mod mirror;
mod pool;
mod routes;
mod spread;
mod sticky;
mod stop;
mod table;
#[cfg(test)]
mod tests;
mod tunnel;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

pub use self::config::ProxyConfig;
pub use self::counters::{
    CODE_CLASSES, EndpointCounters, FailureKind, LATENCY_BOUNDS_SECONDS, RevisionCounters, SkipReason, Snapshot,
    Traffic,
};
pub use self::metrics::{METRICS, Metric};
pub use self::routes::{
    Backend, MAX_BACKENDS, MAX_MATCHES, MatchOn, MatchRule, MatchTest, Mirror, Routes, RoutesError, StickyCookie,
    WHOLE_PERMILLE,
};

use self::connection::{Front, serve};
use self::counters::Counters;
use self::sticky::Mint;
use self::stop::{Phase, Stop};
use self::table::{Choice, Table};

/// Connections that the kernel keeps while the proxy is busy accepting others.
const BACKLOG: u32 = 1024;
/// How long to wait when the machine has no file descriptor left, and for whether a revision is drained.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How often idle connections to backends are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// A running proxy. Dropping it cuts everything at once; [`Proxy::shutdown`] lets requests finish.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Somebody else listens there.
    #[error(
        "the proxy of {service} cannot listen on {addr}: the address is in use; stop what listens there (`ss -ltnp` shows it) or choose another"
    )]
    InUse {
        /// The service.
        service: String,
        /// The address.
        addr: SocketAddr,
    },
    /// The machine did not let it.
    #[error(
        "the proxy of {service} cannot listen on {addr}; choose an address of this machine, and a port of 1024 or more unless privileged"
    )]
    Listen {
        /// The service.
        service: String,
        /// The address.
        addr: SocketAddr,
        /// What the machine said.
        source: io::Error,
    },
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Every request was answered within the grace.
    Drained,
    /// These many client connections were cut when the grace was over.
    Cut {
        /// Connections, tunnels included.
        connections: u64,
    },
}

/// Whether a revision became drained in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Nobody waits for it any more.
    Drained,
    /// Time is up and somebody still does; see its `in_flight`.
    TimedOut,
}

/// What all tasks of one proxy share.
#[derive(Debug)]
struct Shared {
    config: ProxyConfig,
    table: RwLock<Table>,
    counters: Counters,
    mint: Mint,
    mirror_permits: Arc<Semaphore>,
    begun: Notify,
    stop: Arc<Stop>,
    tasks: TaskTracker,
}

impl Proxy {
    /// Listens in a background task of the present tokio runtime (panics outside of one), and serves on threads that
    /// all proxies of the process share. Without routes every request gets 503.
    pub fn bind(config: ProxyConfig) -> Result<Self, ProxyError> {
        let proxy = Self::reserve(config)?;
        proxy.begin();
        Ok(proxy)
    }

    /// As [`Proxy::bind`], but connections wait in the kernel's queue until [`Proxy::begin`]: for whoever has to have
    /// the address before it is known where requests should go.
    pub fn reserve(config: ProxyConfig) -> Result<Self, ProxyError> {
        let listener = listen(config.listen).map_err(|source| {
            let (service, addr) = (config.service.clone(), config.listen);
            match source.kind() {
                io::ErrorKind::AddrInUse => ProxyError::InUse { service, addr },
                _ => ProxyError::Listen { service, addr, source },
            }
        })?;
        let local_addr = listener.local_addr().expect("a listening socket has an address");
        let counters = Counters::default();
        let (table, _) = Table::new(Routes::default(), None, &counters).expect("no routes are valid routes");
        let shared = Arc::new(Shared {
            table: RwLock::new(table),
            counters,
            mint: Mint::new(),
            mirror_permits: Arc::new(Semaphore::new(config.mirror_concurrency)),
            begun: Notify::new(),
            stop: Arc::default(),
            tasks: TaskTracker::new(),
            config,
        });
        shared.tasks.spawn(accept(Arc::clone(&shared), listener));
        shared.tasks.spawn(sweep(Arc::clone(&shared)));
        Ok(Self { shared, local_addr })
    }

    /// Accepts connections from now on. Safe to repeat.
    pub fn begin(&self) {
        // One permit is kept for the one task that waits, whichever of the two comes first.
        self.shared.begun.notify_one();
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Puts routes in force for every request from now on; those under way finish where they are. Idle connections to
    /// endpoints that are not there any more are closed. Refused routes change nothing. Safe to repeat.
    pub fn set_routes(&self, routes: Routes) -> Result<(), RoutesError> {
        let mut table = self.shared.table.write().unwrap_or_else(PoisonError::into_inner);
        let (next, gone) = Table::new(routes, Some(&table), &self.shared.counters)?;
        let before = std::mem::replace(&mut *table, next);
        drop(table);
        for endpoint in gone {
            endpoint.retire();
        }
        drop(before);
        Ok(())
    }

    /// The routes in force.
    pub fn routes(&self) -> Routes {
        self.shared.table().routes.clone()
    }

    /// Everything counted so far.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.counters.read()
    }

    /// Whether a revision can be stopped without anybody noticing: the routes in force lead nobody there, not even the
    /// mirror, and nobody waits for an answer. True for one that was never there.
    pub fn drained(&self, revision: &str) -> bool {
        !self.shared.table().reaches(revision) && self.shared.counters.is_quiet(revision)
    }

    /// Waits until [`Proxy::drained`], at most for `timeout`.
    pub async fn wait_drained(&self, revision: &str, timeout: Duration) -> Drain {
        let drained = async {
            while !self.drained(revision) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(timeout, drained).await {
            Ok(()) => Drain::Drained,
            Err(_) => Drain::TimedOut,
        }
    }

    /// Ends: no new connections, HTTP/1.1 connections close after the request they have, HTTP/2 ones say GOAWAY, and
    /// what is not over after `grace` is cut. Safe to cancel (dropping the proxy then cuts) and to repeat.
    pub async fn shutdown(&self, grace: Duration) -> Shutdown {
        let shared = &self.shared;
        shared.stop.advance(Phase::Draining);
        shared.tasks.close();
        let outcome = match tokio::time::timeout(grace, shared.tasks.wait()).await {
            Ok(()) => Shutdown::Drained,
            Err(_) => Shutdown::Cut {
                connections: shared.counters.connections.load(Relaxed),
            },
        };
        shared.stop.advance(Phase::Cut);
        shared.tasks.wait().await;
        for endpoint in shared.table().endpoints() {
            endpoint.retire();
        }
        outcome
    }

    /// The counters as text for Prometheus; [`METRICS`] lists them.
    pub fn encode_metrics(&self) -> String {
        metrics::encode(&self.shared.config.service, &self.snapshot())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.advance(Phase::Cut);
        // Connections to backends are held by the routes, and the routes by tasks that are about to end.
        for endpoint in self.shared.table().endpoints() {
            endpoint.retire();
        }
    }
}

impl Shared {
    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        // A table is replaced whole, so a panic elsewhere cannot have left half of one.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose request this is, counted in flight before anybody can see other routes.
    fn choose(&self, headers: &HeaderMap, at: Instant) -> Option<Choice> {
        self.table().choose(headers, &self.counters, &self.mint, at)
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Lets a restarted proxy listen while connections of the one before linger; two at once stay impossible.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(shared.config.max_connections));
    let accepting = async {
        shared.begun.notified().await;
        loop {
            if permits.available_permits() == 0 {
                shared.counters.connections_full.fetch_add(1, Relaxed);
            }
            let permit = Arc::clone(&permits)
                .acquire_owned()
                .await
                .expect("nobody closes this semaphore");
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // Leaves this runtime for its worker's; a socket that cannot is closed.
                    let Ok(stream) = stream.into_std() else { continue };
                    let seat = workers::seat();
                    let runtime = seat.runtime.clone();
                    let front = Arc::new(Front::new(Arc::clone(&shared), peer.ip(), permit, seat));
                    shared.tasks.spawn_on(serve(front, stream), &runtime);
                }
                Err(error) => {
                    // The client gave up, or the machine is out of descriptors: neither is cured by trying at once.
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shared.stop.reached(Phase::Draining) => {}
    }
}

async fn sweep(shared: Arc<Shared>) {
    let sweeping = async {
        loop {
            tokio::time::sleep(SWEEP.min(shared.config.backend_idle_timeout)).await;
            let endpoints: Vec<_> = shared.table().endpoints().map(Arc::clone).collect();
            for endpoint in endpoints {
                endpoint.sweep(shared.config.backend_idle_timeout);
            }
        }
    };
    tokio::select! {
        () = sweeping => {}
        () = shared.stop.reached(Phase::Draining) => {}
    }
}
