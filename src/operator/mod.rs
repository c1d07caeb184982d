//! The daemon of a cluster: `wade serve --cluster`.
//!
//! A Rollout object says how a Deployment is released. Whoever changes the Deployment's template then (kubectl, Helm, a
//! GitOps tool, `wade deploy`), the change waits, paused in the very write that made it, until the operator has released
//! it. It is the same step that `wade deploy` runs by itself ([`crate::cluster`]), with the same record and the same
//! Lease, so either can go on with what the other began, at any moment.
//!
//! In reading order: [`fleet`] (what is watched, as small as it can be), [`consider`] (what is to be done about one
//! Deployment: a plain function), [`work`] (doing it), [`status`] (what the objects say), [`leader`] (which of several
//! daemons begins), [`desk`] (what the API asks), [`probes`] (whether it lives). It decides nothing about a release: the engine does.

pub mod consider;
pub mod desk;
pub mod fleet;
pub mod leader;
pub mod probes;
pub mod status;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::apiserver::{ApiError, ApiServer, Kind, Meter};
use crate::clock::{Clock, stopwatch};
use crate::cluster::Cluster;
use crate::platforms::kubernetes::HOLD_POLICY;
use crate::spec::targets::AllowedHosts;
use crate::telemetry::Telemetry;
use consider::{HoldMode, Looked, Memory, Next};
use fleet::{At, Fleet};
use leader::Leadership;

/// How often the loop turns when nothing happens.
const TURN: Duration = Duration::from_secs(1);
/// A loop that has not turned for this long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(30);
/// A template that was refused is looked at again after this: what stood in its way may be gone.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// How long releases may take to be let go of when the process is asked to end.
const LET_GO_WITHIN: Duration = Duration::from_secs(8);

/// How a daemon works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who this process is among several.
    pub identity: String,
    /// Hosts outside of a Rollout's own namespace that may be asked.
    pub hosts: AllowedHosts,
    /// How changes by others are held; found out if not said.
    pub hold: Option<HoldMode>,
    /// Releases at once, in all.
    pub most_releases: usize,
    /// Releases at once in one namespace.
    pub most_per_namespace: usize,
}

/// The daemon of a cluster.
pub struct Operator {
    /// Where Wade's own objects are.
    home: ApiServer,
    /// What is looked after: everything, or one namespace.
    place: ApiServer,
    settings: Settings,
    clock: Arc<dyn Clock>,
    telemetry: Arc<Telemetry>,
    fleet: Fleet,
    leads: AtomicBool,
    mode: Mutex<HoldMode>,
    state: Mutex<State>,
    turned: Mutex<Instant>,
}

#[derive(Default)]
struct State {
    looked: BTreeMap<At, (String, Looked, Instant)>,
    work: BTreeMap<At, BTreeMap<String, Work>>,
    /// Deployments whose release waits for others to end.
    waiting: BTreeSet<At>,
}

/// Something that is being done about a Deployment.
#[derive(Default)]
struct Work {
    /// The cluster as this work sees it, with what it carries.
    cluster: Option<Arc<Cluster>>,
    /// It may become a release, or is one.
    counts: bool,
}

impl Operator {
    /// A daemon whose watches have begun. `place` is the cluster as it is looked after (an empty namespace means all of
    /// it), `home` the same cluster with the namespace that Wade lives in. Must be called inside a tokio runtime.
    pub fn start(
        home: ApiServer,
        place: ApiServer,
        settings: Settings,
        telemetry: Arc<Telemetry>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        // Whatever is asked, watches included, is counted; and a standby says that it is one.
        let metered = |api: ApiServer| api.metered(Arc::clone(&telemetry) as Arc<dyn Meter>);
        let (home, place) = (metered(home), metered(place));
        telemetry.leads(false);
        Arc::new(Self {
            fleet: Fleet::start(&place),
            home,
            place,
            settings,
            telemetry,
            clock,
            leads: AtomicBool::new(false),
            mode: Mutex::new(HoldMode::Paused),
            state: Mutex::default(),
            turned: Mutex::new(stopwatch()),
        })
    }

