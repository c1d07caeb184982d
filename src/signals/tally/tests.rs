mod judged;

use super::*;
use crate::signals::Condition;
use crate::signals::exposition::{Format, parse};
use crate::signals::families::track;
use crate::signals::series::{Reading, ResetRule};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_000 + secs).unwrap()
}

fn pod(name: &str, side: Side, secs: i64, text: &str) -> PodScrape {
    let points = parse(format!("{text}\n").as_bytes(), Format::Classic).unwrap().points;
    let readings = track(&points)
        .into_iter()
        .map(|one| Reading {
            series: one.series,
            meaning: (side, Role::Known(one.family, one.meaning)),
            value: one.value,
            reset: ResetRule::FromZero,
        })
        .collect();
    let scrape = Scrape {
        target: name.to_owned(),
        at: at(secs),
        started: None,
        readings,
    };
    PodScrape {
        pod: name.to_owned(),
        sides: BTreeSet::from([side]),
        scrape,
    }
}

fn tally() -> Tally {
    Tally::new(at(0), Patience::default(), BTreeSet::new())
}

fn round(scrapes: Vec<PodScrape>) -> Round {
    Round {
        scrapes,
        ..Round::default()
    }
}

fn histogram(fast: u32, middle: u32, all: u32) -> String {
    format!(
        "http_request_duration_seconds_bucket{{code=\"200\",le=\"0.1\"}} {fast}\nhttp_request_duration_seconds_bucket{{code=\"200\",le=\"1\"}} {middle}\nhttp_request_duration_seconds_bucket{{code=\"200\",le=\"+Inf\"}} {all}"
    )
}

#[test]
fn two_families_on_one_pod_do_not_count_a_request_twice() {
    let text = |n: u32| {
        format!("http_requests_total{{code=\"200\"}} {n}\nhttp_request_duration_seconds_count{{code=\"200\"}} {n}")
    };
    let mut tally = tally();
    tally.round(at(0), round(vec![pod("a", Side::Stable, 0, &text(50))]));
    tally.round(at(1), round(vec![pod("a", Side::Stable, 1, &text(60))]));
    let errors = tally.take(at(1)).observation.metrics[ERRORS].clone();
    assert_eq!(
        errors,
        Sides {
            canary: None,
            stable: Some(Increment::Counts { total: 10.0, bad: 0.0 })
        }
    );
}

#[test]
fn histograms_with_other_bounds_are_compared_at_the_bounds_they_share() {
    let mut tally = tally();
    let canary = |n: u32| {
        format!(
            "http_request_duration_seconds_bucket{{le=\"0.5\"}} {n}\nhttp_request_duration_seconds_bucket{{le=\"1.0\"}} {n}\nhttp_request_duration_seconds_bucket{{le=\"+Inf\"}} {}",
            n + 1
        )
    };
    tally.round(at(0), round(vec![pod("a", Side::Stable, 0, &histogram(5, 8, 10))]));
    let scrapes = vec![
        pod("a", Side::Stable, 1, &histogram(7, 11, 14)),
        pod("b", Side::Canary, 1, &canary(3)),
    ];
    tally.round(at(1), round(scrapes));
    let buckets = |counts: [f64; 2]| {
        Some(Increment::Histogram {
            le: [1.0].into(),
            counts: counts.to_vec(),
        })
    };
    let latency = tally.take(at(1)).observation.metrics[LATENCY].clone();
    assert_eq!(
        latency,
        Sides {
            canary: buckets([3.0, 1.0]),
            stable: buckets([3.0, 1.0])
        }
    );
}

#[test]
fn a_family_without_status_gives_traffic_but_no_errors() {
    let mut tally = tally();
    for (secs, n) in [(0, 10), (1, 30)] {
        tally.round(
            at(secs),
            round(vec![pod("a", Side::Stable, secs, &format!("http_requests_total {n}"))]),
        );
    }
    let sample = tally.take(at(1));
    assert_eq!(sample.observation.metrics, BTreeMap::new());
    assert_eq!(
        (sample.condition, sample.rates.stable),
        (Condition::Measured, Some(20.0))
    );
    assert!(sample.notes[0].reason.contains("no status label"), "{:?}", sample.notes);
}

#[test]
fn a_measured_side_without_requests_has_zeros_and_an_unmeasured_one_nothing() {
    let mut tally = tally();
    let text = "http_requests_total{code=\"200\"} 5";
    tally.round(
        at(0),
        round(vec![pod("a", Side::Stable, 0, text), pod("b", Side::Canary, 0, "up 1")]),
    );
    let zeros = Some(Increment::Counts { total: 0.0, bad: 0.0 });
    let expected = Sides {
        canary: zeros.clone(),
        stable: zeros.clone(),
    };
    assert_eq!(tally.take(at(0)).observation.metrics[ERRORS], expected);
    tally.round(at(1), round(vec![pod("a", Side::Stable, 1, text)]));
    assert_eq!(
        tally.take(at(1)).observation.metrics[ERRORS],
        Sides {
            canary: None,
            stable: zeros
        }
    );
    assert_eq!(
        tally.take(at(2)).observation,
        Observation::default(),
        "nothing new is an empty observation"
    );
}

#[test]
fn an_old_pod_of_stable_that_is_met_late_is_a_baseline_and_a_new_canary_is_not() {
    let mut tally = tally();
    let text = |n: u32| format!("http_requests_total{{code=\"200\"}} {n}");
    tally.round(at(0), round(vec![pod("a", Side::Stable, 0, &text(5))]));
    let late = vec![
        pod("z", Side::Stable, 1, &text(1_000_000)),
        pod("c", Side::Canary, 1, &text(4)),
    ];
    tally.round(at(1), round(late));
    let counts = |total| Some(Increment::Counts { total, bad: 0.0 });
    let errors = tally.take(at(1)).observation.metrics[ERRORS].clone();
    assert_eq!(
        errors,
        Sides {
            canary: counts(4.0),
            stable: counts(0.0)
        }
    );
}

#[test]
fn notes_are_bounded_and_not_repeated() {
    let mut tally = tally();
    for i in 0..100 {
        let note = NoMeasurement::new(NoMeasurementKind::Slow, format!("slow {}", i / 2));
        tally.round(
            at(i),
            Round {
                failures: vec![(None, note)],
                ..Round::default()
            },
        );
    }
    assert_eq!(tally.take(at(100)).notes.len(), MAX_NOTES);
}
