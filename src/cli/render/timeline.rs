//! What each event of a release looks like: the picture of DESIGN.md section 7.
//!
//! ```text
//! 00:14    5 %     judging, 1m to 5m
//! 00:41  FAIL      errors: canary 412 of 1,360 (30 %), stable 26 of 25,900 (0.1 %); evidence 3,100 to 1, …
//! 00:42  back      all traffic is on stable, confirmed by the router
//! 00:49  ROLLED BACK  412 failed answers · 1.4.1 serves · wade why checkout 57
//! ```
//! One function for everything that tells of a release (`deploy`, `status -w`, `why`, the demo), so that they cannot
//! differ. The sentence is always the engine's own; this adds the column before it and, at the end, what came of it.

use jiff::{SignedDuration, Timestamp};

use super::evidence::{canary_counts, figures};
use super::line::{Line, Tone};
use super::numbers::{counted, weight};
use crate::controller::Notice;
use crate::engine::{Entry, Event, Outcome, Phase, Proof, State, TrafficOn, apply};
use crate::judge::Verdict;
use crate::plan::{Lane, Plan, Split, Stage, StageKind};
use crate::store::{ReleaseKey, ReleaseRecord};

/// What does not change while a release is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// Which release.
    pub key: ReleaseKey,
    /// Its plan.
    pub plan: Plan,
    /// The version that served when it began.
    pub stable: Option<String>,
    /// The version that is released.
    pub canary: String,
    /// When it was asked for: 00:00.
    pub started: Timestamp,
    /// What a command needs besides the rollout's name, ` -n shop`.
    pub place: String,
}

impl Context {
    /// The context of a recorded release.
    pub fn of(record: &ReleaseRecord) -> Self {
        Self {
            key: record.key.clone(),
            plan: record.plan.clone(),
            stable: record.stable.as_ref().map(|stable| stable.version.clone()),
            canary: record.canary.version.clone(),
            started: record.created,
            place: String::new(),
        }
    }

    fn since(&self, at: Timestamp) -> SignedDuration {
        at.duration_since(self.started)
    }
}

/// Tells a release event by event. It follows the state itself, because entries that were decided together arrive with
/// the phase after the last of them; and it remembers what the last line needs: how many requests the canary failed.
#[derive(Clone, Debug)]
pub struct Timeline {
    context: Context,
    state: State,
    failed: Option<f64>,
    /// The exit code to name in the last line, by outcome; not where nothing exits.
    exit: Option<fn(&Outcome) -> u8>,
}

impl Timeline {
    /// A timeline in which nothing has been told.
    pub fn new(context: Context) -> Self {
        let state = State::new(context.started);
        Self {
            context,
            state,
            failed: None,
            exit: None,
        }
    }

    /// With the exit code in the last line.
    #[must_use]
    pub fn with_exit(mut self, exit: fn(&Outcome) -> u8) -> Self {
        self.exit = Some(exit);
        self
    }

    /// What does not change.
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Where the release is after what has been told.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The lines of the next entry; entries come in order, each once. Empty for what only machines want to know.
    pub fn entry(&mut self, entry: &Entry) -> Vec<Line> {
        self.remember(entry.verdict.as_deref());
        let at = self.context.since(entry.at);
        let before = match apply(&self.context.plan, &self.state, &entry.event, entry.at) {
            Ok(next) => std::mem::replace(&mut self.state, next),
            // A damaged record is still worth reading.
            Err(error) => {
                return vec![Line::new(
                    at,
                    Tone::Bad,
                    "?",
                    format!("{} (entry {}: {error})", entry.reason, entry.number),
                )];
            }
        };
        let mut lines: Vec<Line> = self.event(at, entry, &before.phase).into_iter().collect();
        match &self.state.phase {
            Phase::Gated { stage }
                if !matches!(before.phase, Phase::Gated { .. }) && entry.event != Event::AskedForProof =>
            {
                lines.push(self.gate(at, *stage));
            }
            Phase::Done(outcome) if before.outcome().is_none() => lines.push(self.outcome(at, outcome)),
            _ => {}
        }
        lines
    }

    /// A look in which nothing happened, as the one live line under a timeline.
    pub fn look(&mut self, at: Timestamp, phase: &Phase, waiting_for: &str, verdict: Option<&Verdict>) -> Line {
        self.remember(verdict);
        let at = self.context.since(at);
        match phase {
            Phase::Analysing { stage } => {
                let seen = verdict.map(figures).filter(|seen| !seen.is_empty());
                let text = seen.map_or_else(|| waiting_for.to_owned(), |seen| format!("{seen}   {waiting_for}"));
                let suspicious = verdict.is_some_and(|verdict| verdict.suspicious);
                let tone = if suspicious { Tone::Warn } else { Tone::Quiet };
                Line::new(at, tone, share(&self.context.plan.stages[*stage].split), text)
            }
            Phase::Gated { .. } => Line::new(at, Tone::Warn, "gate", waiting_for),
            _ => Line::new(at, Tone::Quiet, "…", waiting_for),
        }
    }

