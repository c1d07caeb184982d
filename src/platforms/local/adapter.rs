//! The local platform as one release's controller drives it.

use std::sync::Arc;

use async_trait::async_trait;

use super::service::{Running, Service};
use crate::engine::desired::instances;
use crate::engine::{Action, RouteFact, World};
use crate::plan::{ALL_STABLE, SmokePlan};
use crate::platforms::smoking::SmokeRuns;
use crate::platforms::{Platform, PlatformError};
use crate::smoke::SmokeTarget;

/// One release on a local service.
///
/// The service may run on after the release, and a release may find it as a dead daemon left it: everything this
/// adapter knows besides the service is given to it, from the record.
pub struct LocalPlatform {
    service: Arc<Service>,
    canary: Running,
    stable: Option<Running>,
    smoke_plan: SmokePlan,
    client: reqwest::Client,
    smoke: SmokeRuns,
}

impl LocalPlatform {
    /// A release of `canary` over `stable` on `service`.
    pub fn new(
        service: Arc<Service>,
        canary: Running,
        stable: Option<Running>,
        smoke_plan: SmokePlan,
        client: reqwest::Client,
    ) -> Self {
        Self {
            service,
            canary,
            stable,
            smoke_plan,
            client,
            smoke: SmokeRuns::default(),
        }
    }

    fn adopted(&self) -> bool {
        self.service
            .sides()
            .stable
            .is_some_and(|stable| stable.id == self.canary.id)
    }

    fn start_smoke(&self) {
        let targets: Vec<SmokeTarget> = self
            .service
            .ready_instances(&self.canary.id)
            .into_iter()
            .map(|(name, address)| SmokeTarget {
                name,
                address,
                prefix: String::new(),
            })
            .collect();
        let wanted = self.service.sides().canary.map_or(1, |canary| canary.wanted);
        self.smoke
            .begin(&self.smoke_plan, targets, wanted, &self.client, &self.service.wake);
    }
}

#[async_trait]
impl Platform for LocalPlatform {
    async fn observe(&mut self) -> Result<World, PlatformError> {
        let sides = self.service.sides();
        let adopted = self.adopted();
        let canary_wanted = [&sides.canary, &sides.stable]
            .into_iter()
            .flatten()
            .find(|running| running.id == self.canary.id)
            .map_or(0, |running| running.wanted);
        let canary = self.service.presence(&self.canary.id, self.canary.full, canary_wanted);
        let stable = self
            .stable
            .as_ref()
            .map(|stable| self.service.presence(&stable.id, stable.full, stable.wanted))
            .unwrap_or_default();
        let split = self.service.split();
        // After the hand over the new revision is the service's stable, and "everything to stable" means it.
        let split = if adopted && split == ALL_STABLE {
            crate::plan::Split::weight(crate::spec::Weight::FULL)
        } else {
            split
        };
        let restored = if adopted {
            stable.exists == 0
        } else {
            canary.exists == 0 && split == ALL_STABLE
        };
        Ok(World {
            canary,
            stable,
            route: RouteFact {
                split: Some(split),
                conflict: None,
            },
            adopted,
            smoke: self.smoke.report(),
            hooks: None,
            restored,
            interference: None,
        })
    }

    async fn apply(&mut self, action: &Action, epoch: u64) -> Result<(), PlatformError> {
        self.service.admit(epoch)?;
        match action {
            // Processes do not roll by themselves.
            Action::Hold | Action::Restore => Ok(()),
            // They run beside the platform; see `hooking`.
            Action::Hooks(_) => Ok(()),
            Action::Canary { capacity } => {
                let wanted = instances(*capacity, self.canary.full);
                let running = Running {
                    wanted,
                    ..self.canary.clone()
                };
                if self.adopted() || self.service.sides().canary.as_ref() == Some(&running) {
                    return Ok(());
                }
                self.service.change(|sides, _| sides.canary = Some(running))
            }
            Action::Route(split) => {
                let adopted = self.adopted();
                let split = if adopted { ALL_STABLE } else { split.clone() };
                if self.service.split() == split {
                    return Ok(());
                }
                self.service.change(|_, now| *now = split)
            }
            Action::Smoke => {
                self.start_smoke();
                Ok(())
            }
            Action::Adopt => {
                if self.adopted() {
                    return Ok(());
                }
                let running = Running {
                    wanted: self.canary.full,
                    ..self.canary.clone()
                };
                // Who is stable and where requests go change in one step, so no request sees one without the other.
                self.service.change(|sides, split| {
                    sides.stable = Some(running);
                    sides.canary = None;
                    *split = ALL_STABLE;
                })
            }
            Action::Retire => {
                if let Some(stable) = &self.stable {
                    self.service.remove(&stable.id);
                }
                Ok(())
            }
            Action::RemoveCanary => {
                if self.service.sides().canary.is_some() {
                    self.service.change(|sides, _| sides.canary = None)?;
                }
                if !self.adopted() {
                    self.service.remove(&self.canary.id);
                }
                Ok(())
            }
        }
    }
}
