//! The Rollout and the Strategy as a user writes them: one schema for every platform.
//!
//! These types *are* the schema: `wade schema` prints the JSON Schema derived from them and the strict reader walks a
//! file against that schema (see `read`), so a field exists here or nowhere. Optional means "not said": defaults are
//! filled in by `plan`, in one place, so that a strategy's word and a rollout's word can be told from silence.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hooks::{HookSpec, Requires};
use super::values::{Allow, BurstWindow, Bytes, Percent, Span, Weight};

/// The `apiVersion` of everything Wade reads.
pub const API_VERSION: &str = "wade.dev/v1alpha1";

/// The long-lived policy of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// Always `wade.dev/v1alpha1`.
    pub api_version: String,
    /// Always `Rollout`.
    pub kind: String,
    /// What the rollout is called.
    pub metadata: Metadata,
    /// The policy itself.
    pub spec: RolloutSpec,
}

/// A strategy kept in a file of its own, referred to by `strategy: {use: NAME}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StrategyFile {
    /// Always `wade.dev/v1alpha1`.
    pub api_version: String,
    /// Always `Strategy`.
    pub kind: String,
    /// What the strategy is called.
    pub metadata: Metadata,
    /// Steps, and what the strategy says about analysis and limits.
    pub spec: StrategySpec,
}

/// Name and namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Lower-case letters, digits and `-`, at most 63 characters.
    pub name: String,
    /// The environment it belongs to; `default` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Free labels, shown but never interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What is released, how, and what must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutSpec {
    /// Whether Wade acts (`enforce`) or only says what it would have done (`observe`).
    #[serde(default)]
    pub mode: Mode,
    /// What carries a revision.
    pub workload: Workload,
    /// What a caller may set with `--set`, used as `${name}` in the workload. `version` is always declared.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Variable>,
    /// Where users' requests come in. Without it the workload takes no HTTP and the share of instances is the split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// How traffic is shifted; `careful` if not said.
    #[serde(default)]
    pub strategy: StrategyChoice,
    /// Tests against the new revision alone, before any user's request reaches it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub smoke: Vec<SmokeTest>,
    /// What is measured and what follows from it; laid over the strategy's own.
    #[serde(default, skip_serializing_if = "AnalysisSpec::is_empty")]
    pub analysis: AnalysisSpec,
    /// Points where a named person must say yes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateSpec>,
    /// When a release may begin. Going back is always allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
    /// How a release of a Deployment ends: with both revisions at full size, or by the Deployment's own rolling update.
    #[serde(default, skip_serializing_if = "Finish::is_full")]
    pub finish: Finish,
    /// How long each part may take; laid over the strategy's own.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Which versions may be released at all.
    #[serde(default)]
    pub versions: VersionPolicy,
    /// What to do when a newer revision arrives in mid-release.
    #[serde(default)]
    pub on_new_revision: OnNewRevision,
    /// Rollouts of the same place that have to be through before a release of this one begins: none of them is being
    /// released, and what was asked of them last serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub after: Vec<String>,
    /// What has to be promoted elsewhere before a release begins here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requires>,
    /// Jobs of the author's own: before the start, before all traffic, after the promotion, after a way back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub hooks: Vec<HookSpec>,
    /// How many finished releases keep their history, evidence and revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub history: Option<u32>,
    /// Who is told when a release begins, waits for a person, goes back, is stuck and ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub notify: Vec<NotifySpec>,
}

/// Whether Wade acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Wade shifts traffic and goes back by itself.
    #[default]
    Enforce,
    /// Wade judges releases made by others and acts on nothing.
    Observe,
}

/// How a release of a Deployment ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Finish {
    /// The new revision at full size before all traffic, the old one warm for the bake: room for both, and back in a
    /// second.
    #[default]
    Full,
    /// The new revision is handed over at the size of the last stage and the Deployment rolls the rest. For where there
    /// is no room for both; going back from there is a rolling update too.
    Rolling,
}

impl Finish {
    /// Whether it is the default.
    pub fn is_full(&self) -> bool {
        *self == Self::Full
    }
}

