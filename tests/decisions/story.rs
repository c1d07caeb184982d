//! A script, a world that obeys, and the engine: what comes of it is the timeline.
//!
//! The world does at once what the decision asks (instances are ready after two seconds), unless the script says that
//! something refuses. The judge says what the script says it says. Every decision is checked on the way: asked again
//! with the same facts it changes nothing, the history replays to the same state, and the way back has no step forward.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use wade::engine::{
    Action, Actor, Cause, Command, CommandKind, Decision, Diagnosis, Entry, Facts, HookReport, NoData, Outcome, Phase,
    Presence, Reading, RouteFact, SmokeReport, State, TrafficOn, World, decide, replay,
};
use wade::judge::{Call, Verdict};
use wade::plan::{ALL_STABLE, Plan, Split};
use wade::spec::{HookPoint, TrafficMatch, Weight};

/// When stories begin: a Monday morning.
pub(crate) const START: &str = "2026-03-02T10:00:00Z";
/// Instances at full size.
pub(crate) const FULL: u32 = 4;
const READY_AFTER: SignedDuration = SignedDuration::from_secs(2);
const HOOKS_TAKE: SignedDuration = SignedDuration::from_secs(3);
const SMOKE_TAKES: SignedDuration = SignedDuration::from_secs(1);
/// A story that has not ended then stands still.
const PATIENCE: SignedDuration = SignedDuration::from_hours(24);

pub(crate) fn start() -> Timestamp {
    START.parse().expect("a literal timestamp")
}

/// The timeline of `script` under `plan`.
///
/// Each line is `MINUTES:SECONDS WORDS`; see [`Story::hear`] for the words. After the last line the story goes on until
/// the release is over, or until the line `end`.
pub(crate) fn tell(plan: &Plan, script: &str) -> String {
    let mut story = Story::new(plan.clone());
    let mut ended = false;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (time, words) = line.split_once(' ').unwrap_or_else(|| panic!("`{line}` says no time"));
        let time = start() + minutes(time);
        if time > story.now {
            story.until(time);
        }
        if words.trim() == "end" {
            ended = true;
            break;
        }
        story.hear(words.trim());
    }
    if !ended {
        // What was said last is heard before time goes on.
        story.until(start() + PATIENCE);
    }
    story.finish()
}

fn minutes(text: &str) -> SignedDuration {
    let part = |part: &str| {
        part.parse::<i64>()
            .unwrap_or_else(|_| panic!("`{text}` is not MINUTES:SECONDS"))
    };
    let (minutes, seconds) = text
        .split_once(':')
        .unwrap_or_else(|| panic!("`{text}` is not MINUTES:SECONDS"));
    SignedDuration::from_secs(part(minutes) * 60 + part(seconds))
}

/// What the judge says while a split that was analysed is in force.
enum Says {
    Nothing,
    Undecided,
    Pass,
    Suspicious,
    Fail,
    NoData(NoData),
}

struct Story {
    plan: Plan,
    state: State,
    history: Vec<Entry>,
    actions: Vec<Action>,
    now: Timestamp,
    says: Says,
    /// The stage that the judge was told of last.
    judged: Option<usize>,
    canary: Presence,
    stable: u32,
    ready_at: Option<Timestamp>,
    starts: bool,
    route: Option<Split>,
    adopted: bool,
    restored: bool,
    drains: bool,
    smoke: Result<(), String>,
    smoke_answers: bool,
    smoke_at: Option<Timestamp>,
    hooks_at: Option<(HookPoint, Timestamp)>,
    hook_fails: Option<(String, String)>,
    hooks_answer: bool,
    refuses: Vec<String>,
    dark: bool,
    commands: Vec<Command>,
    newer: Option<String>,
    window: Option<bool>,
    unwatched: Option<(Timestamp, Timestamp)>,
    out: String,
}

