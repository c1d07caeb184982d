use proptest::prelude::*;

use super::*;

const BEGAN: i64 = 1_000;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(BEGAN + secs).unwrap()
}

fn scrape(target: &str, secs: i64, counters: &[(&str, f64)]) -> Scrape<String> {
    let readings = counters
        .iter()
        .map(|(series, value)| Reading {
            series: (*series).to_owned(),
            meaning: (*series).to_owned(),
            value: Value::Count(*value),
            reset: ResetRule::FromZero,
        })
        .collect();
    Scrape {
        target: target.to_owned(),
        at: at(secs),
        started: None,
        readings,
    }
}

fn counts(added: Vec<(String, Value)>) -> Vec<(String, f64)> {
    added
        .into_iter()
        .map(|(series, value)| (series, value.total()))
        .collect()
}

/// A state whose first round saw pod `a` with these counters.
fn after_baseline(counters: &[(&str, f64)]) -> SeriesState {
    let mut state = SeriesState::new(at(0));
    assert_eq!(
        state.observe(scrape("a", 0, counters)),
        vec![],
        "the first look is a baseline"
    );
    state.establish();
    state
}

#[test]
fn increments_follow_the_rules() {
    /// (claim, target, seconds, counters, expected increments)
    type Case = (
        &'static str,
        &'static str,
        i64,
        &'static [(&'static str, f64)],
        &'static [(&'static str, f64)],
    );
    let table: &[Case] = &[
        ("growth is counted", "a", 1, &[("ok", 110.0)], &[("ok", 10.0)]),
        ("the same timestamp is no news", "a", 1, &[("ok", 999.0)], &[]),
        ("an older sample is no news", "a", 0, &[("ok", 999.0)], &[]),
        ("no growth is no increment", "a", 2, &[("ok", 110.0)], &[]),
        (
            "a label set that appears counts from 0",
            "a",
            3,
            &[("ok", 111.0), ("err", 3.0)],
            &[("err", 3.0), ("ok", 1.0)],
        ),
        (
            "a vanished series contributes nothing",
            "a",
            4,
            &[("err", 4.0)],
            &[("err", 1.0)],
        ),
        (
            "it returns higher: the difference",
            "a",
            5,
            &[("ok", 120.0), ("err", 4.0)],
            &[("ok", 9.0)],
        ),
        (
            "lower is a reset and counts from 0",
            "a",
            6,
            &[("ok", 7.0), ("err", 1.0)],
            &[("err", 1.0), ("ok", 7.0)],
        ),
        (
            "NaN, infinite and negative are not read",
            "a",
            7,
            &[("ok", f64::NAN), ("err", f64::INFINITY), ("x", -1.0)],
            &[],
        ),
        (
            "and what follows continues from before",
            "a",
            8,
            &[("ok", 9.0), ("err", 1.0)],
            &[("ok", 2.0)],
        ),
        (
            "a pod that appears counts from 0",
            "b",
            8,
            &[("ok", 5.0)],
            &[("ok", 5.0)],
        ),
    ];
    let mut state = after_baseline(&[("ok", 100.0)]);
    for (claim, target, secs, counters, expected) in table {
        let expected: Vec<_> = expected.iter().map(|(series, n)| ((*series).to_owned(), *n)).collect();
        assert_eq!(
            counts(state.observe(scrape(target, *secs, counters))),
            expected,
            "{claim}"
        );
    }
}

#[test]
fn an_unknown_pod_that_started_before_we_began_is_a_baseline() {
    let mut state = after_baseline(&[]);
    let old = Scrape {
        started: Some(at(-3600)),
        ..scrape("old", 5, &[("ok", 1e6)])
    };
    assert_eq!(state.observe(old), vec![]);
    assert_eq!(
        counts(state.observe(scrape("old", 6, &[("ok", 1e6 + 2.0)]))),
        [("ok".to_owned(), 2.0)]
    );
}

#[test]
fn a_pod_known_to_be_new_counts_from_zero_even_in_the_first_round() {
    let mut state = SeriesState::new(at(0));
    let new = Scrape {
        started: Some(at(1)),
        ..scrape("new", 2, &[("ok", 3.0)])
    };
    assert_eq!(counts(state.observe(new)), [("ok".to_owned(), 3.0)]);
}

#[test]
fn a_restart_shown_by_the_start_time_counts_from_zero_although_the_counter_is_higher() {
    let mut state = SeriesState::new(at(0));
    state.observe(Scrape {
        started: Some(at(-50)),
        ..scrape("a", 0, &[("ok", 5.0)])
    });
    state.establish();
    let restarted = Scrape {
        started: Some(at(3)),
        ..scrape("a", 9, &[("ok", 8.0)])
    };
    assert_eq!(counts(state.observe(restarted)), [("ok".to_owned(), 8.0)]);
}

fn histogram(secs: i64, le: &[f64], cumulative: &[f64]) -> Scrape<()> {
    let value = Value::Buckets {
        le: le.into(),
        cumulative: cumulative.to_vec(),
    };
    let reading = Reading {
        series: "h".to_owned(),
        meaning: (),
        value,
        reset: ResetRule::FromZero,
    };
    Scrape {
        target: "a".to_owned(),
        at: at(secs),
        started: None,
        readings: vec![reading],
    }
}

