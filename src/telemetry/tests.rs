//! What is told of releases, from stories that the engine's own table allows.

mod boards;
mod jaeger;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::events::Speaker;
use super::*;
use crate::apiserver::ApiServer;
use crate::apiserver::testing::FakeServer;
use crate::engine::{Actor, Cause, Entry, Event, NoData, Outcome, Proof, State, TrafficOn, apply};
use crate::judge::{Call, Verdict};
use crate::plan::{Circumstances, Plan, lower};
use crate::spec::{read_rollout, resolve};
use crate::store::{Pipeline, ReleaseKey, Revision};

fn plan() -> Plan {
    let text = "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {name: checkout}\nspec:\n  \
         workload: {process: {command: [./shop], port: auto, instances: 4}}\n  \
         traffic: {listen: \"127.0.0.1:0\"}\n  \
         strategy: {canary: {steps: [{weight: 10%, min: 10s, max: 60s}, {weight: 50%, min: 10s, max: 60s}], bake: 20s}}\n  \
         smoke: [{http: /healthz}]\n";
    let rollout = read_rollout(text, "checkout.yaml").expect("a rollout");
    let resolved = resolve(&rollout, &BTreeMap::new()).expect("a strategy");
    lower(
        "checkout",
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        &Circumstances::default(),
    )
}

pub(super) fn verdict(call: Call, evidence: f64) -> Verdict {
    Verdict {
        call,
        suspicious: false,
        tripped: false,
        evidence,
        needed: 4.0,
        blame: None,
        reason: "30 % of the answers fail".to_owned(),
        metrics: Vec::new(),
    }
}

/// A release that goes on by events, a second after the other.
pub(super) struct Story {
    pub(super) about: About,
    pub(super) now: Timestamp,
    state: State,
    sender: broadcast::Sender<Notice>,
}

impl Story {
    pub(super) fn of(rollout: &str, number: u64, started: Timestamp) -> Self {
        let revision = |version: &str| Revision {
            id: format!("id-{version}"),
            version: version.to_owned(),
            variables: BTreeMap::new(),
            workload: serde_json::Value::Null,
        };
        let state = State::new(started);
        let record = ReleaseRecord {
            key: ReleaseKey {
                rollout: rollout.to_owned(),
                number,
            },
            canary: revision("1.4.2"),
            stable: Some(revision("1.4.1")),
            plan: plan(),
            state: state.clone(),
            history: Vec::new(),
            judge: None,
            verdict: None,
            course: Default::default(),
            by: Actor::named("ci"),
            reason: None,
            deploy_window: None,
            pipeline: Pipeline::default(),
            created: started,
            ended: None,
        };
        Self {
            about: About {
                namespace: Some("shop".to_owned()),
                record,
            },
            now: started,
            state,
            sender: broadcast::channel(256).0,
        }
    }

    /// Follows it from here; nobody hears of it before.
    pub(super) fn follow(&self, telemetry: &Arc<Telemetry>, events: Option<EventSink>) -> tokio::task::JoinHandle<()> {
        let mut about = self.about.clone();
        about.record.state = self.state.clone();
        tokio::spawn(follow(Arc::clone(telemetry), about, self.sender.subscribe(), events))
    }

    pub(super) fn go(&mut self, event: Event, reason: &str) -> Notice {
        self.now += SignedDuration::from_secs(1);
        let entry = Entry {
            number: self.state.next_entry,
            at: self.now,
            event,
            reason: reason.to_owned(),
            cause: Cause::Engine,
            verdict: None,
        };
        self.state = apply(&self.about.record.plan, &self.state, &entry.event, self.now).expect("a legal move");
        self.about.record.history.push(entry.clone());
        let notice = Notice::Entry {
            key: self.about.record.key.clone(),
            entry,
            phase: self.state.phase.clone(),
        };
        // Nobody may be listening yet.
        let _ = self.sender.send(notice.clone());
        notice
    }

    pub(super) fn look(&mut self, verdict: Option<Verdict>) {
        self.now += SignedDuration::from_secs(1);
        let _ = self.sender.send(Notice::Look {
            key: self.about.record.key.clone(),
            at: self.now,
            phase: self.state.phase.clone(),
            waiting_for: "time".to_owned(),
            verdict: verdict.map(Box::new),
        });
    }

    pub(super) fn trouble(&mut self, message: &str) -> Notice {
        self.now += SignedDuration::from_secs(1);
        let notice = Notice::Trouble {
            key: self.about.record.key.clone(),
            at: self.now,
            message: message.to_owned(),
        };
        let _ = self.sender.send(notice.clone());
        notice
    }

    /// To users on the first stage.
    pub(super) fn reach_users(&mut self) {
        self.go(Event::Admitted, "it may begin");
        self.go(Event::Ready, "ready for 5 s");
        self.go(Event::SmokePassed, "1 smoke test passed");
        self.go(Event::Prepared, "1 instance is enough for 10 %");
        self.go(Event::Shifted { restarts: 0 }, "10 % is in force");
    }

