//! `Rollout` in a cluster: how one is read, and what the daemon says about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::condition::Condition;
use crate::apiserver::value::{list, name, text};
use crate::spec::{AddressFrom, Fault, Faults, NotifySpec, Path, Rollout, SmokeTest, Source, Workload, read_rollout};

/// What the daemon knows about a Rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Idle`, `Releasing`, `Waiting`, `Refused`, `Invalid` or `Missing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The version that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// The version that is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// The canary's share, `20%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// The number of the release that runs, or of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// How the last release ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What it waits for, or what is wrong, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `Valid`, `Held` (a change waits behind a pause), `Releasing`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Reads a Rollout object as strictly as a file. What an API server adds to `metadata` is left aside.
///
/// # Errors
/// Every fault of the spec, and what a Rollout in a cluster cannot say (see [`super`]).
pub fn read(object: &Value) -> Result<Rollout, Faults> {
    let source = format!("rollout {}", name(object));
    let labels = object.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    let namespace = text(object, "/metadata/namespace");
    let mut metadata = json!({ "name": name(object), "labels": labels });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    let bare = json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata, "spec": object["spec"],
    });
    // JSON is YAML, and so the strict reader's own checks are all there are.
    let rollout = read_rollout(&bare.to_string(), &source)?;
    Faults::check(&source, foreign(&rollout))?;
    Ok(rollout)
}

/// What must not be asked of a daemon in a cluster: it would be done with its rights, not with the author's.
fn foreign(rollout: &Rollout) -> Vec<Fault> {
    let spec = &rollout.spec;
    let mut faults = Vec::new();
    let mut not = |path: Path, problem: &str, help: &str| faults.push(Fault::new(path, problem).help(help));
    if matches!(spec.workload, Workload::Process(_)) {
        not(
            Path::of("spec.workload.process"),
            "there are no processes in a cluster",
            "name a Deployment: `workload: {deployment: checkout}`",
        );
    }
    for (index, smoke) in spec.smoke.iter().enumerate() {
        if matches!(smoke, SmokeTest::Command(_)) {
            not(
                Path::of("spec.smoke").index(index).key("command"),
                "the daemon runs no commands",
                "ask the new pods by `http` or `grpc`; `wade deploy -f` in a pipeline runs commands there",
            );
        }
    }
    for (index, notify) in spec.notify.iter().enumerate() {
        let (NotifySpec::Slack(from) | NotifySpec::Webhook(from)) = notify;
        if matches!(from, AddressFrom::UrlFrom(_)) {
            not(
                Path::of("spec.notify").index(index),
                "the daemon's own files and variables are not yours",
                "keep the address in a Secret of this namespace: `secretRef: NAME`",
            );
        }
    }
    let tokens = [
        match &spec.analysis.source {
            Some(Source::Prometheus(source)) if source.token_file.is_some() => Some("spec.analysis.source.prometheus"),
            _ => None,
        },
        spec.analysis
            .traces
            .as_ref()
            .and_then(|traces| traces.from.as_ref())
            .filter(|store| store.address().token_file.is_some())
            .map(|_| "spec.analysis.traces.from"),
    ];
    for path in tokens.into_iter().flatten() {
        not(
            Path::of(path).key("tokenFile"),
            "the daemon's own files are not yours",
            "ask those who run Wade to define this source with its credentials",
        );
    }
    faults
}

/// The condition `of` that a status holds, as text: `True`, `False` or `Unknown`.
pub fn condition<'a>(object: &'a Value, of: &str) -> Option<&'a str> {
    list(object, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == of)
        .and_then(|condition| condition["status"].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: &Value) -> Value {
        json!({
            "apiVersion": "wade.dev/v1alpha1", "kind": "Rollout",
            "metadata": {
                "name": "checkout", "namespace": "shop", "labels": {"team": "pay"}, "uid": "7", "resourceVersion": "9",
                "managedFields": [], "generation": 2,
            },
            "spec": spec, "status": {"phase": "Idle"},
        })
    }

    #[test]
    fn what_the_server_adds_is_left_aside_and_the_rest_is_read_strictly() {
        let read_back = read(&object(&json!({"workload": {"deployment": "checkout"}}))).expect("it is valid");
        assert_eq!(read_back.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(read_back.metadata.labels["team"], "pay");
        let wrong = read(&object(&json!({"workload": {"deployment": "checkout"}, "stratgy": {}})));
        let faults = wrong.expect_err("a field that is not known").to_string();
        assert!(faults.contains("stratgy"), "{faults}");
    }

    #[test]
    fn a_rollout_gains_nothing_from_the_daemons_rights() {
        let cases = [
            json!({"workload": {"process": {"command": ["./x"]}}}),
            json!({"workload": {"deployment": "x"}, "smoke": [{"command": ["id"]}]}),
            json!({"workload": {"deployment": "x"}, "notify": [{"webhook": {"urlFrom": {"file": "/etc/passwd"}}}]}),
            json!({"workload": {"deployment": "x"}, "analysis": {"source": {"prometheus": {
                "url": "http://p:9090", "tokenFile": "/var/run/secrets/token", "canary": "a", "stable": "b"}}}}),
            json!({"workload": {"deployment": "x"}, "analysis": {"traces": {"from": {"jaeger": {
                "url": "http://j:16686", "tokenFile": "/var/run/secrets/token"}}}}}),
        ];
        for spec in cases {
            assert!(read(&object(&spec)).is_err(), "{spec}");
        }
    }
}
