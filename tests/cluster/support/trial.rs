//! One release on trial: the application with clients on every way to it, a witness, and the questions that are asked
//! of every release, whatever happened to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::api::Kind;
use super::audit::{Audit, Request};
use super::client::{Client, Connections, Tally};
use super::recorder::{Change, History, Recorder, lowest, text};
use super::space::{APP, Sample, Space};
use super::step::{Ended, Step};
use super::{now, seconds};

/// Requests a second through the Gateway.
pub(crate) const EDGE_RATE: u32 = 40;
/// Requests a second straight to the Service.
pub(crate) const SERVICE_RATE: u32 = 20;
/// A release of these tests is over long before.
const OVER_WITHIN: Duration = Duration::from_secs(110);
/// The label by which a ReplicaSet tells its pods from others'.
const HASH: &str = "/metadata/labels/pod-template-hash";

/// Two stages of six seconds, both waited for, and a short bake.
pub(crate) const SHORT: Policy = Policy {
    strategy: "canary: {steps: [{weight: 25%, max: 6s}, {weight: 50%, max: 6s}], bake: 5s}",
    analysis: "{passEarly: {minStage: 6s}}",
    smoke: true,
    limits: "{settle: 2s}",
    finish: "full",
    // Pods that are added settle before each of the three weights; the old ones drain for three seconds.
    waits: 3.0 * 2.0 + 6.0 + 6.0 + 5.0 + 3.0,
};

/// A policy as a file says it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) strategy: &'static str,
    pub(crate) analysis: &'static str,
    /// Whether `/healthz` is asked before the first weight.
    pub(crate) smoke: bool,
    pub(crate) limits: &'static str,
    /// `full` or `rolling`.
    pub(crate) finish: &'static str,
    /// What of it is waiting, in seconds: what is over that is Wade's own time.
    pub(crate) waits: f64,
}

impl Policy {
    fn text(&self, namespace: &str) -> String {
        let smoke = if self.smoke { "[{http: /healthz}]" } else { "[]" };
        format!(
            "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {APP}, namespace: {namespace}}}\nspec:\n  \
             workload: {{deployment: {APP}}}\n  strategy: {{{}}}\n  smoke: {smoke}\n  analysis: {}\n  limits: {}\n  finish: {}\n",
            self.strategy, self.analysis, self.limits, self.finish
        )
    }
}

/// The application under load, watched, before, in and after a release.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) space: Space,
    pub(crate) recorder: Arc<Recorder>,
    audit: Audit,
    clients: Vec<(&'static str, Client)>,
    /// When the load was there and nothing had begun.
    begun: Timestamp,
    before: Before,
    policy_file: PathBuf,
}

/// What was there before the release.
#[derive(Clone, Debug)]
struct Before {
    /// The Deployment, the Services, the routes and what else was the user's, by kind and name.
    objects: BTreeMap<(Kind, String), Value>,
    /// The hash of the ReplicaSet that served.
    stable: String,
    replicas: usize,
}

/// The kinds of which nothing may be left, or be different, after a release.
const USERS: [Kind; 7] = [
    Kind::ConfigMap,
    Kind::Deployment,
    Kind::HorizontalPodAutoscaler,
    Kind::HttpRoute,
    Kind::Lease,
    Kind::PodDisruptionBudget,
    Kind::Service,
];

impl Trial {
    /// The sample application, all of it serving, under load on every way that leads to it.
    pub(crate) async fn start(test: &str, sample: &Sample) -> Self {
        let space = Space::new(test).await;
        space.deploy(sample).await;
        Self::of(space, sample.route).await
    }

    /// What is in the namespace already, under load.
    pub(crate) async fn of(space: Space, route: bool) -> Self {
        let recorder = Arc::new(space.recorder().await);
        let before = Before::read(&space).await;
        let mut clients = vec![(
            "service",
            space.through_service(APP, SERVICE_RATE, Connections::New).await,
        )];
        if route {
            clients.push(("edge", space.through_edge(EDGE_RATE, Connections::New)));
        }
        // The judge and the rate that `wade` sees begin with it.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let policy_file = space.node.run_folder().join(format!("{}.policy.yaml", space.name));
        Self {
            audit: Audit::start(&space.node),
            recorder,
            clients,
            begun: now(),
            before,
            policy_file,
            space,
        }
    }

