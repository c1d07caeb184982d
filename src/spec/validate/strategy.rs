//! Steps, approvers and matches; and whether a strategy suits the workload.

use super::super::fault::{Fault, Path};
use super::super::rollout::{GateRule, NamedMatch, Rollout, Step, Strategy, TrafficMatch, Workload};
use super::super::values::{Span, Weight};
use super::{check_not_zero, is_token};

pub(in crate::spec) fn check_strategy(path: &Path, strategy: &Strategy, faults: &mut Vec<Fault>) {
    match strategy {
        Strategy::Canary(canary) => check_steps(&path.key("canary").key("steps"), &canary.steps, faults),
        Strategy::BlueGreen(blue_green) => {
            if let Some(gate) = &blue_green.gate {
                check_gate(&path.key("blueGreen").key("gate"), gate, faults);
            }
        }
        Strategy::Ab(ab) => {
            let path = path.key("ab");
            check_match(&path.key("match"), &ab.matching, faults);
            check_times(&path, ab.min, ab.max, faults);
            check_weights(&path.key("steps"), &ab.steps, faults);
        }
        Strategy::Shadow(shadow) => {
            let path = path.key("shadow");
            if shadow.mirror.is_zero() {
                let fault = Fault::new(path.key("mirror"), "copying no requests shows nothing").found("`0%`");
                faults.push(fault.help("write the share to copy, like `mirror: 20%`, or use `canary`"));
            }
            check_times(&path, shadow.min, shadow.max, faults);
            check_weights(&path.key("steps"), &shadow.steps, faults);
        }
    }
}

/// Steps of a canary: at least one weight, growing.
pub(in crate::spec) fn check_steps(path: &Path, steps: &[Step], faults: &mut Vec<Fault>) {
    let weighs = |step: &Step| matches!(step, Step::Weight(_));
    if !steps.iter().any(weighs) {
        let fault = Fault::new(path.clone(), "no step has a weight, so everything would move at once");
        faults.push(fault.help("add a step like `- weight: 5%`, or use `blueGreen` to switch all at once"));
    }
    check_weights(path, steps, faults);
}

fn check_weights(path: &Path, steps: &[Step], faults: &mut Vec<Fault>) {
    let mut last: Option<(usize, Weight)> = None;
    for (index, step) in steps.iter().enumerate() {
        let path = path.index(index);
        match step {
            Step::Weight(step) => {
                check_times(&path, step.min, step.max, faults);
                let weight = step.weight;
                if weight.is_zero() {
                    let fault = Fault::new(path.key("weight"), "a step of 0% sends nobody to the new version");
                    faults.push(
                        fault
                            .found("`0%`")
                            .help("remove it; smoke tests already run before any traffic"),
                    );
                }
                if let Some((before, least)) = last.filter(|(_, least)| weight <= *least) {
                    let fault = Fault::new(path.key("weight"), "weights must grow from step to step")
                        .found(format!("{weight} in steps[{index}] after {least} in steps[{before}]"));
                    faults.push(fault.help(format!("write more than {least}, or put the steps in order")));
                }
                last = Some((index, last.map_or(weight, |(_, least)| least.max(weight))));
            }
            Step::Pause(step) => {
                let problem = "a pause of no time is no pause";
                check_not_zero(&path.key("pause"), Some(step.pause), problem, faults);
            }
            Step::Gate(step) => check_gate(&path.key("gate"), &step.gate, faults),
        }
    }
}

fn check_gate(path: &Path, gate: &GateRule, faults: &mut Vec<Fault>) {
    check_approvers(&path.key("approvers"), &gate.approvers, faults);
    check_not_zero(
        &path.key("expires"),
        gate.expires,
        "a gate that expires at once never opens",
        faults,
    );
}

fn check_times(path: &Path, min: Option<Span>, max: Option<Span>, faults: &mut Vec<Fault>) {
    check_not_zero(&path.key("max"), max, "a stage of no time shows nothing", faults);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        let fault = Fault::new(path.key("max"), "the most time is less than the least");
        faults.push(
            fault
                .found(format!("min {min}, max {max}"))
                .help("write a `max` that is at least `min`"),
        );
    }
}

pub(super) fn check_match(path: &Path, matching: &TrafficMatch, faults: &mut Vec<Fault>) {
    let (kind, NamedMatch { name, value }) = match matching {
        TrafficMatch::Header(named) => ("header", named),
        TrafficMatch::Cookie(named) => ("cookie", named),
    };
    let path = path.key(kind);
    if !is_token(name) {
        let fault =
            Fault::new(path.key("name"), format!("this is not the name of a {kind}")).found(format!("`{name}`"));
        faults.push(fault.help("write letters, digits and `-`, like `X-Wade-Canary`"));
    }
    let broken = |c: char| c.is_control() || (kind == "cookie" && (c == ';' || c == ','));
    if value.as_ref().is_some_and(|value| value.chars().any(broken)) {
        let fault = Fault::new(path.key("value"), format!("a {kind} cannot hold this value"));
        faults.push(fault.help("write it without line breaks and, for a cookie, without `;` and `,`"));
    }
}

/// `user:NAME`, `group:NAME` or a plain name. Plain names hold no colon: `groups:x` must not become a user's name.
pub(super) fn check_approvers(path: &Path, approvers: &[String], faults: &mut Vec<Fault>) {
    for (index, approver) in approvers.iter().enumerate() {
        let well_formed = match approver.split_once(':') {
            Some(("user" | "group", name)) => !name.is_empty(),
            Some(_) => false,
            None => !approver.is_empty(),
        };
        if !well_formed || approver.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let fault = Fault::new(path.index(index), "this names no approver").found(format!("`{approver}`"));
            faults.push(fault.help("write `user:NAME`, `group:NAME` or a plain user name without colons and spaces"));
        }
    }
}

/// Whether `strategy` can be carried out for the workload of `rollout`.
pub(in crate::spec) fn check_fit(path: &Path, rollout: &Rollout, strategy: &Strategy, faults: &mut Vec<Fault>) {
    let needs_requests = match strategy {
        Strategy::Ab(_) => "sends requests by header or cookie",
        Strategy::Shadow(_) => "copies requests",
        Strategy::Canary(_) | Strategy::BlueGreen(_) => return,
    };
    if rollout.spec.traffic.is_none() && matches!(rollout.spec.workload, Workload::Process(_)) {
        let fault = Fault::new(
            path.clone(),
            format!("this strategy {needs_requests}, and no requests come in"),
        );
        faults.push(fault.help("say where they do in `spec.traffic`, or use a canary (`use: careful`)"));
    }
}