/// What carries a revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per rollout, and matching on a box reads worse"
)]
pub enum Workload {
    /// Processes on this machine, kept by `wade serve`.
    Process(ProcessWorkload),
    /// A Kubernetes Deployment, by name, in the namespace of the rollout or of the command line.
    Deployment(String),
}

/// A service as processes on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessWorkload {
    /// Program and arguments, as a list: no shell reads it. `${PORT}` and declared variables are replaced.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Environment of the process. Nothing else is inherited but PATH, HOME, LANG, TZ and TMPDIR.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory, relative to the rollout's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Further files whose content defines the revision, relative to the working directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// How many processes serve at full size; 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub instances: Option<u32>,
    /// The port the process listens on: `auto` (a free one, given as PORT). Left out for a workload without HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortChoice>,
    /// How to tell that an instance is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// The signal that asks the process to end; `TERM` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<StopSignal>,
    /// How long a process may take to finish its requests before it is killed; 10 s if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Span>,
    /// Limits per process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ProcessLimits>,
    /// Where the instances' metrics are, if they show any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsEndpoint>,
    /// The user to run as, if the daemon runs as root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Let the service run as root.
    #[serde(default)]
    pub allow_root: bool,
}

/// Where instances show metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsEndpoint {
    /// Path, usually `/metrics`.
    pub path: String,
}

/// How an instance gets its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PortChoice {
    /// A free port on loopback, given as `PORT` and `${PORT}`.
    Auto,
}

/// How to tell that an instance is ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Ready {
    /// A path that answers 2xx or 3xx.
    Http(String),
    /// The port accepts connections.
    Tcp(bool),
    /// A command that exits 0; it sees the instance's environment.
    Command(Vec<String>),
}

/// Signals that ask a process to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the signals'")]
pub enum StopSignal {
    #[default]
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
}

/// Limits per process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessLimits {
    /// Address space of one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Open files of one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 1048576))]
    pub open_files: Option<u64>,
}

/// A variable that a caller may set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variable {
    /// The value when the caller sets none; without it the variable must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The only values that are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
}

/// Where users' requests come in, and how the proxy treats them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Traffic {
    /// The address the proxy listens on, `127.0.0.1:8080`; port 0 takes a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Keep each user on the revision met first, by a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// How long the service may take to begin its answer; 60 s if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_within: Option<Span>,
}

/// Keep each user on one revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// How long the cookie lives; a session cookie if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
}

/// A strategy by name with overrides, or written out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StrategyChoice {
    /// A strategy by name.
    Named(NamedStrategy),
    /// A strategy written in place.
    Inline(Strategy),
}

impl Default for StrategyChoice {
    fn default() -> Self {
        Self::Named(NamedStrategy {
            name: "careful".to_owned(),
            with: None,
        })
    }
}

/// A strategy by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedStrategy {
    /// `careful`, `quick`, `blue-green`, `ab-header`, `shadow`, or the name of a file in `strategies/`.
    #[serde(rename = "use")]
    pub name: String,
    /// What to do differently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<StrategyOverrides>,
}

/// What a rollout changes in a strategy it uses by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StrategyOverrides {
    /// Other steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<Step>>,
    /// Another bake time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Span>,
    /// Another header or cookie match (A/B).
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<TrafficMatch>,
}

/// Steps, and what a strategy says about analysis and limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StrategySpec {
    /// How traffic is shifted.
    pub strategy: Strategy,
    /// What is measured and what follows from it.
    #[serde(default, skip_serializing_if = "AnalysisSpec::is_empty")]
    pub analysis: AnalysisSpec,
    /// How long each part may take.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// How traffic is shifted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    /// By growing weights.
    Canary(Canary),
    /// All at once, after a preview; the old revision stays warm.
    BlueGreen(BlueGreen),
    /// First for requests that carry a header or cookie, then by weights.
    Ab(Ab),
    /// First with copies of requests whose answers nobody sees, then by weights.
    Shadow(Shadow),
}

/// By growing weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    /// In order; weights grow. A last step to 100 % is added if missing.
    #[schemars(length(min = 1, max = 50))]
    pub steps: Vec<Step>,
    /// How long to watch at 100 % with the old revision warm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Span>,
}

