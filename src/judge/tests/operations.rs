//! Traces in the judge: what hides in one operation, errors that are new, and healthy canaries that have both.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::judge::config::OperationsConfig;
use crate::judge::observation::{CountsDiffer, OperationCounts, Operations, SignatureCounts};
use crate::judge::verdict::Seen;

const TRACES: &str = "traces";
/// Seconds between two looks; exporters send in batches.
const LOOK_S: u32 = 5;
/// Latency buckets of the tests, in seconds.
const LE: [f64; 4] = [0.01, 0.033, 0.1, 1.0];

fn traces() -> MetricConfig {
    MetricConfig::new(TRACES, MetricKind::Operations(OperationsConfig::default()))
}

/// An operation, its requests, and its errors as kind and count.
type Did<'a> = (&'a str, f64, &'a [(&'a str, f64)]);

/// What one side did as its increment, every request in the second bucket.
fn side(of: &[Did<'_>]) -> Option<Increment> {
    let by_name = of
        .iter()
        .map(|(name, requests, errors)| {
            let signatures = errors
                .iter()
                .map(|(kind, count)| SignatureCounts {
                    kind: (*kind).to_owned(),
                    message: "upstream ? refused".to_owned(),
                    count: *count,
                    seen_on_stable: false,
                    examples: vec!["4bf92f3577b34da6a3ce929d0e0e4736".to_owned()],
                })
                .collect();
            let counts = OperationCounts {
                requests: *requests,
                errors: errors.iter().map(|(_, count)| count).sum(),
                latency: vec![0.0, *requests, 0.0, 0.0, 0.0],
                signatures,
            };
            ((*name).to_owned(), counts)
        })
        .collect();
    let le = LE.into();
    Some(Increment::Operations(Operations { le, by_name }))
}

#[test]
fn the_operation_that_hides_a_fault_and_the_new_error_are_named_with_a_trace() {
    let mut judge = at_stage_one(with(vec![errors(), traces()]), None);
    let each = seen(
        TRACES,
        side(&[("GET /", 99.0, &[]), ("POST /pay", 1.0, &[("PaymentError", 1.0)])]),
        side(&[("GET /", 990.0, &[("Timeout", 1.0)]), ("POST /pay", 10.0, &[])]),
    );
    let (t, verdict) = look_until(&mut judge, 0, 600, &each);
    assert_eq!(verdict.call, Call::Fail, "{}", verdict.reason);
    assert!(t <= 150, "after {t} s");
    assert_eq!(verdict.blame.as_deref(), Some(TRACES));
    let n = t / 5;
    let expected = format!(
        "traces: POST /pay canary {n} of {n} (100 %) failed, stable 0 of {}; new error PaymentError: upstream ? refused on {n} of",
        n * 10
    );
    assert!(verdict.reason.starts_with(&expected), "{}\n{expected}", verdict.reason);
    assert!(
        verdict.reason.contains("; trace 4bf92f3577b34da6a3ce929d0e0e4736;"),
        "{}",
        verdict.reason
    );
}

#[test]
fn a_single_stray_error_and_a_single_burst_never_fail_a_canary() {
    for (count, looks) in [(1.0, 1), (30.0, 1), (200.0, 3)] {
        let mut judge = at_stage_one(with(vec![traces()]), None);
        let quiet = seen(TRACES, side(&[("GET /", 50.0, &[])]), side(&[("GET /", 950.0, &[])]));
        let burst = seen(
            TRACES,
            side(&[("GET /", 250.0, &[("Stray", count)])]),
            side(&[("GET /", 950.0, &[])]),
        );
        look_until(&mut judge, 0, 60, &quiet);
        let (_, verdict) = look_until(&mut judge, 60, 60 + looks * 5, &burst);
        assert_eq!(
            verdict.call,
            Call::Undecided,
            "{count} in {looks} looks: {}",
            verdict.reason
        );
        let (_, verdict) = look_until(&mut judge, 60 + looks * 5, 600, &quiet);
        assert_eq!(verdict.call, Call::Undecided);
    }
}

#[test]
fn traces_never_pass_and_do_not_keep_others_from_passing() {
    let healthy = side(&[("GET /", 500.0, &[])]);
    let mut alone = at_stage_one(with(vec![traces()]), Some(&quiet()));
    let (_, verdict) = look_until(&mut alone, 0, 900, &seen(TRACES, healthy.clone(), healthy));
    assert_eq!(verdict.call, Call::Undecided);
    assert!(
        verdict.reason.starts_with("undecided: traces alone prove nothing"),
        "{}",
        verdict.reason
    );

    let passes_after = |metrics| {
        let mut judge = at_stage_one(with(metrics), Some(&quiet()));
        let each = counts("errors", Some((500.0, 0.0)), Some((500.0, 0.0)));
        let (t, verdict) = look_until(&mut judge, 0, 900, &each);
        assert_eq!(verdict.call, Call::Pass);
        t
    };
    assert_eq!(passes_after(vec![errors(), traces()]), passes_after(vec![errors()]));
}

#[test]
fn traces_that_may_only_hold_hold_and_do_not_fail() {
    let config = OperationsConfig {
        only_hold: true,
        ..OperationsConfig::default()
    };
    let metric = MetricConfig::new(TRACES, MetricKind::Operations(config));
    let mut judge = at_stage_one(with(vec![errors(), metric]), Some(&quiet()));
    let mut each = seen(
        TRACES,
        side(&[("POST /pay", 50.0, &[("PaymentError", 50.0)])]),
        side(&[("POST /pay", 950.0, &[])]),
    );
    each.metrics
        .extend(counts("errors", Some((500.0, 0.0)), Some((500.0, 0.0))).metrics);
    let (_, verdict) = look_until(&mut judge, 0, 300, &each);
    assert_eq!((verdict.call, verdict.suspicious), (Call::Undecided, true));
    assert!(verdict.evidence < verdict.needed);
    assert!(verdict.reason.starts_with("held: traces: "), "{}", verdict.reason);
}

#[test]
fn a_slower_operation_is_found() {
    let mut judge = at_stage_one(with(vec![traces()]), None);
    let slow = |n: f64, at: usize| {
        let mut latency = vec![0.0; LE.len() + 1];
        latency[at] = n;
        let counts = OperationCounts {
            requests: n,
            latency,
            ..OperationCounts::default()
        };
        let by_name = [("GET /search".to_owned(), counts)].into();
        Some(Increment::Operations(Operations { le: LE.into(), by_name }))
    };
    let same = seen(TRACES, slow(10.0, 1), slow(200.0, 1));
    let (_, verdict) = look_until(&mut judge, 0, 90, &same);
    assert_eq!(verdict.call, Call::Undecided);
    let slower = seen(TRACES, slow(10.0, 3), slow(200.0, 1));
    let (t, verdict) = look_until(&mut judge, 90, 600, &slower);
    assert_eq!(verdict.call, Call::Fail, "{}", verdict.reason);
    assert!(t <= 240, "after {t} s");
    assert!(
        verdict.reason.contains("GET /search canary") && verdict.reason.contains("slower than"),
        "{}",
        verdict.reason
    );
}

#[test]
fn looks_without_spans_change_nothing_and_nonsense_is_dropped() {
    let mut judge = at_stage_one(with(vec![traces()]), None);
    let good = seen(
        TRACES,
        side(&[("GET /", 5.0, &[("Odd", 1.0)])]),
        side(&[("GET /", 95.0, &[])]),
    );
    look_until(&mut judge, 0, 30, &good);
    let before = judge.clone();
    judge.look(400.0, &seen(TRACES, side(&[]), None));
    assert_eq!(judge, before);
    let nonsense = [
        side(&[("GET /", f64::NAN, &[])]),
        side(&[("GET /", 1.0, &[("Odd", -1.0)])]),
        Some(Increment::Value(1.0)),
    ];
    for odd in nonsense {
        judge.look(405.0, &seen(TRACES, odd, None));
    }
    let verdict = judge.look(410.0, &Observation::default());
    assert_eq!(verdict.metrics[0].dropped, 3);
}

#[test]
fn a_canary_with_a_thousand_operations_and_errors_costs_a_bounded_record() {
    let mut judge = at_stage_one(with(vec![traces()]), None);
    for look in 1..=100u32 {
        let long = "x".repeat(120);
        let names: Vec<(String, String)> = (0..50)
            .map(|i| (format!("GET /{look}/{i}/{long}"), format!("Err{look}-{i}")))
            .collect();
        let junk: Vec<_> = names
            .iter()
            .map(|(name, kind)| (name.as_str(), 1.0, vec![(kind.as_str(), 1.0)]))
            .collect();
        let mut canary: Vec<Did<'_>> = junk.iter().map(|(n, r, e)| (*n, *r, e.as_slice())).collect();
        canary.push(("GET /", 5.0, &[]));
        judge.look(
            f64::from(look * LOOK_S),
            &seen(TRACES, side(&canary), side(&[("GET /", 95.0, &[])])),
        );
    }
    let saved = serde_json::to_string(&judge).unwrap();
    assert!(saved.len() < 200_000, "{} bytes", saved.len());
    let loaded: Judge = serde_json::from_str(&saved).unwrap();
    assert_eq!(loaded, judge);
    let shown = serde_json::to_string(&judge.look(600.0, &Observation::default())).unwrap();
    assert!(shown.len() < 16_000, "{} bytes", shown.len());
    // What stable does has kept its account although the canary brought so much.
    let Seen::Operations { requests, known, .. } = judge.look(600.0, &Observation::default()).metrics[0].seen.clone()
    else {
        panic!("not operations");
    };
    assert!(known <= 34 && requests.stable == 9500.0);
}

#[test]
fn saved_and_loaded_anywhere_it_says_the_same() {
    let config = with(vec![errors(), traces()]);
    let (mut one, mut other) = (at_stage_one(config.clone(), None), at_stage_one(config, None));
    let mut world = World::new(7, &SHOP, 100.0, 0.2);
    for t in (LOOK_S..=300).step_by(LOOK_S as usize) {
        let seen = world.look(|_| {});
        let (a, b) = (one.look(f64::from(t), &seen), other.look(f64::from(t), &seen));
        assert_eq!(a, b);
        other = serde_json::from_str(&serde_json::to_string(&other).unwrap()).unwrap();
    }
}

#[test]
fn while_router_and_pods_disagree_nothing_passes_and_both_counts_are_told() {
    let differ = CountsDiffer {
        of_canary: true,
        router: 1240.0,
        pods: 310.0,
        over_s: 60.0,
    };
    let mut judge = at_stage_one(with(vec![errors()]), Some(&quiet()));
    let fine = counts("errors", Some((500.0, 0.0)), Some((500.0, 0.0)));
    let (t, verdict) = look_until(&mut judge, 0, 900, &fine);
    assert_eq!(verdict.call, Call::Pass);
    let t = f64::from(t + 5);
    let doubted = judge.look_doubting(t, &fine, Some(differ));
    assert_eq!(doubted.call, Call::Undecided);
    let expected = "undecided: of the canary's requests in 60 s the router counted 1,240 and the pods 310, more than a fifth apart; so far errors canary 0 of";
    assert!(doubted.reason.starts_with(expected), "{}", doubted.reason);
    assert_eq!(judge.look_doubting(t + 5.0, &fine, None).call, Call::Pass);

    // A canary that refuses connections counts nothing, and fails all the same.
    let mut judge = at_stage_one(with(vec![errors()]), None);
    let down = counts("errors", Some((500.0, 500.0)), Some((500.0, 0.0)));
    let calls: Vec<Call> = (1..=12)
        .map(|look| judge.look_doubting(f64::from(look * 5), &down, Some(differ)).call)
        .collect();
    assert_eq!(calls.last(), Some(&Call::Fail));
}

/// A service: its operations, and how much of the traffic each has.
const SHOP: [(&str, f64); 5] = [
    ("GET /", 0.7),
    ("GET /items/?", 0.2),
    ("POST /cart", 0.08),
    ("POST /pay", 0.01),
    ("GET /orders", 0.01),
];

/// Two revisions with traffic by chance.
struct World {
    rng: ChaCha8Rng,
    operations: &'static [(&'static str, f64)],
    rps: f64,
    weight: f64,
    stable_knows: BTreeSet<(String, String)>,
}

