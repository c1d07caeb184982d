//! How much callers may ask for: the numbers, token buckets by caller, and places for streams.
//!
//! Everything here is bounded itself: a million callers make a map of [`MOST_CALLERS`] buckets, from which the one that
//! was used longest ago is dropped. (Somebody who is forgotten begins with a full bucket; being forgotten takes as long
//! as refilling it, unless thousands of others call, each of whom has a valid token.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::daemon::api::{Problem, ProblemKind};

/// Callers whose rate is remembered.
pub const MOST_CALLERS: usize = 4096;

/// What one caller, and all together, may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The largest body of a request in bytes.
    pub body: usize,
    /// For a body to arrive.
    pub body_within: Duration,
    /// For an answer. What was begun goes on; only its caller is let go.
    pub answer_within: Duration,
    /// Requests a second and caller, over a longer time.
    pub rate: f64,
    /// Requests at once after a rest.
    pub burst: f64,
    /// Requests that are worked on at once.
    pub at_once: usize,
    /// Event streams in all.
    pub streams: usize,
    /// Event streams of one caller.
    pub streams_per_caller: usize,
    /// A stream shows that it lives so often.
    pub heartbeat: Duration,
    /// A stream's caller is asked for their name and rights again so often.
    pub recheck: Duration,
    /// A stream is ended after so long, and resumed by its caller.
    pub stream_age: Duration,
    /// All rollouts are looked at so often while somebody follows the fleet.
    pub look: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            body: 256 * 1024,
            body_within: Duration::from_secs(10),
            answer_within: Duration::from_secs(60),
            rate: 20.0,
            burst: 60.0,
            at_once: 128,
            streams: 500,
            streams_per_caller: 50,
            heartbeat: Duration::from_secs(15),
            recheck: Duration::from_secs(60),
            stream_age: Duration::from_secs(3600),
            look: Duration::from_secs(1),
        }
    }
}

/// Token buckets by name.
#[derive(Debug)]
pub(super) struct Buckets {
    rate: f64,
    burst: f64,
    most: usize,
    by_name: BTreeMap<String, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Buckets {
    /// Buckets that hold `burst` and gain `rate` a second.
    pub(super) const fn new(rate: f64, burst: f64, most: usize) -> Self {
        Self {
            rate,
            burst,
            most,
            by_name: BTreeMap::new(),
        }
    }

    /// What is in a bucket now.
    fn level(&self, name: &str, now: Instant) -> f64 {
        self.by_name.get(name).map_or(self.burst, |bucket| {
            let since = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.left + since * self.rate).min(self.burst)
        })
    }

    /// Whether one could be taken.
    pub(super) fn has(&self, name: &str, now: Instant) -> bool {
        self.level(name, now) >= 1.0
    }

    /// Takes one; if there is none, says after how many seconds there will be.
    pub(super) fn take(&mut self, name: &str, now: Instant) -> Result<(), u64> {
        let level = self.level(name, now);
        if level < 1.0 {
            return Err(((1.0 - level) / self.rate).ceil().max(1.0) as u64);
        }
        if !self.by_name.contains_key(name) && self.by_name.len() >= self.most {
            let oldest = self.by_name.iter().min_by_key(|(_, bucket)| bucket.at);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.by_name.remove(&oldest);
            }
        }
        let bucket = Bucket {
            left: level - 1.0,
            at: now,
        };
        self.by_name.insert(name.to_owned(), bucket);
        Ok(())
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}

/// Places for streams, in all and by caller.
#[derive(Debug)]
pub(super) struct Places {
    all: usize,
    each: usize,
    taken: Mutex<BTreeMap<String, usize>>,
}

/// A place that is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    caller: String,
}

impl Places {
    pub(super) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            each,
            taken: Mutex::default(),
        })
    }

    /// A place for a stream of `caller`.
    pub(super) fn take(self: &Arc<Self>, caller: &str) -> Result<Place, Problem> {
        let mut taken = self.taken();
        let own = taken.get(caller).copied().unwrap_or(0);
        if own >= self.each {
            return Err(Problem::new(
                ProblemKind::Busy,
                format!("{caller} follows {own} streams already, the most that one caller may; end one"),
            ));
        }
        if taken.values().sum::<usize>() >= self.all {
            return Err(Problem::new(
                ProblemKind::Busy,
                format!("all {} places for streams are taken; try again later", self.all),
            ));
        }
        taken.insert(caller.to_owned(), own + 1);
        drop(taken);
        Ok(Place {
            places: Arc::clone(self),
            caller: caller.to_owned(),
        })
    }

    /// How many are taken now.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.taken().values().sum()
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match taken.get_mut(&self.caller) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::stopwatch;

    #[test]
    fn a_bucket_is_emptied_by_a_burst_and_refills_by_its_rate() {
        let start = stopwatch();
        let mut buckets = Buckets::new(2.0, 3.0, 10);
        let taken = [0, 0, 0, 0].map(|at| buckets.take("ann", start + Duration::from_secs(at)));
        assert_eq!(taken, [Ok(()), Ok(()), Ok(()), Err(1)]);
        assert_eq!(buckets.take("bob", start), Ok(()), "others have their own");
        let later = start + Duration::from_millis(500);
        assert_eq!(
            (buckets.take("ann", later), buckets.take("ann", later)),
            (Ok(()), Err(1))
        );
    }

    #[test]
    fn a_flood_of_names_makes_a_map_of_a_fixed_size() {
        let start = stopwatch();
        let mut buckets = Buckets::new(1.0, 1.0, 5);
        for n in 0..1000 {
            let at = start + Duration::from_micros(n);
            assert_eq!(buckets.take(&n.to_string(), at), Ok(()));
            assert!(buckets.len() <= 5);
        }
        assert!(buckets.take("999", start).is_err(), "the latest is remembered");
    }

    #[test]
    fn places_are_counted_in_all_and_by_caller_and_come_back() {
        let places = Places::new(3, 2);
        let first = places.take("ann").expect("a place");
        let second = places.take("ann").expect("another");
        assert_eq!(
            places.take("ann").map(|_| ()).map_err(|p| p.kind),
            Err(ProblemKind::Busy)
        );
        let third = places.take("bob").expect("bob has his own");
        assert!(places.take("cem").is_err(), "all are taken");
        drop((first, third));
        assert!(places.take("cem").is_ok() && places.count() == 1);
        drop(second);
        assert_eq!(places.count(), 0);
    }
}
