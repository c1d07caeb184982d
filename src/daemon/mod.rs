//! Many releases on one machine: `wade serve`.
//!
//! The daemon owns what outlives a release (data folder, processes, proxies, history of stable) and runs one task per
//! service: between releases it watches stable, during one it drives a [`Controller`]. Which commands run is decided
//! by the files in the rollouts folder alone; a caller names a rollout and sets declared variables.
//!
//! After `kill -9` the next start adopts the processes that still run, restores the splits that the record says, and
//! every unfinished release goes on or goes back: `recover` does that before anything else, and nothing else is
//! special about a restart.
//!
//! [`api`] is the vocabulary, [`http`] the way in (unix socket, opted-in HTTP), [`client`] the other end of it,
//! [`releases`] turns a request into a release, [`views`] what is shown.

pub mod api;
pub mod client;
pub mod http;
mod metrics;
pub mod otlp;
pub mod peer;
pub mod releases;
pub mod rollouts;
mod telling;
pub mod views;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, stopwatch};
use crate::controller::{Controller, Newer, Notice, Pass, Recorder, Urgent, record_stable, seconds_of};
use crate::engine::desired::{instances, split_now};
use crate::engine::{Phase, Return};
use crate::judge::HistoryRecorder;
use crate::plan::{ALL_STABLE, HistoryPlan, Measure, Split};
use crate::platforms::hooking::Hooking;
use crate::platforms::local::process::{Settings, Shutdown, Supervisor};
use crate::platforms::local::proxy::StickyCookie;
use crate::platforms::local::{LocalHooks, LocalPlatform, LocalSignals, LocalWorkload, Running, Service, ServiceSetup};
use crate::signals::Signals;
use crate::signals::traces::TraceHub;
use crate::spec::Weight;
use crate::store::sqlite::{DataDir, SqliteStore};
use crate::store::{ReleaseKey, ReleaseRecord, Revision, Store};
use crate::telemetry::meters::Metered;
use crate::telemetry::{self, Telemetry};
use api::{Problem, ProblemKind};
use rollouts::{Rollouts, Usable};
use telling::log;

/// Notices kept for slow followers; one that falls further behind reads the record again.
const NOTICES: usize = 1024;
/// How often stable is looked at between releases.
const STEADY_LOOK: Duration = Duration::from_millis(500);
/// How often what is known of stable is written down: so much of it a crash may cost.
const KEEP_HISTORY: Duration = Duration::from_secs(60);
/// What was recorded longer ago tells nothing about how stable behaves now.
const HISTORY_WITHIN: Duration = Duration::from_secs(6 * 3600);
/// How long whoever still uses the daemon may take to let go of it when it stops, and how often to look.
const LET_GO: Duration = Duration::from_secs(5);
/// See [`LET_GO`].
const LET_GO_LOOK: Duration = Duration::from_millis(10);
/// How long requests may take to finish when the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What a daemon is made with; every path is absolute.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Record, output, socket.
    pub data: PathBuf,
    /// One file per rollout.
    pub rollouts: PathBuf,
    /// Strategies of the user's own.
    pub strategies: Option<PathBuf>,
    /// How processes are started, probed and restarted.
    pub processes: Settings,
}

/// The daemon.
pub struct Daemon {
    setup: Setup,
    data: DataDir,
    store: Arc<SqliteStore>,
    supervisor: Arc<Supervisor>,
    clock: Arc<dyn Clock>,
    client: reqwest::Client,
    epoch: AtomicU64,
    services: Mutex<BTreeMap<String, Arc<Managed>>>,
    notices: broadcast::Sender<Notice>,
    traces: TraceHub,
    telemetry: Arc<Telemetry>,
    /// One service is opened at a time: two would both want its address.
    opening: Mutex<()>,
    stopping: CancellationToken,
}

