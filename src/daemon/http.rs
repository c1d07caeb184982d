//! The way in: the API of [`api`](super::api) over a unix socket (mode 0600), and over loopback HTTP if opted in.
//!
//! On the socket the kernel says who calls. Over HTTP a caller shows the token of a file that only the daemon's user
//! may read; because browsers send requests to loopback on behalf of any page, `Host` must be a loopback name and
//! `Origin`, if sent, our own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::api::{CommandRequest, Problem, ProblemKind, ReleaseRequest};
use super::metrics::joined;
use super::releases::key;
use super::{Daemon, peer};
use crate::controller::Notice;
use crate::engine::{Actor, apply};
use crate::store::{ReleaseKey, ReleaseRecord, Store};

/// The largest request body.
const MAX_BODY: usize = 256 * 1024;
/// The shortest token that is accepted, in bytes.
const MIN_TOKEN: usize = 16;

/// Serves the API on a unix socket until `stop`.
///
/// # Errors
/// When the socket cannot be made: its folder is missing, or something else than an old socket is at its path.
pub async fn serve_socket(daemon: Arc<Daemon>, path: &Path, stop: CancellationToken) -> Result<(), Problem> {
    let listener = bind_socket(path)?;
    let end = end(&daemon, stop);
    let app = router(daemon).into_make_service_with_connect_info::<Caller>();
    axum::serve(listener, app)
        .with_graceful_shutdown(end)
        .await
        .map_err(Problem::unavailable)
}

/// The moment to stop: then those who wait or follow are let go, or their connections would never end.
fn end(daemon: &Daemon, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
    let stopping = daemon.stopping().clone();
    async move {
        stop.cancelled_owned().await;
        stopping.cancel();
    }
}

/// Serves the API over loopback HTTP until `stop`.
///
/// # Errors
/// When the address is not loopback or in use, or the token file is unfit.
pub async fn serve_http(
    daemon: Arc<Daemon>,
    listen: SocketAddr,
    token_file: &Path,
    stop: CancellationToken,
) -> Result<(), Problem> {
    if !listen.ip().is_loopback() {
        return Err(invalid(format!(
            "http.listen is {listen}; only loopback addresses are allowed, like 127.0.0.1:7711"
        )));
    }
    let token = Arc::new(read_token("http.tokenFile", token_file)?);
    let listener = TcpListener::bind(listen).await.map_err(|error| Problem {
        kind: ProblemKind::Unavailable,
        message: format!("http.listen {listen}: {error}; choose a free address"),
    })?;
    let end = end(&daemon, stop);
    let app = router(daemon)
        .layer(middleware::from_fn_with_state(token, authorise))
        .into_make_service_with_connect_info::<Caller>();
    axum::serve(listener, app)
        .with_graceful_shutdown(end)
        .await
        .map_err(Problem::unavailable)
}

fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/rollouts", get(rollouts))
        .route("/v1/rollouts/{name}", get(rollout))
        .route("/v1/rollouts/{name}/plan", post(plan))
        .route("/v1/rollouts/{name}/releases", get(releases).post(release))
        .route("/v1/rollouts/{name}/releases/{number}", get(record))
        .route("/v1/rollouts/{name}/releases/{number}/events", get(events))
        .route("/v1/rollouts/{name}/commands", post(command))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(daemon)
}

/// Who calls.
#[derive(Clone, Debug)]
struct Caller(Actor);

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(
            stream
                .io()
                .peer_cred()
                .map_or_else(|_| Actor::named("unknown"), |peer| peer::actor(peer.uid(), peer.gid())),
        )
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Caller {
    fn connect_info(_: IncomingStream<'_, TcpListener>) -> Self {
        // Whoever has the token: the daemon's own user, as the file's mode says.
        Self(Actor::named("token"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ProblemKind::Invalid => StatusCode::BAD_REQUEST,
            ProblemKind::NotFound => StatusCode::NOT_FOUND,
            ProblemKind::Conflict => StatusCode::CONFLICT,
            ProblemKind::Forbidden => StatusCode::FORBIDDEN,
            ProblemKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            ProblemKind::Busy => StatusCode::TOO_MANY_REQUESTS,
            ProblemKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self)).into_response()
    }
}

fn invalid(message: String) -> Problem {
    Problem {
        kind: ProblemKind::Invalid,
        message,
    }
}

fn missing(name: &str) -> Problem {
    Problem {
        kind: ProblemKind::NotFound,
        message: format!("there is no rollout {name}; `wade status` lists them"),
    }
}

