//! The simulated platform as it really is: instances that start, get ready and crash, a router, writes under way.
//!
//! The world moves by itself: [`World::advance`] carries it to a time, event by event, and counts the requests that
//! were sent in between. It knows nothing of releases; it does what accepted writes ask for, and only
//! `sim::platform` decides whether a write is accepted.
//!
//! What it does not model: single requests (counts are drawn per look, see `traffic`), capacity of a machine, and
//! stable ever failing by itself (an incident that hits both revisions is a fault).

use jiff::{SignedDuration, Timestamp};

use super::seen::{Instances, Truth};
use super::traffic::Traffic;
use crate::engine::{self, Action, Diagnosis, HookReport, Presence, RouteFact, SmokeReport};
use crate::plan::{ALL_STABLE, Split};
use crate::spec::{HookPoint, Weight};

/// How long the last requests of a revision take to finish.
const DRAIN: SignedDuration = SignedDuration::from_secs(3);
/// How long the smoke tests take.
const SMOKE: SignedDuration = SignedDuration::from_secs(2);
/// Restarts after which a crash loop is called one.
const CRASH_LOOP: u32 = 3;

/// How one revision behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// The share of its answers that are errors.
    pub error_rate: f64,
    /// The median answer time in seconds.
    pub latency_secs: f64,
    /// The spread of the answer times: sigma of the log-normal distribution.
    pub latency_sigma: f64,
    /// How an instance starts.
    pub start: Start,
    /// A ready instance crashes after this, again and again.
    pub crash_after: Option<SignedDuration>,
    /// Whether the smoke tests pass.
    pub smoke_passes: bool,
}

/// How an instance starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It is ready after this.
    Ready(SignedDuration),
    /// It runs and is never ready.
    Never,
    /// It exits after this, before it is ready.
    Crash(SignedDuration),
}

#[derive(Clone, Debug, PartialEq)]
struct Instance {
    ready: bool,
    /// When it changes next, unless it stays as it is.
    changes: Option<Timestamp>,
    restarts: u32,
}

#[derive(Clone, Debug, PartialEq)]
struct Revision {
    behaviour: Behaviour,
    instances: Vec<Instance>,
    /// Since when all are ready; since when none is.
    all_ready_since: Option<Timestamp>,
    none_ready_since: Option<Timestamp>,
    /// Since when no request is sent to it.
    idle_since: Option<Timestamp>,
}

/// Objects that are written independently of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    Hold,
    Canary,
    Route,
    Smoke,
    Hooks,
    Stable,
}

/// The simulated platform as it really is.
#[derive(Clone, Debug)]
pub struct World {
    now: Timestamp,
    full: u32,
    stable: Revision,
    canary: Revision,
    /// The share of the full size that was asked for last; `None` if the canary is not wanted.
    wanted: Option<Weight>,
    split: Split,
    held: bool,
    adopted: bool,
    smoke_ends: Option<Timestamp>,
    /// The hooks that were asked for last, and when they end.
    hooks: Option<(HookPoint, Timestamp)>,
    smoke: Option<bool>,
    late: Vec<(Timestamp, Object, Action)>,
    /// Somebody pretends that the canary is gone.
    dismissed: bool,
    /// Requests sent and not measured yet.
    pub(super) traffic: Traffic,
    /// The true changes since they were asked for.
    pub(super) changes: Vec<(Timestamp, Truth)>,
}

impl World {
    /// A service at full size, with nothing of a release on it. `first` means that no stable revision exists.
    pub fn new(now: Timestamp, full: u32, rps: f64, stable: Behaviour, canary: Behaviour, first: bool) -> Self {
        let serving = if first { 0 } else { full };
        let ready = Instance {
            ready: true,
            changes: None,
            restarts: 0,
        };
        Self {
            now,
            full,
            stable: Revision {
                behaviour: stable,
                instances: vec![ready; serving as usize],
                all_ready_since: (!first).then_some(now),
                none_ready_since: first.then_some(now),
                idle_since: first.then_some(now),
            },
            canary: Revision {
                behaviour: canary,
                instances: Vec::new(),
                all_ready_since: None,
                none_ready_since: Some(now),
                idle_since: Some(now - DRAIN),
            },
            wanted: None,
            split: ALL_STABLE,
            held: false,
            adopted: false,
            smoke_ends: None,
            hooks: None,
            smoke: None,
            late: Vec::new(),
            dismissed: false,
            traffic: Traffic::new(rps),
            changes: Vec::new(),
        }
    }

    /// The truth.
    pub fn truth(&self) -> Truth {
        let instances = |revision: &Revision| Instances {
            exist: count(&revision.instances),
            ready: revision.ready(),
            full: self.full,
        };
        Truth {
            split: self.split.clone(),
            canary: instances(&self.canary),
            stable: instances(&self.stable),
            held: self.held,
            adopted: self.adopted,
        }
    }