/// One service with what the daemon knows of it besides.
pub(crate) struct Managed {
    pub(crate) service: Arc<Service>,
    /// Something to do: a release was created.
    jobs: Notify,
    /// What was recorded of stable, by the watch between releases and the controller during them.
    history: Recorder,
    /// Requests per second lately.
    rate: Mutex<Option<f64>>,
    newer: Newer,
    /// An abort that could not be recorded.
    pub(crate) urgent: Urgent,
    /// What is measured between releases, as the file said when the service was opened.
    measure: Measure,
    history_plan: HistoryPlan,
    /// A release request is being turned into a release; one at a time per service.
    pub(crate) admission: tokio::sync::Mutex<()>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Managed {
    /// Requests per second lately, if anybody knows.
    pub(crate) fn rate(&self) -> Option<f64> {
        *lock(&self.rate)
    }

    /// The share of stable's requests that failed lately, if it had any.
    pub(crate) fn error_share(&self) -> Option<f64> {
        let (requests, errors) = lock(&self.history).lately();
        (requests > 0.0).then(|| (errors / requests).min(1.0))
    }

    /// Says that a newer revision waits for the release that runs.
    pub(crate) fn supersede(&self, name: &str) {
        self.newer.set(name);
        self.service.wake.notify_one();
    }
}

impl Daemon {
    /// Opens the data folder, adopts what runs, restores what the record says and goes on from there.
    ///
    /// # Errors
    /// When the data folder is in use or cannot be written, a process cannot be accounted for, or an address cannot be
    /// bound: starting half would serve half.
    pub async fn start(setup: Setup, clock: Arc<dyn Clock>) -> Result<Arc<Self>, Problem> {
        Self::start_with(setup, clock, Telemetry::new(telemetry::Settings::default())).await
    }

    /// As [`Self::start`], with what tells of its releases.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        setup: Setup,
        clock: Arc<dyn Clock>,
        telemetry: Arc<Telemetry>,
    ) -> Result<Arc<Self>, Problem> {
        let data = DataDir::open(&setup.data, clock.now()).map_err(Problem::unavailable)?;
        let store = Arc::new(data.store().clone());
        let epoch = data.epoch();
        let ledger = Arc::clone(&store) as Arc<dyn crate::platforms::local::process::Ledger>;
        let (supervisor, adoption) = Supervisor::open(&setup.data, ledger, Arc::clone(&clock), setup.processes.clone())
            .map_err(Problem::unavailable)?;
        tracing::info!(
            adopted = adoption.adopted.len(),
            lost = adoption.lost.len(),
            epoch,
            "processes adopted"
        );
        let client = crate::signals::http::http_client().map_err(Problem::unavailable)?;
        let daemon = Arc::new(Self {
            setup,
            data,
            store,
            supervisor: Arc::new(supervisor),
            clock,
            client,
            epoch: AtomicU64::new(epoch),
            services: Mutex::default(),
            notices: broadcast::channel(NOTICES).0,
            traces: TraceHub::default(),
            telemetry,
            opening: Mutex::default(),
            stopping: CancellationToken::new(),
        });
        daemon.recover()?;
        tokio::spawn(keep_histories(Arc::downgrade(&daemon)));
        Ok(daemon)
    }

    /// Brings every service back to what the record says, then lets its task go on.
    fn recover(self: &Arc<Self>) -> Result<(), Problem> {
        let rollouts = self.rollouts();
        for fault in &rollouts.faults {
            tracing::warn!("{fault}");
        }
        for usable in rollouts.usable.values() {
            self.open_service(usable)?;
        }
        // Processes of a service that no file describes any more: its last word is the record's, not ours to stop.
        for service in self.supervisor.services() {
            if self.managed(&service).is_none() {
                tracing::warn!(
                    rollout = service,
                    "processes run for a service without a file in the rollouts folder; they are left alone"
                );
            }
        }
        Ok(())
    }

