//! The daemon of a cluster: `wade serve --cluster`.
//!
//! A Rollout object says how a Deployment is released. Whoever changes the Deployment's template then (kubectl, Helm, a
//! GitOps tool, `wade deploy`), the change waits, paused in the very write that made it, until the operator has released
//! it. It is the same step that `wade deploy` runs by itself ([`crate::cluster`]), with the same record and the same
//! Lease, so either can go on with what the other began, at any moment.
//!
//! In reading order: [`fleet`] (what is watched, as small as it can be), [`consider`] (what is to be done about one
//! Deployment: a plain function), [`work`] (doing it), [`status`] (what the objects say), [`saying`] (when), [`writer`]
//! (writing it, beside the work), [`leader`] (which of several daemons begins), [`desk`] (what the API asks), [`probes`]
//! (whether it lives), [`grumble`] (what goes wrong, said once). It decides nothing about a release: the engine does.

pub mod consider;
pub mod desk;
pub mod fleet;
pub mod grumble;
pub mod leader;
pub mod probes;
mod saying;
pub mod status;
mod work;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::apiserver::{ApiError, ApiServer, Kind, Meter};
use crate::clock::{Clock, stopwatch};
use crate::cluster::Cluster;
use crate::daemon::api::Problem;
use crate::platforms::kubernetes::HOLD_POLICY;
use crate::spec::targets::AllowedHosts;
use crate::telemetry::Telemetry;
use consider::{HoldMode, Looked, Memory, Next};
use fleet::{At, FAILS_WITHIN, Fleet};
use grumble::Grumbler;
use leader::Leadership;
use writer::StatusWriter;

/// How often the loop turns when nothing happens.
const TURN: Duration = Duration::from_secs(1);
/// A loop that has not turned for this long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(30);
/// A template that was refused is looked at again after this: what stood in its way may be gone.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// One that has to wait for something, after this.
const WAITS_FOR: Duration = Duration::from_secs(3);
/// How soon what could not be done about a Deployment is tried again; each further pause is twice as long.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
/// The longest of these pauses: whoever gives a missing right waits no longer for it to be used.
const AGAIN_WITHIN: Duration = Duration::from_secs(30);
/// Small changes of Deployments (opting in and out, pauses) at once: at a start there may be a thousand.
const SMALL_AT_ONCE: usize = 8;
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
    /// Releases at once among Rollouts that say the same under this label.
    pub most_per_label: Option<(String, usize)>,
}

/// A release that runs, as far as limits are concerned.
#[derive(Clone, Debug)]
struct Running {
    namespace: String,
    group: Option<String>,
}

impl Settings {
    /// Whether one more may begin in `namespace` and `group`, beside those that run: each with its own.
    fn has_room(&self, running: &[Running], namespace: &str, group: Option<&str>) -> bool {
        let here = running.iter().filter(|one| one.namespace == namespace).count();
        let of_label = match (&self.most_per_label, group) {
            (Some((_, most)), Some(group)) => {
                let alike = running.iter().filter(|one| one.group.as_deref() == Some(group));
                alike.count() < *most
            }
            _ => true,
        };
        running.len() < self.most_releases && here < self.most_per_namespace && of_label
    }
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
    fleet: Arc<Fleet>,
    writer: StatusWriter,
    grumbler: Grumbler,
    /// Room for small changes.
    small: Semaphore,
    leads: Arc<AtomicBool>,
    /// Why it could not be asked whose turn it is, and when.
    no_turn: Mutex<Option<(ApiError, Instant)>>,
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
    /// Deployments that something could not be done about.
    again: BTreeMap<At, Again>,
}

