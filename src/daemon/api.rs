//! What the daemon and its callers say to each other: plain values, the same on the unix socket, over HTTP and in
//! `--output json`.
//!
//! ```text
//! GET  /v1/rollouts                              [RolloutView]
//! GET  /v1/rollouts/{name}                       RolloutView
//! POST /v1/rollouts/{name}/releases   ReleaseRequest → Started
//! POST /v1/rollouts/{name}/commands   CommandRequest → Acknowledged
//! GET  /v1/rollouts/{name}/releases              [ReleaseSummary], newest first
//! GET  /v1/rollouts/{name}/releases/{number}     ReleaseRecord (whole, with history and evidence)
//! GET  /v1/rollouts/{name}/releases/{number}/events?from=N   one Notice a line, ends with the release
//! GET  /metrics                                  Prometheus text
//! ```
//! Faults come as [`Problem`] with a 4xx or 5xx status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::CommandKind;
use crate::plan::Split;
use crate::store::{Pipeline, ReleaseKey};

/// A request for a release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseRequest {
    /// What is to be released.
    #[serde(default)]
    pub target: ReleaseTarget,
    /// Why, for the audit.
    #[serde(default)]
    pub reason: Option<String>,
    /// No windows, gates or comparison; needs a reason. Smoke tests run all the same.
    #[serde(default)]
    pub emergency: bool,
    /// A stage that ends without proof asks a person instead of going on.
    #[serde(default)]
    pub require_proof: bool,
    /// What `DEPLOY_WINDOW` says where the request comes from.
    #[serde(default)]
    pub deploy_window: Option<bool>,
    /// Where the request comes from.
    #[serde(default)]
    pub pipeline: Pipeline,
}

/// What is to be released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ReleaseTarget {
    /// What the rollout's file says, with these variables set.
    File {
        /// Variables by name; `version` among them.
        set: BTreeMap<String, String>,
        /// The path the caller named; it must be the file that the daemon has for this rollout.
        path: Option<String>,
    },
    /// The revision that release `number` promoted; the one before the present one if no number is given.
    Rollback {
        /// Release number.
        number: Option<u64>,
    },
    /// The revision that the last release tried and failed with.
    Retry,
}

impl Default for ReleaseTarget {
    fn default() -> Self {
        Self::File {
            set: BTreeMap::new(),
            path: None,
        }
    }
}

/// The answer to a request for a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// The release, or `None` if the revision serves already.
    pub release: Option<ReleaseKey>,
    /// What was found and chosen, line by line, for a person.
    pub found: Vec<String>,
    /// The plan as text.
    pub plan: String,
    /// The revision that serves now, as people call it.
    pub stable: Option<String>,
    /// The revision that is released, as people call it.
    pub canary: String,
}

/// A request to a running release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandRequest {
    /// What is asked.
    pub kind: CommandKind,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The answer to a command: it has been recorded, and what came of it if that was known at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledged {
    /// Which release it went to.
    pub release: ReleaseKey,
    /// Number of the command.
    pub command: u64,
    /// Whether it was followed; `None` if that was not known within a few seconds.
    pub followed: Option<bool>,
    /// What came of it, in one sentence.
    pub message: String,
}

/// One service as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutView {
    /// The rollout's name.
    pub name: String,
    /// Where users' requests come in.
    pub listen: Option<String>,
    /// The split in force.
    pub split: Split,
    /// The revision that serves.
    pub stable: Option<RevisionView>,
    /// The revision that is being released.
    pub canary: Option<RevisionView>,
    /// The release that runs, or the last one.
    pub release: Option<ReleaseSummary>,
    /// Revisions that failed and are not tried again by themselves, with the reason.
    pub quarantined: BTreeMap<String, String>,
}

/// One revision as it runs now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionView {
    /// The hash of what defines it.
    pub id: String,
    /// What people call it.
    pub version: String,
    /// Instances that are ready, and that should be.
    pub ready: u32,
    /// See `ready`.
    pub wanted: u32,
    /// Users' requests that it has answered since the daemon began.
    pub requests: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Its instances.
    pub instances: Vec<InstanceView>,
}

/// One instance as it runs now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceView {
    /// Its number.
    pub slot: u32,
    /// Its process.
    pub pid: Option<u32>,
    /// Where it listens on 127.0.0.1.
    pub port: Option<u16>,
    /// `starting`, `ready`, `unready`, `backoff`, `stopping`.
    pub state: String,
    /// Launches after the first.
    pub restarts: u32,
    /// What is wrong, if something is.
    pub diagnosis: Option<String>,
}

/// One release in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseSummary {
    /// Which release.
    pub key: ReleaseKey,
    /// The new revision's version and hash.
    pub version: String,
    /// See `version`.
    pub revision: String,
    /// The old revision's version.
    pub from: Option<String>,
    /// `waiting`, `starting`, …, `done`.
    pub phase: String,
    /// The canary's weight now.
    pub split: Split,
    /// What it waits for, or how it ended, in one sentence.
    pub summary: String,
    /// The outcome's label, once it is over.
    pub outcome: Option<String>,
    /// Whether a promotion was proven.
    pub proven: Option<bool>,
    /// It does not come to an end by itself.
    pub stuck: bool,
    /// Who asked for it.
    pub by: String,
    /// When.
    #[schemars(with = "String")]
    pub created: Timestamp,
    /// When it ended.
    #[schemars(with = "Option<String>")]
    pub ended: Option<Timestamp>,
}

/// Why a request was not followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A stable short name: `invalid`, `notFound`, `conflict`, `forbidden`, `unauthenticated`, `busy`, `unavailable`.
    pub kind: ProblemKind,
    /// One sentence, or several lines of faults.
    pub message: String,
}

/// The kinds of problems; each has one HTTP status and one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProblemKind {
    /// The request or the rollout is not valid: 400, exit 2.
    Invalid,
    /// There is no such rollout or release: 404, exit 2.
    NotFound,
    /// Another release runs, or the like: 409, exit 5.
    Conflict,
    /// The caller may not do that: 403, exit 7.
    Forbidden,
    /// Nobody knows who asks: 401, exit 7.
    Unauthenticated,
    /// Too much is asked at once: 429, exit 7; later it may go well.
    Busy,
    /// The daemon cannot do it just now: 503, exit 7.
    Unavailable,
}

impl Problem {
    /// A problem of this kind, in words.
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// A command about a release that is not there.
    pub fn not_running(rollout: &str, command: CommandKind) -> Self {
        let message = format!("no release of {rollout} is running, so there is nothing to {command}");
        Self::new(ProblemKind::Conflict, message)
    }

    /// What could not be done now: something that was needed failed.
    pub fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::new(ProblemKind::Unavailable, error.to_string())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}
