//! The record: what was decided, before it is done.
//!
//! A release's record holds everything another process needs to go on with it: plan, state, judge and history. It is
//! written by one holder at a time: every write carries the holder's *epoch*, and a store refuses a lower one than it
//! has seen, so a controller that was believed dead cannot write behind its successor's back.
//!
//! [`sqlite`] is the local platform's store, [`configmap`] that of a step on Kubernetes, `sim` has one with faults; a
//! custom resource follows behind the same trait.

mod codec;
pub mod configmap;
pub mod lease;
pub mod record;
pub mod shared;
pub mod sqlite;

use async_trait::async_trait;

pub use record::{Pipeline, ReleaseKey, ReleaseRecord, Revision, Update};

use crate::engine::Command;

/// What the controller asks of the record.
///
/// # Promises
/// A write happens whole or not at all, and survives the process once it has returned. Writing the same update again
/// changes nothing. Reads see every write that has returned.
#[async_trait]
pub trait Store: Send + Sync {
    /// Writes what was decided.
    async fn record(&self, key: &ReleaseKey, epoch: u64, update: &Update) -> Result<(), StoreError>;

    /// Commands of the release with a number above `handled`, oldest first.
    async fn commands(&self, key: &ReleaseKey, handled: u64) -> Result<Vec<Command>, StoreError>;

    /// The whole record of a release.
    async fn load(&self, key: &ReleaseKey) -> Result<ReleaseRecord, StoreError>;
}

/// Why the record could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another controller holds the release now.
    #[error("another controller holds {key} now (epoch {theirs}, ours {ours}); this one stops")]
    Fenced {
        /// The release.
        key: ReleaseKey,
        /// Our epoch.
        ours: u64,
        /// The epoch that the record carries.
        theirs: u64,
    },
    /// There is no such release.
    #[error("there is no record of {0}")]
    Unknown(ReleaseKey),
    /// The record cannot be reached or written; trying again may help.
    #[error("the record cannot be {what}: {why}")]
    Unavailable {
        /// `read` or `written`.
        what: &'static str,
        /// What came back.
        why: String,
    },
    /// The record can be read but makes no sense.
    #[error("the record of {what} is damaged: {why}")]
    Damaged {
        /// Which part.
        what: String,
        /// What is wrong.
        why: String,
    },
}
