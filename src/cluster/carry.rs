//! Carrying a release: hold the rollout's Lease, and drive the controller until the release is over or lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::confine::OnlyAllowed;
use super::door::running;
use super::{Carrying, Cluster, NOTICES, told};
use crate::apiserver::view::View;
use crate::apiserver::{ApiServer, Kind};
use crate::clock::{Clock, stopwatch};
use crate::controller::{Controller, Notice, Pass, Urgent};
use crate::daemon::api::{Problem, ProblemKind};
use crate::engine::Command;
use crate::judge::HistoryRecorder;
use crate::notify::{self, Message, Patience, Secrets, Told};
use crate::platforms::hooking::Hooking;
use crate::platforms::kubernetes::Release;
use crate::platforms::kubernetes::adapter::{KubernetesPlatform, watched};
use crate::platforms::kubernetes::hooks::KubernetesHooks;
use crate::platforms::kubernetes::reach::Reach;
use crate::platforms::kubernetes::signals::KubernetesSignals;
use crate::store::configmap::ConfigMapStore;
use crate::store::lease::{Claim, Held, Lease, LeaseError, Manner};
use crate::store::{ReleaseKey, ReleaseRecord, Store, StoreError, Update};
use crate::telemetry::meters::Metered;
use crate::telemetry::{self, EventSink};

/// How long everything may take to be listed once.
const SYNC_WITHIN: Duration = Duration::from_secs(20);
/// How long a Lease of somebody who seems to be dead is watched before it is taken.
const LEASE_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LEASE_LOOK: Duration = Duration::from_millis(500);

/// How long what observed a release may take to be done when it is over.
const OBSERVED_WITHIN: Duration = Duration::from_secs(6);

/// How long somebody else's Lease is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Until it is stale.
    Dead,
    /// Until it is stale, or its holder carries a release.
    Releasing,
}

