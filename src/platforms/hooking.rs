//! The author's own jobs beside a platform: begun when the engine asks for them, reported when they have ended.
//!
//! A platform knows nothing of hooks; this stands around one and hands everything on. What runs a hook is a
//! [`HookRunner`] (a Job in a cluster, a command on this machine). It decides nothing about what a failure means.

use async_trait::async_trait;

use super::{Platform, PlatformError};
use crate::engine::{Action, HookReport, World};
use crate::spec::HookPoint;

/// What runs hooks.
///
/// # Promises
/// Each hook of a point runs after the one before it has ended well, and once: asking again while it runs, or after it
/// has ended, begins nothing, also by another holder where the platform keeps what was begun.
#[async_trait]
pub trait HookRunner: Send {
    /// Begins the hooks at this point or goes on with them; the report once they have ended.
    async fn run(&mut self, at: HookPoint) -> Result<Option<HookReport>, PlatformError>;
}

/// A platform with hooks beside it.
pub struct Hooking<P> {
    platform: P,
    runner: Box<dyn HookRunner>,
    report: Option<HookReport>,
}

impl<P: Platform> Hooking<P> {
    /// `platform`, with what runs the hooks of its release.
    pub fn new(platform: P, runner: Box<dyn HookRunner>) -> Self {
        Self {
            platform,
            runner,
            report: None,
        }
    }
}

#[async_trait]
impl<P: Platform> Platform for Hooking<P> {
    async fn observe(&mut self) -> Result<World, PlatformError> {
        let mut world = self.platform.observe().await?;
        world.hooks.clone_from(&self.report);
        Ok(world)
    }

    async fn apply(&mut self, action: &Action, epoch: u64) -> Result<(), PlatformError> {
        // First: a holder that has been overtaken begins nothing.
        self.platform.apply(action, epoch).await?;
        if let Action::Hooks(at) = action
            && self.report.as_ref().is_none_or(|report| report.at != *at)
        {
            self.report = self.runner.run(*at).await?;
        }
        Ok(())
    }
}
