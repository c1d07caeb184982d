//! What all parts of a run share: time, world, record and the list of what was seen, behind one lock.
//!
//! The lock is never contended (a run is one thread); it is there because the production traits ask for `Send`.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use jiff::Timestamp;

use super::chance::Chance;
use super::faults::{Fault, Faults};
use super::sabotage::Sabotage;
use super::seen::{Call, Moment, Seen};
use super::world::{Conditions, World};
use crate::clock::{Clock as _, ManualClock};
use crate::engine::{self, Command};
use crate::store::ReleaseRecord;

/// The ground that a run stands on.
#[derive(Debug)]
pub(super) struct Ground {
    /// The time.
    pub(super) clock: ManualClock,
    /// The platform as it really is.
    pub(super) world: World,
    /// What goes wrong.
    pub(super) faults: Faults,
    /// Draws faults.
    pub(super) chance: Chance,
    /// Draws requests.
    pub(super) traffic: Chance,
    /// The record.
    pub(super) record: ReleaseRecord,
    /// What was asked for, oldest first.
    pub(super) commands: Vec<Command>,
    /// The highest epoch that the record has seen.
    pub(super) store_epoch: u64,
    /// The highest epoch that the platform has seen.
    pub(super) platform_epoch: u64,
    /// The last observation that anybody got.
    pub(super) observed: Option<(Timestamp, engine::World)>,
    /// What happened.
    pub(super) moments: Vec<Moment>,
    /// The planted defect, if one is.
    pub(super) sabotage: Option<Sabotage>,
}

/// The shared ground.
pub(super) type Shared = Arc<Mutex<Ground>>;

/// The ground, for a moment.
pub(super) fn on(shared: &Shared) -> MutexGuard<'_, Ground> {
    shared
        .lock()
        .expect("a run is one thread, and nothing panics while it holds the lock")
}

impl Ground {
    /// The time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Writes a line.
    pub(super) fn note(&mut self, seen: Seen) {
        let at = self.now();
        self.moments.push(Moment { at, seen });
    }

    /// Writes that a call failed.
    pub(super) fn failed(&mut self, epoch: u64, call: Call) {
        self.note(Seen::Failed { epoch, call });
    }

    /// Whether a fault is in force.
    pub(super) fn active(&self, fault: Fault) -> bool {
        self.faults.active(fault, self.now())
    }

    /// Whether a defect is planted.
    pub(super) fn sabotaged(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    /// Carries everything to `to`.
    pub(super) fn step_to(&mut self, to: Timestamp) {
        // What is wrong changes only at edges, and the caller never steps over one.
        let conditions = Conditions {
            canary_silent: self.active(Fault::CanarySilent),
            both_silent: self.active(Fault::BothSilent),
            incident: self.active(Fault::Incident),
        };
        self.clock.set(to);
        self.world.advance(to, conditions);
        self.collect();
    }

    /// Takes over what has changed in the world.
    pub(super) fn collect(&mut self) {
        for (at, truth) in self.world.changes.drain(..) {
            self.moments.push(Moment {
                at,
                seen: Seen::World(truth),
            });
        }
    }
}

/// Gives way once, so that whoever drives the future may let time pass, let others run, or drop it here.
pub(super) async fn give_way() {
    struct Once(bool);
    impl Future for Once {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }
    }
    Once(false).await;
}