/// All at once, after a preview.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlueGreen {
    /// How long the preview stands, at full size and without users, before the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Span>,
    /// A person must say yes before the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateRule>,
    /// How long the old revision stays warm after the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Span>,
}

/// First for requests that carry a header or cookie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ab {
    /// Which requests go to the canary.
    #[serde(rename = "match")]
    pub matching: TrafficMatch,
    /// The least and the most that the matched stage may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Span>,
    /// See `min`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Span>,
    /// What follows for everybody else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// How long to watch at 100 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Span>,
}

/// First with copies of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shadow {
    /// Which share of stable's requests is copied.
    pub mirror: Weight,
    /// The least that the mirrored stage may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Span>,
    /// The most that the mirrored stage may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Span>,
    /// What follows with real answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// How long to watch at 100 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Span>,
}

/// One step as written; told apart by its first key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Step {
    /// Shift to a weight and judge there.
    Weight(WeightStep),
    /// Stay for a while, judged but not ended early.
    Pause(PauseStep),
    /// Wait for a person.
    Gate(GateStep),
}

/// Shift to a weight and judge there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightStep {
    /// The canary's share.
    pub weight: Weight,
    /// The least time before a pass may end it; `passEarly.minStage` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Span>,
    /// The most time; what follows then is `onUndecided`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Span>,
}

/// Stay for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PauseStep {
    /// How long.
    pub pause: Span,
}

/// Wait for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GateStep {
    /// Who, and how long.
    pub gate: GateRule,
}

/// Who may open a gate, and how long it waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GateRule {
    /// `user:NAME`, `group:NAME` or a plain user name; nobody named means anyone who may approve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// How long it waits before the release returns to stable; `limits.gate` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Span>,
}

/// A gate before a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GateSpec {
    /// It stands before the first stage with at least this weight.
    pub before: Weight,
    /// `user:NAME`, `group:NAME` or a plain user name; nobody named means anyone who may approve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// How long it waits before the release returns to stable; `limits.gate` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Span>,
}

/// Which requests go to the canary whatever the weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TrafficMatch {
    /// A request header.
    Header(NamedMatch),
    /// A cookie.
    Cookie(NamedMatch),
}

/// A header or cookie, by name and value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedMatch {
    /// The header's or cookie's name.
    pub name: String,
    /// The exact value; any value if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A test against the new revision alone; told apart by its first key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SmokeTest {
    /// An HTTP request to every instance.
    Http(HttpSmoke),
    /// The gRPC health protocol.
    Grpc(GrpcSmoke),
    /// A command on this machine.
    Command(CommandSmoke),
}

/// An HTTP request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpSmoke {
    /// The path, `/healthz`.
    pub http: String,
    /// `GET` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers to send.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A body to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The status that must come back; any 2xx if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<u16>,
    /// Headers that must come back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expect_headers: BTreeMap<String, String>,
    /// Text that the answer must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// JSON paths (RFC 9535) and the values that they must select.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, serde_json::Value>,
    /// How long the answer may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// The gRPC health protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcSmoke {
    /// The service asked for; empty asks for the server as a whole.
    pub grpc: String,
    /// How long the answer may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// A command on this machine; it sees `WADE_URL`, the address of one instance of the new revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandSmoke {
    /// Program and arguments, as a list: no shell reads it.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// What is measured and what follows from it. Everything is optional: what is not said comes from the strategy, then
/// from the defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnalysisSpec {
    /// The chance of ever rolling back a canary that is within what is allowed (a bound).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub false_rollback: Option<Percent>,
    /// What is compared or limited; errors and latency if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Vec<MetricSpec>>,
    /// When a stage may end before its time; `false` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_early: Option<PassEarly>,
    /// The longest hiccup of one instance that is no news; `auto`: short where stable's history shows no bursts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_window: Option<BurstWindow>,
    /// Block of the fast path for a canary that is hard down; as long as a look, 2 s to 5 s, if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severe_window: Option<Span>,
    /// How often to look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look: Option<Span>,
    /// Where numbers come from besides the proxy's own counters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Traces as evidence: operations compared one by one, and errors that stable has never shown. Off if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<TracesSpec>,
    /// How much of stable's own behaviour is enough for an early pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistorySpec>,
    /// What follows when a stage's time is up without a verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_undecided: Option<OnUndecided>,
    /// What follows when nothing can be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_data: Option<OnNoData>,
    /// A plain threshold that acts at once, without a bound on false alarms. Off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tripwire: Option<Tripwire>,
}

