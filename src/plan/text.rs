//! How a plan is shown: the stages with their times, what gates them, and what could be seen there.

use std::fmt::Write as _;

use super::{Comparison, HistoryPlan, Lane, Plan, Stage, StageKind};
use crate::judge::config::MetricKind;
use crate::judge::planning;
use crate::spec::{HookPoint, Mode, Source};

/// What is known of the service's traffic, for saying what a stage could see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// Requests per second on the whole service.
    pub requests_per_second: f64,
    /// The share of them that fails on stable, 0 to 1.
    pub error_rate: f64,
}

/// Stable's error share is taken to be at least this when saying what could be seen: of nothing there is no multiple.
const LEAST_ERROR_RATE: f64 = 0.0005;

/// The plan as text, one line per stage. With an outlook, each judged stage says *what size of regression could be
/// seen there* (METHOD.md section 5), because a stage that cannot see anything is no safety.
pub fn render(plan: &Plan, outlook: Option<Outlook>) -> String {
    let mut out = String::new();
    let lane = match &plan.lane {
        Lane::Normal => String::new(),
        Lane::FirstDeploy => ", first deploy".to_owned(),
        Lane::Rollback => ", fast lane back".to_owned(),
        Lane::Emergency { reason } => format!(", EMERGENCY ({reason})"),
    };
    let mode = if plan.mode == Mode::Observe {
        ", observe only"
    } else {
        ""
    };
    let weights: Vec<String> = plan.stages.iter().map(|stage| stage.split.to_string()).collect();
    let _ = writeln!(
        out,
        "{} by {}{lane}{mode}: {}, at most {}",
        plan.rollout,
        plan.strategy,
        weights.join(" → "),
        minutes(plan.longest().as_secs_f64())
    );
    if let Comparison::LimitsOnly { reason } = &plan.comparison {
        let _ = writeln!(out, "  not compared with stable: {reason}; fixed limits only");
    }
    hooks(&mut out, plan, HookPoint::BeforeStart);
    let _ = writeln!(
        out,
        "  start    ready within {}, then {} without a break",
        plan.ready_within, plan.settle
    );
    let _ = match plan.smoke.tests.len() {
        0 => writeln!(out, "  smoke    none declared"),
        tests => writeln!(
            out,
            "  smoke    {tests}, up to {} tries within {}{}",
            plan.smoke.tries,
            plan.smoke.within,
            plan.smoke
                .again
                .map(|every| format!("; again every {every} while the canary has users"))
                .unwrap_or_default()
        ),
    };
    for (index, stage) in plan.stages.iter().enumerate() {
        if let Some(gate) = &stage.gate {
            let who = if gate.approvers.is_empty() {
                "anyone who may approve".to_owned()
            } else {
                gate.approvers.join(" or ")
            };
            let _ = writeln!(out, "  gate     {who}, within {}", gate.expires);
        }
        if plan.is_first_full(index) {
            hooks(&mut out, plan, HookPoint::BeforeFullTraffic);
        }
        let _ = writeln!(out, "  stage {}  {}", index + 1, describe(plan, stage));
        if let Some(outlook) = outlook.filter(|_| stage.kind == StageKind::Judge) {
            let _ = writeln!(out, "           {}", sight(plan, stage, outlook));
        }
    }
    hooks(&mut out, plan, HookPoint::AfterPromotion);
    hooks(&mut out, plan, HookPoint::AfterRollback);
    // Where nothing is judged nothing can pass.
    if !plan.stages.iter().any(|stage| stage.kind == StageKind::Judge) {
        return out;
    }
    if !plan.judge.pass_early {
        let _ = writeln!(out, "  no early pass: every stage runs its full time");
    } else {
        let _ = writeln!(
            out,
            "  early pass {}\n             until then stages run their time, and the outcome is unproven",
            early_pass(plan)
        );
    }
    out
}

fn hooks(out: &mut String, plan: &Plan, at: HookPoint) {
    for hook in plan.hooks_at(at) {
        let _ = writeln!(out, "  hook     {at}: {}, at most {}", hook.name(), hook.within());
    }
}

