//! The ConfigMap's data: which keys there are, and values to words and back.
//!
//! Nothing here talks to a server. What a person finds under the keys:
//!
//! | key | what |
//! |---|---|
//! | `epoch`, `holder` | whose writes count: every write of a holder tests the epoch first |
//! | `number`, `next` | the running or last release, and the number of its next history entry: tested by every write too |
//! | `current` | what is released over what, by whom, from where, since when |
//! | `plan`, `state` | the way, and where on it |
//! | `judge`, `verdict`, `course` | the evidence whole, the last verdict, and how it went: the only keys that change every few seconds |
//! | `history` | one entry a line, oldest first |
//! | `commands` | what people asked and is not answered yet; the only key that others than the holder write |
//! | `releases` | finished releases, one a line, newest first, without judge and pod templates |
//! | `revisions` | one a line, with its pod template: what those releases name, for `rollback` and `retry` |
//! | `rollout` | next number, stable revision, quarantine, how many releases are kept |

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::{Actor, Command, Entry, State};
use crate::plan::Plan;
use crate::store::record::JudgeRecord;
use crate::store::shared::{DEFAULT_KEPT_RELEASES, Quarantine};
use crate::store::{Pipeline, ReleaseKey, ReleaseRecord, Revision, StoreError, codec};

/// Longer values are written on one line: indentation costs more than it helps there.
const READABLE_BYTES: usize = 16 << 10;

/// A key of the ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Epoch,
    Holder,
    Number,
    Next,
    Current,
    Plan,
    State,
    Judge,
    Verdict,
    Course,
    History,
    Commands,
    Releases,
    Revisions,
    Rollout,
}

impl Key {
    pub(super) const ALL: [Self; 15] = [
        Self::Epoch,
        Self::Holder,
        Self::Number,
        Self::Next,
        Self::Current,
        Self::Plan,
        Self::State,
        Self::Judge,
        Self::Verdict,
        Self::Course,
        Self::History,
        Self::Commands,
        Self::Releases,
        Self::Revisions,
        Self::Rollout,
    ];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Holder => "holder",
            Self::Number => "number",
            Self::Next => "next",
            Self::Current => "current",
            Self::Plan => "plan",
            Self::State => "state",
            Self::Judge => "judge",
            Self::Verdict => "verdict",
            Self::Course => "course",
            Self::History => "history",
            Self::Commands => "commands",
            Self::Releases => "releases",
            Self::Revisions => "revisions",
            Self::Rollout => "rollout",
        }
    }
}

/// Under `current`: what does not change while a release runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Current {
    pub(super) key: ReleaseKey,
    pub(super) canary: Revision,
    pub(super) stable: Option<Revision>,
    pub(super) by: Actor,
    pub(super) reason: Option<String>,
    pub(super) deploy_window: Option<bool>,
    pub(super) pipeline: Pipeline,
    pub(super) created: Timestamp,
    pub(super) ended: Option<Timestamp>,
}

/// Under `commands`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Commands {
    /// The release that they are for.
    pub(super) release: u64,
    /// The last number that was given away.
    pub(super) last: u64,
    /// Those without an answer, as far as the last writer knew.
    pub(super) waiting: Vec<Command>,
}

/// Under `rollout`: what outlives a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rollout {
    pub(super) next_number: u64,
    pub(super) kept: u32,
    /// Id of the revision that serves; it is among the revisions.
    pub(super) stable: Option<String>,
    /// Newest first.
    pub(super) quarantined: Vec<Quarantine>,
    pub(super) updated: Timestamp,
}

impl Rollout {
    pub(super) const fn new(now: Timestamp) -> Self {
        Self {
            next_number: 1,
            kept: DEFAULT_KEPT_RELEASES,
            stable: None,
            quarantined: Vec::new(),
            updated: now,
        }
    }
}

/// A line of `revisions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KnownRevision {
    pub(super) revision: Revision,
    /// When it became stable first and last, if it ever did.
    pub(super) first_served: Option<Timestamp>,
    pub(super) last_served: Option<Timestamp>,
}

