//! The whole: what is wanted of every service, and one task per slot that brings it about.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::diagnosis::{Diagnosis, Problem};
use super::identity::launch_token;
use super::launch;
use super::ledger::{Ledger, LedgerError, Phase, ProcessRecord, SlotKey};
use super::output::Outputs;
use super::proc;
use super::slot::{self, Ending, Exit, Live, Slot, State, View, Want, check_port};
use super::spec::{OutputRule, Port, ProcessSpec, Settings, StopRule, check_name};
use super::user;
use crate::clock::{Clock, stopwatch};

/// Runs processes; see the module's documentation.
///
/// Dropping it without [`shutdown`](Self::shutdown) is like `kill -9` of the daemon: processes keep running and the
/// next [`open`](Self::open) adopts them.
pub struct Supervisor {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    runtime: Handle,
    _rotation: AbortOnDropHandle<()>,
    /// Held as long as the supervisor lives; the kernel lets go of it however the daemon ends.
    _lock: File,
}

/// What the last daemon left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Still running; they wait for [`ensure`](Supervisor::ensure) or [`remove`](Supervisor::remove).
    pub adopted: Vec<ProcessRecord>,
    /// Recorded, but ended since (or never started). Their rows are gone.
    pub lost: Vec<ProcessRecord>,
}

/// What runs of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionProcesses {
    /// The revision.
    pub revision: String,
    /// How many instances are asked for; none for an adopted revision that nobody has asked for yet.
    pub desired: Option<u32>,
    /// Every slot that exists, also those that are stopping, by number.
    pub instances: Vec<Instance>,
}

/// One slot, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// From 0.
    pub slot: u32,
    /// The running process.
    pub pid: Option<u32>,
    /// Where it listens on 127.0.0.1.
    pub port: Option<u16>,
    /// Where it stands.
    pub state: State,
    /// Launches after the first.
    pub restarts: u32,
    /// How the process before ended.
    pub last_exit: Option<Exit>,
    /// What is wrong, if anything is.
    pub diagnosis: Option<Diagnosis>,
    /// Up to ten lines of the last launch's output.
    pub last_output: Vec<String>,
}

/// What happens to the processes when the supervisor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// They keep running; the next daemon adopts them.
    Keep,
    /// All are stopped, each with its own signal and drain, at the same time.
    Stop,
}

