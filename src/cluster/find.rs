//! What is there: the Deployment and everything that matters for releasing it, read once, before anything is touched.

use std::sync::Arc;

use serde_json::Value;

use crate::apiserver::value::{count, flag, is_controlled_by, is_ready, label, name, selects, text};
use crate::apiserver::{ApiError, ApiServer, Fault, Kind, Selection};
use crate::platforms::kubernetes::release::{RouteKind, RouteRef, Scaler, ScalerKind};
use crate::platforms::kubernetes::{HASH, isolation, route, workload};

/// Everything that was found around one Deployment.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The Deployment.
    pub deployment: Value,
    /// ReplicaSets that the Deployment owns.
    pub sets: Vec<Value>,
    /// Pods of the namespace.
    pub pods: Vec<Value>,
    /// Every Service that selects the Deployment's pods.
    pub services: Vec<Value>,
    /// Every Service of the namespace.
    pub every_service: Vec<Value>,
    /// Every route that leads to one of these Services, with the object it was read from.
    pub routes: Vec<(RouteRef, Value)>,
    /// What scales the Deployment by itself.
    pub scaler: Option<(Scaler, Value)>,
    /// PodDisruptionBudgets that protect its pods.
    pub budgets: Vec<Value>,
    /// NetworkPolicies of the namespace.
    pub policies: Vec<Value>,
    /// Quotas of the namespace.
    pub quotas: Vec<Value>,
    /// Nodes, where they may be listed.
    pub nodes: Vec<Value>,
    /// The claims that the pods mount.
    pub claims: Vec<Value>,
    /// What could not be read, and why.
    pub unread: Vec<ApiError>,
}

impl Found {
    /// Reads everything around the Deployment called `deployment`.
    ///
    /// # Errors
    /// The API server cannot be reached, or what cannot be done without may not be read.
    pub async fn read(api: &ApiServer, deployment: &str) -> Result<Option<Self>, ApiError> {
        let Some(object) = api.get(Kind::Deployment, deployment).await? else {
            return Ok(None);
        };
        let all = Selection::default();
        let (sets, pods, services, http, grpc) = tokio::join!(
            api.list(Kind::ReplicaSet, &all),
            api.list(Kind::Pod, &all),
            api.list(Kind::Service, &all),
            api.list(Kind::HttpRoute, &all),
            api.list(Kind::GrpcRoute, &all),
        );
        let (hpas, kedas, budgets, policies, quotas, nodes, claims) = tokio::join!(
            api.list(Kind::HorizontalPodAutoscaler, &all),
            api.list(Kind::ScaledObject, &all),
            api.list(Kind::PodDisruptionBudget, &all),
            api.list(Kind::NetworkPolicy, &all),
            api.list(Kind::ResourceQuota, &all),
            api.list(Kind::Node, &all),
            api.list(Kind::PersistentVolumeClaim, &all),
        );
        let mut unread = Vec::new();
        let mut optional = |listed: Result<Vec<Value>, ApiError>| match listed {
            Ok(items) => Ok(items),
            // A kind that the cluster does not have.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) if matches!(error.fault, Fault::Forbidden(_) | Fault::Refused(_)) => {
                unread.push(error);
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        };
        let (http, grpc) = (optional(http)?, optional(grpc)?);
        let (hpas, kedas) = (optional(hpas)?, optional(kedas)?);
        let (budgets, policies) = (optional(budgets)?, optional(policies)?);
        let (quotas, nodes, claims) = (optional(quotas)?, optional(nodes)?, optional(claims)?);
        let sets: Vec<Value> = sets?.into_iter().filter(|set| is_controlled_by(set, &object)).collect();
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        let every = services?;
        let services: Vec<Value> = every
            .iter()
            .filter(|service| selected(&service["spec"]["selector"], &labels))
            .cloned()
            .collect();
        let names: Vec<String> = services.iter().map(|service| name(service).to_owned()).collect();
        let mut routes = Vec::new();
        for (kind, objects) in [(RouteKind::Http, http), (RouteKind::Grpc, grpc)] {
            for object in objects {
                for part in route::references(&object, kind, &names) {
                    routes.push((part, object.clone()));
                }
            }
        }
        let selecting = |objects: Vec<Value>, path: &str| -> Vec<Value> {
            let chosen = |object: &Value| {
                object
                    .pointer(path)
                    .is_some_and(|selector| isolation::matches(selector, &labels))
            };
            objects.into_iter().filter(chosen).collect()
        };
        Ok(Some(Self {
            scaler: scaler(&hpas, &kedas, deployment),
            budgets: selecting(budgets, "/spec/selector"),
            policies,
            deployment: object,
            sets,
            pods: pods?,
            services,
            every_service: every,
            routes,
            quotas,
            nodes,
            claims,
            unread,
        }))
    }

