//! The stages of a plan, walked over a recording with the judge alone.
//!
//! A stage begins with the canary's first requests, ends when the judge passes it (after its shortest time) or when its time
//! is up, and then what the plan says about proof follows, as the engine would do it. After the last stage the judge goes
//! on looking: evidence that comes only then says that the stages were too short.

use serde::Serialize;

use super::{Look, Recording};
use crate::controller::with_limits;
use crate::judge::{Call, Course, Judge, Verdict};
use crate::plan::{LIMIT, Plan, Stage, StageKind};
use crate::spec::OnUndecided;

/// What a replay shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// What happened, in order.
    pub moments: Vec<Moment>,
    /// How it ended.
    pub end: End,
    /// When it ended, in seconds since the recording begins; the recording's end if nothing ended it before.
    pub ended_s: f64,
    /// When the canary had its first requests.
    pub canary_since_s: Option<f64>,
    /// The canary's share of all requests in the recording.
    pub canary_share: Option<f64>,
    /// Looks in the recording.
    pub looks: usize,
    /// The verdict with which it ended, or the last one.
    pub verdict: Option<Box<Verdict>>,
    /// How the evidence went.
    pub course: Course,
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// Seconds since the recording begins.
    pub t_s: f64,
    /// What, in a word: `stage`, `unclear`, `suspect`, `pass`, `unproven`, `over`, `gate`, `FAIL`,
    /// `everyone`, `later`.
    pub what: &'static str,
    /// In a sentence.
    pub reason: String,
}

/// What the settings would have done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "end")]
pub enum End {
    /// Back to stable because of a failing verdict.
    RolledBack,
    /// Back to stable because a stage was not proven.
    Returned,
    /// To everybody.
    Everybody {
        /// Every stage was proven.
        proven: bool,
        /// When the evidence would have failed it after all, if it would.
        failed_later_s: Option<f64>,
    },
    /// The recording ends before the release does.
    Unfinished,
    /// The canary has no requests in the recording.
    NoCanary,
}

/// Judges a recording by a plan. Stages that the recording names itself are taken from it if `own_stages` says so: then
/// nothing but the judge's calls ends it.
pub fn replay(plan: &Plan, recording: &Recording, own_stages: bool) -> Replayed {
    let mut walk = Walk::new(plan, recording);
    for look in &recording.looks {
        if walk.ended() {
            break;
        }
        walk.look(look, own_stages);
    }
    walk.over(recording)
}

struct Walk<'a> {
    plan: &'a Plan,
    recording: &'a Recording,
    judge: Judge,
    /// Those in which both have traffic; a plan without any is one long comparison.
    stages: Vec<&'a Stage>,
    /// The stage that runs, and since when.
    stage: Option<(usize, f64)>,
    proven: bool,
    told: Option<(Call, bool)>,
    moments: Vec<Moment>,
    end: Option<(End, f64)>,
    canary_since_s: Option<f64>,
    verdict: Option<Box<Verdict>>,
    course: Course,
}

impl<'a> Walk<'a> {
    fn new(plan: &'a Plan, recording: &'a Recording) -> Self {
        let judged = |stage: &&Stage| matches!(stage.kind, StageKind::Judge | StageKind::Pause);
        Self {
            plan,
            recording,
            judge: Judge::new(plan.judge.clone(), recording.history.as_ref()),
            stages: plan.stages.iter().filter(judged).collect(),
            stage: None,
            proven: true,
            told: None,
            moments: Vec::new(),
            end: None,
            canary_since_s: None,
            verdict: None,
            course: Course::default(),
        }
    }

    /// Whether looking on shows nothing new.
    fn ended(&self) -> bool {
        match &self.end {
            None
            | Some((
                End::Everybody {
                    failed_later_s: None, ..
                },
                _,
            )) => false,
            Some(_) => true,
        }
    }

