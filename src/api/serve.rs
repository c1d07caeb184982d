//! Connections: how many, how long, and behind which certificate.
//!
//! HTTP/1.1 only: one request at a time and connection, so that a limit on connections is a limit on everything, and none
//! of HTTP/2's ways to make work cheaply. A connection ends when its head does not come ([`Transport::head_within`], which
//! also bounds how long it may rest), when its caller does not read ([`Transport::write_within`]), and soon after `stop`.
//!
//! **Certificates** are read again when their files change (a Secret that was renewed is such a change). A pair that
//! cannot be used is reported and the old one stays: a broken renewal is no outage before the old certificate ends.
//! Without certificates only loopback is served, because tokens would be read by anybody on the way.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::TlsFiles;
use super::request::Peer;
use crate::daemon::api::{Problem, ProblemKind};
use crate::daemon::otlp::tls;

/// Where the files are named, for messages.
const PLACE: &str = "api.tls";
/// After a connection could not be accepted (no file descriptors left).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long requests may take to end after `stop`.
const GRACE: Duration = Duration::from_secs(1);

/// What connections may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Connections in all; more wait.
    pub connections: usize,
    /// Connections from one address; more are closed at once.
    pub per_address: usize,
    /// The longest head of a request in bytes.
    pub head: usize,
    /// For a head to come, and between two requests.
    pub head_within: Duration,
    /// For a handshake.
    pub handshake_within: Duration,
    /// For the caller to take something of what was written.
    pub write_within: Duration,
    /// How often the certificates' files are looked at.
    pub look: Duration,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            connections: 2048,
            per_address: 1024,
            head: 16 * 1024,
            head_within: Duration::from_secs(20),
            handshake_within: Duration::from_secs(10),
            write_within: Duration::from_secs(20),
            look: Duration::from_secs(3),
        }
    }
}

/// Serves `router` on `listener` until `stop`.
///
/// # Errors
/// The address is not loopback and there are no certificates, or they cannot be used.
pub async fn serve(
    listener: TcpListener,
    files: Option<TlsFiles>,
    router: Router,
    transport: Transport,
    stop: CancellationToken,
) -> Result<(), Problem> {
    let address = listener
        .local_addr()
        .map_err(|error| Problem::new(ProblemKind::Unavailable, error.to_string()))?;
    let tls = match files {
        Some(files) => {
            // What is there now is stamped before it is read: a change in between is seen as one.
            let stamp = Stamp::of(&files);
            let first = tls::acceptor(&files, PLACE, &["http/1.1"])?;
            let (sender, receiver) = watch::channel(first);
            tokio::spawn(reload(files, stamp, sender, transport.look));
            Some(receiver)
        }
        None if address.ip().is_loopback() => None,
        None => {
            return Err(Problem::new(
                ProblemKind::Invalid,
                format!(
                    "the API would listen on {address}, which others can reach, without TLS: name {PLACE}.cert and {PLACE}.key, or listen on a loopback address"
                ),
            ));
        }
    };
    accept(listener, tls, router, transport, stop).await;
    Ok(())
}

async fn accept(
    listener: TcpListener,
    tls: Option<watch::Receiver<TlsAcceptor>>,
    router: Router,
    transport: Transport,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(transport.connections));
    let callers: Arc<Callers> = Arc::default();
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place.expect("it is never closed"),
            () = stop.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept a connection");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Some(share) = callers.take(peer.ip().to_canonical(), transport.per_address) else {
            tracing::debug!(%peer, "closed: this address has too many connections");
            continue;
        };
        let acceptor = tls.as_ref().map(|tls| tls.borrow().clone());
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            let _held = (place, share);
            connection(stream, Peer(peer), acceptor, router, transport, stop).await;
        });
    }
    drop(listener);
    let last = async { while connections.join_next().await.is_some() {} };
    // What is left then, streams above all, ends here; callers of streams come again, elsewhere.
    let _ = timeout(GRACE, last).await;
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    transport: Transport,
    stop: CancellationToken,
) {
    // Sockets that cannot do it are only slower, or are noticed later.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let stream = Patient::new(stream, transport.write_within);
    match acceptor {
        None => talk(TokioIo::new(stream), peer, router, transport, stop).await,
        Some(acceptor) => match timeout(transport.handshake_within, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => talk(TokioIo::new(stream), peer, router, transport, stop).await,
            Ok(Err(error)) => tracing::debug!(%error, peer = %peer.0, "no handshake"),
            Err(_) => tracing::debug!(peer = %peer.0, "the handshake took too long"),
        },
    }
}

async fn talk<I>(io: I, peer: Peer, router: Router, transport: Transport, stop: CancellationToken)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let answer = service.call(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(transport.head_within)
        .max_buf_size(transport.head.max(8192))
        .serve_connection(io, service);
    tokio::pin!(connection);
    tokio::select! {
        // How a caller ends its connection is its own business.
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(GRACE, connection).await;
        }
    }
}

/// Connections by address.
#[derive(Default)]
struct Callers(Mutex<BTreeMap<IpAddr, usize>>);

struct Share {
    callers: Arc<Callers>,
    address: IpAddr,
}

impl Callers {
    fn take(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Share> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.entry(address).or_insert(0);
        if *own >= most {
            return None;
        }
        *own += 1;
        drop(held);
        Some(Share {
            callers: Arc::clone(self),
            address,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(&self.address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                held.remove(&self.address);
            }
        }
    }
}

/// What tells that a file is another one than before: when it was written, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp([Option<(SystemTime, u64, u64)>; 3]);

impl Stamp {
    fn of(files: &TlsFiles) -> Self {
        use std::os::unix::fs::MetadataExt;
        let of = |path: Option<&std::path::PathBuf>| {
            let metadata = std::fs::metadata(path?).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        };
        Self([
            of(Some(&files.cert)),
            of(Some(&files.key)),
            of(files.client_ca.as_ref()),
        ])
    }
}

/// Reads the certificates again whenever their files have changed, until nobody needs them any more.
async fn reload(files: TlsFiles, mut known: Stamp, acceptor: watch::Sender<TlsAcceptor>, look: Duration) {
    loop {
        tokio::select! {
            () = sleep(look) => {}
            () = acceptor.closed() => return,
        }
        let now = Stamp::of(&files);
        if now == known {
            continue;
        }
        known = now;
        match tls::acceptor(&files, PLACE, &["http/1.1"]) {
            Ok(new) => {
                tracing::info!(cert = %files.cert.display(), "the API's certificate was read again");
                acceptor.send_replace(new);
            }
            Err(problem) => {
                tracing::error!(%problem, "the API's new certificate cannot be used; the old one stays");
            }
        }
    }
}

/// A stream whose other end has to read: a write that nobody takes anything of for so long is an error.
struct Patient<S> {
    stream: S,
    within: Duration,
    /// Since when a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    const fn new(stream: S, within: Duration) -> Self {
        Self {
            stream,
            within,
            waiting: None,
        }
    }

    /// Passes on what came of a write, unless it has waited for too long.
    fn bounded<T>(&mut self, poll: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waiting = None;
            return poll;
        }
        let within = self.within;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(within)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the caller does not read its answer",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(poll, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bounded(poll, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(poll, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(poll, context)
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod serve_tests;
