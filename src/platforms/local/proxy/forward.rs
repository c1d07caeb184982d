//! The way of one request: choose, prepare, send (and send again where that is safe), answer.
//!
//! When is it safe? A request that was never written can go to any endpoint of its revision, whatever it is. One that
//! was written and got no byte back may have been acted on: it is sent once more only if it may be repeated (a method
//! that RFC 9110, 9.2.2 calls idempotent, and no body) and its connection was a kept one, since a kept connection
//! that dies is most often the backend's idle timeout and not its fault. A new connection that dies without an
//! answer is the revision's error. Nothing ever goes to another revision: that would hide the canary's errors.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SET_COOKIE, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};

use super::body::{AnswerBody, Content, Lease, RequestBody};
use super::connection::{Busy, Front};
use super::counters::{FailureKind, Flight};
use super::pool::{Endpoint, Exchange, H1, H2};
use super::table::{Choice, Target};
use super::tunnel::{self, Tunnel};
use super::{ProxyConfig, headers, mirror};
use crate::clock::stopwatch;

/// Answers one request of a client. Never fails: what goes wrong is an answer too.
pub(super) async fn answer(front: Arc<Front>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
    let busy = front.busy();
    if let Some(refusal) = refusal(&request) {
        return Ok(own_answer(StatusCode::NOT_IMPLEMENTED, refusal.to_owned(), busy));
    }
    let shared = &front.shared;
    let version = request.version();
    let Some(Choice {
        target,
        mut flight,
        set_cookie,
        mirror,
    }) = shared.choose(request.headers(), stopwatch())
    else {
        shared.counters.unrouted.fetch_add(1, Relaxed);
        let text = format!(
            "{} serves no revision right now; try again later.\n",
            shared.config.service
        );
        return Ok(own_answer(StatusCode::SERVICE_UNAVAILABLE, text, busy));
    };
    let (request, wish) = prepare(request, &front.peer);
    let request = match mirror.filter(|_| wish.is_none()) {
        Some(to) => mirror::copy(shared, to, request),
        None => request,
    };
    let mut answer = match send(&shared.config, &target, &mut flight, version, request).await {
        Err(kind) => {
            flight.stats.failed(kind);
            flight.outcome(kind.status());
            tracing::debug!(
                revision = flight.stats.revision,
                kind = kind.label(),
                "no answer from the revision"
            );
            own_answer(kind.status(), in_words(kind, &shared.config.service), busy)
        }
        Ok((response, via)) => {
            count_head(&mut flight, &response);
            match (via, wish) {
                (Via::H1(lease), Some(wish)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    switch(&front, wish, response, lease, flight, busy)
                }
                (via, _) => pass_on(version, response, via, flight, busy),
            }
        }
    };
    if let Some(cookie) = set_cookie {
        answer.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(answer)
}

/// What this proxy does not do, in a sentence.
fn refusal(request: &Request<Incoming>) -> Option<&'static str> {
    (request.method() == Method::CONNECT).then_some("CONNECT is not offered here; this is not a forward proxy.\n")
}

/// A change of protocol that the client asked for.
struct Wish {
    protocol: HeaderValue,
    client: hyper::upgrade::OnUpgrade,
}

fn prepare(mut request: Request<Incoming>, peer: &HeaderValue) -> (Request<RequestBody>, Option<Wish>) {
    let protocol = headers::wanted_upgrade(request.version(), request.headers());
    let wish = protocol.map(|protocol| Wish {
        protocol,
        client: hyper::upgrade::on(&mut request),
    });
    let (mut head, body) = request.into_parts();
    headers::for_backend(&mut head, peer);
    if let Some(wish) = &wish {
        headers::set_upgrade(&mut head.headers, wish.protocol.clone());
    }
    // HTTP/1.0 clients get a backend that speaks 1.1, as everybody.
    if head.version != Version::HTTP_2 {
        head.version = Version::HTTP_11;
    }
    head.extensions.clear();
    (Request::from_parts(head, RequestBody::from(body)), wish)
}

/// A revision's answer, streaming.
fn pass_on(
    version: Version,
    response: Response<Incoming>,
    via: Via,
    flight: Flight,
    busy: Busy,
) -> Response<AnswerBody> {
    let (mut head, incoming) = response.into_parts();
    head.version = version;
    headers::for_client(&mut head.headers);
    Response::from_parts(head, AnswerBody::streaming(via.content(incoming), flight, busy))
}

/// The backend agreed to another protocol: the client is told so, and from then on bytes are carried.
fn switch(
    front: &Arc<Front>,
    wish: Wish,
    response: Response<Incoming>,
    lease: Lease,
    flight: Flight,
    busy: Busy,
) -> Response<AnswerBody> {
    let (mut head, _no_body) = response.into_parts();
    let protocol = head.headers.get(UPGRADE).cloned().unwrap_or(wish.protocol);
    headers::for_client(&mut head.headers);
    headers::set_upgrade(&mut head.headers, protocol);
    // hyper left its handle on the backend's side of the switch there.
    head.extensions.clear();
    tunnel::open(
        &front.shared,
        Tunnel {
            client: wish.client,
            lease,
            flight,
            busy: front.busy(),
        },
    );
    Response::from_parts(head, AnswerBody::own(Bytes::new(), busy))
}

