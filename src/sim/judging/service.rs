//! A service for trials of the judge: what its pods answer, second by second, and what is wrong with the new revision.
//!
//! One side is a handful of pods behind sums of counters, as a source would show them. Requests arrive as a Poisson
//! process; what they meet is written as numbers ([`Behaviour`], [`Weather`], [`Fault`]), so that a scenario is one
//! value. Sums only ever grow, except when a pod restarts and takes its part of them along.

use crate::sim::chance::Chance;

/// Upper bounds of the latency buckets: the defaults of Prometheus clients.
pub const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Requests, errors, then one sum per bucket.
pub const COLUMNS: usize = 2 + BOUNDS.len() + 1;

/// How a revision answers when nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behaviour {
    /// The share of requests that fail.
    pub errors: f64,
    /// Errors that come together.
    pub clumps: Option<Clumps>,
    /// Times in which a single pod is unwell.
    pub hiccups: Option<Hiccups>,
    /// Median latency in seconds.
    pub median_s: f64,
    /// Spread of the body: standard deviation of ln(latency).
    pub spread: f64,
    /// The share of requests in a second, slow body around 20 medians.
    pub tail: f64,
}

/// Errors of one pod that come together: a lost connection, a shared batch, retries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clumps {
    /// The share of all errors that come in clumps.
    pub share: f64,
    /// Fewest errors of a clump.
    pub least: u64,
    /// Most errors of a clump.
    pub most: u64,
}

/// A single pod is unwell now and then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hiccups {
    /// How often, per pod and hour.
    pub per_pod_hour: f64,
    /// Shortest and longest, in seconds.
    pub seconds: (f64, f64),
    /// The share of the pod's requests that fail meanwhile.
    pub fails: f64,
    /// By how much the pod is slower meanwhile (1: not at all).
    pub slower: f64,
}

/// What both revisions go through together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weather {
    /// Nothing.
    Still,
    /// The error rate swings by this factor up and down, in a period of so many seconds.
    Swing {
        /// Highest over mean.
        factor: f64,
        /// Length of one swing.
        period_s: f64,
    },
    /// The error rate wanders: each minute it is multiplied by a factor up to this, within 0.2 and 5 times.
    Wander {
        /// Largest factor of a minute.
        factor: f64,
    },
    /// Now and then everything fails with this share for some time.
    Incidents {
        /// Share that fails on both sides.
        fails: f64,
        /// Seconds from one start to the next.
        every_s: f64,
        /// Seconds of each.
        lasts_s: f64,
    },
    /// Traffic swings by this factor up and down.
    Tides {
        /// Highest over mean.
        factor: f64,
        /// Length of one swing.
        period_s: f64,
    },
    /// Everything becomes slower and faster again by this factor.
    Sluggish {
        /// Highest over usual latency.
        factor: f64,
        /// Length of one swing.
        period_s: f64,
    },
}

/// What is wrong with the new revision; nothing by default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// Its errors over stable's.
    pub errors_times: f64,
    /// The share of requests that fail besides.
    pub errors_plus: f64,
    /// Its latency over stable's.
    pub slower: f64,
    /// The share of requests that take a second longer.
    pub stalls: f64,
    /// Its gauge over stable's.
    pub gauge_times: f64,
    /// Seconds after its first request at which this begins.
    pub from_s: f64,
    /// Seconds in which it grows to its full size.
    pub ramp_s: f64,
    /// Only from this share of the traffic on.
    pub from_weight: f64,
    /// Requests after a pod's start are slower by this factor …
    pub cold: f64,
    /// … for so many seconds after the first traffic.
    pub cold_s: f64,
}

/// Nothing is wrong.
pub const FINE: Fault = Fault {
    errors_times: 1.0,
    errors_plus: 0.0,
    slower: 1.0,
    stalls: 0.0,
    gauge_times: 1.0,
    from_s: 0.0,
    ramp_s: 0.0,
    from_weight: 0.0,
    cold: 1.0,
    cold_s: 0.0,
};

impl Fault {
    /// How much of it is there, 0 to 1, so long after the first request at this weight.
    pub fn extent(&self, served_s: f64, weight: f64) -> f64 {
        if served_s < self.from_s || weight < self.from_weight {
            0.0
        } else if self.ramp_s > 0.0 {
            // Never quite nothing, so that its beginning can be told.
            ((served_s - self.from_s) / self.ramp_s).clamp(1e-9, 1.0)
        } else {
            1.0
        }
    }
}

/// The weather at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sky {
    /// Factor on the error rate.
    pub errors: f64,
    /// Share that fails on top.
    pub fails: f64,
    /// Factor on traffic.
    pub traffic: f64,
    /// Factor on latency.
    pub slower: f64,
}

