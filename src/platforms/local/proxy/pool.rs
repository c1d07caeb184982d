//! Connections to backends.
//!
//! hyper's own client wants a task per connection and sends each request through a channel to it: two wake-ups, often
//! across threads, for every request. Here a kept HTTP/1.1 connection is a *value*, [`H1`]: the request that uses it
//! also drives it, inside the task of the client's connection, and puts it back when the answer's body has ended.
//! That leaves no task, no channel between threads and no lock that all requests share; a backend that is slow to
//! read or a client that is slow to take the answer holds up exactly its own connection.
//!
//! HTTP/2 carries many calls on one connection, so there it is the ordinary way round: one connection per endpoint,
//! driven by its own task, used by all.
//!
//! A value that nobody drives does not notice that its peer has closed. The next user does, before it writes (hyper
//! reads first and gives the request back unsent), and the sweeper does within a second or two.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::ProxyConfig;
use super::body::RequestBody;
use super::counters::{EndpointTally, FailureKind};
use super::workers;
use crate::clock::stopwatch;

/// How often HTTP/2 connections with open calls are asked for a sign of life.
const H2_PING: Duration = Duration::from_secs(20);

/// Boxed, since a connection goes in and out for every request and is many hundred bytes.
type Shelf = Vec<Box<H1>>;

/// One address of one revision, with the connections kept to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) addr: SocketAddr,
    pub(super) tally: Arc<EndpointTally>,
    /// One for each worker: a connection's socket is watched where it was made, so it is used there only.
    idle: Box<[Mutex<Shelf>]>,
    h2: Mutex<Option<http2::SendRequest<RequestBody>>>,
    /// Held while connecting, so that a thousand calls to a new endpoint make one connection.
    h2_connecting: tokio::sync::Mutex<()>,
    retired: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(addr: SocketAddr, tally: Arc<EndpointTally>) -> Self {
        let idle = (0..workers::count()).map(|_| Mutex::default()).collect();
        let (h2, h2_connecting) = (Mutex::default(), tokio::sync::Mutex::default());
        Self {
            addr,
            tally,
            idle,
            h2,
            h2_connecting,
            retired: AtomicBool::new(false),
        }
    }

    /// A kept connection if there is one; the one used last comes first, so that the surplus ages and goes.
    pub(super) fn kept(&self) -> Option<Box<H1>> {
        self.shelf(workers::own()).pop()
    }

    /// A new HTTP/1.1 connection.
    pub(super) async fn connect(&self, config: &ProxyConfig) -> Result<Box<H1>, FailureKind> {
        let io = TokioIo::new(dial(self.addr, config.connect_timeout).await?);
        let (sender, conn) = http1::handshake(io).await.map_err(|_| FailureKind::Closed)?;
        Ok(Box::new(H1 {
            sender,
            conn: Some(conn),
            ended: None,
            kept_since: None,
            patience: Box::pin(tokio::time::sleep(config.answer_timeout)),
        }))
    }

    /// Keeps a connection for the next request, if it is still good for one.
    pub(super) fn keep(&self, mut h1: Box<H1>, max_idle: usize) {
        if h1.conn.is_none() || !h1.sender.is_ready() {
            return;
        }
        h1.kept_since = Some(stopwatch());
        let mut shelf = self.shelf(workers::own());
        // Asked under the lock that `retire` takes after saying so: a connection is never kept past that.
        if shelf.len() < max_idle.div_ceil(self.idle.len()) && !self.retired.load(Ordering::SeqCst) {
            shelf.push(h1);
        }
    }

    /// The HTTP/2 connection, made if there is none. `fresh` does not trust the present one.
    pub(super) async fn h2(&self, config: &ProxyConfig, fresh: bool) -> Result<H2, FailureKind> {
        let present = |fresh: bool| {
            let sender = self.h2_place().clone().filter(|sender| !fresh && sender.is_ready())?;
            Some(H2 { sender, kept: true })
        };
        if let Some(h2) = present(fresh) {
            return Ok(h2);
        }
        let _one_at_a_time = self.h2_connecting.lock().await;
        if let Some(h2) = present(fresh) {
            return Ok(h2);
        }
        let io = TokioIo::new(dial(self.addr, config.connect_timeout).await?);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_PING)
            .adaptive_window(true);
        let (sender, conn) = builder.handshake(io).await.map_err(|_| FailureKind::Closed)?;
        // Ends when the endpoint has let go of its sender and the last call is over, or the peer closes.
        tokio::spawn(async move {
            if let Err(error) = conn.await {
                tracing::debug!(%error, "HTTP/2 connection to a backend ended");
            }
        });
        let mut place = self.h2_place();
        if !self.retired.load(Ordering::SeqCst) {
            *place = Some(sender.clone());
        }
        Ok(H2 { sender, kept: false })
    }

    /// Closes what is idle, now and whenever more becomes idle. Requests under way are not touched.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        for index in 0..self.idle.len() {
            self.shelf(index).clear();
        }
        self.h2_place().take();
    }

    /// Closes connections that are idle for longer than `limit`, or that the peer has closed.
    pub(super) fn sweep(&self, limit: Duration) {
        let now = stopwatch();
        for index in 0..self.idle.len() {
            self.shelf(index)
                .retain_mut(|h1| !h1.is_over() && h1.kept_since.is_some_and(|since| now - since < limit));
        }
    }

    fn h2_place(&self) -> MutexGuard<'_, Option<http2::SendRequest<RequestBody>>> {
        self.h2
            .lock()
            .expect("nothing panics while it holds the HTTP/2 connection")
    }

    fn shelf(&self, index: usize) -> MutexGuard<'_, Shelf> {
        self.idle[index]
            .lock()
            .expect("nothing panics while it holds idle connections")
    }
}

