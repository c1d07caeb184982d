//! Errors that stable has never shown.
//!
//! A new version often fails in a new way long before it fails often: the same exception in the same operation, on one
//! request of five hundred. Against all errors that is noise; against this one error, which stable with many times the
//! traffic has not shown once, it is not. So each new error gets an account: the rate e-value against "at most stable's
//! share and a stated share on top" of *all* requests.
//!
//! Looking for new errors is looking at many things at once, after the fact. What keeps that honest: the number of
//! accounts is fixed, each has its weight before it has evidence, they are given to new errors in the order in which these
//! appear, and the look in which an error appeared counts for nothing. A stray error is therefore only an account that is
//! never used. A burst fills at most two blocks, and three are needed.
//!
//! When all accounts are taken, the one whose error has not been seen for longest is given to the next; what money it has
//! left stays in it. Betting what is left of one fair bet on the next one is a fair bet.

use serde::{Deserialize, Serialize};

use super::capital::Mix;
use super::evalue::{Window, rate};
use super::observation::{Operations, Sides, SignatureCounts};
use super::operations::SHOWN;
use super::pairing::Pair;
use super::terms::Terms;
use super::verdict::{Counts, SignatureEvidence};

/// New errors that are followed at the same time.
pub(crate) const SLOTS: usize = 32;
/// Alternatives, as multiples of what is allowed.
const GRID: [f64; 4] = [2.0, 5.0, 20.0, 100.0];
/// An error that has not been seen for this many seconds may make room for another.
const IDLE_S: f64 = 120.0;
/// Traces kept per error.
const EXAMPLES: usize = 3;
/// The longest texts that are kept; sources cut earlier.
const MAX_TEXT: usize = 256;

/// The accounts of new errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Signatures {
    weight: f64,
    terms: Terms,
    block: u64,
    slots: Vec<Slot>,
    /// Requests, then the errors of each slot.
    pair: Pair,
    /// New errors that found no account.
    left_out: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slot {
    operation: String,
    kind: String,
    message: String,
    bets: Mix,
    /// ln of the money that earlier errors in this slot have left.
    left: f64,
    seen: Sides<f64>,
    last_s: f64,
    examples: Vec<String>,
}

impl Signatures {
    pub(crate) fn new(weight: f64, terms: Terms) -> Self {
        Signatures {
            weight,
            terms,
            block: 0,
            slots: Vec::new(),
            pair: Pair::new(1 + SLOTS),
            left_out: 0,
        }
    }

    fn slot_weight(&self) -> f64 {
        self.weight / SLOTS as f64
    }

    pub(crate) fn open_block(&mut self, block: u64) {
        self.block = block;
        for slot in &mut self.slots {
            slot.bets.open_block(block);
        }
    }

