//! `wade demo`: the whole idea, live, on one machine and in under three minutes.
//!
//! It is no simulation: it starts the real daemon in a folder of its own, real processes, the real proxy and a client
//! that counts every answer, and then releases six versions through the same door as anybody else. What it says about
//! requests lost and failed is what that client saw. Only the judge's clock is set for the stage (`demo.yaml`), and
//! the screen says so.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

use super::load::{Load, Snapshot, VersionCount};
use crate::clock::{Clock, SystemClock, stopwatch};
use crate::controller::Notice;
use crate::daemon::api::{Problem, ProblemKind, ReleaseRequest, ReleaseTarget, Started};
use crate::daemon::{Daemon, Setup, views};
use crate::engine::{Actor, Event, Outcome, Phase};
use crate::platforms::local::process::{RestartPolicy, Settings};
use crate::store::{ReleaseKey, ReleaseRecord};

/// The service's name in the demo.
const SERVICE: &str = "hello";
/// Users' requests per second.
const RPS: f64 = 400.0;
/// How long stable is watched before the first release, so that its behaviour can be judged by.
const WARM: Duration = Duration::from_secs(9);
/// The same with `--fast`: just what `demo.yaml` asks for.
const WARM_FAST: Duration = Duration::from_secs(7);
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

/// One version of the demo, and how it must end.
struct Act {
    version: &'static str,
    flaw: &'static str,
    story: &'static str,
    expected: fn(&Outcome) -> bool,
    label: &'static str,
}

const ACTS: [Act; 5] = [
    Act {
        version: "1.1.0",
        flaw: "--fail-percent=0",
        story: "a good version",
        expected: |outcome| *outcome == Outcome::Promoted { proven: true },
        label: "promoted",
    },
    Act {
        version: "1.2.0",
        flaw: "--fail-percent=30",
        story: "a version that fails 30 % of its requests",
        expected: |outcome| *outcome == Outcome::RolledBack,
        label: "rolled back",
    },
    Act {
        version: "1.3.0",
        flaw: "--slow-factor=3",
        story: "a version that is three times slower",
        expected: |outcome| *outcome == Outcome::RolledBack,
        label: "rolled back",
    },
    Act {
        version: "1.4.0",
        flaw: "--crash-at-start",
        story: "a version that crashes at start",
        expected: |outcome| *outcome == Outcome::Rejected,
        label: "rejected before any traffic",
    },
    Act {
        version: "1.5.0",
        flaw: "--broken-smoke",
        story: "a version whose smoke test fails",
        expected: |outcome| *outcome == Outcome::Rejected,
        label: "rejected before any traffic",
    },
];

/// What came of one version, as the client saw it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Result_ {
    version: String,
    outcome: String,
    requests: u64,
    failed: u64,
    breach_to_restored_ms: Option<u64>,
    reason: String,
    #[serde(skip)]
    as_expected: bool,
}

/// Runs the demo; true if every outcome was the expected one and nothing was lost.
///
/// # Errors
/// When the daemon cannot be started or a release cannot be made.
pub async fn run(options: Options) -> Result<bool, Problem> {
    let folder = Folder::make()?;
    let stage = Stage {
        options,
        out: std::io::stdout(),
    };
    let result = tokio::select! {
        result = play(stage, folder.0.as_path()) => result,
        () = interrupted() => Err(problem("interrupted; every process of the demo has been ended")),
    };
    // Whatever happened, nothing is left: the sample service ends with its parent, the folder with this value.
    drop(folder);
    result
}

async fn play(mut stage: Stage, folder: &Path) -> Result<bool, Problem> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rollouts = folder.join("rollouts");
    std::fs::create_dir_all(&rollouts).map_err(|error| problem(&error.to_string()))?;
    let program = std::env::current_exe().map_err(|error| problem(&error.to_string()))?;
    std::fs::write(rollouts.join("hello.yaml"), rollout(&program, stage.options.seed))
        .map_err(|error| problem(&error.to_string()))?;
    let setup = Setup {
        data: folder.join("data"),
        rollouts,
        strategies: None,
        processes: processes(),
    };
    let daemon = Daemon::start(setup, Arc::clone(&clock)).await?;
    // The daemon is stopped on every way out but a panic or a kill, where the processes end by themselves.
    let result = acts(&mut stage, &daemon).await;
    daemon.stop(true).await;
    result
}

