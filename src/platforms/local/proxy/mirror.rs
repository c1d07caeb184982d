//! Copies of requests for a revision that answers nobody: a shadow stage sees how it fares before any user does.
//!
//! The user's request goes first and is never held up: a body is remembered as it streams by and the copy starts when
//! it is complete, in a task of its own. What cannot be copied cheaply (a body that is long, or of unknown length), or
//! would be one copy too many at a time, is not mirrored and counted. Copies carry `X-Wade-Mirror: 1` and everything
//! the user sent, credentials included: a service that acts on requests (payments, mail) must look at that header.

use std::sync::Arc;
use std::task::Context;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Version};
use hyper::body::Body;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::body::{Content, RequestBody};
use super::counters::{Audience, Flight, RevisionStats, SkipReason};
use super::forward::{count_head, send};
use super::stop::Phase;
use super::table::Target;
use crate::clock::stopwatch;

const MARK: HeaderName = HeaderName::from_static("x-wade-mirror");

/// Sees to it that `to` gets a copy, at once or when the body is complete. Returns the request to send to the user's
/// own revision.
pub(super) fn copy(shared: &Arc<Shared>, to: Target, request: Request<RequestBody>) -> Request<RequestBody> {
    let length = request.body().size_hint().exact();
    if length.is_none_or(|length| length > shared.config.mirror_body_bytes) {
        to.stats.skipped(SkipReason::Body);
        return request;
    }
    let Ok(permit) = Arc::clone(&shared.mirror_permits).try_acquire_owned() else {
        to.stats.skipped(SkipReason::Full);
        return request;
    };
    let copying = Copying::new(shared, to, &request, permit);
    let (head, body) = request.into_parts();
    let body = match body {
        RequestBody::Streaming(incoming) => RequestBody::Copied(incoming, copying),
        complete => {
            let mut copying = copying;
            copying.complete();
            complete
        }
    };
    Request::from_parts(head, body)
}

/// A copy in the making. Dropped before it is complete, it counts as skipped.
#[derive(Debug)]
pub(super) struct Copying {
    stats: Arc<RevisionStats>,
    pending: Option<Box<Pending>>,
}

#[derive(Debug)]
struct Pending {
    shared: Arc<Shared>,
    to: Target,
    head: Request<()>,
    body: BytesMut,
    flight: Flight,
    permit: OwnedSemaphorePermit,
}

impl Copying {
    fn new(shared: &Arc<Shared>, to: Target, of: &Request<RequestBody>, permit: OwnedSemaphorePermit) -> Self {
        let mut head = Request::new(());
        *head.method_mut() = of.method().clone();
        *head.uri_mut() = of.uri().clone();
        *head.version_mut() = of.version();
        *head.headers_mut() = of.headers().clone();
        head.headers_mut().insert(MARK, HeaderValue::from_static("1"));
        let stats = Arc::clone(&to.stats);
        let flight = Flight::start(Arc::clone(&stats), Audience::Mirror, stopwatch());
        let pending = Pending {
            shared: Arc::clone(shared),
            to,
            head,
            body: BytesMut::new(),
            flight,
            permit,
        };
        Self {
            stats,
            pending: Some(Box::new(pending)),
        }
    }

    /// The next part of the body. Its declared length was checked, and hyper holds clients to it.
    pub(super) fn add(&mut self, data: &Bytes) {
        if let Some(pending) = &mut self.pending {
            pending.body.extend_from_slice(data);
        }
    }

    /// The body is complete: off it goes.
    pub(super) fn complete(&mut self) {
        if let Some(pending) = self.pending.take() {
            let (tasks, stop) = (pending.shared.tasks.clone(), Arc::clone(&pending.shared.stop));
            tasks.spawn(async move {
                tokio::select! {
                    () = pending.run() => {}
                    // Nobody waits for a mirrored answer.
                    () = stop.reached(Phase::Draining) => {}
                }
            });
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        if self.pending.is_some() {
            self.stats.skipped(SkipReason::Incomplete);
        }
    }
}

impl Pending {
    async fn run(self) {
        let Self {
            shared,
            to,
            head,
            body,
            mut flight,
            permit: _permit,
        } = self;
        flight.restart();
        let version: Version = head.version();
        let body = if body.is_empty() {
            RequestBody::Empty
        } else {
            RequestBody::Whole(body.freeze())
        };
        let config = &shared.config;
        match send(config, &to, &mut flight, version, head.map(|()| body)).await {
            Err(kind) => {
                flight.stats.failed(kind);
                flight.outcome(kind.status());
            }
            Ok((response, via)) => {
                count_head(&mut flight, &response);
                let mut content = via.content(response.into_body());
                content.release_if_empty();
                let drained = tokio::time::timeout(config.answer_timeout, drain(&mut content, &mut flight)).await;
                if drained.is_err() {
                    tracing::debug!(revision = to.stats.revision, "a mirrored answer did not end in time");
                }
            }
        }
    }
}

/// Reads an answer to its end and forgets it.
async fn drain(content: &mut Content, flight: &mut Flight) {
    while let Some(Ok(frame)) = std::future::poll_fn(|cx: &mut Context<'_>| content.poll_frame(cx)).await {
        if let Some(trailers) = frame.trailers_ref() {
            flight.grpc_outcome(
                http::StatusCode::OK,
                trailers.get("grpc-status").map(|status| status.as_bytes()),
            );
        }
        if content.is_end_stream() {
            break;
        }
    }
    flight.grpc_outcome(http::StatusCode::OK, None);
}
