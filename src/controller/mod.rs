//! Drives one release: observe, measure, judge, decide, record, act, and say when to look again.
//!
//! One [`Controller::pass`] does each of these once; a caller repeats it ([`Controller::run`], or the simulator in
//! virtual time). The order carries the promises:
//!
//! * **Recorded before done.** What a decision adds to the history is written first; if that fails, nothing forward is
//!   done and the old state stays in force.
//! * **One exception: going back waits for nothing.** If the record cannot be written, a retreat is done all the same
//!   and recorded as soon as that is possible again.
//! * **A write without an answer is a question.** The record is read before the next write, so that an entry that did
//!   arrive is never decided a second time under the same number.
//! * **Crash anywhere.** A pass that dies between record and act is repaired by the next, because actions are desired
//!   states derived from the recorded state alone.
//! * **One writer.** A store or platform that has seen a higher epoch refuses; the pass then reports [`Pass::Fenced`]
//!   and does nothing more.
//!
//! The controller measures nothing and touches nothing itself: see `signals`, `platforms`, `store`.

mod watched;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::clock::{Clock, stopwatch};
use crate::engine::{
    Action, Command, Decision, Entry, Facts, NoData, Outcome, Phase, Reading, State, World, apply, decide,
};
use crate::judge::{Course, History, HistoryRecorder, Judge, Observation, Verdict};
use crate::plan::{Comparison, LIMIT, Plan, Split, StageKind};
use crate::platforms::{Platform, PlatformError};
use crate::signals::{Condition, Sample, Side, Signals};
use crate::store::record::JudgeRecord;
use crate::store::{ReleaseKey, ReleaseRecord, Store, StoreError, Update};
use watched::Watched;

/// What followers of a release are told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", tag = "event")]
pub enum Notice {
    /// Something happened.
    #[serde(rename_all = "camelCase")]
    Entry {
        /// Which release.
        key: ReleaseKey,
        /// What happened.
        entry: Entry,
        /// Where the release is after it.
        phase: Phase,
    },
    /// A look at a release in which nothing happened.
    #[serde(rename_all = "camelCase")]
    Look {
        /// Which release.
        key: ReleaseKey,
        /// When.
        #[schemars(with = "String")]
        at: Timestamp,
        /// Where the release is.
        phase: Phase,
        /// What it is waiting for, in one sentence.
        waiting_for: String,
        /// What is known, if something is judged.
        verdict: Option<Box<Verdict>>,
    },
    /// Something could not be done; it is tried again.
    #[serde(rename_all = "camelCase")]
    Trouble {
        /// Which release.
        key: ReleaseKey,
        /// When.
        #[schemars(with = "String")]
        at: Timestamp,
        /// What, and why, in one sentence.
        message: String,
    },
}

/// How one pass ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The release goes on; look again at this time at the latest.
    Again(Timestamp),
    /// The release is over.
    Over(Outcome),
    /// Another controller has taken over.
    Fenced,
}

/// Where a newer revision is announced to the release that runs; clones share it. The plan says whether that ends it.
#[derive(Clone, Debug, Default)]
pub struct Newer(Arc<Mutex<Option<String>>>);

impl Newer {
    /// Announces a newer revision by name.
    pub fn set(&self, name: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
    }

    /// Forgets it.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The newer revision, if one was announced.
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An abort that could not be written down, handed to whoever drives its release; clones share it. Going back waits for
/// nothing, so not for a disk with room either.
#[derive(Clone, Debug, Default)]
pub struct Urgent(Arc<Mutex<Option<(ReleaseKey, Command)>>>);

impl Urgent {
    /// Hands over an abort of `key`, in place of an earlier one.
    pub fn set(&self, key: &ReleaseKey, command: Command) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((key.clone(), command));
    }

    fn of(&self, key: &ReleaseKey) -> Option<Command> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.filter(|(of, _)| of == key).map(|(_, command)| command)
    }
}