    /// Something that could not be done and is tried again.
    pub fn trouble(&self, at: Timestamp, message: &str) -> Line {
        Line::new(self.context.since(at), Tone::Warn, "trouble", message)
    }

    /// The lines of a notice that belong into a log: looks are left out.
    pub fn notice(&mut self, notice: &Notice) -> Vec<Line> {
        match notice {
            Notice::Entry { entry, .. } => self.entry(entry),
            Notice::Look { verdict, .. } => {
                self.remember(verdict.as_deref());
                Vec::new()
            }
            Notice::Trouble { at, message, .. } => vec![self.trouble(*at, message)],
        }
    }

    fn remember(&mut self, verdict: Option<&Verdict>) {
        if let Some(counts) = verdict.and_then(canary_counts) {
            self.failed = Some(counts.bad);
        }
    }

    fn event(&self, at: SignedDuration, entry: &Entry, before: &Phase) -> Option<Line> {
        let (plan, why) = (&self.context.plan, entry.reason.as_str());
        let line = |tone: Tone, label: &str, text: String| Some(Line::new(at, tone, label, text));
        let said = |tone: Tone, label: &str| line(tone, label, why.to_owned());
        match &entry.event {
            Event::Admitted => match (&plan.lane, &self.context.stable) {
                (Lane::Normal, Some(stable)) => {
                    line(Tone::Plain, "start", format!("{} beside {stable}", self.context.canary))
                }
                _ => said(Tone::Plain, "start"),
            },
            Event::HooksEnded => said(Tone::Plain, "hooks"),
            Event::Ready => said(Tone::Plain, "ready"),
            Event::SmokePassed => said(Tone::Plain, "smoke"),
            Event::GateOpened { .. } => said(Tone::Good, "gate"),
            Event::Shifted { .. } => {
                let stage = &plan.stages[before.stage()?];
                line(Tone::Plain, &share(&stage.split), doing(plan, stage))
            }
            Event::StageEnded { proof: Proof::Passed } => said(Tone::Good, "pass"),
            Event::StageEnded { proof: Proof::Unproven } => said(Tone::Warn, "unproven"),
            // A stage without time (a first deploy's) has no end worth a line.
            Event::StageEnded {
                proof: Proof::NotJudged,
            } if plan.stages[before.stage()?].max.0.is_zero() => None,
            Event::StageEnded {
                proof: Proof::NotJudged,
            } => said(Tone::Plain, "over"),
            Event::AskedForProof => said(Tone::Warn, "gate"),
            Event::Promoted { .. } => said(Tone::Good, "promote"),
            Event::Paused { .. } => said(Tone::Warn, "paused"),
            Event::Resumed { .. } => said(Tone::Plain, "resumed"),
            Event::Refused { .. } => said(Tone::Warn, "refused"),
            Event::WatchedAgain { .. } => said(Tone::Warn, "unseen"),
            Event::SignalsLost { .. } => said(Tone::Warn, "no data"),
            Event::SignalsBack => said(Tone::Plain, "data"),
            Event::WouldHave => said(Tone::Bad, "observe"),
            Event::Retreated { outcome, .. } => said(
                if *outcome == Outcome::Superseded {
                    Tone::Warn
                } else {
                    Tone::Bad
                },
                match outcome {
                    Outcome::RolledBack => "FAIL",
                    Outcome::Aborted => "ABORT",
                    Outcome::Rejected => "REJECT",
                    Outcome::Superseded => "newer",
                    Outcome::Returned | Outcome::Promoted { .. } | Outcome::FirstDeploy => "RETURN",
                },
            ),
            Event::RouteRestored => {
                let on = self
                    .context
                    .stable
                    .as_ref()
                    .map(|stable| format!(" ({stable})"))
                    .unwrap_or_default();
                line(Tone::Good, "back", format!("{why}{on}"))
            }
            Event::CanaryDrained | Event::StableDrained => said(Tone::Quiet, "drain"),
            Event::Adopted => said(Tone::Plain, "serves"),
            Event::GotStuck { traffic_on } => line(Tone::Bad, "STUCK", format!("{why}; {}", users(*traffic_on))),
            Event::Retried { .. } => said(Tone::Plain, "retry"),
            // The lines around these say the same.
            Event::Prepared | Event::CanaryRemoved | Event::Restored | Event::Retired => None,
        }
    }

