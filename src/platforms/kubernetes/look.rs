//! From watched objects to what the engine knows: instances, split, adoption, what is left, who interferes.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::release::{Release, RouteKind, RouteRef};
use super::route::{self, Observed};
use super::{HASH, managers, share, workload};
use crate::apiserver::Kind;
use crate::apiserver::value::{
    annotation, condition, controller, count, flag, is_controlled_by, is_ready, label, list, text, uid,
};
use crate::apiserver::view::View;
use crate::engine::{Interference, RouteFact};
use crate::plan::{ALL_STABLE, Split};
use crate::spec::Weight;

/// The objects of one release, as of now.
pub(super) struct Look<'a> {
    view: &'a View,
    release: &'a Release,
    pub(super) deployment: Option<Arc<Value>>,
    /// The canary's ReplicaSet.
    pub(super) set: Option<Arc<Value>>,
    /// Stable's ReplicaSet.
    pub(super) stable: Option<Arc<Value>>,
    /// The canary's pods that are not on their way out.
    pub(super) canary_pods: Vec<Arc<Value>>,
    /// Stable's pods that are not on their way out.
    pub(super) stable_pods: Vec<Arc<Value>>,
}

impl RouteKind {
    /// The kind of object.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Http => Kind::HttpRoute,
            Self::Grpc => Kind::GrpcRoute,
        }
    }
}

/// One route of a release, as its rules are read and written.
pub(super) struct Lane<'a> {
    pub(super) part: &'a RouteRef,
    canary: String,
}

impl<'a> Lane<'a> {
    pub(super) fn new(release: &Release, part: &'a RouteRef) -> Self {
        Self {
            part,
            canary: release.canary_service(&part.service),
        }
    }

    pub(super) fn split_of(&self, object: &Value) -> Observed {
        route::split_of(
            &object["spec"]["rules"],
            &self.part.rules,
            &self.part.service,
            &self.canary,
        )
    }

    /// Nothing of ours is in it: everybody is on stable.
    pub(super) fn is_absent(&self, object: &Value) -> bool {
        self.split_of(object) == Observed::Absent
    }

    /// The canary's backend is in every rule that leads to the Service, at whatever weight.
    fn is_warm(&self, object: &Value) -> bool {
        self.warmed(object) == object["spec"]["rules"]
    }

    pub(super) fn warmed(&self, object: &Value) -> Value {
        route::warmed(&object["spec"]["rules"], &self.part.service, &self.canary)
    }

    pub(super) fn with_split(&self, object: &Value, split: &Split) -> Result<Value, String> {
        route::with_split(
            &object["spec"]["rules"],
            &self.part.rules,
            &self.part.service,
            &self.canary,
            split,
        )
    }

    pub(super) fn restored(&self, object: &Value) -> Value {
        route::restored(
            &object["spec"]["rules"],
            &self.part.rules,
            &self.part.service,
            &self.canary,
        )
    }

    /// As it was before the release.
    fn is_clean(&self, object: &Value) -> bool {
        self.restored(object) == object["spec"]["rules"] && annotation(object, super::EPOCH).is_none()
    }
}

impl<'a> Look<'a> {
    pub(super) fn new(view: &'a View, release: &'a Release) -> Self {
        let deployment = view
            .get(Kind::Deployment, &release.deployment)
            .filter(|deployment| uid(deployment) == release.uid);
        let pods = view.list(Kind::Pod);
        let of = |hash: &str| -> Vec<Arc<Value>> {
            pods.iter()
                .filter(|pod| label(pod, HASH) == Some(hash) && is_alive(pod))
                .cloned()
                .collect()
        };
        Self {
            view,
            release,
            set: view.get(Kind::ReplicaSet, &release.canary_set()),
            stable: view.get(Kind::ReplicaSet, &release.stable_set()),
            canary_pods: of(&release.canary),
            stable_pods: of(&release.stable),
            deployment,
        }
    }

    /// Pods at full size: what the Deployment asks for.
    pub(super) fn full(&self) -> u32 {
        self.deployment
            .as_ref()
            .map_or(self.stable_pods.len() as u32, |deployment| {
                workload::replicas(deployment)
            })
    }

    /// Instances of a ReplicaSet; one that still wants pods exists even while it has none.
    pub(super) fn exists(set: Option<&Arc<Value>>, pods: &[Arc<Value>]) -> u32 {
        let wanted = set.map_or(0, |set| count(set, "/spec/replicas"));
        (pods.len() as u32).max(wanted.min(1))
    }

