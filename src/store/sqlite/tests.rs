//! Claims about the store, and what they are tried on: a release driven through the engine's own table of moves, so
//! that no history is stored here that could not have happened.

mod faults;
mod folder;
mod record;
mod rollouts;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use serde_json::json;

use super::data_dir::open;
use super::update::Words;
use super::*;
use crate::engine::{Actor, Cause, CommandKind, Entry, Event, Outcome, Proof, State, apply};
use crate::judge::{self, Increment, Judge, Observation, Sides, Verdict};
use crate::plan::{Comparison, Gate, HistoryPlan, Lane, NoDataPlan, Plan, SmokePlan, Split, Stage, StageKind};
use crate::spec::{Mode, NoDataAction, NoDataRule, OnNewRevision, OnUndecided, Span, Weight};
use crate::store::record::JudgeRecord;
use crate::store::{Pipeline, Revision};

pub(in crate::store) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_microsecond(1_790_000_000_123_456).expect("a date") + SignedDuration::from_secs(seconds)
}

/// A store without a folder.
fn store() -> SqliteStore {
    let path = Path::new(":memory:");
    let (connection, _) = open(path).expect("a store in memory");
    SqliteStore::new(connection, path, None)
}

pub(in crate::store) fn revision(version: &str) -> Revision {
    Revision {
        id: format!("id-{version}"),
        version: version.to_owned(),
        variables: BTreeMap::from([("version".to_owned(), version.to_owned())]),
        workload: json!({"command": ["shop", "--port", "${PORT}"], "cpu": 0.1, "$float": "mine", "n": [1, -2, null]}),
    }
}

pub(in crate::store) fn plan(rollout: &str) -> Plan {
    let rule = |action| NoDataRule {
        after: Span::secs(120),
        action,
    };
    let stage = |kind, permille, gate| Stage {
        kind,
        split: Split::weight(Weight::from_permille(permille).expect("a share")),
        capacity: Weight::FULL,
        gate,
        min: Span::millis(1500),
        max: Span::secs(300),
        next_weight: Weight::FULL,
    };
    let gate = Gate {
        approvers: vec!["group:payments".to_owned()],
        expires: Span::secs(60),
    };
    Plan {
        measure: Default::default(),
        rollout: rollout.to_owned(),
        strategy: "careful".to_owned(),
        lane: Lane::Normal,
        mode: Mode::Enforce,
        comparison: Comparison::LimitsOnly {
            reason: "stable is failing itself".to_owned(),
        },
        rolling: false,
        stages: vec![
            stage(StageKind::Judge, 55, Some(gate)),
            stage(StageKind::Bake, 1000, None),
        ],
        smoke: SmokePlan {
            tests: serde_json::from_value(json!([
                {"http": "/cart", "within": "500ms", "json": {"$.total": 1.5}, "status": 200},
            ]))
            .expect("smoke tests"),
            tries: 3,
            within: Span::secs(60),
            again: None,
        },
        ready_within: Span::secs(300),
        settle: Span::secs(5),
        drain_within: Span::secs(30),
        confirm_within: Span::secs(10),
        gate_within: Span::secs(14_400),
        release_within: Span::secs(3600),
        look: Span::millis(200),
        judge: judge::Config::default(),
        history: HistoryPlan {
            least: Span::secs(1800),
            block: Span::secs(300),
            pod_minutes: 0,
        },
        on_undecided: OnUndecided::Gate,
        no_data: NoDataPlan {
            source_down: rule(NoDataAction::Return),
            canary_silent: rule(NoDataAction::Rollback),
            both_silent: rule(NoDataAction::Hold),
        },
        on_new_revision: OnNewRevision::Supersede,
        windows: serde_json::from_value(json!({
            "open": [{"days": ["mon"], "from": "09:00", "to": "16:30", "zone": "Europe/Berlin"}],
        }))
        .expect("windows"),
        hooks: Vec::new(),
        notify: Vec::new(),
    }
}

pub(in crate::store) fn new_release(rollout: &str, version: &str) -> NewRelease {
    NewRelease {
        rollout: rollout.to_owned(),
        canary: revision(version),
        plan: plan(rollout),
        by: Actor {
            user: "ann".to_owned(),
            groups: vec!["payments".to_owned()],
            from: None,
        },
        reason: Some("the 'quick' fix; \"1.4.2\"".to_owned()),
        pipeline: Pipeline {
            commit: Some("3fa9c1e".to_owned()),
            ..Pipeline::default()
        },
        deploy_window: Some(true),
    }
}

