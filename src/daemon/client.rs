//! The other end of the API: what the command line speaks to whoever carries releases with.
//!
//! [`Door`] is what can be asked; a daemon answers through its socket or HTTP ([`Client::socket`], [`Client::http`]), and
//! a cluster in which nothing is installed through its own objects (see `cluster`). A verb cannot tell them apart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{
    Acknowledged, CommandRequest, Problem, ProblemKind, ReleaseRequest, ReleaseSummary, RolloutView, Started,
};
use crate::controller::Notice;
use crate::store::{ReleaseKey, ReleaseRecord};

/// What can be asked of whoever carries releases.
#[async_trait]
pub trait Door: Send + Sync {
    /// Every service.
    async fn rollouts(&self) -> Result<Vec<RolloutView>, Problem>;
    /// One service.
    async fn rollout(&self, name: &str) -> Result<RolloutView, Problem>;
    /// Asks for a release.
    async fn release(&self, name: &str, request: &ReleaseRequest) -> Result<Started, Problem>;
    /// As [`Self::release`], but only where the release goes on without the caller; refused where it would not.
    async fn release_detached(&self, name: &str, request: &ReleaseRequest) -> Result<Started, Problem> {
        self.release(name, request).await
    }
    /// The plan that such a release would have, as text; nothing is touched.
    async fn preview(&self, name: &str, request: &ReleaseRequest) -> Result<String, Problem>;
    /// Asks something of the release that runs.
    async fn command(&self, name: &str, request: &CommandRequest) -> Result<Acknowledged, Problem>;
    /// The releases that are kept, newest first.
    async fn releases(&self, name: &str) -> Result<Vec<ReleaseSummary>, Problem>;
    /// The whole record of a release.
    async fn record(&self, key: &ReleaseKey) -> Result<ReleaseRecord, Problem>;
    /// Follows a release from entry `from` (1 is the first) to its end.
    async fn events(&self, key: &ReleaseKey, from: u64) -> Result<Box<dyn Notices>, Problem>;

    /// What a command needs besides the rollout's name to come here again, ` -n shop`.
    fn place(&self) -> String {
        String::new()
    }

    /// Whether this process itself carries a release, which ends with it.
    fn is_carrying(&self) -> bool {
        false
    }

    /// Waits until what this process carries has come to its end: what could not be told to others afterwards.
    async fn finished(&self) -> Vec<String> {
        Vec::new()
    }

    /// Finishes or undoes what a dead run left behind, where nobody else does that by itself: the release that is being
    /// settled now.
    async fn settle(&self, name: &str) -> Result<Option<ReleaseKey>, Problem> {
        let _ = name;
        Ok(None)
    }
}

/// Notices of one release as they come.
#[async_trait]
pub trait Notices: Send {
    /// The next one; `None` when the release is over or its carrier is gone.
    async fn next(&mut self) -> Result<Option<Notice>, Problem>;
}

/// A way to ask whoever carries releases; clones share it.
#[derive(Clone)]
pub struct Client {
    door: Arc<dyn Door>,
    /// The release goes on without the caller.
    carried: bool,
}

/// A daemon, reached through its socket or over HTTP.
#[derive(Clone, Debug)]
struct Daemon {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    place: String,
}

struct Lines {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Client {
    /// A client over a door of another kind. `carried` is whether releases go on without the caller.
    pub fn over(door: Arc<dyn Door>, carried: bool) -> Self {
        Self { door, carried }
    }

    /// Whether releases go on without the caller.
    pub fn is_carried(&self) -> bool {
        self.carried
    }

    /// The same client, once a release has been begun through it: whoever else carries it goes on without the caller.
    #[must_use]
    pub fn as_carried_now(&self) -> Self {
        Self {
            carried: self.carried || !self.door.is_carrying(),
            ..self.clone()
        }
    }

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
        let daemon = Daemon {
            http,
            base: "http://wade".to_owned(),
            token: None,
            place: socket.display().to_string(),
        };
        Ok(Self::over(Arc::new(daemon), true))
    }

    /// A client for a daemon that serves HTTP at `url`, `http://127.0.0.1:7711`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn http(url: &str, token: String) -> Result<Self, Problem> {
        let http = crate::signals::http::builder()
            .build()
            .map_err(|error| unavailable(error.to_string()))?;
        let daemon = Daemon {
            http,
            base: url.trim_end_matches('/').to_owned(),
            token: Some(token),
            place: url.to_owned(),
        };
        Ok(Self::over(Arc::new(daemon), true))
    }
}

impl std::ops::Deref for Client {
    type Target = dyn Door;

    fn deref(&self) -> &Self::Target {
        self.door.as_ref()
    }
}

#[async_trait]
impl Door for Daemon {
    async fn rollouts(&self) -> Result<Vec<RolloutView>, Problem> {
        self.call(Method::GET, "/v1/rollouts", None::<&()>).await
    }

    async fn rollout(&self, name: &str) -> Result<RolloutView, Problem> {
        self.call(Method::GET, &format!("/v1/rollouts/{}", segment(name)?), None::<&()>)
            .await
    }

    async fn release(&self, name: &str, request: &ReleaseRequest) -> Result<Started, Problem> {
        self.call(
            Method::POST,
            &format!("/v1/rollouts/{}/releases", segment(name)?),
            Some(request),
        )
        .await
    }

    async fn preview(&self, name: &str, request: &ReleaseRequest) -> Result<String, Problem> {
        let response = self
            .send(
                Method::POST,
                &format!("/v1/rollouts/{}/plan", segment(name)?),
                Some(request),
            )
            .await?;
        response.text().await.map_err(|error| self.lost(&error))
    }

    async fn command(&self, name: &str, request: &CommandRequest) -> Result<Acknowledged, Problem> {
        self.call(
            Method::POST,
            &format!("/v1/rollouts/{}/commands", segment(name)?),
            Some(request),
        )
        .await
    }

    async fn releases(&self, name: &str) -> Result<Vec<ReleaseSummary>, Problem> {
        self.call(
            Method::GET,
            &format!("/v1/rollouts/{}/releases", segment(name)?),
            None::<&()>,
        )
        .await
    }

    async fn record(&self, key: &ReleaseKey) -> Result<ReleaseRecord, Problem> {
        self.call(
            Method::GET,
            &format!("/v1/rollouts/{}/releases/{}", segment(&key.rollout)?, key.number),
            None::<&()>,
        )
        .await
    }

    async fn events(&self, key: &ReleaseKey, from: u64) -> Result<Box<dyn Notices>, Problem> {
        let path = format!(
            "/v1/rollouts/{}/releases/{}/events?from={from}",
            segment(&key.rollout)?,
            key.number
        );
        let response = self.send(Method::GET, &path, None::<&()>).await?;
        Ok(Box::new(Lines {
            response,
            buffer: Vec::new(),
        }))
    }
}

impl Daemon {
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

#[async_trait]
impl Notices for Lines {
    async fn next(&mut self) -> Result<Option<Notice>, Problem> {
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