    pub(super) fn roll_back(&mut self) {
        let reason = "30 % of the answers fail".to_owned();
        let (command, outcome) = (None, Outcome::RolledBack);
        let words = reason.clone();
        self.go(
            Event::Retreated {
                command,
                outcome,
                reason,
            },
            &words,
        );
        self.go(Event::RouteRestored, "all traffic is on stable");
        self.go(Event::CanaryDrained, "drained");
        self.go(Event::CanaryRemoved, "removed");
        self.go(Event::Restored, "everything is as before");
    }

    pub(super) fn promote(&mut self) {
        let passed = || Event::StageEnded { proof: Proof::Passed };
        self.go(passed(), "within what is allowed");
        self.go(Event::Prepared, "2 instances");
        self.go(Event::Shifted { restarts: 0 }, "50 % is in force");
        self.go(passed(), "within what is allowed");
        self.go(Event::Prepared, "4 instances");
        self.go(Event::Shifted { restarts: 0 }, "100 % is in force");
        self.go(
            Event::StageEnded {
                proof: Proof::NotJudged,
            },
            "baked",
        );
        self.go(Event::Adopted, "adopted");
        self.go(Event::StableDrained, "drained");
        self.go(Event::Retired, "1.4.2 serves");
    }
}

pub(super) fn begin() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

