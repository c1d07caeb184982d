//! Spec to plan: one function per strategy, and the defaults table.

use super::{Comparison, Gate, HistoryPlan, Lane, Measure, NoDataPlan, Plan, SmokePlan, Split, Stage, StageKind};
use crate::judge::config::{
    Blocks, Config, ErrorsConfig, ErrorsPass, GaugeConfig, LatencyConfig, MetricConfig, MetricKind, ObjectiveConfig,
    OperationsConfig, Tripwire,
};
use crate::judge::history::{EARLY_PASS_MINUTES, EARLY_PASS_POD_MINUTES};
use crate::judge::observation::TRACES;
use crate::spec::{
    Ab, Allow, AnalysisSpec, BlueGreen, BurstWindow, Canary, Finish, GateRule, HookPoint, HookSpec, Limits, MetricSpec,
    MetricsEndpoint, Mode, NoDataAction, NoDataRule, OnUndecided, OnWorse, PassEarly, PassEarlyRule, RolloutSpec,
    ScrapeSource, Shadow, Source, Span, Step, Strategy, StrategyChoice, TracesSpec, TrafficMatch, Weight, Workload,
    strategies::builtin,
};

/// What is known when a release begins and changes how it is planned.
#[derive(Clone, Debug, PartialEq)]
pub struct Circumstances {
    /// What kind of release it is.
    pub lane: Lane,
    /// Why stable is no fair comparison, if it is not (it is failing itself).
    pub stable_unfit: Option<String>,
    /// Requests per second lately on the whole service; `None` if nobody knows.
    pub requests_per_second: Option<f64>,
    /// What was found where the workload lives, where that is not written in the rollout.
    pub found: Option<Found>,
}

/// What was found where the workload lives (Kubernetes), instead of being written in the rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Requests come in by HTTP or gRPC.
    pub takes_requests: bool,
    /// There is no router: the share of instances is the split.
    pub by_instances: bool,
    /// Instances at full size.
    pub instances: u32,
    /// Where instances show metrics.
    pub metrics: Option<MetricsEndpoint>,
}

impl Default for Circumstances {
    fn default() -> Self {
        Self {
            lane: Lane::Normal,
            stable_unfit: None,
            requests_per_second: None,
            found: None,
        }
    }
}

/// Under this many requests per second nothing can be proven in useful time: fewer, longer stages.
pub(crate) const QUIET_RPS: f64 = 1.0;

/// How often smoke tests are repeated where there is too little traffic to judge by.
const SMOKE_AGAIN: Span = Span::secs(10);
const DEFAULT_DRAIN: Span = Span::secs(10);
const CONFIRM_WITHIN: Span = Span::secs(10);
/// The same where a platform rolls its instances first.
const ROLLED_WITHIN: Span = Span::secs(60);