/// Requests of one side, and errors by operation and kind.
#[derive(Default)]
struct Minute {
    requests: BTreeMap<&'static str, f64>,
    errors: BTreeMap<(&'static str, String), f64>,
}

impl World {
    fn new(seed: u64, operations: &'static [(&'static str, f64)], rps: f64, weight: f64) -> Self {
        World {
            rng: ChaCha8Rng::seed_from_u64(seed),
            operations,
            rps,
            weight,
            stable_knows: BTreeSet::new(),
        }
    }

    fn minute(&mut self, weight: f64) -> Minute {
        let mut minute = Minute::default();
        for (name, share) in self.operations {
            let mean = self.rps * weight * share * f64::from(LOOK_S);
            let n = poisson(&mut self.rng, mean);
            minute.requests.insert(name, n);
        }
        minute
    }

    /// The next look; `spoil` may change what the canary and stable did.
    fn look(&mut self, spoil: impl FnOnce((&mut ChaCha8Rng, &mut Minute, &mut Minute))) -> Observation {
        let (mut canary, mut stable) = (self.minute(self.weight), self.minute(1.0 - self.weight));
        spoil((&mut self.rng, &mut canary, &mut stable));
        for (operation, kind) in stable.errors.keys() {
            self.stable_knows.insert(((*operation).to_owned(), kind.clone()));
        }
        let tell = |minute: &Minute| {
            let mut by_name: BTreeMap<String, OperationCounts> = BTreeMap::new();
            for (name, n) in minute.requests.iter().filter(|(_, n)| **n > 0.0) {
                let counts = by_name.entry((*name).to_owned()).or_default();
                counts.requests = *n;
                counts.latency = vec![0.0, *n, 0.0, 0.0, 0.0];
            }
            for ((name, kind), count) in &minute.errors {
                let Some(counts) = by_name.get_mut(*name) else { continue };
                // No more errors than requests.
                let count = count.min(counts.requests - counts.errors);
                if count <= 0.0 {
                    continue;
                }
                counts.errors += count;
                counts.signatures.push(SignatureCounts {
                    kind: kind.clone(),
                    count,
                    seen_on_stable: self.stable_knows.contains(&((*name).to_owned(), kind.clone())),
                    ..SignatureCounts::default()
                });
            }
            Some(Increment::Operations(Operations { le: LE.into(), by_name }))
        };
        seen(TRACES, tell(&canary), tell(&stable))
    }
}

