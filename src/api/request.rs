//! Reading what a caller sent: the place in the path, the query, the body; and refusing it in the same words everywhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::limits::Settings;
use crate::daemon::api::{Problem, ProblemKind};

/// The longest reason: it goes into the record and into the log.
pub(super) const MOST_REASON: usize = 1000;

/// Where a request came from; [`serve`](super::serve) puts it there.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// A request that is not followed.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    problem: Problem,
    /// Seconds after which it may go well.
    retry_after: Option<u64>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let (status, retry_after) = match problem.kind {
            ProblemKind::Invalid => (StatusCode::BAD_REQUEST, None),
            ProblemKind::NotFound => (StatusCode::NOT_FOUND, None),
            ProblemKind::Conflict => (StatusCode::CONFLICT, None),
            ProblemKind::Forbidden => (StatusCode::FORBIDDEN, None),
            ProblemKind::Unauthenticated => (StatusCode::UNAUTHORIZED, None),
            ProblemKind::Busy => (StatusCode::TOO_MANY_REQUESTS, Some(5)),
            ProblemKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Some(2)),
        };
        Self {
            status,
            problem,
            retry_after,
        }
    }
}

impl Refusal {
    /// With a status that says more than the kind of problem.
    pub(super) fn with(status: StatusCode, kind: ProblemKind, message: impl Into<String>) -> Self {
        Self {
            status,
            problem: Problem::new(kind, message),
            retry_after: None,
        }
    }

    /// It may go well after so many seconds.
    pub(super) const fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Problem::new(ProblemKind::Invalid, message).into()
    }

    pub(super) fn kind(&self) -> ProblemKind {
        self.problem.kind
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json(self.status, &self.problem);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What was not read to its end cannot be followed by another request.
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// An answer as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("answers are plain values");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    dress(response.headers_mut(), "application/json");
    response
}

/// What every answer says of itself: nobody keeps it, nobody guesses what it is.
pub(super) fn dress(headers: &mut HeaderMap, media: &'static str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// What a path says; what is not in it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct At {
    pub(super) namespace: String,
    pub(super) rollout: String,
    pub(super) number: u64,
}

impl At {
    /// Reads the parameters of a path; names are those that Kubernetes knows.
    pub(super) async fn read(parts: &mut Parts) -> Result<Self, Refusal> {
        let params = RawPathParams::from_request_parts(parts, &())
            .await
            .map_err(|_| Refusal::invalid("the path is not UTF-8"))?;
        let mut at = Self::default();
        for (key, value) in &params {
            match key {
                "namespace" => at.namespace = name("namespace", value, 63)?,
                "rollout" => at.rollout = name("rollout", value, 253)?,
                _ => {
                    at.number = value
                        .parse()
                        .ok()
                        .filter(|number| *number > 0)
                        .ok_or_else(|| Refusal::invalid(format!("`{}` is not a release's number", shown(value))))?;
                }
            }
        }
        Ok(at)
    }

    /// The rollout's name, where the path has one.
    pub(super) fn name(&self) -> Option<&str> {
        Some(self.rollout.as_str()).filter(|name| !name.is_empty())
    }
}

fn name(what: &str, value: &str, most: usize) -> Result<String, Refusal> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let labels = value
        .split('.')
        .all(|label| !label.is_empty() && label.bytes().all(fine) && !label.starts_with('-') && !label.ends_with('-'));
    let dotted = what == "rollout" || !value.contains('.');
    if labels && dotted && value.len() <= most {
        Ok(value.to_owned())
    } else {
        Err(Refusal::invalid(format!(
            "`{}` is not a {what}'s name; lower-case letters, digits and `-`",
            shown(value)
        )))
    }
}

/// A caller's words in an answer: short, and without control characters.
fn shown(value: &str) -> String {
    value.chars().take(60).flat_map(char::escape_default).collect()
}

/// The query's parameters, of which only `known` are allowed, each once.
pub(super) fn query(parts: &Parts, known: &[&str]) -> Result<BTreeMap<String, String>, Refusal> {
    let mut found = BTreeMap::new();
    let text = parts.uri.query().unwrap_or_default();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !known.contains(&key) {
            return Err(Refusal::invalid(format!("`{}` is no parameter of this", shown(key))));
        }
        if found.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Refusal::invalid(format!("{key} is said twice")));
        }
    }
    Ok(found)
}

