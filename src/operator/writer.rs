//! Writing what objects say of themselves, beside the work: nothing waits for a status.
//!
//! A daemon that has just begun to lead has something to say about every Rollout there is. Said all at once, a thousand
//! writes took each other's time and some were lost (seen on the node: 48 of 1,000). So: a few at a time; of several
//! words about one object only the newest, laid over the ones before it; and a word that could not be written is tried
//! again until it stands there, or its object is gone.
//!
//! What it deliberately does not do: hold on to a word that may not be true any more. Another daemon that has taken over
//! says what is so; a word of this one that comes after it would be a lie ([`Voice`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::fleet::At;
use super::grumble::Grumbler;
use crate::apiserver::{ApiError, Fault, Kind};
use crate::clock::stopwatch;

/// Requests at once.
const AT_ONCE: usize = 8;
/// The first pause before a word is tried again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause where nobody has to do anything for it to pass.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// The longest pause where somebody has to: a right is missing, a policy refuses it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// For so long after it was said, a word of a release that this process carries counts although another daemon leads. A
/// release's Lease lasts as long: later, somebody else may carry it.
const OLD_AFTER: Duration = Duration::from_secs(15);

/// Whose status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// A Rollout or a Release.
    pub kind: Kind,
    /// Which one.
    pub at: At,
}

/// As what this process says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// As the daemon that leads: not written once another one does.
    Leader,
    /// As the one that carries the release, which it may do although another daemon leads by now.
    Carrier,
}

/// Writes a status; a merge patch.
#[async_trait]
pub trait Pen: Send + Sync {
    /// Writes it.
    ///
    /// # Errors
    /// What the server said.
    async fn write(&self, target: &Target, status: &Value) -> Result<(), ApiError>;

    /// It stands there.
    fn written(&self, target: &Target, status: &Value);
}

/// The writer; clones share it.
#[derive(Clone)]
pub struct StatusWriter {
    shared: Arc<Shared>,
}

struct Shared {
    pen: Box<dyn Pen>,
    leads: Arc<AtomicBool>,
    room: Semaphore,
    words: Mutex<BTreeMap<Target, Slot>>,
    grumbler: Grumbler,
}

/// What there is to say about one object; it is there as long as somebody sees to it.
#[derive(Default)]
struct Slot {
    /// `None` while there is nothing newer than what is being written.
    waiting: Option<Word>,
    /// What is being written now; `None` also if that has been forgotten since.
    writing: Option<Value>,
}

struct Word {
    status: Value,
    voice: Voice,
    since: Instant,
}

/// What came of a try.
enum Tried {
    /// Nothing is left to be written.
    Done,
    /// There is a newer word.
    More,
    /// To be tried again, for this reason.
    Failed(ApiError),
}

impl StatusWriter {
    /// A writer that writes with `pen`, as long as `leads` says so.
    pub fn new(pen: Box<dyn Pen>, leads: Arc<AtomicBool>) -> Self {
        Self {
            shared: Arc::new(Shared {
                pen,
                leads,
                room: Semaphore::new(AT_ONCE),
                words: Mutex::default(),
                grumbler: Grumbler::default(),
            }),
        }
    }

    /// Has it written; returns at once. Must be called inside a tokio runtime.
    pub fn say(&self, target: Target, status: Value, voice: Voice) {
        let mut words = self.shared.words();
        let known = words.contains_key(&target);
        let slot = words.entry(target.clone()).or_default();
        let (mut whole, newest) = match slot.waiting.take() {
            Some(before) => (before.status, status),
            None => (Value::Null, status),
        };
        lay_over(&mut whole, newest);
        slot.waiting = Some(Word {
            status: whole,
            voice,
            since: stopwatch(),
        });
        drop(words);
        if !known {
            tokio::spawn(Arc::clone(&self.shared).see_to(target));
        }
    }

    /// The newest word about an object, if it has been said and does not stand there yet.
    pub fn unwritten(&self, target: &Target) -> Option<Value> {
        let words = self.shared.words();
        let slot = words.get(target)?;
        let mut whole = slot.writing.clone().unwrap_or_default();
        if let Some(word) = &slot.waiting {
            lay_over(&mut whole, word.status.clone());
        }
        (!whole.is_null()).then_some(whole)
    }

    /// What is still waiting about an object is not said any more: somebody else knows better.
    pub fn forget(&self, target: &Target) {
        if let Some(slot) = self.shared.words().get_mut(target) {
            (slot.waiting, slot.writing) = (None, None);
        }
    }
}

impl Shared {
    /// Writes what there is to say about one object until nothing is left.
    async fn see_to(self: Arc<Self>, target: Target) {
        let mut pause = FIRST_PAUSE;
        loop {
            // Waiting for room is where newer words are laid over older ones.
            let room = self.room.acquire().await.expect("it is never closed");
            match self.try_one(&target).await {
                Tried::Done => return,
                Tried::More => pause = FIRST_PAUSE,
                Tried::Failed(error) => {
                    let most = match &error.fault {
                        Fault::Unreachable(_) | Fault::Conflict(_) => LONGEST_PAUSE,
                        _ => LONGEST_WAIT,
                    };
                    if !matches!(error.fault, Fault::Unreachable(_)) {
                        drop(room);
                        tokio::time::sleep(pause.min(most)).await;
                    } else {
                        // What is wrong with the server is wrong for all: they wait for this one.
                        tokio::time::sleep(pause.min(most)).await;
                        drop(room);
                    }
                    pause = (pause * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    async fn try_one(&self, target: &Target) -> Tried {
        let Some(word) = self.take(target) else {
            return Tried::Done;
        };
        let written = self.pen.write(target, &word.status).await;
        match &written {
            Ok(()) => self.pen.written(target, &word.status),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                if let Some(unsaid) = self.grumbler.may_say_of("status", error) {
                    tracing::warn!(namespace = target.at.namespace, %error, unsaid, "a status cannot be written yet; it is tried again");
                }
            }
        }
        let mut words = self.words();
        let Some(slot) = words.get_mut(target) else {
            return Tried::Done;
        };
        let forgotten = slot.writing.take().is_none();
        match written {
            Err(error) if !error.is_not_found() && !forgotten => {
                let mut whole = word.status;
                let (voice, since) = match slot.waiting.take() {
                    Some(newer) => {
                        lay_over(&mut whole, newer.status);
                        (newer.voice, newer.since)
                    }
                    None => (word.voice, word.since),
                };
                slot.waiting = Some(Word {
                    status: whole,
                    voice,
                    since,
                });
                Tried::Failed(error)
            }
            _ if slot.waiting.is_some() => Tried::More,
            _ => {
                words.remove(target);
                Tried::Done
            }
        }
    }

    /// The word to be written now; what is not to be said any more is dropped.
    fn take(&self, target: &Target) -> Option<Word> {
        let mut words = self.words();
        let slot = words.get_mut(target)?;
        let leads = self.leads.load(Ordering::Acquire);
        let word = slot
            .waiting
            .take()
            .filter(|word| leads || (word.voice == Voice::Carrier && word.since.elapsed() < OLD_AFTER));
        match &word {
            Some(word) => slot.writing = Some(word.status.clone()),
            None => {
                words.remove(target);
            }
        }
        word
    }

    fn words(&self) -> MutexGuard<'_, BTreeMap<Target, Slot>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One patch after another one, as one patch: field by field the newer one.
fn lay_over(whole: &mut Value, newest: Value) {
    match (whole, newest) {
        (Value::Object(whole), Value::Object(newest)) => whole.extend(newest),
        (whole, newest) => *whole = newest,
    }
}

#[cfg(test)]
mod tests;
