//! How a release went, in at most 120 points: what a chart of it is drawn from.
//!
//! The judge keeps no past; its evidence is one number per bet. People want to see when something began, so each told
//! verdict leaves a point here: the evidence, and the counts so far of the first metric that counts. When there are too
//! many points, every second one goes: a long release has coarser points, never fewer than half of them. Counts are sums
//! since the release began, so what lies between any two points can still be told.
//!
//! Nothing is decided by it.

use serde::{Deserialize, Serialize};

use super::observation::Sides;
use super::verdict::{Seen, Verdict};

/// The most points of a course.
pub const MAX_POINTS: usize = 120;
/// At first, points are at least this far apart, in seconds.
const FIRST_SPACING_S: f64 = 1.0;

/// The points of one release, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Course {
    /// Seconds that points are apart at least; the last one may be nearer.
    every_s: f64,
    points: Vec<Point>,
}

/// A told verdict, in six numbers. As JSON: `[seconds, ln E, canary's total, bad, stable's total, bad]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(from = "[f64; 6]", into = "[f64; 6]")]
pub struct Point {
    /// Seconds since the release began.
    pub t_s: f64,
    /// ln E of the whole release.
    pub evidence: f64,
    /// Requests and bad ones since the release began, by the first metric that counts.
    pub counts: Sides<[f64; 2]>,
}

impl From<[f64; 6]> for Point {
    fn from([t_s, evidence, n_c, x_c, n_s, x_s]: [f64; 6]) -> Self {
        Self {
            t_s,
            evidence,
            counts: Sides {
                canary: [n_c, x_c],
                stable: [n_s, x_s],
            },
        }
    }
}

impl From<Point> for [f64; 6] {
    fn from(point: Point) -> Self {
        let Point { t_s, evidence, counts } = point;
        let ([n_c, x_c], [n_s, x_s]) = (counts.canary, counts.stable);
        [t_s, evidence, n_c, x_c, n_s, x_s]
    }
}

impl Point {
    /// What a verdict leaves, rounded to what a chart can show.
    fn of(t_s: f64, verdict: &Verdict) -> Self {
        let counts = verdict.metrics.iter().find_map(|metric| match &metric.seen {
            Seen::Errors { release, .. } | Seen::Objective { release, .. } => Some(release),
            _ => None,
        });
        let whole = |value: f64| value.round();
        let side = |pick: fn(&Sides<super::verdict::Counts>) -> super::verdict::Counts| {
            counts
                .map(pick)
                .map_or([0.0; 2], |counts| [whole(counts.total), whole(counts.bad)])
        };
        Self {
            t_s: (t_s * 10.0).round() / 10.0,
            // JSON has no word for what a lost bet weighs; a chart does not look that far down.
            evidence: (verdict.evidence.clamp(-99.0, 99.0) * 100.0).round() / 100.0,
            counts: Sides {
                canary: side(|sides| sides.canary),
                stable: side(|sides| sides.stable),
            },
        }
    }
}

impl Course {
    /// Adds what was told at `t_s`. The newest point is always there; a time that does not go on replaces it.
    pub fn push(&mut self, t_s: f64, verdict: &Verdict) {
        let point = Point::of(t_s, verdict);
        self.every_s = self.every_s.max(FIRST_SPACING_S);
        let near = match self.points.as_slice() {
            [] => false,
            [only] => point.t_s <= only.t_s,
            [.., before, last] => last.t_s - before.t_s < self.every_s || point.t_s <= last.t_s,
        };
        if near {
            self.points.pop();
        }
        self.points.push(point);
        if self.points.len() > MAX_POINTS {
            self.thin();
        }
    }

    /// The points, oldest first.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    fn thin(&mut self) {
        self.every_s *= 2.0;
        let last = self.points.pop();
        let mut kept: Option<f64> = None;
        let every = self.every_s;
        self.points.retain(|point| {
            let keep = kept.is_none_or(|kept| point.t_s - kept >= every);
            if keep {
                kept = Some(point.t_s);
            }
            keep
        });
        self.points.extend(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Config, Increment, Judge, Observation};

    fn looked(looks: u32, every_s: f64) -> Course {
        let mut judge = Judge::new(Config::default(), None);
        let mut course = Course::default();
        judge.start_stage(0, 0.0, 0.2);
        for look in 1..=looks {
            let counts = |total, bad| Some(Increment::Counts { total, bad });
            let sides = Sides {
                canary: counts(10.0, 1.0),
                stable: counts(90.0, 9.0),
            };
            let mut seen = Observation::default();
            seen.metrics.insert("errors".to_owned(), sides);
            let t_s = f64::from(look) * every_s;
            course.push(t_s, &judge.look(t_s, &seen));
        }
        course
    }

    #[test]
    fn a_short_release_keeps_every_look() {
        let course = looked(50, 2.0);
        assert_eq!(course.points().len(), 50);
        let last = course.points().last().unwrap();
        assert_eq!(
            (last.t_s, last.counts.canary, last.counts.stable),
            (100.0, [500.0, 50.0], [4500.0, 450.0])
        );
        assert!(last.evidence.abs() < 3.0, "{}", last.evidence);
    }

    #[test]
    fn however_long_it_takes_there_are_60_to_120_points_from_its_first_to_its_last_look() {
        for looks in [121, 500, 5_000] {
            let course = looked(looks, 1.0);
            let points = course.points();
            assert!((60..=MAX_POINTS).contains(&points.len()), "{looks}: {}", points.len());
            assert_eq!((points[0].t_s, points[points.len() - 1].t_s), (1.0, f64::from(looks)));
            assert!(points.windows(2).all(|pair| pair[0].t_s < pair[1].t_s));
        }
    }

    #[test]
    fn looks_that_come_quickly_leave_a_point_a_second() {
        let course = looked(1_000, 0.05);
        assert!(course.points().len() <= 52, "{}", course.points().len());
    }

    #[test]
    fn it_is_small_and_survives_being_saved() {
        let course = looked(20_000, 60.0);
        let text = serde_json::to_string(&course).unwrap();
        assert!(text.len() < 7_000, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<Course>(&text).unwrap(), course);
    }
}