async fn acts(stage: &mut Stage, daemon: &Arc<Daemon>) -> Result<bool, Problem> {
    stage.say("wade demo: real processes, real requests, one machine. The judge's clock (2 s blocks, 5 s stages) is for this\n\
         stage only; strategies/careful.yaml is what production wants.\n");
    stage.say("1.0.0    the first version: started, checked, serving");
    let first = stage.options.release("1.0.0", "--fail-percent=0");
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
    let load = Load::start(address, RPS, stage.options.seed);
    stage.say(&format!(
        "         {RPS:.0} requests/s from now on, through {address}; watching how 1.0.0 behaves\n"
    ));
    tokio::time::sleep(if stage.options.fast { WARM_FAST } else { WARM }).await;

    let mut results = Vec::new();
    for act in &ACTS {
        stage.say(&format!("{}    {}", act.version, act.story));
        let before = load.snapshot();
        let request = stage.options.release(act.version, act.flaw);
        let (record, seconds) = follow(stage, daemon, request, Some(&load)).await?;
        // The last answers of the old split are still on their way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let result = result(act, &record, &before, &load.snapshot());
        let mark = if result.as_expected {
            "as it should be"
        } else {
            "NOT AS IT SHOULD BE"
        };
        stage.say(&format!("  => {} after {seconds:.0} s, {mark}\n", headline(&record)));
        stage.event(&serde_json::json!({"event": "releaseFinished", "release": &result}));
        results.push(result);
        if !stage.options.fast {
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }
    let total = load.stop().await;
    let lost = total.lost_total();
    stage.say(&table(&results));
    stage.say(&format!(
        "{} requests in all, {} of them answered; {} lost, {} failed (all by the versions that were caught).",
        grouped(total.sent),
        grouped(total.answered),
        grouped(lost),
        grouped(total.failed_total())
    ));
    let good = lost == 0 && results.iter().all(|result| result.as_expected);
    if !good {
        stage.say("Not everything ended as it should have: see above.");
    }
    stage.event(
        &serde_json::json!({"event": "demoFinished", "releases": results, "lost": lost, "skipped": total.skipped}),
    );
    Ok(good)
}

/// Makes a release and shows it to its end.
async fn follow(
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
    fn release(self, version: &str, flaw: &str) -> ReleaseRequest {
        let set = [("version", version), ("flaw", flaw)];
        let set: BTreeMap<String, String> = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        ReleaseRequest {
            target: ReleaseTarget::File { set, path: None },
            ..ReleaseRequest::default()
        }
    }
}

/// Where the demo is shown.
struct Stage {
    options: Options,
    out: std::io::Stdout,
}

impl Stage {
    fn say(&mut self, text: &str) {
        if !self.options.json {
            self.line(text);
        }
    }

    fn event(&mut self, event: &serde_json::Value) {
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

fn headline(record: &ReleaseRecord) -> String {
    match record.state.outcome() {
        Some(Outcome::Promoted { proven: true }) => "PROMOTED, proven".to_owned(),
        Some(Outcome::Promoted { proven: false }) => "PROMOTED, unproven".to_owned(),
        Some(outcome) => outcome.label().to_uppercase(),
        None => "not over".to_owned(),
    }
}

fn result(act: &Act, record: &ReleaseRecord, before: &Snapshot, after: &Snapshot) -> Result_ {
    let seen = after.versions.get(act.version).cloned().unwrap_or_default();
    let lost = after.lost_total() - before.lost_total();
    let outcome = record.state.outcome();
    let as_expected = outcome.is_some_and(act.expected) && lost == 0 && (act.label != "promoted" || seen.failed == 0);
    Result_ {
        version: act.version.to_owned(),
        outcome: outcome.map_or("none", Outcome::label).to_owned(),
        requests: seen.served + seen.failed,
        failed: seen.failed + lost,
        breach_to_restored_ms: breach(&seen),
        reason: match outcome {
            Some(outcome) if outcome.is_forward() => views::proof(record).unwrap_or_else(|| views::reason(record)),
            _ => views::reason(record),
        },
        as_expected,
    }
}

/// From the first bad answer that a user got to the last, in milliseconds.
fn breach(seen: &VersionCount) -> Option<u64> {
    let (first, last) = (seen.first_bad_at.as_ref()?, seen.last_bad_at.as_ref()?);
    u64::try_from(last.after.saturating_sub(first.after).as_millis()).ok()
}

fn table(results: &[Result_]) -> String {
    let mut out = format!(
        "{:<8} {:<11} {:>9} {:>7} {:>10}  why\n",
        "version", "outcome", "requests", "failed", "bad for"
    );
    for result in results {
        let bad = result
            .breach_to_restored_ms
            .map_or_else(|| "-".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
        out += &format!(
            "{:<8} {:<11} {:>9} {:>7} {:>10}  {}\n",
            result.version,
            result.outcome,
            grouped(result.requests),
            grouped(result.failed),
            bad,
            result.reason
        );
    }
    out
}

fn grouped(number: u64) -> String {
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

fn rollout(program: &Path, seed: u64) -> String {
    let program = serde_json::to_string(&program.display().to_string()).expect("a string is JSON");
    format!(
        "apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {{name: {SERVICE}}}
spec:
  workload:
    process:
      command: [{program}, sample-service, --with-parent, --seed={seed}, '--version=${{version}}', '${{flaw}}']
      instances: 3
      port: auto
      ready: {{http: /healthz}}
      drain: 5s
      # The demo runs as whoever calls it; a service of yours should not run as root.
      allowRoot: true
  variables:
    flaw: {{about: what is wrong with the version}}
  traffic: {{listen: '127.0.0.1:0'}}
  strategy: {{use: demo}}
  analysis:
    source: {{scrape: {{path: /metrics, every: 1s}}}}
  smoke:
    - http: /selftest
"
    )
}

/// Crash loops show within a second instead of four.
fn processes() -> Settings {
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

fn problem(message: &str) -> Problem {
    Problem {
        kind: ProblemKind::Unavailable,
        message: message.to_owned(),
    }
}