impl Cluster {
    /// The rollout's Lease as this process has seen it so far: whether its holder is dead takes two looks.
    fn lease(&self, rollout: &str) -> Arc<Lease> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = leases
            .entry(rollout.to_owned())
            .or_insert_with(|| Arc::new(Lease::new(&self.api, rollout, Arc::clone(&self.clock))));
        Arc::clone(lease)
    }

    /// Whether nobody carries the rollout's release: its Lease has been given back or has gone stale.
    pub(super) async fn is_abandoned(&self, rollout: &str) -> Result<bool, Problem> {
        if self.carried(|carrying| carrying.key.rollout == rollout && !carrying.task.is_finished()) == Some(true) {
            return Ok(false);
        }
        self.lease(rollout).is_free().await.map_err(|error| told(&error))
    }

    /// Whether a process that lives carries the rollout's release; takes until its Lease is renewed or goes stale.
    pub(super) async fn is_in_living_hands(&self, rollout: &str) -> Result<bool, Problem> {
        self.lease(rollout).is_kept().await.map_err(|error| told(&error))
    }

    /// Takes the Lease and makes the record's writes ours; waits for a Lease that has not been renewed lately to go stale.
    pub(super) async fn take_lease(&self, store: &ConfigMapStore, rollout: &str) -> Result<Arc<Held>, Problem> {
        loop {
            if let Some(held) = self.wait_for_lease(store, rollout, Until::Dead).await? {
                return Ok(held);
            }
        }
    }

    /// The Lease for a new release; `None` once another release runs, whose turn it is then.
    pub(super) async fn lease_for_new(
        &self,
        store: &ConfigMapStore,
        rollout: &str,
    ) -> Result<Option<Arc<Held>>, Problem> {
        self.wait_for_lease(store, rollout, Until::Releasing).await
    }

    async fn wait_for_lease(
        &self,
        store: &ConfigMapStore,
        rollout: &str,
        until: Until,
    ) -> Result<Option<Arc<Held>>, Problem> {
        let lease = self.lease(rollout);
        let watch = stopwatch();
        loop {
            let holder = match lease
                .hold(store, &self.identity, Manner::IfFree)
                .await
                .map_err(not_taken)?
            {
                Claim::Held(held) => return Ok(Some(Arc::new(held))),
                Claim::HeldBy(holder) => holder,
            };
            if until == Until::Releasing && running(store).await?.is_some() {
                return Ok(None);
            }
            if watch.elapsed() > LEASE_WITHIN {
                return Err(Problem::new(
                    ProblemKind::Conflict,
                    format!(
                        "{rollout} is in the hands of {holder}, which is alive; `wade status deployment/{rollout} -w` follows what it does"
                    ),
                ));
            }
            tokio::time::sleep(LEASE_LOOK).await;
        }
    }

    /// Goes on with a release that somebody else carried; by force if they still hold the Lease.
    pub(super) async fn carry_on(
        self: &Arc<Self>,
        store: &ConfigMapStore,
        record: ReleaseRecord,
        force: bool,
    ) -> Result<(), Problem> {
        self.carry_on_with(store, record, force, None).await
    }

    /// As [`Self::carry_on`], with a command that could not be written down.
    pub(super) async fn carry_on_with(
        self: &Arc<Self>,
        store: &ConfigMapStore,
        record: ReleaseRecord,
        force: bool,
        urgent: Option<Command>,
    ) -> Result<(), Problem> {
        let rollout = record.key.rollout.clone();
        let lease = if force {
            let taken = self.lease(&rollout).hold(store, &self.identity, Manner::Force).await;
            match taken.map_err(not_taken)? {
                Claim::Held(held) => Arc::new(held),
                Claim::HeldBy(holder) => {
                    return Err(Problem::new(
                        ProblemKind::Unavailable,
                        format!("{holder} keeps taking the Lease of {rollout} back; trying again may help"),
                    ));
                }
            }
        } else {
            self.take_lease(store, &rollout).await?
        };
        // Whoever held it may have gone on until the very moment it was taken.
        let record = match store.load(&record.key).await {
            Ok(record) => record,
            // Going back waits for nothing.
            Err(_) if urgent.is_some() => record,
            Err(error) => return Err(Problem::unavailable(error)),
        };
        if record.state.outcome().is_some() {
            // It is no fault to keep it until it runs out.
            let _ = lease.release().await;
            return Ok(());
        }
        let key = record.key.clone();
        self.carry(lease, record).await?;
        if let Some(command) = urgent {
            self.carried(|carrying| carrying.urgent.set(&key, command));
        }
        Ok(())
    }

    /// Goes on with a release that nobody carries any more, as its record says: its key. `None` if there is none, or
    /// somebody who lives has it.
    ///
    /// # Errors
    /// The record or the Lease cannot be read or taken.
    pub async fn take_up(self: &Arc<Self>, name: &str) -> Result<Option<ReleaseKey>, Problem> {
        let store = self.store(name);
        let Some(record) = running(&store).await? else {
            return Ok(None);
        };
        if !self.is_abandoned(name).await? {
            return Ok(None);
        }
        let key = record.key.clone();
        self.carry_on(&store, record, false).await?;
        Ok(Some(key))
    }

    /// Stops driving what this process carries, between two passes, and gives its Lease back; users stay where they are.
    /// Whoever takes the Lease goes on with all the evidence.
    pub async fn let_go(&self) {
        let carrying = self.carrying.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(carrying) = carrying {
            carrying.stop.cancel();
            // What it came to is in the record.
            let _ = carrying.task.await;
        }
    }

    /// Drives `record`'s release in the background, holding `lease`.
    pub(super) async fn carry(self: &Arc<Self>, lease: Arc<Held>, mut record: ReleaseRecord) -> Result<(), Problem> {
        let mut release: Release = serde_json::from_value(record.canary.workload.clone()).map_err(|error| {
            Problem::new(
                ProblemKind::Unavailable,
                format!("the record of {} does not say how to go on ({error})", record.key),
            )
        })?;
        release.number = record.key.number;
        let wake = Arc::new(Notify::new());
        let store = ConfigMapStore::watch(&self.api, &record.key.rollout, Arc::clone(&wake))
            .await
            .map_err(Problem::unavailable)?;
        store
            .take_over(lease.epoch(), &self.identity)
            .await
            .map_err(Problem::unavailable)?;
        let (notices, _) = broadcast::channel(NOTICES);
        let (urgent, stop) = (Urgent::default(), CancellationToken::new());
        let key = record.key.clone();
        if let Some(command) = self.confine(&mut record) {
            urgent.set(&key, command);
        }
        let drive = Drive {
            cluster: Arc::clone(self),
            lease,
            store: Arc::new(store),
            release,
            notices,
            urgent: urgent.clone(),
            stop: stop.clone(),
            wake,
        };
        let told = drive.notices.downgrade();
        let task = tokio::spawn(drive.run(record));
        let carrying = Carrying {
            key,
            notices: told,
            urgent,
            stop,
            task,
        };
        *self.carrying.lock().unwrap_or_else(PoisonError::into_inner) = Some(carrying);
        Ok(())
    }
}

fn not_taken(error: LeaseError) -> Problem {
    match error {
        LeaseError::Api(error) => told(&error),
        LeaseError::Store(error) => Problem::unavailable(error),
    }
}

