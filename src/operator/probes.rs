//! Whether the daemon lives and sees, for the kubelet; and its metrics. Says nothing about anybody's services.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Operator;
use crate::telemetry;

/// Serves `/healthz` (the loop turns) and `/readyz` (everything is watched) until `stop`.
///
/// # Errors
/// The listener fails.
pub async fn serve(operator: Arc<Operator>, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(operator);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn metrics(State(operator): State<Arc<Operator>>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, telemetry::CONTENT_TYPE)], operator.telemetry().render())
}

async fn healthz(State(operator): State<Arc<Operator>>) -> (StatusCode, &'static str) {
    if operator.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the loop does not turn\n")
    }
}

async fn readyz(State(operator): State<Arc<Operator>>) -> (StatusCode, String) {
    match operator.is_ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
