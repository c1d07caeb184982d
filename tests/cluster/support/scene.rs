//! A release under watch: the application, people who use it, a witness, and the rules that hold whatever happens.
//!
//! A test opens a scene, does to the release what it is about, and closes it. Closing waits until everything is at rest
//! and then checks what must be true of every release, however it ended: the rules of DESIGN.md section 8 as far as they
//! can be seen from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::api::Kind;
use super::audit::{Audit, Request};
use super::client::{Client, Connections, Tally};
use super::recorder::{Change, History, Recorder, lowest, text};
use super::space::{APP, Sample, Space};
use super::step::Step;
use super::{eventually, now, seconds};

/// Requests a second of each client.
const RATE: u32 = 30;
/// How long everything may take to come to rest once the last command has ended.
const REST_WITHIN: Duration = Duration::from_secs(25);
/// The version that serves before a release.
pub(crate) const OLD: &str = "1.0";
/// A version that is as good.
pub(crate) const NEW: &str = "2.0";
/// The record's name, and the Lease's.
pub(crate) const RECORD: &str = "wade-app";
/// The Service that leads to the canary alone.
pub(crate) const CANARY: &str = "app-canary";
/// How many pods the application has.
pub(crate) const REPLICAS: usize = 4;

/// The canary's weights that the policies below ever ask for, in percent.
const PLANNED: [u64; 4] = [0, 20, 50, 100];

/// A quick release in two steps, with smoke tests: about 20 s.
pub(crate) const QUICK: &str = "
  strategy:
    canary:
      steps:
        - {weight: 20%, max: 6s}
        - {weight: 50%, max: 6s}
      bake: 4s
  smoke: [{http: /healthz}]
  analysis: {passEarly: {minStage: 3s}}
  limits: {settle: 1s}
";

/// As [`QUICK`], with a stage at 20 % that lasts long enough for whatever is to happen in it.
pub(crate) const SLOW: &str = "
  strategy:
    canary:
      steps:
        - {weight: 20%, max: 10m}
      bake: 4s
  smoke: [{http: /healthz}]
  analysis: {passEarly: {minStage: 10m}}
  limits: {settle: 1s}
";

/// An application in use, watched.
#[derive(Debug)]
pub(crate) struct Scene {
    recorder: Arc<Recorder>,
    edge: Client,
    service: Client,
    audit: Audit,
    policy: PathBuf,
    /// When everything was as before the first release.
    pub(crate) begun: Timestamp,
    before: Before,
    /// Last, so that it goes last.
    pub(crate) space: Space,
}

/// What belongs to the user, as it was.
#[derive(Debug)]
struct Before {
    deployment: Value,
    service: Value,
    route: Value,
    /// The Service that leads to the canary alone, if the user has declared one.
    canary: Option<Value>,
}

/// What was seen of a scene that has ended well.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) history: History,
    /// What the API server was asked about this namespace.
    pub(crate) requests: Vec<Request>,
    /// The space, so that more can be asked of it.
    pub(crate) space: Space,
}

/// What may be different at the end of a scene.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// The version that answers everybody.
    pub(crate) version: &'a str,
    /// The Deployment was left paused on purpose, with a template that is not Wade's.
    pub(crate) left_paused: bool,
    /// Somebody else wrote the Deployment's template too, so it need not be one of the two.
    pub(crate) others_write: bool,
}

impl<'a> Expected<'a> {
    /// All is at rest with this version.
    pub(crate) const fn on(version: &'a str) -> Self {
        Self {
            version,
            left_paused: false,
            others_write: false,
        }
    }
}

impl Scene {
    /// The sample application at version [`OLD`] in a namespace of its own, with two clients; `policy` is the `spec` of
    /// its Rollout below `workload`.
    pub(crate) async fn open(test: &str, policy: &str) -> Self {
        Self::set(Space::new(test).await, policy).await
    }

    /// As [`Self::open`], for a test that stops a part of the node.
    pub(crate) async fn open_alone(test: &str, policy: &str) -> Self {
        Self::set(Space::alone(test).await, policy).await
    }

    async fn set(space: Space, policy: &str) -> Self {
        let sample = Sample {
            replicas: REPLICAS as u32,
            ..Sample::default()
        };
        space.deploy(&sample).await;
        Self::watch(space, policy).await
    }

