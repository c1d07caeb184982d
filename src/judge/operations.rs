//! Traces: each operation of the canary against the same operation of stable, and errors that stable has never shown.
//!
//! A fault that hides in one operation of a hundred is lost in the sum. Here each operation has an account of its own:
//! errors with the rate e-value, latency with the 2x2 GRO e-value, as for the revision as a whole, on short grids. New
//! errors have theirs in `signatures`.
//!
//! How many accounts there may be is fixed beforehand, and with it the weight of each: slots, handed out in the order in
//! which operations appear, each with the same share of the metric's money. A slot's evidence counts from the look after
//! the one that opened it, so nothing that made us look at an operation counts as evidence about it. The sum of all
//! slots, used or not, is an average of e-values, and that stays one whatever the operations have to do with each other.
//! What comes after the slots are gone shares one account.
//!
//! What this does not do: pass. Traces are a sample that somebody else draws, so they are no proof of health; see
//! docs/judge-traces.md.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::capital::{Mix, block_number};
use super::config::OperationsConfig;
use super::dispersion::Dispersion;
use super::evalue::{Window, rate};
use super::intake::{MAX_BUCKETS, admit, plausible};
use super::observation::{Increment, OperationCounts, Operations as Increments, Sides};
use super::pairing::Pair;
use super::signatures::Signatures;
use super::slowness::Slowness;
use super::terms::Terms;
use super::verdict::{Counts, OperationEvidence, Seen};

/// Operations with an account of their own.
pub(crate) const SLOTS: usize = 32;
/// Of these, so many may go to operations that only the canary has: it must not use up the room of what stable does.
const CANARY_ONLY: usize = SLOTS / 2;
/// Alternatives for an operation's errors, as multiples of what is allowed.
const GRID: [f64; 5] = [1.5, 3.0, 10.0, 30.0, 100.0];
/// How the metric's money is divided.
const ERRORS_SHARE: f64 = 0.4;
const SIGNATURES_SHARE: f64 = 0.4;
const LATENCY_SHARE: f64 = 0.2;
/// More operations than this in one increment are nonsense: sources are bounded below it.
const MAX_OPERATIONS: usize = 1024;
/// The longest name of an operation; sources cut earlier.
const MAX_NAME: usize = 256;
/// The account of all operations without a slot.
const REST: &str = "(other)";
/// The operations and errors that a verdict shows.
pub(crate) const SHOWN: usize = 5;

/// The state of the metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operations {
    config: OperationsConfig,
    weight: f64,
    terms: Terms,
    block: u64,
    /// In the order in which they appeared.
    slots: Vec<Operation>,
    /// Whether an account belongs to operations that stable has not shown when it was opened.
    canary_only: usize,
    rest: Operation,
    signatures: Signatures,
    requests: Sides<f64>,
    dropped: u64,
}

/// One operation's accounts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    name: String,
    errors: Mix,
    dispersion: Dispersion,
    /// Totals of the open block: n_c, n_s, x_c, x_s.
    in_block: [f64; 4],
    pair: Pair,
    /// Requests and errors since the release began.
    seen: Sides<[f64; 2]>,
    slowness: Slowness,
}

impl Operations {
    pub(crate) fn new(config: &OperationsConfig, weight: f64, terms: Terms) -> Self {
        Operations {
            config: config.clone(),
            weight,
            terms,
            block: 0,
            slots: Vec::new(),
            canary_only: 0,
            rest: Operation::new(REST, weight, terms, 0),
            signatures: Signatures::new(weight * SIGNATURES_SHARE, terms),
            requests: Sides::default(),
            dropped: 0,
        }
    }