    /// Whether the Deployment has the canary as its newest ReplicaSet: past the point of no return.
    ///
    /// A ReplicaSet that is to be taken over becomes the newest one with the hold already, because its template is the
    /// Deployment's then; as long as it is empty it has not been given back.
    pub(super) fn is_given(&self) -> bool {
        let (Some(deployment), Some(set)) = (&self.deployment, &self.set) else {
            return false;
        };
        if self.release.takes_over && count(set, "/spec/replicas") == 0 && workload::replicas(deployment) > 0 {
            return false;
        }
        workload::is_newest(set, deployment)
    }

    /// Whether the canary's ReplicaSet has left Wade's hands, adopted already or not: from then on its size is the
    /// Deployment's business alone. Scaled by both in the moment of a hand over, a Deployment that went from 6 to 3 was
    /// left with 2 new pods and took the old ones away.
    pub(super) fn is_handed(&self) -> bool {
        let (Some(deployment), Some(set)) = (&self.deployment, &self.set) else {
            return false;
        };
        // One that is to be taken over is the Deployment's to begin with, and empty.
        let has_pods = count(set, "/spec/replicas") > 0 || !self.canary_pods.is_empty();
        match controller(set) {
            None => true,
            Some(_) => is_controlled_by(set, deployment) && (has_pods || !self.release.takes_over),
        }
    }

    /// Whether the canary's ReplicaSet is the Deployment's, its newest or not: it was handed over at partial size.
    pub(super) fn was_given(&self) -> bool {
        let owned = self.set.as_ref().is_some_and(|set| controller(set).is_some());
        self.release.rolling && owned && self.is_handed()
    }

    /// Given, whole, and nothing of stable is wanted any more.
    pub(super) fn is_adopted(&self) -> bool {
        match (&self.deployment, &self.set) {
            (Some(deployment), Some(set)) => workload::is_adopted(deployment, set, self.stable.as_deref()),
            _ => false,
        }
    }

    /// The split in force, if that can be told. `wanted` is what was written last, by which whole pods are read.
    pub(super) fn split(&self, wanted: Option<&Split>) -> RouteFact {
        let mut fact = if self.release.routes.is_empty() {
            RouteFact {
                split: Some(self.shared(wanted)),
                conflict: None,
            }
        } else {
            self.routed()
        };
        if self.was_given() {
            // Both revisions are behind the Services: who gets what is known again when one of them is gone.
            fact.split = match (self.is_adopted(), self.canary_pods.is_empty()) {
                (true, _) => Some(Split::weight(Weight::FULL)),
                (false, true) => fact.split.filter(|split| *split == ALL_STABLE),
                (false, false) => None,
            };
        } else if fact.split == Some(ALL_STABLE) && self.is_given() {
            fact.split = Some(Split::weight(Weight::FULL));
        }
        if fact.conflict.is_none() && wanted.is_some_and(Split::reaches_canary) && !self.is_given() {
            fact.conflict = self.overwritten();
        }
        fact
    }

    /// Which route somebody else has written since Wade gave the canary its share, and who.
    fn overwritten(&self) -> Option<String> {
        let path = ["spec", "rules"];
        self.release.routes.iter().find_map(|part| {
            let object = self.view.get(part.kind.kind(), &part.name)?;
            let who = managers::last_writer(&object, &path).unwrap_or_default();
            managers::is_taken(&object, &path).then(|| {
                format!(
                    "{} {} was changed in mid-release{who}; the weights are put back",
                    part.kind.kind().word(),
                    part.name
                )
            })
        })
    }

    /// Whether the canary's pods are leaving because their ReplicaSet is gone, or what owns it, which takes it along.
    pub(super) fn is_lost(&self) -> bool {
        let Some(set) = &self.set else { return true };
        let Some((kind, _, owner)) = controller(set) else {
            return false;
        };
        kind != Kind::Deployment.name() && self.anchors().iter().all(|(_, anchor)| uid(anchor) != owner)
    }

    /// Whether the data plane knows the canary's backend: it stands in every route. To begin with, every gateway
    /// has to have taken a form of its route in which it does; later changes of weights need no new word.
    pub(super) fn is_warm(&self, has_begun: bool) -> bool {
        self.release.routes.iter().all(|part| {
            let object = self.view.get(part.kind.kind(), &part.name);
            object.is_none_or(|object| {
                Lane::new(self.release, part).is_warm(&object) && (has_begun || route::confirmed(&object).is_ok())
            })
        })
    }