fn poisson(rng: &mut ChaCha8Rng, mean: f64) -> f64 {
    if mean > 50.0 {
        // Near enough for traffic: the normal with the same mean and variance, from twelve uniform numbers.
        let normal: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        return (mean + normal * mean.sqrt()).round().max(0.0);
    }
    let (mut product, limit, mut n) = (rng.random::<f64>(), (-mean).exp(), 0.0);
    while product > limit {
        product *= rng.random::<f64>();
        n += 1.0;
    }
    n
}

/// Errors of `minute` with chance `p` each, of a kind that `kind` draws.
fn sprinkle(rng: &mut ChaCha8Rng, minute: &mut Minute, p: f64, kind: impl Fn(&mut ChaCha8Rng) -> String) {
    let requests: Vec<_> = minute.requests.iter().map(|(name, n)| (*name, *n)).collect();
    for (name, n) in requests {
        for _ in 0..poisson(rng, n * p) as u32 {
            *minute.errors.entry((name, kind(rng))).or_default() += 1.0;
        }
    }
}

/// A pod's hiccup: 10 to 30 errors that say the same, in the busiest operation.
fn hiccup(rng: &mut ChaCha8Rng, minute: &mut Minute, per_look: f64) {
    for _ in 0..poisson(rng, per_look) as u32 {
        let kind = format!("Hiccup{}", rng.random_range(0..20));
        *minute.errors.entry(("GET /", kind)).or_default() += f64::from(rng.random_range(10..=30));
    }
}

