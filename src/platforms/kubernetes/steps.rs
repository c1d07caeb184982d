//! What is written for each thing that should hold, in which order, and what is waited for in between.
//!
//! Every function is level-triggered: called again it goes on where the world is, whoever brought it there. "Wait" is
//! to return: each change of a watched object wakes the controller, which asks again.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::Value;

use super::adapter::{KubernetesPlatform, pins};
use super::look::{Lane, Look};
use super::release::RouteRef;
use super::{route, workload};
use crate::apiserver::value::{controller, flag, is_controlled_by, is_ready, name, uid};
use crate::apiserver::{Kind, Patch};
use crate::plan::{ALL_STABLE, Split};
use crate::platforms::PlatformError;
use crate::spec::Weight;

/// How long endpoints may take from the API server to the data plane; waited before pods behind the old ones go.
const PROPAGATION: SignedDuration = SignedDuration::from_secs(1);
/// How long a hand over stands still before it counts as jammed.
const JAMMED_FOR: SignedDuration = SignedDuration::from_secs(3);
/// How long a route without the canary may stay unconfirmed before the canary is removed all the same.
const UNCONFIRMED: SignedDuration = SignedDuration::from_secs(5);

impl KubernetesPlatform {
    /// The platform does not roll by itself, stable does not shrink, and the canary will get no traffic by accident.
    pub(super) async fn hold(&mut self, look: &Look<'_>) -> Result<(), PlatformError> {
        let (release, epoch) = (Arc::clone(&self.release), self.epoch);
        let deployment = self
            .ensure(Kind::Deployment, &release.deployment, |object| {
                workload::hold(object, &release, epoch)
            })
            .await?;
        if deployment.is_none() {
            return Err(PlatformError::Refused(format!(
                "deployment {} is gone; there is nothing to hold",
                release.deployment
            )));
        }
        if let Some(scaler) = &release.scaler {
            let (size, keda) = (look.full(), scaler.kind == super::ScalerKind::Keda);
            self.ensure(scaler.kind.kind(), &scaler.name, |object| {
                workload::scaler_held(object, size, keda)
            })
            .await?;
        }
        if pins(&release) && self.wanted_weight().is_zero() {
            self.pin(Some(&release.stable)).await?;
        }
        Ok(())
    }

    /// The canary exists with this many pods, beside what owns it and what leads to it at weight 0.
    pub(super) async fn canary(&mut self, look: &Look<'_>, size: u32) -> Result<(), PlatformError> {
        let release = Arc::clone(&self.release);
        let Some(deployment) = &look.deployment else {
            return Err(PlatformError::Refused(format!(
                "deployment {} is gone",
                release.deployment
            )));
        };
        if pins(&release)
            && look
                .set
                .as_ref()
                .is_none_or(|set| crate::apiserver::value::count(set, "/spec/replicas") == 0)
        {
            let pinned = look
                .services()
                .iter()
                .all(|service| workload::pin_of(service) == Some(&release.stable));
            if !pinned {
                return Err(PlatformError::Unreachable(
                    "the Services are not pinned to stable yet; no canary before they are".to_owned(),
                ));
            }
        }
        let anchor = self.anchor(look, deployment).await?;
        match &look.set {
            None => {
                let set = workload::canary_set(deployment, &release, &anchor, size);
                let there = self.create(Kind::ReplicaSet, &set).await?;
                if controller(&there).map(|(_, _, owner)| owner) != Some(uid(&anchor)) {
                    return Err(PlatformError::Refused(format!(
                        "a replicaset {} is there already and is not this release's; remove it with `kubectl delete replicaset {}`",
                        name(&set),
                        name(&set)
                    )));
                }
            }
            Some(set) => {
                let set = name(set).to_owned();
                if release.takes_over {
                    self.ensure(Kind::ReplicaSet, &set, |object| {
                        workload::taken_over(object, &release, &anchor)
                    })
                    .await?;
                }
                self.ensure(Kind::ReplicaSet, &set, |object| workload::scaled(object, size))
                    .await?;
            }
        }
        for part in &release.routes {
            self.warm(part).await?;
        }
        for budget in &release.budgets {
            let Some(stable) = self.view.get(Kind::PodDisruptionBudget, budget) else {
                continue;
            };
            let wanted = workload::budget(&stable, &release, &anchor, size, look.full());
            self.create(Kind::PodDisruptionBudget, &wanted).await?;
            let spec = wanted["spec"].clone();
            self.ensure(Kind::PodDisruptionBudget, name(&wanted), |object| {
                let same = ["minAvailable", "maxUnavailable"]
                    .iter()
                    .all(|key| object["spec"].get(key) == spec.get(key));
                (!same).then(|| Patch::Merge(serde_json::json!({ "spec": spec })))
            })
            .await?;
        }
        Ok(())
    }

