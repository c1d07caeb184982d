//! OTLP over HTTP: `POST /v1/traces` with protobuf or JSON, plain or in gzip.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;
use tokio::time::timeout;
use tonic::body::Body;

use super::{COME_BACK, Closed, Door, MAX_REQUEST_BYTES, REQUEST_WITHIN, Unread, rejected, too_large};
use crate::signals::traces::Count;
use crate::signals::traces::otlp::{Accepted, Encoding, Refused};

/// Where traces are posted.
const PATH: &str = "/v1/traces";

/// `google.rpc.Status`, in which the protocol wants errors to be told.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Answers a request that was let in.
pub(super) async fn answer(door: &Arc<Door>, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() != PATH {
        return refusal(None, StatusCode::NOT_FOUND, &format!("traces are posted to {PATH}"));
    }
    if request.method() != Method::POST {
        return refusal(None, StatusCode::METHOD_NOT_ALLOWED, "traces are sent by POST");
    }
    let Some(encoding) = encoding(request.headers()) else {
        let why = "the content type must be application/x-protobuf or application/json";
        return refusal(None, StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
    };
    let refuse = |status, why: &str| refusal(Some(encoding), status, why);
    let Some(gzip) = compression(request.headers()) else {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the only content encoding is gzip");
    };
    let body = match timeout(
        REQUEST_WITHIN,
        Limited::new(request.into_body(), MAX_REQUEST_BYTES).collect(),
    )
    .await
    {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            door.count(Count::TooLarge);
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, &too_large());
        }
        Ok(Err(_)) => {
            door.count(Count::Malformed);
            return refuse(StatusCode::BAD_REQUEST, "the body broke off");
        }
        Err(_) => {
            door.count(Count::Slow);
            return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
        }
    };
    let unpacked = move || if gzip { unpack(&body) } else { Ok(body) };
    match door.export(encoding, unpacked).await {
        Ok(accepted) => accepted_reply(encoding, accepted),
        Err(Unread::Refused(Refused::Malformed(why))) => refuse(StatusCode::BAD_REQUEST, &why),
        Err(Unread::Refused(Refused::TooMany { after })) => come_back(Some(encoding), after),
        Err(Unread::TooLarge) => {
            door.count(Count::TooLarge);
            refuse(StatusCode::PAYLOAD_TOO_LARGE, &too_large())
        }
        Err(Unread::NotGzip) => {
            door.count(Count::Malformed);
            refuse(
                StatusCode::BAD_REQUEST,
                "the body is not gzip as its content encoding says",
            )
        }
        Err(Unread::Broken) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "reading the body failed"),
    }
}

/// Answers a request that was not let in.
pub(super) fn closed(closed: &Closed) -> Response<Body> {
    match closed {
        Closed::Denied(why) => refusal(None, StatusCode::UNAUTHORIZED, why),
        Closed::Full => come_back(None, COME_BACK),
    }
}

/// Decompresses as much as is allowed and no more.
fn unpack(body: &[u8]) -> Result<Bytes, Unread> {
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(body)
        .take(MAX_REQUEST_BYTES as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|_| Unread::NotGzip)?;
    if unpacked.len() > MAX_REQUEST_BYTES {
        return Err(Unread::TooLarge);
    }
    Ok(unpacked.into())
}

fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/x-protobuf" => Some(Encoding::Protobuf),
        "application/json" => Some(Encoding::Json),
        _ => None,
    }
}

/// Whether the body is compressed; `None` if in a way that is not known here.
fn compression(headers: &HeaderMap) -> Option<bool> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Some(false),
        Some(b"gzip") => Some(true),
        Some(_) => None,
    }
}

fn accepted_reply(encoding: Encoding, accepted: Accepted) -> Response<Body> {
    let Accepted { rejected: count } = accepted;
    let body = match encoding {
        Encoding::Protobuf => response(count).encode_to_vec(),
        Encoding::Json if count == 0 => b"{}".to_vec(),
        Encoding::Json => {
            // 64-bit numbers are text in the protocol's JSON.
            let partial = serde_json::json!({"rejectedSpans": count.to_string(), "errorMessage": rejected(count)});
            serde_json::json!({ "partialSuccess": partial })
                .to_string()
                .into_bytes()
        }
    };
    reply(encoding, StatusCode::OK, body)
}

/// The answer to a request that was read.
pub(super) fn response(count: u64) -> ExportTraceServiceResponse {
    let partial = ExportTracePartialSuccess {
        rejected_spans: i64::try_from(count).unwrap_or(i64::MAX),
        error_message: rejected(count),
    };
    ExportTraceServiceResponse {
        partial_success: (count > 0).then_some(partial),
    }
}

fn come_back(encoding: Option<Encoding>, after: Duration) -> Response<Body> {
    let why = "too much at once; come back after the time in Retry-After";
    let mut response = refusal(encoding, StatusCode::TOO_MANY_REQUESTS, why);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    response
}

fn refusal(encoding: Option<Encoding>, status: StatusCode, why: &str) -> Response<Body> {
    let body = match encoding {
        Some(Encoding::Protobuf) => Status {
            code: i32::from(status.as_u16()),
            message: why.to_owned(),
        }
        .encode_to_vec(),
        Some(Encoding::Json) | None => serde_json::json!({"code": status.as_u16(), "message": why})
            .to_string()
            .into_bytes(),
    };
    reply(encoding.unwrap_or(Encoding::Json), status, body)
}

fn reply(encoding: Encoding, status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let kind = match encoding {
        Encoding::Protobuf => "application/x-protobuf",
        Encoding::Json => "application/json",
    };
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
