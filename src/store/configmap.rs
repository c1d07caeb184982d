//! The record in one ConfigMap per rollout: what a release on Kubernetes leaves behind for the next process.
//!
//! `wade deploy` needs nothing installed in the cluster, so the record is an object that every cluster has and that
//! `kubectl get configmap wade-<rollout> -o yaml` shows to a person. Nobody owns it, so nothing that goes takes it along;
//! and it owns nothing, so deleting it costs no pod.
//!
//! *Why one object with several keys.* One write is one transaction only within one object: the entry that says "handed
//! over" and the line that says who is stable must not come apart. Several keys, because a JSON patch names what it
//! changes: the evidence, which changes every few seconds, goes over the wire without history and plan; and a shell that
//! adds a command (`commands`, the only key that others write) does not collide with the holder, which never tests the
//! resourceVersion. Which keys: [`texts`].
//!
//! *Fencing.* Every write is one JSON patch that first tests the epoch, the release's number and the number of the next
//! entry. A holder that was believed dead fails the first test; a write that was decided on an older state, or arrives a
//! second time, fails the last. After a failed test the record is read, which tells the three apart: another holder
//! (`Fenced`), our own write that had arrived (done), or something to repeat on top of what is there. [`super::lease`]
//! says who may raise the epoch.
//!
//! *Somebody deletes it.* The holder remembers what it wrote last and puts it back, with its epoch; only commands that
//! nobody had read are lost.
//!
//! *Size.* Bounded in [`fit`]; a release is never stopped by it.
//!
//! What it deliberately does not do: it keeps no answered commands (the entry that answers one says who and when), and it
//! does not repair: a `current` that makes no sense is an error that names the key. Lines of finished releases that
//! cannot be read are skipped with a warning.

mod commands;
mod fit;
mod releases;
mod texts;
mod update;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{ReleaseKey, ReleaseRecord, Store, StoreError, Update};
use crate::apiserver::view::View;
use crate::apiserver::{ApiError, ApiServer, Fault, Kind, Patch, REQUEST_WITHIN, Selection};
use crate::clock::stopwatch;
use crate::engine::{Command, State};
use texts::{Commands, Key, Texts};

/// Label of everything that belongs to a rollout.
pub(super) const ROLLOUT_LABEL: &str = "wade.dev/rollout";
/// Label of what Wade makes: which part of it.
pub const PART_LABEL: &str = "wade.dev/part";
/// How often a write that others got ahead of is tried again.
const TRIES: usize = 6;
/// A watch that has been broken for so long is not relied on for commands.
const BROKEN_AFTER: Duration = Duration::from_secs(3);
/// Then the record is asked for at most this often.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// The ConfigMap's and the Lease's name.
pub fn name(rollout: &str) -> String {
    format!("wade-{rollout}")
}

/// The record of one rollout in its ConfigMap.
///
/// # Promises
/// As [`Store`], and: `commands` costs no request while the watch works. Reads of anything else ask the server.
///
/// # Cancellation
/// A call that is dropped half-way may still be carried out. Calling again is harmless.
#[derive(Debug)]
pub struct ConfigMapStore {
    api: ApiServer,
    rollout: String,
    watched: Option<Watched>,
    /// As whose successor this one writes; 0 if it only reads and adds commands.
    epoch: AtomicU64,
    /// What the server is known to have said last, for the next write and for a record that was deleted.
    known: Mutex<Option<Texts>>,
    /// One write at a time, so that the second knows what the first has made.
    writing: tokio::sync::Mutex<()>,
}

/// A view of the one ConfigMap.
#[derive(Debug)]
struct Watched {
    view: Arc<View>,
    teller: JoinHandle<()>,
    asked: Mutex<Option<Instant>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.teller.abort();
    }
}

/// What came of a write.
enum Sent {
    Done,
    /// What it was based on is not what is there.
    Overtaken,
}

