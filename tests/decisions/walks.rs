//! Random walks: arbitrary facts, any strategy, time that jumps. What must hold, holds at every step.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use wade::engine::{
    Action, Actor, Command, CommandKind, Diagnosis, Event, Facts, HookReport, NoData, Phase, Presence, Reading,
    RouteFact, SmokeReport, State, World, decide, replay,
};
use wade::judge::Call;
use wade::plan::{ALL_STABLE, Lane, Plan, Split};
use wade::spec::{HookPoint, Weight};

use crate::plans::{GATED, HOOKED, SHORT, in_lane, plan};
use crate::story::{FULL, start, verdict};

/// What one step of a walk draws; facts are made from it beside the plan and the state.
#[derive(Clone, Debug)]
struct Draw {
    secs: i64,
    dark: bool,
    ready: u32,
    ready_for: Option<i64>,
    none_ready_for: Option<i64>,
    restarts: u32,
    drained: bool,
    diagnosis: Option<bool>,
    route: u8,
    adopted: bool,
    smoke: Option<bool>,
    restored: bool,
    gone: bool,
    judge: u8,
    command: Option<(u8, u8)>,
    newer: bool,
    window: Option<bool>,
}

fn draws() -> impl Strategy<Value = Draw> {
    let often = |likely: f64| proptest::bool::weighted(likely);
    let world = (
        0..=FULL,
        proptest::option::weighted(0.8, 0..30i64),
        proptest::option::weighted(0.05, 0..10i64),
        proptest::sample::select(vec![0, 0, 0, 0, 1, 2]),
        often(0.7),
        proptest::option::weighted(0.04, any::<bool>()),
        0..10u8,
        often(0.7),
    );
    let rest = (
        proptest::option::weighted(0.8, often(0.9)),
        often(0.7),
        often(0.3),
        0..12u8,
        proptest::option::weighted(0.25, (0..7u8, 0..3u8)),
        often(0.02),
        proptest::option::weighted(0.05, often(0.5)),
    );
    (
        proptest::sample::select(vec![0i64, 1, 1, 2, 5, 20, 70, 400]),
        often(0.05),
        world,
        rest,
    )
        .prop_map(|(secs, dark, world, rest)| {
            let (ready, ready_for, none_ready_for, restarts, drained, diagnosis, route, adopted) = world;
            let (smoke, restored, gone, judge, command, newer, window) = rest;
            Draw {
                secs,
                dark,
                ready,
                ready_for,
                none_ready_for,
                restarts,
                drained,
                diagnosis,
                route,
                adopted,
                smoke,
                restored,
                gone,
                judge,
                command,
                newer,
                window,
            }
        })
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let blocked = "windows: {open: [{from: \"10:05\", to: \"18:00\", zone: UTC}], outside: wait}";
    let plans = vec![
        plan(SHORT),
        plan(GATED),
        plan(&format!(
            "{SHORT}\nonNewRevision: supersede\nanalysis: {{onUndecided: gate}}"
        )),
        plan(&format!("{SHORT}\nanalysis: {{onUndecided: return}}\n{blocked}")),
        plan(&format!("{SHORT}\nmode: observe")),
        plan(HOOKED),
        in_lane(Lane::Rollback, HOOKED),
        plan("strategy: {use: shadow}"),
        plan("strategy: {use: ab-header}\ngates: [{before: 100%}]"),
        plan("strategy: {blueGreen: {preview: 5s, gate: {approvers: [\"group:payments\"]}, bake: 20s}}"),
        plan("strategy: {canary: {steps: [{pause: 5s}, {weight: 10%}, {pause: 5s}, {weight: 100%}], bake: 5s}}"),
        in_lane(Lane::FirstDeploy, SHORT),
        in_lane(Lane::Rollback, SHORT),
        in_lane(
            Lane::Emergency {
                reason: "down".to_owned(),
            },
            SHORT,
        ),
    ];
    proptest::sample::select(plans)
}

