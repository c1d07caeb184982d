//! Pod templates: telling them apart, changing an image or a variable, and what stands in a release's way.
//!
//! The Deployment controller takes two templates for the same if they differ in nothing but the label
//! `pod-template-hash` and in fields that are empty in one and missing in the other. [`same`] decides likewise, and
//! [`hash`] follows it, so that a revision that comes back gets the name it had.
//!
//! What a template refers to outside of itself is told by [`config_refs`]; whether that is there is for who can look.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{HASH, RELEASE};
use crate::apiserver::value::{annotation, count, flag, list, name, number, text};
use crate::spec::{Fault, Faults, Path, VersionPolicy};

/// What Kubernetes makes hashes of: no vowels and no digits that spell words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const HASH_LENGTH: usize = 10;
/// How much of a digest people read.
const SHORT_DIGEST: usize = 12;

/// A container's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerImage {
    /// The container.
    pub container: String,
    /// Its image.
    pub image: String,
    /// It runs before the others.
    pub init: bool,
}

/// A value for a container, by name or, if the template has one container only, without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct For<T> {
    /// The container; `None` for the only one.
    pub container: Option<String>,
    /// What it gets.
    pub value: T,
}

/// Why a Deployment is not released as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// Its strategy says that two versions never run side by side.
    Recreate,
    /// Its pods take a port of the node.
    HostPort,
    /// Its pods share a volume that one node alone may have.
    Volume,
    /// It has no pods to compare with.
    NoReplicas,
    /// Somebody else has paused it.
    Paused,
    /// It is still rolling out, or has got stuck in it.
    Unfinished,
}

impl Obstacle {
    /// Whether it is about both versions running side by side, which a person may allow.
    pub fn is_about_parallel(self) -> bool {
        matches!(self, Self::Recreate | Self::HostPort | Self::Volume)
    }
}

/// An obstacle, and what to do about it in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub obstacle: Obstacle,
    /// The object, what is so, what to do.
    pub sentence: String,
}

/// A ConfigMap or Secret, or a key of one, that pods need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigRef {
    /// Which kind.
    pub kind: ConfigKind,
    /// Its name.
    pub name: String,
    /// The key; `None` for the object as a whole.
    pub key: Option<String>,
    /// Pods start without it.
    pub optional: bool,
    /// What needs it: `container app`, `volume settings`, `imagePullSecrets`.
    pub by: String,
}

/// Kinds of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl ConfigKind {
    /// The kind, as in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// A name for a template: equal for those that are [`same`].
pub fn hash(template: &Value) -> String {
    let sum = Sha256::digest(canonical(template).to_string().as_bytes());
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    sum.iter().take(HASH_LENGTH).map(letter).collect()
}

/// The [`hash`] of what a Deployment or a ReplicaSet wants its pods to be: the same for both.
pub fn revision_of(object: &Value) -> String {
    hash(&without_hash(&object["spec"]["template"]))
}

/// Whether the Deployment controller would take one for the other.
pub fn same(a: &Value, b: &Value) -> bool {
    canonical(a) == canonical(b)
}

/// The template without the label that a ReplicaSet adds.
pub fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(Value::Object(labels)) = template.pointer_mut("/metadata/labels") {
        labels.shift_remove(HASH);
    }
    template
}

/// Every container's image, init containers first, in the order in which they run.
pub fn images(template: &Value) -> Vec<ContainerImage> {
    let of = |kind: &str, init: bool| {
        let all = list(template, kind).iter();
        let image = |container: &Value| ContainerImage {
            container: text(container, "/name").to_owned(),
            image: text(container, "/image").to_owned(),
            init,
        };
        all.map(image).collect::<Vec<_>>()
    };
    [of("/spec/initContainers", true), of("/spec/containers", false)].concat()
}