impl ConfigMapStore {
    /// The record of a rollout, for a process that asks seldom: every read is a request.
    pub fn open(api: &ApiServer, rollout: &str) -> Self {
        Self {
            api: api.clone(),
            rollout: rollout.to_owned(),
            watched: None,
            epoch: AtomicU64::new(0),
            known: Mutex::new(None),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// The record of a rollout, for whoever drives its releases: watched, so that a command is seen in milliseconds and
    /// looking for one costs nothing. `wake` is told when there are other commands or another holder.
    ///
    /// # Errors
    /// If it cannot be watched.
    pub async fn watch(api: &ApiServer, rollout: &str, wake: Arc<Notify>) -> Result<Self, StoreError> {
        let changed = Arc::new(Notify::new());
        let what = [(Kind::ConfigMap, Selection::named(&name(rollout)))];
        let view = Arc::new(View::start(api, &what, Arc::clone(&changed)));
        view.synced(REQUEST_WITHIN).await.map_err(|error| unreadable(&error))?;
        let teller = tokio::spawn(tell(Arc::clone(&view), name(rollout), changed, wake));
        let watched = Watched {
            view,
            teller,
            asked: Mutex::new(None),
        };
        Ok(Self {
            watched: Some(watched),
            ..Self::open(api, rollout)
        })
    }

    /// The rollout's name.
    pub fn rollout_name(&self) -> &str {
        &self.rollout
    }

    /// The epoch that the record carries; 0 if there is none. A new holder takes a higher one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn epoch(&self) -> Result<u64, StoreError> {
        self.read().await?.map_or(Ok(0), |texts| texts.number(Key::Epoch))
    }

    /// Writes the epoch of a new holder, before it does anything else: from then on every write of an earlier one is
    /// refused. Makes the record if there is none, so that there is something to refuse by.
    ///
    /// # Errors
    /// `Fenced` if the record carries a higher one, or the same one of somebody else.
    pub async fn take_over(&self, epoch: u64, holder: &str) -> Result<(), StoreError> {
        let _one = self.writing.lock().await;
        for _ in 0..TRIES {
            let there = self.read().await?;
            let theirs = there.as_ref().map_or(Ok(0), |texts| texts.number(Key::Epoch))?;
            let same = there.as_ref().is_some_and(|texts| texts.text(Key::Holder) == holder);
            if theirs > epoch || (theirs == epoch && theirs > 0 && !same) {
                return Err(self.fenced(there.as_ref(), epoch, theirs)?);
            }
            let mut to = match &there {
                Some(texts) => texts.clone(),
                None => self.known().unwrap_or_else(|| Texts::empty(&self.rollout)),
            };
            to.set(Key::Epoch, epoch.to_string());
            to.set(Key::Holder, holder.to_owned());
            if let Sent::Done = self.send(there.as_ref(), &to, &[Key::Epoch]).await? {
                self.epoch.store(epoch, Ordering::SeqCst);
                return Ok(());
            }
        }
        Err(overtaken())
    }

    async fn write(&self, key: &ReleaseKey, epoch: u64, update: &Update) -> Result<(), StoreError> {
        let _one = self.writing.lock().await;
        let mut there = self.known();
        let mut fresh = false;
        for _ in 0..TRIES {
            if fresh || there.is_none() {
                there = self.read().await?;
                fresh = true;
            }
            let theirs = there.as_ref().map_or(Ok(0), |texts| texts.number(Key::Epoch))?;
            if theirs > epoch {
                return Err(self.fenced(there.as_ref(), epoch, theirs)?);
            }
            let base = self.base(there.as_ref(), key)?;
            let applied = match update::apply(&base, key, update) {
                // What we remember may be out of date; what is there is not.
                Err(_) if !fresh => {
                    fresh = true;
                    continue;
                }
                applied => applied?,
            };
            let mut to = applied.unwrap_or(base);
            to.set(Key::Epoch, epoch.to_string());
            match &there {
                Some(texts) => to.set(Key::Commands, texts.text(Key::Commands).to_owned()),
                None => without_commands(&mut to, &update.state)?,
            }
            if there.as_ref() == Some(&to) {
                return Ok(());
            }
            let sent = self
                .send(there.as_ref(), &to, &[Key::Epoch, Key::Number, Key::Next])
                .await?;
            if let Sent::Done = sent {
                return Ok(());
            }
            fresh = true;
        }
        Err(overtaken())
    }

    /// What an update is applied to: what is there, or what we know if that is gone or was put back by an earlier holder.
    fn base(&self, there: Option<&Texts>, key: &ReleaseKey) -> Result<Texts, StoreError> {
        let known = self.known();
        let known = known.filter(|known| known.number(Key::Number) == Ok(key.number));
        match (there, known) {
            (None, Some(known)) => Ok(known),
            (Some(there), Some(known)) if known.number(Key::Epoch)? > there.number(Key::Epoch)? => Ok(known),
            (Some(there), _) => Ok(there.clone()),
            (None, None) => Err(StoreError::Unknown(key.clone())),
        }
    }

    /// A change that is not an update: decided on what is there, written only if that has not changed since.
    async fn change<E: From<StoreError>>(&self, decide: impl Fn(&Texts) -> Result<Texts, E>) -> Result<Texts, E> {
        let _one = self.writing.lock().await;
        let ours = self.epoch.load(Ordering::SeqCst);
        for _ in 0..TRIES {
            let there = self.read().await?;
            let theirs = there.as_ref().map_or(Ok(0), |texts| texts.number(Key::Epoch))?;
            if ours > 0 && theirs > ours {
                return Err(self.fenced(there.as_ref(), ours, theirs)?.into());
            }
            let base = match (&there, self.known()) {
                (None, known) => known.unwrap_or_else(|| Texts::empty(&self.rollout)),
                (Some(there), Some(known)) if known.number(Key::Epoch)? > there.number(Key::Epoch)? => known,
                (Some(there), _) => there.clone(),
            };
            let mut to = decide(&base)?;
            if ours > 0 {
                to.set(Key::Epoch, ours.to_string());
            }
            let mut tests = vec![Key::Epoch, Key::Number, Key::Next];
            let short = [Key::Rollout, Key::Commands].into_iter();
            tests.extend(short.filter(|key| to.text(*key) != base.text(*key)));
            match self.send(there.as_ref(), &to, &tests).await {
                Ok(Sent::Done) => return Ok(to),
                Ok(Sent::Overtaken) => {}
                // It may have arrived all the same; whoever asked would ask again and be told that it is running.
                Err(error) => match self.read().await {
                    Ok(Some(now)) if now == to => return Ok(to),
                    _ => return Err(error.into()),
                },
            }
        }
        Err(overtaken().into())
    }

    /// Writes what differs, if what is tested is still as it was; creates the object if there was none.
    async fn send(&self, from: Option<&Texts>, to: &Texts, tests: &[Key]) -> Result<Sent, StoreError> {
        let asked = match from {
            None => self.api.create(Kind::ConfigMap, &self.object(to)).await,
            Some(from) if from == to => return Ok(Sent::Done),
            Some(from) => {
                let patch = Patch::Json(operations(from, to, tests));
                self.api.patch(Kind::ConfigMap, &name(&self.rollout), &patch).await
            }
        };
        match asked {
            Ok(object) => {
                self.remember(object);
                Ok(Sent::Done)
            }
            Err(error) => match error.fault {
                Fault::Conflict(_) | Fault::NotFound if from.is_some() => Ok(Sent::Overtaken),
                Fault::Exists => Ok(Sent::Overtaken),
                _ => Err(unwritable(&error)),
            },
        }
    }

    fn object(&self, texts: &Texts) -> Value {
        json!({
            "apiVersion": Kind::ConfigMap.api_version(),
            "kind": Kind::ConfigMap.name(),
            "metadata": {
                "name": name(&self.rollout),
                "namespace": self.api.namespace(),
                "labels": {
                    ROLLOUT_LABEL: self.rollout,
                    PART_LABEL: "record",
                    "app.kubernetes.io/managed-by": "wade",
                },
            },
            "data": texts.data(),
        })
    }

    /// What the server has now.
    async fn read(&self) -> Result<Option<Texts>, StoreError> {
        let name = name(&self.rollout);
        let object = self
            .api
            .get(Kind::ConfigMap, &name)
            .await
            .map_err(|error| unreadable(&error))?;
        match object {
            Some(object) => {
                let texts = Texts::of(&self.rollout, &object);
                self.remember(object);
                Ok(Some(texts))
            }
            None => {
                if let Some(watched) = &self.watched {
                    watched.view.gone(Kind::ConfigMap, &name);
                }
                Ok(None)
            }
        }
    }

    /// Remembers what the server said, unless an earlier holder has put it there behind our back.
    fn remember(&self, object: Value) {
        let texts = Texts::of(&self.rollout, &object);
        if let Some(watched) = &self.watched {
            watched.view.put(Kind::ConfigMap, object);
        }
        let epoch = |texts: &Texts| texts.number(Key::Epoch).unwrap_or(0);
        let mut known = self.lock_known();
        if known.as_ref().is_none_or(|known| epoch(known) <= epoch(&texts)) {
            *known = Some(texts);
        }
    }

    fn known(&self) -> Option<Texts> {
        self.lock_known().clone()
    }

    fn lock_known(&self) -> MutexGuard<'_, Option<Texts>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fenced(&self, there: Option<&Texts>, ours: u64, theirs: u64) -> Result<StoreError, StoreError> {
        let empty = Texts::empty(&self.rollout);
        let key = there.unwrap_or(&empty).key()?;
        Ok(StoreError::Fenced { key, ours, theirs })
    }

