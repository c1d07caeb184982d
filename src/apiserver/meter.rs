//! Counting what is asked, by whoever wants to: this module knows nothing of telemetry.

use std::time::Duration;

/// Counts what is asked of the API server.
pub trait Meter: Send + Sync {
    /// A request ended: with `ok` or the word of its [`Fault`](super::Fault), after this time; a watch that broke took none.
    fn asked(&self, verb: &'static str, result: &'static str, took: Option<Duration>);
}