impl Story {
    fn new(plan: Plan) -> Self {
        let first = matches!(plan.lane, wade::plan::Lane::FirstDeploy);
        Self {
            plan,
            state: State::new(start()),
            history: Vec::new(),
            actions: Vec::new(),
            now: start(),
            says: Says::Pass,
            judged: None,
            canary: Presence {
                full: FULL,
                drained: true,
                ..Presence::default()
            },
            stable: if first { 0 } else { FULL },
            ready_at: None,
            starts: true,
            route: Some(ALL_STABLE),
            adopted: false,
            restored: true,
            drains: true,
            smoke: Ok(()),
            smoke_answers: true,
            smoke_at: None,
            hooks_at: None,
            hook_fails: None,
            hooks_answer: true,
            refuses: Vec::new(),
            dark: false,
            commands: Vec::new(),
            newer: None,
            window: None,
            unwatched: None,
            out: String::new(),
        }
    }

    /// One line of the script. Lines of the same time are heard before Wade looks.
    fn hear(&mut self, words: &str) {
        let _ = writeln!(self.out, "{:>6}  > {words}", self.clock());
        let (first, rest) = words.split_once(' ').unwrap_or((words, ""));
        match first {
            // judge pass | undecided | suspicious | fail | nothing | source down | canary silent | both silent
            "judge" => {
                self.says = match rest {
                    "pass" => Says::Pass,
                    "undecided" => Says::Undecided,
                    "suspicious" => Says::Suspicious,
                    "fail" => Says::Fail,
                    "nothing" => Says::Nothing,
                    "source down" => Says::NoData(NoData::SourceDown),
                    "canary silent" => Says::NoData(NoData::CanarySilent),
                    "both silent" => Says::NoData(NoData::BothSilent),
                    _ => panic!("the judge cannot say `{rest}`"),
                }
            }
            // platform refuses ACTION | does ACTION | dark | seen
            "platform" => match rest.split_once(' ') {
                Some(("refuses", what)) => self.refuses.push(what.to_owned()),
                Some(("does", what)) => self.refuses.retain(|refused| refused != what),
                None if rest == "dark" => self.dark = true,
                None if rest == "seen" => self.dark = false,
                _ => panic!("the platform cannot `{rest}`"),
            },
            // router 30% (somebody else wrote it) | unknown
            "router" if rest == "unknown" => self.route = None,
            "router" => {
                self.route = Some(Split::weight(rest.parse::<Weight>().expect("a weight after `router`")));
            }
            // canary never ready | busy | loses all | has none ready | recovers | restarts | breaks WORDS | ails WORDS
            "canary" => self.canary(rest),
            // smoke fails WORDS | silent
            "smoke" => match rest.split_once(' ') {
                Some(("fails", why)) => self.smoke = Err(why.to_owned()),
                None if rest == "silent" => self.smoke_answers = false,
                _ => panic!("smoke tests cannot `{rest}`"),
            },
            // hook fails POINT WORDS | silent
            "hook" if rest == "silent" => self.hooks_answer = false,
            "hook" => {
                let words = rest.strip_prefix("fails ").expect("a hook fails, or is silent");
                let (point, why) = words.split_once(' ').expect("a hook fails somewhere, for a reason");
                self.hook_fails = Some((point.to_owned(), why.to_owned()));
            }
            "newer" => self.newer = Some(rest.to_owned()),
            "DEPLOY_WINDOW" => self.window = Some(rest == "true"),
            // away SECONDS: until now, and everything of before is gone
            "away" => {
                let secs = rest.parse::<i64>().expect("seconds after `away`");
                self.unwatched = Some((self.now - SignedDuration::from_secs(secs), self.now));
            }
            // Whatever Wade did not write down is gone.
            "restart" => {
                let text = serde_json::to_string(&self.state).expect("a state can be written");
                self.state = serde_json::from_str(&text).expect("a state can be read");
                self.actions.clear();
            }
            person => self.ask(person, rest),
        }
    }

