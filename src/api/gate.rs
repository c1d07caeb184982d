//! Who calls, and may they, as the cluster says: TokenReview and SubjectAccessReview.
//!
//! A caller shows a token of the cluster's (of a ServiceAccount, of a person); the API server says whose it is, and then
//! whether they may. So there is no second list of people and rights: what may be done through Wade is a Role like any
//! other ([`VERBS`](super::routes::VERBS) are its words). Wade never acts as the caller; it asks, and acts with its own
//! rights.
//!
//! Answers are kept for a few seconds, yes and no alike, so that a right which is taken away is gone within them. Only
//! what the server said is kept: no answer is no answer, and refused as unavailable. Names, groups and all else that the
//! review says are passed on when rights are asked for, because a token may carry limits that only its issuer knows.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{HeaderMap, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::cache::Cache;
use super::limits::Buckets;
use super::{Caller, Gatekeeper, Right};
use crate::apiserver::ApiServer;
use crate::apiserver::value::{list, text};
use crate::clock::stopwatch;
use crate::daemon::api::{Problem, ProblemKind};
use crate::engine::Actor;

/// Where the server is asked whose a token is.
const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Where it is asked what somebody may do.
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// How long an answer counts.
pub const KEEP: Duration = Duration::from_secs(10);
/// Tokens that are remembered.
const MOST_TOKENS: usize = 1024;
/// Answers about rights that are remembered.
const MOST_ANSWERS: usize = 16 * 1024;
/// The longest token.
const MOST_TOKEN: usize = 8 * 1024;
/// What is known of somebody is remembered up to this size, as JSON.
const MOST_IDENTITY: usize = 16 * 1024;
/// Questions that the server is asked at once.
const AT_ONCE: usize = 16;
/// For a turn to ask.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// Tokens that one address may show in vain: so many a second over a longer time, and so many at once.
const FAILURES: (f64, f64) = (1.0, 20.0);
/// Addresses that are remembered for it.
const MOST_ADDRESSES: usize = 4096;

type Hash = [u8; 32];

/// The cluster as a gatekeeper.
pub struct ClusterGate {
    api: ApiServer,
    audience: Option<String>,
    tokens: Mutex<Cache<Hash, Option<Caller>>>,
    answers: Mutex<Cache<Hash, Result<(), String>>>,
    failures: Mutex<Buckets>,
    turns: Semaphore,
}

impl ClusterGate {
    /// Asks `api`. With an `audience`, only tokens that were issued for it are accepted: then a token that somebody shows
    /// elsewhere in the cluster cannot be used here by whoever sees it there.
    pub fn new(api: ApiServer, audience: Option<String>) -> Self {
        Self {
            api,
            audience,
            tokens: Mutex::new(Cache::new(MOST_TOKENS, KEEP)),
            answers: Mutex::new(Cache::new(MOST_ANSWERS, KEEP)),
            failures: Mutex::new(Buckets::new(FAILURES.0, FAILURES.1, MOST_ADDRESSES)),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Asks the server; whatever goes wrong means that it cannot be told.
    async fn ask(&self, path: &str, question: &Value) -> Result<Value, Problem> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.turns.acquire()).await;
        let _turn = turn
            .map_err(|_| unknown("too many callers are being asked about; try again"))?
            .expect("it is never closed");
        self.api.review(path, question).await.map_err(|error| {
            tracing::warn!(%error, "a caller of the API cannot be checked");
            unknown("the API server cannot say now whether you may; try again")
        })
    }

    async fn whose(&self, token: &str) -> Result<(Option<Caller>, bool), Problem> {
        let mut spec = json!({"token": token});
        if let Some(audience) = &self.audience {
            spec["audiences"] = json!([audience]);
        }
        let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
        let answer = self.ask(TOKENS, &question).await?;
        let status = &answer["status"];
        if !status.is_object() {
            return Err(unknown("the API server's answer about the token is not understood"));
        }
        let user = text(&answer, "/status/user/username");
        // A server that knows nothing of audiences says nothing of them; then the token is not known to be meant for us.
        let meant = self
            .audience
            .as_deref()
            .is_none_or(|audience| list(&answer, "/status/audiences").iter().any(|named| named == audience));
        if status["authenticated"] != true || user.is_empty() || !meant {
            // "Invalid bearer token" is an answer; other errors may be an authenticator that is away.
            let error = text(&answer, "/status/error");
            return Ok((None, error.is_empty() || error.contains("invalid bearer token")));
        }
        let groups = list(&answer, "/status/user/groups");
        let caller = Caller {
            actor: Actor {
                user: user.to_owned(),
                groups: groups
                    .iter()
                    .filter_map(|group| group.as_str().map(str::to_owned))
                    .collect(),
                from: None,
            },
            extra: Arc::new(json!({"uid": status["user"]["uid"], "extra": status["user"]["extra"]})),
        };
        let short = status["user"].to_string().len() <= MOST_IDENTITY;
        Ok((Some(caller), short))
    }

