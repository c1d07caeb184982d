//! Measurements of the simulated world: drawn at each look, sometimes missing.

use jiff::{SignedDuration, Timestamp};

use super::faults::Fault;
use super::ground::{Shared, on};
use super::sabotage::Sabotage;
use super::seen::Seen;
use super::traffic::observation;
use crate::judge::observation::Sides;
use crate::signals::{Condition, PodIncrement, Sample, Side, Signals};

/// A side without requests for this long is silent, as in the real sources.
const SILENT_AFTER: SignedDuration = SignedDuration::from_secs(15);

/// One controller's measurements.
#[derive(Debug)]
pub(super) struct SimSignals {
    shared: Shared,
    epoch: u64,
    expected_since: Option<Timestamp>,
    busy: Sides<Timestamp>,
}

impl SimSignals {
    /// The measurements of the controller with this epoch, which starts at `now`.
    pub(super) fn new(shared: Shared, epoch: u64, now: Timestamp) -> Self {
        Self {
            shared,
            epoch,
            expected_since: None,
            busy: Sides {
                canary: now,
                stable: now,
            },
        }
    }

    fn condition(&self, now: Timestamp) -> Condition {
        let silent = |since: Timestamp| since + SILENT_AFTER <= now;
        let expected = self.expected_since.is_some_and(silent);
        match (silent(self.busy.canary), silent(self.busy.stable)) {
            (true, true) => Condition::BothSilent,
            (true, false) if expected => Condition::CanarySilent,
            _ => Condition::Measured,
        }
    }
}

impl Signals for SimSignals {
    fn take(&mut self, now: Timestamp) -> Sample {
        let mut ground = on(&self.shared);
        let ground = &mut *ground;
        let truth = if ground.active(Fault::SourceDown) {
            let reason =
                "the metrics server at http://metrics:9090 does not answer; nothing can be compared".to_owned();
            Condition::SourceDown { reason }
        } else {
            Condition::Measured
        };
        if truth != Condition::Measured {
            ground.note(Seen::Measured {
                epoch: self.epoch,
                condition: truth.clone(),
            });
            let hidden = ground.sabotaged(Sabotage::BlindnessHidden);
            return Sample::empty(if hidden { Condition::Measured } else { truth });
        }
        let counts = ground.world.traffic.draw(&mut ground.traffic);
        for side in Side::BOTH {
            if side.of(&counts).requests > 0 {
                *side.of_mut(&mut self.busy) = now;
            }
        }
        let condition = self.condition(now);
        ground.note(Seen::Measured {
            epoch: self.epoch,
            condition: condition.clone(),
        });
        let observation = observation(counts, ground.world.behaviours(), &mut ground.traffic);
        let pods = ground.world.stable_pods() as u64;
        let mut left = counts.stable;
        let increments = (0..pods).map(|index| {
            let share = 1.0 / (pods - index) as f64;
            let requests = ground.traffic.binomial(left.requests, share);
            let errors = ground.traffic.binomial(left.errors, share).min(requests);
            left.requests -= requests;
            left.errors -= errors;
            PodIncrement {
                pod: format!("stable-{index}"),
                side: Side::Stable,
                requests: requests as f64,
                errors: errors as f64,
            }
        });
        let mut sample = Sample::empty(condition);
        sample.pods = increments.collect();
        sample.observation = observation;
        sample.newest = Some(now);
        sample
    }

    fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        self.expected_since = since;
    }
}
