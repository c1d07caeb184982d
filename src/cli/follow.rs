//! Following a release to its end: what `deploy`, `rollback`, `retry`, `abort` and `status -w` share.
//!
//! The release runs in the daemon; this only listens. So losing the connection changes nothing about the release: it
//! is followed again from the entry that was told last, for [`RECONNECT_WITHIN`] (a daemon that restarts needs less).
//! An interrupt does what the caller chose: leave the release to the daemon, or ask for an abort and see it through.
//!
//! A log gets a line for what happens, and one for a look at least every [`LOOK_EVERY`], so that nobody takes a long
//! stage for a hang; a terminal has a live line for the looks instead.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::connect::answered;
use super::exit::{Exit, Failure};
use super::render::{Context, Line, Timeline, Tone};
use super::screen::Screen;
use crate::controller::Notice;
use crate::daemon::api::{CommandRequest, Problem, ProblemKind};
use crate::daemon::client::{Client, Notices};
use crate::engine::{CommandKind, Event, Outcome, Phase, TrafficOn};
use crate::spec::Span;
use crate::store::ReleaseKey;

/// How long a daemon that is gone is looked for again.
pub const RECONNECT_WITHIN: Duration = Duration::from_secs(60);
/// How long between two tries.
const RECONNECT_EVERY: Duration = Duration::from_millis(500);
/// A trouble that lasts is told again after this.
const TROUBLE_EVERY: SignedDuration = SignedDuration::from_secs(60);
/// In a log, a look is told at least this often.
const LOOK_EVERY: SignedDuration = SignedDuration::from_secs(30);

/// What an interrupt (Ctrl-C, SIGTERM) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnInterrupt {
    /// The release is aborted: back to stable.
    Abort,
    /// The release is left: a daemon goes on with it, without one it waits for the next `wade`.
    Detach,
}

/// How to follow.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct FollowArgs {
    /// Return once the release is under way, without following it
    #[arg(long)]
    pub detach: bool,
    /// What Ctrl-C and SIGTERM do: detach leaves the release (the default with a daemon), abort goes back to stable (the
    /// default without one)
    #[arg(long, value_enum, value_name = "WHAT", hide_possible_values = true)]
    pub on_interrupt: Option<OnInterrupt>,
    /// How long to wait whenever a person or a window has to say yes, like 30m; then exit 6, the release goes on
    #[arg(long, value_name = "TIME")]
    pub wait: Option<Span>,
}

/// How following ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The release is over.
    Over(Outcome),
    /// It does not come to an end by itself.
    Stuck(TrafficOn),
    /// A person or a window has not said yes in time.
    Waiting,
    /// The caller was interrupted and left the release to the daemon.
    Detached,
}

impl End {
    /// The exit code.
    pub const fn exit(&self, require_proof: bool) -> Exit {
        match self {
            Self::Over(outcome) => Exit::of(outcome, require_proof),
            Self::Stuck(_) => Exit::Stuck,
            Self::Waiting => Exit::Waiting,
            Self::Detached => Exit::Other,
        }
    }
}

/// Whether the last line of a release names the exit code that the verb will end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// The verb ends as the release does.
    Shown {
        /// Without proof it ends with another code.
        require_proof: bool,
    },
    /// The verb only watches.
    Hidden,
}

/// Follows the release `key` from entry `from` (1 is the first) to its end.
///
/// # Errors
/// The daemon cannot be reached for longer than [`RECONNECT_WITHIN`], or does not know the release.
pub async fn follow(
    client: &Client,
    key: &ReleaseKey,
    from: u64,
    args: FollowArgs,
    codes: Codes,
    screen: &mut Screen,
) -> Result<End, Failure> {
    let record = answered(client.record(key)).await?;
    let mut timeline = Timeline::new(Context {
        place: client.place(),
        ..Context::of(&record)
    });
    if let Codes::Shown { require_proof } = codes {
        timeline = timeline.with_exit(if require_proof {
            |outcome| Exit::of(outcome, true) as u8
        } else {
            |outcome| Exit::of(outcome, false) as u8
        });
    }
    for entry in record.history.iter().filter(|entry| entry.number < from) {
        timeline.entry(entry);
    }
    let mut follower = Follower {
        client,
        key,
        timeline,
        next: from,
        told: None,
        troubles: BTreeMap::new(),
        waiting: None,
        args,
        screen,
    };
    let end = follower.run().await;
    follower.screen.end_live();
    end
}

