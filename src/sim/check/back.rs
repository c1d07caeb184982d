//! An ended release leaves one revision, whole, with all traffic, and nothing of its own.

use jiff::{SignedDuration, Timestamp};

use super::{Checker, Name};
use crate::engine::Event;
use crate::plan::{ALL_STABLE, Lane, Split};
use crate::sim::faults::Happening;
use crate::sim::run::Run;
use crate::sim::seen::{Seen, Truth};
use crate::spec::Weight;

/// How long before the end a change by somebody else may have gone unseen: a stale look and a pass.
const UNSEEN: SignedDuration = SignedDuration::from_secs(4);

/// After a rollback, abort or return the canary has 0 % and is gone, and stable is whole; after a promotion the other
/// way round.
#[derive(Clone, Copy, Debug)]
pub struct BackMeansBack;

impl Checker for BackMeansBack {
    fn name(&self) -> Name {
        Name::BackMeansBack
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let over = run.over_at?;
        let began = run.record.history.iter().any(|entry| entry.event == Event::Admitted);
        let forward = run.record.state.outcome()?.is_forward();
        let first = run.case.plan.lane == Lane::FirstDeploy;
        // What others do afterwards, or in the moment of the last look, is not the release's; nor is anything if it
        // never began.
        let meddled = run
            .case
            .faults
            .happenings
            .iter()
            .filter(|(_, one)| matches!(one, Happening::Meddle(_)));
        let own_until = meddled.map(|(at, _)| *at).filter(|at| *at > over - UNSEEN).min();
        if !began || own_until.is_some_and(|until| until <= over) {
            return None;
        }
        let mut at_end = None;
        for moment in run
            .moments
            .iter()
            .filter(|moment| own_until.is_none_or(|until| moment.at < until))
        {
            let Seen::World(truth) = &moment.seen else { continue };
            if moment.at > over {
                if let Some(what) = wrong(truth, forward, first) {
                    return Some((moment.at, format!("after the release was over, {what}")));
                }
            } else {
                at_end = Some(truth);
            }
        }
        wrong(at_end?, forward, first).map(|what| (over, format!("when the release was over, {what}")))
    }
}

fn wrong(truth: &Truth, forward: bool, first: bool) -> Option<String> {
    let serving = if forward { truth.canary } else { truth.stable };
    let other = if forward { truth.stable } else { truth.canary };
    let split = if forward {
        Split::weight(Weight::FULL)
    } else {
        ALL_STABLE
    };
    if truth.split != split {
        Some(format!("the split was {}", truth.split))
    } else if other.exist > 0 {
        Some(format!("{} instances of the other revision were left", other.exist))
    } else if serving.exist < serving.full && (forward || !first) {
        Some(format!(
            "only {} of {} instances were left",
            serving.exist, serving.full
        ))
    } else if truth.held {
        Some("the platform was still held".to_owned())
    } else {
        (forward != truth.adopted).then(|| format!("the canary was adopted: {}", truth.adopted))
    }
}
