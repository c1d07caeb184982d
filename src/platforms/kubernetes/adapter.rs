//! Kubernetes as one release's controller drives it.
//!
//! Observing costs no request: everything is watched ([`View`]). Acting compares what should hold with what is and
//! writes the difference, step by step; what needs to be seen before the next step (endpoints, a route's status, an
//! adoption) is waited for by returning, since every change wakes the controller. See `steps` for what is written when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::Notify;

use super::look::{Continuity, Look, ready_facts, restarts};
use super::reach::Reach;
use super::release::{Isolation, Release, RouteKind, ScalerKind};
use super::{diagnosis, digest, workload};
use crate::apiserver::value::{is_ready, name, text};
use crate::apiserver::view::View;
use crate::apiserver::{ApiError, ApiServer, Fault, Kind, Patch, Selection};
use crate::clock::Clock;
use crate::engine::desired::instances;
use crate::engine::{Action, Diagnosis, Presence, World};
use crate::plan::{ALL_STABLE, SmokePlan, Split};
use crate::platforms::smoking::SmokeRuns;
use crate::platforms::{Platform, PlatformError};
use crate::smoke::SmokeTarget;

/// A watch that has been broken for this long means that nothing is known.
const TROUBLE_AFTER: Duration = Duration::from_secs(5);
/// How long all traffic must have been seen on stable before the canary's requests count as finished; pods that are
/// removed then still finish what they have by their own grace.
const DRAINED_AFTER: SignedDuration = SignedDuration::from_secs(3);
/// How often a write is tried again at once when somebody else was faster.
const CONFLICTS: usize = 6;

/// One release on a Deployment.
pub struct KubernetesPlatform {
    pub(super) api: ApiServer,
    pub(super) view: Arc<View>,
    pub(super) release: Arc<Release>,
    smoke_plan: SmokePlan,
    smoke: SmokeRuns,
    client: reqwest::Client,
    reach: Reach,
    clock: Arc<dyn Clock>,
    wake: Arc<Notify>,
    pub(super) epoch: u64,
    claimed: bool,
    was_held: bool,
    /// What was written last, by which whole pods are read as a split.
    wanted: Option<Split>,
    ready: Continuity,
    none_ready: Continuity,
    idle: Continuity,
    /// The canary's backend stands in every route, and the gateways have said so.
    pub(super) warm: Continuity,
    pub(super) joined: Continuity,
    /// The hand over has come to rest with a wrong number of new pods.
    pub(super) jammed: Continuity,
    pub(super) confirmed: Continuity,
    pub(super) cleared: Continuity,
    logs: BTreeMap<String, String>,
    asked_logs: BTreeSet<String>,
}

impl ScalerKind {
    /// The kind of object.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Hpa => Kind::HorizontalPodAutoscaler,
            Self::Keda => Kind::ScaledObject,
        }
    }
}

/// What has to be watched for a release.
pub fn watched(release: &Release, selector: Option<String>) -> Vec<(Kind, Selection)> {
    let mine = format!("{}={}", super::ROLLOUT, release.deployment);
    let mut what = vec![
        (Kind::Deployment, Selection::named(&release.deployment)),
        (Kind::ReplicaSet, selector.map(Selection::labels).unwrap_or_default()),
        (
            Kind::Pod,
            Selection::labels(format!("{} in ({},{})", super::HASH, release.stable, release.canary)),
        ),
        (Kind::Service, Selection::default()),
        (Kind::Event, Selection::fields("type=Warning")),
        (Kind::ConfigMap, Selection::labels(mine)),
    ];
    if !release.services.is_empty() {
        let names = release.services.join(",");
        let selector = format!("kubernetes.io/service-name in ({names})");
        what.push((Kind::EndpointSlice, Selection::labels(selector)));
    }
    for kind in [RouteKind::Http, RouteKind::Grpc] {
        if release.routes.iter().any(|route| route.kind == kind) {
            what.push((kind.kind(), Selection::default()));
        }
    }
    if let Some(scaler) = &release.scaler {
        what.push((scaler.kind.kind(), Selection::named(&scaler.name)));
    }
    if !release.budgets.is_empty() {
        what.push((Kind::PodDisruptionBudget, Selection::default()));
    }
    what
}

