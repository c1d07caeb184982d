//! What is written to the Deployment, the ReplicaSets and what surrounds them: plain functions from what is to what
//! should be. `None` means that it holds already, so that nothing is written when nothing changed.
//!
//! Patches of objects that others write too carry the resourceVersion they were worked out from: what has changed in
//! the meantime is looked at again, never overwritten unseen.

use serde_json::{Value, json};

use super::release::{Held, Isolation, LabelPair, Release};
use super::{CANARY, EPOCH, HASH, LEFT_PAUSED, PART, RELEASE, REVISION, ROLLOUT, WRITE};
use crate::apiserver::value::{
    annotation, controller, count, flag, is_controlled_by, label, list, name, resource_version, text, uid,
};
use crate::apiserver::{Kind, Patch};

/// With less than this, a scale-down in the instant of the hand over takes serving pods away (seen: 6 to 1).
const SURGE: &str = "100%";
/// Stable and the way back must not be cleaned away while a release runs.
const MORE_HISTORY: u64 = 2;
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// On an autoscaler while a release runs: its `minReplicas` before.
const MIN_BEFORE: &str = "wade.dev/min-replicas-before";
const KEDA_PAUSE_IN: &str = "autoscaling.keda.sh/paused-scale-in";

/// What the Deployment says about the release that holds it.
pub fn held(deployment: &Value) -> Option<Held> {
    serde_json::from_str(annotation(deployment, RELEASE)?).ok()
}

/// The highest epoch that has written an object while a release runs.
pub fn epoch(object: &Value) -> u64 {
    annotation(object, EPOCH)
        .and_then(|epoch| epoch.parse().ok())
        .unwrap_or(0)
}

/// How many pods the Deployment should have.
pub fn replicas(deployment: &Value) -> u32 {
    count(deployment, "/spec/replicas")
}

/// A list of JSON patch operations that holds only for this version of the object.
struct Changes(Vec<Value>);

impl Changes {
    fn of(object: &Value) -> Self {
        Self(vec![json!({
            "op": "test", "path": "/metadata/resourceVersion", "value": resource_version(object),
        })])
    }

    fn set(&mut self, path: &str, value: Value) {
        let mut change = json!({ "op": "add", "path": path });
        change["value"] = value;
        self.0.push(change);
    }

    fn remove(&mut self, path: &str) {
        self.0.push(json!({ "op": "remove", "path": path }));
    }

    fn annotate(&mut self, object: &Value, key: &str, value: &str) {
        if object.pointer("/metadata/annotations").is_none()
            && !self.0.iter().any(|op| op["path"] == "/metadata/annotations")
        {
            self.set("/metadata/annotations", json!({}));
        }
        self.set(&format!("/metadata/annotations/{}", pointer(key)), json!(value));
    }

    fn forget(&mut self, object: &Value, key: &str) {
        if annotation(object, key).is_some() {
            self.remove(&format!("/metadata/annotations/{}", pointer(key)));
        }
    }

    fn patch(self) -> Option<Patch> {
        (self.0.len() > 1).then_some(Patch::Json(Value::Array(self.0)))
    }
}

/// A key as part of a JSON pointer.
fn pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The hold: paused, with the new template, enough surge and history, and what was there before on record.
pub fn hold(deployment: &Value, release: &Release, epoch: u64) -> Option<Patch> {
    let mut changes = Changes::of(deployment);
    let words = json!(Held {
        number: release.number,
        stable: release.stable.clone(),
        canary: release.canary.clone(),
        before: release.before.clone(),
    })
    .to_string();
    if !flag(deployment, "/spec/paused") {
        changes.set("/spec/paused", json!(true));
    }
    if held(deployment).is_none() && !super::template::same(&deployment["spec"]["template"], &release.template) {
        changes.set("/spec/template", release.template.clone());
    }
    if text(deployment, "/spec/strategy/rollingUpdate/maxSurge") != SURGE {
        if deployment.pointer("/spec/strategy/rollingUpdate").is_none() {
            changes.set(
                "/spec/strategy",
                json!({ "type": "RollingUpdate", "rollingUpdate": {} }),
            );
        }
        changes.set("/spec/strategy/rollingUpdate/maxSurge", json!(SURGE));
    }
    // Somebody who resumes it in mid-release sets a rolling update going before Wade can stop it: it must not take
    // serving pods away (seen: three of four).
    if deployment.pointer("/spec/strategy/rollingUpdate/maxUnavailable") != Some(&json!(0)) {
        changes.set("/spec/strategy/rollingUpdate/maxUnavailable", json!(0));
    }
    let limit = release.before.history_limit.as_u64().unwrap_or(10) + MORE_HISTORY;
    if deployment.pointer("/spec/revisionHistoryLimit").and_then(Value::as_u64) != Some(limit) {
        changes.set("/spec/revisionHistoryLimit", json!(limit));
    }
    changes.forget(deployment, LEFT_PAUSED);
    if annotation(deployment, RELEASE) != Some(&words) {
        changes.annotate(deployment, RELEASE, &words);
        changes.annotate(deployment, WRITE, &format!("release {}", release.number));
    }
    claim_into(&mut changes, deployment, epoch);
    changes.patch()
}