/// Drives one release.
pub struct Controller<P, S> {
    key: ReleaseKey,
    plan: Plan,
    state: State,
    judge: Option<JudgeRecord>,
    verdict: Option<Box<Verdict>>,
    course: Course,
    /// What each metric was read from when it was read last.
    sources: BTreeMap<String, String>,
    /// Entries that were acted on (a retreat) before they could be recorded.
    unrecorded: Vec<Entry>,
    /// A write came back as an error and may have arrived all the same.
    doubtful: bool,
    /// The last phase of which everything was accepted by the platform.
    accepted: Option<Phase>,
    /// Who else writes the router, as it was said last.
    conflict: Option<String>,
    newer: Newer,
    urgent: Urgent,
    deploy_window: Option<bool>,
    history: Recorder,
    epoch: u64,
    last_judge_write: Option<Timestamp>,
    watched: Watched,
    judge_writes_every: jiff::SignedDuration,
    platform: P,
    signals: S,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    notices: Box<dyn FnMut(Notice) + Send>,
    looks: Box<dyn FnMut(Duration) + Send>,
}

/// The judge's evidence is written with every entry, and otherwise at most this often unless told otherwise.
const JUDGE_WRITE_EVERY: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);
/// A pass that could do nothing is repeated after this.
const RETRY: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

impl<P: Platform, S: Signals> Controller<P, S> {
    /// A controller that goes on from `record`, writing as `epoch`. `history` is what was recorded of stable's own
    /// instances before; `notices` is told what happens.
    pub fn new(
        record: ReleaseRecord,
        epoch: u64,
        history: Recorder,
        platform: P,
        signals: S,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        notices: Box<dyn FnMut(Notice) + Send>,
    ) -> Self {
        Self {
            watched: Watched::from_record(&record.state, &record.course),
            key: record.key,
            plan: record.plan,
            state: record.state,
            judge: record.judge,
            verdict: record.verdict,
            course: record.course,
            sources: BTreeMap::new(),
            unrecorded: Vec::new(),
            doubtful: false,
            accepted: None,
            conflict: None,
            newer: Newer::default(),
            urgent: Urgent::default(),
            deploy_window: record.deploy_window,
            history,
            epoch,
            last_judge_write: None,
            judge_writes_every: JUDGE_WRITE_EVERY,
            platform,
            signals,
            store,
            clock,
            notices,
            looks: Box::new(|_| {}),
        }
    }

    /// Where the release is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Says that a newer revision wants to be released; the plan says whether that ends this release.
    pub fn newer(&self, name: &str) {
        self.newer.set(name);
    }

    /// With this as the place where newer revisions are announced.
    #[must_use]
    pub fn with_newer(mut self, newer: Newer) -> Self {
        self.newer = newer;
        self
    }

    /// With this as the place where an abort is found that could not be recorded.
    #[must_use]
    pub fn with_urgent(mut self, urgent: Urgent) -> Self {
        self.urgent = urgent;
        self
    }

    /// Writes the judge's evidence at most this often between entries; for stores where a write is dear.
    #[must_use]
    pub fn with_judge_writes_every(mut self, every: jiff::SignedDuration) -> Self {
        self.judge_writes_every = every;
        self
    }

    /// Told how long each pass took.
    #[must_use]
    pub fn with_looks(mut self, looks: Box<dyn FnMut(Duration) + Send>) -> Self {
        self.looks = looks;
        self
    }

    /// Repeats [`Self::pass`] until the release is over or lost; `wake` cuts a wait short. Cancelling it between two
    /// passes is harmless; within one, the next controller repairs.
    pub async fn run(&mut self, wake: &Notify) -> Pass {
        let end = self.run_until(wake, std::future::pending()).await;
        end.expect("nothing stops it")
    }

