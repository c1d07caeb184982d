//! One question to a trace store over HTTP, one bounded answer or one sentence.

use std::fmt;
use std::time::Duration;

use reqwest::{Client, Url};

use crate::signals::http::{bounded_body, success, transport_failure};
use crate::signals::prometheus::api::Secret;
use crate::signals::{NoMeasurement, NoMeasurementKind};

/// The longest answer that is read, in bytes.
pub(in crate::signals::traces) const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// How much of the store's own error text is quoted, in characters.
const QUOTED_CHARS: usize = 200;

/// An address that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreAddressError {
    /// Not an http or https URL.
    #[error("{url:?} is not the address of a trace store; give it like {like}")]
    Address {
        /// What was given.
        url: String,
        /// How it is written.
        like: &'static str,
    },
    /// Credentials in an address end up in logs.
    #[error("the trace store's address contains credentials; give them as tokenFile instead")]
    CredentialsInAddress,
}

/// A trace store's HTTP side.
#[derive(Clone)]
pub(in crate::signals::traces) struct StoreApi {
    kind: &'static str,
    client: Client,
    base: Url,
    token: Option<Secret>,
    timeout: Duration,
}

impl fmt::Debug for StoreApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StoreApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind, self.base.as_str().trim_end_matches('/'))
    }
}

impl StoreApi {
    /// A store of `kind` at `url`, whose usual address is `like`.
    pub(in crate::signals::traces) fn new(
        kind: &'static str,
        like: &'static str,
        client: Client,
        url: &str,
        token: Option<Secret>,
    ) -> Result<Self, StoreAddressError> {
        let wrong = || StoreAddressError::Address {
            url: url.to_owned(),
            like,
        };
        let base = Url::parse(url).map_err(|_| wrong())?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(StoreAddressError::CredentialsInAddress);
        }
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong());
        }
        Ok(Self {
            kind,
            client,
            base,
            token,
            timeout: QUESTION,
        })
    }

    #[cfg(test)]
    pub(in crate::signals::traces) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The answer's body, or `None` for a store that answers 404 when it finds nothing; `complaint` finds the sentence for
    /// people in the body of a refusal.
    pub(in crate::signals::traces) async fn get(
        &self,
        path: &str,
        parameters: &[(&str, String)],
        complaint: fn(&[u8]) -> Option<String>,
    ) -> Result<Option<Vec<u8>>, NoMeasurement> {
        let what = self.to_string();
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        let mut request = self.client.get(url).query(parameters).timeout(self.timeout);
        request = request.header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        let response = request
            .send()
            .await
            .map_err(|error| transport_failure(&error.without_url(), &what))?;
        let status = response.status();
        if matches!(status.as_u16(), 400 | 422 | 500 | 503) {
            let body = bounded_body(response, MAX_ANSWER_BYTES, &what).await?;
            let said = complaint(&body).map_or_else(|| "no reason given".to_owned(), |said| quote(&said));
            let reason = format!("{what} refused the question ({status}): {said}");
            return Err(NoMeasurement::new(NoMeasurementKind::Refused, reason));
        }
        if status.as_u16() == 404 {
            let body = bounded_body(response, MAX_ANSWER_BYTES, &what).await?;
            if complaint(&body).is_some_and(|said| said.to_lowercase().contains("no traces found")) {
                return Ok(None);
            }
            let reason = format!("{what} answered {status}; check the address and path");
            return Err(NoMeasurement::new(NoMeasurementKind::Refused, reason));
        }
        bounded_body(success(response, &what)?, MAX_ANSWER_BYTES, &what)
            .await
            .map(Some)
    }

    /// An answer that is not what the store's documentation says.
    pub(in crate::signals::traces) fn garbled(&self, why: impl fmt::Display) -> NoMeasurement {
        let kind = self.kind;
        let reason = format!("{self} gave an answer that is not understood ({why}); is it {kind}'s query address?");
        NoMeasurement::new(NoMeasurementKind::Garbled, reason)
    }

    /// A window that held more than is read of one.
    pub(in crate::signals::traces) fn too_many(&self, limit: &str) -> NoMeasurement {
        let reason =
            format!("{self} has more spans than are read at once ({limit}); the rest is left out, of both sides");
        NoMeasurement::new(NoMeasurementKind::Partial, reason)
    }
}

fn quote(text: &str) -> String {
    text.trim().chars().take(QUOTED_CHARS).collect()
}