type App = State<Arc<Daemon>>;

async fn rollouts(State(daemon): App) -> Result<Response, Problem> {
    Ok(Json(daemon.rollout_views()?).into_response())
}

async fn rollout(State(daemon): App, UrlPath(name): UrlPath<String>) -> Result<Response, Problem> {
    let managed = daemon.managed(&name).ok_or_else(|| missing(&name))?;
    Ok(Json(daemon.rollout_view(&managed)?).into_response())
}

async fn plan(
    State(daemon): App,
    UrlPath(name): UrlPath<String>,
    Json(request): Json<ReleaseRequest>,
) -> Result<String, Problem> {
    let set = match request.target {
        super::api::ReleaseTarget::File { set, .. } => set,
        _ => Default::default(),
    };
    daemon.preview(&name, &set)
}

async fn releases(State(daemon): App, UrlPath(name): UrlPath<String>) -> Result<Response, Problem> {
    let list = daemon.summaries(&name)?;
    if list.is_empty() && daemon.managed(&name).is_none() {
        return Err(missing(&name));
    }
    Ok(Json(list).into_response())
}

async fn release(
    State(daemon): App,
    ConnectInfo(Caller(by)): ConnectInfo<Caller>,
    UrlPath(name): UrlPath<String>,
    Json(request): Json<ReleaseRequest>,
) -> Result<Response, Problem> {
    let started = daemon.release(&name, request, by).await?;
    Ok((StatusCode::CREATED, Json(started)).into_response())
}

async fn command(
    State(daemon): App,
    ConnectInfo(Caller(by)): ConnectInfo<Caller>,
    UrlPath(name): UrlPath<String>,
    Json(request): Json<CommandRequest>,
) -> Result<Response, Problem> {
    Ok(Json(daemon.command(&name, request, by).await?).into_response())
}

async fn record(State(daemon): App, UrlPath((name, number)): UrlPath<(String, u64)>) -> Result<Response, Problem> {
    Ok(Json(load(&daemon, &key(&name, number)).await?).into_response())
}

async fn load(daemon: &Daemon, key: &ReleaseKey) -> Result<ReleaseRecord, Problem> {
    daemon.store().load(key).await.map_err(|error| match error {
        crate::store::StoreError::Unknown(key) => Problem {
            kind: ProblemKind::NotFound,
            message: format!(
                "there is no record of {key}; `wade history {}` lists what is kept",
                key.rollout
            ),
        },
        other => Problem::unavailable(other),
    })
}

#[derive(Debug, Deserialize)]
struct From {
    #[serde(default)]
    from: u64,
}

/// One notice a line: what is recorded from entry `from` on, then what happens, until the release is over.
async fn events(
    State(daemon): App,
    UrlPath((name, number)): UrlPath<(String, u64)>,
    Query(From { from }): Query<From>,
) -> Result<Response, Problem> {
    let follower = Follower {
        live: daemon.follow(),
        key: key(&name, number),
        next: from.max(1),
        lines: VecDeque::new(),
        over: false,
        daemon,
    };
    let mut follower = follower;
    follower.catch_up().await?;
    let stream = futures_util::stream::unfold(follower, |mut follower| async move {
        let line = follower.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), follower))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        axum::body::Body::from_stream(stream),
    )
        .into_response())
}

struct Follower {
    daemon: Arc<Daemon>,
    live: broadcast::Receiver<Notice>,
    key: ReleaseKey,
    next: u64,
    lines: VecDeque<String>,
    over: bool,
}

impl Follower {
    /// Reads what is recorded and not told yet.
    async fn catch_up(&mut self) -> Result<(), Problem> {
        let record = load(&self.daemon, &self.key).await?;
        let mut state = crate::engine::State::new(record.created);
        for entry in record.history {
            state = apply(&record.plan, &state, &entry.event, entry.at).map_err(Problem::unavailable)?;
            if entry.number >= self.next {
                self.next = entry.number + 1;
                self.tell(&Notice::Entry {
                    key: self.key.clone(),
                    entry,
                    phase: state.phase.clone(),
                });
            }
        }
        self.over |= record.state.outcome().is_some();
        Ok(())
    }