/// Says on an object that a holder with this epoch writes it now.
pub fn claim(object: &Value, epoch: u64) -> Option<Patch> {
    let mut changes = Changes::of(object);
    claim_into(&mut changes, object, epoch);
    changes.patch()
}

fn claim_into(changes: &mut Changes, object: &Value, ours: u64) {
    if epoch(object) < ours {
        changes.annotate(object, EPOCH, &ours.to_string());
    }
}

/// Lifts the hold: what was there before is there again. `template` is put back with it, on the way back to stable.
pub fn release_hold(deployment: &Value, release: &Release, template: Option<&Value>) -> Option<Patch> {
    held(deployment)?;
    let mut changes = Changes::of(deployment);
    if let Some(template) = template
        && !super::template::same(&deployment["spec"]["template"], template)
    {
        changes.set("/spec/template", super::template::without_hash(template));
    }
    put_back(&mut changes, deployment, release);
    match (release.before.paused, flag(deployment, "/spec/paused")) {
        (true, false) => changes.set("/spec/paused", json!(true)),
        (false, true) => changes.remove("/spec/paused"),
        _ => {}
    }
    changes.patch()
}

/// Lets go of everything but the pause, because the template is somebody else's to put back.
pub fn leave_paused(deployment: &Value, release: &Release) -> Option<Patch> {
    held(deployment)?;
    let mut changes = Changes::of(deployment);
    put_back(&mut changes, deployment, release);
    if !flag(deployment, "/spec/paused") {
        changes.set("/spec/paused", json!(true));
    }
    changes.annotate(
        deployment,
        LEFT_PAUSED,
        &format!(
            "release {} went back; the template is not Wade's to put back",
            release.number
        ),
    );
    changes.patch()
}

fn put_back(changes: &mut Changes, deployment: &Value, release: &Release) {
    let before = &release.before;
    for (path, value) in [
        ("/spec/strategy/rollingUpdate/maxSurge", &before.max_surge),
        ("/spec/strategy/rollingUpdate/maxUnavailable", &before.max_unavailable),
        ("/spec/revisionHistoryLimit", &before.history_limit),
    ] {
        if !value.is_null() && deployment.pointer(path) != Some(value) {
            changes.set(path, value.clone());
        }
    }
    changes.forget(deployment, RELEASE);
    changes.forget(deployment, EPOCH);
    // The policy that pauses others' changes takes a missing mark for somebody else's write: it is taken off afterwards.
    changes.annotate(deployment, WRITE, &format!("release {}, let go", release.number));
}

/// The mark of Wade's own writes goes when the release has let go.
pub fn unmarked(deployment: &Value) -> Option<Patch> {
    let mut changes = Changes::of(deployment);
    if annotation(deployment, RELEASE).is_none() {
        changes.forget(deployment, WRITE);
    }
    changes.patch()
}

