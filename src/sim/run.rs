//! One simulated release: the production controller, driven by hand through virtual time.
//!
//! The controller's futures are polled here, one poll at a time. Every adapter gives way before and after each effect,
//! so that between any two polls time may pass, another controller may run, or the future may be dropped, which is what
//! a process sees that is killed there. Nothing sleeps, no thread runs, and the seed is the whole story.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::task::noop_waker_ref;
use jiff::{SignedDuration, Timestamp};

use super::chance::{Chance, Stream};
use super::faults::{Fault, Faults, Happening};
use super::ground::{Ground, Shared, on};
use super::platform::SimPlatform;
use super::sabotage::Sabotage;
use super::seen::{Moment, Seen};
use super::signals::SimSignals;
use super::store::SimStore;
use super::world::{Behaviour, World};
use crate::clock::ManualClock;
use crate::controller::{Controller, Notice, Pass};
use crate::engine::{Actor, Command, Phase, State};
use crate::judge::HistoryRecorder;
use crate::plan::{Lane, Plan};
use crate::store::{Pipeline, ReleaseKey, ReleaseRecord, Revision, Store as _};

/// Everything that a run is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Draws everything that is drawn.
    pub seed: u64,
    /// When the release begins.
    pub start: Timestamp,
    /// The way.
    pub plan: Plan,
    /// Instances at full size.
    pub full: u32,
    /// Requests per second on the whole service.
    pub rps: f64,
    /// How the old revision behaves.
    pub stable: Behaviour,
    /// How the new one does.
    pub canary: Behaviour,
    /// Stable was watched long enough before, so that stages may pass early.
    pub watched: bool,
    /// What `DEPLOY_WINDOW` says.
    pub deploy_window: Option<bool>,
    /// What goes wrong.
    pub faults: Faults,
    /// Time passes within a pass, commands take a moment to be seen, controllers take turns; without it every pass is
    /// one moment, which is easier to read.
    pub jitter: bool,
    /// The controller dies at this poll, counted from 1.
    pub dies_at_poll: Option<u64>,
    /// The run is given up after this.
    pub limit: SignedDuration,
    /// The planted defect.
    pub sabotage: Option<Sabotage>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it was made from.
    pub case: Case,
    /// Everything that happened, in order.
    pub moments: Vec<Moment>,
    /// The record at the end.
    pub record: ReleaseRecord,
    /// From when on nothing went wrong any more.
    pub quiet_from: Timestamp,
    /// When a controller said that the release is over.
    pub over_at: Option<Timestamp>,
    /// Polls of controllers.
    pub polls: u64,
}

impl Run {
    /// A number that two runs share only if everything that happened in them is the same (FNV-1a over the text).
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let text = format!("{:?}{:?}", self.moments, self.record);
        for byte in text.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash
    }
}

type Driven = Controller<SimPlatform, SimSignals>;
type InFlight = Pin<Box<dyn Future<Output = (Box<Driven>, Pass)>>>;

/// A process that runs a controller.
struct Process {
    epoch: u64,
    doing: Doing,
}

enum Doing {
    /// It waits for its time.
    Waiting(Box<Driven>, Timestamp),
    /// It is in the middle of a pass.
    Pass(InFlight),
}

/// How long the world goes on after a controller has said that the release is over: what is late arrives, and others
/// that are still alive may do what they must not.
const AFTERMATH: SignedDuration = SignedDuration::from_secs(30);
/// At most so many milliseconds pass between two polls.
const STEP_MILLIS: u64 = 20;
/// How likely a controller dies at one poll while controllers die.
const DEATH: f64 = 0.03;
/// The least wait between two passes, as in `Controller::run`.
const LEAST_WAIT: SignedDuration = SignedDuration::from_millis(5);
/// A record that cannot be read is tried again after this.
const START_AGAIN: SignedDuration = SignedDuration::from_secs(1);

struct Driver<'a> {
    case: &'a Case,
    shared: Shared,
    schedule: Chance,
    processes: Vec<Process>,
    epoch: u64,
    /// When another controller starts, if none does.
    starts: Option<Timestamp>,
    happenings: std::collections::VecDeque<(Timestamp, Happening)>,
    newer: Option<String>,
    polls: u64,
    over_at: Option<Timestamp>,
}