    /// `n_c` and `n_s` are all requests of this look.
    pub(crate) fn look(
        &mut self,
        t_s: f64,
        seen: &Sides<Option<&Operations>>,
        n_c: f64,
        n_s: f64,
        allowed: f64,
        new_errors: f64,
    ) {
        let mut canary = vec![0.0; 1 + SLOTS];
        let mut stable = canary.clone();
        (canary[0], stable[0]) = (n_c, n_s);
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if let Some(counts) = slot.find(seen.canary) {
                canary[1 + i] = counts.count;
                slot.note(t_s, counts);
            }
            if let Some(counts) = slot.find(seen.stable) {
                stable[1 + i] = counts.count;
                slot.seen.stable += counts.count;
            }
        }
        if let Some(window) = self.pair.push(Some(&canary), Some(&stable)) {
            let (n_c, n_s) = (window.canary[0], window.stable[0]);
            // Errors that history says come in bursts say less each.
            let phi = self.terms.phi0.unwrap_or(1.0).max(1.0);
            for (i, slot) in self.slots.iter_mut().enumerate() {
                let (x_c, x_s) = (window.canary[1 + i].min(n_c), window.stable[1 + i].min(n_s));
                let w = Window { n_c, n_s, x_c, x_s };
                slot.bets
                    .add(&GRID, |g| rate(w, allowed, new_errors, allowed * g) / phi);
            }
        }
        // Last, so that the look in which an error appears is no evidence about it.
        self.open_slots(t_s, seen);
    }

    fn open_slots(&mut self, t_s: f64, seen: &Sides<Option<&Operations>>) {
        for (operation, counts) in seen.canary.iter().flat_map(|side| &side.by_name) {
            for signature in &counts.signatures {
                let known = self.slots.iter().any(|slot| slot.is(operation, signature));
                if known || signature.seen_on_stable || signature.count <= 0.0 || has(seen.stable, operation, signature)
                {
                    continue;
                }
                self.open_slot(t_s, operation, signature);
            }
        }
    }

    fn open_slot(&mut self, t_s: f64, operation: &str, signature: &SignatureCounts) {
        let mut bets = self.terms.fail_mix(GRID.len(), self.slot_weight());
        bets.begin_in_block(self.block);
        let mut slot = Slot {
            operation: cut(operation),
            kind: cut(&signature.kind),
            message: cut(&signature.message),
            bets,
            left: 0.0,
            seen: Sides::default(),
            last_s: t_s,
            examples: Vec::new(),
        };
        slot.note(t_s, signature);
        if self.slots.len() < SLOTS {
            self.slots.push(slot);
            return;
        }
        let idle = self
            .slots
            .iter_mut()
            .enumerate()
            .filter(|(_, old)| t_s - old.last_s >= IDLE_S)
            .min_by(|(_, a), (_, b)| a.last_s.total_cmp(&b.last_s));
        match idle {
            Some((i, old)) => {
                slot.left = old.ln_e();
                *old = slot;
                self.pair.clear_column(1 + i);
            }
            None => self.left_out = self.left_out.saturating_add(1),
        }
    }

    /// (weight, ln E) of each account, and of those that nobody has yet.
    pub(crate) fn fail_terms(&self) -> impl Iterator<Item = (f64, f64)> {
        let each = self.slot_weight();
        let unused = ((SLOTS - self.slots.len()) as f64 * each, 0.0);
        std::iter::once(unused).chain(self.slots.iter().map(move |slot| (each, slot.ln_e())))
    }

    /// The errors that say most against the canary; `requests` are all of the release.
    pub(crate) fn evidence(&self, requests: Sides<f64>) -> Vec<SignatureEvidence> {
        let mut slots: Vec<&Slot> = self.slots.iter().collect();
        slots.sort_by(|a, b| {
            b.ln_e()
                .total_cmp(&a.ln_e())
                .then(b.seen.canary.total_cmp(&a.seen.canary))
        });
        slots
            .into_iter()
            .take(SHOWN)
            .map(|slot| SignatureEvidence {
                operation: slot.operation.clone(),
                error: slot.kind.clone(),
                message: slot.message.clone(),
                shown: Sides {
                    canary: Counts::new(requests.canary, slot.seen.canary),
                    stable: Counts::new(requests.stable, slot.seen.stable),
                },
                ln_e: slot.ln_e(),
                examples: slot.examples.clone(),
            })
            .collect()
    }
}

impl Slot {
    fn is(&self, operation: &str, signature: &SignatureCounts) -> bool {
        self.kind == signature.kind && self.message == signature.message && self.operation == operation
    }

    fn find<'a>(&self, side: Option<&'a Operations>) -> Option<&'a SignatureCounts> {
        let counts = side?.by_name.get(&self.operation)?;
        counts.signatures.iter().find(|counts| self.is(&self.operation, counts))
    }

    fn note(&mut self, t_s: f64, counts: &SignatureCounts) {
        self.seen.canary += counts.count;
        self.last_s = t_s;
        for example in &counts.examples {
            if self.examples.len() < EXAMPLES && !self.examples.contains(example) {
                self.examples.push(cut(example));
            }
        }
    }

    fn ln_e(&self) -> f64 {
        self.left + self.bets.ln_e()
    }
}

fn has(side: Option<&Operations>, operation: &str, signature: &SignatureCounts) -> bool {
    let counts = side.and_then(|side| side.by_name.get(operation));
    counts.is_some_and(|counts| {
        counts
            .signatures
            .iter()
            .any(|other| other.count > 0.0 && other.kind == signature.kind && other.message == signature.message)
    })
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}
