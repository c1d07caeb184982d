//! One release of a scenario, stage by stage, as a judge sees it: sums of both sides, scraped, lost, restarted.

use super::scenarios::Scenario;
use super::service::{Climate, Side, Step};
use crate::judge::{Call, History};
use crate::sim::chance::{Chance, Stream};

/// Length of a step of the simulation at the most; a scrape interval holds at least two.
const STEP_S: f64 = 0.5;
/// Blocks of history, and their length.
const HISTORY: (usize, f64) = (6, 300.0);
/// Seconds of a step while history is made; short ones where things last seconds.
const HISTORY_STEPS_S: (f64, f64) = (10.0, 1.0);

/// One stage of a strategy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// The canary's share of the traffic.
    pub weight: f64,
    /// Its share afterwards.
    pub next_weight: f64,
    /// A pass ends it after this many seconds.
    pub min_s: f64,
    /// It ends after this many in any case.
    pub max_s: f64,
}

/// What was scraped since the last look; `None`: nothing new.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Seconds since the release began.
    pub t_s: f64,
    /// Number of the stage, and when it began.
    pub stage: u32,
    /// When the stage began.
    pub stage_at_s: f64,
    /// What it is.
    pub plan: Stage,
    /// Sums of the canary: requests, errors, buckets.
    pub canary: Option<&'a [f64]>,
    /// The same for stable.
    pub stable: Option<&'a [f64]>,
    /// Values of the gauge, canary first.
    pub gauge: Option<(f64, f64)>,
}

/// Something that happens every so many seconds.
struct Rhythm {
    every_s: f64,
    phase_s: f64,
    /// How often it has happened.
    beats: f64,
}

impl Rhythm {
    fn new(every_s: f64, phase_s: f64, now_s: f64) -> Self {
        Rhythm {
            every_s,
            phase_s,
            beats: ((now_s - phase_s) / every_s).floor(),
        }
    }

    /// Whether it happens now, having not happened since the last time.
    fn is_due(&mut self, t_s: f64) -> bool {
        let beats = ((t_s - self.phase_s) / self.every_s).floor();
        std::mem::replace(&mut self.beats, beats) < beats
    }
}

/// How a release ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    /// Seconds of traffic on the canary before the fault showed, if it did.
    pub fault_at_s: Option<f64>,
    /// Seconds of traffic on the canary.
    pub served_s: f64,
    /// Whether it was rolled back.
    pub rolled_back: bool,
    /// Stages that ended early because they passed.
    pub passed: u32,
    /// Seconds that each stage took, the last one as far as it came.
    pub stages_s: Vec<f64>,
    /// How often the judge looked.
    pub looks: u64,
}

impl End {
    /// Seconds from the beginning of the fault to the rollback.
    pub fn seconds_to_detect(&self) -> Option<f64> {
        self.rolled_back
            .then_some((self.served_s - self.fault_at_s.unwrap_or(0.0)).max(0.0))
    }
}

/// What one release needs besides its scenario: chance, and the two revisions.
pub struct Trial<'a> {
    scenario: &'a Scenario,
    chance: Chance,
    climate: Climate,
    canary: Side,
    stable: Side,
    /// Deviations of the gauge of canary and stable, in standard deviations.
    drift: [f64; 2],
    /// Whether latency is drawn.
    timed: bool,
    /// Sums at the last scrape, if it is new.
    scraped: [Option<Vec<f64>>; 2],
}