/// The template with other images.
///
/// # Errors
/// Every fault at once, under `--image`: a container that is not there or has to be named, an image that is none.
pub fn with_images(template: &Value, images: &[For<String>]) -> Result<Value, Faults> {
    let mut changed = template.clone();
    let mut faults = Vec::new();
    for wanted in images {
        if wanted.value.is_empty() || wanted.value.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let fault = Fault::new(Path::root(), "this is no image").found(format!("`{}`", wanted.value));
            faults.push(fault.help("write it as `registry.example/app:1.4.2`"));
            continue;
        }
        match container_mut(&mut changed, wanted.container.as_deref()) {
            Ok(container) => container["image"] = json!(wanted.value),
            Err(fault) => faults.push(*fault),
        }
    }
    Faults::check("--image", faults)?;
    Ok(changed)
}

/// The template with other values of environment variables, by name and value; one that is new comes last, since it may
/// refer to those before it.
///
/// # Errors
/// Every fault at once, under `--env`: a container that is not there or has to be named, a name that is none.
pub fn with_env(template: &Value, variables: &[For<(String, String)>]) -> Result<Value, Faults> {
    let mut changed = template.clone();
    let mut faults = Vec::new();
    for wanted in variables {
        let (variable, value) = &wanted.value;
        if variable.is_empty() || variable.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
            let fault = Fault::new(Path::root(), "this is no name of a variable").found(format!("`{variable}`"));
            faults.push(fault.help("write it as `--env NAME=VALUE`"));
            continue;
        }
        match container_mut(&mut changed, wanted.container.as_deref()) {
            Ok(container) => {
                let entry = json!({"name": variable, "value": value});
                let mut all = list(container, "/env").to_vec();
                match all.iter_mut().find(|one| text(one, "/name") == variable) {
                    Some(old) => *old = entry,
                    None => all.push(entry),
                }
                container["env"] = Value::Array(all);
            }
            Err(fault) => faults.push(*fault),
        }
    }
    Faults::check("--env", faults)?;
    Ok(changed)
}

/// What people call this version: the tag of the container's image (of the main one, if none is said), else the label
/// `app.kubernetes.io/version`, else the beginning of the digest, else the template's hash.
pub fn version_of(template: &Value, container: Option<&str>) -> String {
    let annotated = annotation(template, "kubectl.kubernetes.io/default-container");
    let all = images(template);
    let by_name = |wanted: &str| all.iter().find(|one| one.container == wanted);
    let main = container
        .or(annotated)
        .and_then(by_name)
        .or_else(|| all.iter().find(|one| !one.init));
    let image = main.map_or("", |one| one.image.as_str());
    let parts = Image::of(image);
    let label = template
        .pointer("/metadata/labels")
        .and_then(|labels| labels.get("app.kubernetes.io/version"));
    if let Some(tag) = parts.tag.filter(|tag| *tag != "latest") {
        return tag.to_owned();
    }
    if let Some(version) = label.and_then(Value::as_str).filter(|version| !version.is_empty()) {
        return version.to_owned();
    }
    match parts.digest.map(|digest| digest.rsplit(':').next().unwrap_or(digest)) {
        Some(digest) => digest.chars().take(SHORT_DIGEST).collect(),
        None => hash(template),
    }
}

/// Images that the rollout's policy refuses, those of init containers too. A digest names the content, so it is always
/// a version.
pub fn refused_images(template: &Value, policy: &VersionPolicy) -> Vec<Fault> {
    let fault = |one: &ContainerImage, problem: &str| {
        Fault::new(Path::of("image").key(&one.container), problem).found(format!("`{}`", one.image))
    };
    let mut faults = Vec::new();
    for one in images(template) {
        let parts = Image::of(&one.image);
        let tag = parts.tag.unwrap_or_default();
        let version = [Some(tag), parts.digest].into_iter().flatten();
        if let Some(version) = version
            .into_iter()
            .find(|version| policy.forbid.iter().any(|other| other == version))
        {
            let problem = format!("the version `{version}` is refused by `spec.versions.forbid`");
            faults.push(fault(&one, &problem).help("release another version"));
        } else if parts.digest.is_some() || policy.allow_latest {
        } else if tag.is_empty() {
            faults.push(
                fault(
                    &one,
                    "an image without a tag means `latest`, so nobody could tell later what was released",
                )
                .help("add the version, `:1.4.2`, or say `spec.versions.allowLatest: true`"),
            );
        } else if tag.eq_ignore_ascii_case("latest") {
            faults.push(
                fault(
                    &one,
                    "`latest` means something else tomorrow, so there would be no way back to it",
                )
                .help("name the version itself, or say `spec.versions.allowLatest: true`"),
            );
        }
    }
    faults
}

