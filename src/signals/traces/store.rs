//! A trace store that is asked: Jaeger or Tempo, every few seconds, for the service's latest spans.
//!
//! The idea: the store is a slower exporter. It is asked for the spans of a window of time that ends now, and every span
//! is offered to the same [`TraceBook`] as the receiver's, once. Spans reach a store late and in any order, so windows
//! overlap by [`OVERLAP`], and what was counted already is known by its ids. Windows are bounded, answers are bounded,
//! and the number of questions per poll is: what does not fit is left out, on both sides alike, and said.
//!
//! The first window looks back further, and its counts are thrown away: it is there to learn which errors stable has
//! shown before the release. An error is only new if it is not among them.
//!
//! What goes wrong is a [`NoMeasurement`], a line in the log, and said beside the metric's source. It never changes whether
//! measuring works: traces are never needed for a verdict (see [`super`]).

pub(super) mod api;

#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::jaeger::Jaeger;
use super::tempo::Tempo;
use super::{Belongs, Count, ServerSpan, TRACES, Telemetry, TraceBook, TraceId};
use crate::clock::Clock;
use crate::judge::History;
use crate::signals::{NoMeasurement, Sample, Signals};

/// How far back a window reaches behind the end of the last one: spans wait in exporters, collectors and ingesters.
pub const OVERLAP: SignedDuration = SignedDuration::from_secs(30);
/// How far back behind that end everything is read again. What is older is only read on while there is something new in
/// it: on a busy service most of an overlap is known, and asking for all of it each time would cost the store more than the
/// service does.
pub const SETTLED: SignedDuration = SignedDuration::from_secs(10);
/// The longest window, and the first one. The book takes no older spans.
pub const MAX_WINDOW: SignedDuration = SignedDuration::from_mins(4);
/// Spans that are remembered as counted; beyond it the oldest are forgotten, and nothing as old is counted any more.
const MAX_SEEN: usize = 50_000;
/// The most notes kept between two calls of `take`; further ones are dropped.
const MAX_NOTES: usize = 8;

/// A store, and how to ask it.
#[derive(Clone, Debug)]
pub enum Store {
    /// Jaeger, by its query API v3.
    Jaeger(Jaeger),
    /// Grafana Tempo, by TraceQL.
    Tempo(Tempo),
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    /// Nothing that began before.
    pub(super) from: Timestamp,
    /// Nothing that began after.
    pub(super) to: Timestamp,
    /// Everything since then; before it, as long as there is something new.
    pub(super) settled: Timestamp,
    /// Whether a span has not been counted yet.
    pub(super) is_new: &'a (dyn Fn(&StoredSpan) -> bool + Sync),
    /// The resource attributes to bring.
    pub(super) wanted: &'a BTreeSet<String>,
}

/// What a store answered.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// Server spans of the service, in any order, maybe repeated.
    pub spans: Vec<StoredSpan>,
    /// What is missing among them.
    pub missing: Option<NoMeasurement>,
}

/// A span as a store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSpan {
    /// When it began.
    pub start: Timestamp,
    /// Its id within its trace.
    pub id: u64,
    /// What is counted.
    pub span: ServerSpan,
}

impl Store {
    /// The server spans of the service in the window.
    ///
    /// # Errors
    /// [`NoMeasurement`] if there is no whole answer; nothing of it may be counted then.
    async fn read(&self, window: Window<'_>) -> Result<Found, NoMeasurement> {
        match self {
            Self::Jaeger(jaeger) => jaeger.read(window).await,
            Self::Tempo(tempo) => tempo.read(window).await,
        }
    }
}

impl Window<'_> {
    /// Whether it is of use to read what began before `oldest`, after an answer of which `spans` were read.
    pub(super) fn goes_on(&self, oldest: Timestamp, spans: &[StoredSpan]) -> bool {
        oldest > self.settled || spans.iter().any(|span| span.start >= self.from && (self.is_new)(span))
    }
}

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Jaeger(jaeger) => jaeger.fmt(f),
            Self::Tempo(tempo) => tempo.fmt(f),
        }
    }
}

/// The running questions. Dropping it ends them.
#[derive(Debug)]
pub struct StoreSource {
    name: String,
    told: Arc<Mutex<Told>>,
    task: Option<JoinHandle<()>>,
}

/// How asking goes.
#[derive(Debug, Default)]
struct Told {
    /// What went wrong since somebody asked, by its words.
    notes: BTreeMap<String, NoMeasurement>,
    /// What is wrong now.
    wrong: Option<NoMeasurement>,
}

impl StoreSource {
    /// Begins to ask `store` every `interval`, for `book`. Must be called inside a tokio runtime.
    pub fn start(
        store: Store,
        book: TraceBook,
        telemetry: Arc<Telemetry>,
        interval: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let name = store.to_string();
        let poller = Poller::new(store, book, telemetry, clock);
        let task = tokio::spawn(run(poller, interval, Arc::clone(&told)));
        Self {
            name,
            told,
            task: Some(task),
        }
    }

    /// A store that cannot even be asked.
    pub fn unfit(name: &str, why: NoMeasurement) -> Self {
        let mut told = Told::default();
        told.tell(Some(why));
        Self {
            name: name.to_owned(),
            told: Arc::new(Mutex::new(told)),
            task: None,
        }
    }

