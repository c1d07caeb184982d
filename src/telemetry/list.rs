//! The lists: every metric, every name of a log's field, every reason of an Event and every attribute of a span.
//!
//! What is registered, what `docs/telemetry.md` says and what the boards and alert rules may ask for is checked against
//! these tables, so that there is one place to look a name up and one to change it.

/// What a family of metrics is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often values up to these bounds were seen.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word for it in the text formats.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What a label may say, which bounds how many series there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// One of these words.
    Words(&'static [&'static str]),
    /// A namespace or a rollout: at most [`super::Settings::most_rollouts`] pairs, and `other` beyond.
    Rollouts,
    /// The version of this program.
    Version,
}

/// A label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may say.
    pub bound: Bound,
}

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name; a histogram's without `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, in the order in which they are given.
    pub labels: &'static [Label],
    /// What it says.
    pub help: &'static str,
}

const fn words(name: &'static str, words: &'static [&'static str]) -> Label {
    Label {
        name,
        bound: Bound::Words(words),
    }
}

const NAMESPACE: Label = Label {
    name: "namespace",
    bound: Bound::Rollouts,
};
const ROLLOUT: Label = Label {
    name: "rollout",
    bound: Bound::Rollouts,
};

/// How releases end, by [`crate::engine::Outcome::label`].
pub const OUTCOMES: &[&str] = &[
    "Promoted",
    "RolledBack",
    "Aborted",
    "Returned",
    "Rejected",
    "Superseded",
    "FirstDeploy",
];
/// Where releases are, by [`crate::engine::Phase::label`]; one that is over has no series.
pub const PHASES: &[&str] = &[
    "waiting",
    "starting",
    "smoking",
    "gated",
    "preparing",
    "shifting",
    "analysing",
    "handingOver",
    "returning",
];
/// The judge's calls.
pub const CALLS: &[&str] = &["pass", "fail", "undecided"];
/// Kinds of nothing that is measured.
pub const NO_DATA: &[&str] = &["sourceDown", "canarySilent", "bothSilent", "unmeasured"];
/// What people ask of releases.
pub const COMMANDS: &[&str] = &["approve", "promote", "pause", "resume", "abort", "retry", "refused"];
/// How a request to the API server ends: `ok`, or which [`crate::apiserver::Fault`].
pub const ANSWERS: &[&str] = &[
    "ok",
    "unreachable",
    "forbidden",
    "notFound",
    "exists",
    "conflict",
    "refused",
    "invalid",
];
/// What is asked of the API server.
pub const VERBS: &[&str] = &[
    "get", "list", "watch", "create", "patch", "update", "delete", "ask", "reach",
];
/// How writes of the record end.
pub const WRITES: &[&str] = &["ok", "fenced", "unavailable", "damaged", "unknown"];
/// How something that may fail without harm ended.
pub const SENT: &[&str] = &["ok", "failed", "dropped"];
/// How requests to Wade's own API end, by class of status.
pub const STATUSES: &[&str] = &["2xx", "3xx", "4xx", "5xx"];

/// From a breach to restored, in seconds: what Wade promises is at the lower end.
const RESTORED: &[f64] = &[0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0];
/// Of phases and whole releases, in seconds.
const LONG: &[f64] = &[
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0,
];
/// Of requests and decisions, in seconds.
const SHORT: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

macro_rules! metrics {
    ($($id:ident = $name:literal $kind:expr, [$($label:expr),*] $help:literal;)*) => {
        $(#[doc = $help]
        pub const $id: Metric = Metric { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*
        /// Every metric of the telemetry, in the order of the page.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics! {
    BUILD = "wade_build_info" Kind::Gauge, [Label { name: "version", bound: Bound::Version }]
        "1; which version of Wade this is.";
    LEADER = "wade_leader" Kind::Gauge, []
        "1 while this process is the one that carries releases, 0 while it stands by.";
    LEADER_CHANGES = "wade_leader_changes_total" Kind::Counter, []
        "Times this process became the leader, or stopped being it.";
    RUNNING = "wade_releases_running" Kind::Gauge, []
        "Releases that this process carries now.";
    BEGUN = "wade_releases_begun_total" Kind::Counter, [NAMESPACE, ROLLOUT]
        "Releases that were let begin.";
    ENDED = "wade_releases_ended_total" Kind::Counter, [NAMESPACE, ROLLOUT, words("outcome", OUTCOMES)]
        "Releases that are over, by outcome.";
    UNPROVEN = "wade_releases_unproven_total" Kind::Counter, [NAMESPACE, ROLLOUT]
        "Releases that were promoted without a passing verdict of every judged stage.";
    DURATION = "wade_release_duration_seconds" Kind::Histogram(LONG), [words("outcome", OUTCOMES)]
        "From the begin of a release to its end, waits for people included.";
    NUMBER = "wade_release_number" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "The number of the release that runs.";
    STARTED = "wade_release_started_timestamp_seconds" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "When the release that runs began.";
    PHASE = "wade_release_phase" Kind::Gauge, [NAMESPACE, ROLLOUT, words("phase", PHASES)]
        "1 for the phase that the release that runs is in.";
    PHASE_SINCE = "wade_release_phase_since_timestamp_seconds" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "When the release that runs came into its phase.";
    PHASE_SECONDS = "wade_release_phase_seconds" Kind::Histogram(LONG), [words("phase", PHASES)]
        "Time that releases spent in a phase; in `analysing` that is the time in a stage.";
    STAGE = "wade_release_stage" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "The stage that the release that runs is in, 1 for the first; 0 before it.";
    STAGES = "wade_release_stages" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "How many stages the release that runs has.";
    WEIGHT = "wade_release_weight_ratio" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "The share of users' traffic that was last given to the new version, 0 to 1.";
    EVIDENCE = "wade_release_evidence_ratio" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "How strongly the release speaks against the new version: at 1 it goes back.";
    PAUSED = "wade_release_paused" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "1 while a person keeps the weight.";
    STUCK = "wade_release_stuck" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "1 while the way on or back does not come to an end by itself.";
    NO_DATA_NOW = "wade_release_no_data" Kind::Gauge, [NAMESPACE, ROLLOUT]
        "1 while nothing can be measured of the release that runs.";
    NO_DATA_SECONDS = "wade_release_no_data_seconds_total" Kind::Counter,
        [NAMESPACE, ROLLOUT, words("kind", NO_DATA)]
        "Time during which nothing could be measured of a release, by why.";
    RESTORED_SECONDS = "wade_release_restored_seconds" Kind::Histogram(RESTORED), []
        "From the decision to go back until all traffic was confirmed on stable, of releases that had users.";
    VERDICTS = "wade_release_verdicts_total" Kind::Counter, [NAMESPACE, ROLLOUT, words("call", CALLS)]
        "Looks at a release that something was known of, by the judge's call.";
    TROUBLES = "wade_release_troubles_total" Kind::Counter, [NAMESPACE, ROLLOUT]
        "Times something could not be done for a release and was tried again.";
    COMMANDS_SEEN = "wade_commands_total" Kind::Counter, [words("kind", COMMANDS)]
        "What people asked of releases and was followed, by kind; `refused` is what was not followed.";
    LOOKS = "wade_looks_total" Kind::Counter, []
        "Times a release was looked at and decided about.";
    DECISION = "wade_decision_seconds" Kind::Histogram(SHORT), []
        "From the begin of a look until what it decided was recorded and asked for.";
    RECORD_WRITES = "wade_record_writes_total" Kind::Counter, [words("result", WRITES)]
        "Writes of releases' records, by how they ended.";
    RECORD_SECONDS = "wade_record_write_seconds" Kind::Histogram(SHORT), []
        "How long a write of a record took.";
    ASKED = "wade_apiserver_requests_total" Kind::Counter, [words("verb", VERBS), words("result", ANSWERS)]
        "Requests to the Kubernetes API server, by verb and by how they ended; of watches only what broke.";
    ASKED_SECONDS = "wade_apiserver_request_seconds" Kind::Histogram(SHORT), [words("verb", VERBS)]
        "How long the Kubernetes API server took to answer; watches not counted.";
    WATCHES = "wade_watches" Kind::Gauge, [words("state", &["synced", "broken"])]
        "Watches of this process, by whether they are told everything.";
    API = "wade_api_requests_total" Kind::Counter, [words("status", STATUSES)]
        "Requests to Wade's own API, by class of status.";
    API_SECONDS = "wade_api_request_seconds" Kind::Histogram(SHORT), []
        "How long Wade's own API took to answer; streams not counted.";
    API_STREAMS = "wade_api_streams" Kind::Gauge, []
        "Event streams of Wade's own API that are open.";
    NOTIFICATIONS_FAILED = "wade_notifications_failed_total" Kind::Counter, []
        "Messages to people and programs that could not be delivered.";
    EVENTS = "wade_events_total" Kind::Counter, [words("result", SENT)]
        "Kubernetes Events, by whether they were written; `dropped` were too many or said already.";
    SPANS = "wade_spans_total" Kind::Counter, [words("result", SENT)]
        "Spans of releases, by whether they were sent; `dropped` found the queue full.";
    OTHER = "wade_telemetry_rollouts_capped" Kind::Gauge, []
        "Rollouts that are counted as `other`, because there are more than have series of their own.";
    MISSED = "wade_telemetry_notices_missed_total" Kind::Counter, []
        "News of releases that came too fast to be counted one by one.";
}

/// A field of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub help: &'static str,
}

macro_rules! fields {
    ($($name:literal $help:literal;)*) => {
        /// Every name at the top of a line of the JSON log.
        pub const FIELDS: &[Field] = &[$(Field { name: $name, help: $help }),*];
    };
}

fields! {
    "timestamp" "When, in UTC, with microseconds (RFC 3339).";
    "level" "`ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.";
    "target" "The part of the program, like `wade::daemon`.";
    "message" "One sentence, or a word for what happened.";
    "namespace" "The namespace of the rollout.";
    "rollout" "The rollout (on one machine: the service).";
    "release" "The number of the release.";
    "number" "The number of the entry in the release's history.";
    "phase" "Where the release is.";
    "outcome" "How it ended.";
    "reason" "Why, in one sentence: the same as on every surface.";
    "error" "What went wrong.";
    "instance" "A process or pod.";
    "trace_id" "The release's trace.";
    "deployment" "The Deployment that it is about.";
    "user" "Who asked (of the audit: `target` is `wade::audit`).";
    "groups" "Their groups, as a text.";
    "from" "From which address.";
    "verb" "What they asked for.";
    "fields" "An object with everything else that was said: no name in it is promised.";
}

/// Reasons of Kubernetes Events: what each says.
pub const REASONS: &[(&str, &str)] = &[
    ("ReleaseBegan", "A release was let begin."),
    ("StageBegan", "The split of a stage is in force."),
    ("ReleaseWaits", "A person has to say yes."),
    ("ReleasePaused", "A person keeps the weight."),
    ("ReleaseResumed", "A person ended a pause."),
    ("SignalsLost", "Nothing can be measured (Warning)."),
    ("SignalsBack", "Measurements are back."),
    ("GoingBack", "The release goes back to stable (Warning)."),
    (
        "ReleaseStuck",
        "The way on or back does not come to an end by itself (Warning).",
    ),
    (
        "ReleaseTrouble",
        "Something could not be done and is tried again (Warning).",
    ),
    ("Promoted", "The new version serves."),
    ("FirstDeploy", "The first version serves."),
    ("RolledBack", "It was worse: everything is as before (Warning)."),
    ("Aborted", "A person ended it: everything is as before (Warning)."),
    ("Returned", "Back on stable without a verdict (Warning)."),
    ("Rejected", "It ended before any user's traffic (Warning)."),
    ("Superseded", "A newer version came."),
];

/// Attributes of spans: what each says.
pub const ATTRIBUTES: &[(&str, &str)] = &[
    ("wade.rollout", "The rollout."),
    ("wade.release", "The number of the release."),
    ("k8s.namespace.name", "Its namespace, on Kubernetes."),
    ("wade.version", "The version that is released."),
    ("wade.version.stable", "The version that served before."),
    ("wade.strategy", "The strategy."),
    ("wade.by", "Who asked for the release."),
    ("wade.outcome", "How it ended."),
    ("wade.proven", "Whether every judged stage passed."),
    ("wade.phase", "The phase."),
    ("wade.stage", "The stage, 1 for the first."),
    (
        "wade.weight",
        "The share of users' traffic on the new version while the span lasted, 0 to 1.",
    ),
    ("wade.verdict", "The judge's last call in the span."),
    (
        "wade.evidence",
        "The last evidence against the new version in the span; at 1 it goes back.",
    ),
    ("wade.reason", "Why, in one sentence (also of events)."),
    ("wade.entry", "The number of the entry in the history (of events)."),
    ("cicd.pipeline.run.url.full", "The pipeline's page."),
    ("vcs.ref.head.revision", "The commit."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_used_once_and_follow_the_conventions() {
        let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert!(metric.name.starts_with("wade_"), "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{}",
                metric.name
            );
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(
                    bounds.is_sorted() && metric.name.ends_with("_seconds"),
                    "{}",
                    metric.name
                );
            }
        }
        let others = crate::platforms::local::proxy::METRICS.iter().map(|metric| metric.name);
        let others = others.chain(
            crate::signals::traces::telemetry::METRICS
                .iter()
                .map(|metric| metric.name),
        );
        for other in others {
            assert!(!names.contains(other), "{other} is a metric of another page");
        }
    }
}