    /// Takes its turn as leader whenever it can, until `stop`; then everything is let go of.
    pub async fn run(self: &Arc<Self>, stop: CancellationToken) {
        let leadership = Leadership::watch(&self.home, &self.settings.identity, Arc::clone(&self.clock));
        let turning = tokio::spawn(Arc::clone(self).keep_turning(stop.clone()));
        while !stop.is_cancelled() {
            let acquired = async {
                // One that does not see would begin nothing, and keep another from it.
                self.fleet.synced().await;
                leadership
                    .acquire(|error| tracing::warn!(%error, "the Lease of the leader cannot be asked for"))
                    .await
            };
            let held = tokio::select! {
                held = acquired => held,
                () = stop.cancelled() => break,
            };
            tracing::info!(identity = self.settings.identity, epoch = held.epoch(), "leading");
            self.leads.store(true, Ordering::Release);
            self.telemetry.leads(true);
            self.look_for_policy().await;
            self.fleet.mark_all();
            let lost = held.lost();
            tokio::select! {
                () = self.lead() => {}
                () = lost.cancelled() => tracing::warn!("another daemon leads now; what runs here is carried to its end"),
                () = stop.cancelled() => {}
            }
            self.leads.store(false, Ordering::Release);
            self.telemetry.leads(false);
            if stop.is_cancelled() {
                // Both at once: the next leader looks for what nobody carries as soon as it leads.
                let (_, ()) = tokio::join!(held.release(), self.let_go());
            }
        }
        // A standby may carry what it began when it led.
        self.let_go().await;
        turning.abort();
    }

    /// Whether this daemon begins releases.
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    /// Whether it sees everything, or why not.
    ///
    /// # Errors
    /// One sentence.
    pub fn is_ready(&self) -> Result<(), String> {
        if !self.fleet.is_synced() {
            let why = self
                .fleet
                .trouble()
                .map(|error| format!(": {error}"))
                .unwrap_or_default();
            return Err(format!("not everything has been listed yet{why}"));
        }
        self.fleet.trouble().map_or(Ok(()), |error| Err(error.to_string()))
    }

    /// Whether the loop turns.
    pub fn is_alive(&self) -> bool {
        self.turned.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < HANGS_AFTER
    }

