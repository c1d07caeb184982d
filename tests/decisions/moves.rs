//! Every phase with every event: the next phase, or an illegal move. The golden is the table, and documentation.

use std::fmt::Write as _;

use jiff::SignedDuration;
use wade::engine::state::{NoDataSince, Paused};
use wade::engine::{Actor, Event, HandOver, NoData, Outcome, Phase, Proof, Retreat, Return, State, TrafficOn, apply};

use crate::plans::{GATED, plan};
use crate::story::start;

/// `WADE_BLESS=1` writes the golden anew.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/decisions/moves.txt");

/// Every phase of a plan with two stages (the second has a gate) and a bake.
fn phases() -> Vec<(&'static str, Phase)> {
    let why = Retreat {
        outcome: Outcome::RolledBack,
        reason: "errors".to_owned(),
    };
    let back = |part| Phase::Returning(part, why.clone());
    vec![
        ("waiting", Phase::Waiting),
        ("hooks before the start", Phase::BeforeHooks { stage: None }),
        ("starting", Phase::Starting),
        ("smoking", Phase::Smoking),
        ("preparing 10%", Phase::Preparing { stage: 0 }),
        ("shifting 10%", Phase::Shifting { stage: 0 }),
        ("analysing 10%", Phase::Analysing { stage: 0 }),
        ("gated 50%", Phase::Gated { stage: 1 }),
        ("preparing 50%", Phase::Preparing { stage: 1 }),
        ("shifting 50%", Phase::Shifting { stage: 1 }),
        ("analysing 50%", Phase::Analysing { stage: 1 }),
        ("gated 100%", Phase::Gated { stage: 2 }),
        ("hooks before 100%", Phase::BeforeHooks { stage: Some(2) }),
        ("preparing 100%", Phase::Preparing { stage: 2 }),
        ("shifting 100%", Phase::Shifting { stage: 2 }),
        ("baking", Phase::Analysing { stage: 2 }),
        ("adopting", Phase::HandingOver(HandOver::Adopt)),
        ("draining stable", Phase::HandingOver(HandOver::Drain)),
        ("retiring", Phase::HandingOver(HandOver::Retire)),
        ("routing back", back(Return::Route)),
        ("draining canary", back(Return::Drain)),
        ("removing", back(Return::Remove)),
        ("restoring", back(Return::Restore)),
        ("hooks after it", Phase::AfterHooks(Outcome::Promoted { proven: true })),
        ("done", Phase::Done(Outcome::Promoted { proven: true })),
    ]
}

/// Every event; none of these matches has a catch-all, so that a new one has to be put into the table.
fn events() -> Vec<(&'static str, Event)> {
    let by = Actor::named("ann");
    let command = 1;
    let all = vec![
        Event::Admitted,
        Event::HooksEnded,
        Event::Ready,
        Event::SmokePassed,
        Event::GateOpened {
            command,
            by: by.clone(),
        },
        Event::Prepared,
        Event::Shifted { restarts: 0 },
        Event::StageEnded { proof: Proof::Passed },
        Event::StageEnded { proof: Proof::Unproven },
        Event::StageEnded {
            proof: Proof::NotJudged,
        },
        Event::AskedForProof,
        Event::Promoted {
            command,
            by: by.clone(),
            full: false,
        },
        Event::Promoted {
            command,
            by: by.clone(),
            full: true,
        },
        Event::Paused { command, by },
        Event::Resumed { command },
        Event::Refused { command },
        Event::WatchedAgain {
            from: start() + SignedDuration::from_secs(70),
            until: start() + SignedDuration::from_secs(80),
        },
        Event::SignalsLost {
            kind: NoData::SourceDown,
        },
        Event::SignalsBack,
        Event::WouldHave,
        Event::Retreated {
            command: None,
            outcome: Outcome::RolledBack,
            reason: "errors".to_owned(),
        },
        Event::RouteRestored,
        Event::CanaryDrained,
        Event::CanaryRemoved,
        Event::Restored,
        Event::Adopted,
        Event::StableDrained,
        Event::Retired,
        Event::GotStuck {
            traffic_on: TrafficOn::Stable,
        },
        Event::Retried { command },
    ];
    all.into_iter().map(|event| (label(&event), event)).collect()
}