    /// The record as it counts: what is there, or what we know if that is gone or was put back by an earlier holder.
    async fn effective(&self) -> Result<Option<Texts>, StoreError> {
        let there = self.read().await?;
        if self.epoch.load(Ordering::SeqCst) == 0 {
            return Ok(there);
        }
        // `read` has replaced what we know, unless it is newer.
        Ok(self.known().or(there))
    }

    async fn commands_text(&self) -> Result<Option<Texts>, StoreError> {
        let Some(watched) = &self.watched else {
            return self.read().await;
        };
        if watched.view.trouble(BROKEN_AFTER).is_some() && watched.due() {
            return self.read().await;
        }
        let object = watched.view.get(Kind::ConfigMap, &name(&self.rollout));
        Ok(object.map(|object| Texts::of(&self.rollout, &object)))
    }
}

impl Watched {
    /// Whether to ask the server, since the watch does not tell; at most every [`ASK_EVERY`].
    fn due(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY);
        if due {
            *asked = Some(stopwatch());
        }
        due
    }
}

#[async_trait]
impl Store for ConfigMapStore {
    /// # Guarantees
    /// * One patch: entries, state, judge, verdict and everything that follows from the entries.
    /// * [`Event::Adopted`](crate::engine::Event::Adopted) makes the canary the rollout's stable revision; an outcome
    ///   that quarantines does so. Each happens when it is written for the first time, never on a repetition.
    /// * An update that lies wholly in the past (its entries are there, others follow) changes nothing.
    /// * `judge: None` and `verdict: None` mean "nothing new", and keep what is there. The judge goes when the release
    ///   ends.
    ///
    /// # Errors
    /// `Fenced` if the record carries a higher epoch; `Damaged` if an entry differs from the one that is there under its
    /// number, or leaves a gap; `Unknown` for a release that is neither there nor remembered. Nothing is written then.
    async fn record(&self, key: &ReleaseKey, epoch: u64, update: &Update) -> Result<(), StoreError> {
        self.write(key, epoch, update).await
    }