async fn dial(addr: SocketAddr, limit: Duration) -> Result<TcpStream, FailureKind> {
    let stream = match tokio::time::timeout(limit, TcpStream::connect(addr)).await {
        Err(_) => return Err(FailureKind::ConnectTimeout),
        Ok(Err(error)) => {
            tracing::debug!(%addr, %error, "a backend did not accept the connection");
            return Err(FailureKind::Refused);
        }
        Ok(Ok(stream)) => stream,
    };
    // Small answers should not wait for an acknowledgement; a socket that cannot do it is only slower.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// What one exchange came to: hyper gives the request back if it was never sent.
pub(super) type Exchange = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

type Conn = http1::Connection<TokioIo<TcpStream>, RequestBody>;

/// One HTTP/1.1 connection, driven by whoever uses it.
pub(super) struct H1 {
    sender: http1::SendRequest<RequestBody>,
    /// `None` once it has ended.
    conn: Option<Conn>,
    /// Ended, and kept only for the socket in it: the other protocol after a 101 needs that.
    ended: Option<Conn>,
    /// `None` until it has been kept for the first time.
    kept_since: Option<Instant>,
    /// Set again for each request. Setting a timer to a later time is cheap; making and clearing one is not.
    patience: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for H1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H1")
            .field("kept_since", &self.kept_since)
            .finish_non_exhaustive()
    }
}

impl H1 {
    /// Whether it served a request before: then its peer may have closed it meanwhile.
    pub(super) fn is_kept(&self) -> bool {
        self.kept_since.is_some()
    }

    /// Sends a request and waits for the head of the answer; `None` when it has not come by then.
    pub(super) async fn exchange(&mut self, request: Request<RequestBody>, until: Instant) -> Option<Exchange> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let (conn, ended, patience) = (&mut self.conn, &mut self.ended, &mut self.patience);
        patience.as_mut().reset(until.into());
        // Only the connection, driven here in this very task, can complete the answer: no waker is needed for it, and
        // a real one would schedule the task a second time for each answer.
        let polled = std::future::poll_fn(|cx| {
            let unwoken = &mut Context::from_waker(Waker::noop());
            advance(conn, ended, cx);
            let mut polled = answer.as_mut().poll(unwoken);
            if polled.is_pending() && conn.is_none() {
                // Dropping a connection resolves whatever still waits for it.
                *ended = None;
                polled = answer.as_mut().poll(unwoken);
            }
            match polled {
                Poll::Ready(exchange) => Poll::Ready(Some(exchange)),
                Poll::Pending => patience.as_mut().poll(cx).map(|()| None),
            }
        })
        .await;
        // For the same reason: asking for the body will wake whoever drove the connection last. Nobody has to be woken,
        // the body drives it at once.
        advance(conn, ended, &mut Context::from_waker(Waker::noop()));
        polled
    }

    /// Moves bytes for the body that the caller is reading or writing.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        advance(&mut self.conn, &mut self.ended, cx);
        self.ended = None;
    }

    /// Whether it can take the next request, after driving it a last time.
    pub(super) fn is_free(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.sender.is_ready() {
            self.drive(cx);
        }
        self.sender.is_ready()
    }

    /// The socket, after an answer of 101, and what was read beyond that answer.
    pub(super) async fn into_socket(mut self: Box<Self>) -> Option<(TcpStream, Bytes)> {
        std::future::poll_fn(|cx| {
            advance(&mut self.conn, &mut self.ended, cx);
            if self.conn.is_none() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let http1::Parts { io, read_buf, .. } = self.ended.take()?.into_parts();
        Some((io.into_inner(), read_buf))
    }

    fn is_over(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.conn.is_none()
    }
}

fn advance(conn: &mut Option<Conn>, ended: &mut Option<Conn>, cx: &mut Context<'_>) {
    if let Some(present) = conn
        && Pin::new(present).poll(cx).is_ready()
    {
        *ended = conn.take();
    }
}

/// A way onto an HTTP/2 connection.
pub(super) struct H2 {
    sender: http2::SendRequest<RequestBody>,
    kept: bool,
}

impl H2 {
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// As [`H1::exchange`].
    pub(super) async fn exchange(&mut self, request: Request<RequestBody>, until: Instant) -> Option<Exchange> {
        tokio::time::timeout_at(until.into(), self.sender.try_send_request(request))
            .await
            .ok()
    }
}
