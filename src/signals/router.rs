//! The router's own counters as a source.
//!
//! The idea: what stands in front saw every request, including those the canary never answered, so a canary is not
//! the only witness about itself. Whoever runs the router feeds monotone counters per revision whenever it likes;
//! what was added since the last feed is handed out like any other sample.
//!
//! It does not read the router; the platform does.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::judge::observation::Sides;
use crate::signals::series::{Reading, ResetRule, Scrape, Value};
use crate::signals::tally::{Origin, PodScrape, Role, Round, Tally};
use crate::signals::{ERRORS, LATENCY, Patience, Sample, Side, Signals};

/// What a router counted for one revision since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterCounters {
    /// Requests it sent there.
    pub requests: u64,
    /// How many of them ended in an error, its own (502, 503, 504) included.
    pub errors: u64,
}

/// A latency histogram as a router keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterLatency {
    /// Upper bounds in seconds, ascending, without +Inf.
    pub le: Arc<[f64]>,
    /// Requests per bucket, not cumulative; one more than `le`.
    pub counts: Vec<u64>,
}

/// One revision as its router sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterSide {
    /// The revision's name; another name is another set of counters.
    pub revision: String,
    /// Requests and errors.
    pub counters: RouterCounters,
    /// How long they took, where the router measures it.
    pub latency: Option<RouterLatency>,
}

/// Signals from a router's counters. Clones share the same state: one is fed, the other one is taken from.
#[derive(Clone, Debug)]
pub struct RouterSignals(Arc<Mutex<Tally>>);

impl RouterSignals {
    /// Nothing seen yet. The first feed is a baseline; a revision that appears later counts from 0.
    pub fn new(began: Timestamp, patience: Patience) -> Self {
        let configured = BTreeSet::from([ERRORS.to_owned(), LATENCY.to_owned()]);
        let own = configured
            .iter()
            .map(|metric| (metric.clone(), "the router's own counters".to_owned()))
            .collect();
        let origin = Origin {
            own,
            ..Origin::default()
        };
        let tally = Tally::new(began, patience, configured).reading_from(origin);
        Self(Arc::new(Mutex::new(tally)))
    }

    /// Takes what the router shows at `now`; a feed that is not later than the last one is no news.
    pub fn feed(&self, now: Timestamp, sides: Sides<Option<RouterSide>>) {
        let scrapes = [(Side::Canary, sides.canary), (Side::Stable, sides.stable)]
            .into_iter()
            .filter_map(|(side, router)| Some(router_scrape(side, now, router?)))
            .collect();
        let round = Round {
            scrapes,
            ..Round::default()
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).round(now, round);
    }
}

impl Signals for RouterSignals {
    fn take(&mut self, now: Timestamp) -> Sample {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }

    fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .expect_canary_traffic(since);
    }
}

fn router_scrape(side: Side, at: Timestamp, router: RouterSide) -> PodScrape {
    let RouterSide {
        revision,
        counters,
        latency,
    } = router;
    let reading = |series: &str, role, value| Reading {
        series: series.to_owned(),
        meaning: (side, role),
        value,
        reset: ResetRule::FromZero,
    };
    let mut readings = vec![
        reading(
            "requests",
            Role::Total(ERRORS.to_owned()),
            Value::Count(counters.requests as f64),
        ),
        reading(
            "errors",
            Role::Bad(ERRORS.to_owned()),
            Value::Count(counters.errors as f64),
        ),
    ];
    if let Some(RouterLatency { le, counts }) = latency {
        let mut sum = 0;
        let cumulative = counts
            .iter()
            .map(|count| {
                sum += count;
                sum as f64
            })
            .collect();
        readings.push(reading(
            "latency",
            Role::Buckets(LATENCY.to_owned()),
            Value::Buckets { le, cumulative },
        ));
    }
    let scrape = Scrape {
        target: revision.clone(),
        at,
        started: None,
        readings,
    };
    PodScrape {
        pod: revision,
        sides: BTreeSet::from([side]),
        scrape,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::observation::Increment;
    use crate::signals::Condition;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_000 + secs).unwrap()
    }

    fn side(revision: &str, requests: u64, errors: u64, counts: [u64; 2]) -> Option<RouterSide> {
        let latency = Some(RouterLatency {
            le: [0.1].into(),
            counts: counts.to_vec(),
        });
        Some(RouterSide {
            revision: revision.to_owned(),
            counters: RouterCounters { requests, errors },
            latency,
        })
    }

    fn counts(total: f64, bad: f64) -> Option<Increment> {
        Some(Increment::Counts { total, bad })
    }

    #[test]
    fn increments_since_the_last_feed_are_handed_out_once() {
        let mut signals = RouterSignals::new(at(0), Patience::default());
        signals.feed(
            at(0),
            Sides {
                canary: None,
                stable: side("v1", 1000, 5, [900, 100]),
            },
        );
        signals.feed(
            at(1),
            Sides {
                canary: side("v2", 3, 1, [2, 1]),
                stable: side("v1", 1050, 5, [940, 110]),
            },
        );
        signals.feed(
            at(2),
            Sides {
                canary: side("v2", 5, 2, [4, 1]),
                stable: side("v1", 1100, 6, [980, 120]),
            },
        );
        let sample = signals.take(at(2));
        let errors = Sides {
            canary: counts(5.0, 2.0),
            stable: counts(100.0, 1.0),
        };
        let histogram = |counts: [f64; 2]| {
            Some(Increment::Histogram {
                le: [0.1].into(),
                counts: counts.to_vec(),
            })
        };
        let latency = Sides {
            canary: histogram([4.0, 1.0]),
            stable: histogram([80.0, 20.0]),
        };
        let expected = [(ERRORS.to_owned(), errors), (LATENCY.to_owned(), latency)].into();
        assert_eq!(
            (sample.observation.metrics, sample.condition),
            (expected, Condition::Measured)
        );
        assert_eq!(sample.rates.stable, Some(50.0));
        assert_eq!(
            signals.take(at(2)).observation.metrics,
            [].into(),
            "nothing is handed out twice"
        );
    }

    #[test]
    fn a_side_that_is_not_routed_is_not_measured() {
        let mut signals = RouterSignals::new(at(0), Patience::default());
        for second in 0..3 {
            signals.feed(
                at(second),
                Sides {
                    canary: None,
                    stable: side("v1", 10 * second as u64, 0, [0, 0]),
                },
            );
        }
        let errors = &signals.take(at(3)).observation.metrics[ERRORS];
        assert_eq!(
            *errors,
            Sides {
                canary: None,
                stable: counts(20.0, 0.0)
            }
        );
    }
}