    fn gate(&self, at: SignedDuration, stage: usize) -> Line {
        let plan = &self.context.plan;
        let (who, expires) = match &plan.stages[stage].gate {
            Some(gate) if !gate.approvers.is_empty() => (gate.approvers.join(" or "), gate.expires),
            Some(gate) => ("anyone who may approve".to_owned(), gate.expires),
            None => ("anyone who may approve".to_owned(), plan.gate_within),
        };
        let (before, name) = (&plan.stages[stage].split, &self.context.key.rollout);
        let text = format!("before {before}: waiting for {who}, at most {expires} · wade approve {name}");
        Line::new(at, Tone::Warn, "gate", text)
    }

    fn outcome(&self, at: SignedDuration, outcome: &Outcome) -> Line {
        let Context {
            key, stable, canary, ..
        } = &self.context;
        let (tone, serves) = match outcome {
            Outcome::Promoted { .. } | Outcome::FirstDeploy => (Tone::Good, Some(canary)),
            Outcome::Superseded => (Tone::Warn, stable.as_ref()),
            Outcome::RolledBack | Outcome::Aborted | Outcome::Returned | Outcome::Rejected => {
                (Tone::Bad, stable.as_ref())
            }
        };
        let mut parts = Vec::new();
        match outcome {
            Outcome::Promoted { proven: true } => parts.push("proven".to_owned()),
            Outcome::Promoted { proven: false } => parts.push("unproven".to_owned()),
            Outcome::Rejected => parts.push("no user met it".to_owned()),
            _ => {}
        }
        if let Some(failed) = self
            .failed
            .filter(|_| !matches!(outcome, Outcome::Rejected | Outcome::FirstDeploy))
        {
            parts.push(counted(failed.round() as u64, "failed answer"));
        }
        parts.extend(serves.map(|version| format!("{version} serves")));
        parts.push(format!("wade why {} {}{}", key.rollout, key.number, self.context.place));
        let exit = self
            .exit
            .map(|exit| format!("     (exit {})", exit(outcome)))
            .unwrap_or_default();
        Line::new(at, tone, headline(outcome), parts.join(" · ") + &exit)
    }
}

/// Every line of a recorded release, oldest first.
pub fn record_lines(record: &ReleaseRecord) -> Vec<Line> {
    let mut timeline = Timeline::new(Context::of(record));
    record.history.iter().flat_map(|entry| timeline.entry(entry)).collect()
}

/// An outcome as the headline of its line.
pub const fn headline(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Promoted { .. } => "PROMOTED",
        Outcome::RolledBack => "ROLLED BACK",
        Outcome::Aborted => "ABORTED",
        Outcome::Returned => "RETURNED",
        Outcome::Rejected => "REJECTED",
        Outcome::Superseded => "SUPERSEDED",
        Outcome::FirstDeploy => "FIRST DEPLOY",
    }
}

/// Where users are, in words.
pub const fn users(traffic_on: TrafficOn) -> &'static str {
    match traffic_on {
        TrafficOn::Stable => "users are on stable",
        TrafficOn::Canary => "some users are on the new revision",
        TrafficOn::Unknown => "the router does not say where users are",
    }
}

/// The split as the column before the sentence.
fn share(split: &Split) -> String {
    match (&split.matching, split.weight.is_zero(), split.mirror.is_zero()) {
        (Some(_), _, _) => "match".to_owned(),
        (None, true, false) => "mirror".to_owned(),
        (None, _, _) => weight(split.weight),
    }
}

/// What happens in a stage, in words.
fn doing(plan: &Plan, stage: &Stage) -> String {
    let shown = if stage.split.matching.is_some() || !stage.split.mirror.is_zero() {
        format!("{}; ", stage.split)
    } else {
        String::new()
    };
    let what = match stage.kind {
        StageKind::Preview => format!("preview without users for {}", stage.max),
        StageKind::Pause => format!("judging, stays {}", stage.max),
        StageKind::Judge if plan.judge.pass_early && stage.min < stage.max => {
            format!("judging, {} to {}", stage.min, stage.max)
        }
        StageKind::Judge => format!("judging for {}", stage.max),
        StageKind::Bake if stage.max.0.is_zero() => "all users".to_owned(),
        StageKind::Bake => format!("bake {}, one step back if needed", stage.max),
    };
    shown + &what
}