fn facts(plan: &Plan, state: &State, draw: &Draw, commands: &[Command], now: Timestamp) -> Facts {
    let ago = |secs: i64| now - SignedDuration::from_secs(secs);
    let wanted = wade::engine::desired(plan, state)
        .into_iter()
        .find_map(|action| match action {
            Action::Route(split) => Some(split),
            _ => None,
        });
    let route = match draw.route {
        0 => None,
        1 => Some(Split::weight(Weight::from_permille(333).expect("below 1000"))),
        2 => Some(ALL_STABLE),
        _ => Some(wanted.unwrap_or(ALL_STABLE)),
    };
    let exists = if draw.gone { 0 } else { FULL };
    let canary = Presence {
        exists: if state.had_users && !draw.gone || state.phase.stage().is_some() {
            FULL
        } else {
            exists
        },
        full: FULL,
        ready: draw.ready.max(u32::from(draw.ready_for.is_some()) * FULL),
        ready_since: draw.ready_for.map(ago),
        none_ready_since: draw.none_ready_for.map(ago),
        restarts: draw.restarts,
        drained: draw.drained,
        diagnosis: draw.diagnosis.map(|fatal| Diagnosis {
            kind: "walk".to_owned(),
            message: "something is wrong".to_owned(),
            fatal,
        }),
    };
    let world = World {
        canary,
        stable: Presence {
            exists,
            full: FULL,
            ready: exists,
            drained: draw.drained,
            ..Presence::default()
        },
        route: RouteFact {
            split: route,
            conflict: None,
        },
        adopted: draw.adopted,
        smoke: draw.smoke.map(|passed| SmokeReport {
            passed,
            summary: "smoke".to_owned(),
        }),
        // A report of another point means nothing.
        hooks: draw.smoke.map(|passed| HookReport {
            at: state
                .phase
                .hook_point()
                .filter(|_| draw.ready > 0)
                .unwrap_or(HookPoint::AfterRollback),
            passed,
            summary: "hooks".to_owned(),
        }),
        restored: draw.restored,
        interference: None,
    };
    let stage = state.phase.stage().or(state.split_of).unwrap_or(0);
    let says = |call, suspicious| {
        Some(Reading::Verdict {
            stage,
            verdict: Box::new(verdict(call, suspicious, "numbers".to_owned())),
        })
    };
    let no_data = |kind| {
        Some(Reading::NoData {
            kind,
            detail: "nothing".to_owned(),
        })
    };
    let reading = match draw.judge {
        0 => None,
        1 => no_data(NoData::SourceDown),
        2 => no_data(NoData::CanarySilent),
        3 => no_data(NoData::BothSilent),
        4 => says(Call::Undecided, true),
        5 if draw.secs == 20 => says(Call::Fail, true),
        5..=7 => says(Call::Undecided, false),
        _ => says(Call::Pass, false),
    };
    Facts {
        suspicion: None,
        unapplied: false,
        unwatched: draw.gone.then(|| (ago(30), now)),
        world: (!draw.dark).then_some(world),
        reading,
        commands: commands.to_vec(),
        newer: draw.newer.then(|| "v3".to_owned()),
        deploy_window: draw.window,
    }
}

fn command(id: u64, (kind, who): (u8, u8), at: Timestamp) -> Command {
    let kind = match kind {
        0 => CommandKind::Approve,
        1 => CommandKind::Promote { full: false },
        2 => CommandKind::Promote { full: true },
        3 => CommandKind::Pause,
        4 => CommandKind::Resume,
        5 => CommandKind::Retry,
        _ => CommandKind::Abort,
    };
    let by = match who {
        0 => Actor::named("ann"),
        1 => Actor {
            user: "bob".to_owned(),
            groups: vec!["payments".to_owned()],
            from: None,
        },
        _ => Actor::named("eve"),
    };
    Command {
        id,
        kind,
        by,
        reason: None,
        at,
    }
}

fn route_of(actions: &[Action]) -> Option<&Split> {
    actions.iter().find_map(|action| match action {
        Action::Route(split) => Some(split),
        _ => None,
    })
}

fn way(phase: &Phase) -> u8 {
    match phase {
        Phase::Waiting => 0,
        Phase::Returning(..) => 2,
        Phase::AfterHooks(_) => 3,
        Phase::Done(_) => 4,
        _ => 1,
    }
}