impl KubernetesPlatform {
    /// A release on what `view` watches; see [`watched`].
    pub fn new(
        api: ApiServer,
        view: Arc<View>,
        release: Release,
        smoke_plan: SmokePlan,
        client: reqwest::Client,
        reach: Reach,
        clock: Arc<dyn Clock>,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            api,
            view,
            release: Arc::new(release),
            smoke_plan,
            smoke: SmokeRuns::default(),
            client,
            reach,
            clock,
            wake,
            epoch: 0,
            claimed: false,
            was_held: false,
            wanted: None,
            ready: Continuity::default(),
            none_ready: Continuity::default(),
            idle: Continuity::default(),
            warm: Continuity::default(),
            joined: Continuity::default(),
            jammed: Continuity::default(),
            confirmed: Continuity::default(),
            cleared: Continuity::default(),
            logs: BTreeMap::new(),
            asked_logs: BTreeSet::new(),
        }
    }

    pub(super) fn wanted_split(&self) -> Option<&Split> {
        self.wanted.as_ref()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn presence(&mut self, look: &Look<'_>, now: Timestamp) -> Presence {
        let pods = &look.canary_pods;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count() as u32;
        let wanted = look
            .set
            .as_ref()
            .map_or(1, |set| crate::apiserver::value::count(set, "/spec/replicas"))
            .max(1);
        let all = (ready >= wanted && ready as usize == pods.len()).then(|| ready_facts(pods));
        // A node or control plane that is in trouble makes every pod unready: that says nothing against the canary.
        let stable_ready = look.stable_pods.iter().any(|pod| is_ready(pod)) || look.stable_pods.is_empty();
        let none = (ready == 0 && !pods.is_empty() && stable_ready).then(Vec::new);
        let events = self.view.list(Kind::Event);
        let led = self.wanted.as_ref().is_some_and(Split::reaches_canary);
        Presence {
            exists: if led && look.is_lost() {
                // Back before they are gone: they serve a little longer, a new set's pods would serve too late.
                0
            } else {
                Look::exists(look.set.as_ref().filter(|_| !look.is_given()), pods)
            },
            full: look.full(),
            ready,
            ready_since: self.ready.look(all, now),
            none_ready_since: self.none_ready.look(none, now),
            restarts: pods.iter().map(|pod| restarts(pod)).sum(),
            drained: self.idle.lasted(DRAINED_AFTER, now),
            diagnosis: digest::wrong(&self.release.digests, pods).or_else(|| {
                look.set
                    .as_ref()
                    .and_then(|set| diagnosis::diagnose(set, pods, &events, &self.logs, now))
                    // While the Deployment rolls, a pod that is leaving still counts; its controller tries again.
                    .map(|found| Diagnosis {
                        fatal: found.fatal && !(look.was_given() && found.kind == diagnosis::QUOTA_EXCEEDED),
                        ..found
                    })
            }),
        }
    }

    /// Fetches the last words of containers that ended; each is asked for once per run.
    async fn read_logs(&mut self, pods: &[Arc<Value>]) {
        for wanted in diagnosis::wants_log(pods) {
            let run = format!("{}/{}/{}", wanted.pod, wanted.container, wanted.run);
            if !self.asked_logs.insert(run) {
                continue;
            }
            // Without the permission, or when it is gone already, the diagnosis says what it knows without it.
            if let Ok(text) = self.api.log(&wanted.pod, &wanted.container, wanted.previous, 20).await {
                self.logs.insert(wanted.pod, text);
            }
        }
    }

    fn begin_smoke(&self, look: &Look<'_>) {
        if !self.smoke.is_due(&self.smoke_plan) {
            return;
        }
        let port = self.release.port.unwrap_or(80);
        let targets: Vec<SmokeTarget> = look
            .canary_pods
            .iter()
            .filter(|pod| is_ready(pod))
            .filter_map(|pod| {
                let way = self.reach.way(name(pod), text(pod, "/status/podIP"), port)?;
                Some(SmokeTarget {
                    name: name(pod).to_owned(),
                    address: way.address,
                    prefix: way.prefix,
                })
            })
            .collect();
        let wanted = look
            .set
            .as_ref()
            .map_or(1, |set| crate::apiserver::value::count(set, "/spec/replicas"));
        self.smoke
            .begin(&self.smoke_plan, targets, wanted, &self.client, &self.wake);
    }

    /// Makes a change of an object that `change` works out from its present version; looks again and works it out anew
    /// when somebody else was faster. `None` if there is no such object.
    pub(super) async fn ensure(
        &self,
        kind: Kind,
        name: &str,
        change: impl Fn(&Value) -> Option<Patch> + Send + Sync,
    ) -> Result<Option<Arc<Value>>, PlatformError> {
        let mut object = match self.view.get(kind, name) {
            Some(object) => object,
            None => match self.api.get(kind, name).await.map_err(refusal)? {
                Some(object) => Arc::new(object),
                None => return Ok(None),
            },
        };
        for _ in 0..CONFLICTS {
            let Some(patch) = change(&object) else {
                return Ok(Some(object));
            };
            match self.api.patch(kind, name, &patch).await {
                Ok(written) => {
                    self.view.put(kind, written.clone());
                    return Ok(Some(Arc::new(written)));
                }
                Err(error) if error.is_conflict() => {
                    self.fence().await?;
                    match self.api.get(kind, name).await.map_err(refusal)? {
                        Some(fresh) => {
                            self.view.put(kind, fresh.clone());
                            object = Arc::new(fresh);
                        }
                        None => {
                            self.view.gone(kind, name);
                            return Ok(None);
                        }
                    }
                }
                Err(error) if error.is_not_found() => {
                    self.view.gone(kind, name);
                    return Ok(None);
                }
                Err(error) => return Err(refusal(error)),
            }
        }
        Err(PlatformError::Unreachable(format!(
            "{} {name} is being changed by others all the time; trying again",
            kind.word()
        )))
    }

    /// Creates an object unless it is there.
    pub(super) async fn create(&self, kind: Kind, object: &Value) -> Result<Arc<Value>, PlatformError> {
        if let Some(there) = self.view.get(kind, name(object)) {
            return Ok(there);
        }
        match self.api.create(kind, object).await {
            Ok(created) => {
                self.view.put(kind, created.clone());
                Ok(Arc::new(created))
            }
            Err(ApiError {
                fault: Fault::Exists, ..
            }) => {
                let there = self.api.get(kind, name(object)).await.map_err(refusal)?;
                there.map(Arc::new).ok_or_else(|| {
                    PlatformError::Unreachable(format!(
                        "{} {} is just being removed; trying again",
                        kind.word(),
                        name(object)
                    ))
                })
            }
            Err(error) => Err(refusal(error)),
        }
    }

    /// Deletes an object that is there.
    pub(super) async fn delete(&self, kind: Kind, object: &Value) -> Result<(), PlatformError> {
        self.api
            .delete(kind, name(object), Some(crate::apiserver::value::uid(object)))
            .await
            .map_err(refusal)?;
        self.view.gone(kind, name(object));
        Ok(())
    }

    /// Whether a holder with a higher epoch has written the Deployment; asked of the server itself.
    async fn fence(&self) -> Result<(), PlatformError> {
        if let Ok(Some(deployment)) = self.api.get(Kind::Deployment, &self.release.deployment).await {
            self.view.put(Kind::Deployment, deployment.clone());
            self.admits(&deployment)?;
        }
        Ok(())
    }

    fn admits(&self, object: &Value) -> Result<(), PlatformError> {
        let theirs = workload::epoch(object);
        if theirs > self.epoch {
            return Err(PlatformError::Fenced {
                ours: self.epoch,
                theirs,
            });
        }
        Ok(())
    }

    /// The first write of a holder: its epoch stands on what it is going to write, so that the one before is refused.
    async fn claim(&mut self) -> Result<(), PlatformError> {
        if self.claimed {
            return Ok(());
        }
        let epoch = self.epoch;
        let marked = |object: &Value| workload::epoch(object) > 0;
        self.ensure(Kind::Deployment, &self.release.deployment, |object| {
            marked(object).then(|| workload::claim(object, epoch))?
        })
        .await?;
        for part in &self.release.routes {
            self.ensure(part.kind.kind(), &part.name, |object| {
                marked(object).then(|| workload::claim(object, epoch))?
            })
            .await?;
        }
        self.claimed = true;
        Ok(())
    }
}

