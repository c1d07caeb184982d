//! Where the demos are shown: a folder, a daemon in it, releases followed to their end, and a screen or JSON lines.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::load::Load;
use crate::clock::{Clock, SystemClock, stopwatch};
use crate::controller::Notice;
use crate::daemon::api::{Problem, ProblemKind, ReleaseRequest, ReleaseTarget, Started};
use crate::daemon::{Daemon, views};
use crate::engine::{Actor, Event, Outcome, Phase};
use crate::platforms::local::process::{RestartPolicy, Settings};
use crate::store::{ReleaseKey, ReleaseRecord};

/// The service's name in the demo.
pub(super) const SERVICE: &str = "hello";
/// Users' requests per second.
pub(super) const RPS: f64 = 400.0;
/// The longest one release may take before the demo gives up on it.
const RELEASE_LIMIT: Duration = Duration::from_secs(60);

/// How the demo is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// One JSON event a line instead of text.
    pub json: bool,
    /// Shorter: no pauses for reading.
    pub fast: bool,
    /// Seed of traffic, latencies and failures.
    pub seed: u64,
}

/// Plays a story in a folder that goes away with it; true if it ended as it should.
///
/// # Errors
/// What `story` says, and when it is interrupted.
pub(super) async fn on_stage(
    options: Options,
    story: impl AsyncFnOnce(Stage, &Path) -> Result<bool, Problem>,
) -> Result<bool, Problem> {
    let folder = Folder::make()?;
    let stage = Stage {
        options,
        out: std::io::stdout(),
    };
    let result = tokio::select! {
        result = story(stage, folder.0.as_path()) => result,
        () = interrupted() => Err(problem("interrupted; every process of the demo has been ended")),
    };
    // Whatever happened, nothing is left: the sample service ends with its parent, the folder with this value.
    drop(folder);
    result
}

/// Every story's beginning: the first version comes up, and users with it; where it is reached.
pub(super) async fn open(
    stage: &mut Stage,
    daemon: &Arc<Daemon>,
    first: ReleaseRequest,
) -> Result<(SocketAddr, Load), Problem> {
    let (record, _) = follow(stage, daemon, first, None).await?;
    if record.state.outcome() != Some(&Outcome::FirstDeploy) {
        return Err(problem(&format!(
            "the first version did not come up: {}",
            views::reason(&record)
        )));
    }
    let address = daemon
        .address(SERVICE)
        .ok_or_else(|| problem("the demo's service has no address"))?;
    Ok((address, Load::start(address, RPS, stage.options.seed)))
}

/// Makes a release and shows it to its end.
pub(super) async fn follow(
    stage: &mut Stage,
    daemon: &Arc<Daemon>,
    request: ReleaseRequest,
    load: Option<&Load>,
) -> Result<(ReleaseRecord, f64), Problem> {
    let mut notices = daemon.follow();
    let began = stopwatch();
    let started: Started = daemon.release(SERVICE, request, Actor::named("demo")).await?;
    let key = started.release.ok_or_else(|| problem("the revision serves already"))?;
    let watch = async {
        loop {
            match notices.recv().await {
                Ok(notice) => {
                    if stage.show(&notice, &key, began.elapsed(), load) {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    };
    if tokio::time::timeout(RELEASE_LIMIT, watch).await.is_err() {
        return Err(problem(&format!("{key} was not over within {RELEASE_LIMIT:?}")));
    }
    let record = daemon.record(&key)?;
    Ok((record, began.elapsed().as_secs_f64()))
}

impl Options {
    pub(super) fn release(self, version: &str, flaw: &str) -> ReleaseRequest {
        let set = [("version", version), ("flaw", flaw)];
        let set: BTreeMap<String, String> = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        ReleaseRequest {
            target: ReleaseTarget::File { set, path: None },
            ..ReleaseRequest::default()
        }
    }
}

/// Where the demo is shown.
pub(super) struct Stage {
    pub(super) options: Options,
    out: std::io::Stdout,
}

impl Stage {
    pub(super) fn say(&mut self, text: &str) {
        if !self.options.json {
            self.line(text);
        }
    }

    pub(super) fn event(&mut self, event: &serde_json::Value) {
        if self.options.json {
            self.line(&event.to_string());
        }
    }

    /// A reader that has gone away (`| head`) is no reason to stop half-way: the demo cleans up after itself.
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    /// Shows what happens to a release; true when it is over.
    fn show(&mut self, notice: &Notice, key: &ReleaseKey, after: Duration, load: Option<&Load>) -> bool {
        let Notice::Entry { key: of, entry, phase } = notice else {
            return false;
        };
        if of != key {
            return false;
        }
        self.event(&serde_json::to_value(notice).expect("notices are plain values"));
        let secs = after.as_secs();
        let lost = load.map(|load| load.snapshot().lost_total()).filter(|lost| *lost > 0);
        let lost = lost
            .map(|lost| format!("   [{lost} requests lost]"))
            .unwrap_or_default();
        if let Some(what) = what(&entry.event, phase) {
            self.say(&format!(
                "  {:02}:{:02}  {what:<10} {}{lost}",
                secs / 60,
                secs % 60,
                entry.reason
            ));
        }
        matches!(phase, Phase::Done(_))
    }
}

/// The word before a line of the timeline; `None` for what a person need not see.
fn what(event: &Event, phase: &Phase) -> Option<String> {
    Some(match event {
        Event::Admitted
        | Event::Prepared
        | Event::CanaryDrained
        | Event::CanaryRemoved
        | Event::StableDrained
        | Event::Adopted => return None,
        Event::Ready => "ready".to_owned(),
        Event::SmokePassed => "smoke".to_owned(),
        Event::Shifted { .. } => "weight".to_owned(),
        Event::StageEnded { .. } => "judged".to_owned(),
        Event::Retreated { .. } => "FAIL".to_owned(),
        Event::RouteRestored => "back".to_owned(),
        Event::Restored | Event::Retired => match phase {
            Phase::Done(outcome) => outcome.label().to_uppercase(),
            _ => return None,
        },
        _ => "note".to_owned(),
    })
}

pub(super) fn headline(record: &ReleaseRecord) -> String {
    match record.state.outcome() {
        Some(Outcome::Promoted { proven: true }) => "PROMOTED, proven".to_owned(),
        Some(Outcome::Promoted { proven: false }) => "PROMOTED, unproven".to_owned(),
        Some(outcome) => outcome.label().to_uppercase(),
        None => "not over".to_owned(),
    }
}

pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Crash loops show within a second instead of four.
pub(super) fn processes() -> Settings {
    let first = Duration::from_millis(200);
    Settings {
        restart: RestartPolicy {
            first,
            max: Duration::from_secs(1),
            ..RestartPolicy::default()
        },
        ..Settings::default()
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        // Without a way to hear Ctrl-C the default action ends the process, and its children with it.
        result = tokio::signal::ctrl_c() => if result.is_err() { std::future::pending::<()>().await },
        _ = term.recv() => {}
    }
}

/// A folder that goes away with the value.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, Problem> {
        // A process id is taken once at a time; the time tells it from a folder that a killed demo left behind.
        let name = format!(
            "wade-demo-{}-{}",
            std::process::id(),
            SystemClock.now().as_millisecond()
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|error| problem(&format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing more can be done about a folder that cannot be removed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn problem(message: &str) -> Problem {
    Problem {
        kind: ProblemKind::Unavailable,
        message: message.to_owned(),
    }
}
