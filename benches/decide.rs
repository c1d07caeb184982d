//! What one decision costs, with a plan of twenty stages. The goal is under 10 µs: ten thousand releases that are
//! looked at every second then cost a tenth of one core.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use wade::engine::{Facts, Phase, Presence, Reading, RouteFact, State, World, decide};
use wade::judge::{Call, Verdict};
use wade::plan::{Circumstances, Plan, lower};
use wade::spec::{read_rollout, resolve};

fn plan() -> Plan {
    let steps: Vec<String> = (1..20)
        .map(|step| format!("{{weight: {}%, min: 60s, max: 5m}}", step * 5))
        .collect();
    let text = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: shop}}\nspec:\n  \
         workload: {{process: {{command: [./shop], port: auto, instances: 20}}}}\n  traffic: {{}}\n  \
         strategy: {{canary: {{steps: [{}]}}}}\n  gates: [{{before: 50%, approvers: [\"group:payments\"]}}]\n",
        steps.join(", ")
    );
    let rollout = read_rollout(&text, "shop.yaml").expect("a valid rollout");
    let resolved = resolve(&rollout, &Default::default()).expect("a sensible rollout");
    let around = Circumstances::default();
    lower(
        "shop",
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        &around,
    )
}

fn facts(plan: &Plan, stage: usize, now: Timestamp, call: Call) -> Facts {
    let full = 20;
    let whole = |exists| Presence {
        exists,
        full,
        ready: exists,
        ready_since: Some(now - SignedDuration::from_secs(60)),
        ..Presence::default()
    };
    let verdict = Verdict {
        call,
        suspicious: false,
        tripped: false,
        evidence: 0.3,
        needed: 4.6,
        blame: None,
        reason: "errors: canary 12 of 12,000, stable 11 of 12,000".to_owned(),
        metrics: Vec::new(),
    };
    Facts {
        world: Some(World {
            canary: whole(full),
            stable: whole(full),
            route: RouteFact {
                split: Some(plan.stages[stage].split.clone()),
                conflict: None,
            },
            ..World::default()
        }),
        reading: Some(Reading::Verdict {
            stage,
            verdict: Box::new(verdict),
        }),
        ..Facts::default()
    }
}

fn decisions(criterion: &mut Criterion) {
    let plan = plan();
    assert_eq!(plan.stages.len(), 20);
    let start: Timestamp = "2026-03-02T10:00:00Z".parse().expect("a literal timestamp");
    let now = start + SignedDuration::from_secs(90);
    let stage = 4;
    let state = State {
        phase: Phase::Analysing { stage },
        since: start + SignedDuration::from_secs(20),
        split_of: Some(stage),
        had_users: true,
        ..State::new(start)
    };
    let mut group = criterion.benchmark_group("decide");
    let quiet = facts(&plan, stage, now, Call::Undecided);
    group.bench_function("nothing_to_do", |bencher| {
        bencher.iter(|| decide(black_box(&plan), black_box(&state), black_box(&quiet), now).expect("legal"));
    });
    let passed = facts(&plan, stage, now, Call::Pass);
    group.bench_function("stage_passed", |bencher| {
        bencher.iter(|| decide(black_box(&plan), black_box(&state), black_box(&passed), now).expect("legal"));
    });
    let failed = facts(&plan, stage, now, Call::Fail);
    group.bench_function("rolled_back", |bencher| {
        bencher.iter(|| decide(black_box(&plan), black_box(&state), black_box(&failed), now).expect("legal"));
    });
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