impl AnalysisSpec {
    /// Whether nothing is said at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This, with silence filled in from `base`, inside of `passEarly`, `history` and `onNoData` too. What is one
    /// statement (the list of metrics, the source, the traces, the tripwire) is taken as a whole.
    pub fn over(self, base: Self) -> Self {
        Self {
            false_rollback: self.false_rollback.or(base.false_rollback),
            metrics: self.metrics.or(base.metrics),
            pass_early: both(self.pass_early, base.pass_early, PassEarly::over),
            burst_window: self.burst_window.or(base.burst_window),
            severe_window: self.severe_window.or(base.severe_window),
            look: self.look.or(base.look),
            source: self.source.or(base.source),
            traces: self.traces.or(base.traces),
            history: both(self.history, base.history, HistorySpec::over),
            on_undecided: self.on_undecided.or(base.on_undecided),
            on_no_data: both(self.on_no_data, base.on_no_data, OnNoData::over),
            tripwire: self.tripwire.or(base.tripwire),
        }
    }
}

/// The one that is said, or both laid over each other.
fn both<T>(upper: Option<T>, base: Option<T>, over: fn(T, &T) -> T) -> Option<T> {
    match (upper, base) {
        (Some(upper), Some(base)) => Some(over(upper, &base)),
        (upper, base) => upper.or(base),
    }
}

/// Where numbers come from besides the proxy's own counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The instances' own `/metrics`, read by Wade.
    Scrape(ScrapeSource),
    /// A Prometheus server.
    Prometheus(PrometheusSource),
}

/// The instances' own `/metrics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScrapeSource {
    /// The path, usually `/metrics`.
    pub path: String,
    /// How often; 2 s if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
}

/// A Prometheus server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrometheusSource {
    /// The server's address, `http://127.0.0.1:9090`.
    pub url: String,
    /// How often to ask; 5 s if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// A file that holds the bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// The label matchers that select the canary's series, `revision="${canary}"`.
    pub canary: String,
    /// The label matchers that select stable's series, `revision="${stable}"`.
    pub stable: String,
    /// The label that names one instance; `instance` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_label: Option<String>,
}

/// Traces as evidence. They may fail a release or hold it; no stage passes because of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TracesSpec {
    /// A trace store that is asked; the daemon's receiver (`otlp` in wade.yaml) if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TraceStore>,
    /// The service's `service.name`; the rollout's name if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The resource attributes that tell the revisions apart, the first that does decides; `service.version`,
    /// `k8s.pod.name`, `k8s.replicaset.name` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Vec<String>>,
    /// How many more errors an operation may have than stable's; `1.1x + 0.02pp` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
    /// How much slower an operation may be; `1.2x` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Allow>,
    /// The share of the canary's requests that may show an error which stable has never shown; `0.1%` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_errors: Option<Percent>,
    /// What follows when traces say that the canary is worse.
    #[serde(default)]
    pub on_worse: OnWorse,
    /// Share of the error budget of all metrics; 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100))]
    pub weight: Option<f64>,
}

/// A trace store that is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TraceStore {
    /// Jaeger, by its query API v3.
    Jaeger(TraceStoreAddress),
    /// Grafana Tempo, by TraceQL.
    Tempo(TraceStoreAddress),
}

/// Where a trace store answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TraceStoreAddress {
    /// The address, `http://jaeger-query:16686`.
    pub url: String,
    /// How often to ask; 5 s if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// A file that holds the bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
}

impl TraceStore {
    /// Where it answers.
    pub const fn address(&self) -> &TraceStoreAddress {
        match self {
            Self::Jaeger(address) | Self::Tempo(address) => address,
        }
    }
}

/// What follows when traces say that the canary is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnWorse {
    /// Go back to stable.
    #[default]
    Rollback,
    /// Keep the weight, so that a person can look.
    Hold,
}