    /// One more client.
    pub(crate) fn add(&mut self, name: &'static str, client: Client) {
        self.clients.push((name, client));
    }

    /// What a client has got so far.
    pub(crate) fn so_far(&self, name: &str) -> Tally {
        let client = self.clients.iter().find(|(known, _)| *known == name);
        client.map(|(_, client)| client.so_far()).unwrap_or_default()
    }

    /// `wade deploy` of an image with this tag.
    pub(crate) fn deploy(&self, tag: &str, policy: &Policy) -> Step {
        let image = self.space.node.image(tag);
        self.deploy_with(&["--image", &image], policy)
    }

    /// `wade deploy` of this sample's Deployment, as a manifest.
    pub(crate) fn deploy_manifest(&self, sample: &Sample, policy: &Policy) -> Step {
        let deployment = self
            .space
            .objects(sample)
            .into_iter()
            .find_map(|(kind, object)| (kind == Kind::Deployment).then_some(object));
        let file = self.policy_file.with_extension("manifest");
        fs::write(&file, deployment.expect("there is one").to_string()).expect("the node's folder is there");
        self.deploy_with(&["--from-file", &file.to_string_lossy()], policy)
    }

    /// `wade deploy` with these words.
    pub(crate) fn deploy_with(&self, words: &[&str], policy: &Policy) -> Step {
        fs::write(&self.policy_file, policy.text(&self.space.name)).expect("the node's folder is there");
        let file = self.policy_file.to_string_lossy().into_owned();
        self.wade(&[&["deploy", "deployment/app", "-f", &file], words].concat())
    }

    /// `wade` in this namespace.
    pub(crate) fn wade(&self, words: &[&str]) -> Step {
        Step::start(&self.space, &[words, &["-n", &self.space.name]].concat())
    }

    /// The hash of the ReplicaSet that served when it began.
    pub(crate) fn stable(&self) -> &str {
        &self.before.stable
    }

    /// Waits until the route (its weight of the canary) is at this percentage.
    pub(crate) async fn weight_is(&self, weight: u64) {
        super::eventually(
            &format!("the route gives the canary {weight} %"),
            OVER_WITHIN,
            || async {
                let now = weights(&self.recorder.history()).last().map(|(_, weight)| *weight);
                (now == Some(weight)).then_some(())
            },
        )
        .await;
    }

    /// Waits until the step is over, and then until what has ended has drained; hands over all that was seen.
    pub(crate) async fn end(self, step: Step) -> Evidence {
        let started = self.begun;
        let ended = step.ends(OVER_WITHIN).await;
        let over = now();
        // Pods that were let go serve on for three seconds.
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.close(ended, started, over).await
    }

    async fn close(mut self, ended: Ended, started: Timestamp, over: Timestamp) -> Evidence {
        let mut tallies = BTreeMap::new();
        for (name, client) in self.clients.drain(..) {
            tallies.insert(name, client.stop().await);
        }
        let namespace = self.space.name.clone();
        let writes = self
            .audit
            .requests(|request| request.is_in(&namespace) && request.is_write() && is_wades(request))
            .await;
        Evidence {
            history: self.recorder.history(),
            tallies,
            writes,
            ended,
            started,
            over,
            trial: self,
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // It was perhaps never written.
        let _ = fs::remove_file(&self.policy_file);
        let _ = fs::remove_file(self.policy_file.with_extension("manifest"));
    }
}

impl Before {
    async fn read(space: &Space) -> Self {
        let objects = users(space).await;
        let deployment = &objects[&(Kind::Deployment, APP.to_owned())];
        let replicas = deployment.pointer("/spec/replicas").and_then(Value::as_u64);
        let sets = space.list(Kind::ReplicaSet).await;
        let active = sets
            .iter()
            .find(|set| set.pointer("/spec/replicas").and_then(Value::as_u64) > Some(0));
        Self {
            stable: active.map_or("", |set| text(set, HASH)).to_owned(),
            replicas: usize::try_from(replicas.unwrap_or(0)).expect("a few"),
            objects,
        }
    }
}

async fn users(space: &Space) -> BTreeMap<(Kind, String), Value> {
    let mut objects = BTreeMap::new();
    for kind in USERS {
        for object in space.list(kind).await {
            objects.insert((kind, text(&object, "/metadata/name").to_owned()), object);
        }
    }
    objects
}

/// The step's own requests: neither the node's parts, nor these tests, nor kubectl.
fn is_wades(request: &Request) -> bool {
    let dry = request.uri.contains("dryRun");
    !dry && request.user.username == "admin"
        && (request.user_agent.is_empty() || request.user_agent.starts_with("wade/"))
}

/// Everything that was seen of a release that is over.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) trial: Trial,
    pub(crate) history: History,
    pub(crate) ended: Ended,
    /// When the load was there and nothing had begun.
    pub(crate) started: Timestamp,
    /// When the step had ended.
    pub(crate) over: Timestamp,
    tallies: BTreeMap<&'static str, Tally>,
    writes: Vec<Request>,
}

