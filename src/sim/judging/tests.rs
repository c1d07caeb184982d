//! The trials themselves, on few releases: the numbers of the documentation take many (`wade judge simulate`).

use super::count::{STAGES, play, quantile, scenarios};
use super::early::early;
use super::lines;
use super::promote::promotions;
use super::scenarios::{SCENARIOS, Truth, bursty, failing};
use super::settings::{Reader, Settings};
use super::speed::speeds;
use super::trial::{Stage, Trial};
use crate::judge::stdio;

const CAREFUL: [Stage; 3] = [stage(0.05, 0.2, 300.0), stage(0.2, 0.5, 300.0), stage(0.5, 1.0, 600.0)];

const fn stage(weight: f64, next_weight: f64, max_s: f64) -> Stage {
    Stage {
        weight,
        next_weight,
        min_s: 60.0,
        max_s,
    }
}

#[test]
fn there_are_enough_kinds_and_no_two_have_one_name() {
    assert!(scenarios(Truth::Healthy).count() >= 24 && scenarios(Truth::Bad).count() >= 26);
    let mut names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SCENARIOS.len());
    assert!(bursty().count() >= 5);
}

#[test]
fn a_seed_is_a_release_whoever_judges_it() {
    let scenario = &failing(0.2);
    let seen = |settings: Settings| {
        let mut looks = Vec::new();
        let mut trial = Trial::new(scenario, 7);
        let history = trial.history();
        let mut reader = Reader::new(settings.config(scenario), history.as_ref());
        trial.play(&STAGES, |look| {
            looks.push((look.t_s, look.canary.map(<[f64]>::to_vec)));
            reader.look(look)
        });
        looks
    };
    let (reference, auto) = (seen(Settings::Reference), seen(Settings::Auto));
    assert!(auto.len() < reference.len(), "auto is faster");
    assert_eq!(auto[..], reference[..auto.len()]);
}

#[test]
fn two_of_each_kind_are_judged_as_they_should_be() {
    for scenario in &SCENARIOS {
        for settings in [Settings::Usual, Settings::Auto] {
            let row = play(scenario, settings, &STAGES, 2, 11);
            match scenario.truth {
                Truth::Healthy => assert_eq!(row.rolled_back, 0, "{row:?}"),
                Truth::Bad => assert_eq!(row.rolled_back, 2, "{row:?}"),
                Truth::Beyond => {}
            }
        }
    }
}

#[test]
fn a_canary_that_is_down_is_found_in_8_s_and_one_that_fails_half_in_45_or_20() {
    for speed in speeds(30, 3) {
        let limit = match (speed.fails == 1.0, speed.row.settings) {
            (true, "default" | "auto") => 8.0,
            (false, "default") => 45.0,
            (false, "auto") => 20.0,
            _ => continue,
        };
        if speed.every_s <= 2.0 {
            assert!(speed.row.p95_s.is_some_and(|seconds| seconds <= limit), "{speed:?}");
        }
    }
}

#[test]
fn a_healthy_release_with_much_traffic_is_with_everybody_in_five_minutes() {
    let much = promotions(&CAREFUL, 2.0, 6, 5).remove(0);
    assert_eq!((much.requests_per_second, much.proven), (1000.0, 6), "{much:?}");
    assert!(much.median_s.is_some_and(|median| median <= 300.0), "{much:?}");
}

#[test]
fn what_is_enough_of_stables_past_is_and_what_is_none_is_not() {
    let enough = early(4, 30, 60.0, &CAREFUL, 40, 5);
    assert!(enough.worst <= 0.1 && enough.mean <= 0.03, "{enough:?}");
    let none = early(4, 0, 60.0, &CAREFUL, 10, 5);
    assert!(none.mean > 0.2, "{none:?}");
}

#[test]
fn lines_are_judged_as_the_releases_that_they_tell() {
    let scenario = &failing(0.5);
    let mut text = Vec::new();
    let looks = lines::write(scenario, &STAGES, 0..1, 1, &mut text).unwrap();
    let mut answers = Vec::new();
    stdio::serve(text.as_slice(), &mut answers).unwrap();
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.lines().count() as u64, looks);
    let row = play(scenario, Settings::Reference, &STAGES, 1, 1);
    let first = answers.lines().position(|line| line.contains("\"fail\"")).unwrap();
    assert_eq!(row.looks, first as u64 + 1);
}

#[test]
fn quantiles_are_values_that_were_seen() {
    assert_eq!(quantile(&[], 0.5), None);
    assert_eq!(quantile(&[1.0, 2.0, 9.0], 0.5), Some(2.0));
    assert_eq!(quantile(&[1.0, 2.0, 9.0], 0.95), Some(9.0));
}
