//! No users' traffic to a canary without a ready instance, beyond the grace that the engine states.
//!
//! The bound holds while a controller is alive and the platform works. A record that cannot be written is no excuse:
//! going back waits for nothing.

use jiff::{SignedDuration, Timestamp};

use super::{Checker, Name};
use crate::engine::Phase;
use crate::sim::faults::Fault;
use crate::sim::run::Run;
use crate::sim::seen::Seen;

/// The engine's grace (`NONE_READY_GRACE`), stated again on purpose.
const GRACE: SignedDuration = SignedDuration::from_secs(3);
/// For the passes themselves.
const SLACK: SignedDuration = SignedDuration::from_millis(1500);
/// A hindrance works on for this long: the latest late write.
const AFTERMATH: SignedDuration = SignedDuration::from_secs(6);

/// Whether a fault keeps even a retreat from working.
fn hinders(fault: Fault) -> bool {
    match fault {
        Fault::PlatformDown
        | Fault::ObserveDown
        | Fault::WritesRefused
        | Fault::RepliesLost
        | Fault::WritesLost
        | Fault::WritesLate
        | Fault::StaleReads
        | Fault::Crashes => true,
        Fault::RouterMute
        | Fault::StoreDown
        | Fault::StoreRepliesLost
        | Fault::StoreFlaky
        | Fault::SourceDown
        | Fault::CanarySilent
        | Fault::BothSilent
        | Fault::Incident => false,
    }
}

/// Users meet no canary that has no ready instance for longer than the grace.
#[derive(Clone, Copy, Debug)]
pub struct NoUsersOnDeadCanary;

impl Checker for NoUsersOnDeadCanary {
    fn name(&self) -> Name {
        Name::NoUsersOnDeadCanary
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let allowed = GRACE + run.case.plan.look.signed() + SLACK;
        // Since when users have met a dead canary without an excuse.
        let mut dead_since: Option<Timestamp> = None;
        let (mut hindrances, mut free_from) = (0_u32, run.case.start);
        let (mut alive, mut holder) = (false, 0);
        let mut at_work = false;
        for moment in &run.moments {
            if let Some(since) = dead_since.filter(|_| at_work && hindrances == 0 && alive) {
                let due = since.max(free_from) + allowed;
                if moment.at > due {
                    return Some((
                        due,
                        format!("users have met a canary without a ready instance since {since}"),
                    ));
                }
            }
            match &moment.seen {
                Seen::World(truth) => {
                    let dead = truth.split.serves_users() && truth.canary.ready == 0;
                    dead_since = if dead { dead_since.or(Some(moment.at)) } else { None };
                }
                Seen::FaultBegan(fault) if hinders(*fault) => hindrances += 1,
                Seen::FaultEnded(fault) if hinders(*fault) => {
                    hindrances -= 1;
                    free_from = moment.at + AFTERMATH;
                }
                // Whoever comes fences whoever was there, and the old one may not know it yet.
                Seen::Started { epoch } => (alive, holder) = (false, *epoch),
                Seen::Runs { .. } => {
                    alive = true;
                    free_from = free_from.max(moment.at);
                }
                Seen::Died { epoch } if *epoch == holder => alive = false,
                Seen::Recorded { update, .. } => {
                    at_work = !matches!(
                        update.state.phase,
                        Phase::Waiting | Phase::HandingOver(_) | Phase::Done(_)
                    );
                }
                _ => {}
            }
        }
        None
    }
}