#[async_trait]
impl Platform for KubernetesPlatform {
    async fn observe(&mut self) -> Result<World, PlatformError> {
        if let Some(error) = self.view.trouble(TROUBLE_AFTER) {
            return Err(refusal(error));
        }
        let now = self.now();
        let view = Arc::clone(&self.view);
        let release = Arc::clone(&self.release);
        let look = Look::new(&view, &release);
        if let Some(deployment) = &look.deployment {
            if self.epoch > 0 {
                self.admits(deployment)?;
            }
            self.was_held |= workload::held(deployment).is_some_and(|held| held.number == release.number);
        }
        self.was_held |= look.set.is_some() && !release.takes_over;
        self.read_logs(&look.canary_pods).await;
        let route = look.split(self.wanted.as_ref());
        self.idle.look((route.split == Some(ALL_STABLE)).then(Vec::new), now);
        let warm = look.is_warm(self.warm.has_begun());
        self.warm.look(warm.then(Vec::new), now);
        let canary = self.presence(&look, now);
        let stable_ready = look.stable_pods.iter().filter(|pod| is_ready(pod)).count() as u32;
        let stable_exists = Look::exists(look.stable.as_ref(), &look.stable_pods);
        let stable = Presence {
            exists: stable_exists,
            full: look.full(),
            ready: stable_ready,
            drained: stable_exists == 0,
            ..Presence::default()
        };
        Ok(World {
            adopted: look.is_adopted(),
            restored: look.is_restored(),
            interference: look.interference(self.was_held),
            smoke: self.smoke.report(),
            hooks: None,
            canary,
            stable,
            route,
        })
    }

