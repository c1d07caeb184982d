//! Backends and clients for the tests.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::platforms::local::proxy::{Backend, Proxy, ProxyConfig, Routes};

pub(super) type Body = BoxBody<Bytes, hyper::Error>;

pub(super) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(super) const SOON: Duration = Duration::from_secs(5);

pub(super) fn text(of: impl Into<Bytes>) -> Body {
    Full::new(of.into()).map_err(|never| match never {}).boxed()
}

/// A backend on a port of its own; stops at once when dropped.
pub(super) struct Origin {
    pub(super) addr: SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// Serves HTTP/1.1 and HTTP/2 by this function.
    pub(super) async fn serving<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind(LOOPBACK).await.expect("loopback has a port");
        let addr = listener.local_addr().expect("it is bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            // The set goes with the task: aborting it resets every connection, as a killed process does. The
            // listener goes first, as the lowest descriptor does.
            let mut open = JoinSet::new();
            let listener = listener;
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                stream.set_nodelay(true).expect("it is a socket");
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                open.spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection_with_upgrades(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            addr,
            connections,
            task,
        }
    }

    /// Answers 200 with its name.
    pub(super) async fn named(name: &'static str) -> Self {
        Self::serving(move |_| async move { Response::new(text(name)) }).await
    }

    /// Answers with one status.
    pub(super) async fn failing(status: StatusCode) -> Self {
        Self::serving(move |_| async move {
            let mut answer = Response::new(text("no"));
            *answer.status_mut() = status;
            answer
        })
        .await
    }
}

/// A backend that holds every answer until told; and how to tell it.
pub(super) async fn held(name: &'static str) -> (Origin, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let closed = Arc::clone(&gate);
    let origin = Origin::serving(move |_| {
        let closed = Arc::clone(&closed);
        async move {
            closed.acquire().await.expect("open").forget();
            Response::new(text(name))
        }
    });
    (origin.await, gate)
}

/// An address where nobody listens.
pub(super) async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback has a port");
    listener.local_addr().expect("it is bound")
}

pub(super) fn config() -> ProxyConfig {
    ProxyConfig::new("shop", LOOPBACK)
}

pub(super) fn proxy(routes: Routes) -> Proxy {
    let proxy = Proxy::bind(config()).expect("loopback has a port");
    proxy.set_routes(routes).expect("the test's routes are valid");
    proxy
}

pub(super) fn backend(revision: &str, weight: u16, endpoints: &[SocketAddr]) -> Backend {
    Backend {
        revision: revision.to_owned(),
        weight,
        endpoints: endpoints.to_vec(),
    }
}

/// Stable and canary, with this weight for the canary.
pub(super) fn split(stable: SocketAddr, canary: SocketAddr, weight: u16) -> Routes {
    let split = vec![
        backend("stable", 1000 - weight, &[stable]),
        backend("canary", weight, &[canary]),
    ];
    Routes {
        split,
        ..Routes::default()
    }
}

/// A keep-alive client on one connection.
pub(super) struct Client {
    sender: SendRequest<Body>,
    host: String,
}

impl Client {
    pub(super) async fn to(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("the proxy listens");
        stream.set_nodelay(true).expect("it is a socket");
        let (sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("it is a connection");
        tokio::spawn(conn);
        Self {
            sender,
            host: addr.to_string(),
        }
    }

    pub(super) async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        let host = self.host.parse().expect("an address is a host");
        request.headers_mut().entry("host").or_insert(host);
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Status and body of a GET with these headers.
    pub(super) async fn get(&mut self, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let answer = self.send(get(headers)).await.expect("the proxy answers");
        let status = answer.status();
        (status, read(answer).await)
    }

    /// The body of a plain GET.
    pub(super) async fn who(&mut self) -> String {
        self.get(&[]).await.1
    }
}

pub(super) fn get(headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(text("")).expect("a valid request")
}

pub(super) async fn read(answer: Response<Incoming>) -> String {
    let body = answer
        .into_body()
        .collect()
        .await
        .expect("the body is complete")
        .to_bytes();
    String::from_utf8(body.to_vec()).expect("the tests' bodies are text")
}

/// Sends bytes as they are and returns everything that comes until the other side closes.
pub(super) async fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("the proxy listens");
    stream.write_all(bytes).await.expect("the proxy reads");
    let mut all = Vec::new();
    // A reset after the answer is as good as a close.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut all))
        .await
        .expect("the proxy closes");
    String::from_utf8_lossy(&all).into_owned()
}

/// Waits for something that other tasks bring about.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let coming = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, coming).await.is_ok(), "in vain: {what}");
}
