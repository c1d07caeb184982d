//! Bodies on their way through. Nothing is collected: each frame is handed on as it comes, and the next one is asked
//! for when the other side has taken it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connection::Busy;
use super::counters::Flight;
use super::mirror::Copying;
use super::pool::{Endpoint, H1};

type Polled = Poll<Option<Result<Frame<Bytes>, hyper::Error>>>;

/// What is sent to a backend.
#[derive(Debug)]
pub(super) enum RequestBody {
    Empty,
    Whole(Bytes),
    Streaming(Incoming),
    /// Streaming, and remembered for the mirror.
    Copied(Incoming, Copying),
}

impl From<Incoming> for RequestBody {
    fn from(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            Self::Empty
        } else {
            Self::Streaming(incoming)
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streaming(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Copied(incoming, copying) => {
                let polled = ready!(Pin::new(&mut *incoming).poll_frame(cx));
                if let Some(Ok(frame)) = &polled
                    && let Some(data) = frame.data_ref()
                {
                    copying.add(data);
                }
                // hyper does not ask a body of known length again after its last byte.
                if polled.is_none() || (incoming.is_end_stream() && matches!(polled, Some(Ok(_)))) {
                    copying.complete();
                }
                Poll::Ready(polled)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Streaming(incoming) | Self::Copied(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streaming(incoming) | Self::Copied(incoming, _) => incoming.size_hint(),
        }
    }
}

/// What is sent to a client. While it lives the client's connection is busy and, if a revision answers, that
/// revision has a request in flight.
#[derive(Debug)]
pub(super) struct AnswerBody {
    content: Content,
    /// `None` once over, or when the proxy itself answers.
    flight: Option<Flight>,
    _busy: Busy,
}

/// Where an answer's bytes come from.
#[derive(Debug)]
pub(super) enum Content {
    /// The proxy's own sentence, or nothing.
    Own(Bytes),
    /// An HTTP/1.1 connection, to be driven here and kept afterwards.
    H1(Incoming, Lease),
    /// An HTTP/2 call.
    H2(Incoming),
}

/// A connection that goes back to its endpoint when the answer is complete, and is closed otherwise.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) h1: Option<Box<H1>>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) max_idle: usize,
}

impl Lease {
    fn give_back(&mut self, cx: &mut Context<'_>) {
        if let Some(mut h1) = self.h1.take()
            && h1.is_free(cx)
        {
            self.endpoint.keep(h1, self.max_idle);
        }
    }
}

impl Content {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        match self {
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::H2(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::H1(incoming, lease) => {
                // Frames come only from the connection driven here, so the body itself needs no waker; asking it
                // first lets the connection read on, since it reads no further than it is asked.
                let unwoken = &mut Context::from_waker(Waker::noop());
                let mut polled = Pin::new(&mut *incoming).poll_frame(unwoken);
                if polled.is_pending()
                    && let Some(h1) = &mut lease.h1
                {
                    h1.drive(cx);
                    polled = Pin::new(&mut *incoming).poll_frame(unwoken);
                }
                let frame = ready!(polled);
                match &frame {
                    Some(Err(_)) => lease.h1 = None,
                    None => lease.give_back(cx),
                    Some(Ok(_)) if incoming.is_end_stream() => lease.give_back(cx),
                    Some(Ok(_)) => {}
                }
                Poll::Ready(frame)
            }
        }
    }

    /// To be called when no frame will be asked for, as for an answer to HEAD.
    pub(super) fn release_if_empty(&mut self) {
        if let Self::H1(incoming, lease) = self
            && incoming.is_end_stream()
        {
            lease.give_back(&mut Context::from_waker(Waker::noop()));
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_empty(),
            Self::H1(incoming, _) | Self::H2(incoming) => incoming.is_end_stream(),
        }
    }
}

impl AnswerBody {
    /// A revision's answer.
    pub(super) fn streaming(mut content: Content, flight: Flight, busy: Busy) -> Self {
        content.release_if_empty();
        Self {
            content,
            flight: Some(flight),
            _busy: busy,
        }
    }

    /// The proxy's own answer, or none (a switch of protocols).
    pub(super) fn own(text: Bytes, busy: Busy) -> Self {
        Self {
            content: Content::Own(text),
            flight: None,
            _busy: busy,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        let frame = ready!(this.content.poll_frame(cx));
        let over = matches!(&frame, None | Some(Err(_))) || this.content.is_end_stream();
        if let Some(flight) = &mut this.flight {
            // A gRPC call is counted here, by its status; everything else is counted already, and not again.
            if let Some(Ok(frame)) = &frame
                && let Some(trailers) = frame.trailers_ref()
            {
                flight.grpc_outcome(
                    StatusCode::OK,
                    trailers.get("grpc-status").map(|status| status.as_bytes()),
                );
            }
            if let Some(Err(_)) = &frame {
                flight.cut_short();
            }
            if over {
                flight.grpc_outcome(StatusCode::OK, None);
                this.flight = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::H1(incoming, _) | Content::H2(incoming) => incoming.size_hint(),
        }
    }
}