    /// The rollouts folder as it is now.
    pub(crate) fn rollouts(&self) -> Rollouts {
        Rollouts::read(&self.setup.rollouts, self.setup.strategies.as_deref())
    }

    /// The service of `usable`, opened and restored if it is not open yet.
    pub(crate) fn open_service(self: &Arc<Self>, usable: &Usable) -> Result<Arc<Managed>, Problem> {
        let name = usable.name();
        let _one = lock(&self.opening);
        if let Some(managed) = self.managed(name) {
            return Ok(managed);
        }
        let service = Service::open(
            service_setup(usable, &self.setup.data)?,
            Arc::clone(&self.supervisor),
            Arc::clone(&self.clock),
        )
        .map_err(|error| Problem {
            kind: ProblemKind::Unavailable,
            message: format!("{name}: {error}"),
        })?;
        let running = self.store.running(name).map_err(Problem::unavailable)?;
        self.restore(&service, running.as_ref())?;
        service.begin();
        let managed = Arc::new(Managed {
            service,
            jobs: Notify::new(),
            history: Arc::new(Mutex::new(self.recorded(usable))),
            rate: Mutex::new(None),
            newer: Newer::default(),
            urgent: Urgent::default(),
            measure: usable.measure(),
            history_plan: usable.history(),
            admission: tokio::sync::Mutex::new(()),
            task: Mutex::new(None),
        });
        lock(&self.services).insert(name.to_owned(), Arc::clone(&managed));
        self.spawn(&managed);
        Ok(managed)
    }

