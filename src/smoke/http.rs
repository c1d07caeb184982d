//! One HTTP question and what is wrong with its answer.
//!
//! [`ask`] does the talking, [`fault`] the judging: it is a plain function of the test and the answer.

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::redirect::Policy;
use serde_json::Value;
use serde_json_path::JsonPath;

use super::text::{EXCERPT, quoted, root_cause, rounded};
use super::{Failure, Limit, SmokeTarget};
use crate::clock::stopwatch;
use crate::spec::HttpSmoke;

/// How much of a body is read; what follows is not looked at.
pub(super) const MOST_BODY: usize = 1 << 20;
/// How long a connection to an instance may take.
const CONNECT: Duration = Duration::from_secs(3);
/// An answer that comes later than its bound is still awaited for this long, so that the report can say how late it was.
const LATE: Duration = Duration::from_secs(2);

/// The client smoke tests are meant for: no redirects followed, no proxy from the environment, no cookies, nothing
/// verified by TLS roots (instances are asked in plain HTTP).
///
/// # Panics
/// If the TLS library does not know its own default versions, which it does.
pub fn http_client() -> reqwest::Client {
    // reqwest insists on a TLS configuration even for plain HTTP; with no roots, no certificate is ever accepted.
    let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default TLS versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT)
        .user_agent(concat!("wade-smoke/", env!("CARGO_PKG_VERSION")))
        .build()
        .expect("the options above are always accepted")
}

/// How long to wait for an answer that should come within `bound`.
pub(super) fn patience(bound: Duration) -> Duration {
    bound.saturating_add(LATE)
}

/// What came back, as far as it is looked at.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    /// The body was longer than [`MOST_BODY`].
    cut: bool,
    took: Duration,
}

/// One try: sends the request, reads at most 1 MiB of the answer and compares it with what the test expects.
pub(super) async fn ask(
    test: &HttpSmoke,
    target: &SmokeTarget,
    limit: Limit,
    client: &reqwest::Client,
) -> Result<(), Failure> {
    let request = request(test, target, client).map_err(Failure::Test)?;
    match tokio::time::timeout(limit.time, exchange(request, client)).await {
        Ok(answer) => fault(test, &answer?),
        Err(_) => Err(Failure::answer(match test.within {
            Some(bound) => format!("no answer within {limit}, where at most {bound} is allowed"),
            None => format!("no answer within {limit}"),
        })),
    }
}

fn request(test: &HttpSmoke, target: &SmokeTarget, client: &reqwest::Client) -> Result<reqwest::Request, String> {
    // Without the slash, `@host` or `:80` at the start of the path would choose another server.
    if !test.http.starts_with('/') {
        return Err(format!(
            "`{}` is not a path; begin it with `/`",
            quoted(&test.http, EXCERPT)
        ));
    }
    let method = test.method.as_deref().unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| {
        format!(
            "`{}` is not an HTTP method; write one like `POST`",
            quoted(method, EXCERPT)
        )
    })?;
    let mut builder = client.request(
        method,
        format!("http://{}{}{}", target.address, target.prefix, test.http),
    );
    for (name, value) in &test.headers {
        builder = builder.header(header_name(name)?, header_value(name, value)?);
    }
    if let Some(body) = &test.body {
        builder = builder.body(body.clone());
    }
    builder
        .build()
        .map_err(|error| format!("the request cannot be built from it ({})", root_cause(&error)))
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        let name = quoted(name, EXCERPT);
        format!("`{name}` is not a header name; use letters, digits and `-`")
    })
}

/// The value is not repeated in the error: it may be a secret.
fn header_value(name: &str, value: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(value)
        .map_err(|_| format!("the value of header `{name}` cannot be sent; remove line breaks and control characters"))
}