    /// As [`Self::run`], until `stop` at the latest: then what the judge knows by now is written down, so that whoever
    /// goes on loses no evidence. `None` if it was stopped.
    pub async fn run_until(&mut self, wake: &Notify, stop: impl Future<Output = ()> + Send) -> Option<Pass> {
        // Never within a pass: what it is writing would be in doubt.
        let mut stop = std::pin::pin!(stop);
        loop {
            let watch = stopwatch();
            let pass = self.pass().await;
            (self.looks)(watch.elapsed());
            let at = match pass {
                Pass::Again(at) => at,
                end => return Some(end),
            };
            let wait = at
                .duration_since(self.clock.now())
                .max(jiff::SignedDuration::from_millis(5));
            let wait = Duration::try_from(wait).expect("positive by the line above");
            tokio::select! {
                () = &mut stop => {
                    self.write_evidence().await;
                    return None;
                }
                // A timeout is the usual end of the wait; a wake only shortens it.
                _ = tokio::time::timeout(wait, wake.notified()) => {}
            }
        }
    }

    /// Writes what the judge knows, between entries.
    async fn write_evidence(&mut self) {
        if self.judge.is_none() || self.doubtful || !self.unrecorded.is_empty() {
            return;
        }
        let update = self.update(self.state.clone(), Vec::new());
        if let Err(error) = self.store.record(&self.key, self.epoch, &update).await {
            self.trouble(&error);
        }
    }

    /// One turn: observe, measure, judge, decide, record, act.
    pub async fn pass(&mut self) -> Pass {
        if self.doubtful
            && let Err(error) = self.resolve_doubt().await
        {
            self.trouble(&error);
        }
        let world = match self.platform.observe().await {
            Ok(world) => {
                self.tell_conflict(&world);
                Some(world)
            }
            Err(PlatformError::Fenced { .. }) => return Pass::Fenced,
            Err(error) => {
                self.trouble(&error);
                None
            }
        };
        let mut commands = match self.store.commands(&self.key, self.state.handled).await {
            Ok(commands) => commands,
            Err(StoreError::Fenced { .. }) => return Pass::Fenced,
            Err(error) => {
                self.trouble(&error);
                Vec::new()
            }
        };
        commands.extend(self.urgent.of(&self.key));
        let now = self.clock.now();
        let reading = self.measure(now);
        let seen = world.is_some();
        let facts = Facts {
            unwatched: self.watched.gap(&self.plan, now).filter(|_| seen),
            world,
            reading,
            unapplied: self.accepted.as_ref() != Some(&self.state.phase),
            suspicion: self
                .verdict
                .as_ref()
                .filter(|verdict| verdict.suspicious)
                .map(|verdict| verdict.reason.clone()),
            commands,
            newer: self.newer.get(),
            deploy_window: self.deploy_window,
        };
        let decision = match decide(&self.plan, &self.state, &facts, now) {
            Ok(decision) => decision,
            Err(error) => {
                // A bug in the table must not keep users on a canary that nobody watches.
                self.trouble(&error);
                return self.flee(now).await;
            }
        };
        let before = self.state.clone();
        match self.record(decision, now).await {
            Recorded::Yes(decision) => {
                if seen {
                    self.watched.looked(now);
                }
                self.tell(before, &decision, now);
                let Ok(all) = self.act(&decision.actions).await else {
                    return Pass::Fenced;
                };
                self.accepted = all.then(|| self.state.phase.clone());
                match (self.state.outcome(), decision.wake) {
                    (Some(outcome), _) if self.unrecorded.is_empty() => Pass::Over(outcome.clone()),
                    (_, wake) => Pass::Again(wake.unwrap_or(now + RETRY)),
                }
            }
            Recorded::No => {
                let actions = crate::engine::desired(&self.plan, &self.state);
                let keep: Vec<Action> = actions.into_iter().filter(|action| !action.is_forward()).collect();
                if self.act(&keep).await.is_err() {
                    return Pass::Fenced;
                }
                Pass::Again(now + RETRY)
            }
            Recorded::Fenced => Pass::Fenced,
        }
    }

