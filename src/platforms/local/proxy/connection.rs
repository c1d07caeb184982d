//! One client connection: which protocol it speaks, how long it may dawdle, and how it ends.
//!
//! hyper has a timeout for request heads, but it also ends connections that merely rest between requests, and it sets
//! and clears a timer for every request. Here one lazy timer per connection looks every `head_timeout` at what the
//! connection was doing ([`Activity`]); a request costs it two stores.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use super::Shared;
use super::forward::answer;
use super::stop::{Phase, Watch};
use super::workers::Seat;
use crate::clock::stopwatch;

/// How HTTP/2 begins when a client knows that the server speaks it (RFC 9113, 3.4). Three bytes tell it from any
/// method that exists.
const H2_BEGINS: &[u8] = b"PRI";
/// How long to wait for the rest of these three bytes between two looks.
const SNIFF_AGAIN: Duration = Duration::from_millis(2);

/// What a client's connection and its requests share.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) shared: Arc<Shared>,
    /// The client's address, as `X-Forwarded-For` shows it.
    pub(super) peer: HeaderValue,
    activity: Activity,
    _permit: OwnedSemaphorePermit,
    _seat: Seat,
}

impl Front {
    pub(super) fn new(shared: Arc<Shared>, peer: IpAddr, permit: OwnedSemaphorePermit, seat: Seat) -> Self {
        let peer = HeaderValue::from_str(&peer.to_canonical().to_string()).expect("an address is visible ASCII");
        shared.counters.connections.fetch_add(1, Relaxed);
        Self {
            shared,
            peer,
            activity: Activity::new(),
            _permit: permit,
            _seat: seat,
        }
    }

    /// The connection has something to do until this is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.activity.busy.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.counters.connections.fetch_sub(1, Relaxed);
    }
}

/// See [`Front::busy`].
#[derive(Debug)]
pub(super) struct Busy(Arc<Front>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.activity.rests();
    }
}

/// What a connection is doing, for the timer that looks now and then.
#[derive(Debug)]
struct Activity {
    /// Requests being answered.
    busy: AtomicUsize,
    /// Whether a head has begun and is not complete (when not busy).
    in_head: AtomicBool,
    /// Since when it rests, or its head has begun: milliseconds after `began`.
    since: AtomicU64,
    began: Instant,
}

impl Activity {
    /// A new connection owes a head at once.
    fn new() -> Self {
        Self {
            busy: AtomicUsize::new(0),
            in_head: AtomicBool::new(true),
            since: AtomicU64::new(0),
            began: stopwatch(),
        }
    }

    fn rests(&self) {
        self.since.store(self.elapsed_ms(), Relaxed);
        self.in_head.store(false, Relaxed);
        self.busy.fetch_sub(1, Relaxed);
    }

    fn received(&self) {
        if self.busy.load(Relaxed) == 0 && !self.in_head.load(Relaxed) {
            self.since.store(self.elapsed_ms(), Relaxed);
            self.in_head.store(true, Relaxed);
        }
    }