async fn exchange(request: reqwest::Request, client: &reqwest::Client) -> Result<Answer, Failure> {
    let began = stopwatch();
    let asked = request.url().clone();
    let mut response = client.execute(request).await.map_err(unreachable)?;
    if *response.url() != asked {
        return Err(Failure::Test(
            "the HTTP client followed a redirect, so another server may have answered; use `smoke::http_client`"
                .to_owned(),
        ));
    }
    let (mut body, mut cut) = (Vec::new(), false);
    while let Some(chunk) = response.chunk().await.map_err(broken_off)? {
        let room = MOST_BODY - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            cut = true;
            break;
        }
    }
    Ok(Answer {
        status: response.status(),
        headers: std::mem::take(response.headers_mut()),
        body,
        cut,
        took: began.elapsed(),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn unreachable(error: reqwest::Error) -> Failure {
    let cause = root_cause(&error);
    Failure::answer(if error.is_connect() {
        format!("it could not be reached ({cause})")
    } else {
        format!("it gave no whole answer ({cause})")
    })
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn broken_off(error: reqwest::Error) -> Failure {
    Failure::answer(format!("the answer broke off ({})", root_cause(&error)))
}

/// The first thing that is wrong with the answer, in the order a person would look: status, headers, body, time.
fn fault(test: &HttpSmoke, answer: &Answer) -> Result<(), Failure> {
    let told = |what: String| Failure::Answer {
        what,
        excerpt: excerpt(&answer.body),
    };
    let status = answer.status.as_u16();
    match test.status {
        Some(wanted) if wanted != status => return Err(told(format!("answered {status} where {wanted} was expected"))),
        None if !answer.status.is_success() => {
            return Err(told(format!("answered {status} where 2xx was expected")));
        }
        _ => {}
    }
    for (name, wanted) in &test.expect_headers {
        let name = header_name(name).map_err(Failure::Test)?;
        let mut values = answer.headers.get_all(&name).iter().peekable();
        if values.peek().is_none() {
            return Err(Failure::answer(format!(
                "answered {status} without the header `{name}`"
            )));
        }
        if !values.any(|value| value.as_bytes() == wanted.as_bytes()) {
            return Err(Failure::answer(format!(
                "answered {status} with another value of the header `{name}` than expected (values are not shown)"
            )));
        }
    }
    if let Some(wanted) = &test.contains
        && !contains(&answer.body, wanted.as_bytes())
    {
        let part = if answer.cut { "first 1 MiB of its body" } else { "body" };
        let wanted = quoted(wanted, EXCERPT);
        return Err(told(format!(
            "answered {status}, but its {part} does not contain `{wanted}`"
        )));
    }
    if !test.json.is_empty() {
        json_fault(test, answer).map_err(|fault| match fault {
            Failure::Answer { what, .. } => told(format!("answered {status}, but {what}")),
            test @ Failure::Test(_) => test,
        })?;
    }
    match test.within {
        Some(bound) if answer.took > bound.0 => Err(Failure::answer(format!(
            "answered {status} after {} where at most {bound} is allowed",
            rounded(answer.took)
        ))),
        _ => Ok(()),
    }
}

fn excerpt(body: &[u8]) -> Option<(&'static str, String)> {
    // A character has at most four bytes: no need to decode all of a MiB for 200 of them.
    let start = &body[..body.len().min(4 * EXCERPT + 4)];
    let text = String::from_utf8_lossy(start);
    (!text.trim().is_empty()).then(|| ("body begins", quoted(&text, EXCERPT)))
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted)
}

fn json_fault(test: &HttpSmoke, answer: &Answer) -> Result<(), Failure> {
    if answer.cut {
        return Err(Failure::answer(
            "its body is longer than 1 MiB and was not read as JSON",
        ));
    }
    let body: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::answer(format!("its body is not JSON ({error})")))?;
    for (path, wanted) in &test.json {
        let compiled = JsonPath::parse(path).map_err(|error| {
            Failure::Test(format!(
                "`{path}` is not a JSON path ({error}); write one like `$.status`"
            ))
        })?;
        let found = compiled.query(&body).all();
        if !selects(&found, wanted) {
            let found = match found.as_slice() {
                [] => "nothing".to_owned(),
                [one] => format!("`{}`", quoted(&one.to_string(), EXCERPT)),
                many => format!("{} values", many.len()),
            };
            let wanted = quoted(&wanted.to_string(), EXCERPT);
            return Err(Failure::answer(format!(
                "`{path}` selects {found} where `{wanted}` was expected"
            )));
        }
    }
    Ok(())
}

/// One value is compared as it is; what selects several is compared with a list.
fn selects(found: &[&Value], wanted: &Value) -> bool {
    match (found, wanted) {
        ([one], wanted) if same(one, wanted) => true,
        (found, Value::Array(list)) => {
            !found.is_empty()
                && found.len() == list.len()
                && found.iter().zip(list).all(|(one, wanted)| same(one, wanted))
        }
        _ => false,
    }
}

/// Equality as a person writing YAML means it: `1` and `1.0` are the same number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64() && (a.is_f64() || b.is_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