/// Everything one release is driven with.
struct Drive {
    cluster: Arc<Cluster>,
    lease: Arc<Held>,
    store: Arc<ConfigMapStore>,
    release: Release,
    notices: broadcast::Sender<Notice>,
    urgent: Urgent,
    stop: CancellationToken,
    wake: Arc<Notify>,
}

impl Drive {
    async fn run(self, record: ReleaseRecord) -> Option<Pass> {
        let key = record.key.clone();
        let telling = self.tell(&record);
        let observing = self.observe(&record);
        let lost = self.lease.lost();
        let end = tokio::select! {
            end = self.go(record) => end,
            () = lost.cancelled() => Some(Pass::Fenced),
        };
        match &end {
            // Let go of: whoever takes the Lease next goes on.
            None | Some(Pass::Over(_)) => {
                // If it cannot be given back it runs out by itself.
                let _ = self.lease.release().await;
            }
            Some(Pass::Fenced) => self.say(
                &key,
                "another wade has taken this release over; this one has stopped".to_owned(),
            ),
            Some(Pass::Again(_)) => {}
        }
        if let Some(observing) = observing.filter(|_| matches!(end, Some(Pass::Over(_)))) {
            // It keeps its own time; this is for what it was not told.
            let _ = tokio::time::timeout(OBSERVED_WITHIN, observing).await;
        }
        if let Some(telling) = telling {
            if matches!(end, Some(Pass::Over(_))) {
                let late = telling.await.unwrap_or_default();
                if let Some(telemetry) = &self.cluster.options.telemetry {
                    late.iter().for_each(|_| telemetry.untold());
                }
                self.cluster
                    .late
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(late);
            } else {
                telling.abort();
            }
        }
        end
    }

    /// Tells whom the plan names, beside the release.
    fn tell(&self, record: &ReleaseRecord) -> Option<JoinHandle<Vec<String>>> {
        if record.plan.notify.is_empty() {
            return None;
        }
        let told = Told {
            wanted: record.plan.notify.clone(),
            secrets: Arc::new(OnlyAllowed {
                secrets: InNamespace(self.cluster.api.clone()),
                confined: self.cluster.options.confined.clone(),
            }),
            client: self.cluster.client.clone(),
            patience: Patience::default(),
        };
        let about = Message::about(record, Some(self.cluster.namespace()));
        let (key, notices, clock) = (
            record.key.clone(),
            // What only tells must not keep the channel open for those who listen whether anybody drives.
            self.notices.downgrade(),
            Arc::clone(&self.cluster.clock),
        );
        let telemetry = self.cluster.options.telemetry.clone();
        let early = move |message: String| {
            if let Some(telemetry) = &telemetry {
                telemetry.untold();
            }
            if let Some(notices) = notices.upgrade() {
                // Nobody listening is no fault.
                let _ = notices.send(Notice::Trouble {
                    key: key.clone(),
                    at: clock.now(),
                    message,
                });
            }
        };
        Some(tokio::spawn(notify::follow(
            about,
            self.notices.subscribe(),
            told,
            early,
        )))
    }

    /// Counts the release and tells the cluster of it, beside it.
    fn observe(&self, record: &ReleaseRecord) -> Option<JoinHandle<()>> {
        let telemetry = self.cluster.options.telemetry.clone()?;
        let about = telemetry::About {
            namespace: Some(self.cluster.namespace().to_owned()),
            record: record.clone(),
        };
        let events = EventSink::on(self.cluster.api.clone(), &self.release.deployment);
        // Only a daemon is sure to have the right to look whether there is one.
        let events = match self.cluster.options.confined {
            Some(_) => events.and_on_rollout(&record.key.rollout),
            None => events,
        };
        let following = telemetry::follow(telemetry, about, self.notices.subscribe(), Some(events));
        Some(tokio::spawn(following))
    }

    fn say(&self, key: &ReleaseKey, message: String) {
        // Nobody listening is no fault.
        let _ = self.notices.send(Notice::Trouble {
            key: key.clone(),
            at: self.cluster.clock.now(),
            message,
        });
    }