    /// What was recorded of the service's stable revision before this daemon began, as far as it still tells something.
    fn recorded(&self, usable: &Usable) -> HistoryRecorder {
        let block_s = usable.history().block.as_secs_f64();
        let kept = match self.store.kept_history(usable.name()) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(rollout = usable.name(), %error, "what was recorded of stable is lost; it is watched anew");
                None
            }
        };
        let now = seconds_of(self.clock.now());
        kept.and_then(|kept| kept.resumed(block_s, now, HISTORY_WITHIN.as_secs_f64()))
            .unwrap_or_else(|| HistoryRecorder::new(block_s))
    }

    /// Writes down what is known of each service's stable revision.
    fn keep_histories(&self) {
        for managed in self.all_managed() {
            let recorder = lock(&managed.history).clone();
            let name = managed.service.name();
            if let Err(error) = self.store.keep_history(name, &recorder, self.clock.now()) {
                // Nothing stands still for it; the next minute tries again.
                tracing::warn!(rollout = name, %error, "what was recorded of stable could not be kept");
            }
        }
    }

    /// Who was stable, who canary, and how requests were divided, as the record says.
    fn restore(&self, service: &Arc<Service>, running: Option<&ReleaseRecord>) -> Result<(), Problem> {
        let name = service.name();
        let stable = self.store.stable(name).map_err(Problem::unavailable)?;
        let stable_now = stable.as_ref().map(|revision| running_of(revision, None)).transpose()?;
        let (mut canary, mut split, mut keep) = (None, ALL_STABLE, Vec::new());
        if let Some(record) = running {
            keep.push(record.canary.id.clone());
            keep.extend(record.stable.as_ref().map(|revision| revision.id.clone()));
            let adopted = stable.as_ref().is_some_and(|stable| stable.id == record.canary.id);
            canary = canary_of(record)?.filter(|_| !adopted);
            if canary.is_some() {
                split = split_of(record);
            }
        }
        keep.extend(stable.as_ref().map(|revision| revision.id.clone()));
        for processes in service.processes() {
            if !keep.contains(&processes.revision) {
                tracing::warn!(
                    rollout = name,
                    revision = processes.revision,
                    "left over from an earlier release; stopping it"
                );
                service.remove(&processes.revision);
            }
        }
        service
            .change(|sides, now| {
                sides.stable = stable_now;
                sides.canary = canary;
                *now = split;
            })
            .or_else(|error| {
                // A stable that cannot be started any more is a fault to show, not a reason not to serve the others.
                tracing::error!(rollout = name, %error, "stable cannot be run as recorded");
                Ok(())
            })
    }

    fn spawn(self: &Arc<Self>, managed: &Arc<Managed>) {
        let (daemon, own) = (Arc::clone(self), Arc::clone(managed));
        let task = tokio::spawn(async move { daemon.manage(&own).await });
        if let Some(old) = lock(&managed.task).replace(task) {
            old.abort();
        }
    }

    /// The life of one service: a release while there is one, watching stable otherwise.
    async fn manage(&self, managed: &Arc<Managed>) {
        let name = managed.service.name();
        loop {
            match self.store.running(name) {
                Ok(Some(record)) => self.drive(managed, record).await,
                Ok(None) => self.watch(managed).await,
                Err(error) => {
                    tracing::error!(rollout = name, %error, "the record cannot be read; trying again");
                    tokio::time::sleep(STEADY_LOOK).await;
                }
            }
        }
    }

    async fn drive(&self, managed: &Arc<Managed>, record: ReleaseRecord) {
        let name = managed.service.name().to_owned();
        let key = record.key.clone();
        let (canary, stable) = match (
            running_of(&record.canary, None),
            record.stable.as_ref().map(|r| running_of(r, None)).transpose(),
        ) {
            (Ok(canary), Ok(stable)) => (canary, stable),
            (Err(problem), _) | (_, Err(problem)) => {
                tracing::error!(rollout = name, %problem, "the release cannot be driven; trying again");
                tokio::time::sleep(STEADY_LOOK).await;
                return;
            }
        };
        let platform = LocalPlatform::new(
            Arc::clone(&managed.service),
            canary,
            stable,
            record.plan.smoke.clone(),
            self.client.clone(),
        );
        let about = BTreeMap::from([
            ("WADE_ROLLOUT".to_owned(), key.rollout.clone()),
            ("WADE_RELEASE".to_owned(), key.number.to_string()),
            ("WADE_VERSION".to_owned(), record.canary.version.clone()),
        ]);
        let hooks = LocalHooks::new(&record.plan.hooks, about, Arc::clone(&managed.service.wake));
        let platform = Hooking::new(platform, Box::new(hooks));
        let signals = LocalSignals::new(
            &managed.service,
            &record.plan.measure,
            &record.plan.history,
            &self.traces,
            &self.client,
        );
        let history = Arc::clone(&managed.history);
        let notices = self.notices.clone();
        let telling = self.tell(&record);
        let observing = self.observe(&record);
        let telemetry = Arc::clone(&self.telemetry);
        let store = Metered::new(Arc::clone(&self.store) as Arc<dyn Store>, Arc::clone(&telemetry));
        managed.newer.clear();
        let mut controller = Controller::new(
            record,
            self.epoch.load(Ordering::SeqCst),
            history,
            platform,
            signals,
            Arc::new(store),
            Arc::clone(&self.clock),
            Box::new(move |notice| {
                log(&notice);
                // Nobody listening is no fault.
                let _ = notices.send(notice);
            }),
        )
        .with_newer(managed.newer.clone())
        .with_urgent(managed.urgent.clone())
        .with_looks(Box::new(move |took| telemetry.looked(took)));
        match controller.run(&managed.service.wake).await {
            Pass::Over(outcome) => {
                // It ends by itself.
                drop(observing.detach());
                tracing::info!(
                    rollout = key.rollout,
                    release = key.number,
                    outcome = outcome.label(),
                    "release over"
                );
                if let Err(error) = self.store.prune(&name) {
                    tracing::warn!(rollout = name, %error, "old releases could not be pruned");
                }
            }
            Pass::Fenced => {
                tracing::error!(
                    rollout = key.rollout,
                    release = key.number,
                    "another controller has taken over"
                );
                telling.inspect(JoinHandle::abort);
                tokio::time::sleep(STEADY_LOOK).await;
            }
            Pass::Again(_) => {}
        }
    }

    /// Between releases: record how stable behaves, so that the next release can be judged by it from its start.
    async fn watch(&self, managed: &Arc<Managed>) {
        let mut signals = LocalSignals::new(
            &managed.service,
            &managed.measure,
            &managed.history_plan,
            &self.traces,
            &self.client,
        );
        loop {
            tokio::select! {
                () = managed.jobs.notified() => return,
                () = tokio::time::sleep(STEADY_LOOK) => {}
            }
            let now = self.clock.now();
            let sample = signals.take(now);
            record_stable(&managed.history, &sample, now);
            *lock(&managed.rate) = sample.rates.stable;
        }
    }

    /// The holder does not answer an abort: write the weight, fence it off, and let a new task go on.
    pub(crate) fn take_over(self: &Arc<Self>, managed: &Arc<Managed>) -> Result<(), Problem> {
        let raised = self.store.raise_epoch();
        if let Ok(epoch) = &raised {
            self.epoch.store(*epoch, Ordering::SeqCst);
            managed.service.admit(*epoch).map_err(Problem::unavailable)?;
        }
        // Also without a new epoch: a record that cannot be written must not keep users on the canary.
        managed
            .service
            .change(|_, split| *split = ALL_STABLE)
            .map_err(Problem::unavailable)?;
        raised.map_err(Problem::unavailable)?;
        self.spawn(managed);
        Ok(())
    }

    pub(crate) fn managed(&self, name: &str) -> Option<Arc<Managed>> {
        lock(&self.services).get(name).cloned()
    }

    pub(crate) fn all_managed(&self) -> Vec<Arc<Managed>> {
        lock(&self.services).values().cloned().collect()
    }

    pub(crate) fn wake(&self, managed: &Managed) {
        managed.jobs.notify_one();
        managed.service.wake.notify_one();
    }

    pub(crate) fn store(&self) -> &Arc<SqliteStore> {
        &self.store
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Cancelled when the daemon stops: whoever waits or follows lets go of it then.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Where spans are counted.
    pub fn traces(&self) -> &TraceHub {
        &self.traces
    }

    /// What counts the releases.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// What happens, as it happens.
    pub fn follow(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// Where the data is.
    pub fn data(&self) -> &DataDir {
        &self.data
    }

    /// The whole record of a release.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn record(&self, key: &ReleaseKey) -> Result<ReleaseRecord, Problem> {
        self.store.release(key).map_err(Problem::unavailable)
    }

    /// Where a service's requests come in.
    pub fn address(&self, name: &str) -> Option<std::net::SocketAddr> {
        self.managed(name)?.service.address()
    }

    /// Stops the daemon: tasks first (a release goes on at the next start), then the proxies with a grace for
    /// requests under way, then the processes if `stop_processes` says so.
    pub async fn stop(self: Arc<Self>, stop_processes: bool) {
        self.stopping.cancel();
        self.keep_histories();
        let services = std::mem::take(&mut *lock(&self.services));
        for managed in services.values() {
            let task = lock(&managed.task).take();
            if let Some(task) = task {
                task.abort();
                // An aborted task ends with an error by design.
                let _ = task.await;
            }
        }
        futures_util::future::join_all(services.values().map(|managed| managed.service.close(STOP_GRACE))).await;
        drop(services);
        let how = if stop_processes { Shutdown::Stop } else { Shutdown::Keep };
        let Some(daemon) = sole(self).await else {
            tracing::warn!("somebody still uses the daemon; its processes are left running");
            return;
        };
        let supervisor = Arc::clone(&daemon.supervisor);
        drop(daemon);
        match sole(supervisor).await {
            Some(supervisor) => supervisor.shutdown(how).await,
            None => tracing::warn!("a service is still in use; its processes are left running"),
        }
    }
}