/// The weather as it goes on; it begins at a moment of its own.
#[derive(Clone, Debug)]
pub struct Climate {
    weather: Weather,
    phase_s: f64,
    wandered: f64,
    minute: f64,
}

impl Climate {
    /// Begins anywhere in its course.
    pub fn new(weather: Weather, chance: &mut Chance) -> Self {
        Climate {
            weather,
            phase_s: 1000.0 * chance.fraction(),
            wandered: 1.0,
            minute: 0.0,
        }
    }

    /// At `t_s`.
    pub fn at(&mut self, t_s: f64, chance: &mut Chance) -> Sky {
        let mut sky = Sky {
            errors: 1.0,
            fails: 0.0,
            traffic: 1.0,
            slower: 1.0,
        };
        let t_s = t_s + self.phase_s;
        let wave = |factor: f64, period: f64| factor.powf((std::f64::consts::TAU * t_s / period).sin());
        match self.weather {
            Weather::Still => {}
            Weather::Swing { factor, period_s } => sky.errors = wave(factor, period_s),
            Weather::Tides { factor, period_s } => sky.traffic = wave(factor, period_s),
            // In steps, as the buckets are computed anew for each.
            Weather::Sluggish { factor, period_s } => sky.slower = (wave(factor, period_s) * 16.0).round() / 16.0,
            Weather::Incidents {
                fails,
                every_s,
                lasts_s,
            } => {
                if t_s % every_s < lasts_s {
                    sky.fails = fails;
                }
            }
            Weather::Wander { factor } => {
                if (t_s / 60.0).floor() > self.minute {
                    self.minute = (t_s / 60.0).floor();
                    let step = factor.powf(2.0 * chance.fraction() - 1.0);
                    self.wandered = (self.wandered * step).clamp(0.2, 5.0);
                }
                sky.errors = self.wandered;
            }
        }
        sky
    }
}

/// One revision while it serves.
#[derive(Clone, Debug)]
pub struct Side {
    behaviour: Behaviour,
    pods: u32,
    /// Requests, errors, buckets: sums since the beginning.
    sums: Vec<f64>,
    /// When each hiccup that is going on ends.
    unwell_until_s: Vec<f64>,
    /// Errors of a clump that had no request yet.
    owed: u64,
    shape: Shape,
}

/// Shares of requests per bucket, kept until latency changes.
#[derive(Clone, Debug)]
struct Shape {
    slower: f64,
    stalls: f64,
    well: [f64; BOUNDS.len() + 1],
    unwell: [f64; BOUNDS.len() + 1],
}

/// What a side goes through in one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Now.
    pub t_s: f64,
    /// Its length.
    pub seconds: f64,
    /// Requests per second that reach the side.
    pub rate: f64,
    /// The share of errors when all is well, clumps included.
    pub errors: f64,
    /// The share that fails on top, one by one.
    pub plus: f64,
    /// Factor on latency.
    pub slower: f64,
    /// The share that takes a second longer.
    pub stalls: f64,
    /// Whether latency is of interest; without it only requests and errors are drawn.
    pub timed: bool,
}

impl Side {
    /// A side that has served nothing yet.
    pub fn new(behaviour: Behaviour) -> Self {
        Side {
            behaviour,
            pods: 1,
            sums: vec![0.0; COLUMNS],
            unwell_until_s: Vec::new(),
            owed: 0,
            shape: Shape {
                slower: f64::NAN,
                stalls: 0.0,
                well: [0.0; BOUNDS.len() + 1],
                unwell: [0.0; BOUNDS.len() + 1],
            },
        }
    }

    /// Serves with so many pods from now on.
    pub fn scale(&mut self, pods: u32) {
        self.pods = pods.max(1);
    }

    /// What a source would show.
    pub fn sums(&self) -> &[f64] {
        &self.sums
    }

    /// A pod starts again: its part of the sums is gone.
    pub fn restart_pod(&mut self) {
        let left = 1.0 - 1.0 / f64::from(self.pods);
        self.sums.iter_mut().for_each(|sum| *sum = (*sum * left).floor());
    }