/// Something that could not be done.
struct Again {
    /// Since when it waits to be tried again; `None` once that is under way.
    since: Option<Instant>,
    pause: Duration,
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
        let fleet = Arc::new(Fleet::start(
            &place,
            settings.most_per_label.as_ref().map(|(key, _)| key.clone()),
        ));
        let leads = Arc::new(AtomicBool::new(false));
        let pen = saying::OnServer::new(place.clone(), Arc::clone(&fleet));
        Arc::new(Self {
            writer: StatusWriter::new(Box::new(pen), Arc::clone(&leads)),
            grumbler: Grumbler::default(),
            small: Semaphore::new(SMALL_AT_ONCE),
            fleet,
            no_turn: Mutex::default(),
            home,
            place,
            settings,
            telemetry,
            clock,
            leads,
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
                leadership.acquire(|error| self.has_no_turn(error)).await
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
        if let Some(error) = self.fleet.trouble() {
            return Err(error.to_string());
        }
        let no_turn = self.no_turn.lock().unwrap_or_else(PoisonError::into_inner);
        match no_turn.as_ref().filter(|(_, at)| at.elapsed() < FAILS_WITHIN) {
            Some((error, _)) if !self.leads() => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// It cannot be told whose turn it is.
    fn has_no_turn(&self, error: &ApiError) {
        if let Some(unsaid) = self.grumbler.may_say_of("turn", error) {
            tracing::warn!(%error, unsaid, "the Lease of the leader cannot be asked for");
        }
        *self.no_turn.lock().unwrap_or_else(PoisonError::into_inner) = Some((error.clone(), stopwatch()));
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
        let mut over: Vec<At> = state
            .looked
            .iter()
            .filter(|(_, (_, looked, at))| match looked {
                Looked::Serves => false,
                Looked::Waits => at.elapsed() >= WAITS_FOR,
                Looked::Refused => at.elapsed() >= REFUSED_FOR,
            })
            .map(|(at, _)| at.clone())
            .collect();
        for at in &over {
            state.looked.remove(at);
        }
        for (at, again) in &mut state.again {
            if again.since.is_some_and(|since| since.elapsed() >= again.pause) {
                again.since = None;
                over.push(at.clone());
            }
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
            if ask.pending && !self.is_answered(at, &name) {
                self.begin(at, &format!("release {name}"), true, |operator, at| async move {
                    operator.follow_ask(&at, &name).await;
                });
            }
        }
        let Some(deployment) = self.fleet.deployment(at) else {
            self.state().again.remove(at);
            self.say_missing(at);
            return;
        };
        let memory = self.memory(at);
        let mode = self.mode();
        let next = consider::next(&policies, &deployment, &memory, mode);
        tracing::debug!(%at, ?next, ?memory, "considered");
        match next {
            Next::Rest => {
                if !memory.busy {
                    self.say_resting(at);
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
        let group = |at: &At| self.fleet.policies(at).into_iter().find_map(|policy| policy.group);
        let counted = state.work.iter().flat_map(|(at, works)| {
            let counting = works.values().filter(|work| work.counts).count();
            std::iter::repeat_n(at, counting)
        });
        let running: Vec<Running> = counted
            .map(|at| Running {
                namespace: at.namespace.clone(),
                group: group(at),
            })
            .collect();
        self.settings.has_room(&running, &at.namespace, group(at).as_deref())
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

    /// How others' changes are held here: by the policy, if it is installed. Until that is known the Deployments are kept
    /// paused, and it is asked again.
    async fn look_for_policy(self: &Arc<Self>) {
        if let Some(said) = self.settings.hold {
            *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = said;
        } else if !self.is_mode_known().await {
            let operator = Arc::clone(self);
            tokio::spawn(async move {
                while operator.leads() {
                    tokio::time::sleep(AGAIN_WITHIN).await;
                    if operator.is_mode_known().await {
                        operator.fleet.mark_all();
                        break;
                    }
                }
            });
        }
    }

    async fn is_mode_known(&self) -> bool {
        let (mut mode, mut known) = (HoldMode::Paused, true);
        // Which of the two a server knows depends on its version.
        for kind in [
            Kind::MutatingAdmissionPolicyBindingV1,
            Kind::MutatingAdmissionPolicyBinding,
        ] {
            match self.home.get(kind, HOLD_POLICY).await {
                Ok(Some(_)) => mode = HoldMode::Policy,
                Ok(None) => {}
                Err(error) => {
                    known = false;
                    if let Some(unsaid) = self.grumbler.may_say_of("policy", &error) {
                        tracing::warn!(%error, unsaid, "it cannot be told whether the policy {HOLD_POLICY} is installed");
                    }
                }
            }
        }
        known |= mode == HoldMode::Policy;
        tracing::info!(?mode, known, "how changes by others are held");
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
        known
    }

    /// Something could not be done about a Deployment: it is said, and tried again in a while.
    fn trouble(&self, at: &At, what: &str, error: &ApiError) {
        self.grumble(at, what, error);
        let mut state = self.state();
        let again = state.again.entry(at.clone()).or_insert(Again {
            since: None,
            pause: AGAIN_AFTER / 2,
        });
        again.pause = (again.pause * 2).min(AGAIN_WITHIN);
        again.since = Some(stopwatch());
    }

    fn grumble(&self, at: &At, what: &str, error: &ApiError) {
        if let Some(unsaid) = self.grumbler.may_say_of(what, error) {
            tracing::warn!(namespace = at.namespace, deployment = at.name, %error, unsaid, "{what}");
        }
    }

    /// What could not be done about it is done.
    fn no_trouble(&self, at: &At) {
        self.state().again.remove(at);
    }

    /// As [`Self::trouble`], of work that tries again by itself.
    fn complain(&self, at: &At, what: &str, problem: &Problem) {
        if let Some(unsaid) = self.grumbler.may_say(&format!("{what} {at} {:?}", problem.kind)) {
            tracing::warn!(namespace = at.namespace, deployment = at.name, error = %problem, unsaid, "{what}");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_in_all_in_the_namespace_and_in_the_group() {
        let settings = Settings {
            identity: String::new(),
            hosts: AllowedHosts::default(),
            hold: None,
            most_releases: 4,
            most_per_namespace: 2,
            most_per_label: Some(("team".to_owned(), 2)),
        };
        let run = |namespace: &str, team: Option<&str>| Running {
            namespace: namespace.to_owned(),
            group: team.map(str::to_owned),
        };
        let running = [run("shop", Some("pay")), run("bank", Some("pay")), run("shop", None)];
        assert!(!settings.has_room(&running, "shop", None), "two in the namespace");
        assert!(!settings.has_room(&running, "bank", Some("pay")), "two of the team");
        assert!(settings.has_room(&running, "bank", Some("web")));
        assert!(settings.has_room(&running, "bank", None), "no label, no bound by it");
        let full = [running.as_slice(), &[run("mail", None)]].concat();
        assert!(!settings.has_room(&full, "news", None), "four in all");
    }
}
