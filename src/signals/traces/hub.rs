//! The books of all services of one process, for a receiver that does not know whose spans will come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Rule, Telemetry, TraceBook};

/// All books. Clones are the same hub.
#[derive(Clone, Debug, Default)]
pub struct TraceHub {
    books: Arc<Mutex<BTreeMap<String, TraceBook>>>,
    telemetry: Arc<Telemetry>,
}

impl TraceHub {
    /// The book of a rollout, attributed by `rule` from now on; made if there is none yet.
    pub fn book(&self, rule: Rule) -> TraceBook {
        let mut books = self.lock();
        let book = books
            .entry(rule.rollout.clone())
            .or_insert_with(|| TraceBook::new(rule.clone(), Arc::clone(&self.telemetry)))
            .clone();
        drop(books);
        book.set_rule(rule);
        book
    }

    /// Every book.
    pub fn books(&self) -> Vec<TraceBook> {
        self.lock().values().cloned().collect()
    }

    /// What is counted about traces.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, TraceBook>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