/// Takes one walk and checks every step of it.
fn walk(plan: &Plan, steps: &[Draw]) -> Result<State, TestCaseError> {
    let mut state = State::new(start());
    let mut history = Vec::new();
    let mut commands: Vec<Command> = Vec::new();
    let mut now = start();
    for draw in steps {
        now += SignedDuration::from_secs(draw.secs);
        if let Some(asked) = draw.command {
            let id = commands.len() as u64 + 1;
            commands.push(command(id, asked, now));
        }
        let facts = facts(plan, &state, draw, &commands, now);
        let decision = decide(plan, &state, &facts, now).expect("decide proposes only legal moves");

        // The same facts at the same time call for nothing more.
        // What a phase that has just begun wants cannot have been accepted yet.
        let unapplied = facts.unapplied || decision.state.phase != state.phase;
        let facts = Facts { unapplied, ..facts };
        let again = decide(plan, &decision.state, &facts, now).expect("decide proposes only legal moves");
        prop_assert_eq!(&again.entries, &Vec::new());
        prop_assert_eq!(&again.state, &decision.state);
        prop_assert_eq!((&again.actions, again.wake), (&decision.actions, decision.wake));
        prop_assert_eq!(&again.waiting_for, &decision.waiting_for);

        // The history is the state, and every line of it has a reason.
        history.extend(decision.entries.iter().cloned());
        let replayed = replay(plan, start(), &history).expect("a history that was written can be read");
        prop_assert_eq!(&replayed, &decision.state);
        prop_assert!(decision.entries.iter().all(|entry| !entry.reason.is_empty()));

        // A release that goes on is looked at again, later.
        prop_assert_eq!(decision.wake.is_none(), decision.state.outcome().is_some());
        prop_assert!(decision.wake.is_none_or(|wake| wake > now));
        prop_assert_eq!(
            decision.state.paused.is_some() && !decision.state.phase.can_retreat(),
            false
        );

        // Back never leads forward: the route comes first, and nothing that brings users is asked for.
        prop_assert!(way(&state.phase) <= way(&decision.state.phase));
        let forward = |event: &Event| {
            matches!(
                event,
                Event::Prepared | Event::Shifted { .. } | Event::StageEnded { .. } | Event::Adopted
            )
        };
        if let Some(retreat) = decision
            .entries
            .iter()
            .position(|e| matches!(e.event, Event::Retreated { .. }))
        {
            prop_assert!(!decision.entries[retreat..].iter().any(|entry| forward(&entry.event)));
        }
        if matches!(decision.state.phase, Phase::Returning(..)) {
            prop_assert_eq!(decision.actions.first(), Some(&Action::Route(ALL_STABLE)));
            prop_assert!(!decision.actions.iter().any(Action::is_forward));
        }

        // Only a step that was prepared raises the weight.
        let before = wade::engine::desired(plan, &state);
        let weight = |actions: &[Action]| route_of(actions).map_or(Weight::ZERO, |split| split.weight);
        if weight(&decision.actions) > weight(&before) {
            prop_assert!(decision.entries.iter().any(|entry| entry.event == Event::Prepared));
        }
        // Nothing is called proven in which a stage was not.
        if let Some(wade::engine::Outcome::Promoted { proven: true }) = decision.state.outcome() {
            let proofs = |event: &Event| {
                matches!(
                    event,
                    Event::StageEnded {
                        proof: wade::engine::Proof::Unproven
                    }
                )
            };
            let promoted = |event: &Event| matches!(event, Event::Promoted { .. } | Event::AskedForProof);
            prop_assert!(
                !history
                    .iter()
                    .any(|entry| proofs(&entry.event) || promoted(&entry.event))
            );
        }
        state = decision.state;
    }
    Ok(state)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_step_of_a_random_walk_keeps_the_promises(
        plan in any_plan(),
        steps in proptest::collection::vec(draws(), 1..60),
    ) {
        walk(&plan, &steps)?;
    }

    #[test]
    fn damaged_facts_never_panic(plan in any_plan(), steps in proptest::collection::vec(draws(), 1..30), jump in -4000i64..4000) {
        // The clock may be set back, and everything that was seen may lie in the future.
        let state = walk(&plan, &steps)?;
        let now = start() + SignedDuration::from_secs(jump);
        for draw in &steps {
            decide(&plan, &state, &facts(&plan, &state, draw, &[], now), now).expect("only legal moves");
        }
    }
}

/// Walks that all end in the first minute would prove nothing: some have to reach every phase.
#[test]
fn walks_reach_every_phase() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..1500 {
        let plan = any_plan().new_tree(&mut runner).expect("a plan").current();
        let steps = proptest::collection::vec(draws(), 1..60)
            .new_tree(&mut runner)
            .expect("steps")
            .current();
        let state = walk(&plan, &steps).expect("the promises are kept");
        reached.insert(match state.outcome() {
            Some(outcome) => outcome.label(),
            None => state.phase.label(),
        });
    }
    let wanted = [
        "Aborted",
        "FirstDeploy",
        "Promoted",
        "Rejected",
        "Returned",
        "RolledBack",
        "Superseded",
        "afterHooks",
        "analysing",
        "beforeHooks",
        "gated",
        "handingOver",
        "preparing",
        "returning",
        "shifting",
        "smoking",
        "starting",
        "waiting",
    ];
    assert_eq!(reached.into_iter().collect::<Vec<_>>(), wanted);
}