/// Runs a case to its end.
pub fn run(case: &Case) -> Run {
    let clock = ManualClock::new(case.start);
    let first = case.plan.lane == Lane::FirstDeploy;
    let ground = Ground {
        world: World::new(
            case.start,
            case.full,
            case.rps,
            case.stable.clone(),
            case.canary.clone(),
            first,
        ),
        faults: case.faults.clone(),
        chance: Chance::new(case.seed, Stream::Faults),
        traffic: Chance::new(case.seed, Stream::Traffic),
        record: new_record(case, first),
        commands: Vec::new(),
        store_epoch: 0,
        platform_epoch: 0,
        observed: None,
        moments: Vec::new(),
        sabotage: case.sabotage,
        clock,
    };
    let quiet_from = case.faults.quiet_from().unwrap_or(case.start);
    let mut driver = Driver {
        case,
        shared: Arc::new(Mutex::new(ground)),
        schedule: Chance::new(case.seed, Stream::Schedule),
        processes: Vec::new(),
        epoch: 0,
        starts: Some(case.start),
        happenings: case.faults.happenings.iter().cloned().collect(),
        newer: None,
        polls: 0,
        over_at: None,
    };
    driver.drive(quiet_from);
    let Driver {
        shared,
        polls,
        over_at,
        processes,
        ..
    } = driver;
    drop(processes);
    let ground = on(&shared);
    Run {
        case: case.clone(),
        moments: ground.moments.clone(),
        record: ground.record.clone(),
        quiet_from,
        over_at,
        polls,
    }
}

fn new_record(case: &Case, first: bool) -> ReleaseRecord {
    let revision = |version: &str| Revision {
        id: format!("{version}-id"),
        version: version.to_owned(),
        variables: Default::default(),
        workload: serde_json::Value::Null,
    };
    ReleaseRecord {
        key: ReleaseKey {
            rollout: case.plan.rollout.clone(),
            number: 1,
        },
        canary: revision("v2"),
        stable: (!first).then(|| revision("v1")),
        plan: case.plan.clone(),
        state: State::new(case.start),
        history: Vec::new(),
        judge: None,
        verdict: None,
        course: Default::default(),
        by: Actor::named("pipeline"),
        reason: None,
        deploy_window: case.deploy_window,
        pipeline: Pipeline::default(),
        created: case.start,
        ended: None,
    }
}