    /// Drains the signals into the judge and says what is known. Nothing is judged before the first split is in force.
    fn measure(&mut self, now: Timestamp) -> Option<Reading> {
        let mut sample = self.signals.take(now);
        self.sources.append(&mut sample.sources);
        record_stable(&self.history, &sample, now);
        let stage = self
            .state
            .split_of
            .filter(|_| self.state.phase.stage().is_some())
            .map(|stage| &self.plan.stages[stage]);
        // A match may catch nobody for hours; only a share of all requests has to show.
        let shares = stage.is_some_and(|stage| !stage.split.weight.is_zero() || !stage.split.mirror.is_zero());
        self.signals.expect_canary_traffic(shares.then_some(self.state.since));
        let split_of = self.state.split_of.filter(|_| stage.is_some())?;
        if let Phase::Analysing { stage } = self.state.phase {
            self.begin_stage(stage, now);
        }
        let t = now.duration_since(self.state.started).as_secs_f64();
        let record = self.judge.as_mut()?;
        let mut verdict = Box::new(record.judge.look_doubting(
            t,
            &with_limits(&sample.observation, &self.plan),
            sample.doubt,
        ));
        let of = |metric: &str| self.sources.get(metric.strip_suffix(LIMIT).unwrap_or(metric)).cloned();
        verdict.name_sources(of);
        self.course.push(t, &verdict);
        self.verdict = Some(verdict.clone());
        Some(match no_data(&sample, &self.plan, split_of) {
            // A failing verdict stands whatever can be measured now.
            Some((kind, detail)) if verdict.call != crate::judge::Call::Fail => Reading::NoData { kind, detail },
            _ => Reading::Verdict {
                stage: record.stage,
                verdict,
            },
        })
    }

    /// How stable behaved, if enough of it is known. What the source remembers goes further back than what was recorded
    /// here.
    fn stable_past(&self) -> Option<History> {
        if self.plan.comparison != Comparison::WithStable {
            return None;
        }
        let plan = &self.plan.history;
        let remembered = self.signals.history().filter(|history| plan.is_met_by(history));
        let recorded = || self.history.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.or_else(|| plan.enough(&recorded()))
    }

    /// Tells the judge that a stage has begun, once. The judge itself is made with the first stage, so that stable's
    /// behaviour up to that moment counts as history.
    fn begin_stage(&mut self, stage: usize, now: Timestamp) {
        if self.judge.as_ref().is_some_and(|record| record.stage == stage) {
            return;
        }
        let t = now.duration_since(self.state.started).as_secs_f64();
        let past = self.stable_past();
        let record = self.judge.get_or_insert_with(|| JudgeRecord {
            judge: Judge::new(self.plan.judge.clone(), past.as_ref()),
            stage,
        });
        // What was too little at the first stage may be enough by now.
        if let Some(past) = &past {
            record.judge.learn(past);
        }
        record.stage = stage;
        let plan = &self.plan.stages[stage];
        if plan.kind == StageKind::Bake {
            record.judge.start_bake(t);
        } else {
            record
                .judge
                .start_stage(u32::try_from(stage).unwrap_or(u32::MAX), t, plan.next_weight.fraction());
        }
    }

    /// What is written down: this, with all that the judge knows by now.
    fn update(&self, state: State, entries: Vec<Entry>) -> Update {
        Update {
            state,
            entries,
            judge: self.judge.clone(),
            verdict: self.verdict.clone(),
            course: (!self.course.is_empty()).then(|| self.course.clone()),
        }
    }