/// All that the ConfigMap of one rollout says. A key that is not there is an empty text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Texts {
    rollout: String,
    data: BTreeMap<Key, String>,
}

impl Texts {
    /// A record in which nothing is written yet.
    pub(super) fn empty(rollout: &str) -> Self {
        Self {
            rollout: rollout.to_owned(),
            data: BTreeMap::new(),
        }
    }

    /// What an object says; keys that are not ours are left alone.
    pub(super) fn of(rollout: &str, object: &Value) -> Self {
        let text = |key: Key| object["data"][key.word()].as_str().map(str::to_owned);
        let data = Key::ALL.into_iter().filter_map(|key| Some((key, text(key)?)));
        Self {
            rollout: rollout.to_owned(),
            data: data.collect(),
        }
    }

    /// As the `data` of an object.
    pub(super) fn data(&self) -> Value {
        let data = self
            .data
            .iter()
            .map(|(key, text)| (key.word().to_owned(), text.as_str().into()));
        Value::Object(data.collect())
    }

    pub(super) fn rollout_name(&self) -> &str {
        &self.rollout
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.data.contains_key(&key)
    }

    pub(super) fn text(&self, key: Key) -> &str {
        self.data.get(&key).map_or("", String::as_str)
    }

    pub(super) fn set(&mut self, key: Key, text: String) {
        self.data.insert(key, text);
    }

    /// Bytes of the whole, as the server counts them.
    pub(super) fn size(&self) -> usize {
        self.data.iter().map(|(key, text)| key.word().len() + text.len()).sum()
    }

    pub(super) fn number(&self, key: Key) -> Result<u64, StoreError> {
        match self.text(key) {
            "" => Ok(0),
            text => text
                .trim()
                .parse()
                .map_err(|_| self.damaged(key, &format!("{text:?} is not a whole number"))),
        }
    }

    /// The release under `current`.
    pub(super) fn key(&self) -> Result<ReleaseKey, StoreError> {
        Ok(ReleaseKey {
            rollout: self.rollout.clone(),
            number: self.number(Key::Number)?,
        })
    }

    pub(super) fn get<T: DeserializeOwned>(&self, key: Key) -> Result<Option<T>, StoreError> {
        match self.text(key) {
            "" => Ok(None),
            text => codec::decode(text).map(Some).map_err(|why| self.damaged(key, &why)),
        }
    }

    /// What must be there because something else is.
    fn need<T: DeserializeOwned>(&self, key: Key) -> Result<T, StoreError> {
        self.get(key)?.ok_or_else(|| self.damaged(key, "it is missing"))
    }

    pub(super) fn lines(&self, key: Key) -> impl DoubleEndedIterator<Item = &str> {
        self.text(key).lines().filter(|line| !line.is_empty())
    }

    /// Lines that can be read; one that cannot does not hide the others.
    pub(super) fn readable<T: DeserializeOwned>(&self, key: Key) -> Vec<T> {
        let read = |line: &str| match codec::decode(line) {
            Ok(value) => Some(value),
            Err(why) => {
                tracing::warn!(
                    rollout = self.rollout,
                    key = key.word(),
                    why,
                    "a line of the record cannot be read"
                );
                None
            }
        };
        self.lines(key).filter_map(read).collect()
    }

    pub(super) fn put<T: Serialize>(&mut self, key: Key, value: &T) -> Result<(), StoreError> {
        self.set(key, encode(value)?);
        Ok(())
    }

    /// As [`Self::put`], over several lines where that stays short.
    pub(super) fn put_readable<T: Serialize>(&mut self, key: Key, value: &T) -> Result<(), StoreError> {
        let text = encode(value)?;
        let pretty = || serde_json::to_string_pretty(&serde_json::from_str::<Value>(&text).ok()?).ok();
        let short = Some(()).filter(|()| text.len() <= READABLE_BYTES);
        let text = short.and_then(|()| pretty()).unwrap_or(text);
        self.set(key, text);
        Ok(())
    }