impl Evidence {
    /// How long the step took, in seconds.
    pub(crate) fn took(&self) -> f64 {
        seconds(self.started, self.over)
    }

    /// What a client got.
    pub(crate) fn tally(&self, name: &str) -> &Tally {
        &self.tallies[name]
    }

    /// The step's exit code, which must be this; with its output if it is not.
    pub(crate) fn exits_with(&self, code: i32) {
        assert_eq!(self.ended.code(), Some(code), "{}", self.ended.output());
    }

    /// The step's output says these words.
    pub(crate) fn says(&self, words: &str) {
        let output = self.ended.output();
        assert!(output.contains(words), "it does not say {words:?}:\n{output}");
    }

    /// No request was lost or answered badly on any way.
    pub(crate) fn nothing_lost(&self) {
        for (name, tally) in &self.tallies {
            assert_eq!(tally.bad().total(), 0, "{name}: {tally}\n{}", self.ended.output());
        }
    }

    /// What was bad came from this version itself, and nothing else was.
    pub(crate) fn only_bad_from(&self, version: &str) {
        for (name, tally) in &self.tallies {
            let others = tally.bad().only(|answer| !answer.is_from(version));
            assert_eq!(others.total(), 0, "{name}: {others}\n{}", self.ended.output());
        }
    }

    /// Nobody got an answer of this version.
    pub(crate) fn nobody_met(&self, version: &str) {
        for (name, tally) in &self.tallies {
            let met = tally.only(|answer| answer.is_from(version));
            assert_eq!(met.total(), 0, "{name}: {met}");
        }
    }

    /// Nobody got an answer of this version before the route gave it any weight.
    pub(crate) fn nobody_met_before_its_weight(&self, version: &str) {
        let weights = weights(&self.history);
        let first = weights.iter().find(|(_, weight)| *weight > 0).map(|(at, _)| *at);
        let first = first.expect("it was given weight");
        for (name, tally) in &self.tallies {
            let met = tally.only(|answer| answer.is_from(version)).first();
            // The witness hears of a write a moment after Envoy may have.
            assert!(
                met.is_none_or(|met| seconds(first, met) > -0.3),
                "{name}: {:.1} s before its first weight",
                seconds(met.expect("it is"), first)
            );
        }
    }

    /// Stable had all of its pods ready, from the beginning to the end of the step.
    pub(crate) fn stable_stayed_whole(&self) {
        let stable = &self.trial.before.stable;
        let ready = self.history.ready_pods(|pod| text(pod, HASH) == stable);
        assert_eq!(
            lowest(&ready, self.started),
            Some(self.trial.before.replicas),
            "ready pods of stable: {ready:?}"
        );
    }

    /// The Services never had fewer ready endpoints than there were replicas.
    pub(crate) fn never_below(&self, least: usize) {
        let ready = self.history.ready_endpoints(APP);
        assert!(
            lowest(&ready, self.started) >= Some(least),
            "ready endpoints: {ready:?}\n{}",
            self.ended.output()
        );
    }

    /// Pods that were started since the beginning, by identity.
    pub(crate) fn started_pods(&self) -> BTreeSet<String> {
        let old = self.history.until(self.started).pods();
        self.history.pods().difference(&old).cloned().collect()
    }

    /// The Deployment is as it was before the release, by what the user says in it, and so is everything else.
    pub(crate) async fn everything_as_before(&self) {
        let after = users(&self.trial.space).await;
        let left = left_behind(&self.trial.before.objects, &after, false);
        assert!(left.is_empty(), "{left:#?}\n{}", self.ended.output());
    }