/// One metric; told apart by its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MetricSpec {
    /// The share of failed requests.
    Errors(ErrorsMetric),
    /// How long requests take.
    Latency(LatencyMetric),
    /// Two counters of the user's own: how many, and how many of them bad.
    Counters(CountersMetric),
    /// A number that goes up and down.
    Gauge(GaugeMetric),
}

/// The share of failed requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorsMetric {
    /// How much worse than stable; `1.1x + 0.02pp` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
    /// An absolute limit besides the comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Percent>,
    /// Share of the error budget of all metrics; 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100))]
    pub weight: Option<f64>,
}

/// How long requests take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LatencyMetric {
    /// How much slower than stable; `1.2x` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
    /// Which quantiles are compared; p50, p90, p99, p999 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantiles: Option<Vec<Quantile>>,
    /// The canary's first time that is left out; 60 s if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Span>,
    /// Share of the error budget of all metrics; 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100))]
    pub weight: Option<f64>,
}

/// A quantile that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Quantile {
    P50,
    P90,
    P95,
    P99,
    P999,
}

impl Quantile {
    /// The quantile as a number from 0 to 1.
    pub const fn value(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P90 => 0.9,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
            Self::P999 => 0.999,
        }
    }
}

/// Two counters of the user's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CountersMetric {
    /// What it is called in reasons and records.
    pub name: String,
    /// The counter of all events: a series name, or PromQL with `${side}` for the side's matchers.
    pub total: String,
    /// The counter of bad events.
    pub bad: String,
    /// How much worse than stable; `1.1x + 0.02pp` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
    /// An absolute limit besides the comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Percent>,
    /// Share of the error budget of all metrics; 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100))]
    pub weight: Option<f64>,
}

/// A number that goes up and down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GaugeMetric {
    /// What it is called in reasons and records.
    pub name: String,
    /// A series name, or PromQL with `${side}` for the side's matchers.
    pub query: String,
    /// How much higher than stable; `1.25x` if not said. Percentage points count as hundredths of the gauge's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
    /// One pair is compared per this time; 30 s if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// Share of the error budget of all metrics; 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100))]
    pub weight: Option<f64>,
}

/// When a stage may end before its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PassEarly {
    /// `false`: never.
    Switch(bool),
    /// When every metric has been shown to be within these.
    When(PassEarlyRule),
}

impl PassEarly {
    fn over(self, base: &Self) -> Self {
        match (self, base) {
            (Self::When(rule), Self::When(base)) => Self::When(PassEarlyRule {
                errors_of_all_traffic: rule.errors_of_all_traffic.or(base.errors_of_all_traffic),
                latency: rule.latency.or(base.latency),
                min_stage: rule.min_stage.or(base.min_stage),
            }),
            // `true` asks for early passes; how, the strategy may have said.
            (Self::Switch(true), Self::When(base)) => Self::When(base.clone()),
            (upper, _) => upper,
        }
    }
}

/// What has to be shown for an early pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PassEarlyRule {
    /// Failed requests, and slow ones, as a share of all traffic, that a fault still unseen may cost at the next weight; `0.1pp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors_of_all_traffic: Option<Percent>,
    /// The slowdown that must be excluded; `1.5x`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Allow>,
    /// The least time of a stage; 60 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_stage: Option<Span>,
}

/// How much of stable's own behaviour is enough for an early pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistorySpec {
    /// How long stable must have been watched; 120 pod-minutes in 10 m if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least: Option<Span>,
    /// Length of one block; 1 m if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<Span>,
}

impl HistorySpec {
    fn over(self, base: &Self) -> Self {
        Self {
            least: self.least.or(base.least),
            block: self.block.or(base.block),
        }
    }
}

/// What follows when a stage's time is up without a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnUndecided {
    /// Go on; the release is then `unproven`.
    #[default]
    Advance,
    /// Wait for a person.
    Gate,
    /// Go back to stable.
    Return,
}

/// What follows when nothing can be measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnNoData {
    /// The source of measurements is down; `{after: 10m, do: return}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_down: Option<NoDataRule>,
    /// Stable has traffic and the canary shows none; `{after: 120s, do: rollback}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_silent: Option<NoDataRule>,
    /// Neither side has traffic; `{after: 10m, do: advance}` (then `unproven`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub both_silent: Option<NoDataRule>,
}

