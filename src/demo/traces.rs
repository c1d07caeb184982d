//! `wade demo traces`: a version whose errors hide in one operation, found by what its own spans say.
//!
//! The sample service fails two requests of a hundred in every version, as services do. The new version also fails every
//! refund, and refunds are one request in a hundred: 3 % instead of 2 %, which a comparison of all requests needs
//! minutes to be sure of. Its spans say at once what it is. They come from the OpenTelemetry SDK in the service, over
//! HTTP, into the daemon's own receiver on loopback; the same judge then compares each operation with itself, and follows
//! errors that stable has never shown.
//!
//! Nothing is arranged but the fault: the story ends well only if traces failed the release, the operation and a trace
//! are named, and the comparison of all requests, which runs beside it on the same evidence, had not found it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::sample::ROUTES;
use super::stage::{Options, RPS, SERVICE, Stage, follow, grouped, headline, on_stage, open, problem, processes};
use crate::clock::{Clock, SystemClock};
use crate::daemon::api::Problem;
use crate::daemon::otlp::{OtlpSetup, Receiver};
use crate::daemon::{Daemon, Setup, views};
use crate::engine::Outcome;
use crate::judge::Sides;
use crate::judge::verdict::{Counts, MetricEvidence, OperationEvidence, Seen, SignatureEvidence, Verdict};
use crate::signals::ERRORS;
use crate::signals::traces::{Count, TRACES};
use crate::store::ReleaseRecord;

/// How long stable is watched before the release.
const WARM: Duration = Duration::from_secs(9);
/// The route that the bad version breaks.
const BROKEN: &str = "/refund";
/// Its operation, as its spans call it.
const OPERATION: &str = "GET /refund";
/// What fails in every version, in percent.
const USUAL_PERCENT: u32 = 2;

/// Runs the story; true if it really happened.
///
/// # Errors
/// When the daemon or its receiver cannot be started, or a release cannot be made.
pub async fn run(options: Options) -> Result<bool, Problem> {
    on_stage(options, play).await
}

async fn play(mut stage: Stage, folder: &Path) -> Result<bool, Problem> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let failed = |error: std::io::Error| problem(&error.to_string());
    let rollouts = folder.join("rollouts");
    std::fs::create_dir_all(&rollouts).map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let setup = Setup {
        data: folder.join("data"),
        rollouts: rollouts.clone(),
        strategies: None,
        processes: processes(),
    };
    let daemon = Daemon::start(setup, Arc::clone(&clock)).await?;
    let otlp = OtlpSetup {
        http: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        ..OtlpSetup::default()
    };
    let stop = CancellationToken::new();
    let result = async {
        let receiver = Receiver::open(&otlp, daemon.traces().clone(), clock).await?;
        let [_, address] = receiver.addresses();
        let address = address.ok_or_else(|| problem("the trace receiver has no address"))?;
        tokio::spawn(receiver.serve(stop.clone()));
        let text = rollout(&program, stage.options.seed, address);
        std::fs::write(rollouts.join("hello.yaml"), text).map_err(failed)?;
        story(&mut stage, &daemon, address).await
    };
    let result = result.await;
    // The service's last spans have somewhere to go while it ends.
    daemon.stop(true).await;
    stop.cancel();
    result
}

async fn story(stage: &mut Stage, daemon: &Arc<Daemon>, receiver: SocketAddr) -> Result<bool, Problem> {
    stage.say(&format!(
        "wade demo traces: a fault that hides in one operation. Real processes send real spans (OpenTelemetry SDK) to Wade's\n\
         receiver at {receiver}. The judge's clock (2 s blocks) is for this stage only.\n"
    ));
    stage.say("1.0.0    the first version: started, checked, serving");
    let first = stage.options.release("1.0.0", "--slow-factor=1");
    let (_, load) = open(stage, daemon, first).await?;
    stage.say(&format!(
        "         {RPS:.0} requests/s from now on, one in a hundred of them {OPERATION}; {USUAL_PERCENT} % fail in every version\n"
    ));
    tokio::time::sleep(WARM).await;

    let mut good = true;
    if !stage.options.fast {
        stage.say("1.1.0    a good version");
        let request = stage.options.release("1.1.0", "--slow-factor=1");
        let (record, seconds) = follow(stage, daemon, request, Some(&load)).await?;
        good = matches!(record.state.outcome(), Some(Outcome::Promoted { .. }));
        stage.say(&format!(
            "  => {} after {seconds:.0} s, {}\n",
            headline(&record),
            mark(good)
        ));
    }
    stage.say(&format!(
        "1.2.0    a version that fails every {OPERATION}, and nothing else"
    ));
    let flaw = format!("--broken-route={BROKEN}");
    let request = stage.options.release("1.2.0", &flaw);
    let (record, seconds) = follow(stage, daemon, request, Some(&load)).await?;
    let total = load.stop().await;
    let found = Found::of(&record);
    good &= found.as_ref().is_some_and(Found::as_it_should_be) && total.lost_total() == 0;
    stage.say(&format!(
        "  => {} after {seconds:.0} s, {}\n",
        headline(&record),
        mark(good)
    ));
    match &found {
        Some(found) => stage.say(&found.told()),
        None => stage.say("The release has no verdict that compares operations: nothing was found by traces."),
    }
    let spans = daemon.traces().telemetry();
    stage.say(&format!(
        "{} requests in all, {} lost; {} spans of requests counted ({} of the canary's), each once.",
        grouped(total.sent),
        grouped(total.lost_total()),
        grouped(spans.get(Count::OfCanary) + spans.get(Count::OfStable)),
        grouped(spans.get(Count::OfCanary)),
    ));
    if !good {
        stage.say("Not everything ended as it should have: see above.");
    }
    stage.event(&serde_json::json!({
        "event": "demoFinished",
        "outcome": record.state.outcome().map_or("none", Outcome::label),
        "reason": views::reason(&record),
        "found": found,
        "asItShouldBe": good,
        "lost": total.lost_total(),
        "skipped": total.skipped,
    }));
    Ok(good)
}