/// Plans a release: `strategy`, `analysis` and `limits` are the resolved ones (rollout over strategy over nothing).
pub fn lower(
    name: &str,
    spec: &RolloutSpec,
    strategy: &Strategy,
    analysis: &AnalysisSpec,
    limits: &Limits,
    around: &Circumstances,
) -> Plan {
    let gate_within = limits.gate.unwrap_or(Span::secs(4 * 3600));
    let min_stage = early_rule(analysis)
        .and_then(|rule| rule.min_stage)
        .unwrap_or(Span::secs(60));
    let context = Context { min_stage, gate_within };
    let found = around.found.as_ref();
    let has_http = found.map_or(spec.traffic.is_some(), |found| found.takes_requests);
    let full = match (&spec.workload, found) {
        (_, Some(found)) => found.instances,
        (Workload::Process(process), None) => process.instances.unwrap_or(1),
        (Workload::Deployment(_), None) => 1,
    };
    let named = match &spec.strategy {
        StrategyChoice::Named(named) => named.name.clone(),
        StrategyChoice::Inline(_) => "inline".to_owned(),
    };
    // A user's own file may be called `careful` too, and may have gates: only Wade's own stages are replaced.
    let plain = matches!(&spec.strategy, StrategyChoice::Named(named)
        if matches!(named.name.as_str(), "careful" | "quick")
            && builtin(&named.name).is_some_and(|file| file.spec.strategy == *strategy));
    let quiet = around.requests_per_second.is_some_and(|rps| rps < QUIET_RPS);
    let mut stages = match &around.lane {
        Lane::FirstDeploy => vec![bake_stage(Span::secs(0))],
        Lane::Emergency { .. } => vec![bake_stage(Span::secs(60))],
        Lane::Rollback => context.rollback(strategy),
        Lane::Normal if quiet && plain && has_http => context.quiet(),
        Lane::Normal => match strategy {
            Strategy::Canary(canary) if !has_http => context.without_http(full, canary),
            Strategy::Canary(canary) => context.canary(canary),
            Strategy::BlueGreen(blue_green) => context.blue_green(blue_green),
            Strategy::Ab(ab) => context.ab(ab),
            Strategy::Shadow(shadow) => context.shadow(shadow),
        },
    };
    if around.lane == Lane::Normal {
        for gate in &spec.gates {
            let rule = GateRule {
                approvers: gate.approvers.clone(),
                expires: gate.expires,
            };
            if let Some(stage) = stages.iter_mut().find(|stage| stage.split.weight >= gate.before) {
                stage.gate = Some(context.gate(&rule));
            }
        }
    }
    link_weights(&mut stages);
    if found.is_some_and(|found| found.by_instances) {
        stages.iter_mut().for_each(share_by_instances);
    }

    let rolling = spec.finish == Finish::Rolling && around.lane != Lane::FirstDeploy && found.is_some();
    if rolling {
        roll_last(&mut stages);
    }

    let comparison = match (&around.lane, &around.stable_unfit) {
        (Lane::Emergency { .. }, _) => Comparison::LimitsOnly {
            reason: "an emergency release is not compared".to_owned(),
        },
        (Lane::FirstDeploy, _) => Comparison::LimitsOnly {
            reason: "there is no stable revision yet".to_owned(),
        },
        (_, Some(reason)) => Comparison::LimitsOnly { reason: reason.clone() },
        (_, None) => Comparison::WithStable,
    };
    let rule = |rule: Option<NoDataRule>, after: u64, action: NoDataAction| {
        rule.unwrap_or(NoDataRule {
            after: Span::secs(after),
            action,
        })
    };
    let on_no_data = analysis.on_no_data.clone().unwrap_or_default();
    let way_out = matches!(around.lane, Lane::Rollback | Lane::Emergency { .. });
    let drain_within = match &spec.workload {
        Workload::Process(process) => process.drain.unwrap_or(DEFAULT_DRAIN),
        Workload::Deployment(_) => Span::secs(30),
    };
    let mut measure = measure(analysis, &spec.workload);
    if let (None, Some(metrics)) = (&measure.source, found.and_then(|found| found.metrics.as_ref())) {
        measure.source = Some(Source::Scrape(ScrapeSource {
            path: metrics.path.clone(),
            every: None,
        }));
    }
    let mut plan = Plan {
        rollout: name.to_owned(),
        strategy: named,
        lane: around.lane.clone(),
        mode: spec.mode,
        judge: judge_config(analysis, &comparison),
        comparison,
        stages,
        rolling,
        smoke: SmokePlan {
            tests: spec.smoke.clone(),
            tries: limits.smoke_tries.unwrap_or(3),
            within: limits.smoke.unwrap_or(Span::secs(60)),
            again: (quiet && !spec.smoke.is_empty()).then_some(SMOKE_AGAIN),
        },
        ready_within: limits.ready.unwrap_or(Span::secs(300)),
        settle: limits.settle.unwrap_or(Span::secs(5)),
        drain_within,
        confirm_within: if rolling { ROLLED_WITHIN } else { CONFIRM_WITHIN },
        gate_within,
        release_within: Span::secs(0),
        look: analysis.look.unwrap_or_else(|| usual_look(measure.source.as_ref())),
        history: history_plan(analysis),
        measure,
        // Who only watches has nobody to ask and nothing to take back; and a way out of trouble, asked for by a person,
        // must not wait for proof or end where it began because a metrics server is down.
        on_undecided: if way_out || spec.mode == Mode::Observe {
            OnUndecided::Advance
        } else {
            analysis.on_undecided.unwrap_or_default()
        },
        no_data: NoDataPlan {
            source_down: if way_out {
                rule(None, 0, NoDataAction::Advance)
            } else {
                rule(on_no_data.source_down, 600, NoDataAction::Return)
            },
            canary_silent: rule(on_no_data.canary_silent, 120, NoDataAction::Rollback),
            both_silent: rule(on_no_data.both_silent.filter(|_| !way_out), 600, NoDataAction::Advance),
        },
        on_new_revision: spec.on_new_revision,
        windows: spec.windows.clone().unwrap_or_default(),
        hooks: hooks(spec, &around.lane),
        notify: spec.notify.clone(),
    };
    // Without a word from the user the limit never cuts a plan short that was accepted as written.
    let roomy = Span::secs(plan.longest().as_secs() * 3 / 2).max(Span::secs(3600));
    plan.release_within = limits.release.unwrap_or(roomy);
    plan
}