/// Keeps what is known of stable every minute, until the daemon is gone.
async fn keep_histories(daemon: Weak<Daemon>) {
    let mut ticks = tokio::time::interval(KEEP_HISTORY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(daemon) = daemon.upgrade() else { return };
        if daemon.stopping.is_cancelled() {
            return;
        }
        daemon.keep_histories();
    }
}

/// The value, once the last of its other users has let go; they have been told to.
async fn sole<T>(mut shared: Arc<T>) -> Option<T> {
    let began = stopwatch();
    loop {
        match Arc::try_unwrap(shared) {
            Ok(value) => return Some(value),
            Err(_) if began.elapsed() >= LET_GO => return None,
            Err(again) => shared = again,
        }
        tokio::time::sleep(LET_GO_LOOK).await;
    }
}

/// A revision of the record as the service runs it, at full size unless told otherwise.
pub(crate) fn running_of(revision: &Revision, wanted: Option<u32>) -> Result<Running, Problem> {
    let workload: LocalWorkload = serde_json::from_value(revision.workload.clone()).map_err(|error| Problem {
        kind: ProblemKind::Unavailable,
        message: format!("the recorded workload of {} is damaged: {error}", revision.version),
    })?;
    let full = workload.full();
    Ok(Running {
        id: revision.id.clone(),
        version: revision.version.clone(),
        spec: workload.process_spec(),
        full,
        wanted: wanted.unwrap_or(full),
    })
}