    fn canary(&mut self, words: &str) {
        let none_ready = |canary: &mut Presence, now| {
            canary.ready = 0;
            canary.ready_since = None;
            canary.none_ready_since = Some(now);
        };
        let ill = |message: &str, fatal| {
            Some(Diagnosis {
                kind: "story".to_owned(),
                message: message.to_owned(),
                fatal,
            })
        };
        match words.split_once(' ') {
            None if words == "busy" => {
                self.drains = false;
                self.canary.drained = false;
            }
            None if words == "restarts" => self.canary.restarts += 1,
            None if words == "recovers" => {
                self.canary.diagnosis = None;
                self.ready_at = Some(self.now + READY_AFTER);
                self.starts = true;
            }
            Some(("never", "ready")) => self.starts = false,
            Some(("loses", "all")) => {
                none_ready(&mut self.canary, self.now);
                self.canary.exists = 0;
                self.starts = false;
                self.refuses.push("canary".to_owned());
            }
            Some(("has", "none ready")) => {
                none_ready(&mut self.canary, self.now);
                self.ready_at = None;
                self.starts = false;
            }
            Some(("breaks", why)) => self.canary.diagnosis = ill(why, true),
            Some(("ails", why)) => self.canary.diagnosis = ill(why, false),
            _ => panic!("the canary cannot `{words}`"),
        }
    }

    /// `ann: approve`, `bob(payments): promote --full because …`.
    fn ask(&mut self, person: &str, words: &str) {
        let name = person
            .strip_suffix(':')
            .unwrap_or_else(|| panic!("`{person} {words}` is not in the language"));
        let by = match name.split_once('(') {
            Some((user, group)) => Actor {
                user: user.to_owned(),
                groups: vec![group.trim_end_matches(')').to_owned()],
                from: None,
            },
            None => Actor::named(name),
        };
        let (asked, reason) = match words.split_once(" because ") {
            Some((asked, reason)) => (asked, Some(reason.to_owned())),
            None => (words, None),
        };
        // `pause + resume + abort` are written before Wade looks again.
        for word in asked.split(" + ") {
            let kind = match word {
                "approve" => CommandKind::Approve,
                "promote" => CommandKind::Promote { full: false },
                "promote --full" => CommandKind::Promote { full: true },
                "pause" => CommandKind::Pause,
                "resume" => CommandKind::Resume,
                "abort" => CommandKind::Abort,
                "retry" => CommandKind::Retry,
                _ => panic!("`{word}` is no command"),
            };
            let id = self.commands.len() as u64 + 1;
            self.commands.push(Command {
                id,
                kind,
                by: by.clone(),
                reason: reason.clone(),
                at: self.now,
            });
        }
    }

    fn facts(&self) -> Facts {
        let world = World {
            canary: self.canary.clone(),
            stable: Presence {
                exists: self.stable,
                full: FULL,
                ready: self.stable,
                drained: true,
                ..Presence::default()
            },
            route: RouteFact {
                split: self.route.clone(),
                conflict: None,
            },
            adopted: self.adopted,
            hooks: self
                .hooks_at
                .filter(|(_, at)| *at <= self.now && self.hooks_answer)
                .map(|(point, _)| {
                    let failed = self.hook_fails.as_ref().filter(|(of, _)| of == point.label());
                    HookReport {
                        at: point,
                        passed: failed.is_none(),
                        summary: match failed {
                            Some((_, why)) => format!("hook migrate ({point}) failed: {why}"),
                            None => format!("hooks {point} ended well"),
                        },
                    }
                }),
            smoke: self
                .smoke_at
                .filter(|at| *at <= self.now && self.smoke_answers)
                .map(|_| match &self.smoke {
                    Ok(()) => SmokeReport {
                        passed: true,
                        summary: "1 of 1 smoke tests passed".to_owned(),
                    },
                    Err(why) => SmokeReport {
                        passed: false,
                        summary: why.clone(),
                    },
                }),
            restored: self.restored,
            interference: None,
        };
        Facts {
            suspicion: None,
            unapplied: false,
            world: (!self.dark).then_some(world),
            reading: self.reading(),
            commands: self.commands.clone(),
            newer: self.newer.clone(),
            unwatched: self.unwatched,
            deploy_window: self.window,
        }
    }