impl Driver<'_> {
    fn drive(&mut self, quiet_from: Timestamp) {
        let end = self.case.start + self.case.limit;
        {
            let mut ground = on(&self.shared);
            let truth = ground.world.truth();
            ground.note(Seen::World(truth));
            let start = self.case.start;
            let begun: Vec<_> = ground
                .faults
                .windows
                .iter()
                .filter(|w| w.from <= start)
                .map(|w| w.fault)
                .collect();
            for fault in begun {
                ground.note(Seen::FaultBegan(fault));
            }
        }
        let mut quiet = false;
        loop {
            let now = on(&self.shared).now();
            if !quiet && now >= quiet_from {
                quiet = true;
                on(&self.shared).note(Seen::Quiet);
            }
            self.happen(now);
            if now >= end || self.over_at.is_some_and(|over| over + AFTERMATH <= now) {
                return;
            }
            if self.starts.is_some_and(|at| at <= now) {
                self.start(now);
            }
            match self.runnable(now) {
                Some(index) => self.poll(index),
                None => self.skip(now, end),
            }
        }
    }

    /// Lets time pass to the next thing that is due.
    fn skip(&mut self, now: Timestamp, end: Timestamp) {
        let wakes = self.processes.iter().filter_map(|process| match &process.doing {
            Doing::Waiting(_, at) => Some(*at),
            Doing::Pass(_) => None,
        });
        let over = self.over_at.map(|over| over + AFTERMATH);
        let due = wakes
            .chain(self.starts)
            .chain(self.happenings.front().map(|(at, _)| *at))
            .chain(over)
            .min()
            .unwrap_or(end)
            .min(end);
        self.pass_time(now, due.max(now + SignedDuration::from_millis(1)));
    }

    /// Carries the world to `to`, stopping where a fault begins or ends.
    fn pass_time(&self, now: Timestamp, to: Timestamp) {
        let mut ground = on(&self.shared);
        let mut at = now;
        while let Some(edge) = ground.faults.next_edge(at).filter(|edge| *edge <= to) {
            ground.step_to(edge);
            at = edge;
            let (began, ended): (Vec<_>, Vec<_>) = ground
                .faults
                .windows
                .iter()
                .filter(|w| w.from == edge || w.to == edge)
                .cloned()
                .partition(|w| w.from == edge);
            for window in ended {
                ground.note(Seen::FaultEnded(window.fault));
            }
            for window in began {
                ground.note(Seen::FaultBegan(window.fault));
            }
        }
        ground.step_to(to);
    }

    fn runnable(&mut self, now: Timestamp) -> Option<usize> {
        let ready: Vec<usize> = (0..self.processes.len())
            .filter(|index| match &self.processes[*index].doing {
                Doing::Waiting(_, at) => *at <= now,
                Doing::Pass(_) => true,
            })
            .collect();
        (!ready.is_empty()).then(|| *self.schedule.pick(&ready))
    }

    fn poll(&mut self, index: usize) {
        self.polls += 1;
        let now = on(&self.shared).now();
        let dying = on(&self.shared).active(Fault::Crashes) && self.schedule.happens(DEATH);
        if dying || self.case.dies_at_poll == Some(self.polls) {
            let pause = if self.case.jitter {
                self.schedule.millis(50, 15_000)
            } else {
                SignedDuration::ZERO
            };
            self.die(index, now + pause);
            return;
        }
        let Process { epoch, doing } = self.processes.swap_remove(index);
        let mut pass = match doing {
            Doing::Pass(pass) => pass,
            Doing::Waiting(mut controller, _) => {
                on(&self.shared).note(Seen::PassBegan { epoch });
                if let Some(name) = &self.newer {
                    controller.newer(name);
                }
                Box::pin(async move {
                    let pass = controller.pass().await;
                    (controller, pass)
                })
            }
        };
        let doing = match pass.as_mut().poll(&mut Context::from_waker(noop_waker_ref())) {
            Poll::Pending => Some(Doing::Pass(pass)),
            Poll::Ready((controller, pass)) => {
                on(&self.shared).note(Seen::PassEnded {
                    epoch,
                    pass: pass.clone(),
                });
                match pass {
                    Pass::Again(at) => Some(Doing::Waiting(controller, at.max(now + LEAST_WAIT))),
                    Pass::Over(_) => {
                        self.over_at = self.over_at.or(Some(now));
                        None
                    }
                    Pass::Fenced => None,
                }
            }
        };
        if let Some(doing) = doing {
            self.processes.push(Process { epoch, doing });
        } else if self.processes.is_empty() && self.over_at.is_none() && self.starts.is_none() {
            // Fenced, and whoever fenced it is gone.
            self.starts = Some(now);
        }
        if self.case.jitter {
            let step = self.schedule.millis(0, STEP_MILLIS);
            self.pass_time(now, now + step);
        }
    }

    fn die(&mut self, index: usize, again: Timestamp) {
        let process = self.processes.swap_remove(index);
        on(&self.shared).note(Seen::Died { epoch: process.epoch });
        if self.processes.is_empty() && self.over_at.is_none() {
            self.starts = Some(again);
        }
    }

    /// Starts a controller: it raises the epoch first and reads the record afterwards, so that whoever held the release
    /// before cannot write between the two.
    fn start(&mut self, now: Timestamp) {
        self.epoch += 1;
        let epoch = self.epoch;
        let store = SimStore::new(self.shared.clone(), epoch);
        let key = {
            let mut ground = on(&self.shared);
            ground.note(Seen::Started { epoch });
            ground.store_epoch = epoch;
            ground.record.key.clone()
        };
        let mut load = std::pin::pin!(store.load(&key));
        let loaded = loop {
            if let Poll::Ready(loaded) = load.as_mut().poll(&mut Context::from_waker(noop_waker_ref())) {
                break loaded;
            }
        };
        let Ok(record) = loaded else {
            self.starts = Some(now + START_AGAIN);
            return;
        };
        self.starts = None;
        on(&self.shared).note(Seen::Runs { epoch });
        let clock = Arc::new(on(&self.shared).clock.clone());
        let (told, mut said) = (self.shared.clone(), String::new());
        let controller = Controller::new(
            record,
            epoch,
            Arc::new(Mutex::new(history(self.case))),
            SimPlatform::new(self.shared.clone(), epoch),
            SimSignals::new(self.shared.clone(), epoch, now),
            Arc::new(store.clone()),
            clock,
            Box::new(move |notice| match notice {
                Notice::Trouble { message, .. } => on(&told).note(Seen::Trouble { epoch, message }),
                Notice::Look {
                    phase: Phase::Gated { .. } | Phase::Waiting,
                    waiting_for,
                    ..
                } if waiting_for != said => {
                    said.clone_from(&waiting_for);
                    on(&told).note(Seen::Waits {
                        epoch,
                        what: waiting_for,
                    });
                }
                Notice::Look { .. } | Notice::Entry { .. } => {}
            }),
        );
        self.processes.push(Process {
            epoch,
            doing: Doing::Waiting(Box::new(controller), now),
        });
    }

    fn happen(&mut self, now: Timestamp) {
        while self.happenings.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, happening)) = self.happenings.pop_front() else {
                return;
            };
            match happening {
                Happening::Ask { kind, by, reason } => self.ask(now, kind, by, reason),
                Happening::Newer(name) => self.newer = Some(name),
                Happening::Kill { for_secs } => {
                    let again = now + SignedDuration::from_secs(i64::from(for_secs));
                    for index in (0..self.processes.len()).rev() {
                        self.die(index, again);
                    }
                }
                Happening::Rival => {
                    if self.over_at.is_none() && self.starts.is_none() {
                        self.start(now);
                    }
                }
                Happening::Meddle(split) => self.with_world(|world| world.meddle(split)),
                Happening::Scale(full) => self.with_world(|world| world.scale(full)),
                Happening::Turn(behaviour) => self.with_world(|world| world.turn(behaviour)),
            }
        }
    }

    fn with_world(&self, change: impl FnOnce(&mut World)) {
        let mut ground = on(&self.shared);
        change(&mut ground.world);
        ground.collect();
    }

    fn ask(&mut self, now: Timestamp, kind: crate::engine::CommandKind, by: Actor, reason: Option<String>) {
        {
            let mut ground = on(&self.shared);
            let id = ground.commands.len() as u64 + 1;
            let command = Command {
                id,
                kind,
                by,
                reason,
                at: now,
            };
            ground.commands.push(command.clone());
            ground.note(Seen::Asked(command));
        }
        // Usually the holder is woken; a wake that gets lost only costs the time to the next look.
        for process in &mut self.processes {
            if let Doing::Waiting(_, at) = &mut process.doing
                && (!self.case.jitter || self.schedule.happens(0.7))
            {
                *at = now;
            }
        }
    }
}

/// What was recorded of stable before the release.
fn history(case: &Case) -> HistoryRecorder {
    let plan = case.plan.history;
    let block = plan.block.as_secs_f64();
    let mut recorder = HistoryRecorder::new(block);
    if case.watched && case.full >= 2 {
        let mut chance = Chance::new(case.seed, Stream::Traffic);
        let pod_blocks = (f64::from(plan.pod_minutes) * 60.0 / block).ceil() as usize;
        let blocks = plan.blocks().max(pod_blocks.div_ceil(case.full as usize)) + 2;
        let end = crate::controller::seconds_of(case.start);
        for number in 0..=blocks {
            let at = end - (blocks - number) as f64 * block;
            for pod in 0..case.full {
                let requests = chance.poisson(case.rps * block / f64::from(case.full));
                let errors = chance.binomial(requests, case.stable.error_rate);
                recorder.record(at, &format!("stable-{pod}"), requests as f64, errors as f64);
            }
        }
    }
    recorder
}