    /// As before but for the new template.
    pub(crate) async fn nothing_left_but_the_record(&self) {
        let after = users(&self.trial.space).await;
        let left = left_behind(&self.trial.before.objects, &after, true);
        assert!(left.is_empty(), "{left:#?}\n{}", self.ended.output());
    }

    /// Writes of the step to the user's objects and its own; without the record and the Lease.
    pub(crate) fn writes(&self) -> BTreeMap<String, usize> {
        self.count(|resource| !matches!(resource, "configmaps" | "leases" | "events"))
    }

    /// Writes of the step to the record and the Lease.
    pub(crate) fn record_writes(&self) -> BTreeMap<String, usize> {
        self.count(|resource| matches!(resource, "configmaps" | "leases"))
    }

    fn count(&self, holds: impl Fn(&str) -> bool) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in &self.writes {
            let Some(object) = &request.object else { continue };
            if holds(&object.resource) {
                *counts
                    .entry(format!("{} {}", request.verb, object.resource))
                    .or_default() += 1;
            }
        }
        counts
    }

    /// Seconds from the first bad answer of the edge's client to the moment when the route was back on stable, and to
    /// the last bad answer.
    pub(crate) fn way_back(&self) -> (f64, f64) {
        let bad = self.tally("edge").bad();
        let (first, last) = (bad.first(), bad.last());
        let first = first.expect("users met the fault");
        let back = weights(&self.history)
            .into_iter()
            .find(|(at, weight)| *at > first && *weight == 0);
        let back = back.expect("the weight went back").0;
        (
            seconds(first, back),
            seconds(first, last.expect("there is a first one")),
        )
    }
}

/// The canary's weight in the route, in percent, whenever it was written; a route without it gives it none.
pub(crate) fn weights(history: &History) -> Vec<(Timestamp, u64)> {
    let mut weights: Vec<(Timestamp, u64)> = Vec::new();
    for seen in history.of(Kind::HttpRoute) {
        if seen.name() != APP || seen.change == Change::Deleted {
            continue;
        }
        let backends = seen
            .object
            .pointer("/spec/rules/0/backendRefs")
            .and_then(Value::as_array);
        let backends = backends.map_or(&[][..], Vec::as_slice);
        let weight = |backend: &Value| backend.get("weight").and_then(Value::as_u64).unwrap_or(1);
        let all: u64 = backends.iter().map(weight).sum();
        let canary = backends.iter().find(|backend| text(backend, "/name") == "app-canary");
        let share = (canary.map_or(0, weight) * 100).checked_div(all).unwrap_or(0);
        if weights.last().is_none_or(|(_, last)| *last != share) {
            weights.push((seen.at, share));
        }
    }
    weights
}

/// What a release has left behind, in words: what is there and was not, what is gone, what differs in what the user
/// says, and whatever carries Wade's name.
fn left_behind(
    before: &BTreeMap<(Kind, String), Value>,
    after: &BTreeMap<(Kind, String), Value>,
    released: bool,
) -> Vec<String> {
    let mut left = Vec::new();
    for ((kind, name), object) in after {
        let record = matches!(kind, Kind::ConfigMap | Kind::Lease) && name == "wade-app";
        match before.get(&(*kind, name.clone())) {
            _ if record || *kind == Kind::ConfigMap && name == "kube-root-ca.crt" => {}
            None => left.push(format!("{kind:?} {name} is there")),
            Some(was) => {
                let (was, is) = (said(was, released), said(object, released));
                if was != is {
                    left.push(format!("{kind:?} {name} was {was} and is {is}"));
                }
                if object["metadata"]["annotations"].to_string().contains("wade.dev") {
                    left.push(format!(
                        "{kind:?} {name} is annotated: {}",
                        object["metadata"]["annotations"]
                    ));
                }
                let fields = object.pointer("/metadata/managedFields").and_then(Value::as_array);
                for field in fields.into_iter().flatten() {
                    if text(field, "/manager") == "wade" {
                        left.push(format!("{kind:?} {name} has fields managed by Wade: {field}"));
                    }
                }
            }
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        left.push(format!("{:?} {} is gone", key.0, key.1));
    }
    left
}

/// What the user says in an object; `released` leaves out what a release is there to change.
fn said(object: &Value, released: bool) -> Value {
    let mut said = json!({"spec": object["spec"], "labels": object["metadata"]["labels"]});
    if released && object.pointer("/spec/template").is_some() {
        said["spec"]["template"] = Value::Null;
    }
    said
}