    /// What machines are told.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        let (synced, broken) = self.fleet.watches();
        self.telemetry.watches(synced, broken);
        &self.telemetry
    }

    /// A standby turns too: its probes say that it lives.
    async fn keep_turning(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if !self.leads() {
                self.turn();
            }
            tokio::time::sleep(TURN).await;
        }
    }

    fn turn(&self) {
        *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = stopwatch();
    }

    async fn lead(self: &Arc<Self>) {
        loop {
            self.turn();
            for at in self.fleet.take_dirty() {
                self.look_at(&at);
            }
            // A timeout is the usual end of the wait.
            let _ = tokio::time::timeout(TURN, self.fleet.changed()).await;
            self.look_again();
        }
    }

    /// Puts what may have become possible by waiting back into the queue.
    fn look_again(&self) {
        let mut state = self.state();
        let over: Vec<At> = state
            .looked
            .iter()
            .filter(|(_, (_, looked, at))| *looked == Looked::Refused && at.elapsed() >= REFUSED_FOR)
            .map(|(at, _)| at.clone())
            .collect();
        for at in &over {
            state.looked.remove(at);
        }
        drop(state);
        if !over.is_empty() {
            self.fleet.mark(over);
        }
    }

    /// Does what is to be done about one Deployment, in the background.
    fn look_at(self: &Arc<Self>, at: &At) {
        let policies = self.fleet.policies(at);
        for (name, ask) in self.fleet.asks(at) {
            if ask.pending {
                self.begin(at, &format!("release {name}"), true, |operator, at| async move {
                    operator.follow_ask(&at, &name).await;
                });
            }
        }
        let Some(deployment) = self.fleet.deployment(at) else {
            self.begin(at, "missing", false, |operator, at| async move {
                operator.say_missing(&at).await;
            });
            return;
        };
        let memory = self.memory(at);
        let mode = self.mode();
        let next = consider::next(&policies, &deployment, &memory, mode);
        tracing::debug!(%at, ?next, ?memory, "considered");
        match next {
            Next::Rest => {
                if !memory.busy {
                    self.begin(at, "status", false, |operator, at| async move {
                        operator.say_resting(&at).await;
                    });
                }
            }
            Next::Adopt => self.begin(
                at,
                "adopt",
                false,
                |operator, at| async move { operator.adopt(&at).await },
            ),
            Next::LetGo => self.begin(
                at,
                "let go",
                false,
                |operator, at| async move { operator.disown(&at).await },
            ),
            Next::Pause => self.begin(
                at,
                "pause",
                false,
                |operator, at| async move { operator.pause(&at).await },
            ),
            Next::Resume => self.begin(
                at,
                "resume",
                false,
                |operator, at| async move { operator.resume(&at).await },
            ),
            Next::Release => self.begin(at, "held", true, |operator, at| async move {
                operator.release_held(&at).await;
            }),
            Next::TakeUp => self.begin(at, "take up", true, |operator, at| async move {
                Box::pin(operator.take_up(&at)).await;
            }),
        }
    }

    /// Begins a piece of work unless it is being done already or, for a release, too many others run.
    fn begin<F>(self: &Arc<Self>, at: &At, what: &str, counts: bool, work: impl FnOnce(Arc<Self>, At) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        {
            let mut state = self.state();
            if state.work.get(at).is_some_and(|works| works.contains_key(what)) {
                return;
            }
            // What a release holds already is looked after whatever the limits say.
            if counts && what != "take up" && !self.is_room(&state, at) {
                state.waiting.insert(at.clone());
                return;
            }
            let begun = Work { cluster: None, counts };
            state.work.entry(at.clone()).or_default().insert(what.to_owned(), begun);
        }
        let (operator, what, here) = (Arc::clone(self), what.to_owned(), at.clone());
        let doing = work(Arc::clone(self), at.clone());
        tokio::spawn(async move {
            doing.await;
            operator.done(&here, &what, counts);
        });
    }

    fn is_room(&self, state: &State, at: &At) -> bool {
        let running = |which: &dyn Fn(&At) -> bool| -> usize {
            let works = state.work.iter().filter(|(at, _)| which(at));
            works
                .flat_map(|(_, works)| works.values())
                .filter(|work| work.counts)
                .count()
        };
        running(&|_| true) < self.settings.most_releases
            && running(&|other: &At| other.namespace == at.namespace) < self.settings.most_per_namespace
    }

    fn done(&self, at: &At, what: &str, counts: bool) {
        let mut again = BTreeSet::new();
        {
            let mut state = self.state();
            if let Some(works) = state.work.get_mut(at) {
                works.remove(what);
                if works.is_empty() {
                    state.work.remove(at);
                }
            }
            if counts {
                again = std::mem::take(&mut state.waiting);
                again.insert(at.clone());
            }
        }
        if !again.is_empty() {
            self.fleet.mark(again);
        }
    }

    /// Remembers through which cluster a piece of work works, so that it can be let go of.
    fn works_through(&self, at: &At, what: &str, cluster: &Arc<Cluster>) {
        if let Some(work) = self.state().work.get_mut(at).and_then(|works| works.get_mut(what)) {
            work.cluster = Some(Arc::clone(cluster));
        }
    }

    /// Stops driving every release, so that another daemon can go on with it.
    async fn let_go(&self) {
        let all: Vec<Arc<Cluster>> = {
            let state = self.state();
            let works = state.work.values().flat_map(BTreeMap::values);
            works.filter_map(|work| work.cluster.clone()).collect()
        };
        let letting_go = futures_util::future::join_all(all.iter().map(|cluster| cluster.let_go()));
        if tokio::time::timeout(LET_GO_WITHIN, letting_go).await.is_err() {
            tracing::warn!("not every release could be let go of in time; their Leases run out by themselves");
        }
    }

    fn memory(&self, at: &At) -> Memory {
        let state = self.state();
        Memory {
            busy: state
                .work
                .get(at)
                .is_some_and(|works| works.values().any(|work| work.counts)),
            looked: state
                .looked
                .get(at)
                .map(|(template, looked, _)| (template.clone(), *looked)),
        }
    }

    fn remember(&self, at: &At, template: &str, looked: Looked) {
        let seen = (template.to_owned(), looked, stopwatch());
        self.state().looked.insert(at.clone(), seen);
    }

    fn mode(&self) -> HoldMode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How others' changes are held here: by the policy, if it is installed.
    async fn look_for_policy(&self) {
        if let Some(said) = self.settings.hold {
            *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = said;
            return;
        }
        let mut mode = HoldMode::Paused;
        // Which of the two a server knows depends on its version.
        for kind in [
            Kind::MutatingAdmissionPolicyBindingV1,
            Kind::MutatingAdmissionPolicyBinding,
        ] {
            match self.home.get(kind, HOLD_POLICY).await {
                Ok(Some(_)) => mode = HoldMode::Policy,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "it cannot be told whether the policy {HOLD_POLICY} is installed"),
            }
        }
        tracing::info!(?mode, "how changes by others are held");
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went wrong with an object, as one line of the log.
fn trouble(at: &At, what: &str, error: &ApiError) {
    tracing::warn!(namespace = at.namespace, deployment = at.name, %error, "{what}");
}
