//! When a broken watch is opened again.

use std::time::{Duration, Instant};

use kube::runtime::utils::Backoff;

use crate::clock::stopwatch;

/// The first pause.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause before a broken watch is opened again: whoever watches is blind until then.
const WATCH_AGAIN_WITHIN: Duration = Duration::from_secs(2);
/// A watch that has not failed for this long is whole again.
const WHOLE_AFTER: Duration = Duration::from_secs(10);

/// The pauses between tries of a broken watch. Not kube's own, which grow to 30 s: after an API server had been away for
/// half a minute, a release stood still for another one (seen on the node).
///
/// Each pause is twice the one before, until nothing has failed for a while. To be told of a success is not enough: kube
/// tells of one whenever it begins to list anew, which a server that is away does not keep it from, and then every watch
/// would knock four times a second (seen: 820 lines of log in a minute).
#[derive(Clone, Debug)]
pub(super) struct Again {
    pause: Duration,
    failed: Option<Instant>,
}

impl Default for Again {
    fn default() -> Self {
        Self {
            pause: FIRST,
            failed: None,
        }
    }
}

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = stopwatch();
        let whole = self
            .failed
            .is_none_or(|failed| now.duration_since(failed) >= WHOLE_AFTER);
        let pause = if whole { FIRST } else { self.pause };
        self.pause = (pause * 2).min(WATCH_AGAIN_WITHIN);
        self.failed = Some(now);
        Some(pause)
    }
}

impl Backoff for Again {
    fn reset(&mut self) {
        // See above: time tells.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_away_is_asked_less_and_less_until_it_has_been_there_for_a_while() {
        let mut again = Again::default();
        let mut pauses = Vec::new();
        for _ in 0..5 {
            again.reset();
            pauses.push(again.next().map(|pause| pause.as_millis()));
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 2000].map(Some));
        again.failed = again.failed.and_then(|failed| failed.checked_sub(WHOLE_AFTER));
        assert_eq!(again.next(), Some(FIRST));
    }
}