    fn look(&mut self, look: &Look, own_stages: bool) {
        let t_s = look.t_s;
        if self.canary_since_s.is_none() && look.requests().canary > 0.0 {
            self.canary_since_s = Some(t_s);
            if !own_stages {
                self.begin(0, t_s);
            }
        }
        if let Some((stage, began_s, next)) = look.stage.filter(|_| own_stages) {
            if self.stage.is_none_or(|(now, _)| now != stage as usize) {
                self.stage = Some((stage as usize, began_s));
                self.tell(t_s, "stage", format!("stage {} of the recording", stage + 1));
            }
            self.judge.start_stage(stage, began_s, next);
        }
        let mut verdict = Box::new(self.judge.look(t_s, &with_limits(&look.seen, self.plan)));
        let sources = &self.recording.sources;
        verdict.name_sources(|metric| sources.get(metric.strip_suffix(LIMIT).unwrap_or(metric)).cloned());
        self.course.push(t_s, &verdict);
        if self.end.is_some() {
            self.after_everybody(t_s, &verdict);
            return;
        }
        let call = (verdict.call, verdict.suspicious);
        let changed = self.told.is_some_and(|told| told != call) || (self.told.is_none() && call.0 != Call::Undecided);
        self.told = Some(call);
        match verdict.call {
            Call::Fail => {
                self.tell(t_s, "FAIL", verdict.reason.clone());
                self.end = Some((End::RolledBack, t_s));
            }
            Call::Undecided if changed => {
                let what = if verdict.suspicious { "suspect" } else { "unclear" };
                let reason = verdict
                    .reason
                    .trim_start_matches("suspicious: ")
                    .trim_start_matches("undecided: ");
                self.tell(t_s, what, reason.to_owned());
            }
            Call::Pass if changed && own_stages => self.tell(t_s, "pass", verdict.reason.clone()),
            Call::Pass | Call::Undecided => {}
        }
        let standing = (verdict.call, verdict.suspicious, verdict.reason.clone());
        self.verdict = Some(verdict);
        if !own_stages && self.end.is_none() {
            self.end_of_stage(t_s, &standing);
        }
    }

    fn begin(&mut self, index: usize, t_s: f64) {
        self.stage = Some((index, t_s));
        let (text, next) = match self.stages.get(index) {
            None => (
                "judged to the end, the plan has no stage with both in traffic".to_owned(),
                1.0,
            ),
            Some(stage) => {
                let times = if stage.kind == StageKind::Judge && self.plan.judge.pass_early && stage.min < stage.max {
                    format!("judged, {} to {}", stage.min, stage.max)
                } else {
                    format!("judged for {}", stage.max)
                };
                (format!("{}: {times}", stage.split), stage.next_weight.fraction())
            }
        };
        self.tell(t_s, "stage", text);
        self.judge
            .start_stage(u32::try_from(index).unwrap_or(u32::MAX), t_s, next);
    }

    fn end_of_stage(&mut self, t_s: f64, (call, suspicious, reason): &(Call, bool, String)) {
        let Some((index, began_s)) = self.stage else { return };
        let Some(stage) = self.stages.get(index) else { return };
        let lasted = t_s - began_s;
        let proven = *call == Call::Pass;
        let early = stage.kind == StageKind::Judge && proven && lasted >= stage.min.as_secs_f64();
        let up = lasted >= stage.max.as_secs_f64();
        // As the engine does: no more traffic while the canary is suspicious.
        if *suspicious || !(early || up) {
            return;
        }
        if stage.kind == StageKind::Pause {
            self.tell(t_s, "over", format!("after {lasted:.0} s, as planned; {reason}"));
        } else if proven {
            self.tell(t_s, "pass", format!("after {lasted:.0} s, {reason}"));
        } else {
            self.proven = false;
            self.tell(t_s, "unproven", format!("time is up after {lasted:.0} s, {reason}"));
            match self.plan.on_undecided {
                OnUndecided::Return => {
                    self.end = Some((End::Returned, t_s));
                    return;
                }
                OnUndecided::Gate => self.tell(t_s, "gate", "a person would have been asked; taken as yes".to_owned()),
                OnUndecided::Advance => {}
            }
        }
        if index + 1 < self.stages.len() {
            self.begin(index + 1, t_s);
            // The next stage's verdict is about what it sees itself.
            self.told = None;
        } else {
            let proven = self.proven;
            self.tell(t_s, "everyone", "all stages are over: to everybody".to_owned());
            let failed_later_s = None;
            self.end = Some((End::Everybody { proven, failed_later_s }, t_s));
        }
    }

    fn after_everybody(&mut self, t_s: f64, verdict: &Verdict) {
        if verdict.call != Call::Fail {
            return;
        }
        if let Some((End::Everybody { failed_later_s, .. }, _)) = &mut self.end {
            *failed_later_s = Some(t_s);
        }
        self.tell(t_s, "later", format!("too late: {}", verdict.reason));
        self.verdict = Some(Box::new(verdict.clone()));
    }

    fn tell(&mut self, t_s: f64, what: &'static str, reason: String) {
        self.moments.push(Moment { t_s, what, reason });
    }

    fn over(self, recording: &Recording) -> Replayed {
        let last_s = recording.looks.last().map_or(0.0, |look| look.t_s);
        let (mut canary, mut all) = (0.0, 0.0);
        for look in &recording.looks {
            let requests = look.requests();
            canary += requests.canary;
            all += requests.canary + requests.stable;
        }
        let open = if self.canary_since_s.is_none() {
            End::NoCanary
        } else {
            End::Unfinished
        };
        let (end, ended_s) = self.end.unwrap_or((open, last_s));
        Replayed {
            moments: self.moments,
            end,
            ended_s,
            canary_since_s: self.canary_since_s,
            canary_share: (all > 0.0).then(|| canary / all),
            looks: recording.looks.len(),
            verdict: self.verdict,
            course: self.course,
        }
    }
}
