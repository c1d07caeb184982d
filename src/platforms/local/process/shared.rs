//! What the slots' tasks share, and the work they have done off the async threads: launching, clearing up, forgetting.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::diagnosis::{Diagnosis, Problem};
use super::identity::launch_token;
use super::launch;
use super::ledger::{Ledger, LedgerError, Phase, ProcessRecord, SlotKey};
use super::output::Outputs;
use super::proc;
use super::slot::{self, Ending, Live, View, Want, check_port};
use super::spec::{OutputRule, Port, ProcessSpec, Settings, StopRule};
use crate::clock::{Clock, stopwatch};

pub(super) type Services = BTreeMap<String, BTreeMap<String, RevisionEntry>>;

/// What the tasks share.
pub(super) struct Shared {
    pub(super) data_dir: PathBuf,
    pub(super) outputs: Outputs,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    pub(super) services: Mutex<Services>,
    pub(super) ports: Arc<Mutex<BTreeSet<u16>>>,
    pub(super) changes: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct RevisionEntry {
    pub(super) desired: Option<u32>,
    pub(super) spec: Option<Arc<ProcessSpec>>,
    pub(super) slots: BTreeMap<u32, SlotEntry>,
}

pub(super) struct SlotEntry {
    pub(super) want: watch::Sender<Want>,
    pub(super) view: Arc<Mutex<View>>,
    pub(super) rule: Arc<Mutex<StopRule>>,
    pub(super) task: AbortHandle,
}

impl SlotEntry {
    pub(super) fn want(&self, wanted: Want) {
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
    pub(super) fn find(&self, record: &ProcessRecord) -> Option<Live> {
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

    pub(super) fn rotate(&self) {
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
    pub(super) fn take(port: u16, taken: &Arc<Mutex<BTreeSet<u16>>>) -> Self {
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

pub(super) fn ledger_failed(object: &str, error: &LedgerError) -> Diagnosis {
    let detail = format!("{error}: {}", error.source);
    Diagnosis::new(
        Problem::LedgerFailed,
        object,
        detail,
        "free disk space or correct the file's rights, then try again",
    )
}