/// What stands in the way of a release of this Deployment. `claims` are the PersistentVolumeClaims of the namespace.
pub fn refusals(deployment: &Value, claims: &[Value]) -> Vec<Refusal> {
    let who = format!("deployment {}", name(deployment));
    let mut found = Vec::new();
    let mut refuse = |obstacle, sentence: String| found.push(Refusal { obstacle, sentence });
    if text(deployment, "/spec/strategy/type") == "Recreate" {
        refuse(
            Obstacle::Recreate,
            format!(
                "{who} has strategy Recreate, which says that two versions must not run side by side, and a canary \
                 does; set strategy.type to RollingUpdate if they may"
            ),
        );
    }
    let template = deployment.pointer("/spec/template").unwrap_or(&Value::Null);
    if let Some(port) = host_port(template) {
        refuse(
            Obstacle::HostPort,
            format!(
                "the pods of {who} take port {port} of their node, so a canary finds room only on nodes without one of \
                 them; use a Service instead of hostPort or hostNetwork"
            ),
        );
    }
    for claim in list(template, "/spec/volumes") {
        let claim = text(claim, "/persistentVolumeClaim/claimName");
        let Some(object) = claims.iter().find(|object| name(object) == claim) else {
            continue;
        };
        let modes: Vec<&str> = list(object, "/spec/accessModes")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        if !modes
            .iter()
            .any(|mode| ["ReadWriteMany", "ReadOnlyMany"].contains(mode))
        {
            refuse(
                Obstacle::Volume,
                format!(
                    "the pods of {who} mount PersistentVolumeClaim {claim}, which is {}: a canary on another node \
                     cannot start, and on the same node both versions write to it; use a ReadWriteMany claim",
                    modes.join(", ")
                ),
            );
        }
    }
    let wanted = number(deployment, "/spec/replicas").unwrap_or(1);
    if wanted == 0 {
        refuse(
            Obstacle::NoReplicas,
            format!(
                "{who} has 0 replicas, so nothing serves and nothing can be compared; scale it up first, or change it \
                 with kubectl, since no user can notice"
            ),
        );
    }
    let ours = annotation(deployment, RELEASE).is_some();
    if flag(deployment, "/spec/paused") && !ours {
        refuse(
            Obstacle::Paused,
            format!(
                "{who} is paused, and not by Wade; `kubectl rollout resume` it first, or say `--held` if it was held \
                 for this release"
            ),
        );
    }
    let updated = u64::from(count(deployment, "/status/updatedReplicas"));
    let exist = u64::from(count(deployment, "/status/replicas"));
    let seen = number(deployment, "/status/observedGeneration") >= number(deployment, "/metadata/generation");
    // A release holds the Deployment itself: what looks unfinished then is the hold.
    if !ours && wanted > 0 && (!seen || updated < wanted || exist > updated) {
        refuse(
            Obstacle::Unfinished,
            format!(
                "{who} is in the middle of a rollout ({updated} of {wanted} pods have its present template, {} others \
                 are left); wait for `kubectl rollout status`, or go back with `kubectl rollout undo`",
                exist.saturating_sub(updated)
            ),
        );
    }
    found
}

/// Why a manifest that changes the number of replicas too is not released: by half or more, or below what the
/// autoscaler keeps. `after` is `None` where the manifest does not say.
pub fn replica_drop(before: u32, after: Option<u32>, least: Option<u32>) -> Option<String> {
    let after = after?;
    let fix = "leave `replicas` out of the manifest, or release first and scale afterwards";
    if after >= before {
        return None;
    }
    if after.saturating_mul(2) <= before {
        return Some(format!(
            "the new manifest asks for {after} instead of {before} replicas, half or less of what carries the traffic \
             now; {fix}"
        ));
    }
    let least = least.filter(|least| after < *least)?;
    Some(format!(
        "the new manifest asks for {after} replicas, fewer than the {least} that the autoscaler keeps at least; {fix}"
    ))
}

