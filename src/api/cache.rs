//! A small memory of answers: bounded in number and in age, oldest out first.
//!
//! It does not know what it keeps; that errors are not kept is for its users to see to.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Answers by key, each for the same time.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    most: usize,
    keep: Duration,
    known: BTreeMap<K, (Instant, V)>,
    /// In the order in which they came, which is the order in which they end.
    order: VecDeque<(Instant, K)>,
}

impl<K: Ord + Clone, V: Clone> Cache<K, V> {
    /// At most `most` answers, each for `keep`.
    pub(super) const fn new(most: usize, keep: Duration) -> Self {
        Self {
            most,
            keep,
            known: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// What is known and not too old.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let (at, value) = self.known.get(key)?;
        (now.saturating_duration_since(*at) < self.keep).then(|| value.clone())
    }

    /// Keeps an answer that was given at `now`.
    pub(super) fn put(&mut self, key: K, value: V, now: Instant) {
        self.known.insert(key.clone(), (now, value));
        self.order.push_back((now, key));
        while let Some((at, key)) = self.order.front() {
            let old = now.saturating_duration_since(*at) >= self.keep;
            if !old && self.order.len() <= self.most {
                break;
            }
            // A newer answer to the same question has its own place in the order.
            if self.known.get(key).is_some_and(|(since, _)| since == at) {
                self.known.remove(key);
            }
            self.order.pop_front();
        }
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len().max(self.order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::stopwatch;

    #[test]
    fn answers_are_bounded_in_number_and_in_age() {
        let start = stopwatch();
        let mut cache = Cache::new(3, Duration::from_secs(10));
        for n in 0..100_u64 {
            cache.put(n % 7, n, start + Duration::from_millis(n));
            assert!(cache.len() <= 3, "{n}");
        }
        let now = start + Duration::from_millis(100);
        assert_eq!(
            [96 % 7, 97 % 7, 98 % 7, 99 % 7].map(|key| cache.get(&key, now)),
            [None, Some(97), Some(98), Some(99)]
        );
        assert_eq!(cache.get(&(99 % 7), now + Duration::from_secs(10)), None, "too old");
        cache.put(50, 0, now + Duration::from_secs(20));
        assert_eq!(cache.len(), 1, "the old ones are gone");
    }
}
