//! The one place that asks the machine for the time.
//!
//! Everything else takes `now` as an argument, or a [`Clock`] where it has to keep asking (the controller's loop).
//! A simulated clock is a value that the simulator advances; see `sim`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::Timestamp;

/// Where "now" comes from.
pub trait Clock: Send + Sync {
    /// The wall clock's present time.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands still until it is moved; clones share the time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that stands at `start`. Precision is one microsecond.
    pub fn new(start: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(start.as_microsecond())))
    }

    /// Moves the clock to `to`; never backwards.
    pub fn set(&self, to: Timestamp) {
        self.0.fetch_max(to.as_microsecond(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.load(Ordering::SeqCst)).expect("only valid timestamps are stored")
    }
}

/// A monotonic instant for measuring how long something took (latencies, timeouts); never a date.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn stopwatch() -> Instant {
    Instant::now()
}
