//! The way on, and the end of the way back: one step as soon as the facts allow it.
//!
//! Nothing here raises the weight in doubt: `may_raise` is asked at the end of a stage and again before the split of
//! the next one is written.

use jiff::{SignedDuration, Timestamp};

use super::{Case, HOOKS_GRACE, STUCK_AFTER, Step, back, counted, step, whole};
use crate::engine::desired::{instances, split_now};
use crate::engine::facts::{HookReport, Presence, Reading, SmokeReport, World};
use crate::engine::state::{Event, HandOver, Outcome, Phase, Proof, Return, TrafficOn};
use crate::judge::Call;
use crate::plan::{ALL_STABLE, Lane, Split, Stage, StageKind};
use crate::spec::windows::WindowVerdict;
use crate::spec::{Mode, OnUndecided, Outside, Span};

impl Case<'_> {
    pub(super) fn progress(&self) -> Option<Step> {
        if self.state.paused.is_some() {
            return None;
        }
        match &self.state.phase {
            Phase::Waiting => self.admit(),
            Phase::BeforeHooks { .. } => {
                let report = self.hooks()?;
                if report.passed {
                    step(Event::HooksEnded, report.summary.clone())
                } else {
                    back(self.bad(), report.summary.clone())
                }
            }
            Phase::Starting => {
                let canary = &self.facts.world.as_ref()?.canary;
                self.settled(canary, 0).then(|| {
                    step(
                        Event::Ready,
                        format!("{} ready for {}", counted(canary.ready, "instance"), self.plan.settle),
                    )
                })?
            }
            Phase::Smoking if self.plan.smoke.tests.is_empty() => {
                step(Event::SmokePassed, "no smoke tests are declared")
            }
            Phase::Smoking => match self.facts.world.as_ref()?.smoke.as_ref()? {
                SmokeReport { passed: true, summary } => step(Event::SmokePassed, summary.clone()),
                SmokeReport { passed: false, summary } => back(Outcome::Rejected, summary.clone()),
            },
            Phase::Gated { .. } => None,
            Phase::Preparing { stage } => {
                let canary = &self.facts.world.as_ref()?.canary;
                (self.settled(canary, *stage) && self.may_raise().is_ok()).then(|| {
                    let split = &self.plan.stages[*stage].split;
                    step(
                        Event::Prepared,
                        format!("{} ready for {split}", counted(canary.ready, "instance")),
                    )
                })?
            }
            Phase::Shifting { stage } => {
                let world = self.facts.world.as_ref()?;
                let split = &self.plan.stages[*stage].split;
                (world.route.split.as_ref() == Some(split)).then(|| {
                    step(
                        Event::Shifted {
                            restarts: world.canary.restarts,
                        },
                        format!("{split} confirmed by the router"),
                    )
                })?
            }
            Phase::Analysing { stage } => self.stage_over(*stage),
            Phase::HandingOver(part) => self.hand_over(*part),
            Phase::Returning(part, _) => self.go_back(*part),
            Phase::AfterHooks(outcome) => self.end_hooks(outcome),
            Phase::Done(_) => None,
        }
    }

    /// What ended a moment ago, once: the stage's own clock stands still for it.
    pub(super) fn unwatched(&self) -> Option<Step> {
        let (from, until) = self.facts.unwatched?;
        let state = self.state;
        let timed = state.phase.is_timed_by_looks() && state.paused.is_none();
        let news = timed && until > state.since && state.watched_again.is_none_or(|before| before < until);
        news.then(|| {
            let missed = until.duration_since(from.max(state.since));
            step(
                Event::WatchedAgain { from, until },
                format!(
                    "nobody looked for {}; that time does not count for the stage",
                    whole(missed)
                ),
            )
        })?
    }

    /// How the hooks ended that run in this phase.
    fn hooks(&self) -> Option<&HookReport> {
        let report = self.facts.world.as_ref()?.hooks.as_ref()?;
        (self.state.phase.hook_point() == Some(report.at)).then_some(report)
    }

    /// What follows an outcome changes nothing about it, and a hook that never ends does not keep the release open.
    fn end_hooks(&self, outcome: &Outcome) -> Option<Step> {
        let at = self.state.phase.hook_point()?;
        let stays = format!("the outcome stays {}", outcome.label());
        if let Some(report) = self.hooks() {
            return match report.passed {
                true => step(Event::HooksEnded, report.summary.clone()),
                false => step(Event::HooksEnded, format!("{}; {stays}", report.summary)),
            };
        }
        let limit = self.plan.hooks_within(at).unwrap_or(Span::secs(0));
        let late = self.now.duration_since(self.state.since);
        (late >= limit.signed() + HOOKS_GRACE.signed()).then(|| {
            step(
                Event::HooksEnded,
                format!("the hooks {at} gave no result within {limit}; {stays}"),
            )
        })?
    }

    fn admit(&self) -> Option<Step> {
        match self.closed() {
            None => step(
                Event::Admitted,
                match &self.plan.lane {
                    Lane::Normal => "release begins".to_owned(),
                    Lane::FirstDeploy => "first deploy: there is no stable revision yet".to_owned(),
                    Lane::Rollback => "going back to a revision that has served before".to_owned(),
                    Lane::Emergency { reason } => format!("emergency: no window, gate or comparison ({reason})"),
                },
            ),
            // The pipeline that said no has ended or waits for us: its word is not going to change.
            Some((why, _))
                if self.plan.windows.outside == Outside::Reject || self.facts.deploy_window == Some(false) =>
            {
                back(Outcome::Rejected, why)
            }
            Some(_) => None,
        }
    }

    /// Why no release may begin now, and when one may.
    pub(super) fn closed(&self) -> Option<(String, Option<Timestamp>)> {
        if matches!(self.plan.lane, Lane::Rollback | Lane::Emergency { .. }) {
            return None;
        }
        if self.facts.deploy_window == Some(false) {
            return Some((
                "DEPLOY_WINDOW is not true: the pipeline says that no release may begin now".to_owned(),
                None,
            ));
        }
        match self.plan.windows.verdict(self.now) {
            WindowVerdict::Open => None,
            WindowVerdict::Closed { why, opens } => {
                let when = opens
                    .map(|at| format!("; the next window opens at {}", whole_second(at)))
                    .unwrap_or_default();
                Some((format!("{why}{when}"), opens))
            }
        }
    }

    fn settled(&self, canary: &Presence, stage: usize) -> bool {
        let need = instances(self.plan.stages[stage].capacity, canary.full);
        canary.ready >= need
            && canary
                .ready_since
                .is_some_and(|since| since + self.plan.settle.signed() <= self.now)
    }

    pub(super) fn sized(&self, stage: usize) -> bool {
        let world = self.facts.world.as_ref();
        world.is_some_and(|world| self.settled(&world.canary, stage))
    }

    /// Never raise the weight while suspicious, blind or after a bad look. A person who promoted answers for it.
    pub(super) fn may_raise(&self) -> Result<(), String> {
        if self.state.vouched.is_some() || !split_now(self.plan, self.state).reaches_canary() {
            return Ok(());
        }
        // What is known against the canary stays known while nothing can be measured, whatever the policy for that.
        let suspicion = self
            .facts
            .suspicion
            .as_ref()
            .filter(|_| self.plan.mode == Mode::Enforce);
        if let Some(reason) = suspicion {
            return Err(reason.clone());
        }
        match self.facts.reading.as_ref() {
            Some(Reading::Verdict { verdict, .. }) if verdict.suspicious || verdict.call == Call::Fail => {
                if self.plan.mode == Mode::Observe {
                    Ok(())
                } else {
                    // The judge's sentence says itself that it is suspicious.
                    Err(verdict.reason.clone())
                }
            }
            Some(Reading::Verdict { .. }) => Ok(()),
            Some(Reading::NoData { kind, .. }) if self.goes_on_without(*kind) => Ok(()),
            Some(Reading::NoData { kind, .. }) => Err(kind.to_string()),
            None => Err("nothing has been measured yet".to_owned()),
        }
    }

    fn stage_over(&self, index: usize) -> Option<Step> {
        let stage = &self.plan.stages[index];
        let spent = self.now.duration_since(self.state.since);
        let next = if index == self.plan.bake() {
            "hand over".to_owned()
        } else {
            self.plan.stages[index + 1].split.to_string()
        };
        // A split that somebody else has changed proves nothing; the action puts it back first.
        self.facts
            .world
            .as_ref()
            .filter(|world| world.route.split.as_ref() == Some(&stage.split))?;
        match stage.kind {
            StageKind::Preview | StageKind::Pause | StageKind::Bake => {
                // Without stages that reach the canary there is nothing to be suspicious of.
                let clear = !stage.split.reaches_canary() || stage.max.0.is_zero() || self.may_raise().is_ok();
                (spent >= stage.max.signed() && clear).then(|| {
                    let what = match stage.kind {
                        StageKind::Preview => "preview",
                        StageKind::Bake => "bake",
                        StageKind::Pause | StageKind::Judge => "pause",
                    };
                    let blind = self
                        .state
                        .no_data
                        .map(|lost| format!(", unproven: {}", lost.kind))
                        .unwrap_or_default();
                    step(
                        Event::StageEnded {
                            proof: Proof::NotJudged,
                        },
                        format!("{what} over after {}{blind}; next: {next}", whole(spent)),
                    )
                    .map(|step| step.with_verdict(self.verdict().map(|(_, verdict)| verdict)))
                })?
            }
            StageKind::Judge => self.judged_stage_over(index, stage, spent, &next),
        }
    }

    fn judged_stage_over(&self, index: usize, stage: &Stage, spent: SignedDuration, next: &str) -> Option<Step> {
        let verdict = self
            .verdict()
            .filter(|(of, _)| *of == index)
            .map(|(_, verdict)| verdict);
        if let Some(verdict) = verdict
            .filter(|verdict| verdict.call == Call::Pass && spent >= stage.min.signed() && self.may_raise().is_ok())
        {
            let reason = format!("proven after {}: {}; next: {next}", whole(spent), verdict.reason);
            return step(Event::StageEnded { proof: Proof::Passed }, reason)
                .map(|step| step.with_verdict(Some(verdict)));
        }
        if spent < stage.max.signed() || self.may_raise().is_err() {
            return None;
        }
        let why = match (verdict, &self.facts.reading) {
            (Some(verdict), _) => verdict.reason.clone(),
            (None, Some(Reading::NoData { kind, .. })) => kind.to_string(),
            (None, _) => "nothing was measured".to_owned(),
        };
        let time = whole(spent);
        match self.plan.on_undecided {
            OnUndecided::Advance => step(
                Event::StageEnded { proof: Proof::Unproven },
                format!("time is up after {time} without proof ({why}); going on, unproven; next: {next}"),
            ),
            OnUndecided::Gate => step(
                Event::AskedForProof,
                format!("time is up after {time} without proof ({why}); a person has to approve {next}"),
            ),
            OnUndecided::Return => back(
                self.unfinished(),
                format!("time is up after {time} without proof ({why})"),
            ),
        }
        .map(|step| step.with_verdict(verdict))
    }

    fn hand_over(&self, part: HandOver) -> Option<Step> {
        let world = self.facts.world.as_ref();
        let late = self.now.duration_since(self.state.since);
        match (part, world) {
            (HandOver::Adopt, Some(world)) if world.adopted => {
                step(Event::Adopted, "the new revision is the one that serves now")
            }
            (HandOver::Drain, Some(world)) if world.stable.drained || world.stable.exists == 0 => {
                step(Event::StableDrained, "the old revision's requests have finished")
            }
            (HandOver::Drain, _) if late >= self.plan.drain_within.signed() => step(
                Event::StableDrained,
                format!(
                    "the old revision's last requests did not finish within {}",
                    self.plan.drain_within
                ),
            ),
            (HandOver::Retire, Some(world))
                if self.applied
                    && world.stable.exists == 0
                    && world.restored
                    && !meddled(world, &self.plan.stages[self.plan.bake()].split) =>
            {
                step(
                    Event::Retired,
                    match self.plan.lane {
                        Lane::FirstDeploy => "serving".to_owned(),
                        _ if self.state.proven() => "promoted, proven".to_owned(),
                        _ => "promoted, unproven".to_owned(),
                    },
                )
            }
            _ => self.stuck_after(TrafficOn::Canary, "the hand over"),
        }
    }

    fn go_back(&self, part: Return) -> Option<Step> {
        let world = self.facts.world.as_ref();
        let late = self.now.duration_since(self.state.since);
        match (part, world) {
            (Return::Route, Some(world)) if world.route.split.as_ref() == Some(&ALL_STABLE) => step(
                Event::RouteRestored,
                "all traffic is on stable, confirmed by the router",
            ),
            (Return::Route, world) => {
                let traffic_on = match world.and_then(|world| world.route.split.as_ref()) {
                    Some(split) if split.serves_users() => TrafficOn::Canary,
                    Some(_) => TrafficOn::Stable,
                    None => TrafficOn::Unknown,
                };
                self.stuck_after(traffic_on, "the way back")
            }
            (Return::Drain, Some(world)) if world.canary.drained || world.canary.exists == 0 => {
                step(Event::CanaryDrained, "the canary's requests have finished")
            }
            (Return::Drain, _) if late >= self.plan.drain_within.signed() => step(
                Event::CanaryDrained,
                format!(
                    "the canary's last requests did not finish within {}",
                    self.plan.drain_within
                ),
            ),
            (Return::Remove, Some(world)) if world.canary.exists == 0 => {
                step(Event::CanaryRemoved, "the canary is gone")
            }
            (Return::Restore, Some(world)) if self.applied && world.restored && !meddled(world, &ALL_STABLE) => {
                step(Event::Restored, "everything is as it was before the release")
            }
            _ => self.stuck_after(TrafficOn::Stable, "cleaning up"),
        }
    }

    /// Says once that a step does not end by itself; the actions go on being tried.
    fn stuck_after(&self, traffic_on: TrafficOn, what: &str) -> Option<Step> {
        let limit = self.plan.confirm_within.signed() * STUCK_AFTER + self.plan.drain_within.signed();
        let late = self.now.duration_since(self.state.since);
        (self.state.stuck.is_none() && late >= limit).then(|| {
            let seen = if self.facts.world.is_none() { "; the platform cannot be observed" } else { "" };
            step(Event::GotStuck { traffic_on }, format!("{what} does not come to an end after {}{seen}; Wade keeps trying, `wade retry` starts its clock again", whole(late)))
        })?
    }
}

fn whole_second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Whether somebody else has changed the split since it was confirmed; the action puts it back first, so that a release
/// never ends with users where it says they are not.
fn meddled(world: &World, split: &Split) -> bool {
    world.route.split.as_ref().is_some_and(|seen| seen != split)
}