/// Every ConfigMap and Secret that pods of this template need, in order.
pub fn config_refs(template: &Value) -> Vec<ConfigRef> {
    let mut found = BTreeSet::new();
    let mut add = |kind, object: &Value, name: &str, key: Option<&str>, by: &str| {
        if !text(object, name).is_empty() {
            found.insert(ConfigRef {
                kind,
                name: text(object, name).to_owned(),
                key: key.map(str::to_owned),
                optional: flag(object, "/optional"),
                by: by.to_owned(),
            });
        }
    };
    use ConfigKind::{ConfigMap, Secret};
    let containers = ["/spec/initContainers", "/spec/containers"];
    for container in containers.iter().flat_map(|kind| list(template, kind)) {
        let by = format!("container {}", text(container, "/name"));
        for (kind, field) in [
            (ConfigMap, "/valueFrom/configMapKeyRef"),
            (Secret, "/valueFrom/secretKeyRef"),
        ] {
            for from in list(container, "/env").iter().filter_map(|one| one.pointer(field)) {
                add(kind, from, "/name", Some(text(from, "/key")), &by);
            }
        }
        for (kind, field) in [(ConfigMap, "/configMapRef"), (Secret, "/secretRef")] {
            for from in list(container, "/envFrom").iter().filter_map(|one| one.pointer(field)) {
                add(kind, from, "/name", None, &by);
            }
        }
    }
    for volume in list(template, "/spec/volumes") {
        let by = format!("volume {}", text(volume, "/name"));
        let projected = list(volume, "/projected/sources").iter();
        let projected = projected.flat_map(|one| {
            [
                (ConfigMap, one.get("configMap"), "/name"),
                (Secret, one.get("secret"), "/name"),
            ]
        });
        let direct = [
            (ConfigMap, volume.get("configMap"), "/name"),
            (Secret, volume.get("secret"), "/secretName"),
        ];
        for (kind, source, at) in direct.into_iter().chain(projected) {
            let Some(source) = source else { continue };
            let keys = list(source, "/items");
            if keys.is_empty() {
                add(kind, source, at, None, &by);
            }
            for key in keys {
                add(kind, source, at, Some(text(key, "/key")), &by);
            }
        }
    }
    for secret in list(template, "/spec/imagePullSecrets") {
        // The kubelet only warns: the image may be there, or free to pull.
        let as_optional = json!({"name": text(secret, "/name"), "optional": true});
        add(Secret, &as_optional, "/name", None, "imagePullSecrets");
    }
    found.into_iter().collect()
}

/// What of `refs` is not there, one sentence each. Optional ones are left out.
pub fn missing(refs: &[ConfigRef], config_maps: &[Value], secrets: &[Value]) -> Vec<String> {
    let mut found = BTreeMap::new();
    for wanted in refs.iter().filter(|wanted| !wanted.optional) {
        let objects = match wanted.kind {
            ConfigKind::ConfigMap => config_maps,
            ConfigKind::Secret => secrets,
        };
        let (kind, object) = (wanted.kind.name(), &wanted.name);
        let words = match (objects.iter().find(|one| name(one) == object), &wanted.key) {
            (None, _) => format!("{kind} {object} is not there"),
            (Some(there), Some(key)) if !has_key(there, key) => format!("{kind} {object} has no key {key}"),
            _ => continue,
        };
        found.entry(words).or_insert_with(Vec::new).push(wanted.by.as_str());
    }
    let sentence = |(words, by): (String, Vec<&str>)| {
        format!("{words}, and {} needs it; apply it before the release", by.join(", "))
    };
    found.into_iter().map(sentence).collect()
}

fn has_key(object: &Value, key: &str) -> bool {
    ["data", "binaryData"]
        .iter()
        .any(|field| object.get(field).and_then(|data| data.get(key)).is_some())
}