    /// When the world changes next by itself.
    pub fn next_event(&self) -> Option<Timestamp> {
        let instances = self
            .canary
            .instances
            .iter()
            .chain(&self.stable.instances)
            .filter_map(|one| one.changes);
        let late = self.late.iter().map(|(at, ..)| *at);
        instances
            .chain(late)
            .chain(self.smoke_ends)
            .chain(self.hooks.map(|(_, ends)| ends).filter(|ends| *ends > self.now))
            .min()
    }

    /// Carries the world to `to`; `conditions` hold on the way.
    pub fn advance(&mut self, to: Timestamp, conditions: Conditions) {
        while let Some(at) = self.next_event().filter(|at| *at <= to) {
            self.send(at, conditions);
            self.happen(at);
        }
        self.send(to, conditions);
    }

    fn send(&mut self, to: Timestamp, conditions: Conditions) {
        let secs = to.duration_since(self.now).as_secs_f64();
        if secs <= 0.0 {
            return;
        }
        self.now = to;
        let answers = |revision: &Revision| {
            let rate = if revision.ready() == 0 {
                1.0
            } else {
                revision.behaviour.error_rate
            };
            if conditions.incident {
                (rate * 20.0).clamp(0.3, 1.0)
            } else {
                rate
            }
        };
        let rates = (answers(&self.canary), answers(&self.stable));
        self.traffic.send(secs, &self.split, rates, conditions);
    }

    fn happen(&mut self, at: Timestamp) {
        let before = self.truth();
        if let Some(index) = self.late.iter().position(|(due, ..)| *due <= at) {
            let (_, _, action) = self.late.remove(index);
            self.effect(&action);
        }
        if self.smoke_ends.is_some_and(|ends| ends <= at) {
            self.smoke_ends = None;
            self.smoke = Some(self.canary.behaviour.smoke_passes && self.canary.ready() > 0);
        }
        self.canary.live(at);
        self.stable.live(at);
        self.note(&before);
    }

    fn note(&mut self, before: &Truth) {
        let now = self.now;
        let serves = self.split.serves_users();
        self.canary.track(now, serves);
        self.stable.track(now, !self.split.weight.is_full());
        let after = self.truth();
        if after != *before {
            self.changes.push((now, after));
        }
    }

    /// Takes a write. It takes effect now, `late`, or never (`None`); a write of the same object that is still under
    /// way is overtaken either way.
    pub fn write(&mut self, action: &Action, takes_effect: Option<SignedDuration>) {
        let object = object_of(action);
        if self
            .late
            .iter()
            .any(|(_, of, under_way)| *of == object && under_way == action)
            || self.holds(action)
        {
            return;
        }
        self.late.retain(|(_, of, _)| *of != object);
        match takes_effect {
            Some(late) if late > SignedDuration::ZERO => self.late.push((self.now + late, object, action.clone())),
            Some(_) => self.effect(action),
            None => {}
        }
    }

    fn holds(&self, action: &Action) -> bool {
        // An older write under way would still change it.
        !self.late.iter().any(|(_, of, _)| *of == object_of(action))
            && match action {
                Action::Hold => self.held,
                Action::Canary { capacity } => self.wanted == Some(*capacity),
                Action::Route(split) => self.split == *split,
                Action::Smoke => self.smoke_ends.is_some() || self.smoke.is_some(),
                Action::Hooks(at) => self.hooks.as_ref().is_some_and(|(of, _)| of == at),
                Action::Adopt => self.adopted,
                Action::Retire => self.stable.instances.is_empty() && !self.held,
                Action::RemoveCanary => self.wanted.is_none(),
                Action::Restore => !self.held,
            }
    }

    fn effect(&mut self, action: &Action) {
        let before = self.truth();
        match action {
            Action::Hold => self.held = true,
            Action::Canary { capacity } => {
                self.wanted = Some(*capacity);
                self.resize_canary();
            }
            Action::Route(split) => self.split = split.clone(),
            Action::Smoke => self.smoke_ends = Some(self.now + SMOKE),
            Action::Hooks(at) => self.hooks = Some((*at, self.now + SMOKE)),
            Action::Adopt => self.adopted = true,
            Action::Retire => {
                self.stable.instances.clear();
                self.held = false;
            }
            Action::RemoveCanary => {
                self.wanted = None;
                self.canary.instances.clear();
                self.smoke = None;
                self.smoke_ends = None;
            }
            Action::Restore => self.held = false,
        }
        self.note(&before);
    }

    fn resize_canary(&mut self) {
        let Some(capacity) = self.wanted else { return };
        let (now, need) = (self.now, engine::desired::instances(capacity, self.full) as usize);
        let behaviour = &self.canary.behaviour;
        let fresh = Instance {
            ready: false,
            changes: behaviour.first_change(now),
            restarts: 0,
        };
        self.canary.instances.resize(need, fresh);
    }

    /// Drops what is under way: somebody with a higher epoch has written.
    pub fn forget_late(&mut self) {
        self.late.clear();
    }

    /// From now on somebody pretends that the canary is gone (only a planted defect does).
    pub fn dismiss(&mut self) {
        self.dismissed = true;
    }

    /// Whether somebody pretends that the canary is gone.
    pub fn dismissed(&self) -> bool {
        self.dismissed
    }

