//! Who is there and who is silent: turns "when was what seen last" into a [`Condition`].
//!
//! The idea: silence and a dead metrics server look the same to a query, and differ in who stopped answering. So two
//! things are remembered per side: when it last *answered* (a new sample, whatever it said) and when it was last
//! *busy* (requests were counted). All times are when Wade received something, so that a source whose clock is off
//! is not taken for a dead one.
//!
//! It does not decide how long silence is bearable; the engine's no-data policies do.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::judge::observation::Sides;
use crate::signals::{Condition, Patience, Side};

/// Rates are taken over this long.
const RATE_WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// And over at most so many rounds.
const RATE_ROUNDS: usize = 128;
/// How many sample intervals must pass before a missing sample means something.
const MISSED_INTERVALS: f64 = 2.5;

/// When each side was last seen.
#[derive(Clone, Debug)]
pub struct Presence {
    patience: Patience,
    began: Timestamp,
    canary_expected_since: Option<Timestamp>,
    /// The longest usual time between two samples of one target.
    cadence: Duration,
    sides: Sides<Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    answered: Option<Timestamp>,
    busy: Option<Timestamp>,
    recent: VecDeque<(Timestamp, f64)>,
    /// Why it could not be measured since it last answered.
    failure: Option<String>,
}

impl Presence {
    /// Nobody seen yet.
    pub fn new(began: Timestamp, patience: Patience) -> Self {
        Self {
            patience,
            began,
            canary_expected_since: None,
            cadence: Duration::ZERO,
            sides: Sides::default(),
        }
    }

    /// See [`Signals::expect_canary_traffic`](crate::signals::Signals::expect_canary_traffic).
    pub fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        self.canary_expected_since = since;
    }

    /// How far apart samples usually are; patience is never shorter than that allows.
    pub fn set_cadence(&mut self, cadence: Duration) {
        self.cadence = cadence;
    }

    /// A side gave new samples with so many new requests in them.
    pub fn answered(&mut self, side: Side, now: Timestamp, requests: f64) {
        let seen = side.of_mut(&mut self.sides);
        seen.answered = Some(now);
        seen.failure = None;
        if requests > 0.0 {
            seen.busy = Some(now);
        }
        seen.recent.push_back((now, requests));
        while seen.recent.len() > RATE_ROUNDS
            || seen
                .recent
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW)
        {
            seen.recent.pop_front();
        }
    }

    /// A side could not be measured, and why.
    pub fn failed(&mut self, side: Side, reason: &str) {
        side.of_mut(&mut self.sides).failure = Some(reason.to_owned());
    }

    /// Requests per second lately; `None` before the second answer.
    pub fn rate(&self, side: Side) -> Option<f64> {
        let recent = &side.of(&self.sides).recent;
        let (first, last) = (recent.front()?.0, recent.back()?.0);
        let secs = last.duration_since(first).as_secs_f64();
        // The first entry's requests came before the window began.
        (secs > 0.0).then(|| recent.iter().skip(1).map(|(_, requests)| requests).sum::<f64>() / secs)
    }

    /// What this amounts to now.
    pub fn condition(&self, now: Timestamp) -> Condition {
        let down_after = self.at_least_some_intervals(self.patience.down_after);
        let silent_after = self.at_least_some_intervals(self.patience.silent_after);
        let within = |at: Timestamp, limit: SignedDuration| now.duration_since(at) < limit;

        let stable = &self.sides.stable;
        if !stable.answered.is_some_and(|at| within(at, down_after)) {
            return Condition::SourceDown {
                reason: stable.why_unmeasured(now),
            };
        }
        let busy = |seen: &Seen| seen.busy.is_some_and(|at| within(at, silent_after));
        let canary = &self.sides.canary;
        if busy(stable) {
            let waited_since = self
                .canary_expected_since
                .map(|since| canary.busy.map_or(since, |busy| busy.max(since)));
            return match waited_since {
                Some(since) if !within(since, silent_after) => Condition::CanarySilent,
                _ => Condition::Measured,
            };
        }
        if busy(canary) || within(self.began, silent_after) {
            Condition::Measured
        } else {
            Condition::BothSilent
        }
    }

    fn at_least_some_intervals(&self, patience: Duration) -> SignedDuration {
        SignedDuration::try_from(patience.max(self.cadence.mul_f64(MISSED_INTERVALS))).unwrap_or(SignedDuration::MAX)
    }
}