/// Refuses what a page of somebody else's sends by way of a person's browser.
pub(super) fn own_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let own = [&b"https://"[..], b"http://"]
        .iter()
        .any(|scheme| origin.as_bytes().strip_prefix(*scheme) == Some(host));
    if own && !host.is_empty() {
        Ok(())
    } else {
        Err(Problem::new(
            ProblemKind::Forbidden,
            "requests on behalf of other pages are refused (Origin)",
        )
        .into())
    }
}

/// Reads a JSON body: within its size and its time, with the fields of `T` and no others.
pub(super) async fn body<T: DeserializeOwned + Serialize>(
    parts: &Parts,
    body: Body,
    settings: &Settings,
) -> Result<T, Refusal> {
    debug_assert!(parts.method == Method::POST, "only these have bodies");
    let media = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let media = media
        .unwrap_or_default()
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    if !media.trim_ascii().eq_ignore_ascii_case(b"application/json") {
        return Err(Refusal::with(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ProblemKind::Invalid,
            "send JSON, with `Content-Type: application/json`",
        ));
    }
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Refusal::with(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ProblemKind::Invalid,
            "bodies are sent as they are, without Content-Encoding",
        ));
    }
    let read = Limited::new(body, settings.body).collect();
    let read = tokio::time::timeout(settings.body_within, read).await.map_err(|_| {
        Refusal::with(
            StatusCode::REQUEST_TIMEOUT,
            ProblemKind::Invalid,
            format!(
                "the body did not arrive within {} s",
                settings.body_within.as_secs_f64()
            ),
        )
    })?;
    let bytes = match read {
        Ok(read) => read.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Refusal::with(
                StatusCode::PAYLOAD_TOO_LARGE,
                ProblemKind::Invalid,
                format!("a body has at most {} KiB", settings.body / 1024),
            ));
        }
        Err(_) => return Err(Refusal::invalid("the body broke off")),
    };
    strict(&bytes)
}

/// Parses JSON of which nothing may be dropped: a field that is not known is a slip that would go unnoticed.
fn strict<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, Refusal> {
    let bad = |error: serde_json::Error| Refusal::invalid(format!("the body is not what is asked for: {error}"));
    let value: T = serde_json::from_slice(bytes).map_err(bad)?;
    let sent: Value = serde_json::from_slice(bytes).map_err(bad)?;
    let kept = serde_json::to_value(&value).expect("requests are plain values");
    match dropped(&sent, &kept, "") {
        None => Ok(value),
        Some(field) => Err(Refusal::invalid(format!("`{}` is no field of this", shown(&field)))),
    }
}

/// The first field that was sent with a value and is not there any more.
fn dropped(sent: &Value, kept: &Value, at: &str) -> Option<String> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    let Value::Object(fields) = sent else { return None };
    fields.iter().find_map(|(key, value)| {
        let path = format!("{at}{key}");
        match kept.get(key) {
            Some(kept) => dropped(value, kept, &format!("{path}.")),
            None if empty(value) => None,
            None => Some(path),
        }
    })
}

/// A reason that fits.
pub(super) fn reason(reason: Option<&str>) -> Result<(), Refusal> {
    match reason {
        Some(text) if text.len() > MOST_REASON => Err(Refusal::invalid(format!(
            "the reason has {} bytes; at most {MOST_REASON}",
            text.len()
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::api::ReleaseRequest;

    #[test]
    fn nothing_that_is_sent_is_silently_dropped() {
        let read = |text: &str| strict::<ReleaseRequest>(text.as_bytes()).map_err(|refusal| refusal.problem.message);
        assert!(read("{}").is_ok());
        assert!(read(r#"{"target": {"rollback": {"number": null}}, "pipeline": {"commit": "3fa9c1e"}}"#).is_ok());
        for slip in [
            r#"{"emergncy": true}"#,
            r#"{"pipeline": {"comit": "3fa9c1e"}}"#,
            r#"{"target": {"rollback": {"nummer": 3}}}"#,
            r#"{"target": {"file": {"set": {}, "path": null, "command": ["sh"]}}}"#,
        ] {
            assert!(read(slip).is_err(), "{slip}");
        }
    }

    #[test]
    fn names_are_names() {
        for good in ["shop", "a", "shop-2"] {
            assert!(name("namespace", good, 63).is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            "..",
            "a/b",
            "Shop",
            "-a",
            "a-",
            "a.b",
            "a%2fb",
            "a b",
            "ä",
            long.as_str(),
        ] {
            assert!(name("namespace", bad, 63).is_err(), "{bad}");
        }
        assert!(name("rollout", "a.b", 253).is_ok() && name("rollout", "a..b", 253).is_err());
    }
}
