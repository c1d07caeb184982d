//! The door of the judge: increments come in as they were measured, only those that make sense go on.
//!
//! A source can deliver anything (a NaN from a query, a negative difference, histograms with other buckets after a
//! library update). None of that may panic, become evidence or poison the state, so it is dropped here and counted.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::observation::{Increment, Sides};
use super::verdict::Counts;

/// Increments above this are nonsense (counts beyond it are not exact in a double either).
const MAX_COUNT: f64 = 1e15;
/// Counts may be fractions (rates times seconds), but not below this.
const MIN_COUNT: f64 = 1e-9;
/// Buckets of a histogram; native histograms have 160 per sign.
pub(crate) const MAX_BUCKETS: usize = 512;

/// A finite count that is not negative. A fraction so small that shares of it vanish is nonsense too.
pub(crate) fn plausible(count: f64) -> bool {
    count == 0.0 || (MIN_COUNT..=MAX_COUNT).contains(&count)
}

/// Reads both sides with `read`; what it refuses is dropped and counted.
pub(crate) fn admit<'a, T>(
    sides: &'a Sides<Option<Increment>>,
    dropped: &mut u64,
    read: impl Fn(&'a Increment) -> Option<T>,
) -> Sides<Option<T>> {
    let mut side = |increment: &'a Option<Increment>| {
        let admitted = increment.as_ref().map(&read)?;
        *dropped += u64::from(admitted.is_none());
        admitted
    };
    Sides {
        canary: side(&sides.canary),
        stable: side(&sides.stable),
    }
}

/// `[total, bad]` of an increment of counts.
pub(crate) fn counts(increment: &Increment) -> Option<[f64; 2]> {
    match *increment {
        Increment::Counts { total, bad } if plausible(total) && plausible(bad) => Some([total, bad]),
        _ => None,
    }
}

/// Bounds and buckets of an increment of a histogram.
pub(crate) fn histogram(increment: &Increment) -> Option<(&Arc<[f64]>, &[f64])> {
    let Increment::Histogram { le, counts } = increment else {
        return None;
    };
    let bounds_ascend = le.first().is_some_and(|first| *first >= 0.0)
        && le.last().is_some_and(|last| last.is_finite())
        && le.windows(2).all(|pair| pair[0] < pair[1]);
    let fits = le.len() <= MAX_BUCKETS && counts.len() == le.len() + 1;
    (bounds_ascend && fits && counts.iter().all(|count| plausible(*count))).then_some((le, counts))
}

/// A gauge's value.
pub(crate) fn value(increment: &Increment) -> Option<f64> {
    match *increment {
        Increment::Value(value) if value.is_finite() => Some(value),
        _ => None,
    }
}

/// What both sides did since the release and since the stage began, as people want to read it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    release: Sides<[f64; 2]>,
    stage: Sides<[f64; 2]>,
}

impl Tally {
    pub(crate) fn add(&mut self, sides: &Sides<Option<[f64; 2]>>) {
        for total in [&mut self.release, &mut self.stage] {
            for (sum, increment) in [(&mut total.canary, sides.canary), (&mut total.stable, sides.stable)] {
                let [requests, bad] = increment.unwrap_or_default();
                sum[0] += requests;
                sum[1] += bad;
            }
        }
    }

    pub(crate) fn start_stage(&mut self) {
        self.stage = Sides::default();
    }

    pub(crate) fn release(&self) -> Sides<Counts> {
        shown(&self.release)
    }

    pub(crate) fn stage(&self) -> Sides<Counts> {
        shown(&self.stage)
    }
}

fn shown(sides: &Sides<[f64; 2]>) -> Sides<Counts> {
    let counts = |[total, bad]: [f64; 2]| Counts::new(total, bad);
    Sides {
        canary: counts(sides.canary),
        stable: counts(sides.stable),
    }
}