/// The canary's ReplicaSet as it is created: exactly the Deployment's template, with the hash, and isolated.
pub fn canary_set(deployment: &Value, release: &Release, anchor: &Value, size: u32) -> Value {
    let mut template = release.template.clone();
    let labels = labels_of(&mut template);
    labels[HASH] = json!(release.canary);
    if let Some(mark) = release.mark() {
        labels[CANARY] = json!(mark);
    }
    let mut own = deployment["spec"]["selector"]["matchLabels"].clone();
    if !own.is_object() {
        own = json!({});
    }
    let mut selector = own.clone();
    if let Isolation::Label { labels: pairs } = &release.isolation {
        for (key, pair) in pairs {
            labels[key] = json!(pair.canary);
        }
        // Only the hash: relabelled pods stay the ReplicaSet's own.
        selector = json!({});
    }
    selector[HASH] = json!(release.canary);
    // What it carries itself is what the Deployment looks for when it adopts it.
    let mut metadata_labels = deployment["spec"]["template"]["metadata"]["labels"].clone();
    if !metadata_labels.is_object() {
        metadata_labels = own;
    }
    metadata_labels[HASH] = json!(release.canary);
    let full = replicas(deployment);
    let mut spec = json!({
        "replicas": size,
        "selector": { "matchLabels": selector },
        "template": template,
    });
    if let Some(seconds) = deployment.pointer("/spec/minReadySeconds") {
        spec["minReadySeconds"] = seconds.clone();
    }
    json!({
        "apiVersion": Kind::ReplicaSet.api_version(),
        "kind": Kind::ReplicaSet.name(),
        "metadata": {
            "name": release.canary_set(),
            "labels": metadata_labels,
            "annotations": {
                DESIRED_REPLICAS: full.to_string(),
                MAX_REPLICAS: (2 * full).to_string(),
            },
            "ownerReferences": [owned_by(anchor)],
        },
        "spec": spec,
    })
}

fn labels_of(template: &mut Value) -> &mut Value {
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = json!({});
    }
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    &mut template["metadata"]["labels"]
}

fn owned_by(owner: &Value) -> Value {
    json!({
        "apiVersion": text(owner, "/apiVersion"),
        "kind": text(owner, "/kind"),
        "name": name(owner),
        "uid": uid(owner),
        "controller": true,
        "blockOwnerDeletion": false,
    })
}

/// What owns the canary: the Service that leads to it alone, or, where the user has declared that one or there is none,
/// a ConfigMap. It is owned by the Deployment, and never is the record.
pub fn anchor(deployment: &Value, service: Option<&Value>, release: &Release) -> Value {
    let mut owner = owned_by(deployment);
    owner["controller"] = json!(false);
    let metadata = |name: String| {
        json!({
            "name": name,
            "labels": { ROLLOUT: release.deployment, PART: "release", "app.kubernetes.io/managed-by": "wade" },
            "ownerReferences": [owner],
        })
    };
    match service {
        Some(service) => json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(release.canary_service(name(service))),
            "spec": { "selector": { HASH: release.canary }, "ports": ports(service) },
        }),
        None => json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(release.anchor()),
            "data": { "about": "owns the canary of the release that runs; deleting it removes the canary's pods" },
        }),
    }
}

/// A Service's ports, without what the server assigned.
fn ports(service: &Value) -> Vec<Value> {
    let mut ports = list(service, "/spec/ports").to_vec();
    for port in ports.iter_mut().filter_map(Value::as_object_mut) {
        port.remove("nodePort");
    }
    ports
}

/// The size of a ReplicaSet of ours; written on every difference, so that a scale by others is followed.
pub fn scaled(set: &Value, size: u32) -> Option<Patch> {
    (set.pointer("/spec/replicas").and_then(Value::as_u64) != Some(u64::from(size)))
        .then(|| Patch::Merge(json!({ "spec": { "replicas": size } })))
}

/// Takes a ReplicaSet over that the Deployment owns already, with an equal template: the anchor owns it now. Where its
/// selector lets it (one of Wade's own), its pods are born isolated by label.
///
/// Only an empty one: one with pods has been given to the Deployment by [`finish`], whether it has been adopted yet or
/// not, and taking it back then is a fight with the Deployment controller (seen: 168 pods started in place of 4).
pub fn taken_over(set: &Value, release: &Release, anchor: &Value) -> Option<Patch> {
    let ours = is_controlled_by(set, anchor);
    (!ours && count(set, "/spec/replicas") == 0).then(|| {
        Patch::Merge(json!({
            "metadata": { "resourceVersion": resource_version(set), "ownerReferences": [owned_by(anchor)] },
            "spec": { "template": { "metadata": { "labels": isolating(release, false) } } },
        }))
    })
}

/// The labels by which the canary is isolated, with its own values or with those it serves with.
fn isolating(release: &Release, serving: bool) -> Value {
    let mut labels = serde_json::Map::new();
    if let Isolation::Label { labels: pairs } = &release.isolation {
        let value = |pair: &LabelPair| {
            if serving {
                pair.stable.clone()
            } else {
                pair.canary.clone()
            }
        };
        labels.extend(pairs.iter().map(|(key, pair)| (key.clone(), json!(value(pair)))));
    }
    if let Some(mark) = release.mark() {
        labels.insert(CANARY.to_owned(), if serving { Value::Null } else { json!(mark) });
    }
    Value::Object(labels)
}

