//! OTLP over gRPC: `TraceService/Export`, plain or in gzip.
//!
//! tonic does the framing, the compression and its limits; the message stays bytes, which the intake walks through
//! without decoding it (see `signals::traces::otlp`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};

use super::http::response;
use super::{COME_BACK, Closed, Door, MAX_REQUEST_BYTES, REQUEST_WITHIN, Unread};
use crate::signals::traces::Count;
use crate::signals::traces::otlp::{Encoding, Refused};

/// The only method.
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// The type of [`RetryInfo`] inside of an error.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// Answers a request that was let in.
pub(super) async fn answer(door: &Arc<Door>, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() != METHOD {
        return Status::unimplemented("only traces are received here").into_http();
    }
    let mut grpc = Grpc::new(Raw)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let mut asked = false;
    let done = timeout(
        REQUEST_WITHIN,
        grpc.unary(
            Export {
                door,
                asked: &mut asked,
            },
            request,
        ),
    )
    .await;
    let Ok(response) = done else {
        door.count(Count::Slow);
        return Status::deadline_exceeded("the request did not arrive in time").into_http();
    };
    if !asked {
        // tonic refused it: by its size, or because it is not what it says.
        let code = response
            .headers()
            .get("grpc-status")
            .map(|code| Code::from_bytes(code.as_bytes()));
        door.count(match code {
            Some(Code::OutOfRange | Code::ResourceExhausted) => Count::TooLarge,
            _ => Count::Malformed,
        });
    }
    response
}

/// Answers a request that was not let in.
pub(super) fn closed(closed: &Closed) -> Response<Body> {
    match closed {
        Closed::Denied(why) => Status::unauthenticated(*why).into_http(),
        Closed::Full => come_back(COME_BACK).into_http(),
    }
}

struct Export<'a> {
    door: &'a Arc<Door>,
    asked: &'a mut bool,
}

impl UnaryService<Bytes> for Export<'_> {
    type Response = ExportTraceServiceResponse;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Self::Response>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        *self.asked = true;
        let door = Arc::clone(self.door);
        Box::pin(async move {
            let body = request.into_inner();
            match door.export(Encoding::Protobuf, move || Ok(body)).await {
                Ok(accepted) => Ok(tonic::Response::new(response(accepted.rejected))),
                Err(Unread::Refused(Refused::Malformed(why))) => Err(Status::invalid_argument(why)),
                Err(Unread::Refused(Refused::TooMany { after })) => Err(come_back(after)),
                Err(Unread::TooLarge | Unread::NotGzip | Unread::Broken) => {
                    Err(Status::internal("reading the message failed"))
                }
            }
        })
    }
}

/// `google.rpc.Status`, which travels in an error's details.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`: without it a sender takes this error for one that trying again does not help.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Span>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn come_back(after: Duration) -> Status {
    let message = "too much at once; come back after the time in RetryInfo";
    let retry = RetryInfo {
        retry_delay: Some(Span {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanos: after.subsec_nanos().cast_signed(),
        }),
    };
    let details = Details {
        code: Code::ResourceExhausted.into(),
        message: message.to_owned(),
        details: vec![Any {
            type_url: RETRY_INFO.to_owned(),
            value: retry.encode_to_vec(),
        }],
    };
    Status::with_details(Code::ResourceExhausted, message, details.encode_to_vec().into())
}

/// Requests stay bytes.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = ExportTraceServiceResponse;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item.encode_to_vec());
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