/// The way back to a revision that has served before must not wait for, or fail at, what leads to a new one.
/// And who only watches runs nothing.
fn hooks(spec: &RolloutSpec, lane: &Lane) -> Vec<HookSpec> {
    let wanted = |hook: &&HookSpec| {
        *lane != Lane::Rollback || !matches!(hook.at(), HookPoint::BeforeStart | HookPoint::BeforeFullTraffic)
    };
    let all = spec.hooks.iter().filter(|_| spec.mode == Mode::Enforce);
    all.filter(wanted).cloned().collect()
}

/// How much history an analysis asks for.
pub fn history_plan(analysis: &AnalysisSpec) -> HistoryPlan {
    let history = analysis.history.as_ref();
    let block = history.and_then(|history| history.block).unwrap_or(Span::secs(60));
    match history.and_then(|history| history.least) {
        Some(least) => HistoryPlan {
            least,
            block: block.min(least),
            pod_minutes: 0,
        },
        None => HistoryPlan {
            least: Span::secs(60 * EARLY_PASS_MINUTES),
            block,
            pod_minutes: EARLY_PASS_POD_MINUTES,
        },
    }
}

/// What is measured. A workload that shows metrics is scraped even if the analysis names no source.
pub fn measure(analysis: &AnalysisSpec, workload: &Workload) -> Measure {
    let shown = match workload {
        Workload::Process(process) => process.metrics.as_ref(),
        Workload::Deployment(_) => None,
    };
    let own = shown.map(|metrics| {
        Source::Scrape(ScrapeSource {
            path: metrics.path.clone(),
            every: None,
        })
    });
    Measure {
        source: analysis.source.clone().or(own),
        metrics: metrics(analysis),
        traces: analysis.traces.clone(),
    }
}

/// The metrics of an analysis: errors and latency if it names none.
fn metrics(analysis: &AnalysisSpec) -> Vec<MetricSpec> {
    let usual = || {
        vec![
            MetricSpec::Errors(Default::default()),
            MetricSpec::Latency(Default::default()),
        ]
    };
    analysis.metrics.clone().unwrap_or_else(usual)
}

struct Context {
    min_stage: Span,
    gate_within: Span,
}

impl Context {
    fn gate(&self, rule: &GateRule) -> Gate {
        Gate {
            approvers: rule.approvers.clone(),
            expires: rule.expires.unwrap_or(self.gate_within),
        }
    }

    fn canary(&self, canary: &Canary) -> Vec<Stage> {
        let mut stages = self.steps(&canary.steps, None);
        self.finish(&mut stages, canary.bake);
        stages
    }

