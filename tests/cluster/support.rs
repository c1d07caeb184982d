//! What the tests on the node stand on.

pub(crate) mod account;
pub(crate) mod api;
pub(crate) mod audit;
pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod metrics;
pub(crate) mod node;
pub(crate) mod recorder;
pub(crate) mod scene;
pub(crate) mod space;
pub(crate) mod step;
pub(crate) mod targets;
pub(crate) mod trial;
pub(crate) mod wire;

use std::time::Duration;

use jiff::Timestamp;
use wade::clock::{Clock, SystemClock, stopwatch};

/// The wall clock: what the clients, the recorder and the API server's log are compared by.
pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

/// Seconds from one moment to another one; negative if it was before.
pub(crate) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Looks again and again until there is something to see; says what was waited for if there never was.
pub(crate) async fn eventually<T, F>(what: &str, within: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let watch = stopwatch();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(
            watch.elapsed() < within,
            "after {} s it is still not so that {what}",
            within.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