    /// What owns the canary, made if it is not there: a Service per Service that a route leads to, the first of which
    /// is the owner.
    async fn anchor(&self, look: &Look<'_>, deployment: &Value) -> Result<Arc<Value>, PlatformError> {
        let release = &self.release;
        let declared = release.routes.iter().any(|part| part.declared);
        let mut wanted: Vec<Arc<Value>> = look
            .services()
            .into_iter()
            .filter(|service| {
                release.routes.is_empty() || release.routes.iter().any(|part| part.service == name(service))
            })
            .collect();
        if release.routes.is_empty() {
            wanted.truncate(1);
        }
        let mut owner = None;
        if declared || wanted.is_empty() {
            let anchor = workload::anchor(deployment, None, release);
            owner = Some(self.create(Kind::ConfigMap, &anchor).await?);
        }
        for service in &wanted {
            let part_declared = release
                .routes
                .iter()
                .any(|part| part.declared && part.service == name(service));
            if part_declared {
                continue;
            }
            let anchor = workload::anchor(deployment, Some(service), release);
            let there = self.create(Kind::Service, &anchor).await?;
            if there.pointer("/spec/selector") != anchor.pointer("/spec/selector") {
                return Err(PlatformError::Refused(format!(
                    "a service {} is there already and selects other pods; rename it, or remove what an earlier release left with `wade settle`",
                    name(&anchor)
                )));
            }
            owner.get_or_insert(there);
        }
        owner.ok_or_else(|| PlatformError::Refused("there is nothing that could own the canary".to_owned()))
    }

    /// The canary's backend stands in the route at weight 0, so that the data plane knows it before it matters.
    async fn warm(&self, part: &RouteRef) -> Result<(), PlatformError> {
        let lane = Lane::new(&self.release, part);
        let epoch = self.epoch;
        self.ensure(part.kind.kind(), &part.name, |object| {
            // Also where somebody has taken it out of one rule; weights are not touched here.
            workload::rules(object, &lane.warmed(object), Some(epoch))
        })
        .await?;
        Ok(())
    }

