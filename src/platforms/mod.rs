//! What carries revisions: one adapter per platform, behind one trait.
//!
//! The engine decides, adapters act. An adapter is told what should hold ([`Action`]), compares it with what is, and
//! writes only the difference; it observes ([`World`]) and never decides. It is told the holder's epoch with every
//! write and refuses a lower one than it has seen.

pub mod hooking;
pub mod kubernetes;
pub mod local;
pub mod smoking;

use async_trait::async_trait;

use crate::engine::{Action, World};

/// One release's view of its platform.
///
/// # Promises
/// `apply` makes one desired state true or starts to; applying it again is harmless and writes nothing if it holds
/// already. It does not wait for the effect: `observe` tells. Both bound their own time (a few seconds), so that an
/// abort never waits for a platform that hangs.
#[async_trait]
pub trait Platform: Send {
    /// What is.
    async fn observe(&mut self) -> Result<World, PlatformError>;

    /// Makes `action` hold, or starts to.
    async fn apply(&mut self, action: &Action, epoch: u64) -> Result<(), PlatformError>;
}

/// Why a platform could not be observed or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// It cannot be reached just now; trying again may help.
    #[error("{0}")]
    Unreachable(String),
    /// It answered that this may not be done.
    #[error("{0}")]
    Refused(String),
    /// Another controller with a higher epoch has written since.
    #[error("another controller has taken over (epoch {theirs}, ours {ours}); this one stops")]
    Fenced {
        /// Our epoch.
        ours: u64,
        /// The highest epoch seen.
        theirs: u64,
    },
}
