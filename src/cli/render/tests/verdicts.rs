//! `wade why` on verdicts that the real judge gave: what a person reads when it failed, passed, bakes or does not know.

use super::*;
use crate::judge::config::{GaugeConfig, MetricConfig, MetricKind};
use crate::judge::{Config, History, Increment, Judge, Observation};

/// What one look counts: per side requests, how many of them fail, and how many of a hundred take longer than 250 ms.
#[derive(Clone, Copy)]
struct Second {
    canary: (f64, f64, f64),
    stable: (f64, f64, f64),
}

fn observation(second: Second) -> Observation {
    let counts = |(total, bad, _): (f64, f64, f64)| Some(Increment::Counts { total, bad });
    let latency = |(total, _, slow): (f64, f64, f64)| {
        let slow = total * slow / 100.0;
        let counts = vec![total * 0.5, total * 0.5 - slow, slow * 0.9, slow * 0.1];
        (total > 0.0).then(|| Increment::Histogram {
            le: [0.1, 0.25, 1.0].into(),
            counts,
        })
    };
    let Second { canary, stable } = second;
    let mut seen = Observation::default();
    seen.metrics.insert(
        "errors".to_owned(),
        Sides {
            canary: counts(canary),
            stable: counts(stable),
        },
    );
    seen.metrics.insert(
        "latency".to_owned(),
        Sides {
            canary: latency(canary),
            stable: latency(stable),
        },
    );
    seen
}

fn calm() -> History {
    History {
        block_s: 300.0,
        pods: vec![vec![(30_000.0, 30.0); 6]; 4],
    }
}

/// The judge and the course of a release whose first stage begins at 14 s.
struct Watched {
    judge: Judge,
    course: Course,
    t_s: f64,
    last: Option<Verdict>,
}

impl Watched {
    fn new(history: Option<&History>) -> Self {
        let mut judge = Judge::new(Config::default(), history);
        judge.start_stage(0, 14.0, 0.5);
        Self {
            judge,
            course: Course::default(),
            t_s: 14.0,
            last: None,
        }
    }

    fn looks(&mut self, seconds: u32, second: Second) {
        for _ in 0..seconds {
            self.t_s += 1.0;
            let mut verdict = self.judge.look(self.t_s, &observation(second));
            verdict
                .name_sources(|metric| (metric == "errors").then(|| "http_requests_total on each instance".to_owned()));
            self.course.push(self.t_s, &verdict);
            self.last = Some(verdict);
        }
    }

    /// The page of a release that stands here.
    fn page(self, events: Vec<(i64, Event, &str)>) -> String {
        let mut record = release(events, &[]);
        record.verdict = self.last.map(Box::new);
        record.course = self.course;
        let page = why(&record, &TimeZone::UTC, false);
        let wide: Vec<&str> = page.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "wider than a terminal: {wide:#?}");
        page
    }
}

const HEALTHY: Second = Second {
    canary: (50.0, 0.05, 2.0),
    stable: (950.0, 0.95, 2.0),
};

#[test]
fn a_canary_that_failed() {
    let mut seen = Watched::new(None);
    seen.looks(20, HEALTHY);
    let worse = Second {
        canary: (50.0, 3.0, 2.0),
        ..HEALTHY
    };
    while seen.last.as_ref().is_none_or(|last| last.call != Call::Fail) {
        seen.looks(1, worse);
    }
    let reason = seen.last.as_ref().unwrap().reason.clone();
    let at = seen.t_s as i64;
    let mut events = beginning();
    let outcome = Outcome::RolledBack;
    let retreated = Event::Retreated {
        command: None,
        outcome,
        reason: reason.clone(),
    };
    events.push((at, retreated, &reason));
    insta::assert_snapshot!(seen.page(events));
}

#[test]
fn a_stage_that_knows_too_little() {
    let mut seen = Watched::new(None);
    seen.looks(
        84,
        Second {
            canary: (1.0, 0.0, 2.0),
            stable: (19.0, 0.02, 2.0),
        },
    );
    assert_eq!(seen.last.as_ref().unwrap().call, Call::Undecided);
    insta::assert_snapshot!(seen.page(beginning()));
}

#[test]
fn a_stage_that_passed() {
    let mut seen = Watched::new(Some(&calm()));
    while seen.last.as_ref().is_none_or(|last| last.call != Call::Pass) {
        seen.looks(1, HEALTHY);
    }
    let reason = seen.last.as_ref().unwrap().reason.clone();
    let mut events = beginning();
    events.push((seen.t_s as i64, Event::StageEnded { proof: Proof::Passed }, &reason));
    insta::assert_snapshot!(seen.page(events));
}

#[test]
fn a_bake() {
    let mut seen = Watched::new(Some(&calm()));
    seen.looks(100, HEALTHY);
    seen.judge.start_bake(seen.t_s);
    seen.looks(
        60,
        Second {
            canary: (1_000.0, 4.0, 2.0),
            stable: (0.0, 0.0, 0.0),
        },
    );
    insta::assert_snapshot!(seen.page(beginning()));
}

#[test]
fn a_gauge_has_no_range_and_says_so() {
    let gauge = MetricKind::Gauge(GaugeConfig::default());
    let config = Config {
        metrics: vec![MetricConfig::new("queue", gauge)],
        ..Config::default()
    };
    let mut judge = Judge::new(config, None);
    let mut seen = Observation::default();
    let value = |value| Some(Increment::Value(value));
    let sides = Sides {
        canary: value(17.0),
        stable: value(12.5),
    };
    seen.metrics.insert("queue".to_owned(), sides);
    insta::assert_snapshot!(whole(&judge.look(30.0, &seen)));
}

#[test]
fn a_range_never_excludes_more_than_was_shown() {
    let told = |low, high| {
        range(&Interval {
            confidence: 0.95,
            low,
            high,
        })
    };
    assert_eq!(told(Some(1.86), Some(3.01)), "x1.8 to x3.1");
    assert_eq!(told(Some(171.2), None), "x170 or more");
    assert_eq!(told(None, Some(0.0421)), "at most x0.043");
    assert_eq!(told(None, None), "nothing is excluded yet");
}

#[test]
fn a_chart_of_much_more_than_is_needed_keeps_the_bound_in_sight() {
    let mut course = Course::default();
    let seen = verdict(Call::Fail, (50.0, 100.0), (1.0, 1_000.0), 40.0, "");
    for second in 1..=80 {
        let mut verdict = seen.clone();
        verdict.evidence = f64::from(second) / 2.0 - 4.0;
        course.push(f64::from(second), &verdict);
    }
    insta::assert_snapshot!(chart(&course, 100f64.ln(), since_start));
    let mut one = Course::default();
    one.push(1.0, &seen);
    // A canary that is down at the first look has one column, and it is drawn.
    let drawn = chart(&one, 100f64.ln(), since_start);
    assert!(
        drawn.contains("canary │█  at most 50 %") && drawn.matches("00:01").count() == 1,
        "{drawn}"
    );
    assert_eq!(chart(&Course::default(), 100f64.ln(), since_start), "");
}
