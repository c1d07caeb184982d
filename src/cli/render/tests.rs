//! Golden pictures: what an operator sees, whole.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::chart::{chart, since_start};
use super::evidence::{figures, range, whole};
use super::status::{head, history, service, services};
use super::table::table;
use super::timeline::{Context, Timeline, record_lines};
use super::why::why;
use super::{Line, Tone};
use crate::daemon::api::{InstanceView, RevisionView, RolloutView, Started};
use crate::daemon::views::summary;
use crate::engine::{Actor, Cause, Entry, Event, Outcome, Phase, Proof, TrafficOn, replay};
use crate::judge::verdict::{Counts, MetricEvidence, Seen};
use crate::judge::{Call, Course, Interval, Sides, Verdict};
use crate::plan::{Circumstances, Plan, Split, lower};
use crate::spec::{Weight, read_rollout, resolve};
use crate::store::{Pipeline, ReleaseKey, ReleaseRecord, Revision};

mod verdicts;

const ROLLOUT: &str = "\
apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {name: checkout}
spec:
  workload: {process: {command: [./checkout], port: auto, instances: 4}}
  traffic: {listen: 127.0.0.1:8080}
  strategy: {canary: {steps: [{weight: 5%, min: 1m, max: 5m}, {weight: 50%, max: 5m}], bake: 5m}}
  gates: [{before: 50%, approvers: [\"group:payments\"]}]
";

fn plan() -> Plan {
    let rollout = read_rollout(ROLLOUT, "checkout.yaml").unwrap();
    let resolved = resolve(&rollout, &BTreeMap::new()).unwrap();
    let around = Circumstances::default();
    lower(
        "checkout",
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        &around,
    )
}

fn started() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn revision(version: &str, id: &str) -> Revision {
    Revision {
        id: id.to_owned(),
        version: version.to_owned(),
        variables: BTreeMap::from([("version".to_owned(), version.to_owned())]),
        workload: serde_json::Value::Null,
    }
}

/// Errors on both sides: (bad, total) of canary and stable.
fn verdict(call: Call, canary: (f64, f64), stable: (f64, f64), ln_e: f64, reason: &str) -> Verdict {
    let sides = Sides {
        canary: Counts::new(canary.1, canary.0),
        stable: Counts::new(stable.1, stable.0),
    };
    Verdict {
        call,
        suspicious: call == Call::Fail,
        tripped: false,
        evidence: ln_e,
        needed: 100f64.ln(),
        blame: (call == Call::Fail).then(|| "errors".to_owned()),
        reason: reason.to_owned(),
        metrics: vec![MetricEvidence {
            name: "errors".to_owned(),
            ln_e,
            odds: ln_e.exp(),
            pass_ln_p: None,
            phi: 1.0,
            ratio: sides
                .canary
                .rate
                .zip(sides.stable.rate)
                .map(|(canary, stable)| canary / stable),
            interval: Some(Interval {
                confidence: 0.95,
                low: Some(171.0),
                high: None,
            }),
            smallest_ratio: Some(1.62),
            dropped: 0,
            source: Some("the router's own counters".to_owned()),
            examples: Vec::new(),
            seen: Seen::Errors {
                release: sides,
                stage: sides,
                max_ratio: None,
            },
        }],
    }
}

/// The way to the last of these verdicts, as looks every second of a minute would have left it.
fn course(verdicts: &[(u64, Verdict)]) -> Course {
    let mut course = Course::default();
    let Some((_, last)) = verdicts.last() else {
        return course;
    };
    for second in 0..30 {
        let share = f64::from(second + 1) / 30.0;
        let mut verdict = last.clone();
        verdict.evidence *= share * share;
        for metric in &mut verdict.metrics {
            if let Seen::Errors { release, .. } = &mut metric.seen {
                for (side, late) in [(&mut release.canary, share), (&mut release.stable, 1.0)] {
                    *side = Counts::new(side.total * share, side.bad * share * late);
                }
            }
        }
        course.push(14.0 + f64::from(second), &verdict);
    }
    course
}

/// A release of 1.4.2 over 1.4.1 with these events: seconds, event, reason.
fn release(events: Vec<(i64, Event, &str)>, verdicts: &[(u64, Verdict)]) -> ReleaseRecord {
    let history: Vec<Entry> = (1..)
        .zip(events)
        .map(|(number, (secs, event, reason))| Entry {
            number,
            at: started() + SignedDuration::from_secs(secs),
            event,
            reason: reason.to_owned(),
            cause: Cause::Engine,
            verdict: verdicts
                .iter()
                .find(|(of, _)| *of == number)
                .map(|(_, verdict)| Box::new(verdict.clone())),
        })
        .collect();
    let plan = plan();
    let state = replay(&plan, started(), &history).unwrap();
    let over = state.outcome().is_some();
    ReleaseRecord {
        key: ReleaseKey {
            rollout: "checkout".to_owned(),
            number: 57,
        },
        canary: revision("1.4.2", "a1b2c3d4e5f6"),
        stable: Some(revision("1.4.1", "0f1e2d3c4b5a")),
        plan,
        ended: history.last().filter(|_| over).map(|entry| entry.at),
        state,
        history,
        judge: None,
        verdict: verdicts.last().map(|(_, verdict)| Box::new(verdict.clone())),
        course: course(verdicts),
        by: Actor::named("ann"),
        reason: Some("faster carts".to_owned()),
        deploy_window: None,
        pipeline: Pipeline {
            commit: Some("3fa9c1e".to_owned()),
            author: Some("Bob <bob@example.com>".to_owned()),
            url: Some("https://ci.example.com/7".to_owned()),
            traceparent: None,
        },
        created: started(),
    }
}

const PASS: &str = "proven after 1m 1s: no worse than allowed: errors canary 12 of 13,360 (0.09 %), stable 260 of 259,000 (0.1 %); next: 50%";
const FAIL: &str =
    "errors: canary 412 of 1,360 (30.3 %), stable 26 of 25,900 (0.1 %); evidence 3,100 to 1, needed 100 to 1";

fn beginning() -> Vec<(i64, Event, &'static str)> {
    vec![
        (0, Event::Admitted, "release begins"),
        (7, Event::Ready, "1 instance ready for 5s"),
        (9, Event::SmokePassed, "smoke tests passed: 2 of 2"),
        (12, Event::Prepared, "1 instance ready"),
        (14, Event::Shifted { restarts: 0 }, "5% confirmed by the router"),
    ]
}

fn promoted() -> ReleaseRecord {
    let ann = || Actor::named("ann");
    let mut events = beginning();
    events.extend([
        (75, Event::StageEnded { proof: Proof::Passed }, PASS),
        (
            80,
            Event::Refused { command: 1 },
            "approve by eve not followed: the gate before 50% is opened by group:payments",
        ),
        (
            95,
            Event::GateOpened { command: 2, by: ann() },
            "approved by ann (looked at it)",
        ),
        (99, Event::Prepared, "2 instances ready"),
        (100, Event::Shifted { restarts: 0 }, "50% confirmed by the router"),
        (
            120,
            Event::Paused { command: 3, by: ann() },
            "paused by ann; a failing verdict still goes back",
        ),
        (150, Event::Resumed { command: 4 }, "resumed by ann"),
        (
            430,
            Event::StageEnded { proof: Proof::Unproven },
            "time is up after 5m without proof (undecided); going on, unproven; next: 100%",
        ),
        (432, Event::Prepared, "4 instances ready"),
        (433, Event::Shifted { restarts: 0 }, "100% confirmed by the router"),
        (
            733,
            Event::StageEnded {
                proof: Proof::NotJudged,
            },
            "bake over after 5m; next: hand over",
        ),
        (734, Event::Adopted, "the new revision is the one that serves now"),
        (736, Event::StableDrained, "the old revision's requests have finished"),
        (3737, Event::Retired, "promoted, unproven"),
    ]);
    let seen = verdict(Call::Pass, (12.0, 13_360.0), (260.0, 259_000.0), -3.0, PASS);
    release(events, &[(6, seen)])
}

fn rolled_back() -> ReleaseRecord {
    let mut events = beginning();
    let outcome = Outcome::RolledBack;
    events.extend([
        (
            41,
            Event::Retreated {
                command: None,
                outcome,
                reason: FAIL.to_owned(),
            },
            FAIL,
        ),
        (
            42,
            Event::RouteRestored,
            "all traffic is on stable, confirmed by the router",
        ),
        (47, Event::CanaryDrained, "the canary's requests have finished"),
        (48, Event::CanaryRemoved, "the canary is gone"),
        (49, Event::Restored, "everything is as it was before the release"),
    ]);
    release(
        events,
        &[(
            6,
            verdict(Call::Fail, (412.0, 1_360.0), (26.0, 25_900.0), 3_149f64.ln(), FAIL),
        )],
    )
}

fn told(record: &ReleaseRecord) -> String {
    record_lines(record).iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_release_that_is_promoted() {
    insta::assert_snapshot!(told(&promoted()));
}

#[test]
fn a_release_that_is_rolled_back() {
    insta::assert_snapshot!(told(&rolled_back()));
}

#[test]
fn a_release_that_gets_stuck_on_the_way_back() {
    let mut events = beginning();
    let outcome = Outcome::Aborted;
    let reason = "aborted by ann: customers call".to_owned();
    events.extend([
        (
            20,
            Event::Retreated {
                command: Some(1),
                outcome,
                reason,
            },
            "aborted by ann: customers call",
        ),
        (
            90,
            Event::GotStuck {
                traffic_on: TrafficOn::Unknown,
            },
            "the way back does not come to an end after 1m 10s; the platform cannot be observed",
        ),
    ]);
    insta::assert_snapshot!(told(&release(events, &[])));
}

#[test]
fn the_whole_record_as_a_person_reads_it() {
    insta::assert_snapshot!(why(&rolled_back(), &TimeZone::UTC, false));
}

#[test]
fn the_last_line_names_the_exit_code_where_something_exits() {
    let record = rolled_back();
    let mut timeline = Timeline::new(Context::of(&record)).with_exit(|_| 3);
    let last = record
        .history
        .iter()
        .flat_map(|entry| timeline.entry(entry))
        .last()
        .unwrap();
    let expected = "00:49  ROLLED BACK  412 failed answers · 1.4.1 serves · wade why checkout 57     (exit 3)";
    assert_eq!(last.to_string(), expected);
}

#[test]
fn a_look_shows_both_sides_and_what_is_waited_for() {
    let record = release(beginning(), &[]);
    let mut timeline = Timeline::new(Context::of(&record));
    let verdict = verdict(Call::Undecided, (1.0, 1_000.0), (9.0, 19_000.0), 0.4, "undecided");
    let at = started() + SignedDuration::from_secs(31);
    let look = timeline.look(at, &Phase::Analysing { stage: 0 }, "undecided: too few", Some(&verdict));
    assert_eq!(
        look.to_string(),
        "00:31    5 %     errors 0.1 % : 0.05 %   undecided: too few"
    );
    let look = timeline.look(at, &Phase::Starting, "starting the new revision", None);
    assert_eq!(look.to_string(), "00:31  …         starting the new revision");
}

#[test]
fn an_entry_out_of_order_is_told_and_not_lost() {
    let record = rolled_back();
    let mut timeline = Timeline::new(Context::of(&record));
    let lines = timeline.entry(&record.history[6]);
    assert!(
        lines[0]
            .text
            .starts_with("all traffic is on stable, confirmed by the router (entry 7: "),
        "{lines:?}"
    );
}

#[test]
fn services_and_releases_in_lists() {
    let releases = [summary(&rolled_back()), summary(&promoted())];
    let instance = |slot, port, state: &str, diagnosis: Option<&str>| InstanceView {
        slot,
        pid: Some(4_000 + slot),
        port: Some(port),
        state: state.to_owned(),
        restarts: u32::from(diagnosis.is_some()) * 2,
        diagnosis: diagnosis.map(str::to_owned),
    };
    let view = RolloutView {
        name: "checkout".to_owned(),
        listen: Some("127.0.0.1:8080".to_owned()),
        split: Split::weight(Weight::from_permille(50).unwrap()),
        stable: Some(RevisionView {
            id: "0f1e2d3c4b5a".to_owned(),
            version: "1.4.1".to_owned(),
            ready: 1,
            wanted: 1,
            requests: 25_900,
            errors: 26,
            instances: vec![instance(0, 40_001, "ready", None)],
        }),
        canary: Some(RevisionView {
            id: "a1b2c3d4e5f6".to_owned(),
            version: "1.4.2".to_owned(),
            ready: 0,
            wanted: 1,
            requests: 3,
            errors: 3,
            instances: vec![instance(1, 40_002, "backoff", Some("it exits\nwith 1 \u{1b}[31m"))],
        }),
        release: Some(summary(&release(beginning(), &[]))),
        quarantined: BTreeMap::from([("beef".to_owned(), "errors: 50 %".to_owned())]),
    };
    let idle = RolloutView {
        name: "idle".to_owned(),
        listen: None,
        split: Split::default(),
        stable: None,
        canary: None,
        release: None,
        quarantined: BTreeMap::new(),
    };
    insta::assert_snapshot!(
        [
            services(&[view.clone(), idle]),
            service(&view, &TimeZone::UTC),
            history(&releases, &TimeZone::UTC),
            services(&[]),
            history(&[], &TimeZone::UTC),
        ]
        .join("----\n")
    );
}

#[test]
fn the_head_of_a_release_says_how_to_go_back() {
    let key = ReleaseKey {
        rollout: "checkout".to_owned(),
        number: 57,
    };
    let mut started = Started {
        release: Some(key),
        found: vec![
            "requests come in on 127.0.0.1:8080".to_owned(),
            "stable is 1.4.1".to_owned(),
        ],
        plan: "checkout by careful: 5% → 100%\n  start    ready within 5m\n".to_owned(),
        stable: Some("1.4.1".to_owned()),
        canary: "1.4.2".to_owned(),
    };
    let expected = "\
checkout 1.4.1 → 1.4.2   release 57
found    requests come in on 127.0.0.1:8080
         stable is 1.4.1
plan     checkout by careful: 5% → 100%
           start    ready within 5m
go back  wade abort checkout
";
    assert_eq!(head("checkout", "", &started), expected);
    started.release = None;
    started.found = vec!["revision 1.4.2 serves already; nothing to do".to_owned()];
    assert_eq!(
        head("checkout", "", &started),
        "checkout 1.4.2\nfound    revision 1.4.2 serves already; nothing to do\n"
    );
}

#[test]
fn figures_are_short_and_leave_out_what_nobody_saw() {
    let nothing = verdict(Call::Undecided, (0.0, 0.0), (0.0, 0.0), 0.0, "undecided");
    assert_eq!(figures(&nothing), "");
    let one_side = verdict(Call::Undecided, (0.0, 0.0), (1.0, 100.0), 0.0, "undecided");
    assert_eq!(figures(&one_side), "errors – : 1 %");
}

#[test]
fn colour_is_only_around_the_label_and_several_lines_stay_in_their_column() {
    let line = Line::new(SignedDuration::from_secs(1), Tone::Bad, "FAIL", "it exits:\nboom\u{7}");
    assert_eq!(line.to_string(), "00:01  FAIL      it exits:\n                 boom");
    assert_eq!(
        line.styled(),
        "00:01  \u{1b}[1m\u{1b}[31mFAIL\u{1b}[0m      it exits:\n                 boom"
    );
    assert_eq!(Line::aside(Tone::Plain, "", "").to_string(), "");
}

#[test]
fn a_table_is_aligned_and_has_no_trailing_spaces() {
    let rows = [
        vec!["1".to_owned(), "a\nb".to_owned()],
        vec!["10".to_owned(), String::new()],
    ];
    assert_eq!(table(&["N", "WHAT"], &rows), "N   WHAT\n1   a b\n10\n");
}
