//! For how long a release was not looked at: while a holder was dead, or nothing could be observed.

use jiff::{SignedDuration, Timestamp};

use crate::engine::{Phase, State};
use crate::judge::Course;
use crate::plan::Plan;

/// Looks may be late; a gap of this many of them is one in which nobody looked.
const LOOKS: i32 = 4;
/// And no gap is shorter than this: evidence is written every few seconds only, so a holder that goes on knows the last
/// look no better.
const LEAST: SignedDuration = SignedDuration::from_secs(8);

/// When a release was looked at last.
#[derive(Debug)]
pub(super) struct Watched(Option<Timestamp>);

impl Watched {
    /// As far as the record tells: whoever goes on begins where the judge's last words end.
    pub(super) fn from_record(state: &State, course: &Course) -> Self {
        let analysing = matches!(state.phase, Phase::Analysing { .. });
        let last = course.points().last().filter(|_| analysing);
        Self(last.map(|point| {
            let since = SignedDuration::try_from_secs_f64(point.t_s).unwrap_or(SignedDuration::ZERO);
            state
                .started
                .checked_add(since)
                .unwrap_or(state.started)
                .max(state.since)
        }))
    }

    /// The gap that ends now, if it is one.
    pub(super) fn gap(&self, plan: &Plan, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let from = self.0?;
        let most = (plan.look.signed() * LOOKS).max(LEAST);
        (now.duration_since(from) > most).then_some((from, now))
    }

    /// It was looked at, and what followed is written down.
    pub(super) fn looked(&mut self, now: Timestamp) {
        self.0 = Some(now);
    }
}
