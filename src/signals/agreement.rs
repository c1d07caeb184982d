//! Whether router and pods tell the same story about how many requests there were.
//!
//! Two witnesses of the same requests that differ by more than a fifth cannot both be right: requests go past the router,
//! pods count something else, or one of them is read wrongly. Which one is wrong nobody can tell from here, and a verdict
//! of health that rests on either would be luck. So it is said, with both counts, and no stage passes meanwhile. A verdict
//! against the canary stands: a pod that refuses connections counts nothing.
//!
//! Both are compared over the same time, up to the newest sample of the pods; traces are no witness here, as they are a
//! sample.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use crate::judge::observation::{CountsDiffer, Increment, Sides};
use crate::signals::{ERRORS, Sample, Side};

/// The counts may differ by this share of the larger one.
const TOLERANCE: f64 = 0.2;
/// They are compared over this long.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// And not over less than this: at the start of traffic one of them is a little late.
const LEAST: SignedDuration = SignedDuration::from_secs(20);
/// The larger count must have so many requests.
const MIN_REQUESTS: f64 = 200.0;
/// They must differ for this long without a break.
const LASTS: SignedDuration = SignedDuration::from_secs(20);
/// Pods often count what Wade and the platform ask them: scrapes, probes. So many a second and pod are allowed for.
const ASKED_PER_SECOND: f64 = 3.0;
/// Points kept per side.
const MAX_POINTS: usize = 512;

/// Compares the two.
#[derive(Debug, Default)]
pub struct Agreement(Sides<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    /// The router's requests so far, at each look.
    routed: VecDeque<(Timestamp, f64)>,
    /// Both at the moments of the pods' samples.
    points: VecDeque<Point>,
    pods: f64,
    differs_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Timestamp,
    router: f64,
    pods: f64,
    /// How many pods counted.
    counting: usize,
}

impl Agreement {
    /// Takes note of what both said at `now`, and says whether they differ.
    pub fn look(&mut self, now: Timestamp, router: &Sample, pods: &Sample) -> Option<CountsDiffer> {
        let requests = |sample: &Sample, side: Side| {
            let sides = sample.observation.metrics.get(ERRORS)?;
            match side.of(sides) {
                Some(Increment::Counts { total, .. }) => Some(*total),
                _ => None,
            }
        };
        // The canary first: it is what a pass would be about.
        Side::BOTH
            .into_iter()
            .filter_map(|side| {
                let counting = pods.pods.iter().filter(|pod| pod.side == side).count();
                let ledger = side.of_mut(&mut self.0);
                ledger.note(now, requests(router, side), requests(pods, side), pods.newest, counting);
                let mut differ = ledger.differ(now)?;
                differ.of_canary = side == Side::Canary;
                Some(differ)
            })
            .next()
    }
}

impl Ledger {
    fn note(
        &mut self,
        now: Timestamp,
        router: Option<f64>,
        pods: Option<f64>,
        newest: Option<Timestamp>,
        counting: usize,
    ) {
        let Some(router) = router else {
            // A side without a route has nothing to be compared.
            *self = Self::default();
            return;
        };
        let so_far = self.routed.back().map_or(0.0, |(_, sum)| *sum) + router;
        self.routed.push_back((now, so_far));
        self.pods += pods.unwrap_or_default();
        if let (Some(newest), true) = (newest, counting > 0) {
            let at = newest.min(now);
            let later = self.points.back().is_none_or(|point| point.at < at);
            let routed = self.routed.iter().rev().find(|(seen, _)| *seen <= at);
            if let (true, Some((_, router))) = (later, routed) {
                self.points.push_back(Point {
                    at,
                    router: *router,
                    pods: self.pods,
                    counting,
                });
            }
        }
        let old = |at: Timestamp| now.duration_since(at) > WINDOW + LASTS;
        while self.routed.len() > MAX_POINTS || self.routed.front().is_some_and(|(at, _)| old(*at)) {
            self.routed.pop_front();
        }
        let out = |point: &Point| now.duration_since(point.at) > WINDOW;
        while self.points.len() > MAX_POINTS || self.points.front().is_some_and(out) {
            self.points.pop_front();
        }
    }