    /// Requests are divided like this.
    pub(super) async fn divide(&mut self, look: &Look<'_>, split: &Split) -> Result<(), PlatformError> {
        if self.release.routes.is_empty() {
            return self.share(look, split).await;
        }
        if split.reaches_canary() && !self.warm.lasted(PROPAGATION, self.now()) {
            // Somebody has taken the canary's backend out in mid-release, and it is back since a moment: with its weight
            // at once, requests would meet a backend that the data plane does not know yet.
            return Ok(());
        }
        let release = Arc::clone(&self.release);
        for part in &release.routes {
            let canary = release.canary_service(&part.service);
            let lane = Lane::new(&release, part);
            let epoch = self.epoch;
            let fault = std::sync::Mutex::new(None);
            self.ensure(part.kind.kind(), &part.name, |object| {
                if *split == ALL_STABLE && lane.is_absent(object) {
                    // Everybody is on stable already.
                    return None;
                }
                // A backend that is gone would keep the route from being confirmed for ever: it leaves with its weight.
                let gone = !part.declared && self.view.get(Kind::Service, &canary).is_none();
                let rules = if gone && *split == ALL_STABLE {
                    Ok(lane.restored(object))
                } else {
                    lane.with_split(object, split)
                };
                match rules {
                    Ok(rules) => workload::rules(object, &rules, Some(epoch)),
                    Err(why) => {
                        *fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(why);
                        None
                    }
                }
            })
            .await?;
            if let Some(why) = fault.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
                return Err(PlatformError::Refused(format!(
                    "{} {}: {why}",
                    part.kind.kind().word(),
                    part.name
                )));
            }
        }
        Ok(())
    }

    /// Without a route: so many of the canary's pods carry the label; at 100 % the Services lead to the canary alone.
    async fn share(&mut self, look: &Look<'_>, split: &Split) -> Result<(), PlatformError> {
        let release = Arc::clone(&self.release);
        if split.matching.is_some() || !split.mirror.is_zero() {
            return Err(PlatformError::Refused(
                "headers, cookies and copies need a route; there is none that leads to this Service".to_owned(),
            ));
        }
        // Back: the pin first, so that nobody is sent to pods that are about to lose their label.
        if !split.weight.is_full() {
            let pin = (pins(&release) && split.weight.is_zero()).then_some(release.stable.as_str());
            self.pin(pin).await?;
        }
        let wanted = look.serving_for(split.weight);
        let mut serving = 0;
        // Ready pods first, the same ones every time.
        let mut pods = look.canary_pods.clone();
        pods.sort_by_key(|pod| (!is_ready(pod), name(pod).to_owned()));
        for pod in &pods {
            let serves = serving < wanted;
            serving += u32::from(serves);
            self.ensure(Kind::Pod, name(pod), |object| {
                workload::relabelled(object, &release, serves)
            })
            .await?;
        }
        if split.weight.is_full() && look.canary_pods.iter().any(|pod| is_ready(pod)) {
            self.pin(Some(&release.canary)).await?;
        }
        Ok(())
    }

    async fn pin(&self, hash: Option<&str>) -> Result<(), PlatformError> {
        for service in &self.release.services {
            self.ensure(Kind::Service, service, |object| workload::pinned(object, hash))
                .await?;
        }
        Ok(())
    }

    fn wanted_weight(&self) -> Weight {
        self.wanted_split().map_or(Weight::ZERO, |split| split.weight)
    }

    /// Somebody has resumed the Deployment: on the way back it must not roll out what is being taken back.
    pub(super) async fn brake(&self, look: &Look<'_>) -> Result<(), PlatformError> {
        let held = |object: &Value| workload::held(object).is_some() && !flag(object, "/spec/paused");
        if look.deployment.as_ref().is_some_and(|deployment| held(deployment)) {
            self.ensure(Kind::Deployment, &self.release.deployment, |object| {
                held(object).then(|| Patch::Merge(serde_json::json!({ "spec": { "paused": true } })))
            })
            .await?;
        }
        // What the Deployment has begun to roll out meanwhile goes: once it is whole, it would take stable's pods away
        // even while paused (seen).
        let Some(deployment) = look
            .deployment
            .as_ref()
            .filter(|deployment| workload::held(deployment).is_some())
        else {
            return Ok(());
        };
        for set in self.view.list(Kind::ReplicaSet) {
            let theirs = is_controlled_by(&set, deployment)
                && name(&set) != self.release.canary_set()
                && name(&set) != self.release.stable_set()
                && super::template::same(&set["spec"]["template"], &self.release.template);
            if theirs {
                self.ensure(Kind::ReplicaSet, name(&set), |object| workload::scaled(object, 0))
                    .await?;
            }
        }
        Ok(())
    }

    /// The pods that were judged become the Deployment's own: they join the Services, then their ReplicaSet is given
    /// away in one write.
    pub(super) async fn adopt(&mut self, look: &Look<'_>) -> Result<(), PlatformError> {
        let Some(deployment) = &look.deployment else {
            return Err(PlatformError::Refused(format!(
                "deployment {} is gone",
                self.release.deployment
            )));
        };
        let Some(set) = &look.set else {
            return Err(PlatformError::Refused("the canary's replicaset is gone".to_owned()));
        };
        if look.is_given() {
            let jam = workload::unjammed(deployment, set, &self.release).is_some();
            let sizes =
                [set, deployment].map(|object| crate::apiserver::value::count(object, "/spec/replicas").to_string());
            let now = self.now();
            self.jammed.look(jam.then(|| sizes.to_vec()), now);
            // Not in the middle of a scaling: the Deployment controller would count pods that are on their way out.
            if self.jammed.lasted(JAMMED_FOR, now) {
                self.ensure(Kind::Deployment, &self.release.deployment, |object| {
                    workload::unjammed(object, set, &self.release)
                })
                .await?;
            }
            return Ok(());
        }
        if !super::template::same(&deployment["spec"]["template"], &self.release.template) {
            return Err(PlatformError::Refused(format!(
                "the pod template of deployment {} is another one now; nothing is handed over that nobody has judged",
                self.release.deployment
            )));
        }
        // Two budgets over one pod would stop every eviction.
        for budget in look.budgets() {
            self.delete(Kind::PodDisruptionBudget, &budget).await?;
        }
        let release = Arc::clone(&self.release);
        for pod in &look.canary_pods {
            self.ensure(Kind::Pod, name(pod), |object| {
                workload::relabelled(object, &release, true)
            })
            .await?;
        }
        if pins(&release) && !release.routes.is_empty() {
            self.pin(None).await?;
        }
        let now = self.now();
        let joined = look.is_joined() || release.services.is_empty();
        self.joined.look(joined.then(Vec::new), now);
        if !self.joined.lasted(PROPAGATION, now) {
            return Ok(());
        }
        self.ensure(Kind::ReplicaSet, name(set), |object| {
            workload::finish(object, deployment, &release)
        })
        .await?;
        Ok(())
    }

    /// What the release added is removed, once the Deployment has the canary as its own.
    pub(super) async fn retire(&mut self, look: &Look<'_>) -> Result<(), PlatformError> {
        if !look.is_given() || !(look.is_adopted() || look.is_restored()) {
            return Ok(());
        }
        let release = Arc::clone(&self.release);
        // Pods that were made with the old labels while the hand over was under way.
        for pod in &look.canary_pods {
            self.ensure(Kind::Pod, name(pod), |object| {
                workload::relabelled(object, &release, true)
            })
            .await?;
        }
        if !self.clear_routes(look, true).await? {
            return Ok(());
        }
        for pod in &look.canary_pods {
            self.ensure(Kind::Pod, name(pod), workload::unmarked_pod).await?;
        }
        self.pin(None).await?;
        self.restore_scaler().await?;
        self.apply_manifest(look).await?;
        self.ensure(Kind::Deployment, &release.deployment, |object| {
            workload::release_hold(object, &release, None)
        })
        .await?;
        self.remove_made(look).await?;
        self.disown().await
    }

    /// The rest of a manifest that was handed in (replicas, labels, …) follows once its template serves.
    async fn apply_manifest(&self, look: &Look<'_>) -> Result<(), PlatformError> {
        let held = look
            .deployment
            .as_ref()
            .is_some_and(|deployment| workload::held(deployment).is_some());
        let Some(manifest) = self.release.manifest.as_ref().filter(|_| held) else {
            return Ok(());
        };
        let patch = Patch::Apply {
            object: manifest.clone(),
            manager: super::APPLIER.to_owned(),
            force: true,
        };
        let applied = self.api.patch(Kind::Deployment, &self.release.deployment, &patch).await;
        self.view
            .put(Kind::Deployment, applied.map_err(super::adapter::refusal)?);
        Ok(())
    }

    /// The canary is removed: its backend first, then its pods.
    pub(super) async fn remove_canary(&mut self, look: &Look<'_>) -> Result<(), PlatformError> {
        if look.is_given() {
            return Ok(());
        }
        let release = Arc::clone(&self.release);
        if pins(&release) && release.routes.is_empty() {
            self.pin(Some(&release.stable)).await?;
        }
        if !self.clear_routes(look, false).await? {
            return Ok(());
        }
        // One that was handed over at partial size stays in the Deployment's history, empty.
        if let Some(set) = look.set.as_ref().filter(|_| !look.was_given()) {
            match (&look.deployment, release.takes_over) {
                (Some(deployment), true) => {
                    self.ensure(Kind::ReplicaSet, name(set), |object| {
                        workload::given_back(object, &release, deployment)
                    })
                    .await?;
                }
                _ => self.delete(Kind::ReplicaSet, set).await?,
            }
        }
        self.remove_made(look).await
    }

    /// The platform has back what was held.
    pub(super) async fn restore(&mut self, look: &Look<'_>) -> Result<(), PlatformError> {
        if look.is_given() {
            return Ok(());
        }
        let release = Arc::clone(&self.release);
        self.pin(None).await?;
        self.restore_scaler().await?;
        let template = look.stable.as_ref().map(|stable| stable["spec"]["template"].clone());
        self.ensure(Kind::Deployment, &release.deployment, |object| {
            let theirs = !super::template::same(&object["spec"]["template"], &release.template)
                && template
                    .as_ref()
                    .is_none_or(|template| !super::template::same(&object["spec"]["template"], template));
            if release.template_owner.is_some() || theirs || template.is_none() {
                // Not ours to put back: the Deployment waits, visibly, for the next revision.
                workload::leave_paused(object, &release)
            } else {
                workload::release_hold(object, &release, template.as_ref())
            }
        })
        .await?;
        self.disown().await
    }

    /// Takes the canary out of the routes: all to stable first, its backend once that is confirmed. True when done.
    async fn clear_routes(&mut self, look: &Look<'_>, forward: bool) -> Result<bool, PlatformError> {
        let release = Arc::clone(&self.release);
        let now = self.now();
        if forward {
            let mut pending = false;
            for part in &release.routes {
                let lane = Lane::new(&release, part);
                let is_there = |object: &Value| !lane.is_absent(object);
                let written = self
                    .ensure(part.kind.kind(), &part.name, |object| {
                        let rules = lane.with_split(object, &ALL_STABLE).ok()?;
                        is_there(object).then(|| workload::rules(object, &rules, Some(self.epoch)))?
                    })
                    .await?;
                pending |= written.is_some_and(|object| is_there(&object) && route::confirmed(&object).is_err());
            }
            self.confirmed.look((!pending).then(Vec::new), now);
            if !release.routes.is_empty() && !self.confirmed.lasted(PROPAGATION, now) {
                return Ok(false);
            }
        }
        let mut pending = false;
        for part in &release.routes {
            let lane = Lane::new(&release, part);
            let written = self
                .ensure(part.kind.kind(), &part.name, |object| {
                    workload::rules(object, &lane.restored(object), None)
                })
                .await?;
            pending |= written.is_some_and(|object| route::confirmed(&object).is_err());
        }
        self.cleared.look(pending.then(Vec::new), now);
        Ok(!pending || self.cleared.lasted(UNCONFIRMED, now) || look.anchors().is_empty())
    }

    async fn restore_scaler(&self) -> Result<(), PlatformError> {
        if let Some(scaler) = &self.release.scaler {
            self.ensure(scaler.kind.kind(), &scaler.name, workload::scaler_restored)
                .await?;
        }
        Ok(())
    }

    async fn remove_made(&self, look: &Look<'_>) -> Result<(), PlatformError> {
        for budget in look.budgets() {
            self.delete(Kind::PodDisruptionBudget, &budget).await?;
        }
        for (kind, anchor) in look.anchors() {
            self.delete(kind, &anchor).await?;
        }
        Ok(())
    }

    /// Nothing that stays belongs to Wade: the next server-side apply meets no conflict.
    async fn disown(&self) -> Result<(), PlatformError> {
        let release = &self.release;
        self.ensure(Kind::Deployment, &release.deployment, workload::unmarked)
            .await?;
        let mut objects = vec![(Kind::Deployment, release.deployment.clone())];
        objects.extend(release.services.iter().map(|service| (Kind::Service, service.clone())));
        objects.extend(release.routes.iter().map(|part| (part.kind.kind(), part.name.clone())));
        objects.extend(
            release
                .scaler
                .iter()
                .map(|scaler| (scaler.kind.kind(), scaler.name.clone())),
        );
        for (kind, name) in objects {
            self.ensure(kind, &name, workload::disowned).await?;
        }
        Ok(())
    }
}