/// Gives a pod the labels it serves with, or takes them away again.
pub fn relabelled(pod: &Value, release: &Release, serving: bool) -> Option<Patch> {
    let Isolation::Label { labels } = &release.isolation else {
        return None;
    };
    let wanted = |pair: &LabelPair| {
        if serving {
            pair.stable.clone()
        } else {
            pair.canary.clone()
        }
    };
    let differs = labels
        .iter()
        .any(|(key, pair)| label(pod, key) != Some(wanted(pair).as_str()));
    let change: serde_json::Map<String, Value> = labels
        .iter()
        .map(|(key, pair)| (key.clone(), json!(wanted(pair))))
        .collect();
    differs.then(|| Patch::Merge(json!({ "metadata": { "uid": uid(pod), "labels": change } })))
}

/// Takes the canary's mark off a pod that is no canary any more. Not earlier: as long as a route leads to the canary's
/// own Service, that has to find pods (seen: 236 requests lost in three hand overs).
pub fn unmarked_pod(pod: &Value) -> Option<Patch> {
    label(pod, CANARY).map(|_| Patch::Merge(json!({ "metadata": { "uid": uid(pod), "labels": { CANARY: null } } })))
}

/// Whether a pod carries the labels it serves with.
pub fn serves(pod: &Value, release: &Release) -> bool {
    match &release.isolation {
        Isolation::Label { labels } => labels
            .iter()
            .all(|(key, pair)| label(pod, key) == Some(pair.stable.as_str())),
        Isolation::Pin => true,
    }
}

/// The point of no return: the ReplicaSet is nobody's, of full size and labelled as the Deployment looks for it, so the
/// Deployment adopts it as its newest.
pub fn finish(set: &Value, deployment: &Value, release: &Release) -> Option<Patch> {
    let full = replicas(deployment);
    // Nobody's is one that waits to be adopted. Also with another size than the Deployment has by now: its controller
    // divides the difference by what stood there when it was given.
    let given = controller(set).is_none_or(|(_, _, owner)| owner == uid(deployment));
    if given {
        return None;
    }
    let size = if release.rolling {
        count(set, "/spec/replicas")
    } else {
        full
    };
    Some(Patch::Merge(json!({
        "metadata": {
            "resourceVersion": resource_version(set),
            "ownerReferences": null,
            "annotations": { DESIRED_REPLICAS: full.to_string(), MAX_REPLICAS: (2 * full).to_string() },
        },
        "spec": { "replicas": size, "template": { "metadata": { "labels": isolating(release, true) } } },
    })))
}

/// Before a hand over at partial size: the Deployment may have just as many pods too many as there are canary pods.
pub fn surge(deployment: &Value, extra: u32) -> Option<Patch> {
    let mut changes = Changes::of(deployment);
    if deployment.pointer("/spec/strategy/rollingUpdate/maxSurge") != Some(&json!(extra)) {
        changes.set("/spec/strategy/rollingUpdate/maxSurge", json!(extra));
    }
    changes.patch()
}

/// Lets the Deployment roll in mid-release, in a write that is known as Wade's own.
fn unpause(changes: &mut Changes, deployment: &Value) {
    changes.set("/spec/paused", json!(false));
    let before = annotation(deployment, WRITE).unwrap_or_default();
    let count = before
        .rsplit_once(", rolling ")
        .and_then(|(_, count)| count.parse::<u32>().ok());
    let base = before.split(", rolling ").next().unwrap_or_default();
    let now = format!("{base}, rolling {}", count.unwrap_or(0).saturating_add(1));
    changes.annotate(deployment, WRITE, &now);
}

/// After it: the Deployment rolls the rest, as long as its template is what was judged.
pub fn let_roll(deployment: &Value, release: &Release) -> Option<Patch> {
    let mut changes = Changes::of(deployment);
    if flag(deployment, "/spec/paused") && is_ours(deployment, release) {
        unpause(&mut changes, deployment);
    }
    changes.patch()
}

/// The Deployment rolls back to stable's template.
pub fn rolled_back(deployment: &Value, stable: &Value, release: &Release) -> Option<Patch> {
    let mut changes = Changes::of(deployment);
    if is_ours(deployment, release) {
        changes.set("/spec/template", super::template::without_hash(stable));
        unpause(&mut changes, deployment);
    }
    changes.patch()
}