impl OnNoData {
    fn over(self, base: &Self) -> Self {
        Self {
            source_down: self.source_down.or(base.source_down),
            canary_silent: self.canary_silent.or(base.canary_silent),
            both_silent: self.both_silent.or(base.both_silent),
        }
    }
}

/// After how long, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NoDataRule {
    /// How long it has to last without a break.
    pub after: Span,
    /// What follows.
    #[serde(rename = "do")]
    pub action: NoDataAction,
}

/// What follows when nothing can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NoDataAction {
    /// Keep the weight and wait on.
    Hold,
    /// Go on when the stage's time is up; the release is then `unproven`.
    Advance,
    /// Go back to stable without a verdict.
    Return,
    /// Go back to stable as from a bad version.
    Rollback,
}

/// A plain threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tripwire {
    /// The canary's error share at which it trips.
    pub errors: Percent,
    /// How many looks in a row; 2 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub looks: Option<u32>,
    /// Looks with fewer canary requests do not count; 20 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_requests: Option<u64>,
}

/// When a release may begin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Windows {
    /// The times at which a release may begin; any time if none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenWindow>,
    /// The times at which none may begin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freezes: Vec<Freeze>,
    /// What to do outside.
    #[serde(default)]
    pub outside: Outside,
}

/// What to do outside a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Outside {
    /// Refuse and say when the next window opens.
    #[default]
    Reject,
    /// Wait for the next window.
    Wait,
}

/// A time of the week at which a release may begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenWindow {
    /// Days of the week; every day if none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// From this time of day, `09:00`.
    pub from: String,
    /// To this time of day, `16:30`; earlier than `from` means the next day.
    pub to: String,
    /// The time zone by its IANA name, `Europe/Berlin`.
    pub zone: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time at which no release may begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Freeze {
    /// First moment, `2026-12-20T18:00` or `2026-12-20`, in `zone`.
    pub from: String,
    /// Last moment; a plain date includes the whole day.
    pub to: String,
    /// The time zone by its IANA name; UTC if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Why; shown to everybody who is stopped by it.
    pub why: String,
}

/// How long each part may take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// For the new revision to become ready; 5 m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Span>,
    /// Ready without a break before the first weight; 5 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Span>,
    /// For all smoke tests together; 60 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke: Option<Span>,
    /// Tries of a smoke test; 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub smoke_tries: Option<u32>,
    /// For a person to open a gate; 4 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Span>,
    /// For the whole release without gates; 60 m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Span>,
}

impl Limits {
    /// Whether nothing is said at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This, with silence filled in from `base`.
    pub fn over(self, base: &Self) -> Self {
        Self {
            ready: self.ready.or(base.ready),
            settle: self.settle.or(base.settle),
            smoke: self.smoke.or(base.smoke),
            smoke_tries: self.smoke_tries.or(base.smoke_tries),
            gate: self.gate.or(base.gate),
            release: self.release.or(base.release),
        }
    }
}

/// Which versions may be released at all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VersionPolicy {
    /// Accept `latest` and an empty version.
    #[serde(default)]
    pub allow_latest: bool,
    /// Versions that are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forbid: Vec<String>,
}

/// What to do when a newer revision arrives in mid-release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnNewRevision {
    /// Finish this one first.
    #[default]
    Wait,
    /// Back to stable first, then the new one.
    Supersede,
}

/// Somebody who is told what a release does. The address is a secret, so it is only referred to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NotifySpec {
    /// A Slack channel, by its incoming webhook.
    Slack(AddressFrom),
    /// Any address that takes JSON by POST.
    Webhook(AddressFrom),
}

/// Where the address is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AddressFrom {
    /// A Secret in the Deployment's namespace, with the address under the key `url`.
    SecretRef(String),
    /// Where the step or daemon runs.
    UrlFrom(UrlFrom),
}

/// An address that is kept where the step or daemon runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum UrlFrom {
    /// An environment variable.
    Env(String),
    /// A file.
    File(String),
}