    fn blue_green(&self, blue_green: &BlueGreen) -> Vec<Stage> {
        let preview = blue_green.preview.unwrap_or(Span::secs(30));
        let mut bake = bake_stage(blue_green.bake.unwrap_or(Span::secs(600)));
        bake.gate = blue_green.gate.as_ref().map(|rule| self.gate(rule));
        let preview = Stage {
            kind: StageKind::Preview,
            split: Split::default(),
            capacity: Weight::FULL,
            gate: None,
            min: preview,
            max: preview,
            next_weight: Weight::FULL,
        };
        vec![preview, bake]
    }

    fn ab(&self, ab: &Ab) -> Vec<Stage> {
        let split = Split {
            weight: Weight::ZERO,
            matching: Some(ab.matching.clone()),
            mirror: Weight::ZERO,
        };
        let mut stages = vec![self.judged(split, ab.min, ab.max.unwrap_or(Span::secs(600)))];
        stages.extend(self.steps(&ab.steps, Some(&ab.matching)));
        self.finish(&mut stages, ab.bake);
        stages
    }

    fn shadow(&self, shadow: &Shadow) -> Vec<Stage> {
        let split = Split {
            weight: Weight::ZERO,
            matching: None,
            mirror: shadow.mirror,
        };
        let mut mirrored = self.judged(split, shadow.min, shadow.max.unwrap_or(Span::secs(300)));
        mirrored.capacity = shadow.mirror;
        let mut stages = vec![mirrored];
        stages.extend(self.steps(&shadow.steps, None));
        self.finish(&mut stages, shadow.bake);
        stages
    }

    /// Nobody can be compared with anybody in useful time: two long looks and a long bake.
    fn quiet(&self) -> Vec<Stage> {
        let stage = |permille| {
            let split = Split::weight(Weight::from_permille(permille).expect("a literal below 1000"));
            self.judged(split, Some(Span::secs(300)), Span::secs(300))
        };
        vec![stage(200), stage(500), bake_stage(Span::secs(900))]
    }

    /// Work that does not come as HTTP: one instance first, then everybody. Weights mean nothing there; a gate still
    /// stands before the first stage with at least as much as what it was written before.
    fn without_http(&self, instances: u32, canary: &Canary) -> Vec<Stage> {
        let share = Weight::from_permille((1000 / instances.max(2)) as u16).expect("at most half");
        let mut stages = vec![
            self.judged(Split::weight(share), Some(Span::secs(600)), Span::secs(600)),
            bake_stage(Span::secs(300)),
        ];
        for gated in self.canary(canary).into_iter().filter(|stage| stage.gate.is_some()) {
            let place = stages
                .iter_mut()
                .find(|stage| stage.split.weight >= gated.split.weight && stage.gate.is_none());
            if let Some(stage) = place {
                stage.gate = gated.gate;
            }
        }
        stages
    }

    /// A revision that has served before: one comparison at half the traffic, then everybody.
    fn rollback(&self, strategy: &Strategy) -> Vec<Stage> {
        let bake = match strategy {
            Strategy::Canary(Canary { bake, .. })
            | Strategy::Ab(Ab { bake, .. })
            | Strategy::Shadow(Shadow { bake, .. }) => bake,
            Strategy::BlueGreen(blue_green) => &blue_green.bake,
        };
        let bake = bake.unwrap_or(Span::secs(60)).min(Span::secs(60));
        let half = Weight::from_permille(500).expect("a literal below 1000");
        let time = Span::secs(15).min(self.min_stage);
        let mut stage = self.judged(Split::weight(half), Some(time), time);
        stage.capacity = Weight::FULL;
        vec![stage, bake_stage(bake)]
    }

