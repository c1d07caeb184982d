//! A checker that has never failed proves nothing.

use wade::sim::{Sabotage, check, generate, run};

/// Seeds that are tried until a defect shows.
const TRIES: u64 = 400;

#[test]
fn every_checker_catches_its_sabotage() {
    for (sabotage, rule) in Sabotage::ALL {
        let caught = (1..=TRIES).find(|seed| {
            let mut case = generate::case(*seed);
            case.sabotage = Some(sabotage);
            check(&run(&case)).iter().any(|breach| breach.rule == rule)
        });
        let seed = caught.unwrap_or_else(|| panic!("{rule:?} did not notice {sabotage:?} in {TRIES} runs"));
        println!("{sabotage:?} is caught by {rule:?} with seed {seed}");
    }
}

#[test]
fn every_checker_has_a_sabotage() {
    let mut rules: Vec<_> = Sabotage::ALL.iter().map(|(_, rule)| *rule).collect();
    rules.sort();
    let mut all: Vec<_> = check::all().iter().map(|checker| checker.name()).collect();
    all.sort();
    assert_eq!(rules, all);
}
