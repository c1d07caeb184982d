//! The HTTP API, `/api/v1`: rollouts and releases, watched and steered by programs, safe to expose.
//!
//! **The idea.** One list of routes ([`routes`]) is what requests are matched with, what decides which right a request
//! takes, and what the OpenAPI document and `docs/api.md` are checked against. A request goes through the same doors in
//! the same order, whatever it asks for: who calls ([`Gatekeeper::authenticate`]), not too often ([`limits`]), may they
//! ([`Gatekeeper::allow`]), is what they sent well formed ([`request`]); only then is a [`Door`] asked, in their name.
//! What the routes answer is in [`answers`]; streams are told from one reading of the record, however many listen
//! ([`feed`] for one release, [`fleet`] for all rollouts).
//!
//! **What is promised.** Whatever cannot be decided is refused: an API server that does not answer means 503, never yes.
//! Everything that a caller decides is bounded: sizes, times, rates, connections, streams ([`Settings`]). A release or a
//! command that was begun is finished, also when its caller hangs up. Each is one line of the log with the target
//! `wade::audit`, and is recorded with who and from where.
//!
//! **What it deliberately does not do.** It reads no file and runs no command on behalf of a caller; it does not act as
//! the caller towards the API server (no impersonation: a right is asked for, then Wade acts with its own); it knows no
//! sessions and no cookies. Records leave without what may be secret ([`answers`]).
//!
//! Next: [`gate`] (TokenReview and SubjectAccessReview), [`serve`] (connections and TLS), [`openapi`].

pub mod answers;
mod cache;
mod feed;
mod fleet;
pub mod gate;
mod handle;
pub mod limits;
pub mod openapi;
mod request;
pub mod routes;
pub mod serve;
mod stream;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::http::HeaderMap;
use serde_json::Value;

pub use crate::daemon::otlp::TlsFiles;
pub use handle::router;
pub use limits::Settings;
pub use request::Peer;
pub use serve::{Transport, serve};

use crate::daemon::api::{Problem, RolloutView};
use crate::daemon::client::Door;
use crate::engine::Actor;

/// Where rollouts are asked for, on behalf of somebody who has been authenticated and allowed.
#[async_trait]
pub trait Doors: Send + Sync {
    /// The door to one namespace; what is asked through it is recorded as asked by `by`.
    fn at(&self, namespace: &str, by: &Actor) -> Arc<dyn Door>;

    /// Every rollout of every namespace, with its namespace. It is called once a second while somebody follows the fleet,
    /// so it should be read from memory.
    ///
    /// # Errors
    /// It is not known now.
    async fn rollouts(&self) -> Result<Vec<(String, RolloutView)>, Problem>;
}

/// Somebody whose name is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Caller {
    /// Who, and from where; what the record says.
    pub actor: Actor,
    /// What else was said of them and has to be passed on when their rights are asked for (a token's scopes, say).
    pub extra: Arc<Value>,
}

/// A right that something takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right<'a> {
    /// `get`, `list`, `create`; or a word of Wade's own, `abort`.
    pub verb: &'a str,
    /// The plural with its group, `releases.wade.dev`.
    pub resource: &'a str,
    /// The namespace; empty for all of them.
    pub namespace: &'a str,
    /// The rollout's name, for its releases too, so that `resourceNames` can limit a rule to some rollouts.
    pub name: Option<&'a str>,
}

/// Who calls, and may they.
#[async_trait]
pub trait Gatekeeper: Send + Sync {
    /// Who calls.
    ///
    /// # Errors
    /// [`ProblemKind::Unauthenticated`] if they do not prove it, [`ProblemKind::Busy`] after too many failures,
    /// [`ProblemKind::Unavailable`] if it cannot be told now.
    async fn authenticate(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<Caller, Problem>;

    /// Whether they may.
    ///
    /// # Errors
    /// [`ProblemKind::Forbidden`] if they may not, [`ProblemKind::Unavailable`] if it cannot be told now.
    async fn allow(&self, by: &Caller, right: Right<'_>) -> Result<(), Problem>;
}
