//! Traces beside another source.

use jiff::Timestamp;

use super::{TRACES, TraceBook};
use crate::judge::History;
use crate::judge::observation::Sides;
use crate::signals::{Sample, Signals};

/// A source, and what a book of traces has counted besides.
///
/// Traces say nothing about whether measuring works, nor who is silent: exporters send when they like, and samplers may
/// leave a side out. Condition and rates stay the other source's.
#[derive(Debug)]
pub struct WithTraces<S> {
    source: S,
    book: Option<TraceBook>,
}

impl<S> WithTraces<S> {
    /// `source` and `book`, if there is one.
    pub fn new(source: S, book: Option<TraceBook>) -> Self {
        Self { source, book }
    }

    /// The source.
    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }
}

impl<S: Signals> Signals for WithTraces<S> {
    fn take(&mut self, now: Timestamp) -> Sample {
        let mut sample = self.source.take(now);
        if let Some(book) = &self.book {
            let sides = book.take();
            if sides != Sides::default() {
                sample.observation.metrics.insert(TRACES.to_owned(), sides);
                // A store that is asked has said so already.
                let sources = sample.sources.entry(TRACES.to_owned());
                sources.or_insert_with(|| "server spans".to_owned());
            }
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
