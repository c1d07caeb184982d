//! Seeded randomness: every draw of a simulated run comes from here, so that a seed is the whole story.
//!
//! Each part of the simulator draws from a stream of its own: more faults must not change the traffic that is drawn,
//! or no failing run could be made simpler and still fail. Only the distributions that are needed, in forms that are
//! good enough for counts (no tail is read from them).

use jiff::SignedDuration;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Up to this mean, counts are drawn exactly; above it the normal distribution is close enough.
const EXACT_UP_TO: f64 = 30.0;

/// The parts of a simulated run that draw independently of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What is released, and how the service behaves.
    Case,
    /// Requests, errors and latencies.
    Traffic,
    /// Which write is lost or late.
    Faults,
    /// Who is polled next, and who dies.
    Schedule,
}

/// One stream of seeded randomness.
#[derive(Clone, Debug)]
pub struct Chance(ChaCha8Rng);

impl Chance {
    /// The stream of a seed.
    pub fn new(seed: u64, stream: Stream) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream as u64);
        Self(rng)
    }

    /// A number from 0 up to, not including, 1.
    pub fn fraction(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// A whole number between both, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.0.next_u64() % (most - least + 1)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let last = u64::try_from(of.len()).expect("a length fits into 64 bits") - 1;
        &of[usize::try_from(self.between(0, last)).expect("an index was drawn")]
    }

    /// A time between both, in milliseconds, both included.
    pub fn millis(&mut self, least: u64, most: u64) -> SignedDuration {
        SignedDuration::from_millis(i64::try_from(self.between(least, most)).expect("far below the limit"))
    }

    /// How many events a Poisson process with this mean has.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean <= 0.0 {
            return 0;
        }
        if mean > EXACT_UP_TO {
            return self.normal_count(mean, mean.sqrt(), u64::MAX);
        }
        let limit = (-mean).exp();
        let (mut count, mut product) = (0, self.fraction());
        while product > limit {
            count += 1;
            product *= self.fraction();
        }
        count
    }

    /// How many of `trials` happen, each with this probability.
    pub fn binomial(&mut self, trials: u64, probability: f64) -> u64 {
        let p = probability.clamp(0.0, 1.0);
        if trials == 0 || p == 0.0 {
            return 0;
        }
        if p > 0.5 {
            return trials - self.binomial(trials, 1.0 - p);
        }
        let mean = trials as f64 * p;
        if trials <= 40 {
            return (0..trials).filter(|_| self.happens(p)).count() as u64;
        }
        if mean <= EXACT_UP_TO {
            return self.poisson(mean).min(trials);
        }
        self.normal_count(mean, (mean * (1.0 - p)).sqrt(), trials)
    }

    fn normal_count(&mut self, mean: f64, deviation: f64, most: u64) -> u64 {
        let drawn = mean + deviation * self.normal();
        (drawn.round().max(0.0) as u64).min(most)
    }

    /// A standard normal number (Box-Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.fraction()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_the_mean_they_were_asked_for() {
        let mut chance = Chance::new(7, Stream::Traffic);
        for (trials, p) in [(30, 0.2), (1000, 0.004), (5000, 0.9)] {
            let total: u64 = (0..2000).map(|_| chance.binomial(trials, p)).sum();
            let mean = total as f64 / 2000.0;
            let expected = trials as f64 * p;
            assert!((mean - expected).abs() < 0.05 * expected, "{mean} for {expected}");
        }
        let total: u64 = (0..4000).map(|_| chance.poisson(3.5)).sum();
        assert!((total as f64 / 4000.0 - 3.5).abs() < 0.15);
    }

    #[test]
    fn streams_of_a_seed_differ_and_repeat() {
        let draw = |stream| Chance::new(1, stream).between(0, u64::MAX - 1);
        assert_eq!(draw(Stream::Traffic), draw(Stream::Traffic));
        assert_ne!(draw(Stream::Traffic), draw(Stream::Faults));
    }
}