    async fn may(&self, by: &Caller, right: Right<'_>) -> Result<(Result<(), String>, bool), Problem> {
        let (resource, group) = right.resource.split_once('.').unwrap_or((right.resource, ""));
        let mut attributes = json!({"verb": right.verb, "group": group, "resource": resource});
        if !right.namespace.is_empty() {
            attributes["namespace"] = json!(right.namespace);
        }
        if let Some(name) = right.name {
            attributes["name"] = json!(name);
        }
        let mut spec = json!({
            "user": by.actor.user, "groups": by.actor.groups, "resourceAttributes": attributes,
        });
        for field in ["uid", "extra"] {
            if !by.extra[field].is_null() {
                spec[field] = by.extra[field].clone();
            }
        }
        let question = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let answer = self.ask(ACCESS, &question).await?;
        let status = &answer["status"];
        if !status.is_object() {
            return Err(unknown("the API server's answer about your rights is not understood"));
        }
        if status["allowed"] == true && status["denied"] != true {
            return Ok((Ok(()), true));
        }
        let whole = text(&answer, "/status/evaluationError").is_empty();
        Ok((Err(lacking(by, right)), whole))
    }
}

#[async_trait]
impl Gatekeeper for ClusterGate {
    async fn authenticate(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<Caller, Problem> {
        let token = bearer(headers)?;
        let key = hash(&[token.as_bytes()]);
        let now = stopwatch();
        let address = peer.ip().to_canonical().to_string();
        let known = locked(&self.tokens).get(&key, now);
        let known = match known {
            Some(known) => known,
            None => {
                // Who tries tokens must not keep the API server busy.
                if !locked(&self.failures).has(&address, now) {
                    return Err(Problem::new(
                        ProblemKind::Busy,
                        "too many tokens from this address were not accepted; wait a minute",
                    ));
                }
                let (caller, keep) = self.whose(token).await?;
                if keep {
                    locked(&self.tokens).put(key, caller.clone(), now);
                }
                caller
            }
        };
        known.ok_or_else(|| {
            let _ = locked(&self.failures).take(&address, now);
            let audience = self.audience.as_ref().map_or_else(String::new, |audience| {
                format!(" for the audience `{audience}` (kubectl create token … --audience {audience})")
            });
            Problem::new(
                ProblemKind::Unauthenticated,
                format!("the token is not accepted; send one of this cluster that is valid now{audience}"),
            )
        })
    }

    async fn allow(&self, by: &Caller, right: Right<'_>) -> Result<(), Problem> {
        let groups = by.actor.groups.join("\u{0}");
        let extra = by.extra.to_string();
        let words = [
            by.actor.user.as_str(),
            &groups,
            &extra,
            right.verb,
            right.resource,
            right.namespace,
            right.name.unwrap_or_default(),
        ];
        let key = hash(&words.map(str::as_bytes));
        let now = stopwatch();
        let known = locked(&self.answers).get(&key, now);
        let answer = match known {
            Some(known) => known,
            None => {
                let (answer, keep) = self.may(by, right).await?;
                if keep {
                    locked(&self.answers).put(key, answer.clone(), now);
                }
                answer
            }
        };
        answer.map_err(|why| Problem::new(ProblemKind::Forbidden, why))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown(message: &str) -> Problem {
    Problem::new(ProblemKind::Unavailable, message)
}

/// What is missing, in the words in which somebody can give it.
fn lacking(by: &Caller, right: Right<'_>) -> String {
    let place = match right.namespace {
        "" => "in all namespaces".to_owned(),
        namespace => format!("in namespace {namespace}"),
    };
    format!(
        "{} may not {} {} {place} (missing permission: {} {}; docs/api.md has a Role for it)",
        by.actor.user, right.verb, right.resource, right.verb, right.resource
    )
}

/// The one token of a request.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let refused = |why: &str| Problem::new(ProblemKind::Unauthenticated, why);
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (shown.next(), shown.next());
    let Some(value) = first else {
        return Err(refused(
            "send a token of this cluster as `Authorization: Bearer …` (kubectl create token …)",
        ));
    };
    if second.is_some() {
        return Err(refused("send one Authorization header, not several"));
    }
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match token {
        Some(token) if !token.is_empty() && token.len() <= MOST_TOKEN => Ok(token),
        Some(token) if !token.is_empty() => Err(refused("the token is longer than a token is")),
        _ => Err(refused("the Authorization header is not `Bearer` and a token")),
    }
}

/// One digest of several words, of which none can pass for two.
fn hash(words: &[&[u8]]) -> Hash {
    let mut digest = Sha256::new();
    for word in words {
        digest.update((word.len() as u64).to_be_bytes());
        digest.update(word);
    }
    digest.finalize().into()
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod gate_tests;
