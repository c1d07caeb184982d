//! Thousands of seeded releases through the unchanged controller, with faults and then quiet; see `wade::sim`.
//!
//! A failing seed is printed with the command that runs it again:
//! `WADE_SIM_SEED=17 cargo test --test simulation replay -- --nocapture`.

use std::fmt::Write as _;

use wade::sim::seen::Seen;
use wade::sim::{Breach, Run, check, generate, run};

/// How many seeds are tried; `WADE_SIM_SEEDS` asks for another number, `WADE_SIM_FROM` for another beginning.
const SEEDS: u64 = 2000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a whole number")),
    )
}

fn judged(seed: u64) -> (Run, Vec<Breach>) {
    let run = run(&generate::case(seed));
    let breaches = check(&run);
    (run, breaches)
}

#[test]
fn no_seed_breaks_a_rule() {
    let from = number("WADE_SIM_FROM").unwrap_or(1);
    let seeds = number("WADE_SIM_SEEDS").unwrap_or(SEEDS);
    let watch = wade::clock::stopwatch();
    let halves = [0, 1].map(|half| {
        std::thread::spawn(move || {
            let mut outcomes = std::collections::BTreeMap::<String, u32>::new();
            let mut faults = Vec::new();
            for seed in (from..from + seeds).filter(|seed| seed % 2 == half) {
                let (run, breaches) = judged(seed);
                let outcome = run
                    .record
                    .state
                    .outcome()
                    .map_or("none".to_owned(), |outcome| format!("{outcome:?}"));
                *outcomes.entry(outcome).or_default() += 1;
                faults.extend(breaches.into_iter().map(|breach| (seed, breach)));
            }
            (outcomes, faults)
        })
    });
    let mut report = String::new();
    let mut all = std::collections::BTreeMap::<String, u32>::new();
    let mut broken = 0;
    for half in halves {
        let (outcomes, faults) = half.join().expect("a simulated release does not panic");
        for (outcome, count) in outcomes {
            *all.entry(outcome).or_default() += count;
        }
        broken += faults.len();
        for (seed, breach) in faults.iter().take(10) {
            let _ = writeln!(report, "seed {seed}: {breach}");
            let _ = writeln!(
                report,
                "  WADE_SIM_SEED={seed} cargo test --test simulation replay -- --nocapture"
            );
        }
    }
    println!("{seeds} releases in {:.1} s: {all:?}", watch.elapsed().as_secs_f64());
    assert!(broken == 0, "{broken} breaches\n{report}");
}

/// Runs one seed again, with everything that happened. Without WADE_SIM_SEED it runs the first.
#[test]
fn replay() {
    let seed = number("WADE_SIM_SEED");
    let (run, breaches) = judged(seed.unwrap_or(1));
    if seed.is_some() {
        print!("{}", told(&run));
    }
    assert_eq!(breaches, []);
}

fn told(run: &Run) -> String {
    let mut text = format!("{:#?}\n", run.case);
    let mut last = String::new();
    for moment in &run.moments {
        let line = match &moment.seen {
            Seen::Measured {
                condition: wade::signals::Condition::Measured,
                ..
            }
            | Seen::PassEnded { .. }
            | Seen::PassBegan { .. } => continue,
            Seen::Recorded { update, .. } if update.entries.is_empty() => continue,
            Seen::Recorded { epoch, update } => {
                update
                    .entries
                    .iter()
                    .fold(format!("recorded by {epoch}"), |mut all, e| {
                        let _ = write!(all, "\n             {} {:?}: {}", e.number, e.event, e.reason);
                        all
                    })
            }
            other => format!("{other:?}"),
        };
        if line != last {
            let _ = writeln!(
                text,
                "{:>9.3} {line}",
                moment.at.duration_since(run.case.start).as_secs_f64()
            );
        }
        last = line;
    }
    let _ = writeln!(
        text,
        "outcome {:?}, over at {:?}",
        run.record.state.outcome(),
        run.over_at
    );
    text
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..=40 {
        let again = || run(&generate::case(seed)).fingerprint();
        assert_eq!(again(), again(), "seed {seed}");
    }
}

mod simulation {
    mod examples;
    mod restarts;
    mod sabotage;
}