    pub(super) fn put_lines<T: Serialize>(&mut self, key: Key, values: &[T]) -> Result<(), StoreError> {
        let lines: Vec<String> = values.iter().map(encode).collect::<Result<_, _>>()?;
        self.set(key, lines.join("\n"));
        Ok(())
    }

    pub(super) fn damaged(&self, key: Key, why: &str) -> StoreError {
        StoreError::Damaged {
            what: format!(
                "{} (ConfigMap {}, key {})",
                self.rollout,
                super::name(&self.rollout),
                key.word()
            ),
            why: why.to_owned(),
        }
    }

    pub(super) fn rollout(&self, now: Timestamp) -> Result<Rollout, StoreError> {
        Ok(self.get(Key::Rollout)?.unwrap_or_else(|| Rollout::new(now)))
    }

    pub(super) fn revisions(&self) -> Vec<KnownRevision> {
        self.readable(Key::Revisions)
    }

    /// The running or last release, whole.
    pub(super) fn current(&self) -> Result<Option<ReleaseRecord>, StoreError> {
        let Some(current) = self.get::<Current>(Key::Current)? else {
            return Ok(None);
        };
        let state: State = self.need(Key::State)?;
        let history = self.history()?;
        let next = history.last().map_or(1, |entry| entry.number + 1);
        if state.next_entry != next || self.number(Key::Next)? != next {
            let why = format!(
                "its history ends before entry {next} and its state expects entry {} next",
                state.next_entry
            );
            return Err(self.damaged(Key::History, &why));
        }
        let judge: Option<JudgeRecord> = self.get(Key::Judge)?;
        Ok(Some(ReleaseRecord {
            key: current.key,
            canary: current.canary,
            stable: current.stable,
            plan: self.need::<Plan>(Key::Plan)?,
            state,
            history,
            judge,
            verdict: self.get(Key::Verdict)?,
            course: self.get(Key::Course)?.unwrap_or_default(),
            by: current.by,
            reason: current.reason,
            deploy_window: current.deploy_window,
            pipeline: current.pipeline,
            created: current.created,
            ended: current.ended,
        }))
    }

    /// Entries without a gap; the oldest ones of a very long history are no longer there.
    fn history(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries: Vec<Entry> = Vec::new();
        for line in self.lines(Key::History) {
            let entry: Entry = codec::decode(line).map_err(|why| self.damaged(Key::History, &why))?;
            if entries.last().is_some_and(|last| last.number + 1 != entry.number) {
                return Err(self.damaged(
                    Key::History,
                    &format!("what is before entry {} is missing", entry.number),
                ));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Finished releases that are not `current` any more, newest first, with their pod templates.
    pub(super) fn past(&self) -> Vec<ReleaseRecord> {
        let revisions: BTreeMap<String, Revision> = self
            .revisions()
            .into_iter()
            .map(|known| (known.revision.id.clone(), known.revision))
            .collect();
        let mut past: Vec<ReleaseRecord> = self.readable(Key::Releases);
        for record in &mut past {
            for revision in [Some(&mut record.canary), record.stable.as_mut()].into_iter().flatten() {
                if let Some(known) = revisions.get(&revision.id) {
                    revision.workload = known.workload.clone();
                }
            }
        }
        past
    }

    /// Any kept release.
    pub(super) fn release(&self, key: &ReleaseKey) -> Result<ReleaseRecord, StoreError> {
        let found = if self.number(Key::Number)? == key.number {
            self.current()?
        } else {
            self.past().into_iter().find(|record| record.key == *key)
        };
        found.ok_or_else(|| StoreError::Unknown(key.clone()))
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<String, StoreError> {
    codec::encode(value).map_err(|why| StoreError::Unavailable {
        what: "written",
        why: format!("a value has no words, a bug in Wade: {why}"),
    })
}