    fn differ(&mut self, now: Timestamp) -> Option<CountsDiffer> {
        let found = self.compare();
        if found.is_none() {
            self.differs_since = None;
            return None;
        }
        let since = *self.differs_since.get_or_insert(now);
        found.filter(|_| now.duration_since(since) >= LASTS)
    }

    fn compare(&self) -> Option<CountsDiffer> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let over = last.at.duration_since(first.at);
        let (router, pods) = (last.router - first.router, last.pods - first.pods);
        let most = router.max(pods);
        if over < LEAST || most < MIN_REQUESTS {
            return None;
        }
        let over_s = over.as_secs_f64();
        let asked = ASKED_PER_SECOND * last.counting as f64 * over_s;
        let gap = if pods > router {
            pods - router - asked
        } else {
            router - pods
        };
        (gap > TOLERANCE * most).then_some(CountsDiffer {
            of_canary: false,
            router,
            pods,
            over_s,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::observation::Observation;
    use crate::signals::{Condition, PodIncrement};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000_000 + millis).unwrap()
    }

    fn sample(now: i64, canary: Option<f64>, stable: Option<f64>) -> Sample {
        let counts = |total: Option<f64>| total.map(|total| Increment::Counts { total, bad: 0.0 });
        let sides = Sides {
            canary: counts(canary),
            stable: counts(stable),
        };
        let pod = |side, requests: Option<f64>| {
            requests.map(|requests| PodIncrement {
                pod: format!("{side}"),
                side,
                requests,
                errors: 0.0,
            })
        };
        Sample {
            observation: Observation {
                metrics: [(ERRORS.to_owned(), sides)].into(),
            },
            newest: Some(at(now)),
            pods: [pod(Side::Canary, canary), pod(Side::Stable, stable)]
                .into_iter()
                .flatten()
                .collect(),
            ..Sample::empty(Condition::Measured)
        }
    }

    /// What is said after each second, with so many requests a second by either's count; the pods' samples are `lag`
    /// seconds late.
    fn said(secs: i64, lag: i64, router: impl Fn(i64) -> f64, pods: impl Fn(i64) -> f64) -> Vec<Option<CountsDiffer>> {
        let mut agreement = Agreement::default();
        (1..=secs)
            .map(|s| {
                let counted = pods(s - lag);
                let router = sample(s * 1000, Some(router(s)), Some(900.0));
                let pods = sample((s - lag) * 1000, Some(counted), Some(900.0));
                agreement.look(at(s * 1000), &router, &pods)
            })
            .collect()
    }

    #[test]
    fn counts_that_differ_by_more_than_a_fifth_are_told_with_both() {
        let last = |router: f64, pods: f64| *said(120, 1, |_| router, |_| pods).last().unwrap();
        assert_eq!(last(50.0, 50.0), None);
        assert_eq!(last(50.0, 42.0), None, "less than a fifth");
        let differ = last(50.0, 30.0).unwrap();
        assert!(differ.of_canary);
        assert_eq!(
            (differ.router / differ.over_s, differ.pods / differ.over_s),
            (50.0, 30.0)
        );
        assert_eq!(last(50.0, 54.0), None, "probes and scrapes");
        assert!(last(50.0, 80.0).is_some());
        assert_eq!(last(2.0, 0.5), None, "too few to tell");
    }

    #[test]
    fn samples_that_come_late_and_traffic_that_begins_are_no_disagreement() {
        let ramp = |s: i64| {
            if s < 0 {
                0.0
            } else if s < 60 {
                10.0
            } else {
                500.0
            }
        };
        for lag in [0, 2, 15, 40] {
            let told = said(240, lag, ramp, ramp);
            assert!(
                told.iter().all(Option::is_none),
                "lag {lag} s: {:?}",
                told.iter().flatten().next()
            );
        }
    }

    #[test]
    fn it_is_told_before_a_stage_could_pass_and_no_longer_than_it_lasts() {
        let told = said(300, 1, |_| 100.0, |s| if s < 100 { 20.0 } else { 100.0 });
        assert!(told[20].is_none() && told[55].is_some());
        assert!(told[299].is_none());
    }
}
