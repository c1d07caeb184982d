//! What stores and the API server are counted with, from outside: neither knows of telemetry.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Telemetry, list};
use crate::apiserver::Meter;
use crate::clock::stopwatch;
use crate::engine::Command;
use crate::store::{ReleaseKey, ReleaseRecord, Store, StoreError, Update};

/// A store whose writes are counted.
pub struct Metered {
    store: Arc<dyn Store>,
    telemetry: Arc<Telemetry>,
}

impl Metered {
    /// Counts what goes through it.
    pub fn new(store: Arc<dyn Store>, telemetry: Arc<Telemetry>) -> Self {
        Self { store, telemetry }
    }
}

#[async_trait]
impl Store for Metered {
    async fn record(&self, key: &ReleaseKey, epoch: u64, update: &Update) -> Result<(), StoreError> {
        let watch = stopwatch();
        let written = self.store.record(key, epoch, update).await;
        let result = match &written {
            Ok(()) => "ok",
            Err(StoreError::Fenced { .. }) => "fenced",
            Err(StoreError::Unknown(_)) => "unknown",
            Err(StoreError::Unavailable { .. }) => "unavailable",
            Err(StoreError::Damaged { .. }) => "damaged",
        };
        let numbers = self.telemetry.registry();
        numbers.count(list::RECORD_WRITES, &[result]);
        numbers.observe(list::RECORD_SECONDS, &[], watch.elapsed().as_secs_f64());
        written
    }

    async fn commands(&self, key: &ReleaseKey, handled: u64) -> Result<Vec<Command>, StoreError> {
        self.store.commands(key, handled).await
    }

    async fn load(&self, key: &ReleaseKey) -> Result<ReleaseRecord, StoreError> {
        self.store.load(key).await
    }
}

impl Meter for Telemetry {
    fn asked(&self, verb: &'static str, result: &'static str, took: Option<Duration>) {
        let numbers = self.registry();
        numbers.count(list::ASKED, &[verb, result]);
        if let Some(took) = took {
            numbers.observe(list::ASKED_SECONDS, &[verb], took.as_secs_f64());
        }
    }
}
