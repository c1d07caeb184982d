//! The receiver: spans come in by the OpenTelemetry protocol, over gRPC and over HTTP, and go into the books of services.
//!
//! It is off unless it is asked for. On loopback anybody on the machine may send; off loopback it does not start without
//! a token or client certificates, because whoever can send spans can fail a release. Everything that a sender decides is
//! limited here: connections, requests at once, their size before and after decompression, how long they may take. Spans
//! a second and what is remembered of them are limited further in (`signals::traces`).
//!
//! `grpc` and `http` speak the two protocols, `tls` reads certificates.

mod grpc;
mod http;
pub(crate) mod tls;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::api::{Problem, ProblemKind};
use super::http::read_token;
use crate::clock::Clock;
use crate::signals::traces::otlp::{Accepted, Encoding, Intake, Refused};
use crate::signals::traces::{Count, TraceHub};

/// The largest request, as sent and after decompression.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Requests that are being read at once; more are told to come back. With [`MAX_REQUEST_BYTES`] this is the most memory
/// that requests take: 16 bodies and what each becomes, 128 MiB.
pub const REQUESTS_AT_ONCE: usize = 16;
/// Requests that are decompressed and read at the same moment.
const DECODED_AT_ONCE: usize = 4;
/// Connections per address; more wait.
const MAX_CONNECTIONS: usize = 128;
/// For the TLS handshake, and for the first request that is allowed in: who only connects is let go.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// For the head of a request; hyper counts the rest between two requests as well, and exporters rest for some seconds.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// For a whole request.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// A connection is asked to come anew after so long, so that no sender keeps its place for ever.
const CONNECTION_AGE: Duration = Duration::from_secs(600);
/// How long its last requests may take then.
const CONNECTION_GRACE: Duration = Duration::from_secs(5);
/// How often an HTTP/2 connection is asked whether it is still there, and for how long.
const PING_EVERY: Duration = Duration::from_secs(20);
/// The longest head of a request in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// When a sender that met full rooms comes back.
const COME_BACK: Duration = Duration::from_secs(1);
/// After a connection could not be accepted (no file descriptors left).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Where spans come in and who may send them; paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtlpSetup {
    /// Where gRPC is spoken.
    pub grpc: Option<SocketAddr>,
    /// Where HTTP is spoken (`/v1/traces`).
    pub http: Option<SocketAddr>,
    /// A file with the token that senders show as `Authorization: Bearer …`.
    pub token_file: Option<PathBuf>,
    /// Certificates.
    pub tls: Option<TlsFiles>,
    /// The most spans a second.
    pub spans_per_second: Option<u32>,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The receiver's certificate and those up to its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities whose clients may send; without them any client may that knows the token.
    pub client_ca: Option<PathBuf>,
}

/// A receiver whose addresses are open.
pub struct Receiver {
    listeners: Vec<(Protocol, TcpListener)>,
    door: Arc<Door>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Http,
}

/// What all connections share.
struct Door {
    intake: Intake,
    /// The token's digest: the time that a comparison takes says nothing about where tokens differ.
    token: Option<[u8; 32]>,
    tls: Option<TlsAcceptor>,
    at_once: Semaphore,
    decoders: Semaphore,
    clock: Arc<dyn Clock>,
}

impl OtlpSetup {
    /// Whether anything is to be received at all.
    pub fn is_on(&self) -> bool {
        self.grpc.is_some() || self.http.is_some()
    }
}

impl Receiver {
    /// Opens the addresses of `setup`.
    ///
    /// # Errors
    /// When an address is off loopback without a token or client certificates, a file is unfit, or an address is in use.
    pub async fn open(setup: &OtlpSetup, hub: TraceHub, clock: Arc<dyn Clock>) -> Result<Self, Problem> {
        let addresses = [(Protocol::Grpc, setup.grpc), (Protocol::Http, setup.http)];
        let clients_are_known =
            setup.token_file.is_some() || setup.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        for (protocol, address) in addresses {
            if let Some(address) = address.filter(|address| !address.ip().is_loopback() && !clients_are_known) {
                return Err(invalid(format!(
                    "{} is {address}, which others can reach: name `tokenFile`, or `tls` with `clientCa`, in `otlp`; or listen on a loopback address",
                    protocol.field()
                )));
            }
        }
        let token = match &setup.token_file {
            Some(path) => Some(Sha256::digest(read_token("otlp.tokenFile", path)?).into()),
            None => None,
        };
        let tls = match &setup.tls {
            Some(files) => Some(tls::acceptor(files, "otlp.tls", &["h2", "http/1.1"])?),
            None => None,
        };
        let mut listeners = Vec::new();
        for (protocol, address) in addresses {
            let Some(address) = address else { continue };
            let listener = TcpListener::bind(address).await.map_err(|error| Problem {
                kind: ProblemKind::Unavailable,
                message: format!("{} {address}: {error}; choose a free address", protocol.field()),
            })?;
            listeners.push((protocol, listener));
        }
        let spans_per_second = setup
            .spans_per_second
            .unwrap_or(crate::signals::traces::otlp::SPANS_PER_SECOND);
        let door = Door {
            intake: Intake::new(hub, spans_per_second),
            token,
            tls,
            at_once: Semaphore::new(REQUESTS_AT_ONCE),
            decoders: Semaphore::new(DECODED_AT_ONCE),
            clock,
        };
        Ok(Self {
            listeners,
            door: Arc::new(door),
        })
    }

    /// Where gRPC and HTTP are spoken.
    pub fn addresses(&self) -> [Option<SocketAddr>; 2] {
        [Protocol::Grpc, Protocol::Http].map(|wanted| {
            let (_, listener) = self.listeners.iter().find(|(protocol, _)| *protocol == wanted)?;
            listener.local_addr().ok()
        })
    }

