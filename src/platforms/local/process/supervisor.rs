//! The whole: what is wanted of every service, and one task per slot that brings it about.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::diagnosis::{Diagnosis, Problem};
use super::ledger::{Ledger, Phase, ProcessRecord, SlotKey};
use super::output::Outputs;
use super::shared::{Shared, SlotEntry, ledger_failed, lock};
use super::slot::{Exit, Live, Slot, State, View, Want};
use super::spec::{ProcessSpec, Settings, StopRule, check_name};
use super::user;
use crate::clock::Clock;

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
    lock: File,
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
            lock,
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
        // Closing alone would not do at once: a child between fork and exec still shares the file. An error leaves it
        // to the closing.
        let _unlocked = flock(&self.lock, FlockOperation::Unlock);
    }
}

async fn rotate(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(shared.settings.rotate_every);
    loop {
        ticks.tick().await;
        shared.blocking(Shared::rotate).await;
    }
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
