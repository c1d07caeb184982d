//! The judge: observations in, verdict with evidence out.
//!
//! It decides, at any moment of a release, whether the canary is worse than stable by more than is allowed, with a bounded
//! chance (alpha) of ever failing a canary that is not, and whether a stage has shown enough to end early. The method is
//! shared/judge/METHOD.md; the formulas here carry its section numbers and vectors.json pins them.
//!
//! The idea: each metric is a bet that pays if the canary is worse (`evalue`) and is fair or worse if it is not.
//! The money is kept with care for bursts and for late regressions (`capital`, `dispersion`), and the canary fails when
//! all of it together has grown to 1/alpha. Unlike a p-value or a threshold, that may be looked at after every scrape.
//! Unlike a comparison of averages, it knows how little 84 requests can tell, and says so.
//!
//! What it does not do: it does not measure (see `signals`), does not decide what a silent canary means (the engine
//! does: a missing measurement is never a verdict, so a pass must not be acted on while the canary is not measured), and
//! does not know the time; callers say it in seconds since the release began. It never panics on what a source delivers:
//! increments that make no sense are dropped and counted.
//!
//! Read on in [`config`], [`observation`] and [`verdict`] for its vocabulary, then `errors` for the metric that matters
//! most. `reason` writes the sentences, [`planning`] tells beforehand what could be seen, [`stdio`] lets a bench
//! drive it.

mod capital;
pub mod config;
pub mod counter;
pub mod course;
mod dispersion;
mod errors;
mod evalue;
mod gauge;
mod histogram;
pub mod history;
mod intake;
pub mod interval;
mod latency;
mod objective;
pub mod observation;
mod operations;
mod pairing;
pub mod planning;
mod reason;
mod signal;
mod signatures;
mod slowness;
pub mod stdio;
mod terms;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
pub mod verdict;

use serde::{Deserialize, Serialize};

pub use config::Config;
pub use counter::Counter;
pub use course::Course;
pub use history::{History, HistoryRecorder};
pub use interval::Interval;
pub use observation::{CountsDiffer, Increment, MetricName, Observation, Sides};
pub use verdict::{Call, MetricEvidence, Verdict};

use capital::{MAX_TIME_S, ln_sum};
use reason::Waiting;
use signal::Signal;
use terms::Terms;

/// The share of ln(1/alpha) from which the canary is suspicious: no more traffic, and no pass.
const SUSPICIOUS: f64 = 0.5;

/// Judges one release.
///
/// Its whole state is serialisable and belongs into the release record after every look: saved and loaded anywhere, it
/// gives the same verdicts, so a restart of Wade spends nothing of alpha. A fail is final; later calls change nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judge {
    alpha: f64,
    beta: f64,
    min_stage_s: f64,
    pass_early: bool,
    /// Whether anything is known about how bursty stable is, as far as the metrics need it.
    knows_bursts: bool,
    signals: Vec<Signal>,
    /// The stage's number as the plan counts it; `None` before the first and while baking.
    stage: Option<u32>,
    stage_at_s: f64,
    baking: bool,
    failed: bool,
}

/// What the numbers say, before it is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    pub(crate) call: Call,
    pub(crate) ln_e: f64,
    suspicious: bool,
    /// Index of the signal whose tripwire has been exceeded.
    tripped: Option<usize>,
    /// Index of the signal with the largest component.
    blame: Option<usize>,
    /// Index of a signal that would fail the canary and may only hold it.
    held: Option<usize>,
    /// ln E of each signal alone.
    each: Vec<f64>,
    waiting: Waiting,
}

