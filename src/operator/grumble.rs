//! Saying what goes wrong without drowning the log: the same trouble is said once a minute, however many meet it.
//!
//! A token without a right, or a server that is away, fails every request of every Rollout. What a person needs is one
//! line that names it, and later how often it was met; the rest is counted in the metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::apiserver::ApiError;
use crate::clock::stopwatch;

/// How often the same trouble is said.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Troubles that are told apart; beyond that the oldest is forgotten, and said again.
const MOST: usize = 64;

/// What has been said lately.
#[derive(Debug, Default)]
pub struct Grumbler {
    said: Mutex<BTreeMap<String, Said>>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    unsaid: u64,
}

impl Grumbler {
    /// Whether this trouble is to be said now: with how often it was met since it was last said.
    pub fn may_say(&self, trouble: &str) -> Option<u64> {
        let now = stopwatch();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = said.get_mut(trouble) {
            if now.duration_since(before.at) < AGAIN_AFTER {
                before.unsaid += 1;
                return None;
            }
            before.at = now;
            return Some(std::mem::take(&mut before.unsaid));
        }
        if said.len() >= MOST {
            let oldest = said
                .iter()
                .min_by_key(|(_, said)| said.at)
                .map(|(trouble, _)| trouble.clone());
            if let Some(oldest) = oldest {
                said.remove(&oldest);
            }
        }
        said.insert(trouble.to_owned(), Said { at: now, unsaid: 0 });
        Some(0)
    }

    /// As [`Self::may_say`], for a request that failed: which object it was about makes no difference.
    pub fn may_say_of(&self, what: &str, error: &ApiError) -> Option<u64> {
        let needs = error.needs.as_ref().map_or("", |(_, resource)| resource);
        self.may_say(&format!("{what} {} {needs} {}", error.verb, error.fault.word()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::Fault;

    #[test]
    fn the_same_trouble_of_another_object_is_not_said_again() {
        let grumbler = Grumbler::default();
        let error = |name: &str, verb: &'static str| ApiError {
            verb,
            what: format!("rollout {name}"),
            needs: Some((verb.to_owned(), "rollouts.wade.dev".to_owned())),
            fault: Fault::Forbidden("no".to_owned()),
        };
        assert_eq!(grumbler.may_say_of("status", &error("a", "patch")), Some(0));
        assert_eq!(grumbler.may_say_of("status", &error("b", "patch")), None);
        assert_eq!(
            grumbler.may_say_of("status", &error("b", "get")),
            Some(0),
            "another right"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let grumbler = Grumbler::default();
        for number in 0..1000 {
            assert_eq!(grumbler.may_say(&format!("{number}")), Some(0));
        }
        assert_eq!(grumbler.said.lock().expect("nobody panicked").len(), MOST);
    }
}