/// Counts an answer by its head, unless it is a gRPC call whose status is still to come.
pub(super) fn count_head(flight: &mut Flight, response: &Response<Incoming>) {
    let field = |name: &str| response.headers().get(name).map(HeaderValue::as_bytes);
    if !field("content-type").is_some_and(|value| value.starts_with(b"application/grpc")) {
        return flight.outcome(response.status());
    }
    let status = field("grpc-status");
    if status.is_some() || response.body().is_end_stream() || response.status() != StatusCode::OK {
        flight.grpc_outcome(response.status(), status);
    }
}

/// How an answer came.
pub(super) enum Via {
    H1(Lease),
    H2,
}

impl Via {
    pub(super) fn content(self, incoming: Incoming) -> Content {
        match self {
            Self::H1(lease) => Content::H1(incoming, lease),
            Self::H2 => Content::H2(incoming),
        }
    }
}

/// Sends a request to one of the target's endpoints and waits for the head of its answer.
pub(super) async fn send(
    config: &ProxyConfig,
    target: &Target,
    flight: &mut Flight,
    version: Version,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Via), FailureKind> {
    let endpoints = &target.endpoints;
    let mut turn = target.stats.turn.fetch_add(1, Relaxed);
    let mut left = endpoints.len();
    let mut failure = FailureKind::NoEndpoint;
    let mut resent = false;
    while left > 0 {
        let endpoint = &endpoints[turn % endpoints.len()];
        flight.tries(&endpoint.tally);
        let mut channel = match Channel::open(config, endpoint, version, resent).await {
            Ok(channel) => channel,
            Err(kind) => {
                failure = kind;
                turn = turn.wrapping_add(1);
                left -= 1;
                continue;
            }
        };
        let spare = if channel.is_kept() && !resent {
            repeatable(&request)
        } else {
            None
        };
        let mut error = match channel.exchange(request, stopwatch() + config.answer_timeout).await {
            None => return Err(FailureKind::AnswerTimeout),
            Some(Ok(response)) => return Ok((response, channel.into_via(endpoint, config))),
            Some(Err(error)) => error,
        };
        let kept = channel.is_kept();
        match (error.take_message(), spare) {
            (Some(unsent), _) => {
                request = unsent;
                // A kept connection that was closed says nothing about its endpoint; each of them is met once.
                if !kept {
                    failure = FailureKind::Closed;
                    turn = turn.wrapping_add(1);
                    left -= 1;
                }
            }
            (None, Some(again)) => {
                tracing::debug!(addr = %endpoint.addr, error = %error.into_error(), "sending a request again");
                target.stats.resent();
                request = again;
                resent = true;
                // Every endpoint once more, this one last.
                turn = turn.wrapping_add(1);
                left = endpoints.len();
            }
            (None, None) => {
                let error = error.into_error();
                tracing::debug!(addr = %endpoint.addr, %error, "a request got no answer");
                return Err(if error.is_parse() {
                    FailureKind::BadAnswer
                } else {
                    FailureKind::Closed
                });
            }
        }
    }
    Err(failure)
}

/// A connection for one exchange.
enum Channel {
    H1(Box<H1>),
    H2(H2),
}

impl Channel {
    async fn open(config: &ProxyConfig, to: &Endpoint, version: Version, fresh: bool) -> Result<Self, FailureKind> {
        if version == Version::HTTP_2 {
            return to.h2(config, fresh).await.map(Self::H2);
        }
        match to.kept().filter(|_| !fresh) {
            Some(kept) => Ok(Self::H1(kept)),
            None => to.connect(config).await.map(Self::H1),
        }
    }

    fn is_kept(&self) -> bool {
        match self {
            Self::H1(h1) => h1.is_kept(),
            Self::H2(h2) => h2.is_kept(),
        }
    }

    /// `None` when the answer does not come in time.
    async fn exchange(&mut self, request: Request<RequestBody>, until: Instant) -> Option<Exchange> {
        match self {
            Self::H1(h1) => h1.exchange(request, until).await,
            Self::H2(h2) => h2.exchange(request, until).await,
        }
    }

    fn into_via(self, endpoint: &Arc<Endpoint>, config: &ProxyConfig) -> Via {
        match self {
            Self::H1(h1) => {
                let max_idle = config.max_idle_per_endpoint;
                Via::H1(Lease {
                    h1: Some(h1),
                    endpoint: Arc::clone(endpoint),
                    max_idle,
                })
            }
            Self::H2(_) => Via::H2,
        }
    }
}

/// A copy to send again, if the request may be repeated.
fn repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !matches!(request.body(), RequestBody::Empty) || !request.method().is_idempotent() {
        return None;
    }
    let mut again = Request::new(RequestBody::Empty);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// What a client is told: the service, and nothing of what is behind it.
fn in_words(kind: FailureKind, service: &str) -> String {
    match kind {
        FailureKind::NoEndpoint | FailureKind::Refused => {
            format!("{service} cannot be reached right now; try again later.\n")
        }
        FailureKind::Closed | FailureKind::BadAnswer => {
            format!("{service} gave no valid answer to this request; try again later.\n")
        }
        FailureKind::ConnectTimeout | FailureKind::AnswerTimeout => {
            format!("{service} did not answer in time; try again later.\n")
        }
    }
}

fn own_answer(status: StatusCode, text: String, busy: Busy) -> Response<AnswerBody> {
    let length = HeaderValue::from(text.len());
    let mut answer = Response::new(AnswerBody::own(Bytes::from(text), busy));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}