#[test]
fn one_bucket_that_goes_down_resets_the_whole_histogram() {
    let le = [0.1, 1.0];
    let mut state = SeriesState::new(at(0));
    state.observe(histogram(0, &le, &[5.0, 10.0, 10.0]));
    state.establish();
    let buckets = |cumulative: &[f64]| {
        vec![(
            (),
            Value::Buckets {
                le: le.into(),
                cumulative: cumulative.to_vec(),
            },
        )]
    };
    assert_eq!(
        state.observe(histogram(1, &le, &[6.0, 12.0, 13.0])),
        buckets(&[1.0, 2.0, 3.0])
    );
    assert_eq!(
        state.observe(histogram(2, &le, &[2.0, 20.0, 20.0])),
        buckets(&[2.0, 20.0, 20.0])
    );
}

#[test]
fn changed_bucket_bounds_are_a_new_baseline() {
    let mut state = SeriesState::new(at(0));
    state.observe(histogram(0, &[0.1], &[5.0, 10.0]));
    state.establish();
    assert_eq!(state.observe(histogram(1, &[0.2], &[50.0, 100.0])), vec![]);
    let added = Value::Buckets {
        le: [0.2].into(),
        cumulative: vec![1.0, 1.0],
    };
    assert_eq!(state.observe(histogram(2, &[0.2], &[51.0, 101.0])), vec![((), added)]);
}

#[test]
fn a_sum_over_pods_drops_the_fall_and_the_return_of_a_pod() {
    let mut state = SeriesState::new(at(0));
    let mut seen = Vec::new();
    for (secs, sum) in [
        (0, 1000.0),
        (1, 1010.0),
        (2, 600.0),
        (3, 605.0),
        (4, 1030.0),
        (5, 1040.0),
    ] {
        let mut sum = scrape("side", secs, &[("sum", sum)]);
        sum.readings[0].reset = ResetRule::Drop;
        seen.push(state.observe(sum).first().map_or(0.0, |(_, value)| value.total()));
        state.establish();
    }
    assert_eq!(seen, [0.0, 10.0, 0.0, 5.0, 0.0, 10.0]);
}

#[test]
fn memory_is_bounded_and_a_forgotten_pod_returns_as_a_baseline() {
    let mut state = after_baseline(&[("ok", 100.0)]);
    let later = FORGET_AFTER.as_secs() + 1;
    state.observe(scrape("b", later, &[("ok", 1.0)]));
    state.forget_gone();
    assert_eq!(state.followed(), 1, "only b is followed");
    assert_eq!(state.observe(scrape("a", later + 1, &[("ok", 5000.0)])), vec![]);
    assert_eq!(
        counts(state.observe(scrape("a", later + 2, &[("ok", 5001.0)]))),
        [("ok".to_owned(), 1.0)]
    );
}

#[test]
fn series_beyond_the_limit_are_not_followed_and_never_counted_from_zero_later() {
    let mut state = SeriesState::new(at(0));
    let names: Vec<String> = (0..=MAX_FOLLOWED).map(|i| format!("{i:06}")).collect();
    let all: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 7.0)).collect();
    state.observe(scrape("a", 0, &all));
    state.establish();
    assert_eq!(state.followed(), MAX_FOLLOWED);
    state.followed -= 10; // As if others had been forgotten.
    assert_eq!(state.observe(scrape("a", 1, &all)), vec![]);
}

/// What a simulated process does between two moments.
#[derive(Clone, Debug)]
enum Event {
    Requests(u32),
    Restart,
    Scraped,
    ScrapedLate,
    ScrapedTwice,
}

fn events() -> impl Strategy<Value = Vec<(usize, Event)>> {
    let event = prop_oneof![
        4 => (1_u32..50).prop_map(Event::Requests),
        1 => Just(Event::Restart),
        4 => Just(Event::Scraped),
        1 => Just(Event::ScrapedLate),
        1 => Just(Event::ScrapedTwice),
    ];
    proptest::collection::vec((0_usize..3, event), 0..80)
}

proptest! {
    /// Three processes count, restart, are scraped, missed, repeated and served from the past.
    #[test]
    fn evidence_never_comes_out_of_nothing(history in events(), before in 0_u32..1000) {
        let mut state = SeriesState::new(at(0));
        let mut counter = [f64::from(before); 3];
        for (i, count) in counter.iter().enumerate() {
            state.observe(scrape(&i.to_string(), 0, &[("ok", *count)]));
        }
        state.establish();
        let (mut truth, mut counted, mut clock) = (0.0, 0.0, 0);
        for (i, event) in history {
            clock += 1;
            let name = i.to_string();
            let mut see = |secs, count| counts(state.observe(scrape(&name, secs, &[("ok", count)])));
            let seen = match event {
                Event::Requests(n) => { counter[i] += f64::from(n); truth += f64::from(n); vec![] }
                Event::Restart => { counter[i] = 0.0; vec![] }
                Event::Scraped => see(clock, counter[i]),
                Event::ScrapedLate => see(-1, counter[i] / 2.0),
                Event::ScrapedTwice => { let mut seen = see(clock, counter[i]); seen.extend(see(clock, counter[i])); seen }
            };
            for (_, n) in seen {
                prop_assert!(n > 0.0);
                counted += n;
            }
        }
        prop_assert!(counted <= truth, "counted {counted} of {truth}");
    }

    /// Without restarts and with a last scrape, nothing is lost either.
    #[test]
    fn without_resets_everything_is_counted_once(steps in proptest::collection::vec(0_u32..50, 1..40)) {
        let mut state = after_baseline(&[("ok", 123.0)]);
        let (mut truth, mut counted) = (0.0, 0.0);
        for (i, n) in (1..).zip(&steps) {
            truth += f64::from(*n);
            counted += counts(state.observe(scrape("a", i, &[("ok", 123.0 + truth)]))).iter().map(|(_, n)| n).sum::<f64>();
        }
        prop_assert_eq!(counted, truth);
    }
}