    /// Watches an application that is there already.
    pub(crate) async fn watch(space: Space, policy: &str) -> Self {
        let recorder = Arc::new(space.recorder().await);
        // The pods are ready; the witness hears of their endpoints a moment later.
        eventually("the witness sees all endpoints", Duration::from_secs(20), || async {
            let deployment = space.get(Kind::Deployment, APP).await?;
            let wanted = deployment.pointer("/spec/replicas")?.as_u64()?;
            let seen = recorder.history().ready_endpoints(APP);
            (seen.last()?.1 as u64 == wanted).then_some(())
        })
        .await;
        let edge = space.through_edge(RATE, Connections::New);
        let service = space.through_service(APP, RATE, Connections::New).await;
        let file = space.node.run_folder().join(format!("{}.yaml", space.name));
        let head = format!(
            "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {APP}, namespace: {}}}\nspec:\n  workload: {{deployment: {APP}}}",
            space.name
        );
        fs::write(&file, format!("{head}{policy}")).expect("the node's folder is there");
        let there = async |kind| space.get(kind, APP).await.expect("it was just deployed");
        let before = Before {
            deployment: there(Kind::Deployment).await,
            service: there(Kind::Service).await,
            route: there(Kind::HttpRoute).await,
            canary: space.get(Kind::Service, CANARY).await,
        };
        Self {
            audit: Audit::start(&space.node),
            recorder,
            edge,
            service,
            policy: file,
            begun: now(),
            before,
            space,
        }
    }

    /// The policy's file.
    pub(crate) fn policy(&self) -> &Path {
        &self.policy
    }

    /// What was seen so far.
    pub(crate) fn history(&self) -> History {
        self.recorder.history()
    }

    /// The recorder, for those who tell Prometheus what to scrape.
    pub(crate) fn recorder(&self) -> Arc<Recorder> {
        self.recorder.clone()
    }

    /// `wade deploy` of a version.
    pub(crate) fn deploy(&self, tag: &str) -> Step {
        self.deploy_as(&self.space.node.kubeconfig(), tag, &[])
    }

    /// `wade deploy` of a version as somebody, with further words.
    pub(crate) fn deploy_as(&self, kubeconfig: &Path, tag: &str, more: &[&str]) -> Step {
        let image = self.space.node.image(tag);
        let policy = self.policy.to_string_lossy().into_owned();
        let words = [&["deploy", "--image", &image, "-f", &policy], more].concat();
        self.wade_as(kubeconfig, &words)
    }

    /// Another verb about the application: `wade WORDS deployment/app -n NAMESPACE`.
    pub(crate) fn wade(&self, words: &[&str]) -> Step {
        self.wade_as(&self.space.node.kubeconfig(), words)
    }

    /// As [`Self::wade`], as somebody.
    pub(crate) fn wade_as(&self, kubeconfig: &Path, words: &[&str]) -> Step {
        let (verb, rest) = words.split_first().expect("a verb");
        let about = [*verb, "deployment/app", "-n", self.space.name.as_str()];
        Step::start_as(&self.space, kubeconfig, &[&about, rest].concat())
    }

    /// The canary's weight at this moment.
    pub(crate) fn weight(&self) -> u64 {
        weights(&self.history()).last().map_or(0, |weight| weight.canary)
    }

    /// Waits until the canary has this weight.
    pub(crate) async fn reaches(&self, weight: u64, within: Duration) -> Timestamp {
        eventually(&format!("the canary has {weight} %"), within, || async {
            let weights = weights(&self.history());
            weights
                .iter()
                .rev()
                .find(|seen| seen.canary == weight)
                .map(|seen| seen.at)
        })
        .await
    }

    /// Waits until the canary has no weight any more, from this moment on.
    pub(crate) async fn is_back(&self, since: Timestamp, within: Duration) -> Timestamp {
        eventually("all traffic is back on stable", within, || async {
            let weights = weights(&self.history());
            weights
                .iter()
                .find(|seen| seen.at >= since && seen.canary == 0)
                .map(|seen| seen.at)
        })
        .await
    }

    /// The record as it is.
    pub(crate) async fn record(&self) -> Option<Value> {
        self.space.get(Kind::ConfigMap, RECORD).await
    }

