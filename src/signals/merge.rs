//! Two sources at once: the router's counters for what it has, the processes' own for the rest.
//!
//! The idea: a request must be counted by one source only, so a metric belongs to the router from the moment the
//! router first measured it, and stays with it even while the router is away: its first difference afterwards covers
//! the time in between, and adding the other source's would count those requests twice. That both count requests is of
//! use all the same: where they do not agree ([`Agreement`]), somebody has to say so.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::judge::observation::MetricName;
use crate::signals::agreement::Agreement;
use crate::signals::{Sample, Signals};

/// The router's counters first, `scraped` for metrics that the router has not.
#[derive(Debug)]
pub struct Merged<R, S> {
    router: R,
    scraped: S,
    /// Metrics that the router has measured at least once.
    owned: BTreeSet<MetricName>,
    /// Whether instances were ever read one by one: a router's sum over them is none of them.
    has_pods: bool,
    agreement: Agreement,
}

impl<R: Signals, S: Signals> Merged<R, S> {
    /// Both, nothing measured yet.
    pub fn new(router: R, scraped: S) -> Self {
        Self {
            router,
            scraped,
            owned: BTreeSet::new(),
            has_pods: false,
            agreement: Agreement::default(),
        }
    }

    /// The second source, to give it targets.
    pub fn scraped_mut(&mut self) -> &mut S {
        &mut self.scraped
    }
}

impl<R: Signals, S: Signals> Signals for Merged<R, S> {
    fn take(&mut self, now: Timestamp) -> Sample {
        let (mut router, scraped) = (self.router.take(now), self.scraped.take(now));
        self.owned.extend(router.observation.metrics.keys().cloned());
        let doubt = self.agreement.look(now, &router, &scraped);
        self.has_pods |= !scraped.pods.is_empty();
        if self.has_pods {
            router.pods.clear();
        }
        Sample {
            doubt,
            ..merge(router, scraped, &self.owned)
        }
    }

    fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        self.router.expect_canary_traffic(since);
        self.scraped.expect_canary_traffic(since);
    }
}

/// One sample of two; `owned` are the metrics that only the router may report.
///
/// Condition and rates are the router's (it sees who gets traffic), unless it never measured anything. Per-pod
/// increments are the scraped ones where there are any, as a router knows revisions and not pods.
pub fn merge(router: Sample, scraped: Sample, owned: &BTreeSet<MetricName>) -> Sample {
    if owned.is_empty() {
        return scraped;
    }
    let mut merged = router;
    for (metric, sides) in scraped.observation.metrics {
        if !owned.contains(&metric) {
            merged.observation.metrics.insert(metric, sides);
        }
    }
    for (metric, source) in scraped.sources {
        if !owned.contains(&metric) {
            merged.sources.insert(metric, source);
        }
    }
    if !scraped.pods.is_empty() {
        merged.pods = scraped.pods;
    }
    merged.newest = merged.newest.max(scraped.newest);
    merged.notes.extend(scraped.notes);
    merged.found.extend(scraped.found);
    merged.found.sort();
    merged.found.dedup();
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::observation::{Increment, Observation, Sides};
    use crate::signals::{Condition, ERRORS, PodIncrement, Side};

    fn sample(condition: Condition, metrics: &[(&str, f64)], found: &str) -> Sample {
        let both = |value| Sides {
            canary: Some(Increment::Value(value)),
            stable: Some(Increment::Value(value)),
        };
        let metrics = metrics
            .iter()
            .map(|(metric, value)| ((*metric).to_owned(), both(*value)))
            .collect();
        Sample {
            observation: Observation { metrics },
            found: vec![found.to_owned()],
            ..Sample::empty(condition)
        }
    }

    fn owned() -> BTreeSet<MetricName> {
        BTreeSet::from([ERRORS.to_owned()])
    }

    #[test]
    fn the_router_is_preferred_and_scrapes_add_what_it_has_not() {
        let router = sample(Condition::CanarySilent, &[(ERRORS, 1.0)], "router");
        let pods = vec![PodIncrement {
            pod: "a".to_owned(),
            side: Side::Stable,
            requests: 2.0,
            errors: 0.0,
        }];
        let scraped = Sample {
            pods: pods.clone(),
            ..sample(Condition::Measured, &[(ERRORS, 2.0), ("lag", 3.0)], "http")
        };
        let mut expected = sample(Condition::CanarySilent, &[(ERRORS, 1.0), ("lag", 3.0)], "http");
        expected.found.push("router".to_owned());
        expected.pods = pods;
        assert_eq!(merge(router, scraped, &owned()), expected);
    }

    #[test]
    fn a_metric_stays_with_the_router_while_it_is_away() {
        let away = Sample::empty(Condition::SourceDown {
            reason: "router away".to_owned(),
        });
        let scraped = sample(Condition::Measured, &[(ERRORS, 2.0)], "http");
        let merged = merge(away.clone(), scraped.clone(), &owned());
        assert_eq!(
            (merged.observation, merged.condition),
            (Observation::default(), away.condition.clone())
        );
        assert_eq!(
            merge(away, scraped.clone(), &BTreeSet::new()),
            scraped,
            "a router that never measured is no source"
        );
    }

    /// Counts so many requests of either side with every look.
    struct Counting(f64);

    impl Signals for Counting {
        fn take(&mut self, now: Timestamp) -> Sample {
            let counts = Some(Increment::Counts {
                total: self.0,
                bad: 0.0,
            });
            let sides = Sides {
                canary: counts.clone(),
                stable: counts,
            };
            let pod = |side: Side| PodIncrement {
                pod: side.to_string(),
                side,
                requests: self.0,
                errors: 0.0,
            };
            Sample {
                observation: Observation {
                    metrics: [(ERRORS.to_owned(), sides)].into(),
                },
                newest: Some(now),
                pods: Side::BOTH.map(pod).to_vec(),
                ..Sample::empty(Condition::Measured)
            }
        }
    }

    #[test]
    fn what_both_count_is_compared_and_told_if_it_differs() {
        let doubt_after_a_minute = |pods: f64| {
            let mut merged = Merged::new(Counting(100.0), Counting(pods));
            let second = |s: i64| Timestamp::from_second(1_000_000 + s).unwrap();
            (1..=60).map(|s| merged.take(second(s)).doubt).next_back().flatten()
        };
        assert_eq!(doubt_after_a_minute(95.0), None);
        let doubt = doubt_after_a_minute(50.0).unwrap();
        assert_eq!(doubt.router, 2.0 * doubt.pods);
    }
}