    fn routed(&self) -> RouteFact {
        let mut seen: Option<Split> = None;
        let mut fact = RouteFact::default();
        for part in &self.release.routes {
            let Some(object) = self.view.get(part.kind.kind(), &part.name) else {
                // Nobody is led anywhere by a route that is gone.
                continue;
            };
            let lane = Lane::new(self.release, part);
            if lane.is_absent(&object) {
                // Nothing of ours is in it: nothing to be confirmed.
                if seen.as_ref().is_some_and(|seen| *seen != ALL_STABLE) {
                    return fact;
                }
                seen = Some(ALL_STABLE);
                continue;
            }
            let split = match lane.split_of(&object) {
                Observed::Split(split) => split,
                Observed::Absent => ALL_STABLE,
                Observed::NotOurs { what } => {
                    let who = managers::last_writer(&object, &["spec", "rules"]).unwrap_or_default();
                    fact.conflict = Some(format!("{} {}: {what}{who}", part.kind.kind().word(), part.name));
                    return fact;
                }
            };
            let others = seen.get_or_insert_with(|| split.clone());
            if *others != split || route::confirmed(&object).is_err() {
                return fact;
            }
        }
        fact.split = Some(seen.unwrap_or(ALL_STABLE));
        fact
    }

    /// The split that pods make where there is no route.
    fn shared(&self, wanted: Option<&Split>) -> Split {
        let services: Vec<Arc<Value>> = self.services();
        let pinned =
            |hash: &str| !services.is_empty() && services.iter().all(|service| workload::pin_of(service) == Some(hash));
        if pinned(&self.release.canary) {
            return Split::weight(Weight::FULL);
        }
        if pinned(&self.release.stable) {
            return ALL_STABLE;
        }
        let serving = self
            .canary_pods
            .iter()
            .filter(|pod| workload::serves(pod, self.release))
            .count() as u32;
        if serving == 0 {
            return ALL_STABLE;
        }
        let stable = self.stable_pods.len() as u32;
        // Where the Deployment rolls the rest, all the canary's pods beside stable's are not everybody.
        let told = |split: &&Split| !(self.release.rolling && split.weight.is_full());
        match wanted.filter(told) {
            Some(split) if self.serving_for(split.weight) == serving => split.clone(),
            _ => Split::weight(share::weight_of(serving, stable)),
        }
    }

    /// How many canary pods serve for a weight where there is no route.
    pub(super) fn serving_for(&self, weight: Weight) -> u32 {
        match self.release.isolation {
            super::Isolation::Label { .. } => {
                share::serving(weight, self.stable_pods.len() as u32, self.canary_pods.len() as u32)
            }
            super::Isolation::Pin if weight.is_zero() => 0,
            super::Isolation::Pin => self.canary_pods.len() as u32,
        }
    }

    /// The user's Services, as far as they are there.
    pub(super) fn services(&self) -> Vec<Arc<Value>> {
        self.release
            .services
            .iter()
            .filter_map(|service| self.view.get(Kind::Service, service))
            .collect()
    }

    /// Whether nothing of the release is left: neither hold, pin, backend, anchor, budget nor scaler.
    pub(super) fn is_restored(&self) -> bool {
        let free = self.deployment.as_ref().is_none_or(|deployment| {
            [super::RELEASE, super::EPOCH, super::WRITE]
                .iter()
                .all(|ours| annotation(deployment, ours).is_none())
        });
        let unpinned = self
            .services()
            .iter()
            .all(|service| workload::pin_of(service).is_none());
        let routes = self.release.routes.iter().all(|part| {
            self.view
                .get(part.kind.kind(), &part.name)
                .is_none_or(|object| Lane::new(self.release, part).is_clean(&object))
        });
        let scaler = self.release.scaler.as_ref().is_none_or(|scaler| {
            self.view
                .get(scaler.kind.kind(), &scaler.name)
                .is_none_or(|object| workload::scaler_restored(&object).is_none())
        });
        free && unpinned && routes && scaler && self.anchors().is_empty() && self.budgets().is_empty()
    }

    /// What Wade made for this release and has not removed: Services and ConfigMaps.
    pub(super) fn anchors(&self) -> Vec<(Kind, Arc<Value>)> {
        [Kind::Service, Kind::ConfigMap]
            .into_iter()
            .flat_map(|kind| self.made(kind).into_iter().map(move |object| (kind, object)))
            .collect()
    }

    /// The budgets that Wade made for this release.
    pub(super) fn budgets(&self) -> Vec<Arc<Value>> {
        self.made(Kind::PodDisruptionBudget)
    }

    fn made(&self, kind: Kind) -> Vec<Arc<Value>> {
        let mine = |object: &Arc<Value>| {
            label(object, super::ROLLOUT) == Some(self.release.deployment.as_str())
                && label(object, super::PART) == Some("release")
        };
        self.view.list(kind).into_iter().filter(mine).collect()
    }