/// When stages may pass early, and who knows it.
pub fn early_pass(plan: &Plan) -> String {
    let HistoryPlan { least, pod_minutes, .. } = plan.history;
    let known = match &plan.measure.source {
        Some(Source::Prometheus(_)) => "if Prometheus remembers",
        Some(Source::Scrape(_)) | None => "once Wade has watched",
    };
    if pod_minutes == 0 {
        return format!("{known} {least} of stable's pods, two or more");
    }
    format!(
        "{known} {pod_minutes} pod-minutes of stable in at least {least} (4 pods: {} min, one pod: never)",
        pod_minutes.div_ceil(4)
    )
}

fn describe(plan: &Plan, stage: &Stage) -> String {
    match stage.kind {
        StageKind::Preview => format!("preview without users for {}", stage.max),
        StageKind::Pause => format!("{}, stays {}, judged", stage.split, stage.max),
        StageKind::Judge if plan.judge.pass_early && stage.min < stage.max => {
            format!("{}, {} to {}, ends when proven", stage.split, stage.min, stage.max)
        }
        StageKind::Judge => format!("{}, {}", stage.split, stage.max),
        StageKind::Bake if plan.rolling => {
            let bake = if stage.max.0.is_zero() {
                String::new()
            } else {
                format!(", bake {}", stage.max)
            };
            format!("100% by the Deployment's own rolling update{bake}")
        }
        StageKind::Bake if stage.max.0.is_zero() => "100%".to_owned(),
        StageKind::Bake => format!("100%, bake {} with the old revision warm", stage.max),
    }
}

/// What size of regression could be seen in a stage, in words.
fn sight(plan: &Plan, stage: &Stage, outlook: Outlook) -> String {
    let Some(allowed) = allowed(plan) else {
        return "errors are not compared with stable here".to_owned();
    };
    let weight = stage.split.weight.max(stage.split.mirror).fraction();
    if weight == 0.0 {
        return "what can be seen depends on how many requests the match catches".to_owned();
    }
    let rate = outlook.error_rate.max(LEAST_ERROR_RATE);
    let smallest = visible(stage, outlook, allowed);
    let rps = outlook.requests_per_second * weight;
    match smallest {
        Some(ratio) => {
            let percent = (ratio * rate).min(1.0) * 100.0;
            format!(
                "{rps:.1} requests/s on the canary: a rise in errors to x{ratio:.1} ({percent:.2} %) is visible within {}",
                stage.max
            )
        }
        None => format!(
            "{rps:.2} requests/s on the canary: too few to see any rise in errors within {}; only a canary that is down shows",
            stage.max
        ),
    }
}

/// The smallest rise in errors, as a multiple, that any judged stage could see; `None` if none could see any.
pub fn smallest_rise(plan: &Plan, outlook: Outlook) -> Option<f64> {
    let allowed = allowed(plan)?;
    let judged = plan.stages.iter().filter(|stage| stage.kind == StageKind::Judge);
    judged
        .filter_map(|stage| visible(stage, outlook, allowed))
        .min_by(f64::total_cmp)
}

/// How many times stable's errors the canary may have.
fn allowed(plan: &Plan) -> Option<f64> {
    plan.judge.metrics.iter().find_map(|metric| match &metric.kind {
        MetricKind::Errors(errors) => Some(1.0 + errors.allow_ratio),
        _ => None,
    })
}

fn visible(stage: &Stage, outlook: Outlook, allowed: f64) -> Option<f64> {
    planning::smallest_visible_ratio(
        stage.split.weight.max(stage.split.mirror).fraction(),
        outlook.requests_per_second,
        outlook.error_rate.max(LEAST_ERROR_RATE),
        stage.max.as_secs_f64(),
        allowed,
    )
}

fn minutes(secs: f64) -> String {
    if secs < 120.0 {
        format!("{secs:.0} s")
    } else {
        format!("{:.0} min", (secs / 60.0).ceil())
    }
}