struct Follower<'a> {
    client: &'a Client,
    key: &'a ReleaseKey,
    timeline: Timeline,
    /// The next entry to be told.
    next: u64,
    /// When something was told last.
    told: Option<Timestamp>,
    /// The troubles that were told lately, so that one that repeats is not told all the time.
    troubles: BTreeMap<String, Timestamp>,
    /// Runs out when a person has been waited for long enough.
    waiting: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
    args: FollowArgs,
    screen: &'a mut Screen,
}

/// What woke the follower.
enum Woken {
    Heard(Result<Option<Box<Notice>>, Problem>),
    Interrupted,
    WaitedLongEnough,
}

impl Follower<'_> {
    async fn run(&mut self) -> Result<End, Failure> {
        let mut interrupts = Interrupts::new()?;
        let mut aborting = false;
        let mut events = self.client.events(self.key, self.next).await?;
        loop {
            let woken = tokio::select! {
                heard = events.next() => Woken::Heard(heard.map(|notice| notice.map(Box::new))),
                () = interrupts.next() => Woken::Interrupted,
                () = runs_out(&mut self.waiting) => Woken::WaitedLongEnough,
            };
            match woken {
                Woken::Heard(Ok(Some(notice))) => {
                    if let Some(end) = self.hear(&notice) {
                        return Ok(end);
                    }
                }
                Woken::Heard(Ok(None) | Err(_)) => {
                    tokio::select! {
                        again = self.reconnect() => events = again?,
                        () = interrupts.next() => return Ok(self.detach()),
                    }
                }
                Woken::Interrupted if self.aborts() && !aborting => {
                    aborting = true;
                    self.abort().await?;
                }
                Woken::Interrupted => return Ok(self.detach()),
                Woken::WaitedLongEnough => {
                    let name = &self.key.rollout;
                    let place = self.client.place();
                    self.say(&format!("nobody has said yes in time; the release waits on: `wade approve {name}{place}`, `wade resume {name}{place}` or `wade abort {name}{place}`"));
                    return Ok(End::Waiting);
                }
            }
        }
    }

    /// Tells a notice; some end the following.
    fn hear(&mut self, notice: &Notice) -> Option<End> {
        match notice {
            // After a reconnect what was told may come again.
            Notice::Entry { entry, .. } if entry.number < self.next => return None,
            Notice::Trouble { at, message, .. } => {
                // Two troubles may take turns several times a second; each is said again only after a while.
                self.troubles.retain(|_, said| at.duration_since(*said) < TROUBLE_EVERY);
                if self.troubles.contains_key(message) {
                    return None;
                }
                self.troubles.insert(message.clone(), *at);
            }
            Notice::Entry { .. } | Notice::Look { .. } => {}
        }
        self.tell(notice);
        let Notice::Entry { entry, .. } = notice else {
            self.mind_waiting();
            return None;
        };
        self.next = entry.number + 1;
        self.mind_waiting();
        if let Event::GotStuck { traffic_on } = &entry.event {
            return Some(End::Stuck(*traffic_on));
        }
        self.timeline.state().outcome().cloned().map(End::Over)
    }

    fn tell(&mut self, notice: &Notice) {
        if self.screen.is_json() {
            // Told or not, the timeline has to know where the release is.
            self.timeline.notice(notice);
            self.screen.json(notice);
            return;
        }
        let lines = match notice {
            Notice::Look {
                at,
                phase,
                waiting_for,
                verdict,
                ..
            } => {
                let line = self.timeline.look(*at, phase, waiting_for, verdict.as_deref());
                if self.screen.is_live() {
                    self.screen.live(&line);
                    return;
                }
                let last = *self.told.get_or_insert(*at);
                if at.duration_since(last) < LOOK_EVERY {
                    return;
                }
                vec![line]
            }
            Notice::Entry { .. } | Notice::Trouble { .. } => self.timeline.notice(notice),
        };
        if !lines.is_empty() {
            self.told = Some(match notice {
                Notice::Entry { entry, .. } => entry.at,
                Notice::Look { at, .. } | Notice::Trouble { at, .. } => *at,
            });
        }
        for line in &lines {
            self.screen.line(line);
        }
    }

    /// Starts or stops the clock of `--wait`: it runs while a person or a window has to say yes.
    fn mind_waiting(&mut self) {
        let state = self.timeline.state();
        let waits = state.paused.is_some() || matches!(state.phase, Phase::Gated { .. } | Phase::Waiting);
        match (waits, &self.waiting, self.args.wait) {
            (false, _, _) => self.waiting = None,
            (true, None, Some(limit)) => self.waiting = Some(Box::pin(tokio::time::sleep(limit.0))),
            (true, _, _) => {}
        }
    }

    /// Listens again from where the telling stopped. A release that ended meanwhile is told to its end.
    async fn reconnect(&mut self) -> Result<Box<dyn Notices>, Failure> {
        let mut said = false;
        let looking = async {
            loop {
                match self.client.events(self.key, self.next).await {
                    Ok(events) => return Ok(events),
                    Err(problem) if problem.kind == ProblemKind::Unavailable => {}
                    Err(problem) => return Err(problem),
                }
                if !said {
                    said = true;
                    let seconds = RECONNECT_WITHIN.as_secs();
                    self.say(&format!(
                        "the daemon is gone; its release goes on when it is back. Looking for it for {seconds} s"
                    ));
                }
                tokio::time::sleep(RECONNECT_EVERY).await;
            }
        };
        match tokio::time::timeout(RECONNECT_WITHIN, looking).await {
            Ok(Ok(events)) => {
                // A stream that ends at once again and again must not become a busy loop.
                tokio::time::sleep(RECONNECT_EVERY).await;
                Ok(events)
            }
            Ok(Err(problem)) => Err(problem.into()),
            Err(_) => Err(Problem {
                kind: ProblemKind::Unavailable,
                message: format!(
                    "the daemon has been gone for {} s; its services keep running, and {} goes on once `wade serve` runs again: follow it with `wade status -w {}`",
                    RECONNECT_WITHIN.as_secs(),
                    self.key,
                    self.key.rollout
                ),
            }
            .into()),
        }
    }

    async fn abort(&self) -> Result<(), Failure> {
        self.say("interrupted: asking for an abort; once more leaves the release to the daemon");
        let request = CommandRequest {
            kind: CommandKind::Abort,
            reason: Some("the command that deploys was interrupted".to_owned()),
        };
        match answered(self.client.command(&self.key.rollout, &request)).await {
            // What came of it comes as an event.
            Ok(_) => Ok(()),
            // The release is over already; its end is on the way.
            Err(failure) if failure.problem.kind == ProblemKind::Conflict => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    fn aborts(&self) -> bool {
        let otherwise = if self.client.is_carried() {
            OnInterrupt::Detach
        } else {
            OnInterrupt::Abort
        };
        self.args.on_interrupt.unwrap_or(otherwise) == OnInterrupt::Abort
    }

    fn detach(&self) -> End {
        let name = &self.key.rollout;
        self.say(&if self.client.is_carried() {
            format!(
                "{} goes on in the daemon: `wade status -w {name}{place}` follows it, `wade abort {name}{place}` goes back",
                self.key,
                place = self.client.place()
            )
        } else {
            format!(
                "{} is left as it is, and nobody carries it: `wade settle deployment/{name}` goes back, the same `wade deploy` goes on",
                self.key
            )
        });
        End::Detached
    }

    /// Something about the following itself; not part of the release, so machines that read events do not get it.
    fn say(&self, text: &str) {
        if !self.screen.is_json() {
            self.screen.line(&Line::aside(Tone::Warn, "", text));
        }
    }
}

async fn runs_out(waiting: &mut Option<std::pin::Pin<Box<tokio::time::Sleep>>>) {
    match waiting {
        Some(sleep) => sleep.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Ctrl-C and SIGTERM.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on these signals are ours.
    ///
    /// # Errors
    /// The process may not handle signals.
    pub fn new() -> Result<Self, Failure> {
        let handle = |kind| signal(kind).map_err(|error| Failure::other(format!("signals cannot be handled: {error}")));
        Ok(Self {
            interrupt: handle(SignalKind::interrupt())?,
            terminate: handle(SignalKind::terminate())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
