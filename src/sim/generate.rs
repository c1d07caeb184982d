//! A random case from a seed: what is released, how, and what goes wrong on the way.
//!
//! Times are short (stages of seconds to minutes), because rules are rules at any length and two thousand releases
//! have to fit into a test. Every strategy that comes with Wade is drawn, and strategies written out with pauses, gates
//! and long chains of weights.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::chance::{Chance, Stream};
use super::check::bound;
use super::faults::{Fault, Faults, Happening, Window};
use super::run::Case;
use super::world::{Behaviour, Start};
use crate::engine::{Actor, CommandKind};
use crate::plan::{Circumstances, Lane, Plan, Split, lower};
use crate::spec::{Rollout, Weight, resolve};

/// When simulated releases begin: a Monday morning.
pub const START: &str = "2026-03-02T10:00:00Z";
/// How long things go wrong: some runs crowd everything into the start, some spread it over the whole release.
const FAULTS_SECS: [u64; 4] = [12, 60, 200, 400];
/// A run that goes on for longer than its bound by this does not end.
const BEYOND: SignedDuration = SignedDuration::from_mins(5);

/// When simulated releases begin.
pub fn start() -> Timestamp {
    START.parse().expect("a literal timestamp")
}

/// The case of a seed.
pub fn case(seed: u64) -> Case {
    let mut chance = Chance::new(seed, Stream::Case);
    let chance = &mut chance;
    let full = u32::try_from(chance.between(1, 6)).expect("at most six");
    let rps = *chance.pick(&[0.2, 3.0, 40.0, 400.0, 3000.0]);
    let (plan, deploy_window) = plan(chance, full, rps);
    let faults = faults(chance, start(), full, &plan);
    Case {
        seed,
        start: start(),
        full,
        rps,
        stable: Behaviour {
            error_rate: *chance.pick(&[0.0, 0.001, 0.01]),
            ..healthy()
        },
        canary: canary(chance),
        watched: chance.happens(0.6),
        deploy_window,
        jitter: true,
        dies_at_poll: None,
        limit: faults
            .quiet_from()
            .map_or(SignedDuration::ZERO, |quiet| quiet.duration_since(start()))
            + bound(&plan)
            + BEYOND,
        sabotage: None,
        faults,
        plan,
    }
}

/// A revision that nothing is wrong with.
pub fn healthy() -> Behaviour {
    Behaviour {
        error_rate: 0.001,
        latency_secs: 0.04,
        latency_sigma: 0.6,
        start: Start::Ready(SignedDuration::from_secs(2)),
        crash_after: None,
        smoke_passes: true,
    }
}

fn canary(chance: &mut Chance) -> Behaviour {
    let slowest = *chance.pick(&[2000, 8000, 20_000]);
    let ready = Start::Ready(chance.millis(200, slowest));
    let well = Behaviour {
        start: ready,
        ..healthy()
    };
    if chance.happens(0.5) {
        return well;
    }
    let start = match chance.between(0, 19) {
        0 => Start::Never,
        1 => Start::Crash(chance.millis(200, 2000)),
        _ => ready,
    };
    Behaviour {
        error_rate: *chance.pick(&[0.0, 0.001, 0.001, 0.001, 0.02, 0.3]),
        latency_secs: well.latency_secs * chance.pick(&[1.0, 1.0, 1.0, 3.0]),
        start,
        crash_after: chance.happens(0.3).then(|| chance.millis(1000, 120_000)),
        smoke_passes: !chance.happens(0.05),
        ..well
    }
}

fn plan(chance: &mut Chance, full: u32, rps: f64) -> (Plan, Option<bool>) {
    let text = rollout(chance, full);
    let rollout: Rollout = serde_json::from_value(text).expect("the generator writes valid rollouts");
    let resolved = resolve(&rollout, &Default::default()).expect("the generator writes sensible rollouts");
    let lane = match chance.between(0, 11) {
        0 => Lane::FirstDeploy,
        1 => Lane::Rollback,
        2 => Lane::Emergency {
            reason: "checkout is down".to_owned(),
        },
        _ => Lane::Normal,
    };
    let around = Circumstances {
        lane,
        stable_unfit: chance.happens(0.05).then(|| "stable fails itself".to_owned()),
        requests_per_second: chance.happens(0.5).then_some(rps),
        found: None,
    };
    let mut plan = lower(
        &rollout.metadata.name,
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        &around,
    );
    // The strategies that come with Wade take minutes; the same stages in less time follow the same rules.
    let shorter = |span: crate::spec::Span| span.min(crate::spec::Span::secs(90));
    for stage in &mut plan.stages {
        stage.min = shorter(stage.min);
        stage.max = shorter(stage.max);
    }
    let deploy_window = if chance.happens(0.02) { Some(false) } else { None };
    (plan, deploy_window)
}

fn secs(chance: &mut Chance, least: u64, most: u64) -> Value {
    json!(format!("{}s", chance.between(least, most)))
}

