//! The other end of the API: what the command line speaks to the daemon with.

use std::path::{Path, PathBuf};

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{
    Acknowledged, CommandRequest, Problem, ProblemKind, ReleaseRequest, ReleaseSummary, RolloutView, Started,
};
use crate::controller::Notice;
use crate::store::{ReleaseKey, ReleaseRecord};

/// A daemon, reached through its socket or over HTTP.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    place: String,
}

/// Notices of one release as they come.
pub struct Events {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Client {
    /// A client for the daemon that listens on `socket`.
    ///
    /// # Errors
    /// When there is no socket: no daemon runs, or it was told another place.
    pub fn socket(socket: &Path) -> Result<Self, Problem> {
        if !socket.exists() {
            return Err(unavailable(format!(
                "no daemon listens on {}; start one with `wade serve --config wade.yaml`, or name its socket with --socket or WADE_SOCKET",
                socket.display()
            )));
        }
        let http = crate::signals::http::builder()
            .unix_socket(PathBuf::from(socket))
            .build()
            .map_err(|error| unavailable(error.to_string()))?;
        Ok(Self {
            http,
            base: "http://wade".to_owned(),
            token: None,
            place: socket.display().to_string(),
        })
    }

    /// A client for a daemon that serves HTTP at `url`, `http://127.0.0.1:7711`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn http(url: &str, token: String) -> Result<Self, Problem> {
        let http = crate::signals::http::builder()
            .build()
            .map_err(|error| unavailable(error.to_string()))?;
        Ok(Self {
            http,
            base: url.trim_end_matches('/').to_owned(),
            token: Some(token),
            place: url.to_owned(),
        })
    }

    /// Every service.
    ///
    /// # Errors
    /// The daemon's [`Problem`], or that it cannot be reached.
    pub async fn rollouts(&self) -> Result<Vec<RolloutView>, Problem> {
        self.call(Method::GET, "/v1/rollouts", None::<&()>).await
    }

    /// One service.
    ///
    /// # Errors
    /// As [`Self::rollouts`].
    pub async fn rollout(&self, name: &str) -> Result<RolloutView, Problem> {
        self.call(Method::GET, &format!("/v1/rollouts/{}", segment(name)?), None::<&()>)
            .await
    }

    /// Asks for a release.
    ///
    /// # Errors
    /// As [`Self::rollouts`].
    pub async fn release(&self, name: &str, request: &ReleaseRequest) -> Result<Started, Problem> {
        self.call(
            Method::POST,
            &format!("/v1/rollouts/{}/releases", segment(name)?),
            Some(request),
        )
        .await
    }

    /// The plan that such a release would have, as text; nothing is touched.
    ///
    /// # Errors
    /// As [`Self::rollouts`].
    pub async fn preview(&self, name: &str, request: &ReleaseRequest) -> Result<String, Problem> {
        let response = self
            .send(
                Method::POST,
                &format!("/v1/rollouts/{}/plan", segment(name)?),
                Some(request),
            )
            .await?;
        response.text().await.map_err(|error| self.lost(&error))
    }

    /// Asks something of the release that runs.
    ///
    /// # Errors
    /// As [`Self::rollouts`].
    pub async fn command(&self, name: &str, request: &CommandRequest) -> Result<Acknowledged, Problem> {
        self.call(
            Method::POST,
            &format!("/v1/rollouts/{}/commands", segment(name)?),
            Some(request),
        )
        .await
    }

    /// The releases that are kept, newest first.
    ///
    /// # Errors
    /// As [`Self::rollouts`].
    pub async fn releases(&self, name: &str) -> Result<Vec<ReleaseSummary>, Problem> {
        self.call(
            Method::GET,
            &format!("/v1/rollouts/{}/releases", segment(name)?),
            None::<&()>,
        )
        .await
    }

    /// The whole record of a release.
    ///
    /// # Errors
    /// As [`Self::rollouts`].
    pub async fn record(&self, key: &ReleaseKey) -> Result<ReleaseRecord, Problem> {
        self.call(
            Method::GET,
            &format!("/v1/rollouts/{}/releases/{}", segment(&key.rollout)?, key.number),
            None::<&()>,
        )
        .await
    }

    /// Follows a release from entry `from` (1 is the first) to its end.
    ///
    /// # Errors
    /// As [`Self::rollouts`].
    pub async fn events(&self, key: &ReleaseKey, from: u64) -> Result<Events, Problem> {
        let path = format!(
            "/v1/rollouts/{}/releases/{}/events?from={from}",
            segment(&key.rollout)?,
            key.number
        );
        let response = self.send(Method::GET, &path, None::<&()>).await?;
        Ok(Events {
            response,
            buffer: Vec::new(),
        })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Problem> {
        let response = self.send(method, path, body).await?;
        let bytes = response.bytes().await.map_err(|error| self.lost(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            unavailable(format!(
                "the daemon at {} answered what this wade does not understand ({error}); are both the same version?",
                self.place
            ))
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<reqwest::Response, Problem> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.lost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.bytes().await.unwrap_or_default();
        Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let kind = if status == StatusCode::NOT_FOUND {
                ProblemKind::NotFound
            } else {
                ProblemKind::Unavailable
            };
            let text: String = String::from_utf8_lossy(&bytes).chars().take(300).collect();
            Problem {
                kind,
                message: format!("the daemon at {} answered {status}: {text}", self.place),
            }
        }))
    }

    fn lost(&self, error: &reqwest::Error) -> Problem {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        unavailable(format!(
            "the daemon at {} cannot be reached: {cause}; is `wade serve` running?",
            self.place
        ))
    }
}

impl Events {
    /// The next notice; `None` when the release is over or the daemon is gone.
    ///
    /// # Errors
    /// When the connection breaks off: the release goes on, following it again is harmless.
    pub async fn next(&mut self) -> Result<Option<Notice>, Problem> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| unavailable(format!("an event that this wade does not understand: {error}")));
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) => return Ok(None),
                Err(error) => return Err(unavailable(format!("the connection to the daemon broke off: {error}"))),
            }
        }
    }
}

fn unavailable(message: String) -> Problem {
    Problem {
        kind: ProblemKind::Unavailable,
        message,
    }
}

/// A name as part of a path: rollout names need no escaping, anything else is no name.
fn segment(name: &str) -> Result<&str, Problem> {
    let fine = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fine {
        Ok(name)
    } else {
        Err(Problem {
            kind: ProblemKind::Invalid,
            message: format!("`{name}` is not a rollout's name; lower-case letters, digits and `-`"),
        })
    }
}