    /// Weights, pauses and gates as written. A gate stands before the stage that follows it.
    fn steps(&self, steps: &[Step], matching: Option<&TrafficMatch>) -> Vec<Stage> {
        let mut stages: Vec<Stage> = Vec::new();
        let mut waiting_gate = None;
        let mut split = Split {
            weight: Weight::ZERO,
            matching: matching.cloned(),
            mirror: Weight::ZERO,
        };
        for step in steps {
            let stage = match step {
                Step::Gate(gate) => {
                    waiting_gate = Some(self.gate(&gate.gate));
                    continue;
                }
                Step::Weight(step) if step.weight.is_full() => {
                    let mut stage = bake_stage(step.max.unwrap_or(Span::secs(0)));
                    stage.gate = waiting_gate.take();
                    stages.push(stage);
                    continue;
                }
                Step::Weight(step) => {
                    split.weight = step.weight;
                    self.judged(split.clone(), step.min, step.max.unwrap_or(Span::secs(300)))
                }
                // A pause at 100 % is a longer bake.
                Step::Pause(pause) if stages.last().is_some_and(|stage| stage.kind == StageKind::Bake) => {
                    if let Some(bake) = stages.last_mut() {
                        bake.max = Span(bake.max.0 + pause.pause.0);
                        bake.min = bake.max;
                    }
                    continue;
                }
                Step::Pause(pause) => Stage {
                    kind: if split.reaches_canary() {
                        StageKind::Pause
                    } else {
                        StageKind::Preview
                    },
                    ..self.judged(split.clone(), Some(pause.pause), pause.pause)
                },
            };
            stages.push(Stage {
                gate: waiting_gate.take(),
                ..stage
            });
        }
        if let Some(gate) = waiting_gate {
            let mut stage = bake_stage(Span::secs(0));
            stage.gate = Some(gate);
            stages.push(stage);
        }
        stages
    }

    /// Ends the list with the bake, which takes over the gate of a written 100 % step.
    fn finish(&self, stages: &mut Vec<Stage>, bake: Option<Span>) {
        let written = stages.pop_if(|stage| stage.kind == StageKind::Bake);
        let written_time = written.as_ref().map(|stage| stage.max).filter(|max| !max.0.is_zero());
        let mut stage = bake_stage(bake.or(written_time).unwrap_or(Span::secs(300)));
        stage.gate = written.and_then(|stage| stage.gate);
        stages.push(stage);
    }

    fn judged(&self, split: Split, min: Option<Span>, max: Span) -> Stage {
        let capacity = split.weight;
        let min = min.unwrap_or(self.min_stage).min(max);
        Stage {
            kind: StageKind::Judge,
            split,
            capacity,
            gate: None,
            min,
            max,
            next_weight: Weight::FULL,
        }
    }
}

/// Without a router a weight of `w` takes `w / (1 - w)` as many instances as stable has.
fn share_by_instances(stage: &mut Stage) {
    let weight = stage.split.weight;
    if weight.is_zero() || weight.is_full() {
        return;
    }
    let (share, rest) = (u32::from(weight.permille()), u32::from(weight.rest().permille()));
    let needed = (share * 1000).div_ceil(rest).min(1000);
    let needed = Weight::from_permille(u16::try_from(needed).unwrap_or(1000)).unwrap_or(Weight::FULL);
    stage.capacity = stage.capacity.max(needed);
}

/// The bake gets no pods of its own: the platform rolls on from the size that was judged, at least a quarter.
fn roll_last(stages: &mut [Stage]) {
    if let Some((bake, before)) = stages.split_last_mut() {
        let judged = before.iter().map(|stage| stage.capacity).max().unwrap_or_default();
        bake.capacity = judged.max(Weight::from_permille(250).unwrap_or(Weight::FULL));
    }
}

fn bake_stage(time: Span) -> Stage {
    Stage {
        kind: StageKind::Bake,
        split: Split::weight(Weight::FULL),
        capacity: Weight::FULL,
        gate: None,
        min: time,
        max: time,
        next_weight: Weight::FULL,
    }
}

/// Tells each stage which weight its proof must be good for: the next one, or the one after a pause, which proves
/// nothing itself.
fn link_weights(stages: &mut [Stage]) {
    for index in (1..stages.len()).rev() {
        let next = &stages[index];
        stages[index - 1].next_weight = match next.kind {
            StageKind::Pause => next.next_weight,
            StageKind::Preview | StageKind::Judge | StageKind::Bake => next.split.weight.max(next.split.mirror),
        };
    }
}