fn label(event: &Event) -> &'static str {
    match event {
        Event::Admitted => "admitted",
        Event::HooksEnded => "hooks ended",
        Event::Ready => "ready",
        Event::SmokePassed => "smoke passed",
        Event::GateOpened { .. } => "gate opened",
        Event::Prepared => "prepared",
        Event::Shifted { .. } => "shifted",
        Event::StageEnded { proof: Proof::Passed } => "stage passed",
        Event::StageEnded { proof: Proof::Unproven } => "stage over, unproven",
        Event::StageEnded {
            proof: Proof::NotJudged,
        } => "stage over, not judged",
        Event::AskedForProof => "asked for proof",
        Event::Promoted { full: false, .. } => "promoted",
        Event::Promoted { full: true, .. } => "promoted in full",
        Event::Paused { .. } => "paused",
        Event::Resumed { .. } => "resumed",
        Event::Refused { .. } => "refused",
        Event::WatchedAgain { .. } => "watched again",
        Event::SignalsLost { .. } => "signals lost",
        Event::SignalsBack => "signals back",
        Event::WouldHave => "would have",
        Event::Retreated { .. } => "retreated",
        Event::RouteRestored => "route restored",
        Event::CanaryDrained => "canary drained",
        Event::CanaryRemoved => "canary removed",
        Event::Restored => "restored",
        Event::Adopted => "adopted",
        Event::StableDrained => "stable drained",
        Event::Retired => "retired",
        Event::GotStuck { .. } => "got stuck",
        Event::Retried { .. } => "retried",
    }
}

fn name(phase: &Phase) -> String {
    let known = phases().into_iter().find(|(_, known)| known == phase);
    known.map_or_else(|| format!("{phase:?}"), |(name, _)| name.to_owned())
}

/// A state in `phase` in which every event that depends on more than the phase is possible.
fn state(phase: &Phase, event: &Event) -> State {
    let since = start() + SignedDuration::from_secs(60);
    let paused = matches!(event, Event::Resumed { .. }).then(|| Paused {
        by: Actor::named("ann"),
        since,
    });
    let no_data = matches!(event, Event::SignalsBack).then_some(NoDataSince {
        kind: NoData::SourceDown,
        since,
    });
    let stuck = matches!(event, Event::Retried { .. }).then_some(TrafficOn::Stable);
    State {
        phase: phase.clone(),
        since,
        paused,
        no_data,
        stuck,
        ..State::new(start())
    }
}

#[test]
fn every_pair_of_phase_and_event_is_in_the_table_or_illegal() {
    let plan = plan(GATED);
    let at = start() + SignedDuration::from_secs(90);
    let mut text = String::from(
        "Which event may happen in which phase, and what follows. Every pair that is not here is an illegal move.\n\
         The plan: 10 %, a gate before 50 %, then 100 % and its bake. `resumed` needs a pause, `signals back` a loss,\n\
         `retried` something stuck.\n",
    );
    for (from, phase) in phases() {
        let _ = writeln!(text, "\n{from}");
        for (label, event) in events() {
            let Ok(next) = apply(&plan, &state(&phase, &event), &event, at) else {
                continue;
            };
            let to = if next.phase == phase {
                "stays".to_owned()
            } else {
                format!("→ {}", name(&next.phase))
            };
            let _ = writeln!(text, "  {label:<24} {to}");
        }
    }
    if std::env::var_os("WADE_BLESS").is_some() {
        std::fs::write(GOLDEN, &text).expect("the golden can be written");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("run with WADE_BLESS=1 to write it");
    assert!(
        text == golden,
        "the table of moves has changed; WADE_BLESS=1 writes it anew, read the difference:\n{text}"
    );
}

#[test]
fn an_event_that_needs_something_to_end_is_illegal_without_it() {
    let plan = plan(GATED);
    for (_, phase) in phases() {
        for event in [
            Event::Resumed { command: 1 },
            Event::SignalsBack,
            Event::Retried { command: 1 },
        ] {
            let state = State {
                phase: phase.clone(),
                ..State::new(start())
            };
            assert!(apply(&plan, &state, &event, start()).is_err(), "{event:?} in {phase:?}");
        }
    }
}

#[test]
fn nothing_moves_a_release_that_is_over() {
    let plan = plan(GATED);
    let done = Phase::Done(Outcome::RolledBack);
    for (label, event) in events() {
        if let Ok(next) = apply(&plan, &state(&done, &event), &event, start()) {
            assert_eq!(next.phase, done, "{label}");
        }
    }
}

#[test]
fn nothing_but_the_end_follows_the_way_back() {
    let plan = plan(GATED);
    for (from, phase) in phases() {
        let Phase::Returning(..) = phase else { continue };
        for (label, event) in events() {
            if let Ok(next) = apply(&plan, &state(&phase, &event), &event, start()) {
                let back = matches!(next.phase, Phase::Returning(..) | Phase::Done(Outcome::RolledBack));
                assert!(back, "{label} leads from {from} to {:?}", next.phase);
            }
        }
    }
}

#[test]
fn an_illegal_move_says_what_where_and_whose_fault() {
    let error = apply(&plan(GATED), &State::new(start()), &Event::Prepared, start()).expect_err("not while waiting");
    assert_eq!(
        error.to_string(),
        "`Prepared` is not a legal move while waiting: the record is damaged, or this is a bug in Wade"
    );
}
