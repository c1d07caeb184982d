//! What stores have in common beyond the trait: what is asked of them, what they keep between releases, and how much.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Pipeline, ReleaseKey, Revision, StoreError};
use crate::engine::{Actor, CommandKind, Outcome};
use crate::plan::Plan;

/// Commands of one release that may wait for an answer; a script gone wild is told so.
pub const MAX_PENDING_COMMANDS: u64 = 64;
/// So many more if they are aborts: an abort must get in when others have filled the queue.
pub const MAX_PENDING_ABORTS: u64 = 64;

/// Finished releases that a rollout keeps unless told otherwise.
pub const DEFAULT_KEPT_RELEASES: u32 = 10;
/// Quarantined revisions that a rollout remembers, the newest ones: a pipeline that fails all day for a year must not
/// fill the disk.
pub const MAX_QUARANTINED: u32 = 200;

/// What is asked for. Which revision is stable is not asked: the store knows.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRelease {
    /// The rollout's name.
    pub rollout: String,
    /// The revision to release.
    pub canary: Revision,
    /// The way, as planned now.
    pub plan: Plan,
    /// Who asks.
    pub by: Actor,
    /// Why, if they said.
    pub reason: Option<String>,
    /// Where it is asked.
    pub pipeline: Pipeline,
    /// What `DEPLOY_WINDOW` says there.
    pub deploy_window: Option<bool>,
}

/// Why a release was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// One release at a time.
    #[error("{key} is not over ({phase}): wait for it, or end it with `wade abort {}`", key.rollout)]
    Running {
        /// The release that is in the way.
        key: ReleaseKey,
        /// Its phase's label.
        phase: String,
    },
    /// It could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a command was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nobody drives the release any more.
    #[error("{key} is over ({}): there is nothing to {kind}; `wade status {}` shows what is", outcome.label(), key.rollout)]
    Over {
        /// The release.
        key: ReleaseKey,
        /// What was asked.
        kind: CommandKind,
        /// How it ended.
        outcome: Outcome,
    },
    /// Too many wait.
    #[error(
        "{key} has {waiting} commands that wait for an answer; {kind} was not added, try again when they are answered"
    )]
    TooMany {
        /// The release.
        key: ReleaseKey,
        /// What was asked.
        kind: CommandKind,
        /// How many wait.
        waiting: u64,
    },
    /// It could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A rollout between its releases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutState {
    /// Its name.
    pub name: String,
    /// The revision that serves; `None` before the first one does.
    pub stable: Option<Revision>,
    /// Revisions that must not be tried again by themselves, newest first.
    pub quarantined: Vec<Quarantine>,
    /// How many finished releases are kept.
    pub kept: u32,
    /// When this last changed.
    pub updated: Timestamp,
}

/// A revision that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    /// The revision.
    pub revision: String,
    /// Number of the release in which it failed.
    pub release: u64,
    /// Why, in the words of that release.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

/// A revision that a rollback can go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedRevision {
    /// The revision, with all that is needed to start it again.
    pub revision: Revision,
    /// When it became stable for the first time.
    pub first_served: Timestamp,
    /// When it became stable for the last time.
    pub last_served: Timestamp,
}