fn early_rule(analysis: &AnalysisSpec) -> Option<PassEarlyRule> {
    match &analysis.pass_early {
        None | Some(PassEarly::Switch(true)) => Some(PassEarlyRule::default()),
        Some(PassEarly::Switch(false)) => None,
        Some(PassEarly::When(rule)) => Some(rule.clone()),
    }
}

/// The judge's settings from the analysis; without a fair comparison, errors become limits and the rest is left out.
pub fn judge_config(analysis: &AnalysisSpec, comparison: &Comparison) -> Config {
    let early = early_rule(analysis);
    let rule = early.clone().unwrap_or_default();
    let metrics = metrics(analysis);
    let tripwire = analysis.tripwire.map(|wire| Tripwire {
        max_ratio: wire.errors.fraction(),
        looks: wire.looks.unwrap_or(2),
        min_requests: wire.min_requests.unwrap_or(20) as f64,
    });
    let compare = *comparison == Comparison::WithStable;
    let defaults = Config::default();
    let every_s = measured_every(analysis).as_secs_f64();
    let written = analysis.burst_window.and_then(BurstWindow::span);
    let config = Config {
        alpha: analysis.false_rollback.map_or(defaults.alpha, |share| share.fraction()),
        burst_window_s: written.map_or(defaults.burst_window_s, Span::as_secs_f64),
        when_calm: (analysis.burst_window == Some(BurstWindow::Auto)).then(|| Blocks::calm(every_s)),
        severe_block_s: analysis
            .severe_window
            .map_or(defaults.severe_block_s, Span::as_secs_f64),
        min_stage_s: rule.min_stage.map_or(defaults.min_stage_s, Span::as_secs_f64),
        pass_early: early.is_some(),
        metrics: metrics
            .iter()
            .flat_map(|metric| metric_config(metric, &rule, tripwire.as_ref(), compare))
            .chain(analysis.traces.as_ref().filter(|_| compare).map(traces_config))
            .collect(),
        ..defaults
    };
    if analysis.severe_window.is_some() {
        config
    } else {
        config.with_severe_blocks_for(every_s)
    }
}

/// How often to look when nobody says.
fn usual_look(source: Option<&Source>) -> Span {
    match source {
        Some(Source::Prometheus(_)) => Span::secs(5),
        Some(Source::Scrape(_)) => Span::secs(1),
        None => Span::secs(2),
    }
}

/// How far apart two measurements are: no look is better than what the source has to tell.
fn measured_every(analysis: &AnalysisSpec) -> Span {
    let source = analysis.source.as_ref();
    let told = match source {
        Some(Source::Prometheus(prometheus)) => prometheus.every,
        Some(Source::Scrape(scrape)) => scrape.every,
        None => None,
    };
    let look = analysis.look.unwrap_or_else(|| usual_look(source));
    told.map_or(look, |told| told.max(look))
}

/// Traces in the judge. Without a fair comparison there is nothing that they could say.
fn traces_config(traces: &TracesSpec) -> MetricConfig {
    let defaults = OperationsConfig::default();
    MetricConfig {
        name: TRACES.to_owned(),
        weight: traces.weight.unwrap_or(1.0),
        kind: MetricKind::Operations(OperationsConfig {
            allow_ratio: traces.allow.map_or(defaults.allow_ratio, |allow| allow.times - 1.0),
            allow_abs: traces.allow.map_or(defaults.allow_abs, |allow| allow.plus),
            new_errors: traces.new_errors.map_or(defaults.new_errors, |share| share.fraction()),
            max_increase: traces.latency.map_or(defaults.max_increase, |allow| allow.times - 1.0),
            warmup_s: defaults.warmup_s,
            only_hold: traces.on_worse == OnWorse::Hold,
        }),
    }
}

/// What a metric's absolute limit is called beside its comparison; both see the same increments.
pub const LIMIT: &str = " (limit)";