/// The canary of an unfinished release, at the size that its state wants; `None` where it should not run.
fn canary_of(record: &ReleaseRecord) -> Result<Option<Running>, Problem> {
    let capacity = match &record.state.phase {
        Phase::Waiting | Phase::Done(_) | Phase::Returning(Return::Remove | Return::Restore, _) => return Ok(None),
        Phase::HandingOver(_) => Weight::FULL,
        // The next stage's instances come when the gate has opened.
        Phase::Gated { .. } => record.plan.stages[record.state.split_of.unwrap_or(0)].capacity,
        phase => {
            let stage = phase.stage().or(record.state.split_of).unwrap_or(0);
            record.plan.stages[stage].capacity
        }
    };
    let mut running = running_of(&record.canary, None)?;
    running.wanted = instances(capacity, running.full);
    Ok(Some(running))
}

/// The split that the record says is in force.
fn split_of(record: &ReleaseRecord) -> Split {
    match &record.state.phase {
        Phase::Returning(..) | Phase::Done(_) | Phase::Waiting => ALL_STABLE,
        Phase::HandingOver(_) => Split::weight(Weight::FULL),
        _ => split_now(&record.plan, &record.state),
    }
}

fn service_setup(usable: &Usable, data: &Path) -> Result<ServiceSetup, Problem> {
    let spec = &usable.rollout.spec;
    let invalid = |message: String| Problem {
        kind: ProblemKind::Invalid,
        message,
    };
    let process = usable
        .process()
        .ok_or_else(|| invalid(format!("{}: only `process` workloads run here", usable.name())))?;
    let traffic = spec.traffic.as_ref().filter(|_| process.port.is_some());
    let listen = traffic
        .map(|traffic| traffic.listen.as_deref().unwrap_or("127.0.0.1:0").parse())
        .transpose()
        .map_err(|error| invalid(format!("{}: spec.traffic.listen: {error}", usable.name())))?;
    let sticky = traffic
        .and_then(|traffic| traffic.sticky.as_ref())
        .map(|sticky| StickyCookie {
            name: sticky.cookie.clone(),
            ttl: sticky.ttl.map_or(Duration::from_secs(3600), |ttl| ttl.0),
        });
    Ok(ServiceSetup {
        name: usable.name().to_owned(),
        listen,
        answer_within: traffic.and_then(|traffic| traffic.answer_within).map(|within| within.0),
        sticky,
        targets: process
            .port
            .map(|_| data.join("prometheus").join(format!("{}.json", usable.name()))),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