    /// Whether every Service of the user's has all of the canary's ready pods among its ready endpoints.
    pub(super) fn is_joined(&self) -> bool {
        let wanted: Vec<&str> = self
            .canary_pods
            .iter()
            .filter(|pod| is_ready(pod))
            .map(|pod| text(pod, "/metadata/name"))
            .collect();
        !wanted.is_empty()
            && self.release.services.iter().all(|service| {
                let slices = self.view.list(Kind::EndpointSlice);
                let endpoints: Vec<&Value> = slices
                    .iter()
                    .filter(|slice| label(slice, "kubernetes.io/service-name") == Some(service))
                    .flat_map(|slice| list(slice, "/endpoints"))
                    .filter(|endpoint| flag(endpoint, "/conditions/ready"))
                    .collect();
                wanted.iter().all(|pod| {
                    endpoints
                        .iter()
                        .any(|endpoint| text(endpoint, "/targetRef/name") == *pod)
                })
            })
    }

    /// What somebody else did to the Deployment while it was held; `was_held` is whether it ever was.
    pub(super) fn interference(&self, was_held: bool) -> Option<Interference> {
        let name = &self.release.deployment;
        let says = |newer: bool, message: String| Some(Interference { newer, message });
        let Some(deployment) = &self.deployment else {
            return says(false, format!("deployment {name} was deleted in mid-release"));
        };
        if !was_held || self.is_given() {
            return None;
        }
        let who = |path: &[&str]| managers::last_writer(deployment, path).unwrap_or_default();
        let template = &deployment["spec"]["template"];
        let ours = super::template::same(template, &self.release.template);
        if workload::held(deployment).is_none_or(|held| held.number != self.release.number) {
            return says(
                !ours,
                format!(
                    "annotation {} of deployment {name} was removed in mid-release{}: letting go",
                    super::RELEASE,
                    who(&["metadata", "annotations"])
                ),
            );
        }
        if !ours {
            let back = self
                .stable
                .as_ref()
                .is_some_and(|stable| super::template::same(template, &stable["spec"]["template"]));
            let words = if back { "put back" } else { "changed" };
            return says(
                !back,
                format!(
                    "the pod template of deployment {name} was {words} in mid-release{}",
                    who(&["spec", "template"])
                ),
            );
        }
        if !flag(deployment, "/spec/paused") {
            return says(
                false,
                format!(
                    "deployment {name} was resumed in mid-release{}, which would roll it out unjudged; `kubectl annotate deployment/{name} {}-` lets go of it first",
                    who(&["spec", "paused"]),
                    super::RELEASE
                ),
            );
        }
        None
    }
}

/// Not on its way out, and not a leftover of an eviction.
pub(super) fn is_alive(pod: &Value) -> bool {
    !crate::apiserver::value::is_leaving(pod) && !matches!(text(pod, "/status/phase"), "Failed" | "Succeeded")
}

/// Restarts of a pod's containers.
pub(super) fn restarts(pod: &Value) -> u32 {
    ["/status/containerStatuses", "/status/initContainerStatuses"]
        .iter()
        .flat_map(|path| list(pod, path))
        .map(|status| count(status, "/restartCount"))
        .sum()
}

/// Since when something has held without a break, as seen by this process: a restart of Wade begins anew, and a pod
/// that was unready between two looks shows it by the time of its condition.
#[derive(Debug, Default)]
pub(super) struct Continuity {
    seen: Vec<String>,
    since: Option<Timestamp>,
}

impl Continuity {
    /// `facts` is what must stay the same; `None` ends it.
    pub(super) fn look(&mut self, facts: Option<Vec<String>>, now: Timestamp) -> Option<Timestamp> {
        match facts {
            None => *self = Self::default(),
            Some(facts) if self.since.is_none() || facts != self.seen => {
                self.seen = facts;
                self.since = Some(now);
            }
            Some(_) => {}
        }
        self.since
    }

    /// Whether it holds, since whenever.
    pub(super) fn has_begun(&self) -> bool {
        self.since.is_some()
    }

    /// Whether it has held for at least this long.
    pub(super) fn lasted(&self, least: SignedDuration, now: Timestamp) -> bool {
        self.since.is_some_and(|since| now.duration_since(since) >= least)
    }
}

/// What must stay the same for pods to have been ready without a break.
pub(super) fn ready_facts(pods: &[Arc<Value>]) -> Vec<String> {
    pods.iter()
        .map(|pod| {
            let since = condition(pod, "Ready").map_or("", |ready| text(ready, "/lastTransitionTime"));
            format!("{} {since} {}", uid(pod), restarts(pod))
        })
        .collect()
}