    async fn record(&mut self, decision: Decision, now: Timestamp) -> Recorded {
        let news = !decision.entries.is_empty() || !self.unrecorded.is_empty();
        let judge_due = self.judge.is_some()
            && self
                .last_judge_write
                .is_none_or(|last| now.duration_since(last) >= self.judge_writes_every);
        if !news && !judge_due {
            self.state = decision.state.clone();
            return Recorded::Yes(Box::new(decision));
        }
        let entries: Vec<Entry> = self.unrecorded.iter().chain(&decision.entries).cloned().collect();
        let update = self.update(decision.state.clone(), entries);
        let written = if self.doubtful {
            // Deciding twice under one number would damage the history.
            Err(StoreError::Unavailable {
                what: "written",
                why: "it is not known yet whether the write before arrived".to_owned(),
            })
        } else {
            self.store.record(&self.key, self.epoch, &update).await
        };
        match written {
            Ok(()) => {
                self.unrecorded.clear();
                self.last_judge_write = Some(now);
                self.state = decision.state.clone();
                Recorded::Yes(Box::new(decision))
            }
            Err(StoreError::Fenced { .. }) => Recorded::Fenced,
            Err(error) => {
                self.doubtful |= news;
                self.trouble(&error);
                if matches!(decision.state.phase, Phase::Returning(..)) || !news {
                    // Going back waits for nothing, and evidence alone may wait for the next write.
                    self.unrecorded = update.entries;
                    self.state = decision.state.clone();
                    Recorded::Yes(Box::new(decision))
                } else {
                    Recorded::No
                }
            }
        }
    }

    /// After a write without an answer, the record says which of both worlds this is. If the write did arrive, the
    /// release goes on from there; what was done meanwhile without a record (going back waits for nothing) follows it
    /// under new numbers.
    async fn resolve_doubt(&mut self) -> Result<(), StoreError> {
        let record = self.store.load(&self.key).await?;
        self.doubtful = false;
        let done = std::mem::take(&mut self.unrecorded);
        let ours = self.state.next_entry - done.len() as u64;
        if record.state.next_entry == ours {
            self.unrecorded = done;
            return Ok(());
        }
        self.state = record.state;
        for entry in record
            .history
            .iter()
            .filter(|entry| entry.number >= ours && !done.contains(entry))
        {
            (self.notices)(Notice::Entry {
                key: self.key.clone(),
                entry: entry.clone(),
                phase: self.state.phase.clone(),
            });
        }
        for mut entry in done {
            if record.history.contains(&entry) {
                continue;
            }
            entry.number = self.state.next_entry;
            // What no longer follows has been overtaken by what was recorded.
            if let Ok(next) = apply(&self.plan, &self.state, &entry.event, entry.at) {
                self.state = next;
                self.unrecorded.push(entry);
            }
        }
        Ok(())
    }