    fn reading(&self) -> Option<Reading> {
        self.state.split_of?;
        self.state.phase.stage()?;
        let stage = self.judged?;
        let verdict = |call, suspicious, reason: &str| {
            let reason = reason.to_owned();
            Some(Reading::Verdict {
                stage,
                verdict: Box::new(verdict(call, suspicious, reason)),
            })
        };
        match self.says {
            Says::Nothing => None,
            Says::Pass if stage == self.plan.bake() => verdict(Call::Undecided, false, "errors 3 of 3,000"),
            Says::Pass => verdict(Call::Pass, false, "errors 1 of 1,000, stable 9 of 9,000"),
            Says::Undecided => verdict(Call::Undecided, false, "errors 0 of 40, too few to tell"),
            Says::Suspicious => verdict(Call::Undecided, true, "suspicious: errors 6 of 100, stable 9 of 9,000"),
            Says::Fail => verdict(
                Call::Fail,
                true,
                "errors: canary 41 of 136 (30 %), stable 2 of 2,590 (0.1 %)",
            ),
            Says::NoData(kind) => Some(Reading::NoData {
                kind,
                detail: "as the script says".to_owned(),
            }),
        }
    }

    /// Asks the engine whenever it wants to be asked, up to `end`.
    fn until(&mut self, end: Timestamp) {
        loop {
            match self.look() {
                Some(wake) if wake <= end => {
                    assert!(wake > self.now, "the engine wants to be asked again in no time");
                    self.now = wake;
                }
                Some(_) => break,
                None => return,
            }
        }
        self.now = self.now.max(end);
    }

    /// One look: the world moves, the engine decides, the world obeys. `None` when the release is over.
    fn look(&mut self) -> Option<Timestamp> {
        if self.starts && self.ready_at.is_some_and(|at| at <= self.now) && self.canary.exists > 0 {
            self.canary.ready = self.canary.exists;
            self.canary.ready_since = self.ready_at;
            self.canary.none_ready_since = None;
        }
        let facts = self.facts();
        let decision = decide(&self.plan, &self.state, &facts, self.now).expect("only legal moves");
        self.check(&decision, &facts);
        if let Phase::Analysing { stage } = decision.state.phase {
            self.judged = Some(stage);
        }
        for entry in &decision.entries {
            self.history.push(entry.clone());
            let phase = replay(&self.plan, start(), &self.history)
                .expect("a history that was written can be read")
                .phase;
            let _ = write!(
                self.out,
                "{:>6}  {:<12} {}",
                self.clock(),
                short(&phase, &self.plan),
                entry.reason
            );
            let _ = match (&entry.event, &entry.cause) {
                (wade::engine::Event::GotStuck { traffic_on }, _) => {
                    write!(self.out, "  [traffic on {}]", on(*traffic_on))
                }
                (_, Cause::Person(by)) => write!(self.out, "  [{}]", by.user),
                (_, Cause::Engine) => Ok(()),
            };
            self.out.push('\n');
        }
        self.state = decision.state.clone();
        if decision.actions != self.actions {
            let wanted: Vec<String> = decision.actions.iter().map(wanted).collect();
            if !wanted.is_empty() {
                let _ = writeln!(self.out, "        = {}", wanted.join(" · "));
            }
            self.actions.clone_from(&decision.actions);
        }
        for action in &decision.actions {
            self.obey(action);
        }
        decision.wake
    }

    fn check(&self, decision: &Decision, facts: &Facts) {
        let again = decide(&self.plan, &decision.state, facts, self.now).expect("only legal moves");
        assert_eq!(
            (&again.entries, &again.actions),
            (&Vec::new(), &decision.actions),
            "asked again at {}",
            self.clock()
        );
        let all = self.history.iter().chain(&decision.entries);
        assert_eq!(
            replay(&self.plan, start(), all).as_ref(),
            Ok(&decision.state),
            "replay at {}",
            self.clock()
        );
        if matches!(decision.state.phase, Phase::Returning(..)) {
            assert_eq!(
                decision.actions.first(),
                Some(&Action::Route(ALL_STABLE)),
                "back at {}",
                self.clock()
            );
        }
    }