    /// Waits until all is at rest, checks the rules, and says how the last release ended.
    pub(crate) async fn close(self, expected: Expected<'_>) -> Closed {
        let rest = format!("all is at rest on {}", expected.version);
        let left = eventually_or(REST_WITHIN, || async { self.unrest(&expected).await.err() }).await;
        if let Some(left) = left {
            panic!("it is not so that {rest}: {left}\n{}", told(&self.history()));
        }
        // What was on its way to a pod that went gets its end, and the last answers are the new version's.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let history = self.recorder.history();
        let name = self.space.name.clone();
        let requests = self.audit.requests(|request| request.is_in(&name)).await;
        let _ = fs::remove_file(&self.policy);
        let mut lost = 0;
        for (path, client) in [("edge", self.edge), ("service", self.service)] {
            let tally = client.stop().await;
            println!("{name}: {path}: {tally}");
            let leaked = leaked(&tally, &history, &self.space.node.image(""));
            assert!(
                leaked.is_empty() || expected.others_write,
                "{path}: {}\n{}",
                leaked.join("; "),
                told(&history)
            );
            lost += tally.bad().total();
            let late = tally.between(now() - Duration::from_millis(1500), now());
            let wrong = late.only(|answer| !answer.is_from(expected.version)).total();
            assert_eq!(wrong, 0, "{path}: not everybody is on {}: {late}", expected.version);
        }
        let faults = faults(&history, self.begun);
        assert!(faults.is_empty(), "{}\n{}", faults.join("\n"), told(&history));
        assert_eq!(lost, 0, "requests were lost\n{}", told(&history));
        Closed {
            history,
            requests,
            space: self.space,
        }
    }

    /// What of a release is still there, or not as it was.
    async fn unrest(&self, expected: &Expected<'_>) -> Result<(), String> {
        let space = &self.space;
        let get = async |kind| space.get(kind, APP).await.ok_or(format!("{kind:?} {APP} is gone"));
        let deployment = get(Kind::Deployment).await?;
        let same = |what: &str, before: &Value, after: &Value, pointer: &str| {
            if before.pointer(pointer) == after.pointer(pointer) {
                return Ok(());
            }
            let (before, after) = (before.pointer(pointer), after.pointer(pointer));
            Err(format!("{what}{pointer} was {before:?} and is {after:?}"))
        };
        same("service", &self.before.service, &get(Kind::Service).await?, "/spec")?;
        let route = get(Kind::HttpRoute).await?;
        same("route", &self.before.route, &route, "/spec")?;
        for pointer in ["/spec/strategy", "/spec/revisionHistoryLimit", "/spec/replicas"] {
            same("deployment", &self.before.deployment, &deployment, pointer)?;
        }
        let service = get(Kind::Service).await?;
        for (what, object) in [("deployment", &deployment), ("route", &route), ("service", &service)] {
            nothing_of_wade(what, object, expected)?;
        }
        match (&self.before.canary, space.get(Kind::Service, CANARY).await) {
            (None, Some(_)) => return Err(format!("service {CANARY} is still there")),
            (Some(_), None) => return Err(format!("service {CANARY} is gone")),
            (Some(before), Some(now)) => same("canary's service", before, &now, "/spec")?,
            (None, None) => {}
        }
        let maps = space.api.get(&Kind::ConfigMap.collection(&space.name)).await;
        for map in maps.map_err(|refused| refused.message)?["items"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let name = text(map, "/metadata/name");
            if ![RECORD, "kube-root-ca.crt"].contains(&name) {
                return Err(format!("configmap {name} is still there"));
            }
        }
        let paused = deployment.pointer("/spec/paused") == Some(&Value::Bool(true));
        if paused != expected.left_paused {
            return Err(format!("the deployment's paused is {paused}"));
        }
        let image = text(&deployment, "/spec/template/spec/containers/0/image");
        if !expected.left_paused && !expected.others_write && image != space.node.image(expected.version) {
            return Err(format!("the template is of {image}"));
        }
        self.only_pods_of(expected.version).await
    }