    /// The ReplicaSet that serves: the only one with pods, whole. Otherwise why there is none.
    ///
    /// # Errors
    /// One sentence: a rollout is unfinished, or nothing is there yet.
    pub fn stable(&self) -> Result<&Value, String> {
        let deployment = name(&self.deployment);
        let wanted = workload::replicas(&self.deployment);
        let active: Vec<&Value> = self
            .sets
            .iter()
            .filter(|set| count(set, "/spec/replicas") > 0)
            .collect();
        match active.as_slice() {
            [] if wanted == 0 => Err(format!(
                "deployment {deployment} is scaled to 0, so there is nothing to compare with; scale it up first: `kubectl scale deployment/{deployment} --replicas=1`"
            )),
            [] => Err(format!(
                "deployment {deployment} has no replicaset with pods yet; wait for its first rollout (`kubectl rollout status deployment/{deployment}`)"
            )),
            [set] => {
                let paused = flag(&self.deployment, "/spec/paused");
                let generation = self.deployment.pointer("/metadata/generation");
                let seen = self.deployment.pointer("/status/observedGeneration");
                let newest = crate::platforms::kubernetes::template::same(
                    &set["spec"]["template"],
                    &self.deployment["spec"]["template"],
                );
                let available = count(set, "/status/availableReplicas");
                if !newest && !paused {
                    return Err(unfinished(deployment));
                }
                if generation != seen && !paused {
                    return Err(unfinished(deployment));
                }
                if available == 0 {
                    // A stable that serves nobody is no reason to keep a repair out; see `unfit`.
                    return Ok(set);
                }
                Ok(set)
            }
            _ => Err(unfinished(deployment)),
        }
    }

    /// Why stable is no fair comparison, if it is not.
    pub fn unfit(&self) -> Option<String> {
        let set = self.stable().ok()?;
        (count(set, "/status/availableReplicas") == 0).then(|| {
            format!(
                "stable ({}) has no ready pod; the new revision is judged by absolute limits only",
                name(set)
            )
        })
    }

    /// Stable's pods that are ready.
    pub fn stable_pods(&self) -> Vec<Arc<Value>> {
        let Ok(set) = self.stable() else { return Vec::new() };
        let hash = label(set, HASH).unwrap_or_default();
        self.pods
            .iter()
            .filter(|pod| label(pod, HASH) == Some(hash))
            .filter(|pod| is_ready(pod))
            .cloned()
            .map(Arc::new)
            .collect()
    }

    /// A ReplicaSet of the Deployment's with an equal template: the way of every rollback.
    pub fn with_template(&self, template: &Value) -> Option<&Value> {
        self.sets
            .iter()
            .find(|set| crate::platforms::kubernetes::template::same(&set["spec"]["template"], template))
    }
}

fn unfinished(deployment: &str) -> String {
    format!(
        "a rollout of deployment {deployment} is unfinished, so there is no stable revision to go back to; wait for it (`kubectl rollout status deployment/{deployment}`) or take it back (`kubectl rollout undo deployment/{deployment}`)"
    )
}

fn scaler(hpas: &[Value], kedas: &[Value], deployment: &str) -> Option<(Scaler, Value)> {
    let is_target = |object: &Value| {
        text(object, "/spec/scaleTargetRef/name") == deployment
            && matches!(text(object, "/spec/scaleTargetRef/kind"), "Deployment" | "")
    };
    let number = |object: &Value, path: &str| {
        crate::apiserver::value::number(object, path).and_then(|number| u32::try_from(number).ok())
    };
    // A ScaledObject keeps a HorizontalPodAutoscaler of its own, which must not be touched.
    if let Some(object) = kedas.iter().find(|object| is_target(object)) {
        let scaler = Scaler {
            kind: ScalerKind::Keda,
            name: name(object).to_owned(),
            min: number(object, "/spec/minReplicaCount"),
            max: number(object, "/spec/maxReplicaCount").unwrap_or(100),
        };
        return Some((scaler, object.clone()));
    }
    let object = hpas.iter().find(|object| is_target(object))?;
    let scaler = Scaler {
        kind: ScalerKind::Hpa,
        name: name(object).to_owned(),
        min: number(object, "/spec/minReplicas"),
        max: number(object, "/spec/maxReplicas").unwrap_or(u32::MAX),
    };
    Some((scaler, object.clone()))
}

/// Whether a Service's selector takes pods with these labels, with or without a pin of ours on it.
fn selected(selector: &Value, labels: &Value) -> bool {
    let mut selector = selector.clone();
    if let Some(pairs) = selector.as_object_mut() {
        pairs.remove(HASH);
    }
    selects(&selector, labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_take_what_kubernetes_takes() {
        let labels = json!({ "app": "app", "tier": "web" });
        let cases = [
            (json!({}), true),
            (json!({ "matchLabels": { "app": "app" } }), true),
            (json!({ "matchLabels": { "app": "other" } }), false),
            (
                json!({ "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["web", "db"] }] }),
                true,
            ),
            (
                json!({ "matchExpressions": [{ "key": "tier", "operator": "NotIn", "values": ["web"] }] }),
                false,
            ),
            (
                json!({ "matchExpressions": [{ "key": "canary", "operator": "DoesNotExist" }] }),
                true,
            ),
        ];
        for (selector, expected) in cases {
            assert_eq!(isolation::matches(&selector, &labels), expected, "{selector}");
        }
        assert!(selected(&json!({ "app": "app", HASH: "abc" }), &labels));
        assert!(!selected(&json!({}), &labels));
    }
}