impl Seen {
    fn why_unmeasured(&self, now: Timestamp) -> String {
        match (&self.failure, self.answered) {
            (Some(reason), _) => reason.clone(),
            (None, None) => "nothing has been measured on stable yet".to_owned(),
            (None, Some(at)) => format!(
                "no new sample of stable for {} s although the source answers; look whether its scrapes of stable's pods work",
                now.duration_since(at).as_secs()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_000 + secs).unwrap()
    }

    fn patience() -> Patience {
        Patience {
            silent_after: Duration::from_secs(10),
            down_after: Duration::from_secs(5),
        }
    }

    /// Answers of both sides (requests a second, or nothing) for so many seconds; then the condition.
    fn after(secs: i64, stable: Option<f64>, canary: Option<f64>, expected: Option<i64>) -> Condition {
        let mut presence = Presence::new(at(0), patience());
        presence.expect_canary_traffic(expected.map(at));
        for second in 0..=secs {
            for (side, requests) in [(Side::Stable, stable), (Side::Canary, canary)] {
                if let Some(requests) = requests {
                    presence.answered(side, at(second), requests);
                }
            }
        }
        presence.condition(at(secs))
    }

    #[test]
    fn conditions_follow_who_answers_and_who_is_busy() {
        let down = Condition::SourceDown {
            reason: "nothing has been measured on stable yet".to_owned(),
        };
        let table = [
            (
                "both busy",
                after(20, Some(9.0), Some(1.0), Some(0)),
                Condition::Measured,
            ),
            (
                "canary idle but nobody expects it to work",
                after(20, Some(9.0), Some(0.0), None),
                Condition::Measured,
            ),
            (
                "canary idle, not for long",
                after(9, Some(9.0), Some(0.0), Some(0)),
                Condition::Measured,
            ),
            (
                "canary idle since the weight was raised",
                after(20, Some(9.0), Some(0.0), Some(15)),
                Condition::Measured,
            ),
            (
                "canary idle",
                after(10, Some(9.0), Some(0.0), Some(0)),
                Condition::CanarySilent,
            ),
            (
                "canary gone",
                after(10, Some(9.0), None, Some(0)),
                Condition::CanarySilent,
            ),
            (
                "both idle, just begun",
                after(5, Some(0.0), Some(0.0), Some(0)),
                Condition::Measured,
            ),
            (
                "both idle",
                after(10, Some(0.0), Some(0.0), Some(0)),
                Condition::BothSilent,
            ),
            (
                "only canary busy",
                after(20, Some(0.0), Some(1.0), Some(0)),
                Condition::Measured,
            ),
            ("stable cannot be measured", after(20, None, Some(1.0), Some(0)), down),
        ];
        for (claim, seen, expected) in table {
            assert_eq!(seen, expected, "{claim}");
        }
    }

    #[test]
    fn a_failure_is_the_reason_until_the_next_answer_and_only_after_patience() {
        let mut presence = Presence::new(at(0), patience());
        presence.answered(Side::Stable, at(0), 1.0);
        presence.failed(Side::Stable, "connection refused");
        assert_eq!(presence.condition(at(4)), Condition::Measured);
        assert_eq!(
            presence.condition(at(5)),
            Condition::SourceDown {
                reason: "connection refused".to_owned()
            }
        );
        presence.answered(Side::Stable, at(6), 1.0);
        assert_eq!(presence.condition(at(6)), Condition::Measured);
    }

    #[test]
    fn slow_samples_stretch_patience() {
        let mut presence = Presence::new(at(0), patience());
        presence.answered(Side::Stable, at(0), 1.0);
        presence.set_cadence(Duration::from_secs(60));
        assert_eq!(presence.condition(at(149)), Condition::Measured);
        assert!(matches!(presence.condition(at(150)), Condition::SourceDown { .. }));
    }

    #[test]
    fn rates_forget_what_is_old() {
        let mut presence = Presence::new(at(0), patience());
        assert_eq!(presence.rate(Side::Stable), None);
        for second in 0..200 {
            presence.answered(Side::Stable, at(second), if second < 100 { 50.0 } else { 7.0 });
        }
        assert_eq!(presence.rate(Side::Stable), Some(7.0));
    }
}