impl Judge {
    /// A judge without evidence. `history` is what stable's pods did before; without it (or with a single pod, which has
    /// nothing to be compared with) no stage passes early on errors.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a judge is made from its configuration once; callers hand it over"
    )]
    pub fn new(config: Config, history: Option<&History>) -> Self {
        let phi0 = history.and_then(History::phi0);
        let terms = Terms::new(&config, history);
        let total: f64 = config.metrics.iter().map(|metric| metric.weight).sum();
        let share = |weight: f64| {
            if total > 0.0 {
                weight / total
            } else {
                1.0 / config.metrics.len() as f64
            }
        };
        let signals: Vec<_> = config
            .metrics
            .iter()
            .map(|metric| Signal::new(metric, share(metric.weight), terms))
            .collect();
        Judge {
            alpha: config.alpha,
            beta: config.beta,
            min_stage_s: config.min_stage_s,
            pass_early: config.pass_early,
            knows_bursts: phi0.is_some() || config.pass_without_history || !signals.iter().any(Signal::needs_history),
            signals,
            stage: None,
            stage_at_s: 0.0,
            baking: false,
            failed: false,
        }
    }

    /// Whether enough is known about how bursty stable is for a stage to pass early.
    pub fn knows_bursts(&self) -> bool {
        self.knows_bursts
    }

    /// Learns how bursty stable is after the release has begun, where it was not known before. It says what a pass must
    /// reckon with from now on; what has been bet against the canary stays as it is. Call it before a stage begins: a
    /// pass that is half collected was collected for less.
    pub fn learn(&mut self, history: &History) {
        if let (false, Some(phi0)) = (self.knows_bursts, history.phi0()) {
            self.knows_bursts = true;
            self.signals.iter_mut().for_each(|signal| signal.learn(phi0));
        }
    }

    /// A stage begins, `at_s` seconds into the release; after it the canary will have `next_weight` of the traffic (a
    /// share). What would pass it is collected anew, what would fail the release is kept. Saying it again for the stage
    /// that runs changes nothing, so a restarted caller may.
    pub fn start_stage(&mut self, stage: u32, at_s: f64, next_weight: f64) {
        if self.failed || self.stage == Some(stage) {
            return;
        }
        self.stage = Some(stage);
        self.stage_at_s = on_the_clock(at_s, MAX_TIME_S);
        self.baking = false;
        for signal in &mut self.signals {
            signal.start_stage(next_weight);
        }
    }

    /// The bake begins: all traffic is the canary's and there is no stable to compare with. Errors are now judged against
    /// max(2 %, five times what stable showed in this release), objectives go on, latency and gauges rest. Evidence from
    /// before stays counted. A bake never passes early. Saying it again changes nothing.
    pub fn start_bake(&mut self, at_s: f64) {
        if self.failed || self.baking {
            return;
        }
        self.stage = None;
        self.stage_at_s = on_the_clock(at_s, MAX_TIME_S);
        self.baking = true;
        for signal in &mut self.signals {
            signal.start_bake();
        }
    }

    /// Takes in what was seen since the last look and says what is known, `t_s` seconds into the release.
    ///
    /// A look without new data changes nothing in the judge; its verdict can differ only by the stage having become old
    /// enough to pass.
    pub fn look(&mut self, t_s: f64, seen: &Observation) -> Verdict {
        let standing = self.take_in(t_s, seen);
        self.tell(&standing)
    }

    /// The same while two who count the same requests do not agree: nothing passes then, and the verdict says why. What
    /// fails a canary fails it all the same, as a canary that refuses connections counts nothing.
    pub fn look_doubting(&mut self, t_s: f64, seen: &Observation, doubt: Option<CountsDiffer>) -> Verdict {
        let mut standing = self.take_in(t_s, seen);
        if let Some(differ) = doubt.filter(|_| standing.call != Call::Fail && !self.baking) {
            standing.call = Call::Undecided;
            standing.waiting = Waiting::ForAgreement(differ);
        }
        self.tell(&standing)
    }

    /// The same without the telling, for those who only need the call.
    pub(crate) fn take_in(&mut self, t_s: f64, seen: &Observation) -> Standing {
        // A look at no time falls into the open block and is too early to pass anything; a stage that began at no time
        // never becomes old enough.
        let t_s = on_the_clock(t_s, 0.0);
        if !self.failed {
            for signal in &mut self.signals {
                if let Some(sides) = seen.metrics.get(&signal.name) {
                    signal.look(t_s, sides, self.baking);
                }
            }
        }
        let standing = self.standing(t_s);
        self.failed |= standing.call == Call::Fail;
        standing
    }

    fn standing(&self, t_s: f64) -> Standing {
        let needed = self.needed();
        let mut terms = Vec::new();
        let mut held = None;
        let mut each = Vec::with_capacity(self.signals.len());
        for (i, signal) in self.signals.iter().enumerate() {
            let before = terms.len();
            let mut share = 0.0;
            signal.fail_terms(|weight, ln_e| {
                share += weight;
                terms.push((weight.ln() + ln_e, ln_e, i));
            });
            let own = &terms[before..];
            // Without a weight there are no shares to average by; its components are then equals.
            let own = if share > 0.0 {
                ln_sum(own.iter().map(|(term, ..)| *term)) - share.ln()
            } else {
                ln_sum(own.iter().map(|(_, ln_e, _)| *ln_e)) - (own.len() as f64).ln()
            };
            if signal.only_holds() {
                // Its money stays where it is; it has a bound of its own.
                terms.truncate(before);
                terms.push((share.ln(), 0.0, i));
                held = held.or((own >= needed).then_some(i));
            }
            each.push(own);
        }
        let ln_e = if terms.is_empty() {
            0.0
        } else {
            ln_sum(terms.iter().map(|(term, ..)| *term))
        };
        let tripped = self.signals.iter().position(|signal| signal.tripped().is_some());
        let suspicious = ln_e >= SUSPICIOUS * needed || held.is_some();
        let blame = terms.iter().max_by(|a, b| f64::total_cmp(&a.0, &b.0)).map(|(.., i)| *i);
        let waiting = self.waiting(t_s);
        let call = match waiting {
            _ if ln_e >= needed || tripped.is_some() => Call::Fail,
            None if !suspicious => Call::Pass,
            _ => Call::Undecided,
        };
        Standing {
            call,
            ln_e,
            suspicious,
            tripped,
            blame,
            held,
            each,
            waiting: waiting.unwrap_or(Waiting::ForEvidence),
        }
    }

    /// What a pass waits for; `None` if for nothing.
    fn waiting(&self, t_s: f64) -> Option<Waiting> {
        let enough = -self.beta.ln();
        let shown = |signal: &Signal| signal.pass_ln_p().is_some_and(|ln_p| ln_p >= enough);
        let mut proving = self.signals.iter().filter(|signal| signal.can_prove()).peekable();
        if self.baking {
            Some(Waiting::WhileBaking)
        } else if proving.peek().is_none() && !self.signals.is_empty() {
            Some(Waiting::ForCounts)
        } else if self.signals.is_empty() || !proving.all(shown) {
            Some(Waiting::ForEvidence)
        } else if !self.pass_early {
            Some(Waiting::ByChoice)
        } else if !self.knows_bursts {
            Some(Waiting::ForHistory)
        } else if t_s - self.stage_at_s < self.min_stage_s {
            Some(Waiting::ForTime {
                min_stage_s: self.min_stage_s,
            })
        } else {
            None
        }
    }

    fn tell(&self, standing: &Standing) -> Verdict {
        let metrics: Vec<MetricEvidence> = self
            .signals
            .iter()
            .zip(&standing.each)
            .map(|(signal, ln_e)| signal.evidence(*ln_e, self.baking))
            .collect();
        let needed = self.needed();
        let failed = standing.call == Call::Fail;
        let blame = standing
            .tripped
            .or(standing.held.filter(|_| !failed))
            .or(standing.blame)
            .filter(|_| failed || standing.suspicious);
        let wire = standing
            .tripped
            .and_then(|i| Some((&self.signals[i].name, self.signals[i].tripped()?)));
        let against = |i: usize| reason::against(&metrics[i], standing.ln_e, needed);
        let reason = match (standing.call, wire, blame) {
            (Call::Fail, Some((name, wire)), _) => reason::tripped(name, &wire),
            (Call::Fail, None, Some(i)) => against(i),
            (Call::Pass, ..) => reason::pass(&metrics),
            (Call::Undecided, _, Some(i)) if standing.held == Some(i) => {
                format!("held: {}", reason::against(&metrics[i], standing.each[i], needed))
            }
            (Call::Undecided, _, Some(i)) => format!("suspicious: {}", against(i)),
            (Call::Fail, None, None) | (Call::Undecided, _, None) => reason::undecided(&metrics, standing.waiting),
        };
        Verdict {
            call: standing.call,
            suspicious: standing.suspicious,
            tripped: standing.tripped.is_some(),
            evidence: standing.ln_e,
            needed,
            blame: blame.map(|i| self.signals[i].name.clone()),
            reason,
            metrics,
        }
    }

    fn needed(&self) -> f64 {
        -self.alpha.ln()
    }
}

/// A time within bounds; `instead` of one that is none.
fn on_the_clock(t_s: f64, instead: f64) -> f64 {
    if t_s.is_finite() {
        t_s.clamp(0.0, MAX_TIME_S)
    } else {
        instead
    }
}