    /// Whether everything was accepted.
    async fn act(&mut self, actions: &[Action]) -> Result<bool, PlatformError> {
        for action in actions {
            match self.platform.apply(action, self.epoch).await {
                Ok(()) => {}
                Err(error @ PlatformError::Fenced { .. }) => return Err(error),
                Err(error) => {
                    // What comes later in the list rests on what comes first; the next pass tries again.
                    self.trouble(&error);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The last resort after a bug: everything to stable, and nothing else.
    async fn flee(&mut self, now: Timestamp) -> Pass {
        match self.act(&[Action::Route(crate::plan::ALL_STABLE)]).await {
            Err(_) => Pass::Fenced,
            Ok(_) => Pass::Again(now + RETRY),
        }
    }

    fn tell(&mut self, mut state: State, decision: &Decision, now: Timestamp) {
        for entry in &decision.entries {
            // Each with the phase that it led to: who follows stops at the entry that ends the release, not before.
            state = apply(&self.plan, &state, &entry.event, entry.at).unwrap_or_else(|_| decision.state.clone());
            let notice = Notice::Entry {
                key: self.key.clone(),
                entry: entry.clone(),
                phase: state.phase.clone(),
            };
            (self.notices)(notice);
        }
        if decision.entries.is_empty() {
            (self.notices)(Notice::Look {
                key: self.key.clone(),
                at: now,
                phase: self.state.phase.clone(),
                waiting_for: decision.waiting_for.clone(),
                verdict: self.verdict.clone(),
            });
        }
    }

    /// Says once that somebody else writes the router, and who.
    fn tell_conflict(&mut self, world: &World) {
        let conflict = &world.route.conflict;
        if let Some(words) = conflict.as_ref().filter(|_| self.conflict != *conflict) {
            (self.notices)(Notice::Trouble {
                key: self.key.clone(),
                at: self.clock.now(),
                message: words.clone(),
            });
        }
        self.conflict.clone_from(conflict);
    }

    fn trouble(&mut self, error: &dyn std::error::Error) {
        let at = self.clock.now();
        (self.notices)(Notice::Trouble {
            key: self.key.clone(),
            at,
            message: error.to_string(),
        });
    }
}

enum Recorded {
    Yes(Box<Decision>),
    No,
    Fenced,
}

/// The observation with each metric's increments also under the name of its absolute limit, where it has one.
pub(crate) fn with_limits<'a>(observation: &'a Observation, plan: &Plan) -> Cow<'a, Observation> {
    let mut seen = Cow::Borrowed(observation);
    for metric in &plan.judge.metrics {
        if let Some(of) = metric.name.strip_suffix(LIMIT)
            && let Some(sides) = observation.metrics.get(of)
        {
            seen.to_mut().metrics.insert(metric.name.clone(), sides.clone());
        }
    }
    seen
}

/// Which kind of no data a sample is, if it is one.
fn no_data(sample: &Sample, plan: &Plan, stage: usize) -> Option<(NoData, String)> {
    let stage = &plan.stages[stage];
    match &sample.condition {
        Condition::Measured => None,
        Condition::SourceDown { reason } => Some((NoData::SourceDown, reason.clone())),
        Condition::CanarySilent => Some(match missed(sample, plan, &stage.split) {
            Some(expected) if expected < SURELY_MISSED => (
                NoData::BothSilent,
                format!(
                    "too little traffic to tell a silent canary from chance ({expected:.1} requests would have been expected)"
                ),
            ),
            _ => (
                NoData::CanarySilent,
                "the canary should have traffic and shows none".to_owned(),
            ),
        }),
        Condition::Unmeasured { reason } => Some((NoData::Unmeasured, reason.clone())),
        Condition::BothSilent if stage.kind == StageKind::Preview => None,
        Condition::BothSilent => Some((NoData::BothSilent, "no requests on either revision".to_owned())),
    }
}

/// With this many requests expected, none at all is chance in less than one case of a thousand (e^-7).
const SURELY_MISSED: f64 = 7.0;

/// How many requests the canary would have had, by stable's present rate, in the time after which its silence counts.
fn missed(sample: &Sample, plan: &Plan, split: &Split) -> Option<f64> {
    let share = if split.weight.is_zero() {
        split.mirror.fraction()
    } else {
        split.weight.fraction() / split.weight.rest().fraction()
    };
    // At 100 % there is no stable to go by: silence is silence.
    (share.is_finite()).then(|| Some(sample.rates.stable? * share * plan.no_data.canary_silent.after.as_secs_f64()))?
}

/// What is known of stable's own instances; shared, so that whoever keeps it over restarts always has the newest.
pub type Recorder = Arc<Mutex<HistoryRecorder>>;

/// Records what stable's instances did, between releases and during them. They are compared with each other only, so it
/// does not matter how much of the traffic a canary takes from all of them.
pub fn record_stable(recorder: &Recorder, sample: &Sample, now: Timestamp) {
    let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = seconds_of(now);
    for pod in sample.pods.iter().filter(|pod| pod.side == Side::Stable) {
        recorder.record(seconds, &pod.pod, pod.requests, pod.errors);
    }
}

/// Seconds since the epoch, for recorders that only need a clock that goes forward.
pub fn seconds_of(now: Timestamp) -> f64 {
    now.as_microsecond() as f64 / 1e6
}

/// What a world looks like to a release that has nothing on it; for adapters to start from.
pub fn untouched() -> World {
    World {
        restored: true,
        ..World::default()
    }
}