    fn obey(&mut self, action: &Action) {
        let name = wanted(action);
        if self.refuses.iter().any(|refused| name.starts_with(refused.as_str())) {
            return;
        }
        match action {
            Action::Hold => self.restored = false,
            Action::Canary { capacity } => {
                let wanted = wade::engine::desired::instances(*capacity, FULL);
                if wanted != self.canary.exists {
                    let fewer = wanted < self.canary.exists;
                    self.canary.exists = wanted;
                    self.canary.ready = self.canary.ready.min(wanted);
                    if !fewer {
                        self.canary.ready_since = None;
                        self.ready_at = Some(self.now + READY_AFTER);
                        if self.canary.ready == 0 {
                            self.canary.none_ready_since = Some(self.now);
                        }
                    }
                }
            }
            Action::Route(split) => {
                self.canary.drained = self.drains && !split.reaches_canary();
                self.route = Some(split.clone());
            }
            Action::Hooks(point) => {
                if self.hooks_at.is_none_or(|(of, _)| of != *point) {
                    self.hooks_at = Some((*point, self.now + HOOKS_TAKE));
                }
            }
            Action::Smoke => self.smoke_at = self.smoke_at.or(Some(self.now + SMOKE_TAKES)),
            Action::Adopt => self.adopted = true,
            Action::Retire => {
                self.stable = 0;
                self.restored = true;
            }
            Action::RemoveCanary => {
                self.canary = Presence {
                    full: FULL,
                    drained: true,
                    ..Presence::default()
                };
                self.ready_at = None;
            }
            Action::Restore => self.restored = true,
        }
    }

    fn finish(mut self) -> String {
        let facts = self.facts();
        let decision = decide(&self.plan, &self.state, &facts, self.now).expect("only legal moves");
        let _ = match self.state.outcome() {
            Some(Outcome::Promoted { proven }) => {
                writeln!(
                    self.out,
                    "ends    Promoted, {}",
                    if *proven { "proven" } else { "unproven" }
                )
            }
            Some(outcome) => writeln!(self.out, "ends    {}", outcome.label()),
            None => writeln!(self.out, "stands  {}: {}", self.clock(), decision.waiting_for),
        };
        self.out
    }

    fn clock(&self) -> String {
        let seconds = self.now.duration_since(start()).as_secs();
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }
}

/// A verdict with nothing in it but what the engine looks at.
pub(crate) fn verdict(call: Call, suspicious: bool, reason: String) -> Verdict {
    Verdict {
        call,
        suspicious,
        tripped: false,
        evidence: 0.0,
        needed: 4.6,
        blame: None,
        reason,
        metrics: Vec::new(),
    }
}

fn on(traffic: TrafficOn) -> &'static str {
    match traffic {
        TrafficOn::Stable => "stable",
        TrafficOn::Canary => "canary",
        TrafficOn::Unknown => "unknown",
    }
}

/// The phase with its weight, or the part of the way back or on.
fn short(phase: &Phase, plan: &Plan) -> String {
    match phase {
        Phase::Gated { stage } => format!("gate {}", split(&plan.stages[*stage].split)),
        Phase::Preparing { stage } => format!("prepare {}", split(&plan.stages[*stage].split)),
        Phase::Shifting { stage } => format!("shift {}", split(&plan.stages[*stage].split)),
        Phase::Analysing { stage } => format!("at {}", split(&plan.stages[*stage].split)),
        Phase::HandingOver(part) => format!("{part:?}").to_lowercase(),
        Phase::Returning(part, _) => format!("back:{part:?}").to_lowercase(),
        Phase::BeforeHooks { .. } | Phase::AfterHooks(_) => {
            format!("hooks {}", phase.hook_point().expect("hooks run at a point"))
        }
        Phase::Waiting | Phase::Starting | Phase::Smoking | Phase::Done(_) => phase.label().to_owned(),
    }
}

fn split(split: &Split) -> String {
    let matching = match &split.matching {
        Some(TrafficMatch::Header(named)) | Some(TrafficMatch::Cookie(named)) => format!("{}+", named.name),
        None => String::new(),
    };
    let mirror = if split.mirror.is_zero() {
        String::new()
    } else {
        format!(" copy {}", split.mirror)
    };
    format!("{matching}{}{mirror}", split.weight)
}

fn wanted(action: &Action) -> String {
    match action {
        Action::Hold => "hold".to_owned(),
        Action::Canary { capacity } => format!("canary {capacity}"),
        Action::Route(to) => format!("route {}", split(to)),
        Action::Smoke => "smoke".to_owned(),
        Action::Hooks(at) => format!("hooks {at}"),
        Action::Adopt => "adopt".to_owned(),
        Action::Retire => "retire".to_owned(),
        Action::RemoveCanary => "remove canary".to_owned(),
        Action::Restore => "restore".to_owned(),
    }
}