    /// All pods are of this version, ready, and of ReplicaSets that the Deployment owns.
    async fn only_pods_of(&self, version: &str) -> Result<(), String> {
        let space = &self.space;
        let sets = space.api.get(&Kind::ReplicaSet.collection(&space.name)).await;
        for set in sets.map_err(|refused| refused.message)?["items"]
            .as_array()
            .into_iter()
            .flatten()
        {
            if text(set, "/metadata/ownerReferences/0/kind") != "Deployment" {
                return Err(format!("replicaset {} is nobody's", text(set, "/metadata/name")));
            }
        }
        let pods = space.api.get(&Kind::Pod.collection(&space.name)).await;
        let pods = pods.map_err(|refused| refused.message)?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let of = |pod: &&Value| {
            text(pod, "/spec/containers/0/image") == space.node.image(version)
                && text(pod, "/metadata/labels/app") == APP
                && pod.pointer("/status/containerStatuses/0/ready") == Some(&Value::Bool(true))
        };
        let right = pods.iter().filter(of).count();
        if (right, pods.len()) != (REPLICAS, REPLICAS) {
            return Err(format!("{right} of {} pods are ready and of {version}", pods.len()));
        }
        Ok(())
    }
}

/// Versions that somebody met before the route had given them any share. With several releases a version may have been
/// stable before: what matters is the first time.
fn leaked(tally: &Tally, history: &History, image: &str) -> Vec<String> {
    let mut leaked = Vec::new();
    let mut tags = BTreeMap::<String, Timestamp>::new();
    for seen in history.of(Kind::ReplicaSet) {
        let of = text(&seen.object, "/spec/template/spec/containers/0/image");
        if let Some(tag) = of.strip_prefix(image) {
            tags.entry(tag.to_owned()).or_insert(seen.at);
        }
    }
    let weights = weights(history);
    for (tag, made) in tags.iter().filter(|(tag, _)| *tag != OLD) {
        let Some(met) = tally.only(|answer| answer.is_from(tag)).first() else {
            continue;
        };
        let given = weights.iter().find(|seen| seen.at >= *made && seen.canary > 0);
        // The witness hears of a write a moment after Envoy may have.
        if given.is_none_or(|given| seconds(met, given.at) > 0.3) {
            leaked.push(format!("{tag} was met at {met}, its first weight was {given:?}"));
        }
    }
    leaked
}

