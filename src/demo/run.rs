//! `wade demo`: the whole idea, live, on one machine and in under three minutes.
//!
//! It is no simulation: it starts the real daemon in a folder of its own, real processes, the real proxy and a client
//! that counts every answer, and then releases six versions through the same door as anybody else. What it says about
//! requests lost and failed is what that client saw. Only the judge's clock is set for the stage (`demo.yaml`), and
//! the screen says so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::load::{Snapshot, VersionCount};
use super::stage::{Options, RPS, SERVICE, Stage, follow, grouped, headline, on_stage, open, problem, processes};
use crate::clock::{Clock, SystemClock};
use crate::daemon::api::Problem;
use crate::daemon::{Daemon, Setup, views};
use crate::engine::Outcome;
use crate::store::ReleaseRecord;

/// How long stable is watched before the first release, so that its behaviour can be judged by.
const WARM: Duration = Duration::from_secs(9);
/// The same with `--fast`: just what `demo.yaml` asks for.
const WARM_FAST: Duration = Duration::from_secs(7);

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
    on_stage(options, play).await
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
    let (address, load) = open(stage, daemon, first).await?;
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