    /// What went wrong since the last call.
    pub fn take_notes(&self) -> Vec<NoMeasurement> {
        std::mem::take(&mut self.told().notes).into_values().collect()
    }

    /// What is asked, and what is wrong with it now.
    pub fn status(&self) -> String {
        match &self.told().wrong {
            Some(wrong) => format!("{} ({wrong})", self.name),
            None => self.name.clone(),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StoreSource {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Told {
    fn tell(&mut self, wrong: Option<NoMeasurement>) {
        match &wrong {
            Some(wrong) if self.wrong.as_ref() != Some(wrong) => tracing::warn!(reason = %wrong, "traces are missing"),
            None if self.wrong.is_some() => tracing::info!("traces are complete again"),
            _ => {}
        }
        if let Some(note) = &wrong
            && self.notes.len() < MAX_NOTES
        {
            self.notes.insert(note.reason.clone(), note.clone());
        }
        self.wrong = wrong;
    }
}

async fn run(mut poller: Poller, interval: Duration, told: Arc<Mutex<Told>>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wrong = match poller.poll().await {
            Ok(missing) => missing,
            Err(failure) => Some(failure),
        };
        told.lock().unwrap_or_else(PoisonError::into_inner).tell(wrong);
    }
}

/// A source, and what a trace store had to say besides.
#[derive(Debug)]
pub struct WithStore<S> {
    source: S,
    store: Option<StoreSource>,
}

impl<S> WithStore<S> {
    /// `source` and the store that is asked, if there is one.
    pub fn new(source: S, store: Option<StoreSource>) -> Self {
        Self { source, store }
    }

    /// The source.
    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }
}

impl<S: Signals> Signals for WithStore<S> {
    fn take(&mut self, now: Timestamp) -> Sample {
        let mut sample = self.source.take(now);
        if let Some(store) = &self.store {
            sample.notes.extend(store.take_notes());
            sample.sources.insert(TRACES.to_owned(), store.status());
        }
        sample
    }

    fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        self.source.expect_canary_traffic(since);
    }

    fn history(&self) -> Option<History> {
        self.source.history()
    }
}

/// Asks, and remembers what was counted.
struct Poller {
    store: Store,
    book: TraceBook,
    telemetry: Arc<Telemetry>,
    clock: Arc<dyn Clock>,
    /// Spans that began before are not counted: they were, or nobody knows. `None` before the first good answer.
    floor: Option<Timestamp>,
    /// Until when the last good answer reached.
    read_to: Option<Timestamp>,
    /// The spans since then that were counted, the oldest first.
    seen: BTreeSet<(Timestamp, TraceId, u64)>,
}

impl Poller {
    fn new(store: Store, book: TraceBook, telemetry: Arc<Telemetry>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            book,
            telemetry,
            clock,
            floor: None,
            read_to: None,
            seen: BTreeSet::new(),
        }
    }

    /// One window; what is missing from it. After a failure the next window begins where this one did.
    async fn poll(&mut self) -> Result<Option<NoMeasurement>, NoMeasurement> {
        let to = self.clock.now();
        let oldest = to - MAX_WINDOW;
        let floor = self.floor.unwrap_or(oldest).max(oldest);
        let wanted = self.book.rule().wanted().into_iter().map(str::to_owned).collect();
        let seen = &self.seen;
        let window = Window {
            from: floor,
            to,
            settled: self.read_to.map_or(floor, |read_to| floor.max(read_to - SETTLED)),
            is_new: &|span: &StoredSpan| !seen.contains(&(span.start, span.span.trace, span.id)),
            wanted: &wanted,
        };
        let found = self.store.read(window).await?;
        let learns = self.floor.is_none();
        self.count(found.spans, floor, to);
        self.read_to = Some(to);
        if learns {
            // What stable has shown is remembered beyond the counts, and what was left out would not have counted.
            self.book.take();
            return Ok(None);
        }
        Ok(found.missing)
    }

    fn count(&mut self, spans: Vec<StoredSpan>, floor: Timestamp, to: Timestamp) {
        let mut floor = floor;
        for StoredSpan { start, id, span } in spans {
            if start < floor || !self.seen.insert((start, span.trace, id)) {
                continue;
            }
            match self.book.offer(&span, to) {
                // The book has counted it.
                Belongs::To(_) => {}
                Belongs::Both => self.telemetry.add(Count::OfBoth, 1),
                Belongs::Neither => self.telemetry.add(Count::OfNeither, 1),
                Belongs::Elsewhere => self.telemetry.add(Count::Unknown, 1),
            }
            while self.seen.len() > MAX_SEEN
                && let Some((oldest, ..)) = self.seen.pop_first()
            {
                floor = floor.max(after(oldest));
            }
        }
        let floor = floor.max(to - OVERLAP);
        while self.seen.first().is_some_and(|(start, ..)| *start < floor) {
            self.seen.pop_first();
        }
        self.floor = Some(floor);
    }
}

fn after(moment: Timestamp) -> Timestamp {
    moment + SignedDuration::from_nanos(1)
}
