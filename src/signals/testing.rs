//! A server on loopback that answers what a test wants, and helpers around it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What the fake server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// 200 with this body, and a content type.
    Text(&'static str, String),
    /// Another status, with a body.
    Status(u16, &'static str),
    /// 302 to elsewhere.
    Redirect(String),
    /// Takes the request and says nothing.
    Never,
    /// Never stops talking.
    Endless,
}

/// A server on a free port of loopback; dropping it ends it.
pub(crate) struct FakeServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

struct Shared {
    answer: Answer,
    requests: Vec<(Uri, HeaderMap)>,
}

impl FakeServer {
    pub(crate) async fn start(answer: Answer) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            answer,
            requests: Vec::new(),
        }));
        let state = Arc::clone(&shared);
        let app = Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
            let state = Arc::clone(&state);
            async move {
                let answer = {
                    let mut state = state.lock().unwrap();
                    state.requests.push((uri, headers));
                    state.answer.clone()
                };
                respond(answer).await
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, shared, task }
    }

    pub(crate) fn metrics(text: impl Into<String>) -> Answer {
        Answer::Text("text/plain; version=0.0.4", text.into())
    }

    pub(crate) fn json(text: impl Into<String>) -> Answer {
        Answer::Text("application/json", text.into())
    }

    pub(crate) fn set(&self, answer: Answer) {
        self.shared.lock().unwrap().answer = answer;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<(Uri, HeaderMap)> {
        self.shared.lock().unwrap().requests.clone()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond(answer: Answer) -> Response {
    match answer {
        Answer::Text(content_type, text) => ([("content-type", content_type)], text).into_response(),
        Answer::Status(status, body) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Answer::Redirect(to) => (StatusCode::FOUND, [("location", to)]).into_response(),
        Answer::Never => std::future::pending().await,
        Answer::Endless => {
            let chunk = Bytes::from(vec![b'a'; 64 << 10]);
            let body = stream::iter(std::iter::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone())));
            Body::from_stream(body).into_response()
        }
    }
}

/// An address on loopback where nobody listens.
pub(crate) async fn nobody() -> String {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    format!("http://{address}")
}

/// Waits until `done` says so, at most so long; for what happens in real processes and sockets.
pub(crate) async fn eventually(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(limit, wait).await.is_ok()
}