    /// Serves for one step.
    pub fn serve(&mut self, step: &Step, chance: &mut Chance) {
        let mean = step.rate * step.seconds;
        let unwell = self.unwell_share(step, chance);
        let fails = self.behaviour.hiccups.map_or(0.0, |hiccups| hiccups.fails);
        let clumps = self.behaviour.clumps;
        let singly = step.errors * (1.0 - clumps.map_or(0.0, |clumps| clumps.share));
        let well_fails = (singly + step.plus).min(1.0);
        // A request to a pod that is unwell fails for either reason.
        let single = (1.0 - unwell) * well_fails + unwell * (well_fails + fails).min(1.0);
        let served = if step.timed {
            self.shape(step);
            self.fill_buckets(mean, unwell, chance)
        } else {
            chance.poisson(mean)
        };
        let mut errors = binomial(chance, served, single);
        if let Some(clumps) = clumps {
            let size = 0.5 * (clumps.least + clumps.most) as f64;
            for _ in 0..chance.poisson(mean * step.errors * clumps.share / size) {
                self.owed += chance.between(clumps.least, clumps.most);
            }
            let paid = self.owed.min(served - errors);
            self.owed -= paid;
            errors += paid;
        }
        self.sums[0] += served as f64;
        self.sums[1] += errors as f64;
    }

    /// Draws each bucket by itself: the parts of a Poisson process are Poisson processes, so their sum is exact.
    fn fill_buckets(&mut self, mean: f64, unwell: f64, chance: &mut Chance) -> u64 {
        let mut served = 0;
        for (bucket, (well, ill)) in self.shape.well.iter().zip(&self.shape.unwell).enumerate() {
            let count = chance.poisson(mean * ((1.0 - unwell) * well + unwell * ill));
            served += count;
            self.sums[2 + bucket] += count as f64;
        }
        served
    }

    /// The share of this side's traffic that meets a pod which is unwell.
    fn unwell_share(&mut self, step: &Step, chance: &mut Chance) -> f64 {
        let Some(hiccups) = self.behaviour.hiccups else {
            return 0.0;
        };
        self.unwell_until_s.retain(|until| *until > step.t_s);
        let pods = f64::from(self.pods);
        for _ in 0..chance.poisson(pods * hiccups.per_pod_hour * step.seconds / 3600.0) {
            let (shortest, longest) = hiccups.seconds;
            let lasts = shortest + (longest - shortest) * chance.fraction();
            self.unwell_until_s.push(step.t_s + lasts);
        }
        (self.unwell_until_s.len() as f64 / pods).min(1.0)
    }

    fn shape(&mut self, step: &Step) {
        if (self.shape.slower, self.shape.stalls) == (step.slower, step.stalls) {
            return;
        }
        let worse = self.behaviour.hiccups.map_or(1.0, |hiccups| hiccups.slower);
        self.shape = Shape {
            slower: step.slower,
            stalls: step.stalls,
            well: shares(&self.behaviour, step.slower, step.stalls),
            unwell: shares(&self.behaviour, step.slower * worse, step.stalls),
        };
    }
}

/// How many of `trials` happen: exact by inversion as long as few do, where the shape of the distribution matters.
fn binomial(chance: &mut Chance, trials: u64, probability: f64) -> u64 {
    let p = probability.clamp(0.0, 1.0);
    if p > 0.5 {
        return trials - binomial(chance, trials, 1.0 - p);
    }
    let mean = trials as f64 * p;
    if mean > 30.0 {
        return chance.binomial(trials, p);
    }
    let odds = p / (1.0 - p);
    let mut mass = (1.0 - p).powf(trials as f64);
    let (mut left, mut count) = (chance.fraction(), 0);
    while left > mass && count < trials {
        left -= mass;
        count += 1;
        mass *= (trials + 1) as f64 * odds / count as f64 - odds;
    }
    count
}

/// Shares of requests per bucket.
fn shares(behaviour: &Behaviour, slower: f64, stalls: f64) -> [f64; BOUNDS.len() + 1] {
    let body = |x: f64, median: f64, spread: f64| {
        if x <= 0.0 {
            0.0
        } else {
            normal_below((x / (median * slower)).ln() / spread)
        }
    };
    let mixed = |x: f64| {
        (1.0 - behaviour.tail) * body(x, behaviour.median_s, behaviour.spread)
            + behaviour.tail * body(x, 20.0 * behaviour.median_s, 0.7)
    };
    let below = |x: f64| (1.0 - stalls) * mixed(x) + stalls * mixed(x - 1.0);
    let mut shares = [0.0; BOUNDS.len() + 1];
    let mut last = 0.0;
    for (share, bound) in shares.iter_mut().zip(BOUNDS) {
        let here = below(bound);
        *share = (here - last).max(0.0);
        last = here;
    }
    shares[BOUNDS.len()] = (1.0 - last).max(0.0);
    shares
}

/// The standard normal distribution function (Abramowitz and Stegun 26.2.17, error below 1e-7: no tail is read from it).
fn normal_below(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let series =
        t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let above = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt() * series;
    if z >= 0.0 { 1.0 - above } else { above }
}
