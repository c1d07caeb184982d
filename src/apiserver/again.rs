//! When a broken watch is opened again.

use std::time::Duration;

use kube::runtime::utils::Backoff;

/// The longest pause before a broken watch is opened again: whoever watches is blind until then.
const WATCH_AGAIN_WITHIN: Duration = Duration::from_secs(2);

/// The pauses between tries of a broken watch. Not kube's own, which grow to 30 s: after an API server had been away for
/// half a minute, a release stood still for another one (seen on the node).
#[derive(Clone, Debug)]
pub(super) struct Again(Duration);

impl Default for Again {
    fn default() -> Self {
        Self(Duration::from_millis(250))
    }
}

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(WATCH_AGAIN_WITHIN);
        Some(pause)
    }
}

impl Backoff for Again {
    fn reset(&mut self) {
        *self = Self::default();
    }
}
