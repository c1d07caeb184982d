//! What a release on Kubernetes rests on: found before anything is touched, recorded, and the same for every holder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One release of one Deployment, as recorded with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// The Deployment's name.
    pub deployment: String,
    /// Its uid: a Deployment that was deleted and made again is another one.
    pub uid: String,
    /// The release's number.
    pub number: u64,
    /// The new pod template, as the server completes it.
    pub template: Value,
    /// The hash of the ReplicaSet that serves.
    pub stable: String,
    /// The hash of the canary's ReplicaSet; its name is `<deployment>-<hash>`.
    pub canary: String,
    /// The canary is a ReplicaSet that the Deployment owns already, with an equal template: it is taken over.
    #[serde(default)]
    pub takes_over: bool,
    /// How the canary is kept from traffic until its first weight.
    pub isolation: Isolation,
    /// Every Service that selects the pods.
    pub services: Vec<String>,
    /// Every route that leads to one of these Services. Empty: the share of pods is the split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteRef>,
    /// What the Deployment said before the hold.
    pub before: Before,
    /// What scales the Deployment by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaler: Option<Scaler>,
    /// The PodDisruptionBudgets that protect stable's pods, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<String>,
    /// Where the pods show metrics, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsPort>,
    /// The port that smoke tests ask, if the pods have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Who owns the template by server-side apply, if it is not ours to put back (Argo CD, Flux, Helm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_owner: Option<String>,
    /// The Deployment's own rolling update ends the release, for want of room for both revisions at full size.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolling: bool,
    /// What the canary's containers must run, by container: the digests that were promoted elsewhere.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, String>,
    /// The manifest that was handed in, applied whole once its template serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Value>,
}

impl Release {
    /// The canary's ReplicaSet.
    pub fn canary_set(&self) -> String {
        format!("{}-{}", self.deployment, self.canary)
    }

    /// Stable's ReplicaSet.
    pub fn stable_set(&self) -> String {
        format!("{}-{}", self.deployment, self.stable)
    }

    /// The Service (or, without a route, the ConfigMap) that owns the canary.
    pub fn anchor(&self) -> String {
        canary_name(&self.deployment)
    }

    /// The Service that a route leads canary traffic to: the same for each Service, so one per Service.
    pub fn canary_service(&self, service: &str) -> String {
        canary_name(service)
    }

    /// The value of the label by which Services find the canary that the user has declared; `None` if there are none.
    pub fn mark(&self) -> Option<&str> {
        let declared = self.routes.iter().any(|part| part.declared);
        declared.then_some(self.deployment.as_str())
    }
}

/// What is called `<name>-canary`, within the 63 characters that a Service's name may have.
pub fn canary_name(name: &str) -> String {
    const MOST: usize = 63 - "-canary".len();
    let cut: String = name.chars().take(MOST).collect();
    format!("{}-canary", cut.trim_end_matches('-'))
}

/// How the canary is kept from traffic until its first weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Isolation {
    /// Its pods are born with other values of these labels, and relabelled at the hand over.
    Label {
        /// By label: stable's value and the canary's.
        labels: BTreeMap<String, LabelPair>,
    },
    /// Every Service is pinned to stable's hash while the release runs.
    Pin,
}

/// A label's value on stable's pods and on the canary's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelPair {
    /// As the Services select.
    pub stable: String,
    /// As the canary's pods carry it until the hand over.
    pub canary: String,
}

/// Which kind of route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteKind {
    /// Gateway API HTTPRoute.
    Http,
    /// Gateway API GRPCRoute.
    Grpc,
}

/// A route that leads to one of the Services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRef {
    /// Its kind.
    pub kind: RouteKind,
    /// Its name.
    pub name: String,
    /// The Service of ours that it leads to.
    pub service: String,
    /// Its rules before the release, exactly.
    pub rules: Value,
    /// The canary's backend is there already, at weight 0 (declared for GitOps): it stays.
    #[serde(default)]
    pub declared: bool,
}

/// What the Deployment said before the hold, to be put back exactly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Before {
    /// `spec.paused`.
    pub paused: bool,
    /// `spec.strategy.rollingUpdate.maxSurge`, number or percentage.
    pub max_surge: Value,
    /// `spec.strategy.rollingUpdate.maxUnavailable`, number or percentage.
    #[serde(default)]
    pub max_unavailable: Value,
    /// `spec.revisionHistoryLimit`.
    pub history_limit: Value,
}

/// What scales the Deployment by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaler {
    /// Which kind.
    pub kind: ScalerKind,
    /// Its name.
    pub name: String,
    /// Its `minReplicas` before the release; `None` if not said (which means 1).
    pub min: Option<u32>,
    /// Its `maxReplicas`.
    pub max: u32,
}

/// Kinds of scalers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScalerKind {
    /// A HorizontalPodAutoscaler.
    Hpa,
    /// A KEDA ScaledObject (which keeps a HorizontalPodAutoscaler of its own).
    Keda,
}

/// Where the pods show metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricsPort {
    /// The container port.
    pub port: u16,
    /// The path, `/metrics`.
    pub path: String,
}

/// What the Deployment carries in [`super::RELEASE`] while a release runs: enough to put everything back without the
/// record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The release's number.
    pub number: u64,
    /// See [`Release::stable`].
    pub stable: String,
    /// See [`Release::canary`].
    pub canary: String,
    /// See [`Release::before`].
    pub before: Before,
}