type Spoil = fn((&mut ChaCha8Rng, &mut Minute, &mut Minute));

/// The share of rollouts of `minutes` that fail, and the median time to it.
fn failing(rps: f64, weight: f64, rollouts: u64, minutes: u32, spoil: Spoil) -> (f64, Option<u32>) {
    let mut times = Vec::new();
    for seed in 0..rollouts {
        let mut world = World::new(1000 + seed, &SHOP, rps, weight);
        let mut judge = at_stage_one(with(vec![traces()]), None);
        for t in (LOOK_S..=minutes * 60).step_by(LOOK_S as usize) {
            let seen = world.look(spoil);
            if judge.take_in(f64::from(t), &seen).call == Call::Fail {
                times.push(t);
                break;
            }
        }
    }
    times.sort_unstable();
    (
        times.len() as f64 / rollouts as f64,
        times.get(times.len() / 2).copied(),
    )
}

/// A long tail of errors, most of which happen once or never in a release.
fn one_off_errors((rng, canary, stable): (&mut ChaCha8Rng, &mut Minute, &mut Minute)) {
    let kind = |rng: &mut ChaCha8Rng| format!("OneOff{}", rng.random_range(0..100_000));
    sprinkle(rng, canary, 0.003, kind);
    sprinkle(rng, stable, 0.003, kind);
}