    async fn go(&self, record: ReleaseRecord) -> Option<Pass> {
        let cluster = &self.cluster;
        let key = record.key.clone();
        let selector = self.selector().await;
        let view = loop {
            let view = View::start(
                &cluster.api,
                &watched(&self.release, selector.clone()),
                Arc::clone(&self.wake),
            );
            match view.synced(SYNC_WITHIN).await {
                Ok(()) => break Arc::new(view),
                Err(error) => self.say(&key, error.to_string()),
            }
        };
        let reach = loop {
            match Reach::open(&cluster.api).await {
                Ok(reach) => break reach,
                Err(error) => {
                    self.say(&key, format!("no listener on loopback: {error}"));
                    tokio::time::sleep(LEASE_LOOK).await;
                }
            }
        };
        let platform = KubernetesPlatform::new(
            cluster.api.clone(),
            Arc::clone(&view),
            self.release.clone(),
            record.plan.smoke.clone(),
            cluster.client.clone(),
            reach.clone(),
            Arc::clone(&cluster.clock),
            Arc::clone(&self.wake),
        );
        let hooks = KubernetesHooks::new(
            cluster.api.clone(),
            self.release.clone(),
            &record.plan.hooks,
            self.lease.epoch(),
        );
        let platform = Hooking::new(platform, Box::new(hooks));
        let signals = KubernetesSignals::new(
            view,
            self.release.clone(),
            reach,
            &record.plan.measure,
            &record.plan.history,
            &cluster.client,
            &cluster.clock,
        )
        .waking(record.plan.look, &self.wake);
        // A step that ends keeps nothing: what it knows of stable is what it sees itself, or what Prometheus remembers.
        let history = HistoryRecorder::new(record.plan.history.block.as_secs_f64());
        let history = Arc::new(Mutex::new(history));
        let notices = self.notices.clone();
        let store = Guarded {
            store: Arc::clone(&self.store),
            lease: Arc::clone(&self.lease),
            clock: Arc::clone(&cluster.clock),
        };
        let telemetry = cluster.options.telemetry.clone();
        let store: Arc<dyn Store> = match &telemetry {
            Some(telemetry) => Arc::new(Metered::new(Arc::new(store), Arc::clone(telemetry))),
            None => Arc::new(store),
        };
        let mut controller = Controller::new(
            record,
            self.lease.epoch(),
            history,
            platform,
            signals,
            store,
            Arc::clone(&cluster.clock),
            Box::new(move |notice| {
                // Nobody listening is no fault.
                let _ = notices.send(notice);
            }),
        )
        .with_urgent(self.urgent.clone())
        .with_judge_writes_every(jiff::SignedDuration::from_secs(4))
        .with_looks(Box::new(move |took| {
            if let Some(telemetry) = &telemetry {
                telemetry.looked(took);
            }
        }));
        controller.run_until(&self.wake, self.stop.cancelled()).await
    }

    /// The labels by which the Deployment's ReplicaSets are watched; everything where that cannot be said simply.
    async fn selector(&self) -> Option<String> {
        let kind = Kind::Deployment;
        let deployment = self.cluster.api.get(kind, &self.release.deployment).await.ok()??;
        let selector = deployment.pointer("/spec/selector")?;
        if selector.get("matchExpressions").is_some() {
            return None;
        }
        let pairs = selector.get("matchLabels")?.as_object()?;
        let words: Vec<String> = pairs
            .iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
            .collect();
        Some(words.join(","))
    }
}

/// Secrets of the namespace.
struct InNamespace(ApiServer);

#[async_trait]
impl Secrets for InNamespace {
    async fn url(&self, secret: &str) -> Result<String, String> {
        let object = self
            .0
            .get(Kind::Secret, secret)
            .await
            .map_err(|error| error.to_string())?;
        let object = object.ok_or_else(|| format!("there is no Secret {secret}"))?;
        let data = object.pointer("/data/url").cloned().ok_or("it has no key `url`")?;
        let bytes: k8s_openapi::ByteString = serde_json::from_value(data).map_err(|_| "its `url` is no base64")?;
        String::from_utf8(bytes.0).map_err(|_| "its `url` is no text".to_owned())
    }
}

/// The record, as long as the Lease is ours without doubt: a holder that could not renew it in time must not go forward,
/// because somebody else may. Going back needs no record.
struct Guarded {
    store: Arc<ConfigMapStore>,
    lease: Arc<Held>,
    clock: Arc<dyn Clock>,
}

impl Guarded {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

#[async_trait]
impl Store for Guarded {
    async fn record(&self, key: &ReleaseKey, epoch: u64, update: &Update) -> Result<(), StoreError> {
        if !self.lease.is_fresh(self.now()) {
            return Err(StoreError::Unavailable {
                what: "written",
                why: "the Lease could not be renewed in time, so somebody else may be carrying this release".to_owned(),
            });
        }
        self.store.record(key, epoch, update).await
    }

    async fn commands(&self, key: &ReleaseKey, handled: u64) -> Result<Vec<Command>, StoreError> {
        self.store.commands(key, handled).await
    }

    async fn load(&self, key: &ReleaseKey) -> Result<ReleaseRecord, StoreError> {
        self.store.load(key).await
    }
}
