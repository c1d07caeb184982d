//! Prometheus' HTTP API with limits: one question, one bounded answer or one sentence.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prometheus_http_query::response::{Data, PromqlResult};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};
use serde::Deserialize;

use super::native;
use crate::signals::http::{bounded_body, success, transport_failure};
use crate::signals::{NoMeasurement, NoMeasurementKind};

/// The longest answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How long one query may take.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of the server's own error text is quoted, in characters.
const QUOTED_CHARS: usize = 200;

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value that was read from where secrets are kept.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the request that it belongs into.
    pub(in crate::signals) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How to prove who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// `Authorization: Bearer ...`.
    Bearer(Secret),
    /// User and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
}

/// An address or header that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Not an http or https URL.
    #[error("{url:?} is not the address of a Prometheus server; give it like http://prometheus.monitoring:9090")]
    Address {
        /// What was given, without credentials.
        url: String,
    },
    /// Credentials in an address end up in logs.
    #[error("the Prometheus address contains credentials; give them as a secret (token or basic auth) instead")]
    CredentialsInAddress,
    /// A header that HTTP cannot carry. Its value is not shown, it may be a secret.
    #[error("the header {name:?} for Prometheus has a name or value that HTTP does not allow; check for line breaks")]
    Header {
        /// Its name.
        name: String,
    },
}

/// A Prometheus server.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: Url,
    auth: Auth,
    headers: HeaderMap,
    timeout: Duration,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("base", &self.base.as_str())
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prometheus at {}", self.base.as_str().trim_end_matches('/'))
    }
}

/// What the API answers. The crate keeps its own envelope to itself and drops the warnings.
#[derive(Deserialize)]
struct Envelope {
    status: String,
    data: Option<PromqlResult>,
    #[serde(default)]
    error: String,
    #[serde(default)]
    warnings: Vec<String>,
}

/// The envelope, with native histograms as classic ones: the crate knows only these.
fn understood(body: &[u8]) -> Result<Envelope, serde_json::Error> {
    if !native::may_hold(body) {
        return serde_json::from_slice(body);
    }
    let mut answer = serde_json::from_slice(body)?;
    native::as_classic(&mut answer);
    serde_json::from_value(answer)
}

/// The part of an error answer that is for people.
#[derive(Deserialize)]
struct Complaint {
    error: String,
}

impl Api {
    /// A server at `url`, asked through `client` (from [`http_client`](crate::signals::http::http_client)).
    ///
    /// # Errors
    /// [`ApiError`] if the address or a header cannot be used.
    pub fn new(client: Client, url: &str, auth: Auth, headers: &[(String, Secret)]) -> Result<Self, ApiError> {
        let base = Url::parse(url).map_err(|_| ApiError::Address { url: url.to_owned() })?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(ApiError::CredentialsInAddress);
        }
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(ApiError::Address { url: url.to_owned() });
        }
        let mut map = HeaderMap::new();
        for (name, Secret(value)) in headers {
            let bad = || ApiError::Header { name: name.clone() };
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            map.append(key, value);
        }
        Ok(Self {
            client,
            base,
            auth,
            headers: map,
            timeout: QUERY_TIMEOUT,
        })
    }

    /// The same server with another limit for one query.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Evaluates `query` at the server's present time.
    ///
    /// # Errors
    /// [`NoMeasurement`] for everything but a complete, understood answer.
    pub async fn instant(&self, query: String) -> Result<Data, NoMeasurement> {
        self.ask("api/v1/query", &[("query", query)]).await
    }

    /// Evaluates `query` at a moment of the past.
    ///
    /// # Errors
    /// As [`instant`](Self::instant).
    pub async fn instant_at(&self, query: String, at: Timestamp) -> Result<Data, NoMeasurement> {
        self.ask("api/v1/query", &[("query", query), ("time", unix(at))]).await
    }

    /// Evaluates `query` every `step` from `start` to `end`, to the millisecond.
    ///
    /// # Errors
    /// As [`instant`](Self::instant).
    pub async fn range_at(
        &self,
        query: String,
        start: Timestamp,
        end: Timestamp,
        step: SignedDuration,
    ) -> Result<Data, NoMeasurement> {
        let parameters = [
            ("query", query),
            ("start", unix(start)),
            ("end", unix(end)),
            ("step", format!("{:.3}", step.as_secs_f64())),
        ];
        self.ask("api/v1/query_range", &parameters).await
    }

    /// Evaluates `query` every `step_secs` from `start_secs` to `end_secs` (Unix seconds).
    ///
    /// # Errors
    /// As [`instant`](Self::instant).
    pub async fn range(
        &self,
        query: String,
        start_secs: i64,
        end_secs: i64,
        step_secs: i64,
    ) -> Result<Data, NoMeasurement> {
        let parameters = [
            ("query", query),
            ("start", start_secs.to_string()),
            ("end", end_secs.to_string()),
            ("step", step_secs.to_string()),
        ];
        self.ask("api/v1/query_range", &parameters).await
    }

    async fn ask(&self, path: &str, parameters: &[(&str, String)]) -> Result<Data, NoMeasurement> {
        let what = self.to_string();
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        let mut request = self
            .client
            .get(url)
            .query(parameters)
            .headers(self.headers.clone())
            .timeout(self.timeout);
        request = match &self.auth {
            Auth::None => request,
            Auth::Bearer(Secret(token)) => request.bearer_auth(token),
            Auth::Basic {
                user,
                password: Secret(password),
            } => request.basic_auth(user, Some(password)),
        };
        let response = request
            .send()
            .await
            .map_err(|error| transport_failure(&error.without_url(), &what))?;
        // A query that is wrong or too expensive is explained in the body.
        if matches!(response.status().as_u16(), 400 | 422 | 503) {
            let status = response.status();
            let body = bounded_body(response, MAX_ANSWER_BYTES, &what).await?;
            let said = serde_json::from_slice::<Complaint>(&body)
                .map_or_else(|_| "no reason given".to_owned(), |c| quote(&c.error));
            let reason = format!("{what} refused the query ({status}): {said}; try it in the server's own page");
            return Err(NoMeasurement::new(NoMeasurementKind::Refused, reason));
        }
        let response = success(response, &what)?;
        let body = bounded_body(response, MAX_ANSWER_BYTES, &what).await?;
        let envelope = understood(&body).map_err(|error| {
            let reason = format!("{what} gave an answer that is not understood ({error}); is it a Prometheus API?");
            NoMeasurement::new(NoMeasurementKind::Garbled, reason)
        })?;
        match envelope {
            Envelope { status, error, .. } if status != "success" => {
                let reason = format!(
                    "{what} refused the query: {}; try it in the server's own page",
                    quote(&error)
                );
                Err(NoMeasurement::new(NoMeasurementKind::Refused, reason))
            }
            // A partial answer lacks pods; what is missing would look like silence, and its return like new traffic.
            Envelope { warnings, .. } if !warnings.is_empty() => {
                let reason = format!(
                    "{what} says that its answer is incomplete or doubtful ({}); it is not used",
                    quote(&warnings[0])
                );
                Err(NoMeasurement::new(NoMeasurementKind::Partial, reason))
            }
            Envelope { data: Some(result), .. } => Ok(result.into_inner().0),
            Envelope { data: None, .. } => Err(NoMeasurement::new(
                NoMeasurementKind::Garbled,
                format!("{what} answered without data; is it a Prometheus API?"),
            )),
        }
    }
}

/// Seconds with milliseconds, as the API wants them.
fn unix(at: Timestamp) -> String {
    format!("{:.3}", at.as_millisecond() as f64 / 1e3)
}

fn quote(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).collect()
}
