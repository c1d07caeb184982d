//! The simulated platform as a controller meets it: fenced, sometimes down, late, forgetful or out of date.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::faults::Fault;
use super::ground::{Shared, give_way, on};
use super::sabotage::Sabotage;
use super::seen::{Call, Seen};
use crate::engine::{Action, World};
use crate::platforms::{Platform, PlatformError};
use crate::spec::Weight;

/// How old an observation may be.
const STALE: SignedDuration = SignedDuration::from_secs(3);
/// How late a write may take effect.
const LATE_MILLIS: (u64, u64) = (100, 5000);
/// How often a fault strikes that strikes now and then.
const NOW_AND_THEN: f64 = 0.3;

/// One controller's view of the simulated platform.
#[derive(Debug)]
pub(super) struct SimPlatform {
    shared: Shared,
    epoch: u64,
    /// Nothing older than this may be shown any more: the last observation or accepted write.
    floor: Option<Timestamp>,
}

impl SimPlatform {
    /// The view of the controller with this epoch.
    pub(super) fn new(shared: Shared, epoch: u64) -> Self {
        Self {
            shared,
            epoch,
            floor: None,
        }
    }
}

fn unreachable(what: &str) -> PlatformError {
    PlatformError::Unreachable(format!(
        "the platform does not answer ({what}); the next look tries again"
    ))
}

#[async_trait]
impl Platform for SimPlatform {
    async fn observe(&mut self) -> Result<World, PlatformError> {
        give_way().await;
        let result = {
            let mut ground = on(&self.shared);
            let now = ground.now();
            if ground.active(Fault::PlatformDown) || ground.active(Fault::ObserveDown) {
                ground.failed(self.epoch, Call::Observe);
                Err(unreachable("observe"))
            } else {
                let stale = ground.active(Fault::StaleReads);
                let old = ground
                    .observed
                    .clone()
                    .filter(|(at, _)| stale && *at + STALE >= now && self.floor.is_none_or(|floor| *at >= floor));
                let (at, mut world) =
                    old.unwrap_or_else(|| (now, ground.world.observe(ground.active(Fault::RouterMute))));
                ground.observed = Some((at, world.clone()));
                self.floor = self.floor.max(Some(at));
                if ground.sabotaged(Sabotage::ReadyForever) && world.canary.exists > 0 {
                    world.canary.ready = world.canary.exists;
                    world.canary.none_ready_since = None;
                    world.canary.ready_since = world.canary.ready_since.or(Some(now - SignedDuration::from_mins(1)));
                    world.canary.restarts = 0;
                    world.canary.diagnosis = None;
                }
                if ground.sabotaged(Sabotage::CanaryLeft) && ground.world.dismissed() {
                    world.canary = Default::default();
                }
                world.restored &= !ground.sabotaged(Sabotage::NeverRestored);
                Ok(world)
            }
        };
        give_way().await;
        result
    }

    async fn apply(&mut self, action: &Action, epoch: u64) -> Result<(), PlatformError> {
        give_way().await;
        let result = {
            let mut ground = on(&self.shared);
            let now = ground.now();
            if ground.active(Fault::PlatformDown) {
                ground.failed(self.epoch, Call::Apply);
                Err(unreachable("apply"))
            } else if epoch < ground.platform_epoch && !ground.sabotaged(Sabotage::NoFence) {
                Err(PlatformError::Fenced {
                    ours: epoch,
                    theirs: ground.platform_epoch,
                })
            } else if ground.active(Fault::WritesRefused) {
                ground.failed(self.epoch, Call::Apply);
                Err(PlatformError::Refused(
                    "the platform refuses the write: quota exceeded".to_owned(),
                ))
            } else {
                ground.note(Seen::Applied {
                    // Who it is, not who it says it is.
                    epoch: self.epoch,
                    action: action.clone(),
                });
                if epoch > ground.platform_epoch {
                    ground.platform_epoch = epoch;
                    ground.world.forget_late();
                }
                let lost = ground.active(Fault::WritesLost) && ground.chance.happens(NOW_AND_THEN);
                let late = ground.active(Fault::WritesLate) && ground.chance.happens(NOW_AND_THEN);
                let silent = ground.active(Fault::RepliesLost) && ground.chance.happens(NOW_AND_THEN);
                let delay = if late {
                    ground.chance.millis(LATE_MILLIS.0, LATE_MILLIS.1)
                } else {
                    SignedDuration::ZERO
                };
                let action = match action {
                    Action::Route(split) if ground.sabotaged(Sabotage::WeightOff) && !split.weight.is_zero() => {
                        let mut off = split.clone();
                        off.weight = Weight::from_permille(split.weight.permille() - 1).expect("less than before");
                        Action::Route(off)
                    }
                    other => other.clone(),
                };
                if !(ground.sabotaged(Sabotage::CanaryLeft) && action == Action::RemoveCanary) {
                    ground.world.write(&action, (!lost).then_some(delay));
                } else {
                    ground.world.dismiss();
                }
                ground.collect();
                self.floor = self.floor.max(Some(now));
                if silent {
                    ground.failed(self.epoch, Call::Apply);
                    Err(unreachable("no answer to a write"))
                } else {
                    Ok(())
                }
            }
        };
        give_way().await;
        result
    }
}