/// Thirty errors that are rare on both sides, so that the canary is often the first to show one.
fn rare_errors((rng, canary, stable): (&mut ChaCha8Rng, &mut Minute, &mut Minute)) {
    let kind = |rng: &mut ChaCha8Rng| format!("Rare{}", rng.random_range(0..30));
    sprinkle(rng, canary, 0.003, kind);
    sprinkle(rng, stable, 0.003, kind);
}

/// One pod of ten has a hiccup every eight minutes, whichever revision it runs.
fn hiccups((rng, canary, stable): (&mut ChaCha8Rng, &mut Minute, &mut Minute)) {
    let per_look = f64::from(LOOK_S) / 480.0;
    hiccup(rng, canary, per_look);
    hiccup(rng, stable, 9.0 * per_look);
}

/// An error of `GET /` is told in other words by the new version, on exactly the share of all requests that is no news.
fn at_the_stated_share((rng, canary, stable): (&mut ChaCha8Rng, &mut Minute, &mut Minute)) {
    for (minute, kind) in [(canary, "Told"), (stable, "ToldBefore")] {
        let all: f64 = minute.requests.values().sum();
        let count = poisson(rng, all * 0.001);
        if count > 0.0 {
            minute.errors.insert(("GET /", kind.to_owned()), count);
        }
    }
}

#[test]
fn healthy_canaries_are_failed_in_at_most_one_of_a_hundred_releases() {
    let scenarios: [(&str, Spoil); 4] = [
        ("one-off errors", one_off_errors),
        ("rare errors", rare_errors),
        ("hiccups", hiccups),
        ("at the stated share", at_the_stated_share),
    ];
    for (what, spoil) in scenarios {
        for (rps, weight) in [(200.0, 0.05), (100.0, 0.5), (10.0, 0.2)] {
            let (share, _) = failing(rps, weight, 300, 15, spoil);
            eprintln!("{what} at {rps}/s and {weight}: {:.1} % failed", share * 100.0);
            assert!(share <= 0.01, "{what} at {rps}/s and {weight}: {share}");
        }
    }
}

#[test]
fn what_hides_in_one_operation_is_found() {
    let pay_fails: Spoil = |(_, canary, _)| {
        let n = canary.requests["POST /pay"];
        canary.errors.insert(("POST /pay", "PaymentError".to_owned()), n);
    };
    let one_percent_is_new: Spoil = |(rng, canary, stable)| {
        sprinkle(rng, canary, 0.01, |_| "NullPointer".to_owned());
        sprinkle(rng, canary, 0.01, |_| "Timeout".to_owned());
        sprinkle(rng, stable, 0.01, |_| "Timeout".to_owned());
    };
    let half_a_percent_is_new: Spoil = |(rng, canary, _)| {
        sprinkle(rng, canary, 0.005, |_| "NullPointer".to_owned());
    };
    let table: [(&str, Spoil, f64, f64, u32); 5] = [
        ("an operation of 1 % that always fails", pay_fails, 100.0, 0.05, 240),
        ("an operation of 1 % that always fails", pay_fails, 1000.0, 0.05, 75),
        ("a new error on 1 %", one_percent_is_new, 100.0, 0.05, 400),
        ("a new error on 1 %", one_percent_is_new, 1000.0, 0.05, 90),
        ("a new error on 0.5 %", half_a_percent_is_new, 1000.0, 0.2, 120),
    ];
    for (what, spoil, rps, weight, within) in table {
        let (share, median) = failing(rps, weight, 60, 15, spoil);
        eprintln!(
            "{what} at {rps}/s and {weight}: {:.1} %, median {median:?} s",
            share * 100.0
        );
        assert!(
            share >= 0.98 && median.is_some_and(|median| median <= within),
            "{what}: {share} {median:?}"
        );
    }
}