    fn is_overdue(&self, head: Duration, idle: Duration) -> bool {
        let limit = if self.in_head.load(Relaxed) { head } else { idle };
        let since = Duration::from_millis(self.since.load(Relaxed));
        self.busy.load(Relaxed) == 0 && self.began.elapsed().saturating_sub(since) >= limit
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Serves a connection to its end, in the runtime that this is called in.
pub(super) async fn serve(front: Arc<Front>, stream: std::net::TcpStream) {
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "a connection was not taken over"),
    };
    let config = &front.shared.config;
    // A socket that cannot do it is only slower.
    let _ = stream.set_nodelay(true);
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(config.head_timeout, speaks_h2(&stream)) => sniffed,
        // Nothing was asked yet, so nothing is owed.
        () = front.shared.stop.reached(Phase::Draining) => return,
    };
    let watch = Watch::new(Arc::clone(&front.shared.stop));
    let for_requests = Arc::clone(&front);
    let service = service_fn(move |request| answer(Arc::clone(&for_requests), request));
    let limit = config.max_head_bytes;
    match sniffed {
        Err(_) => {
            front.shared.counters.connections_timed_out.fetch_add(1, Relaxed);
        }
        Ok(Err(_)) => {}
        Ok(Ok(false)) => {
            let io = Observed {
                io: TokioIo::new(stream),
                front: Arc::clone(&front),
            };
            // hyper wants at least 8 KiB to read into, whatever the limit.
            let mut builder = http1::Builder::new();
            builder.max_header_size(limit).max_buf_size(limit.max(8 * 1024));
            let conn = builder.serve_connection(io, service).with_upgrades();
            Served::new(conn, http1::UpgradeableConnection::graceful_shutdown, watch, front).await;
        }
        Ok(Ok(true)) => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let list_limit = u32::try_from(limit).unwrap_or(u32::MAX);
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(list_limit)
                .adaptive_window(true);
            let conn = builder.serve_connection(TokioIo::new(stream), service);
            Served::new(conn, http2::Connection::graceful_shutdown, watch, front).await;
        }
    }
}

/// Looks at the first bytes without taking them. A connection that closes first speaks neither.
async fn speaks_h2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; H2_BEGINS.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if seen == first.len() || !H2_BEGINS.starts_with(&first[..seen]) {
            return Ok(first == H2_BEGINS);
        }
        tokio::time::sleep(SNIFF_AGAIN).await;
    }
}

/// A connection that also ends when the proxy does, or when its client dawdles.
struct Served<C> {
    conn: Pin<Box<C>>,
    drain: fn(Pin<&mut C>),
    watch: Watch,
    look: Pin<Box<Sleep>>,
    looking: bool,
    front: Arc<Front>,
}

impl<C: Future> Served<C> {
    fn new(conn: C, drain: fn(Pin<&mut C>), watch: Watch, front: Arc<Front>) -> Self {
        let look = Box::pin(tokio::time::sleep(
            front.shared.config.head_timeout.min(front.shared.config.idle_timeout),
        ));
        Self {
            conn: Box::pin(conn),
            drain,
            watch,
            look,
            looking: false,
            front,
        }
    }

    /// Whether the client has dawdled; sets the timer again if not.
    fn poll_dawdling(&mut self, cx: &mut Context<'_>) -> bool {
        // A registered timer is not touched for each request, only asked whether it has run out.
        while !self.looking || self.look.is_elapsed() {
            self.looking = true;
            let config = &self.front.shared.config;
            if self.front.activity.is_overdue(config.head_timeout, config.idle_timeout) {
                return true;
            }
            if self.look.is_elapsed() {
                let next = stopwatch() + config.head_timeout.min(config.idle_timeout);
                self.look.as_mut().reset(next.into());
            }
            if self.look.as_mut().poll(cx).is_pending() {
                break;
            }
        }
        false
    }
}

impl<C: Future> Future for Served<C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        match this.watch.poll_change(cx) {
            Some(Phase::Cut) => return Poll::Ready(()),
            Some(Phase::Draining) => (this.drain)(this.conn.as_mut()),
            Some(Phase::Serving) | None => {}
        }
        if this.poll_dawdling(cx) {
            this.front.shared.counters.connections_timed_out.fetch_add(1, Relaxed);
            return Poll::Ready(());
        }
        // What went wrong on a client's connection is the client's to know; the requests are counted where they are.
        this.conn.as_mut().poll(cx).map(drop)
    }
}

/// A client's socket that notes when a head begins.
struct Observed {
    io: TokioIo<TcpStream>,
    front: Arc<Front>,
}

impl Read for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        // The end of the stream counts too: the connection ends in any case.
        self.front.activity.received();
        Poll::Ready(Ok(()))
    }
}

impl Write for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