fn rollout(chance: &mut Chance, full: u32) -> Value {
    let mut spec = json!({
        "mode": if chance.happens(0.06) { "observe" } else { "enforce" },
        "workload": {"process": {"command": ["./shop"], "port": "auto", "instances": full, "drain": secs(chance, 4, 10)}},
        "traffic": {"listen": "127.0.0.1:0"},
        "strategy": strategy(chance),
        "analysis": {
            "look": secs(chance, 1, 5),
            "passEarly": {"minStage": secs(chance, 5, 40)},
            "history": {"least": "60s", "block": "10s"},
            "onUndecided": chance.pick(&["advance", "advance", "gate", "return"]),
            "onNoData": {
                "sourceDown": no_data(chance),
                "canarySilent": no_data(chance),
                "bothSilent": no_data(chance),
            },
        },
        "limits": {
            "ready": secs(chance, 15, 60), "settle": secs(chance, 1, 5), "smoke": secs(chance, 5, 20),
            "gate": secs(chance, 30, 300), "release": secs(chance, 120, 1500),
        },
        "onNewRevision": chance.pick(&["wait", "supersede"]),
    });
    match chance.between(0, 2) {
        0 => {}
        1 => spec["analysis"]["metrics"] = json!([{"errors": {}}]),
        _ => spec["analysis"]["metrics"] = json!([{"errors": {"max": "20%"}}, {"latency": {"warmup": "5s"}}]),
    }
    if chance.happens(0.8) {
        spec["smoke"] = json!([{"http": "/healthz"}]);
    }
    if chance.happens(0.3) {
        spec["analysis"]["tripwire"] = json!({"errors": "25%", "looks": 2, "minRequests": 20});
    }
    json!({"apiVersion": "wade.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "shop"}, "spec": spec})
}

fn no_data(chance: &mut Chance) -> Value {
    json!({"after": secs(chance, 5, 120), "do": chance.pick(&["hold", "advance", "return", "rollback"])})
}

fn gate(chance: &mut Chance) -> Value {
    let approvers = chance
        .pick(&[json!([]), json!(["user:ann"]), json!(["group:payments"])])
        .clone();
    json!({"approvers": approvers, "expires": secs(chance, 20, 200)})
}

fn strategy(chance: &mut Chance) -> Value {
    match chance.between(0, 9) {
        0 => json!({"use": "careful"}),
        1 => json!({"use": "quick"}),
        2 => json!({"use": "ab-header"}),
        3 => json!({"use": "shadow"}),
        4 => {
            let mut blue_green = json!({"preview": secs(chance, 0, 40), "bake": secs(chance, 5, 60)});
            if chance.happens(0.4) {
                blue_green["gate"] = gate(chance);
            }
            json!({"blueGreen": blue_green})
        }
        _ => json!({"canary": {"steps": steps(chance), "bake": secs(chance, 5, 60)}}),
    }
}

fn steps(chance: &mut Chance) -> Value {
    let mut weight = 0;
    let mut steps = Vec::new();
    for _ in 0..chance.between(1, 5) {
        if chance.happens(0.25) {
            steps.push(json!({"gate": gate(chance)}));
        }
        if chance.happens(0.2) {
            steps.push(json!({"pause": secs(chance, 2, 40)}));
        }
        // Five such steps stay below 100 %.
        weight += chance.between(1, 19);
        let min = chance.between(2, 30);
        steps.push(json!({"weight": format!("{weight}%"), "min": format!("{min}s"), "max": secs(chance, min, 90)}));
    }
    Value::Array(steps)
}

/// People who ask for things.
fn people() -> [Actor; 3] {
    let in_group = |user: &str| Actor {
        user: user.to_owned(),
        groups: vec!["payments".to_owned()],
        from: None,
    };
    [Actor::named("ann"), in_group("bob"), Actor::named("cem")]
}

fn faults(chance: &mut Chance, start: Timestamp, full: u32, plan: &Plan) -> Faults {
    let length = *chance.pick(&FAULTS_SECS) * 1000;
    let at = |chance: &mut Chance| start + chance.millis(0, length);
    let mut windows = Vec::new();
    // Some runs are all faults, some have one, some have none: each finds what the others drown.
    for _ in 0..*chance.pick(&[0, 1, 3, 6, 12]) {
        let from = at(chance);
        let to = (from + chance.millis(500, 120_000)).min(start + SignedDuration::from_millis(length as i64 + 1));
        windows.push(Window {
            fault: *chance.pick(&Fault::ALL),
            from,
            to,
        });
    }
    windows.retain(|window| window.from < window.to);
    let mut happenings = Vec::new();
    for _ in 0..*chance.pick(&[0, 1, 2, 5]) {
        let when = at(chance);
        happenings.push((when, happening(chance, full, plan)));
    }
    happenings.sort_by_key(|(at, _)| *at);
    Faults { windows, happenings }
}

fn happening(chance: &mut Chance, full: u32, plan: &Plan) -> Happening {
    match chance.between(0, 15) {
        0 => Happening::Newer("v3".to_owned()),
        1 => Happening::Kill {
            for_secs: u32::try_from(chance.between(0, 40)).expect("small"),
        },
        2 => Happening::Rival,
        3 => {
            let permille = u16::try_from(chance.between(0, 1000)).expect("at most 1000");
            Happening::Meddle(Split::weight(Weight::from_permille(permille).expect("at most 1000")))
        }
        4 => Happening::Scale(u32::try_from(chance.between(1, u64::from(full) + 3)).expect("small")),
        5 => Happening::Turn(canary(chance)),
        number => {
            let kinds = [
                CommandKind::Approve,
                CommandKind::Approve,
                CommandKind::Approve,
                CommandKind::Promote { full: false },
                CommandKind::Promote { full: true },
                CommandKind::Pause,
                CommandKind::Resume,
                CommandKind::Abort,
                CommandKind::Retry,
            ];
            let gated = plan.stages.iter().any(|stage| stage.gate.is_some()) && number % 2 == 0;
            Happening::Ask {
                kind: if gated {
                    CommandKind::Approve
                } else {
                    *chance.pick(&kinds)
                },
                by: chance.pick(&people()).clone(),
                reason: chance.happens(0.3).then(|| "because of the numbers".to_owned()),
            }
        }
    }
}