/// The absolute limit used when there is no fair comparison and the user named none.
const UNCOMPARED_MAX_ERRORS: f64 = 0.05;

/// The share of all traffic that a fault still unseen may cost at the next weight, for errors and slowness alike.
fn budget(early: &PassEarlyRule) -> f64 {
    early
        .errors_of_all_traffic
        .map_or(ErrorsPass::default().of_total_traffic, |share| share.fraction())
}

fn metric_config(
    metric: &MetricSpec,
    early: &PassEarlyRule,
    tripwire: Option<&Tripwire>,
    compare: bool,
) -> Vec<MetricConfig> {
    let counts = |name: &str, allow: Option<Allow>, max: Option<f64>, weight: f64, tripwire: Option<Tripwire>| {
        let defaults = ErrorsConfig::default();
        let allow = allow.unwrap_or(Allow {
            times: 1.0 + defaults.allow_ratio,
            plus: defaults.allow_abs,
        });
        let compared = compare.then(|| MetricConfig {
            name: name.to_owned(),
            weight,
            kind: MetricKind::Errors(ErrorsConfig {
                allow_ratio: allow.times - 1.0,
                allow_abs: allow.plus,
                pass: ErrorsPass {
                    of_total_traffic: budget(early),
                    ..defaults.pass
                },
                tripwire: tripwire.clone(),
            }),
        });
        let max = max.or((!compare).then_some(UNCOMPARED_MAX_ERRORS));
        let limited = max.map(|max_ratio| MetricConfig {
            // Both judge the same increments; the second needs a name of its own in the verdict.
            name: if compare {
                format!("{name} (limit)")
            } else {
                name.to_owned()
            },
            weight,
            kind: MetricKind::Objective(ObjectiveConfig {
                max_ratio,
                tripwire: if compare { None } else { tripwire },
            }),
        });
        compared.into_iter().chain(limited).collect::<Vec<_>>()
    };
    match metric {
        MetricSpec::Errors(errors) => {
            let max = errors.max.map(|share| share.fraction());
            counts(
                "errors",
                errors.allow,
                max,
                errors.weight.unwrap_or(1.0),
                tripwire.cloned(),
            )
        }
        MetricSpec::Counters(counters) => {
            let max = counters.max.map(|share| share.fraction());
            counts(
                &counters.name,
                counters.allow,
                max,
                counters.weight.unwrap_or(1.0),
                None,
            )
        }
        MetricSpec::Latency(latency) if compare => {
            let defaults = LatencyConfig::default();
            let quantiles = latency
                .quantiles
                .as_ref()
                .map(|list| list.iter().map(|q| q.value()).collect());
            vec![MetricConfig {
                name: "latency".to_owned(),
                weight: latency.weight.unwrap_or(1.0),
                kind: MetricKind::Latency(LatencyConfig {
                    max_increase: latency.allow.map_or(defaults.max_increase, |allow| allow.times - 1.0),
                    pass_within: early.latency.map_or(defaults.pass_within, |allow| allow.times - 1.0),
                    pass_of_total_traffic: budget(early),
                    quantiles: quantiles.unwrap_or(defaults.quantiles),
                    warmup_s: latency.warmup.map_or(defaults.warmup_s, Span::as_secs_f64),
                }),
            }]
        }
        MetricSpec::Gauge(gauge) if compare => {
            let defaults = GaugeConfig::default();
            vec![MetricConfig {
                name: gauge.name.clone(),
                weight: gauge.weight.unwrap_or(1.0),
                kind: MetricKind::Gauge(GaugeConfig {
                    rel: gauge.allow.map_or(defaults.rel, |allow| allow.times - 1.0),
                    abs: gauge.allow.map_or(defaults.abs, |allow| allow.plus),
                    every_s: gauge.every.map_or(defaults.every_s, Span::as_secs_f64),
                }),
            }]
        }
        MetricSpec::Latency(_) | MetricSpec::Gauge(_) => Vec::new(),
    }
}