    async fn apply(&mut self, action: &Action, epoch: u64) -> Result<(), PlatformError> {
        self.epoch = self.epoch.max(epoch);
        if epoch < self.epoch {
            return Err(PlatformError::Fenced {
                ours: epoch,
                theirs: self.epoch,
            });
        }
        self.claim().await?;
        let view = Arc::clone(&self.view);
        let release = Arc::clone(&self.release);
        let look = Look::new(&view, &release);
        if let Some(deployment) = &look.deployment {
            self.admits(deployment)?;
        }
        match action {
            // It rolls, as it should.
            Action::Hold if look.was_given() => Ok(()),
            Action::Hold => self.hold(&look).await,
            Action::Canary { capacity } => {
                // Past the point of no return its size is the Deployment's business.
                if look.is_given() || look.is_handed() {
                    return Ok(());
                }
                self.canary(&look, instances(*capacity, look.full())).await
            }
            Action::Route(split) if release.rolling && split.weight.is_full() => {
                self.wanted = Some(split.clone());
                self.roll(&look).await
            }
            Action::Route(split) => {
                if look.is_given() && !(release.rolling && *split == ALL_STABLE) {
                    return Ok(());
                }
                self.wanted = Some(split.clone());
                if *split == ALL_STABLE && self.roll_back(&look).await? {
                    // Without a route its pods serve until they go: taking them away at once would leave too few.
                    return if release.routes.is_empty() {
                        Ok(())
                    } else {
                        self.divide(&look, split).await
                    };
                }
                self.divide(&look, split).await?;
                if *split == ALL_STABLE {
                    self.brake(&look).await
                } else {
                    Ok(())
                }
            }
            Action::Smoke => {
                self.begin_smoke(&look);
                Ok(())
            }
            // They run beside the platform; see `hooking`.
            Action::Hooks(_) => Ok(()),
            Action::Adopt => self.adopt(&look).await,
            Action::Retire => self.retire(&look).await,
            Action::RemoveCanary => self.remove_canary(&look).await,
            Action::Restore => self.restore(&look).await,
        }
    }
}

/// A failure of the API server as the controller understands it.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
pub(super) fn refusal(error: ApiError) -> PlatformError {
    if error.is_passing() {
        PlatformError::Unreachable(error.to_string())
    } else {
        PlatformError::Refused(error.to_string())
    }
}

/// Whether the canary is isolated by pinning the Services.
pub(super) fn pins(release: &Release) -> bool {
    release.isolation == Isolation::Pin
}