/// The parts of an image's name after its repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Image<'a> {
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Image<'a> {
    fn of(image: &'a str) -> Self {
        let (rest, digest) = match image.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (image, None),
        };
        // A colon before the last slash is the registry's port.
        let last = rest.rsplit('/').next().unwrap_or(rest);
        Self {
            tag: last.split_once(':').map(|(_, tag)| tag).filter(|tag| !tag.is_empty()),
            digest,
        }
    }
}

fn container_mut<'a>(template: &'a mut Value, wanted: Option<&str>) -> Result<&'a mut Value, Box<Fault>> {
    let all = images(template);
    let main: Vec<&ContainerImage> = all.iter().filter(|one| !one.init).collect();
    let names = || {
        all.iter()
            .map(|one| one.container.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let wanted = match (wanted, main.as_slice()) {
        (Some(wanted), _) => wanted.to_owned(),
        (None, [only]) => only.container.clone(),
        (None, _) => {
            let problem = format!("the pods have {} containers, so this has to say which", main.len());
            return Err(Box::new(
                Fault::new(Path::root(), problem)
                    .help(format!("write `--set-image CONTAINER=…`; there are {}", names())),
            ));
        }
    };
    if !all.iter().any(|one| one.container == wanted) {
        let fault = Fault::new(Path::root(), "there is no such container").found(format!("`{wanted}`"));
        return Err(Box::new(fault.help(format!("there are {}", names()))));
    }
    let kinds = ["containers", "initContainers"];
    let spec = template.get_mut("spec").and_then(Value::as_object_mut);
    let lists = spec.into_iter().flat_map(|spec| {
        let lists = spec.iter_mut().filter(|(field, _)| kinds.contains(&field.as_str()));
        lists.filter_map(|(_, list)| list.as_array_mut())
    });
    let container = lists.flatten().find(|container| text(container, "/name") == wanted);
    Ok(container.expect("it was found by name in one of these lists"))
}

/// The port of the node that pods take, if any.
fn host_port(template: &Value) -> Option<u64> {
    let on_host = flag(template, "/spec/hostNetwork");
    let ports = ["/spec/initContainers", "/spec/containers"]
        .into_iter()
        .flat_map(|kind| list(template, kind))
        .flat_map(|container| list(container, "/ports"));
    let taken = |port: &Value| {
        let host = number(port, "/hostPort").filter(|port| *port > 0);
        host.or_else(|| number(port, "/containerPort").filter(|_| on_host))
    };
    ports.into_iter().find_map(taken)
}

/// Maps whose keys people choose: an empty value in them is a value.
const PLAIN_MAPS: [&str; 7] = [
    "labels",
    "annotations",
    "nodeSelector",
    "matchLabels",
    "limits",
    "requests",
    "options",
];

/// The template as it is compared: keys in order, without the hash, nulls, empty lists, and empty maps of people's own
/// keys. Other empty objects stay, because `labelSelector: {}` selects everything and none selects nothing.
fn canonical(template: &Value) -> Value {
    normal(&without_hash(template), "")
}

fn normal(value: &Value, field: &str) -> Value {
    match value {
        Value::Object(fields) if PLAIN_MAPS.contains(&field) => {
            sorted(fields.iter().map(|(key, value)| (key, value.clone())))
        }
        Value::Object(fields) => {
            let kept = fields.iter().map(|(key, value)| (key, normal(value, key)));
            sorted(kept.filter(|(key, value)| !is_unsaid(key, value)))
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| normal(item, "")).collect()),
        other => other.clone(),
    }
}

fn sorted<'a>(fields: impl Iterator<Item = (&'a String, Value)>) -> Value {
    let ordered: BTreeMap<&String, Value> = fields.collect();
    Value::Object(ordered.into_iter().map(|(key, value)| (key.clone(), value)).collect())
}

fn is_unsaid(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty() && PLAIN_MAPS.contains(&key),
        // A variable without a value is an empty one.
        Value::String(text) => text.is_empty() && key == "value",
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests;