/// Whether the Deployment is held by this release and has its template.
fn is_ours(deployment: &Value, release: &Release) -> bool {
    held(deployment).is_some_and(|held| held.number == release.number)
        && super::template::same(&deployment["spec"]["template"], &release.template)
}

/// Whether a ReplicaSet is the Deployment's own and newest one.
pub fn is_newest(set: &Value, deployment: &Value) -> bool {
    is_controlled_by(set, deployment)
        && annotation(set, REVISION).is_some()
        && annotation(set, REVISION) == annotation(deployment, REVISION)
}

/// Whether the Deployment has the canary as its newest ReplicaSet, whole, and nothing of stable is wanted any more.
pub fn is_adopted(deployment: &Value, set: &Value, stable: Option<&Value>) -> bool {
    let whole = count(set, "/spec/replicas") == replicas(deployment)
        && count(set, "/status/availableReplicas") >= replicas(deployment);
    let alone = stable.is_none_or(|stable| count(stable, "/spec/replicas") == 0);
    is_newest(set, deployment) && whole && alone
}

/// Lets the Deployment divide its pods anew after the hand over, once it has come to rest with a wrong number of new ones.
///
/// Scaled in the moment of the hand over, a paused Deployment spreads the difference over both ReplicaSets. It can then
/// be left with more new pods than it wants and no rule by which old ones go (seen: 4 old and 8 new of 6). Only a
/// rolling update ends that, and with `maxUnavailable: 0` it takes nothing that serves.
pub fn unjammed(deployment: &Value, set: &Value, release: &Release) -> Option<Patch> {
    let seen = count(deployment, "/status/observedGeneration") >= count(deployment, "/metadata/generation");
    let jammed = seen && flag(deployment, "/spec/paused") && count(set, "/spec/replicas") != replicas(deployment);
    let mut changes = Changes::of(deployment);
    if jammed && is_ours(deployment, release) {
        unpause(&mut changes, deployment);
    }
    changes.patch()
}

/// An autoscaler does not shrink stable while a release runs: its load falls because traffic moves, and the way back
/// must stay warm.
pub fn scaler_held(scaler: &Value, size: u32, keda: bool) -> Option<Patch> {
    let mut changes = Changes::of(scaler);
    if keda {
        if annotation(scaler, KEDA_PAUSE_IN).is_none() {
            changes.annotate(scaler, KEDA_PAUSE_IN, "true");
            changes.annotate(scaler, MIN_BEFORE, "keda");
        }
        return changes.patch();
    }
    let min = scaler.pointer("/spec/minReplicas").and_then(Value::as_u64);
    let size = u64::from(size).min(
        scaler
            .pointer("/spec/maxReplicas")
            .and_then(Value::as_u64)
            .unwrap_or(u64::MAX),
    );
    if annotation(scaler, MIN_BEFORE).is_none() && min.unwrap_or(1) < size {
        changes.annotate(
            scaler,
            MIN_BEFORE,
            &min.map_or_else(|| "none".to_owned(), |min| min.to_string()),
        );
        changes.set("/spec/minReplicas", json!(size));
    }
    changes.patch()
}

/// The autoscaler as it was before.
pub fn scaler_restored(scaler: &Value) -> Option<Patch> {
    let before = annotation(scaler, MIN_BEFORE)?;
    let mut changes = Changes::of(scaler);
    match before {
        "keda" => changes.forget(scaler, KEDA_PAUSE_IN),
        before => changes.set("/spec/minReplicas", json!(before.parse::<u64>().unwrap_or(1))),
    }
    changes.forget(scaler, MIN_BEFORE);
    changes.patch()
}

/// A budget for the canary's own pods, as strict as stable's: idle stable pods must not stand in for serving ones.
pub fn budget(stable: &Value, release: &Release, anchor: &Value, size: u32, full: u32) -> Value {
    let mut spec = json!({ "selector": { "matchLabels": { HASH: release.canary } } });
    match (
        stable.pointer("/spec/minAvailable"),
        stable.pointer("/spec/maxUnavailable"),
    ) {
        (Some(Value::Number(least)), _) => {
            // In proportion while it is small, but never so that no pod could ever be moved.
            let least = least.as_u64().unwrap_or(0);
            let share = (least * u64::from(size)).div_ceil(u64::from(full.max(1)));
            let most = if size >= full {
                least
            } else {
                u64::from(size.saturating_sub(1))
            };
            spec["minAvailable"] = json!(share.min(most));
        }
        (Some(share), _) => spec["minAvailable"] = share.clone(),
        (None, Some(most)) => spec["maxUnavailable"] = most.clone(),
        (None, None) => spec["maxUnavailable"] = json!(1),
    }
    json!({
        "apiVersion": Kind::PodDisruptionBudget.api_version(),
        "kind": Kind::PodDisruptionBudget.name(),
        "metadata": {
            "name": super::release::canary_name(name(stable)),
            "labels": { ROLLOUT: release.deployment, PART: "release", "app.kubernetes.io/managed-by": "wade" },
            "ownerReferences": [{ "controller": false, "blockOwnerDeletion": false, "apiVersion": text(anchor, "/apiVersion"),
                "kind": text(anchor, "/kind"), "name": name(anchor), "uid": uid(anchor) }],
        },
        "spec": spec,
    })
}

