//! The bounded queue before whatever can be slow, with a task of its own behind it.
//!
//! Whoever observes puts and goes on. A full queue drops and counts, a task that hangs is given up at the end: nothing
//! behind it can hold up a release, nor use memory without bound.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Telemetry;
use super::events::{EventSink, Said};
use super::list::{self, Metric};
use super::spans::Exporter;

/// What waits in one lane at most.
const QUEUE: usize = 128;
/// Spans that are sent at once.
const BATCH: usize = 64;
/// How often something is tried, and the pause between.
const TRIES: u32 = 3;
/// See [`TRIES`].
const PAUSE: Duration = Duration::from_secs(1);

/// A queue and the task that empties it.
pub(super) struct Lane<T> {
    queue: mpsc::Sender<T>,
    task: JoinHandle<()>,
    telemetry: Arc<Telemetry>,
    counted: Metric,
}

impl<T> Lane<T> {
    /// Puts something in, if there is room.
    pub(super) fn put(&self, thing: T) {
        if self.queue.try_send(thing).is_err() {
            self.telemetry.numbers.count(self.counted, &["dropped"]);
        }
    }

    /// Waits until everything is out, for so long at most.
    pub(super) async fn finish(self, within: Duration) {
        drop(self.queue);
        let mut task = self.task;
        if tokio::time::timeout(within, &mut task).await.is_err() {
            task.abort();
        }
    }
}

impl Lane<SpanData> {
    /// Spans, sent in batches.
    pub(super) fn of_spans(telemetry: &Arc<Telemetry>, exporter: Arc<Exporter>) -> Self {
        let (queue, mut waiting) = mpsc::channel(QUEUE);
        let own = Arc::clone(telemetry);
        let task = tokio::spawn(async move {
            let mut batch = Vec::new();
            while waiting.recv_many(&mut batch, BATCH).await > 0 {
                let spans = std::mem::take(&mut batch);
                let count = spans.len() as f64;
                let sent = exporter.send(&spans, TRIES, PAUSE).await;
                let result = match sent {
                    Ok(()) => "ok",
                    Err(error) => {
                        tracing::warn!(%error, "spans of a release could not be sent");
                        "failed"
                    }
                };
                own.numbers.add(list::SPANS, &[result], count);
            }
        });
        Self {
            queue,
            task,
            telemetry: Arc::clone(telemetry),
            counted: list::SPANS,
        }
    }
}

impl Lane<Said> {
    /// Events, written one after the other.
    pub(super) fn of_events(telemetry: &Arc<Telemetry>, sink: EventSink) -> Self {
        let (queue, mut waiting) = mpsc::channel(QUEUE);
        let own = Arc::clone(telemetry);
        let task = tokio::spawn(async move {
            let objects = sink.objects().await;
            let mut complained = false;
            while let Some(said) = waiting.recv().await {
                for object in &objects {
                    let result = match write(&sink, object, &said).await {
                        Ok(()) => "ok",
                        Err(error) => {
                            if !std::mem::replace(&mut complained, true) {
                                tracing::warn!(%error, "Kubernetes Events of a release are not written");
                            }
                            "failed"
                        }
                    };
                    own.numbers.count(list::EVENTS, &[result]);
                }
            }
        });
        Self {
            queue,
            task,
            telemetry: Arc::clone(telemetry),
            counted: list::EVENTS,
        }
    }
}

async fn write(sink: &EventSink, object: &serde_json::Value, said: &Said) -> Result<(), crate::apiserver::ApiError> {
    let mut tried = 1;
    loop {
        match sink.write(object, said).await {
            Err(error) if error.is_passing() && tried < TRIES => tried += 1,
            written => return written,
        }
        tokio::time::sleep(PAUSE).await;
    }
}