    /// Receives until `stop`.
    pub async fn serve(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for (protocol, listener) in self.listeners {
            tasks.spawn(listen(protocol, listener, Arc::clone(&self.door), stop.clone()));
        }
        while tasks.join_next().await.is_some() {}
    }
}

impl Protocol {
    /// Where its address is written.
    const fn field(self) -> &'static str {
        match self {
            Self::Grpc => "otlp.grpc",
            Self::Http => "otlp.http",
        }
    }
}

async fn listen(protocol: Protocol, listener: TcpListener, door: Arc<Door>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (door, stop) = (Arc::clone(&door), stop.clone());
                connections.spawn(async move {
                    connection(protocol, stream, door, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the trace receiver cannot accept a connection");
                sleep(ACCEPT_AGAIN).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(protocol: Protocol, stream: TcpStream, door: Arc<Door>, stop: CancellationToken) {
    // A socket that cannot do it is only slower.
    let _ = stream.set_nodelay(true);
    match door.tls.clone() {
        None => talk(protocol, TokioIo::new(stream), door, stop).await,
        Some(tls) => match timeout(FIRST_WITHIN, tls.accept(stream)).await {
            Ok(Ok(stream)) => talk(protocol, TokioIo::new(stream), door, stop).await,
            Ok(Err(error)) => {
                door.count(Count::Denied);
                tracing::debug!(%error, "a sender of traces was not let in");
            }
            Err(_) => door.count(Count::Slow),
        },
    }
}

async fn talk<I>(protocol: Protocol, io: I, door: Arc<Door>, stop: CancellationToken)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let let_in = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let let_in = Arc::clone(&let_in);
        move |request| {
            let (door, let_in) = (Arc::clone(&door), Arc::clone(&let_in));
            async move { Ok::<_, Infallible>(door.answer(protocol, request, &let_in).await) }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(REQUESTS_AT_ONCE as u32)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(FIRST_WITHIN);
    let connection = builder.serve_connection(io, service);
    tokio::pin!(connection);
    let first = sleep(FIRST_WITHIN);
    tokio::pin!(first);
    let mut waiting = true;
    let end = async {
        tokio::select! {
            () = sleep(CONNECTION_AGE) => {}
            () = stop.cancelled() => {}
        }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            // How a sender ends its connection is its own business.
            _ = connection.as_mut() => return,
            () = first.as_mut(), if waiting => {
                waiting = false;
                if !let_in.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = end.as_mut() => {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(CONNECTION_GRACE, connection).await;
                return;
            }
        }
    }
}

/// What keeps a request out.
enum Closed {
    /// Who sent it, in words for them.
    Denied(&'static str),
    /// There is no room for it now.
    Full,
}

impl Door {
    async fn answer(
        self: &Arc<Self>,
        protocol: Protocol,
        request: Request<Incoming>,
        let_in: &AtomicBool,
    ) -> Response<Body> {
        let place = match self.denies(request.headers()) {
            Some(why) => {
                self.count(Count::Denied);
                Err(Closed::Denied(why))
            }
            None => {
                let_in.store(true, Ordering::Relaxed);
                self.at_once.try_acquire().map_err(|_| {
                    self.count(Count::Limited);
                    Closed::Full
                })
            }
        };
        match (protocol, place) {
            (Protocol::Grpc, Ok(_place)) => grpc::answer(self, request).await,
            (Protocol::Http, Ok(_place)) => http::answer(self, request).await,
            (Protocol::Grpc, Err(closed)) => grpc::closed(&closed),
            (Protocol::Http, Err(closed)) => http::closed(&closed),
        }
    }

    /// Why a request is not let in, if it is not.
    fn denies(&self, headers: &HeaderMap) -> Option<&'static str> {
        // A browser sends this for a page; pages have nothing to say here, least of all to a receiver on loopback.
        if headers.contains_key(header::ORIGIN) {
            return Some("requests on behalf of pages are refused (Origin)");
        }
        let wanted = self.token?;
        let shown = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        let shown: [u8; 32] = Sha256::digest(shown.trim()).into();
        (shown != wanted).then_some("send the token of otlp.tokenFile as `Authorization: Bearer …`")
    }

    /// Reads a body that is complete.
    async fn export(
        self: &Arc<Self>,
        encoding: Encoding,
        body: impl FnOnce() -> Result<bytes::Bytes, Unread> + Send + 'static,
    ) -> Result<Accepted, Unread> {
        let _turn = self.decoders.acquire().await.expect("it is never closed");
        let door = Arc::clone(self);
        // It is work, not waiting: the threads that wait for others are left to them.
        let done = tokio::task::spawn_blocking(move || {
            let body = body()?;
            door.intake
                .export(&body, encoding, door.clock.now())
                .map_err(Unread::Refused)
        });
        done.await.unwrap_or(Err(Unread::Broken))
    }

    fn count(&self, count: Count) {
        self.intake.hub().telemetry().add(count, 1);
    }
}

/// Why a request was not read.
#[derive(Debug, PartialEq, Eq)]
enum Unread {
    /// The intake says why.
    Refused(Refused),
    /// It is longer than the limit.
    TooLarge,
    /// It cannot be decompressed.
    NotGzip,
    /// Reading it ended in a bug of ours.
    Broken,
}

fn too_large() -> String {
    format!(
        "a request has at most {} MiB, also after decompression",
        MAX_REQUEST_BYTES >> 20
    )
}

fn rejected(count: u64) -> String {
    format!("{count} spans without a trace id, without times, or that end before they start")
}

fn invalid(message: String) -> Problem {
    Problem {
        kind: ProblemKind::Invalid,
        message,
    }
}
