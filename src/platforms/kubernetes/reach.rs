//! How Wade's own questions reach a pod: directly where it runs in the cluster, else through the API server.
//!
//! From outside (a laptop, a CI runner) a pod has no address that leads to it, but the API server passes requests on.
//! [`Reach`] hides the difference: outside, it opens one listener on loopback that takes a request for
//! `/<secret>/<pod>/<port>/…` and sends it on with Wade's credentials. The secret is made anew by each process, so other
//! users of the machine cannot borrow them; bodies, answers and times are bounded. It carries HTTP, not gRPC.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tokio::task::JoinHandle;

use crate::apiserver::ApiServer;

/// The largest body that is passed on.
const MOST_BODY: usize = 1 << 20;
/// The longest a pod may take to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Headers that belong to one connection and not to the request.
const HOP: [&str; 9] = [
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A way to a port of a pod: where to connect, and what every path there begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where to connect.
    pub address: SocketAddr,
    /// What every path begins with; empty for the pod itself.
    pub prefix: String,
}

/// How pods are reached.
#[derive(Clone, Debug)]
pub enum Reach {
    /// By their addresses.
    Direct,
    /// Through the API server.
    Detour(Arc<Detour>),
}

/// The listener of a detour. Dropping it ends it.
#[derive(Debug)]
pub struct Detour {
    address: SocketAddr,
    secret: String,
    task: JoinHandle<()>,
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    api: ApiServer,
    secret: String,
}

impl Reach {
    /// The way for this handle: direct inside the cluster, else a detour. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// No listener on loopback can be opened.
    pub async fn open(api: &ApiServer) -> std::io::Result<Self> {
        if api.is_inside() {
            return Ok(Self::Direct);
        }
        let secret = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?
            .trim()
            .to_owned();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            api: api.clone(),
            secret: secret.clone(),
        });
        let router = axum::Router::new().fallback(pass_on).with_state(shared);
        let task = tokio::spawn(async move {
            // It only ends with the task.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self::Detour(Arc::new(Detour { address, secret, task })))
    }

    /// The way to a port of a pod; `None` if the pod has no address yet.
    pub fn way(&self, pod: &str, ip: &str, port: u16) -> Option<Way> {
        let ip: std::net::IpAddr = ip.parse().ok()?;
        Some(match self {
            Self::Direct => Way {
                address: SocketAddr::new(ip, port),
                prefix: String::new(),
            },
            Self::Detour(detour) => Way {
                address: detour.address,
                prefix: format!("/{}/{pod}/{port}", detour.secret),
            },
        })
    }
}

async fn pass_on(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let Some((pod, port, rest)) = destination(&path, &shared.secret) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MOST_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let mut headers = parts.headers;
    for name in HOP {
        headers.remove(name);
    }
    // The API server takes it for its own, and would refuse it.
    headers.remove(http::header::AUTHORIZATION);
    let asked = shared
        .api
        .through_proxy(pod, port, parts.method, &rest, &headers, body.to_vec());
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(answer)) => {
            let (mut parts, body) = answer.into_parts();
            for name in HOP {
                parts.headers.remove(name);
            }
            Response::from_parts(parts, Body::new(body))
        }
        Ok(Err(error)) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

fn destination<'a>(path: &'a str, secret: &str) -> Option<(&'a str, u16, String)> {
    let mut parts = path.strip_prefix('/')?.splitn(4, '/');
    let given = parts.next()?;
    let (pod, port) = (parts.next()?, parts.next()?.parse().ok()?);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (given == secret && !pod.is_empty() && pod.bytes().all(plain))
        .then(|| (pod, port, format!("/{}", parts.next().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_is_passed_on_and_only_to_a_pod() {
        assert_eq!(
            destination("/s3/app-1/8080/metrics?x=1", "s3"),
            Some(("app-1", 8080, "/metrics?x=1".to_owned()))
        );
        assert_eq!(
            destination("/s3/app-1/8080", "s3"),
            Some(("app-1", 8080, "/".to_owned()))
        );
        for wrong in ["/no/app-1/8080/", "/s3/..%2f/8080/", "/s3/app-1/x/", "/s3//1/", "/"] {
            assert_eq!(destination(wrong, "s3"), None, "{wrong}");
        }
    }
}