    fn tell(&mut self, notice: &Notice) {
        let json = serde_json::to_string(notice).expect("notices are plain values");
        self.lines.push_back(json + "\n");
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            let news = tokio::select! {
                news = self.live.recv() => news,
                () = self.daemon.stopping().cancelled() => return None,
            };
            match news {
                Ok(Notice::Entry { key, entry, phase }) if key == self.key => {
                    if entry.number > self.next {
                        self.catch_up().await.ok()?;
                    } else if entry.number == self.next {
                        self.next += 1;
                        self.over = matches!(phase, crate::engine::Phase::Done(_));
                        self.tell(&Notice::Entry { key, entry, phase });
                    }
                }
                Ok(notice @ (Notice::Look { .. } | Notice::Trouble { .. })) if *of(&notice) == self.key => {
                    self.tell(&notice);
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up().await.ok()?,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

fn of(notice: &Notice) -> &ReleaseKey {
    match notice {
        Notice::Entry { key, .. } | Notice::Look { key, .. } | Notice::Trouble { key, .. } => key,
    }
}

async fn metrics(State(daemon): App) -> Response {
    let pages: Vec<String> = daemon
        .all_managed()
        .iter()
        .map(|managed| managed.service.metrics())
        .chain([daemon.traces().telemetry().page(), daemon.telemetry().render_text()])
        .collect();
    let text = joined(&pages);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Lets a request through that comes from this machine, from no foreign page, and with the token.
async fn authorise(State(token): State<Arc<String>>, request: Request, next: Next) -> Response {
    match allowed(request.headers(), &token) {
        Ok(()) => next.run(request).await,
        Err((status, why)) => {
            let kind = ProblemKind::Forbidden;
            (
                status,
                Json(Problem {
                    kind,
                    message: why.to_owned(),
                }),
            )
                .into_response()
        }
    }
}

fn allowed(headers: &HeaderMap, token: &str) -> Result<(), (StatusCode, &'static str)> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let loopback = |host: &str| {
        let name = host
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or(host, |(name, _)| name);
        matches!(name, "127.0.0.1" | "localhost" | "[::1]")
    };
    if !text(header::HOST).is_some_and(loopback) {
        return Err((
            StatusCode::FORBIDDEN,
            "the Host header must name this machine's loopback address",
        ));
    }
    let own_origin = |origin: &str| {
        origin
            .strip_prefix("http://")
            .is_some_and(|rest| Some(rest) == text(header::HOST))
    };
    if headers.contains_key(header::ORIGIN) && !text(header::ORIGIN).is_some_and(own_origin) {
        return Err((
            StatusCode::FORBIDDEN,
            "requests on behalf of other pages are refused (Origin)",
        ));
    }
    let shown = text(header::AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    // Equal digests in place of equal strings: the time taken says nothing about where they differ.
    if Sha256::digest(shown.trim()) != Sha256::digest(token) {
        return Err((
            StatusCode::UNAUTHORIZED,
            "send the token of http.tokenFile as `Authorization: Bearer …`",
        ));
    }
    Ok(())
}

/// The token in a file that only its owner may read; `field` is where the file is named.
pub(super) fn read_token(field: &str, path: &Path) -> Result<String, Problem> {
    let failed = |what: String| invalid(format!("{field} {}: {what}", path.display()));
    let metadata = std::fs::metadata(path)
        .map_err(|error| failed(format!("{error}; write a long random token there, mode 0600")))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(failed("others than its owner may read it; chmod 600 it".to_owned()));
    }
    let token = std::fs::read_to_string(path)
        .map_err(|error| failed(error.to_string()))?
        .trim()
        .to_owned();
    if token.len() < MIN_TOKEN {
        return Err(failed(format!(
            "the token has {} bytes; write at least {MIN_TOKEN}",
            token.len()
        )));
    }
    Ok(token)
}

/// A listening socket that only this user may use. An old socket that nobody listens on is replaced.
fn bind_socket(path: &Path) -> Result<UnixListener, Problem> {
    use std::os::unix::fs::FileTypeExt;
    let failed = |what: String| Problem {
        kind: ProblemKind::Unavailable,
        message: format!("the socket {}: {what}", path.display()),
    };
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(failed(
                "something else is at this path; choose another `socket`".to_owned(),
            ));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(failed("another daemon listens there".to_owned()));
        }
        std::fs::remove_file(path).map_err(|error| failed(error.to_string()))?;
    }
    // Bound under a private name and moved into place once its mode is set: nobody can connect in between.
    let private = private_name(path);
    let _ = std::fs::remove_file(&private);
    let listener = UnixListener::bind(&private)
        .map_err(|error| failed(format!("{error}; paths longer than 107 bytes do not fit")))?;
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| failed(error.to_string()))?;
    std::fs::rename(&private, path).map_err(|error| failed(error.to_string()))?;
    Ok(listener)
}

fn private_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}