    /// Somebody else changes the split.
    pub fn meddle(&mut self, split: Split) {
        let before = self.truth();
        self.split = split;
        self.note(&before);
    }

    /// The service is scaled.
    pub fn scale(&mut self, full: u32) {
        let before = self.truth();
        self.full = full;
        if !self.stable.instances.is_empty() {
            let ready = Instance {
                ready: true,
                changes: None,
                restarts: 0,
            };
            self.stable.instances.resize(full as usize, ready);
        }
        self.resize_canary();
        self.note(&before);
    }

    /// The canary behaves differently from now on.
    pub fn turn(&mut self, behaviour: Behaviour) {
        let now = self.now;
        for instance in self.canary.instances.iter_mut().filter(|instance| instance.ready) {
            instance.changes = behaviour.crash_after.map(|after| now + after);
        }
        self.canary.behaviour = behaviour;
    }

    /// How both revisions answer, canary first.
    pub fn behaviours(&self) -> (&Behaviour, &Behaviour) {
        (&self.canary.behaviour, &self.stable.behaviour)
    }

    /// Stable's instances.
    pub fn stable_pods(&self) -> usize {
        self.stable.instances.len()
    }

    /// What a faithful observer sees. `mute` says that the router does not answer.
    pub fn observe(&self, mute: bool) -> engine::World {
        engine::World {
            canary: self.presence(&self.canary),
            stable: self.presence(&self.stable),
            route: RouteFact {
                split: (!mute).then(|| self.split.clone()),
                conflict: None,
            },
            adopted: self.adopted,
            smoke: self.smoke.map(|passed| SmokeReport {
                passed,
                summary: if passed {
                    "smoke tests passed"
                } else {
                    "smoke test GET /healthz answered 500"
                }
                .to_owned(),
            }),
            hooks: self
                .hooks
                .filter(|(_, ends)| *ends <= self.now)
                .map(|(at, _)| HookReport {
                    at,
                    passed: true,
                    summary: format!("hooks {at} ended well"),
                }),
            restored: !self.held,
            interference: None,
        }
    }

    fn presence(&self, revision: &Revision) -> Presence {
        let restarts = revision.instances.iter().map(|one| one.restarts).sum();
        let loops = revision.instances.iter().map(|one| one.restarts).max().unwrap_or(0) >= CRASH_LOOP;
        Presence {
            exists: count(&revision.instances),
            full: self.full,
            ready: revision.ready(),
            ready_since: revision.all_ready_since,
            none_ready_since: revision.none_ready_since.filter(|_| !revision.instances.is_empty()),
            restarts,
            drained: revision.idle_since.is_some_and(|since| since + DRAIN <= self.now),
            diagnosis: loops.then(|| Diagnosis {
                kind: "crashLoop".to_owned(),
                message: format!("an instance of the new revision has exited {CRASH_LOOP} times; its last words: `config: no such table`"),
                fatal: true,
            }),
        }
    }
}

/// What is wrong with the requests at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// None reaches the canary.
    pub canary_silent: bool,
    /// None is sent at all.
    pub both_silent: bool,
    /// Both sides fail many.
    pub incident: bool,
}

impl Behaviour {
    fn first_change(&self, now: Timestamp) -> Option<Timestamp> {
        match self.start {
            Start::Ready(after) | Start::Crash(after) => Some(now + after),
            Start::Never => None,
        }
    }
}

impl Revision {
    fn ready(&self) -> u32 {
        u32::try_from(self.instances.iter().filter(|one| one.ready).count()).expect("few instances")
    }

    fn live(&mut self, at: Timestamp) {
        let behaviour = &self.behaviour;
        for one in self
            .instances
            .iter_mut()
            .filter(|one| one.changes.is_some_and(|due| due <= at))
        {
            match (one.ready, behaviour.start) {
                (false, Start::Ready(_)) => {
                    one.ready = true;
                    one.changes = behaviour.crash_after.map(|after| at + after);
                }
                (false, Start::Never) => one.changes = None,
                (true, _) | (false, Start::Crash(_)) => {
                    one.ready = false;
                    one.restarts += 1;
                    one.changes = behaviour.first_change(at);
                }
            }
        }
    }

    fn track(&mut self, now: Timestamp, serves: bool) {
        let ready = self.ready();
        let all = !self.instances.is_empty() && ready == count(&self.instances);
        self.all_ready_since = if all { self.all_ready_since.or(Some(now)) } else { None };
        self.none_ready_since = if ready == 0 {
            self.none_ready_since.or(Some(now))
        } else {
            None
        };
        self.idle_since = if serves { None } else { self.idle_since.or(Some(now)) };
    }
}

fn count(instances: &[Instance]) -> u32 {
    u32::try_from(instances.len()).expect("few instances")
}

fn object_of(action: &Action) -> Object {
    match action {
        Action::Hold | Action::Restore => Object::Hold,
        Action::Canary { .. } | Action::RemoveCanary => Object::Canary,
        Action::Route(_) => Object::Route,
        Action::Smoke => Object::Smoke,
        Action::Hooks(_) => Object::Hooks,
        Action::Adopt | Action::Retire => Object::Stable,
    }
}