impl Supervisor {
    /// Opens the supervisor of `data_dir` and adopts what an earlier one left running. Adopted processes are watched
    /// at once, and probed and restarted from the first [`ensure`](Self::ensure) of their revision on. Reads and writes
    /// files; call it once, at the start, inside a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be used, another supervisor uses it, or the ledger cannot be read or written: starting
    /// without knowing what runs would run things twice.
    pub fn open(
        data_dir: &Path,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Result<(Self, Adoption), Diagnosis> {
        let (lock, data_dir) = lock_directory(data_dir)?;
        let shared = Arc::new(Shared {
            outputs: Outputs::new(&data_dir),
            data_dir,
            ledger,
            clock,
            settings,
            services: Mutex::default(),
            ports: Arc::default(),
            changes: watch::channel(0).0,
        });
        let runtime = Handle::current();
        let rotation = AbortOnDropHandle::new(runtime.spawn(rotate(Arc::clone(&shared))));
        let supervisor = Self {
            shared,
            tasks: TaskTracker::new(),
            runtime,
            _rotation: rotation,
            _lock: lock,
        };
        let adoption = supervisor.adopt()?;
        Ok((supervisor, adoption))
    }

    /// Asks for exactly `instances` running instances of the revision. Returns at once; tasks do the work. Repeating it
    /// is harmless. 0 stops all of them and forgets the revision. Fewer than now stops the highest slots.
    ///
    /// A changed spec of the same revision takes effect where it can without a restart: stopping, readiness, output;
    /// everything else at an instance's next start.
    ///
    /// # Errors
    /// When this can never run as asked: an invalid spec or name, an unknown user, or root without consent. Nothing has
    /// changed then. What may still come right (a missing program) is a diagnosis of the instances.
    pub fn ensure(&self, service: &str, revision: &str, spec: &ProcessSpec, instances: u32) -> Result<(), Diagnosis> {
        check_name("service", service)?;
        check_name("revision", revision)?;
        if instances == 0 {
            self.set_rule(service, revision, spec);
            self.remove(service, revision);
            return Ok(());
        }
        let object = format!("{service}/{revision}");
        spec.check(&object, instances)?;
        user::resolve(&spec.run_as, &object)?;
        let mut services = lock(&self.shared.services);
        let entry = services
            .entry(service.to_owned())
            .or_default()
            .entry(revision.to_owned())
            .or_default();
        entry.desired = Some(instances);
        let spec = match &entry.spec {
            Some(known) if **known == *spec => Arc::clone(known),
            _ => Arc::new(spec.clone()),
        };
        entry.spec = Some(Arc::clone(&spec));
        for (_, slot) in entry.slots.range(instances..) {
            slot.want(Want::Stop);
        }
        for slot in 0..instances {
            if let Some(slot) = entry.slots.get(&slot) {
                slot.want(Want::Run(Arc::clone(&spec)));
            } else {
                let key = SlotKey {
                    service: service.to_owned(),
                    revision: revision.to_owned(),
                    slot,
                };
                entry
                    .slots
                    .insert(slot, self.begin(key, Want::Run(Arc::clone(&spec)), spec.stop, None));
            }
        }
        drop(services);
        self.shared.notify();
        Ok(())
    }

    /// Stops all instances of the revision, also of one that was adopted and whose spec nobody knows any more: then by
    /// the rule that was recorded when it started. Unknown revisions are fine.
    pub fn remove(&self, service: &str, revision: &str) {
        let mut services = lock(&self.shared.services);
        if let Some(entry) = services
            .get_mut(service)
            .and_then(|revisions| revisions.get_mut(revision))
        {
            entry.desired = Some(0);
            entry.slots.values().for_each(|slot| slot.want(Want::Stop));
        }
        drop(services);
        self.shared.notify();
    }

    /// What runs of the service, by revision. Reads the end of each instance's output file.
    pub fn observe(&self, service: &str) -> Vec<RevisionProcesses> {
        let views: Vec<_> = {
            let services = lock(&self.shared.services);
            let revisions = services.get(service).into_iter().flatten();
            let view = |(slot, entry): (&u32, &SlotEntry)| (*slot, lock(&entry.view).clone());
            revisions
                .map(|(name, r)| (name.clone(), r.desired, r.slots.iter().map(view).collect::<Vec<_>>()))
                .collect()
        };
        let describe = |(revision, desired, slots): (String, _, Vec<(u32, View)>)| {
            let instances = slots.into_iter().map(|(slot, view)| {
                let key = SlotKey {
                    service: service.to_owned(),
                    revision: revision.clone(),
                    slot,
                };
                let last_output = self.shared.outputs.last_lines(&key, view.log_from);
                let View {
                    pid,
                    port,
                    state,
                    restarts,
                    last_exit,
                    diagnosis,
                    log_from: _,
                } = view;
                Instance {
                    slot,
                    pid,
                    port,
                    state,
                    restarts,
                    last_exit,
                    diagnosis,
                    last_output,
                }
            });
            RevisionProcesses {
                instances: instances.collect(),
                revision,
                desired,
            }
        };
        views.into_iter().map(describe).collect()
    }

    /// The services of which anything runs or is wanted.
    pub fn services(&self) -> Vec<String> {
        lock(&self.shared.services).keys().cloned().collect()
    }

    /// Wakes on every change of what [`observe`](Self::observe) shows (except output); the number only counts.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// The file that an instance writes to; rotated ones are beside it as `.log.1`, `.log.2`, …
    pub fn output_file(&self, key: &SlotKey) -> PathBuf {
        self.shared.outputs.path(key)
    }

    /// Ends the supervisor: waits for what is being started to be recorded and, for [`Shutdown::Stop`], for all
    /// processes to end (at most the longest drain and some seconds).
    pub async fn shutdown(self, how: Shutdown) {
        let want = match how {
            Shutdown::Keep => Want::Detach,
            Shutdown::Stop => Want::Stop,
        };
        for revision in lock(&self.shared.services).values_mut().flat_map(BTreeMap::values_mut) {
            revision.desired = Some(0);
            revision.slots.values().for_each(|slot| slot.want(want.clone()));
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A last `ensure(.., 0)` says how to stop what still runs.
    fn set_rule(&self, service: &str, revision: &str, spec: &ProcessSpec) {
        let services = lock(&self.shared.services);
        if let Some(entry) = services.get(service).and_then(|revisions| revisions.get(revision)) {
            entry.slots.values().for_each(|slot| *lock(&slot.rule) = spec.stop);
        }
    }

    fn adopt(&self) -> Result<Adoption, Diagnosis> {
        let shared = &self.shared;
        let mut adoption = Adoption::default();
        for mut record in shared
            .ledger
            .all()
            .map_err(|e| ledger_failed("the process record", &e))?
        {
            let object = record.key.to_string();
            match shared.find(&record) {
                Some(live) => {
                    record.phase = Phase::Running(live.id.clone());
                    shared.ledger.put(&record).map_err(|e| ledger_failed(&object, &e))?;
                    tracing::info!(instance = %record.key, pid = live.id.pid, "adopted");
                    let (key, launched) = (record.key.clone(), Some((live, &record)));
                    let entry = self.begin(key, Want::Parked, record.stop, launched);
                    let mut services = lock(&shared.services);
                    let revisions = services.entry(record.key.service.clone()).or_default();
                    revisions
                        .entry(record.key.revision.clone())
                        .or_default()
                        .slots
                        .insert(record.key.slot, entry);
                    adoption.adopted.push(record);
                }
                None => {
                    shared
                        .ledger
                        .remove(&record.key)
                        .map_err(|e| ledger_failed(&object, &e))?;
                    adoption.lost.push(record);
                }
            }
        }
        shared.notify();
        Ok(adoption)
    }

    fn begin(&self, key: SlotKey, want: Want, stop: StopRule, adopted: Option<(Live, &ProcessRecord)>) -> SlotEntry {
        let since = adopted
            .as_ref()
            .map_or_else(|| self.shared.clock.now(), |(_, record)| record.started_at);
        let view = Arc::new(Mutex::new(View {
            pid: adopted.as_ref().map(|(live, _)| live.id.pid),
            port: adopted.as_ref().and_then(|(live, _)| live.port()),
            state: State::Starting { since },
            restarts: adopted.as_ref().map_or(0, |(_, record)| record.restarts),
            last_exit: None,
            diagnosis: None,
            log_from: 0,
        }));
        let launches = adopted.as_ref().map_or(0, |(_, record)| record.restarts + 1);
        let (want, wanted) = watch::channel(want);
        let rule = Arc::new(Mutex::new(stop));
        let slot = Slot {
            shared: Arc::clone(&self.shared),
            key,
            want: wanted,
            view: Arc::clone(&view),
            stop: Arc::clone(&rule),
            launches,
            failures: 0,
        };
        let task = self
            .tasks
            .spawn_on(slot.run(adopted.map(|(live, _)| live)), &self.runtime);
        SlotEntry {
            want,
            view,
            rule,
            task: task.abort_handle(),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for revision in lock(&self.shared.services).values().flat_map(BTreeMap::values) {
            revision.slots.values().for_each(|slot| slot.task.abort());
        }
    }
}

type Services = BTreeMap<String, BTreeMap<String, RevisionEntry>>;

/// What the tasks share.
pub(super) struct Shared {
    data_dir: PathBuf,
    outputs: Outputs,
    ledger: Arc<dyn Ledger>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    services: Mutex<Services>,
    ports: Arc<Mutex<BTreeSet<u16>>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct RevisionEntry {
    desired: Option<u32>,
    spec: Option<Arc<ProcessSpec>>,
    slots: BTreeMap<u32, SlotEntry>,
}

struct SlotEntry {
    want: watch::Sender<Want>,
    view: Arc<Mutex<View>>,
    rule: Arc<Mutex<StopRule>>,
    task: AbortHandle,
}

impl SlotEntry {
    fn want(&self, wanted: Want) {
        self.want.send_if_modified(|want| {
            let differs = *want != wanted;
            if differs {
                *want = wanted;
            }
            differs
        });
    }
}

impl Shared {
    pub(super) fn notify(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Runs `work` (files, the ledger, `fork`) off the async threads. It is finished even if the caller is cancelled.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let shared = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is going down and took the work with it: so does this task.
            Err(_) => std::future::pending().await,
        }
    }

    /// Starts one process: intent, process, identity, in this order.
    pub(super) fn launch(&self, key: &SlotKey, spec: &ProcessSpec, restarts: u32) -> Result<Live, Diagnosis> {
        let object = key.to_string();
        let lease = self.lease(spec.port, &object)?;
        let port = lease.as_ref().map(PortLease::port);
        let launch = launch::prepare(spec, key, port)?;
        let (output, log_from) = self.outputs.open(key).map_err(|error| {
            let detail = format!(
                "its output file {} cannot be opened: {error}",
                self.outputs.path(key).display()
            );
            Diagnosis::new(
                Problem::CannotStart,
                &object,
                detail,
                "check the rights of the data directory and the disk",
            )
        })?;
        let started_at = self.clock.now();
        let token = launch_token(&self.data_dir, key, restarts, started_at.as_microsecond());
        let phase = Phase::Intended;
        let key = key.clone();
        let mut record = ProcessRecord {
            key,
            launch: token,
            phase,
            port,
            started_at,
            restarts,
            stop: spec.stop,
        };
        self.ledger
            .put(&record)
            .map_err(|error| ledger_failed(&object, &error))?;
        let child = launch
            .spawn(&record.launch, &output, &self.settings.launcher, &object)
            .inspect_err(|_| {
                self.drop_row(&record.key);
            })?;
        // Not reaped yet, so it has an entry even if it ended already.
        let pid = child.id();
        let Some(id) = proc::identify(pid) else {
            proc::sweep_token(&record.launch);
            let try_this = "mount /proc: Wade cannot tell processes apart without it";
            let detail = format!("/proc/{pid}/stat cannot be read");
            return Err(Diagnosis::new(Problem::CannotStart, object, detail, try_this));
        };
        record.phase = Phase::Running(id.clone());
        if let Err(error) = self.ledger.put(&record) {
            // The intent is enough for the next daemon to find it.
            tracing::warn!(instance = %record.key, %error, "the pid was not recorded");
        }
        Ok(Live::new(id, record.launch, Some(child), lease, log_from, stopwatch()))
    }

    /// The process that a record speaks of, if it still runs. Otherwise ends what is left of it.
    fn find(&self, record: &ProcessRecord) -> Option<Live> {
        let id = match &record.phase {
            Phase::Running(id) => Some(id.clone()),
            Phase::Intended => {
                // Children inherit the token; the one that was launched leads the group.
                let found = proc::with_token(&record.launch);
                found
                    .into_iter()
                    .find(|(pid, stat)| stat.group == *pid)
                    .and_then(|(pid, _)| proc::identify(pid))
            }
        };
        if let Some(id) = &id
            && proc::alive(id)
        {
            let lease = record.port.map(|port| PortLease::take(port, &self.ports));
            let live = Live::new(id.clone(), record.launch.clone(), None, lease, 0, stopwatch());
            // Looked at again now that the descriptor names this very process.
            if proc::alive(id) {
                return Some(live);
            }
        }
        match &id {
            Some(id) => proc::sweep(id, &record.launch),
            None => proc::sweep_token(&record.launch),
        }
        None
    }

    /// After a process ended by itself: says why, ends what it left running, frees its row.
    pub(super) fn clear(&self, key: &SlotKey, live: &Live, ending: Ending, log_from: u64) -> Diagnosis {
        let object = key.to_string();
        let foreign = live
            .port()
            .and_then(|port| check_port(port, &live.id, &live.token, &object).err());
        let diagnosis = slot::explain(ending, &self.outputs.last_lines(key, log_from), object);
        self.forget(key, live);
        // Somebody else on its port explains an early end better than the exit code does.
        match foreign {
            Some(foreign) => Diagnosis {
                detail: format!("{}; {}", foreign.detail, diagnosis.detail),
                ..foreign
            },
            None => diagnosis,
        }
    }

    /// Ends what a process left running and frees its row.
    pub(super) fn forget(&self, key: &SlotKey, live: &Live) {
        proc::sweep(&live.id, &live.token);
        self.drop_row(key);
    }

    fn drop_row(&self, key: &SlotKey) {
        if let Err(error) = self.ledger.remove(key) {
            // Harmless: the row speaks of a process that does not exist, which the next daemon will see.
            tracing::warn!(instance = %key, %error, "a row of an ended process was not removed");
        }
    }

    /// Takes the slot away unless it is wanted again. True if it is gone.
    pub(super) async fn retire(self: &Arc<Self>, key: &SlotKey) -> bool {
        let revision_is_gone = {
            let mut services = lock(&self.services);
            let Some(revisions) = services.get_mut(&key.service) else {
                return true;
            };
            let Some(entry) = revisions.get_mut(&key.revision) else {
                return true;
            };
            if entry
                .slots
                .get(&key.slot)
                .is_some_and(|slot| *slot.want.borrow() != Want::Stop)
            {
                return false;
            }
            entry.slots.remove(&key.slot);
            let gone = entry.slots.is_empty() && entry.desired == Some(0);
            if gone {
                revisions.remove(&key.revision);
            }
            if revisions.is_empty() {
                services.remove(&key.service);
            }
            gone
        };
        self.notify();
        if revision_is_gone {
            let service = key.service.clone();
            self.blocking(move |shared| shared.prune(&service)).await;
        }
        true
    }

    fn prune(&self, service: &str) {
        let live: BTreeSet<String> = lock(&self.services)
            .get(service)
            .into_iter()
            .flat_map(|r| r.keys().cloned())
            .collect();
        let kept = self.settings.removed_outputs_kept;
        if let Err(error) = self.outputs.prune(service, |revision| live.contains(revision), kept) {
            tracing::warn!(service, %error, "output of removed revisions was not deleted");
        }
    }

    fn lease(&self, port: Port, object: &str) -> Result<Option<PortLease>, Diagnosis> {
        let mut taken = lock(&self.ports);
        let port = launch::choose_port(port, |port| taken.contains(&port), object)?;
        Ok(port.map(|port| {
            taken.insert(port);
            PortLease {
                port,
                taken: Arc::clone(&self.ports),
            }
        }))
    }

    fn rotate(&self) {
        let files: Vec<(SlotKey, OutputRule)> = {
            let services = lock(&self.services);
            let all = services
                .iter()
                .flat_map(|(s, revisions)| revisions.iter().map(move |(r, e)| (s, r, e)));
            let known = all.filter_map(|(s, r, e)| Some((s, r, e.spec.as_ref()?.output, e.slots.keys())));
            let key = |service: &str, revision: &str, slot: u32| SlotKey {
                service: service.to_owned(),
                revision: revision.to_owned(),
                slot,
            };
            known
                .flat_map(|(s, r, rule, slots)| slots.map(move |slot| (key(s, r, *slot), rule)))
                .collect()
        };
        for (key, rule) in files {
            match self.outputs.rotate(&key, &rule) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(instance = %key, %error, "its output was not rotated"),
            }
        }
    }
}

/// A port that no other slot is given while this exists.
pub(super) struct PortLease {
    port: u16,
    taken: Arc<Mutex<BTreeSet<u16>>>,
}

impl PortLease {
    fn take(port: u16, taken: &Arc<Mutex<BTreeSet<u16>>>) -> Self {
        lock(taken).insert(port);
        Self {
            port,
            taken: Arc::clone(taken),
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.port);
    }
}

/// A poisoned lock is still the state: its writers change one field at a time.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn rotate(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(shared.settings.rotate_every);
    loop {
        ticks.tick().await;
        shared.blocking(Shared::rotate).await;
    }
}

fn ledger_failed(object: &str, error: &LedgerError) -> Diagnosis {
    let detail = format!("{error}: {}", error.source);
    Diagnosis::new(
        Problem::LedgerFailed,
        object,
        detail,
        "free disk space or correct the file's rights, then try again",
    )
}

fn lock_directory(data_dir: &Path) -> Result<(File, PathBuf), Diagnosis> {
    let object = format!("the data directory {}", data_dir.display());
    let failed = |error: std::io::Error| {
        let detail = format!("it cannot be used: {error}");
        Diagnosis::new(
            Problem::PermissionDenied,
            &object,
            detail,
            "name a directory that Wade may write to",
        )
    };
    fs::create_dir_all(data_dir).map_err(failed)?;
    let data_dir = data_dir.canonicalize().map_err(failed)?;
    let file = File::options()
        .create(true)
        .append(true)
        .open(data_dir.join("processes.lock"))
        .map_err(failed)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            let detail = "another Wade runs the processes of this directory";
            Diagnosis::new(
                Problem::AlreadyRunning,
                &object,
                detail,
                "use that one, or another data directory",
            )
        } else {
            failed(error.into())
        }
    })?;
    Ok((file, data_dir))
}