/// Looks until there is nothing to complain of; the last complaint if that does not come.
async fn eventually_or<F>(within: Duration, mut look: impl FnMut() -> F) -> Option<String>
where
    F: Future<Output = Option<String>>,
{
    let watch = wade::clock::stopwatch();
    loop {
        let complaint = look().await?;
        if watch.elapsed() > within {
            return Some(complaint);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn nothing_of_wade(what: &str, object: &Value, expected: &Expected<'_>) -> Result<(), String> {
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
    for key in annotations.into_iter().flat_map(|annotations| annotations.keys()) {
        let marked = expected.left_paused && key == "wade.dev/left-paused";
        if key.starts_with("wade.dev/") && !marked {
            return Err(format!("annotation {key} is on the {what}"));
        }
    }
    let fields = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let mine = |field: &Value| ["wade", "wade-deploy"].contains(&text(field, "/manager"));
    if fields.into_iter().flatten().any(mine) {
        return Err(format!("wade is a field manager of the {what}"));
    }
    Ok(())
}

/// The route's weights at a moment, in percent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Weights {
    pub(crate) at: Timestamp,
    pub(crate) stable: u64,
    pub(crate) canary: u64,
}

/// The route's weights whenever they changed.
pub(crate) fn weights(history: &History) -> Vec<Weights> {
    let mut seen: Vec<Weights> = Vec::new();
    for route in history.of(Kind::HttpRoute).filter(|seen| seen.name() == APP) {
        let refs = route
            .object
            .pointer("/spec/rules/0/backendRefs")
            .and_then(Value::as_array);
        let of = |service: &str| {
            let weights = refs.into_iter().flatten().filter(|part| part["name"] == service);
            weights.map(|part| part["weight"].as_u64().unwrap_or(1)).sum()
        };
        let (stable, canary): (u64, u64) = (of(APP), of(CANARY));
        // Weights are relative: 0 and 1 are 0 % and 100 %.
        let total = (stable + canary).max(1);
        let (stable, canary) = (stable * 100 / total, canary * 100 / total);
        if seen
            .last()
            .is_none_or(|last| (last.stable, last.canary) != (stable, canary))
        {
            let at = route.at;
            seen.push(Weights { at, stable, canary });
        }
    }
    seen
}

/// What was seen that must never be.
fn faults(history: &History, begun: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    let least = lowest(&history.ready_endpoints(APP), begun);
    if least < Some(REPLICAS) {
        faults.push(format!(
            "service {APP} had only {least:?} ready endpoints of {REPLICAS}"
        ));
    }
    for seen in weights(history) {
        if seen.stable + seen.canary != 100 || !PLANNED.contains(&seen.canary) {
            faults.push(format!("no plan has these weights: {seen:?}"));
        }
    }
    if history.restarts() > 0 {
        faults.push(format!("containers were started again: {}", history.restarts()));
    }
    faults.extend(epochs_fall(history));
    faults.extend(record_faults(history));
    faults
}

/// An epoch on an object never falls: who was taken over from writes nothing afterwards.
fn epochs_fall(history: &History) -> Vec<String> {
    let mut highest = BTreeMap::<(Kind, String), u64>::new();
    let mut faults = Vec::new();
    for kind in [Kind::Deployment, Kind::HttpRoute] {
        for seen in history.of(kind) {
            let Ok(epoch) = text(&seen.object, "/metadata/annotations/wade.dev~1epoch").parse::<u64>() else {
                continue;
            };
            let known = highest.entry((kind, seen.name().to_owned())).or_default();
            if epoch < *known {
                faults.push(format!("{kind:?} {}: epoch {epoch} after {known}", seen.name()));
            }
            *known = epoch.max(*known);
        }
    }
    faults
}

/// The record's history only grows, its epoch never falls, and an epoch is one process's.
fn record_faults(history: &History) -> Vec<String> {
    let mut faults = Vec::new();
    let mut holders = BTreeMap::<u64, String>::new();
    let (mut number, mut entries) = (String::new(), String::new());
    for seen in history.of(Kind::ConfigMap).filter(|seen| seen.name() == RECORD) {
        if seen.change == Change::Deleted {
            continue;
        }
        let data = |key: &str| text(&seen.object, &format!("/data/{key}")).trim_end().to_owned();
        if data("number") == number && !data("history").starts_with(&entries) {
            faults.push(format!(
                "history is rewritten:\n{entries}\n-- became --\n{}",
                data("history")
            ));
        }
        (number, entries) = (data("number"), data("history"));
        let epoch = data("epoch").parse().unwrap_or(0);
        if holders.keys().next_back().is_some_and(|highest| *highest > epoch) {
            faults.push(format!("the record's epoch fell to {epoch}"));
        }
        let holder = holders.entry(epoch).or_insert_with(|| data("holder"));
        if *holder != data("holder") && !data("holder").is_empty() && !holder.is_empty() {
            faults.push(format!("epoch {epoch} was both {holder}'s and {}'s", data("holder")));
        }
    }
    faults
}

/// The last release's phase, as the record says it: its outcome, once it is over.
pub(crate) fn phase(history: &History) -> String {
    let record = history.of(Kind::ConfigMap).filter(|seen| seen.name() == RECORD).last();
    let state = record.map_or("", |seen| text(&seen.object, "/data/state"));
    let state: Value = serde_json::from_str(state).unwrap_or_default();
    state["phase"].to_string()
}

/// What happened to weights, template, pause and record, one line each: what one reads first when a rule was broken.
pub(crate) fn told(history: &History) -> String {
    let mut lines: Vec<(Timestamp, String)> = Vec::new();
    for seen in weights(history) {
        lines.push((seen.at, format!("weights {} : {}", seen.stable, seen.canary)));
    }
    for (service, counts) in [APP, CANARY].map(|service| (service, history.ready_endpoints(service))) {
        lines.extend(
            counts
                .iter()
                .map(|(at, count)| (*at, format!("{service}: {count} endpoints"))),
        );
    }
    let mut last = String::new();
    for seen in history.of(Kind::Deployment) {
        let paused = seen.object.pointer("/spec/paused").is_some();
        let image = text(&seen.object, "/spec/template/spec/containers/0/image");
        let words = format!("deployment {:?}: paused {paused}, {image}", seen.change);
        if words != last {
            lines.push((seen.at, words.clone()));
            last = words;
        }
    }
    let mut number = 0;
    for seen in history.of(Kind::ConfigMap).filter(|seen| seen.name() == RECORD) {
        let entries: Vec<&str> = text(&seen.object, "/data/history").lines().collect();
        for entry in entries.iter().skip(number) {
            lines.push((seen.at, format!("record: {entry}")));
        }
        number = entries.len();
    }
    lines.sort();
    lines
        .iter()
        .map(|(at, line)| format!("{} {line}", at.strftime("%H:%M:%S%.3f")))
        .collect::<Vec<_>>()
        .join("\n")
}