/// Until the follower has read everything that was sent.
pub(super) async fn caught_up(seen: impl Fn() -> bool) {
    let watch = crate::clock::stopwatch();
    while !seen() {
        assert!(
            watch.elapsed() < Duration::from_secs(10),
            "the follower does not get there"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn quiet() -> Arc<Telemetry> {
    Telemetry::new(Settings::default())
}

const OWN: [&str; 2] = ["shop", "checkout"];

#[tokio::test]
async fn a_release_that_goes_back_is_counted_from_its_begin_to_its_end() {
    let telemetry = quiet();
    let get = |metric, labels: &[&str]| telemetry.registry().get(metric, labels);
    let mut story = Story::of("checkout", 57, begin());
    let following = story.follow(&telemetry, None);
    story.reach_users();
    story.look(Some(verdict(Call::Undecided, 1.0)));
    story.look(Some(verdict(Call::Fail, 5.0)));
    caught_up(|| get(list::VERDICTS, &["shop", "checkout", "fail"]) == Some(1.0)).await;
    assert_eq!(get(list::PHASE, &["shop", "checkout", "analysing"]), Some(1.0));
    assert_eq!(
        get(list::PHASE, &["shop", "checkout", "shifting"]),
        None,
        "it was there"
    );
    assert_eq!(get(list::WEIGHT, &OWN), Some(0.1));
    assert_eq!(get(list::STAGE, &OWN), Some(1.0));
    assert_eq!(get(list::STAGES, &OWN), Some(3.0));
    assert_eq!(get(list::NUMBER, &OWN), Some(57.0));
    assert_eq!(get(list::EVIDENCE, &OWN), Some(1.25));
    assert_eq!(get(list::RUNNING, &[]), Some(1.0));
    assert_eq!(
        get(list::ENDED, &["shop", "checkout", "RolledBack"]),
        Some(0.0),
        "so that 1 is an increase"
    );
    story.roll_back();
    following.await.expect("no panic");
    assert_eq!(get(list::BEGUN, &OWN), Some(1.0));
    assert_eq!(get(list::ENDED, &["shop", "checkout", "RolledBack"]), Some(1.0));
    assert_eq!(get(list::ENDED, &["shop", "checkout", "Promoted"]), Some(0.0));
    assert_eq!(get(list::RESTORED_SECONDS, &[]), Some(1.0));
    assert!(telemetry.render().contains("wade_release_restored_seconds_sum 1\n"));
    assert_eq!(get(list::DURATION, &["RolledBack"]), Some(1.0));
    assert_eq!(get(list::PHASE_SECONDS, &["analysing"]), Some(1.0));
    assert_eq!(get(list::RUNNING, &[]), Some(0.0));
    for gauge in [list::WEIGHT, list::NUMBER, list::STUCK, list::STAGE] {
        assert_eq!(get(gauge, &OWN), None, "{} of a release that is over", gauge.name);
    }
}

#[tokio::test]
async fn silence_is_counted_while_it_lasts_and_being_stuck_is_shown() {
    let telemetry = quiet();
    let get = |metric, labels: &[&str]| telemetry.registry().get(metric, labels);
    let mut story = Story::of("checkout", 57, begin());
    let following = story.follow(&telemetry, None);
    story.reach_users();
    story.go(
        Event::SignalsLost {
            kind: NoData::SourceDown,
        },
        "the source is down",
    );
    story.look(None);
    story.look(None);
    let labels = ["shop", "checkout", "sourceDown"];
    caught_up(|| get(list::NO_DATA_SECONDS, &labels) == Some(2.0)).await;
    assert_eq!(get(list::NO_DATA_NOW, &OWN), Some(1.0));
    story.go(Event::SignalsBack, "back");
    caught_up(|| get(list::NO_DATA_NOW, &OWN) == Some(0.0)).await;
    assert_eq!(get(list::NO_DATA_SECONDS, &labels), Some(3.0));
    story.go(
        Event::Retreated {
            command: Some(4),
            outcome: Outcome::Aborted,
            reason: "enough".to_owned(),
        },
        "enough",
    );
    story.go(
        Event::GotStuck {
            traffic_on: TrafficOn::Canary,
        },
        "the router does not answer",
    );
    story.trouble("the API server does not answer");
    caught_up(|| get(list::TROUBLES, &OWN) == Some(1.0)).await;
    assert_eq!(get(list::STUCK, &OWN), Some(1.0));
    assert_eq!(get(list::COMMANDS_SEEN, &["abort"]), Some(1.0));
    // Nobody carries it here any more.
    drop(story);
    following.await.expect("no panic");
    assert_eq!(get(list::STUCK, &OWN), None, "whoever carries it on says so");
    assert_eq!(
        get(list::ENDED, &["shop", "checkout", "Aborted"]),
        Some(0.0),
        "it is not over"
    );
}

#[tokio::test]
async fn rollouts_beyond_the_limit_are_counted_together_and_that_is_said() {
    let telemetry = Telemetry::new(Settings {
        most_rollouts: 2,
        ..Settings::default()
    });
    for rollout in ["a", "b", "c", "d", "c"] {
        let mut story = Story::of(rollout, 1, begin());
        let following = story.follow(&telemetry, None);
        story.reach_users();
        story.roll_back();
        following.await.expect("no panic");
    }
    let get = |metric, labels: &[&str]| telemetry.registry().get(metric, labels);
    assert_eq!(get(list::ENDED, &["shop", "b", "RolledBack"]), Some(1.0));
    assert_eq!(get(list::ENDED, &["shop", "c", "RolledBack"]), None);
    assert_eq!(get(list::ENDED, &["other", "other", "RolledBack"]), Some(3.0));
    assert_eq!(get(list::OTHER, &[]), Some(2.0));
}

#[tokio::test]
async fn what_was_known_before_following_is_not_counted_again() {
    let telemetry = quiet();
    let mut story = Story::of("checkout", 57, begin());
    story.reach_users();
    let following = story.follow(&telemetry, None);
    story.promote();
    following.await.expect("no panic");
    let get = |metric, labels: &[&str]| telemetry.registry().get(metric, labels);
    assert_eq!(get(list::BEGUN, &OWN), Some(0.0), "whoever let it begin counted it");
    assert_eq!(get(list::ENDED, &["shop", "checkout", "Promoted"]), Some(1.0));
    assert_eq!(get(list::UNPROVEN, &OWN), Some(0.0));
}

/// What an Event would say of each notice: its reason, and whether it is a warning.
fn told(about: &About, notices: &[Notice]) -> Vec<String> {
    let mut progress = Progress::of(about);
    let mut speaker = Speaker::about(about);
    let said = notices.iter().filter_map(|notice| {
        Some(match speaker.of(&progress.see(notice)?) {
            Words::Say(said) => format!(
                "{}{}: {}",
                if said.is_warning { "! " } else { "" },
                said.reason,
                said.message
            ),
            Words::Drop => "-".to_owned(),
            Words::Nothing => return None,
        })
    });
    said.collect()
}

#[test]
fn events_tell_the_story_once_and_without_secrets() {
    let mut story = Story::of("checkout", 57, begin());
    let about = story.about.clone();
    let mut notices = vec![
        story.go(Event::Admitted, "it may begin"),
        story.go(Event::Ready, "ready for 5 s"),
        story.go(Event::SmokePassed, "1 smoke test passed"),
        story.go(Event::Prepared, "1 instance is enough"),
        story.go(Event::Shifted { restarts: 0 }, "10 % is in force"),
        story.trouble("cannot reach http://u:hunter2@host/"),
        story.trouble("cannot reach http://u:hunter2@host/"),
    ];
    let reason = "30 % of the answers fail".to_owned();
    let (command, outcome) = (None, Outcome::RolledBack);
    notices.push(story.go(
        Event::Retreated {
            command,
            outcome,
            reason,
        },
        "30 % of the answers fail",
    ));
    notices.push(story.go(Event::RouteRestored, "all traffic is on stable"));
    notices.push(story.go(Event::CanaryDrained, "drained"));
    notices.push(story.go(Event::CanaryRemoved, "removed"));
    notices.push(story.go(Event::Restored, "everything is as before"));
    assert_eq!(
        told(&about, &notices),
        [
            "ReleaseBegan: release 57 (1.4.1 → 1.4.2): it may begin",
            "StageBegan: release 57 (1.4.1 → 1.4.2): 10 % is in force",
            "! ReleaseTrouble: release 57 (1.4.1 → 1.4.2): cannot reach http://…@host/",
            "-",
            "! GoingBack: release 57 (1.4.1 → 1.4.2): 30 % of the answers fail",
            "! RolledBack: release 57 (1.4.1 → 1.4.2): everything is as before",
        ]
    );
}

#[test]
fn a_flood_is_cut_but_never_the_way_back() {
    let mut story = Story::of("checkout", 57, begin());
    let about = story.about.clone();
    let mut notices: Vec<Notice> = vec![story.go(Event::Admitted, "it may begin")];
    for number in 0..60 {
        notices.push(story.trouble(&format!("trouble {number}")));
    }
    let reason = "enough".to_owned();
    let (command, outcome) = (None, Outcome::Returned);
    notices.push(story.go(
        Event::Retreated {
            command,
            outcome,
            reason,
        },
        "enough",
    ));
    let told = told(&about, &notices);
    let troubles = told.iter().filter(|line| line.contains("ReleaseTrouble")).count();
    // A burst, and what a minute gives back.
    assert_eq!(troubles, 19 + 2, "{told:?}");
    assert!(told.last().is_some_and(|line| line.contains("GoingBack")), "{told:?}");
}

/// An API server with the Deployment and the Rollout.
fn server() -> (FakeServer, EventSink) {
    let server = FakeServer::new();
    server.put(
        "/apis/apps/v1/namespaces/shop/deployments/checkout",
        json!({"metadata": {"name": "checkout"}}),
    );
    server.put(
        "/apis/wade.dev/v1alpha1/namespaces/shop/rollouts/checkout",
        json!({"metadata": {"name": "checkout"}}),
    );
    let api = ApiServer::over(server.client("shop"), "shop");
    (server, EventSink::on(api, "checkout").and_on_rollout("checkout"))
}

#[tokio::test]
async fn events_are_written_on_the_deployment_and_the_rollout_and_only_once() {
    let telemetry = quiet();
    let (server, sink) = server();
    let mut story = Story::of("checkout", 57, begin());
    let following = story.follow(&telemetry, Some(sink.clone()));
    // A second carrier that does not know yet that it is none.
    let other = story.follow(&telemetry, Some(sink));
    story.reach_users();
    story.roll_back();
    following.await.expect("no panic");
    other.await.expect("no panic");
    let events = server.objects("/api/v1/namespaces/shop/events");
    let mut said: Vec<String> = events
        .iter()
        .map(|event| format!("{} {}", event["involvedObject"]["kind"], event["reason"]).replace('"', ""))
        .collect();
    said.sort_unstable();
    let reasons = ["GoingBack", "ReleaseBegan", "RolledBack", "StageBegan"];
    let expected: Vec<String> = ["Deployment", "Rollout"]
        .iter()
        .flat_map(|kind| reasons.map(|reason| format!("{kind} {reason}")))
        .collect();
    assert_eq!(said, expected);
    assert!(
        events.iter().all(|event| event["involvedObject"]["uid"].is_string()),
        "{events:?}"
    );
    assert_eq!(telemetry.registry().get(list::EVENTS, &["ok"]), Some(16.0));
}

#[tokio::test]
async fn an_api_server_that_does_not_permit_events_holds_nothing_up() {
    let telemetry = quiet();
    let mut story = Story::of("checkout", 57, begin());
    let (server, sink) = server();
    let message = "events is forbidden: User cannot create resource";
    let refusal =
        json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": message});
    server.answer(
        http::Method::POST,
        "/api/v1/namespaces/shop/events",
        403,
        &refusal.to_string(),
    );
    let following = story.follow(&telemetry, Some(sink));
    story.reach_users();
    story.roll_back();
    following.await.expect("no panic");
    let get = |metric, labels: &[&str]| telemetry.registry().get(metric, labels);
    assert_eq!(get(list::ENDED, &["shop", "checkout", "RolledBack"]), Some(1.0));
    assert_eq!(
        get(list::EVENTS, &["failed"]),
        Some(8.0),
        "began, stage, back, over, on both"
    );
}

#[test]
fn the_variables_switch_spans_on_and_off() {
    let of = |variables: &[(&str, &str)]| {
        Settings::from_env(|name| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .spans
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    assert!(!of(&[]) && of(&[endpoint]));
    assert!(of(&[(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "http://collector:4318/v1/traces"
    )]));
    assert!(!of(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]));
    assert!(!of(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]));
    assert!(!of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]));
}
