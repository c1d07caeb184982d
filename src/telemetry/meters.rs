//! What stores, the API server and Wade's own API are counted with, from outside: none of them knows of telemetry.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;

use super::{Telemetry, list};
use crate::apiserver::Meter;
use crate::clock::stopwatch;
use crate::engine::Command;
use crate::store::{ReleaseKey, ReleaseRecord, Store, StoreError, Update};

/// A store whose writes are counted.
pub struct Metered {
    store: Arc<dyn Store>,
    telemetry: Arc<Telemetry>,
}

impl Metered {
    /// Counts what goes through it.
    pub fn new(store: Arc<dyn Store>, telemetry: Arc<Telemetry>) -> Self {
        Self { store, telemetry }
    }
}

#[async_trait]
impl Store for Metered {
    async fn record(&self, key: &ReleaseKey, epoch: u64, update: &Update) -> Result<(), StoreError> {
        let watch = stopwatch();
        let written = self.store.record(key, epoch, update).await;
        let result = match &written {
            Ok(()) => "ok",
            Err(StoreError::Fenced { .. }) => "fenced",
            Err(StoreError::Unknown(_)) => "unknown",
            Err(StoreError::Unavailable { .. }) => "unavailable",
            Err(StoreError::Damaged { .. }) => "damaged",
        };
        let numbers = self.telemetry.registry();
        numbers.count(list::RECORD_WRITES, &[result]);
        numbers.observe(list::RECORD_SECONDS, &[], watch.elapsed().as_secs_f64());
        written
    }

    async fn commands(&self, key: &ReleaseKey, handled: u64) -> Result<Vec<Command>, StoreError> {
        self.store.commands(key, handled).await
    }

    async fn load(&self, key: &ReleaseKey) -> Result<ReleaseRecord, StoreError> {
        self.store.load(key).await
    }
}

impl Meter for Telemetry {
    fn asked(&self, verb: &'static str, result: &'static str, took: Option<Duration>) {
        let numbers = self.registry();
        numbers.count(list::ASKED, &[verb, result]);
        if let Some(took) = took {
            numbers.observe(list::ASKED_SECONDS, &[verb], took.as_secs_f64());
        }
    }
}

/// Counts what an API answers; a layer of its router: `router.layer(from_fn_with_state(telemetry, counted))`. The time of
/// an answer is that to its head; a stream is counted as open until its body is let go of.
pub async fn counted(State(telemetry): State<Arc<Telemetry>>, request: Request, next: Next) -> Response {
    let watch = stopwatch();
    let answer = next.run(request).await;
    let status = answer.status().as_u16();
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
        telemetry.answered(status, Some(watch.elapsed()));
        return answer;
    }
    telemetry.answered(status, None);
    let open = Open::new(telemetry);
    answer.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _kept_with_the_body = &open;
            frame
        }))
    })
}

/// A stream that is open.
struct Open(Arc<Telemetry>);

impl Open {
    fn new(telemetry: Arc<Telemetry>) -> Self {
        telemetry.registry().add(list::API_STREAMS, &[], 1.0);
        Self(telemetry)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.registry().add(list::API_STREAMS, &[], -1.0);
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;

    use super::*;
    use crate::signals::http::http_client;
    use crate::telemetry::Settings;

    #[tokio::test]
    async fn answers_are_counted_by_class_and_streams_while_they_are_open() {
        let telemetry = Telemetry::new(Settings::default());
        let stream = || async {
            let silence = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
            ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(silence))
        };
        let app = Router::new()
            .route("/fine", get(|| async { "fine" }))
            .route("/stream", get(stream))
            .layer(from_fn_with_state(Arc::clone(&telemetry), counted));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let client = http_client().expect("a client");
        for path in ["fine", "fine", "nothing"] {
            client
                .get(format!("http://{address}/{path}"))
                .send()
                .await
                .expect("an answer");
        }
        let stream = client
            .get(format!("http://{address}/stream"))
            .send()
            .await
            .expect("an answer");
        let get = |metric, labels: &[&str]| telemetry.registry().get(metric, labels);
        assert_eq!(get(list::API, &["2xx"]), Some(3.0));
        assert_eq!(get(list::API, &["4xx"]), Some(1.0));
        assert_eq!(get(list::API_SECONDS, &[]), Some(3.0), "the stream is no answer");
        assert_eq!(get(list::API_STREAMS, &[]), Some(1.0));
        drop(stream);
        crate::telemetry::tests::caught_up(|| get(list::API_STREAMS, &[]) == Some(0.0)).await;
    }
}