const fn mark(good: bool) -> &'static str {
    if good { "as it should be" } else { "NOT AS IT SHOULD BE" }
}

/// What the verdict that ended the release says, of traces and of all requests beside them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    outcome: &'static str,
    /// The metric that failed.
    blame: Option<String>,
    operation: Option<OperationEvidence>,
    new_error: Option<SignatureEvidence>,
    /// All requests of both sides, and how many of them failed: what there would be without traces.
    overall: Sides<Counts>,
    /// ln E of the comparison of all requests, and of traces.
    overall_ln_e: f64,
    traces_ln_e: f64,
    /// ln E of all metrics together, by which the release is judged.
    evidence: f64,
    /// ln E at which a release fails.
    needed: f64,
    #[serde(skip)]
    reason: String,
}

impl Found {
    fn of(record: &ReleaseRecord) -> Option<Self> {
        let verdict: &Verdict = record.verdict.as_deref()?;
        let metric =
            |name: &str| -> Option<&MetricEvidence> { verdict.metrics.iter().find(|metric| metric.name == name) };
        let (traces, errors) = (metric(TRACES)?, metric(ERRORS)?);
        let Seen::Operations {
            operations, signatures, ..
        } = &traces.seen
        else {
            return None;
        };
        let Seen::Errors { release, .. } = &errors.seen else {
            return None;
        };
        Some(Self {
            outcome: record.state.outcome().map_or("none", Outcome::label),
            blame: verdict.blame.clone(),
            operation: operations.iter().find(|one| one.operation == OPERATION).cloned(),
            new_error: signatures.iter().find(|one| one.operation == OPERATION).cloned(),
            overall: *release,
            overall_ln_e: errors.ln_e,
            traces_ln_e: traces.ln_e,
            evidence: verdict.evidence,
            needed: verdict.needed,
            reason: views::reason(record),
        })
    }

    /// Rolled back for traces alone, with the operation, the new error and a trace by name.
    fn as_it_should_be(&self) -> bool {
        let trace = self.new_error.as_ref().and_then(|error| error.examples.first());
        let named = trace.is_some_and(|trace| self.reason.contains(trace) && self.reason.contains(OPERATION));
        let rolled_back = self.outcome == Outcome::RolledBack.label();
        rolled_back && self.blame.as_deref() == Some(TRACES) && named && self.overall_ln_e < self.needed
    }

    fn told(&self) -> String {
        let mut out = String::from("What was known when it went back:\n");
        let of = |sides: &Sides<Counts>| format!("canary {}, stable {}", share(&sides.canary), share(&sides.stable));
        if let Some(operation) = &self.operation {
            out += &format!("  {OPERATION:<13} {}\n", of(&operation.release));
        }
        if let Some(error) = &self.new_error {
            let message = format!("{}: {}", error.error, error.message);
            out += &format!("  new error     {message}, on {}\n", of(&error.shown));
            if let Some(trace) = error.examples.first() {
                out += &format!("  one of them   trace {trace}\n");
            }
        }
        out += &format!("  all requests  {}\n", of(&self.overall));
        out += &format!(
            "  evidence      traces alone {} to 1, all requests alone {} to 1, together {} to 1; {} to 1 is needed\n",
            odds(self.traces_ln_e),
            odds(self.overall_ln_e),
            odds(self.evidence),
            odds(self.needed),
        );
        if self.overall_ln_e < self.needed {
            out += "  Without traces this version would still be serving users.\n";
        }
        out
    }
}

fn share(counts: &Counts) -> String {
    let percent = counts
        .rate
        .map_or_else(|| "-".to_owned(), |rate| format!("{:.1} %", rate * 100.0));
    format!(
        "{} of {} ({percent})",
        grouped(counts.bad as u64),
        grouped(counts.total as u64)
    )
}

fn odds(ln_e: f64) -> String {
    match ln_e.exp() {
        odds if odds < 10.0 => format!("{odds:.1}"),
        odds if odds < 1e9 => grouped(odds.round() as u64),
        _ => "more than a billion".to_owned(),
    }
}

fn rollout(program: &Path, seed: u64, receiver: SocketAddr) -> String {
    debug_assert!(
        ROUTES.contains(&BROKEN),
        "the route that breaks is one of the service's"
    );
    let program = serde_json::to_string(&program.display().to_string()).expect("a string is JSON");
    format!(
        "apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {{name: {SERVICE}}}
spec:
  workload:
    process:
      command: [{program}, sample-service, --with-parent, --seed={seed}, --fail-percent={USUAL_PERCENT},
                '--version=${{version}}', '${{flaw}}']
      env:
        OTEL_EXPORTER_OTLP_ENDPOINT: 'http://{receiver}'
        OTEL_SERVICE_NAME: {SERVICE}
        # A second instead of five: what the service knows, the judge knows.
        OTEL_BSP_SCHEDULE_DELAY: '1000'
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
    traces: {{}}
  smoke:
    - http: /selftest
"
    )
}