    pub(crate) fn look(&mut self, t_s: f64, sides: &Sides<Option<Increment>>, baking: bool) {
        let seen = admit(sides, &mut self.dropped, operations);
        let total = |side: Option<&Increments>| {
            side.map_or(0.0, |side| side.by_name.values().map(|counts| counts.requests).sum())
        };
        let (n_c, n_s): (f64, f64) = (total(seen.canary), total(seen.stable));
        if n_c + n_s <= 0.0 {
            return;
        }
        self.requests.canary += n_c;
        self.requests.stable += n_s;
        // All traffic is the canary's then: there is nothing to compare with.
        if baking {
            return;
        }
        self.open_blocks(t_s);
        let none = OperationCounts::default();
        let of = |side: Option<&'_ Increments>, name: &str| -> OperationCounts {
            side.and_then(|side| side.by_name.get(name)).unwrap_or(&none).clone()
        };
        for slot in &mut self.slots {
            let both = Sides {
                canary: of(seen.canary, &slot.name),
                stable: of(seen.stable, &slot.name),
            };
            slot.compare(&self.config, t_s, &seen, &both);
        }
        let mut rest: Sides<OperationCounts> = Sides::default();
        for (sum, side) in [(&mut rest.canary, seen.canary), (&mut rest.stable, seen.stable)] {
            for (name, counts) in side.iter().flat_map(|side| &side.by_name) {
                if !self.has(name) {
                    sum.requests += counts.requests;
                    sum.errors += counts.errors;
                }
            }
        }
        let opened = self.open_slots(t_s, &seen);
        // What has just been given an account of its own is no part of the rest, not even this once.
        if opened == 0 {
            self.rest.compare(&self.config, t_s, &seen, &rest);
        }
        let allowed = 1.0 + self.config.allow_ratio;
        self.signatures
            .look(t_s, &seen, n_c, n_s, allowed, self.config.new_errors);
    }

    fn has(&self, name: &str) -> bool {
        self.slots.iter().any(|slot| slot.name == name)
    }

    /// Gives slots to operations that appear for the first time, stable's first, those with more requests first; returns
    /// how many. Requests decide about it and not what became of them.
    fn open_slots(&mut self, t_s: f64, seen: &Sides<Option<&Increments>>) -> usize {
        let requests = |side: Option<&Increments>, name: &str| {
            side.and_then(|side| side.by_name.get(name))
                .map_or(0.0, |counts| counts.requests)
        };
        let names: BTreeSet<&String> = [seen.canary, seen.stable]
            .into_iter()
            .flatten()
            .flat_map(|side| side.by_name.keys())
            .filter(|name| !self.has(name) && *name != REST)
            .collect();
        let mut new: Vec<(f64, f64, &String)> = names
            .into_iter()
            .map(|name| (requests(seen.stable, name), requests(seen.canary, name), name))
            .filter(|(stable, canary, _)| stable + canary > 0.0)
            .collect();
        new.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(b.2)));
        let before = self.slots.len();
        for (stable, _, name) in new {
            if self.slots.len() >= SLOTS || (stable <= 0.0 && self.canary_only >= CANARY_ONLY) {
                break;
            }
            self.canary_only += usize::from(stable <= 0.0);
            let mut slot = Operation::new(name, self.weight, self.terms, self.block);
            let of = |side: Option<&Increments>| {
                side.and_then(|side| side.by_name.get(name))
                    .cloned()
                    .unwrap_or_default()
            };
            let both = Sides {
                canary: of(seen.canary),
                stable: of(seen.stable),
            };
            // Shown from the first request on, judged from the next look on.
            slot.note(&both);
            slot.slowness.note(&self.config, t_s, seen, &both);
            self.slots.push(slot);
        }
        self.slots.len() - before
    }

    fn open_blocks(&mut self, t_s: f64) {
        let block = block_number(t_s, self.terms.block_s);
        if block <= self.block {
            return;
        }
        self.block = block;
        for slot in self.slots.iter_mut().chain([&mut self.rest]) {
            slot.open_block(block);
        }
        self.signatures.open_block(block);
    }

    /// (weight, ln E) of each account, and of those that nobody has yet.
    pub(crate) fn fail_terms(&self) -> Vec<(f64, f64)> {
        let (errors, latency) = (errors_weight(self.weight), latency_weight(self.weight));
        let unused = (SLOTS - self.slots.len()) as f64 * (errors + latency) + latency;
        let mut terms = vec![(unused, 0.0), (errors, self.rest.errors.ln_e())];
        for slot in &self.slots {
            terms.push((errors, slot.errors.ln_e()));
            terms.push((latency, slot.slowness.ln_e()));
        }
        terms.extend(self.signatures.fail_terms());
        terms
    }

    /// Whether it may only keep the weight where it is.
    pub(crate) fn only_holds(&self) -> bool {
        self.config.only_hold
    }

    pub(crate) fn phi(&self) -> f64 {
        self.slots.iter().map(|slot| slot.dispersion.phi()).fold(1.0, f64::max)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Traces that show the new error which speaks most against the canary.
    pub(crate) fn examples(&self) -> Vec<String> {
        let worst = self.signatures.evidence(self.requests).into_iter().next();
        worst.map(|signature| signature.examples).unwrap_or_default()
    }

    pub(crate) fn seen(&self) -> Seen {
        let mut operations: Vec<OperationEvidence> = self
            .slots
            .iter()
            .chain([&self.rest])
            .filter(|slot| slot.seen.canary[0] + slot.seen.stable[0] > 0.0)
            .map(Operation::evidence)
            .collect();
        let known = self.slots.len() + usize::from(self.rest.seen.canary[0] + self.rest.seen.stable[0] > 0.0);
        operations.sort_by(|a, b| b.worst().total_cmp(&a.worst()));
        operations.truncate(SHOWN);
        Seen::Operations {
            requests: self.requests,
            known,
            operations,
            signatures: self.signatures.evidence(self.requests),
        }
    }
}