/// A judge that has seen something, with its verdict: logarithms of all sizes, and an infinity if a metric has no
/// weight.
pub(in crate::store) fn judged(total: f64, bad: f64, weight: f64) -> (JudgeRecord, Box<Verdict>) {
    let mut config = judge::Config::default();
    for metric in &mut config.metrics {
        metric.weight = weight;
    }
    let mut judge = Judge::new(config, None);
    judge.start_stage(0, 1.0, 0.2);
    let mut verdict = None;
    for look in 1..=4 {
        let seen = |bad| Some(Increment::Counts { total, bad });
        let errors = Sides {
            canary: seen(bad),
            stable: seen(bad / 3.0),
        };
        let observation = Observation {
            metrics: BTreeMap::from([("errors".to_owned(), errors)]),
        };
        verdict = Some(judge.look(f64::from(look) * 7.3, &observation));
    }
    (JudgeRecord { judge, stage: 0 }, Box::new(verdict.expect("four looks")))
}

/// Drives one release of a store, as a controller would.
struct Drive {
    store: SqliteStore,
    key: ReleaseKey,
    plan: Plan,
    state: State,
    epoch: u64,
}

impl Drive {
    fn begin(store: &SqliteStore, rollout: &str, version: &str) -> Self {
        let new = new_release(rollout, version);
        let key = store.create_release(&new, Beside::Nothing, at(0)).expect("created");
        Self {
            store: store.clone(),
            key,
            plan: new.plan,
            state: State::new(at(0)),
            epoch: 1,
        }
    }

    /// The update that these events make, which is not written.
    fn update(&mut self, events: &[Event]) -> Update {
        let entries = events.iter().map(|event| {
            let number = self.state.next_entry;
            let now = at(i64::try_from(number).expect("small"));
            self.state = apply(&self.plan, &self.state, event, now).expect("a legal move");
            Entry {
                number,
                at: now,
                event: event.clone(),
                reason: format!("because of {number}"),
                cause: Cause::Person(Actor::named("ann")),
                verdict: number.is_multiple_of(3).then(|| judged(100.0, 7.0, 1.0).1),
            }
        });
        let entries = entries.collect();
        Update {
            state: self.state.clone(),
            entries,
            judge: None,
            verdict: None,
            course: None,
        }
    }

    fn write(&self, update: &Update) -> Result<(), StoreError> {
        let words = Words::of(update).expect("words");
        self.store.record_words(&self.key, self.epoch, &words)
    }

    fn go(&mut self, events: &[Event]) -> Update {
        let update = self.update(events);
        self.write(&update).expect("written");
        update
    }

    fn load(&self) -> ReleaseRecord {
        self.store.release(&self.key).expect("a record")
    }

    /// To the moment before the hand over.
    fn reach_the_bake(&mut self) {
        self.go(&[Event::Admitted, Event::Ready, Event::SmokePassed]);
        let by = Actor::named("ann");
        self.go(&[Event::GateOpened { command: 1, by }, Event::Prepared]);
        let passed = Event::StageEnded { proof: Proof::Passed };
        self.go(&[Event::Shifted { restarts: 0 }, passed, Event::Prepared]);
        self.go(&[Event::Shifted { restarts: 1 }]);
    }

    fn promote(&mut self) {
        self.reach_the_bake();
        let proof = Proof::NotJudged;
        self.go(&[Event::StageEnded { proof }, Event::Adopted]);
        self.go(&[Event::StableDrained, Event::Retired]);
    }

    fn retreat(&mut self, outcome: Outcome) {
        let reason = "errors 30 %".to_owned();
        self.go(&[Event::Admitted]);
        self.go(&[Event::Retreated {
            command: None,
            outcome,
            reason,
        }]);
        self.go(&[
            Event::RouteRestored,
            Event::CanaryDrained,
            Event::CanaryRemoved,
            Event::Restored,
        ]);
    }
}

/// An old release that did something, and a new one that runs.
fn with_history(store: &SqliteStore) -> Drive {
    Drive::begin(store, "shop", "1.0").promote();
    let mut drive = Drive::begin(store, "shop", "1.1");
    store
        .add_command(
            &drive.key,
            CommandKind::Approve,
            &Actor::named("bob"),
            Some("ok"),
            at(3),
        )
        .expect("added");
    drive.reach_the_bake();
    let (judge, verdict) = judged(1000.0, 13.0, 1.0);
    let mut update = drive.update(&[]);
    update.judge = Some(judge);
    update.verdict = Some(verdict);
    drive.write(&update).expect("written");
    drive
}

fn sql(store: &SqliteStore, text: &str) {
    store.connection().execute_batch(text).expect("legal SQL");
}