    async fn commands(&self, key: &ReleaseKey, handled: u64) -> Result<Vec<Command>, StoreError> {
        let Some(texts) = self.commands_text().await? else {
            let known = self.known();
            // Deleted: the next write puts it back, without commands.
            return match known.filter(|known| known.number(Key::Number) == Ok(key.number)) {
                Some(_) => Ok(Vec::new()),
                None => Err(StoreError::Unknown(key.clone())),
            };
        };
        let commands: Commands = texts.get(Key::Commands)?.unwrap_or_default();
        let mut waiting = commands.waiting;
        waiting.retain(|command| commands.release == key.number && command.id > handled);
        Ok(waiting)
    }

    /// A record that was deleted is answered from memory by its holder, which goes on with it.
    async fn load(&self, key: &ReleaseKey) -> Result<ReleaseRecord, StoreError> {
        match self.effective().await? {
            Some(texts) => texts.release(key),
            None => Err(StoreError::Unknown(key.clone())),
        }
    }
}

/// Wakes whoever drives the release when there is something new for it; its own writes are not.
async fn tell(view: Arc<View>, name: String, changed: Arc<Notify>, wake: Arc<Notify>) {
    let seen = |view: &View| {
        let object = view.get(Kind::ConfigMap, &name);
        let text = |key: Key| {
            let data = object.as_ref().map(|object| &object["data"][key.word()]);
            data.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        (text(Key::Commands), text(Key::Epoch), object.is_some())
    };
    let mut last = seen(&view);
    loop {
        changed.notified().await;
        let now = seen(&view);
        if now != last {
            last = now;
            wake.notify_one();
        }
    }
}

/// A JSON patch from one text to the other, if what is tested is as in the first.
fn operations(from: &Texts, to: &Texts, tests: &[Key]) -> Value {
    let path = |key: Key| format!("/data/{}", key.word());
    let tests = tests
        .iter()
        .filter(|key| from.has(**key))
        .map(|key| json!({"op": "test", "path": path(*key), "value": from.text(*key)}));
    // `add` replaces what is there, but needs the object around it.
    let around = Key::ALL.into_iter().all(|key| !from.has(key));
    let around = around.then(|| json!({"op": "add", "path": "/data", "value": {}}));
    let changes = Key::ALL
        .into_iter()
        .filter(|key| to.has(*key) && (!from.has(*key) || from.text(*key) != to.text(*key)))
        .map(|key| json!({"op": "add", "path": path(key), "value": to.text(key)}));
    Value::Array(tests.chain(around).chain(changes).collect())
}

/// A record that is put back begins without commands; their numbers go on, so that none is taken for an answered one.
fn without_commands(texts: &mut Texts, state: &State) -> Result<(), StoreError> {
    let before: Commands = texts.get(Key::Commands)?.unwrap_or_default();
    let commands = Commands {
        release: texts.number(Key::Number)?,
        last: before.last.max(state.handled),
        waiting: Vec::new(),
    };
    texts.put_readable(Key::Commands, &commands)
}

fn unreadable(error: &ApiError) -> StoreError {
    StoreError::Unavailable {
        what: "read",
        why: error.to_string(),
    }
}

fn unwritable(error: &ApiError) -> StoreError {
    StoreError::Unavailable {
        what: "written",
        why: error.to_string(),
    }
}

fn overtaken() -> StoreError {
    StoreError::Unavailable {
        what: "written",
        why: format!("somebody else changed it in between, {TRIES} times in a row"),
    }
}