/// One slot's share of alpha for its errors; the account of the rest has one too.
fn errors_weight(weight: f64) -> f64 {
    weight * ERRORS_SHARE / (SLOTS + 1) as f64
}

fn latency_weight(weight: f64) -> f64 {
    weight * LATENCY_SHARE / (SLOTS + 1) as f64
}

impl Operation {
    fn new(name: &str, weight: f64, terms: Terms, block: u64) -> Self {
        let mut errors = terms.fail_mix(GRID.len(), errors_weight(weight));
        errors.begin_in_block(block);
        Operation {
            name: name.to_owned(),
            errors,
            dispersion: Dispersion::new(terms.phi0),
            in_block: [0.0; 4],
            pair: Pair::new(2),
            seen: Sides::default(),
            slowness: Slowness::new(latency_weight(weight), terms, block),
        }
    }

    fn open_block(&mut self, block: u64) {
        let [n_c, n_s, x_c, x_s] = std::mem::take(&mut self.in_block);
        self.dispersion.end_block(Window { n_c, n_s, x_c, x_s });
        self.errors.open_block(block);
        self.slowness.open_block(block);
    }

    fn note(&mut self, both: &Sides<OperationCounts>) {
        for (sum, counts) in [
            (&mut self.seen.canary, &both.canary),
            (&mut self.seen.stable, &both.stable),
        ] {
            sum[0] += counts.requests;
            sum[1] += counts.errors;
        }
    }

    fn compare(
        &mut self,
        config: &OperationsConfig,
        t_s: f64,
        seen: &Sides<Option<&Increments>>,
        both: &Sides<OperationCounts>,
    ) {
        if both.canary.requests + both.stable.requests <= 0.0 {
            return;
        }
        self.note(both);
        self.slowness.look(config, t_s, seen, both);
        let columns = |counts: &OperationCounts| [counts.requests, counts.errors];
        let (canary, stable) = (columns(&both.canary), columns(&both.stable));
        let Some(window) = self.pair.push(Some(&canary), Some(&stable)) else {
            return;
        };
        let (n_c, n_s) = (window.canary[0], window.stable[0]);
        let (x_c, x_s) = (window.canary[1].min(n_c), window.stable[1].min(n_s));
        let w = Window { n_c, n_s, x_c, x_s };
        for (sum, value) in self.in_block.iter_mut().zip([n_c, n_s, x_c, x_s]) {
            *sum += value;
        }
        let (allowed, phi) = (1.0 + config.allow_ratio, self.dispersion.phi());
        self.errors
            .add(&GRID, |g| rate(w, allowed, config.allow_abs, allowed * g) / phi);
    }

    fn evidence(&self) -> OperationEvidence {
        let counts = |[total, bad]: [f64; 2]| Counts::new(total, bad);
        OperationEvidence {
            operation: self.name.clone(),
            release: Sides {
                canary: counts(self.seen.canary),
                stable: counts(self.seen.stable),
            },
            ln_e: self.errors.ln_e(),
            slower: self.slowness.evidence(),
        }
    }
}

/// An increment of operations that makes sense as a whole.
fn operations(increment: &Increment) -> Option<&Increments> {
    let Increment::Operations(operations) = increment else {
        return None;
    };
    let le = &operations.le;
    let bounds = le.len() <= MAX_BUCKETS
        && le.first().is_none_or(|first| *first >= 0.0)
        && le.last().is_none_or(|last| last.is_finite())
        && le.windows(2).all(|pair| pair[0] < pair[1]);
    let fits = |counts: &OperationCounts| {
        plausible(counts.requests)
            && plausible(counts.errors)
            && (counts.latency.is_empty() || (!le.is_empty() && counts.latency.len() == le.len() + 1))
            && counts.latency.iter().all(|count| plausible(*count))
            && counts.signatures.len() <= MAX_OPERATIONS
            && counts.signatures.iter().all(|signature| plausible(signature.count))
    };
    let sound = bounds
        && operations.by_name.len() <= MAX_OPERATIONS
        && operations
            .by_name
            .iter()
            .all(|(name, counts)| name.len() <= MAX_NAME && fits(counts));
    sound.then_some(operations)
}