impl<'a> Trial<'a> {
    /// The release number `seed` of a scenario. The same seed is the same release, whoever judges it.
    pub fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let salt = scenario.name.bytes().fold(seed, |sum, byte| {
            sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte))
        });
        let mut chance = Chance::new(salt, Stream::Traffic);
        Trial {
            scenario,
            climate: Climate::new(scenario.weather, &mut chance),
            chance,
            canary: Side::new(scenario.new_usual.unwrap_or(scenario.usual)),
            stable: Side::new(scenario.usual),
            drift: [0.0; 2],
            timed: true,
            scraped: [None, None],
        }
    }

    /// The same without latency, which takes most of the time.
    #[must_use]
    pub fn untimed(mut self) -> Self {
        self.timed = false;
        self
    }

    /// The chance that its own past is drawn from.
    pub fn chance(&mut self) -> &mut Chance {
        &mut self.chance
    }

    /// What is known of stable's past, if the scenario has one.
    pub fn history(&mut self) -> Option<History> {
        self.scenario
            .history
            .then(|| past(self.scenario, HISTORY.0, HISTORY.1, &mut self.chance))
    }

    /// Plays it: `judge` is asked after every scrape and may end stages and the release.
    pub fn play(mut self, stages: &[Stage], mut judge: impl FnMut(&Look<'_>) -> Call) -> End {
        let every_s = self.scenario.every_s;
        let step = STEP_S.min(every_s / 2.0);
        // A release begins with waiting for readiness; blocks of the judge begin wherever they fall.
        let begin = ((20.0 + 40.0 * self.chance.fraction()) / step).floor() * step;
        let phases = [self.chance.fraction() * every_s, self.chance.fraction() * every_s];
        let mut scrapes = phases.map(|phase| Rhythm::new(every_s, phase, begin));
        // The judge looks when both sides of a round of scrapes are in.
        let mut looks = Rhythm::new(every_s, phases[0].max(phases[1]), begin);
        let mut end = End::default();
        let mut t_s = begin;
        for (number, plan) in stages.iter().enumerate() {
            let stage_at_s = t_s;
            let pods = self.scenario.pods;
            self.canary.scale((plan.weight * f64::from(pods)).ceil() as u32);
            self.stable.scale(pods);
            while t_s - stage_at_s < plan.max_s {
                if end.fault_at_s.is_none() && self.scenario.fault.extent(t_s - begin, plan.weight) > 0.0 {
                    end.fault_at_s = Some(t_s - begin);
                }
                t_s += step;
                end.served_s = t_s - begin;
                self.serve(t_s, step, end.served_s, plan);
                for (side, rhythm) in scrapes.iter_mut().enumerate() {
                    if rhythm.is_due(t_s) {
                        self.scrape(side);
                    }
                }
                if !looks.is_due(t_s) {
                    continue;
                }
                end.looks += 1;
                let [canary, stable] = std::mem::take(&mut self.scraped);
                let call = judge(&Look {
                    t_s,
                    stage: number as u32,
                    stage_at_s,
                    plan: *plan,
                    canary: canary.as_deref(),
                    stable: stable.as_deref(),
                    gauge: self.gauge(end.served_s, plan.weight),
                });
                match call {
                    Call::Fail => {
                        end.rolled_back = true;
                        return end;
                    }
                    Call::Pass if t_s - stage_at_s >= plan.min_s => {
                        end.passed += 1;
                        break;
                    }
                    Call::Pass | Call::Undecided => {}
                }
            }
            end.stages_s.push(t_s - stage_at_s);
        }
        end
    }

    fn serve(&mut self, t_s: f64, seconds: f64, served_s: f64, plan: &Stage) {
        let scenario = self.scenario;
        let sky = self.climate.at(t_s, &mut self.chance);
        let rate = scenario.rps * sky.traffic;
        let usual = Step {
            t_s,
            seconds,
            rate: rate * (1.0 - plan.weight),
            errors: (scenario.usual.errors * sky.errors).min(1.0),
            plus: sky.fails,
            slower: sky.slower,
            stalls: 0.0,
            timed: self.timed,
        };
        self.stable.serve(&usual, &mut self.chance);
        let fault = &scenario.fault;
        let extent = fault.extent(served_s, plan.weight);
        let grown = |factor: f64| 1.0 + (factor - 1.0) * extent;
        let cold = if served_s < fault.cold_s { fault.cold } else { 1.0 };
        let canary = Step {
            rate: rate * plan.weight,
            errors: match scenario.new_usual {
                Some(own) => own.errors * sky.errors,
                None => usual.errors * grown(fault.errors_times),
            }
            .min(1.0),
            plus: (usual.plus + fault.errors_plus * extent).min(1.0),
            slower: usual.slower * grown(fault.slower) * cold,
            stalls: fault.stalls * extent,
            ..usual
        };
        self.canary.serve(&canary, &mut self.chance);
        let restart = scenario.restarts_per_hour * seconds / 3600.0;
        if self.chance.happens(restart) {
            self.canary.restart_pod();
        }
        if !scenario.crash_loop && self.chance.happens(restart) {
            self.stable.restart_pod();
        }
        if let Some((_, memory_s)) = scenario.gauge {
            let keep = (-seconds / memory_s).exp();
            for drift in &mut self.drift {
                // A sum of twelve uniform numbers is normal enough for a gauge.
                let news = (0..12).map(|_| self.chance.fraction()).sum::<f64>() - 6.0;
                *drift = keep * *drift + (1.0 - keep * keep).sqrt() * news;
            }
        }
    }

    fn scrape(&mut self, side: usize) {
        if self.scenario.missed > 0.0 && self.chance.happens(self.scenario.missed) {
            return;
        }
        let shown = if side == 0 { &self.canary } else { &self.stable };
        self.scraped[side] = Some(shown.sums().to_vec());
    }

    fn gauge(&self, served_s: f64, weight: f64) -> Option<(f64, f64)> {
        let (noise, _) = self.scenario.gauge?;
        let fault = &self.scenario.fault;
        let worse = 1.0 + (fault.gauge_times - 1.0) * fault.extent(served_s, weight);
        let [canary, stable] = self.drift.map(|drift| 50.0 * (noise * drift).exp());
        Some((canary * worse, stable))
    }
}

/// The past of stable's pods in so many blocks, under the scenario's weather.
pub fn past(scenario: &Scenario, blocks: usize, block_s: f64, chance: &mut Chance) -> History {
    let mut climate = Climate::new(scenario.weather, chance);
    let mut sides: Vec<Side> = (0..scenario.pods).map(|_| Side::new(scenario.usual)).collect();
    let mut rows = vec![Vec::with_capacity(blocks); sides.len()];
    let (coarse, fine) = HISTORY_STEPS_S;
    let seconds = if scenario.usual.hiccups.is_some() { fine } else { coarse }.min(block_s);
    let steps = (block_s / seconds).round().max(1.0) as usize;
    for block in 0..blocks {
        let before: Vec<[f64; 2]> = sides.iter().map(|side| [side.sums()[0], side.sums()[1]]).collect();
        for number in 0..steps {
            let t_s = (block * steps + number) as f64 * seconds;
            let sky = climate.at(t_s, chance);
            let step = Step {
                t_s,
                seconds,
                rate: scenario.rps * sky.traffic / f64::from(scenario.pods),
                errors: (scenario.usual.errors * sky.errors).min(1.0),
                plus: sky.fails,
                slower: 1.0,
                stalls: 0.0,
                timed: false,
            };
            sides.iter_mut().for_each(|side| side.serve(&step, chance));
        }
        for ((row, side), [requests, errors]) in rows.iter_mut().zip(&sides).zip(before) {
            row.push((side.sums()[0] - requests, side.sums()[1] - errors));
        }
    }
    History { block_s, pods: rows }
}