/// The managedFields of an object without Wade's own: what Wade wrote for a while must not conflict with the next
/// server-side apply.
pub fn disowned(object: &Value) -> Option<Patch> {
    let fields = list(object, "/metadata/managedFields");
    let kept: Vec<&Value> = fields
        .iter()
        .filter(|field| text(field, "/manager") != crate::apiserver::MANAGER)
        .collect();
    (kept.len() < fields.len()).then(|| {
        let mut changes = Changes::of(object);
        // An empty list is kept by the server as "start afresh"; one empty entry says "nobody".
        let kept = if kept.is_empty() { json!([{}]) } else { json!(kept) };
        changes.set("/metadata/managedFields", kept);
        Patch::Json(Value::Array(changes.0))
    })
}

/// Pins a Service to the pods of one ReplicaSet; `None` for the hash takes the pin off again.
pub fn pinned(service: &Value, hash: Option<&str>) -> Option<Patch> {
    let mut changes = Changes::of(service);
    let now = pin_of(service);
    match hash {
        Some(hash) if now != Some(hash) => changes.set(&format!("/spec/selector/{HASH}"), json!(hash)),
        None if now.is_some() => changes.remove(&format!("/spec/selector/{HASH}")),
        _ => {}
    }
    changes.patch()
}

/// The ReplicaSet a Service is pinned to.
pub fn pin_of(service: &Value) -> Option<&str> {
    service.pointer("/spec/selector")?.get(HASH)?.as_str()
}

/// A route's rules as they should be.
pub fn rules(route: &Value, wanted: &Value, epoch: Option<u64>) -> Option<Patch> {
    let mut changes = Changes::of(route);
    if route.pointer("/spec/rules") != Some(wanted) {
        changes.set("/spec/rules", wanted.clone());
    }
    match epoch {
        Some(epoch) => claim_into(&mut changes, route, epoch),
        None => changes.forget(route, EPOCH),
    }
    changes.patch()
}

/// A ReplicaSet that was taken over goes back to the Deployment, empty.
pub fn given_back(set: &Value, release: &Release, deployment: &Value) -> Option<Patch> {
    let owned = is_controlled_by(set, deployment);
    if owned && count(set, "/spec/replicas") == 0 {
        return None;
    }
    let mut owner = owned_by(deployment);
    owner["blockOwnerDeletion"] = json!(true);
    Some(Patch::Merge(json!({
        "metadata": { "resourceVersion": resource_version(set), "ownerReferences": [owner] },
        "spec": { "replicas": 0, "template": { "metadata": { "labels": isolating(release, true) } } },
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_a_change_that_minds_other_writers() {
        let service =
            |selector: Value| json!({ "metadata": { "resourceVersion": "7" }, "spec": { "selector": selector } });
        let (plain, pin) = (json!({ "app": "app" }), json!({ "app": "app", HASH: "5d4" }));
        let minds = json!({ "op": "test", "path": "/metadata/resourceVersion", "value": "7" });
        let path = format!("/spec/selector/{HASH}");
        let changes = |patch: Option<Patch>| match patch {
            Some(Patch::Json(changes)) => changes,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            changes(pinned(&service(plain.clone()), Some("5d4"))),
            json!([minds, { "op": "add", "path": path, "value": "5d4" }])
        );
        assert_eq!(
            changes(pinned(&service(pin.clone()), None)),
            json!([minds, { "op": "remove", "path": path }])
        );
        assert!(pinned(&service(plain.clone()), None).is_none());
        assert!(pinned(&service(pin.clone()), Some("5d4")).is_none());
        assert_eq!((pin_of(&service(plain)), pin_of(&service(pin))), (None, Some("5d4")));
    }
}
