//! One service on this machine: its processes, the proxy in front, and who is stable and canary just now.
//!
//! The service holds *what should hold* (sides, sizes, split) in memory and brings it about through the supervisor and
//! the proxy; both are level-triggered, so [`Service::sync`] may be called at any time and is called on every change
//! of a process. It decides nothing and records nothing: on a restart the daemon tells it again, from the record.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::process::{Diagnosis, Instance, Problem, ProcessSpec, RevisionProcesses, State, Supervisor};
use super::proxy::{
    Backend, MatchOn, MatchRule, MatchTest, Mirror, Proxy, ProxyConfig, ProxyError, Routes, Snapshot, StickyCookie,
};
use crate::clock::Clock;
use crate::engine::{self, Presence};
use crate::judge::Sides;
use crate::plan::Split;
use crate::platforms::PlatformError;
use crate::spec::TrafficMatch;

/// What a service is made with.
#[derive(Clone, Debug)]
pub struct ServiceSetup {
    /// The rollout's name.
    pub name: String,
    /// Where the proxy listens; `None` for work that does not come as HTTP.
    pub listen: Option<SocketAddr>,
    /// How long a backend may take to begin its answer.
    pub answer_within: Option<Duration>,
    /// Keep each user on one revision.
    pub sticky: Option<StickyCookie>,
    /// Where the instances are listed for a Prometheus server's `file_sd_configs`, with service, revision and version
    /// as labels.
    pub targets: Option<PathBuf>,
}

/// A revision that runs, or should.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// The revision's hash.
    pub id: String,
    /// What people call it.
    pub version: String,
    /// What is run.
    pub spec: ProcessSpec,
    /// Instances at full size.
    pub full: u32,
    /// Instances wanted now.
    pub wanted: u32,
}

/// One service on this machine.
pub struct Service {
    name: String,
    supervisor: Arc<Supervisor>,
    proxy: Option<Proxy>,
    sticky: Option<StickyCookie>,
    targets: Option<PathBuf>,
    clock: Arc<dyn Clock>,
    epoch: AtomicU64,
    inner: Mutex<Inner>,
    /// Wakes the release's controller on every change of a process.
    pub wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    sides: Sides<Option<Running>>,
    split: Split,
    none_ready: BTreeMap<String, Timestamp>,
    /// The list of instances as it was written last.
    listed: String,
}

impl Service {
    /// Takes the service's address and begins to watch its processes; requests wait until [`Self::begin`]. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn open(
        setup: ServiceSetup,
        supervisor: Arc<Supervisor>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, ProxyError> {
        let proxy = setup
            .listen
            .map(|listen| {
                let mut config = ProxyConfig::new(setup.name.clone(), listen);
                if let Some(within) = setup.answer_within {
                    config.answer_timeout = within;
                }
                Proxy::reserve(config)
            })
            .transpose()?;
        let service = Arc::new(Self {
            name: setup.name,
            supervisor,
            proxy,
            sticky: setup.sticky,
            targets: setup.targets,
            clock,
            epoch: AtomicU64::new(0),
            inner: Mutex::default(),
            wake: Arc::new(Notify::new()),
        });
        service.watch();
        Ok(service)
    }

    /// Lets requests in, now that the service has been told who serves them. Repeating it is harmless.
    pub fn begin(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.begin();
        }
    }

    /// The task ends by itself when the service is gone.
    fn watch(self: &Arc<Self>) -> JoinHandle<()> {
        let mut changes = self.supervisor.changes();
        let service = Arc::downgrade(self);
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(service) = service.upgrade() else { break };
                service.sync();
                service.wake.notify_one();
            }
        })
    }

    /// The clock that the service goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Whether requests come in through a proxy.
    pub fn has_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the proxy listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.proxy.as_ref().map(Proxy::local_addr)
    }

    /// The split in force.
    pub fn split(&self) -> Split {
        self.lock().split.clone()
    }

    /// Who runs as which side.
    pub fn sides(&self) -> Sides<Option<Running>> {
        self.lock().sides.clone()
    }

    /// What the proxy has counted.
    pub fn traffic(&self) -> Snapshot {
        self.proxy.as_ref().map(Proxy::snapshot).unwrap_or_default()
    }

    /// The proxy's metrics as Prometheus text.
    pub fn metrics(&self) -> String {
        self.proxy.as_ref().map(Proxy::encode_metrics).unwrap_or_default()
    }

    /// The processes by revision.
    pub fn processes(&self) -> Vec<RevisionProcesses> {
        self.supervisor.observe(&self.name)
    }

    /// Changes who runs as what and how requests are divided, then brings it about.
    ///
    /// # Errors
    /// When a workload can never run as asked, or the split cannot be routed.
    pub fn change(&self, change: impl FnOnce(&mut Sides<Option<Running>>, &mut Split)) -> Result<(), PlatformError> {
        let wanted: Vec<Running> = {
            let mut inner = self.lock();
            let Inner { sides, split, .. } = &mut *inner;
            change(sides, split);
            [&inner.sides.stable, &inner.sides.canary]
                .into_iter()
                .flatten()
                .cloned()
                .collect()
        };
        for running in &wanted {
            self.supervisor
                .ensure(&self.name, &running.id, &running.spec, running.wanted)
                .map_err(|diagnosis| PlatformError::Refused(diagnosis.to_string()))?;
        }
        self.sync();
        Ok(())
    }

    /// Stops every instance of a revision.
    pub fn remove(&self, revision: &str) {
        self.supervisor.remove(&self.name, revision);
        self.sync();
    }

    /// Refuses an epoch lower than the highest seen.
    ///
    /// # Errors
    /// [`PlatformError::Fenced`].
    pub fn admit(&self, epoch: u64) -> Result<(), PlatformError> {
        let theirs = self.epoch.fetch_max(epoch, Ordering::SeqCst);
        if theirs > epoch {
            Err(PlatformError::Fenced { ours: epoch, theirs })
        } else {
            Ok(())
        }
    }

    /// Gives the proxy the split with the instances that are ready now.
    pub fn sync(&self) {
        let processes = self.processes();
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.note_readiness(&processes, now);
        if let Some(proxy) = &self.proxy {
            let routes = routes(&inner, &processes, self.sticky.as_ref());
            if proxy.routes() != routes
                && let Err(error) = proxy.set_routes(routes)
            {
                tracing::error!(rollout = self.name, %error, "routes refused");
            }
        }
        if let Some(path) = &self.targets {
            let list = target_list(&self.name, &inner.sides, &processes);
            if list != inner.listed {
                match replace(path, &list) {
                    Ok(()) => inner.listed = list,
                    Err(error) => {
                        tracing::warn!(rollout = self.name, %error, path = %path.display(), "the list of instances for Prometheus cannot be written");
                    }
                }
            }
        }
    }

    /// One side's instances as the engine sees them.
    pub fn presence(&self, revision: &str, full: u32, wanted: u32) -> Presence {
        let processes = self.processes();
        let drained = self.proxy.as_ref().is_none_or(|proxy| proxy.drained(revision));
        let none_ready_since = self.lock().none_ready.get(revision).copied();
        let Some(processes) = processes.into_iter().find(|processes| processes.revision == revision) else {
            return Presence {
                full,
                drained,
                none_ready_since,
                ..Presence::default()
            };
        };
        let live: Vec<&Instance> = processes
            .instances
            .iter()
            .filter(|instance| !matches!(instance.state, State::Stopping { .. }))
            .collect();
        let ready: Vec<Timestamp> = live.iter().filter_map(|instance| ready_since(instance)).collect();
        let all = wanted > 0 && ready.len() as u32 >= wanted;
        Presence {
            exists: processes.instances.len() as u32,
            full,
            ready: ready.len() as u32,
            ready_since: if all { ready.iter().max().copied() } else { None },
            none_ready_since,
            restarts: live.iter().map(|instance| instance.restarts).sum(),
            drained,
            diagnosis: live
                .iter()
                .filter_map(|instance| instance.diagnosis.as_ref())
                .max_by_key(|d| is_fatal(d))
                .map(in_engine_words),
        }
    }

    /// The addresses of a revision's ready instances, with their names.
    pub fn ready_instances(&self, revision: &str) -> Vec<(String, SocketAddr)> {
        let processes = self.processes();
        processes
            .iter()
            .filter(|processes| processes.revision == revision)
            .flat_map(|processes| &processes.instances)
            .filter(|instance| ready_since(instance).is_some())
            .filter_map(|instance| Some((format!("{}-{}", self.name, instance.slot), endpoint(instance)?)))
            .collect()
    }

    /// Stops taking requests and lets those under way finish.
    pub async fn close(&self, grace: Duration) {
        if let Some(proxy) = &self.proxy {
            proxy.shutdown(grace).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note_readiness(&mut self, processes: &[RevisionProcesses], now: Timestamp) {
        let running: Vec<&str> = [&self.sides.canary, &self.sides.stable]
            .into_iter()
            .flatten()
            .map(|r| r.id.as_str())
            .collect();
        self.none_ready
            .retain(|revision, _| running.contains(&revision.as_str()));
        for id in running {
            let any = processes
                .iter()
                .any(|p| p.revision == id && p.instances.iter().any(|i| ready_since(i).is_some()));
            if any {
                self.none_ready.remove(id);
            } else {
                self.none_ready.entry(id.to_owned()).or_insert(now);
            }
        }
    }
}

pub(super) fn ready_since(instance: &Instance) -> Option<Timestamp> {
    match instance.state {
        State::Ready { since } => Some(since),
        _ => None,
    }
}

pub(super) fn endpoint(instance: &Instance) -> Option<SocketAddr> {
    instance.port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
}

fn endpoints(processes: &[RevisionProcesses], revision: &str, also_unready: bool) -> Vec<SocketAddr> {
    let instances = || {
        processes
            .iter()
            .filter(|p| p.revision == revision)
            .flat_map(|p| &p.instances)
    };
    let ready: Vec<SocketAddr> = instances()
        .filter(|i| ready_since(i).is_some())
        .filter_map(endpoint)
        .collect();
    if !ready.is_empty() || !also_unready {
        return ready;
    }
    // When no probe of a revision that has users answers, trying is better than refusing all of them. So it is right
    // after a restart of the daemon, too: what it adopted has not been probed yet and serves as it did before.
    instances()
        .filter(|i| matches!(i.state, State::Unready { .. } | State::Starting { .. }))
        .filter_map(endpoint)
        .collect()
}

fn routes(inner: &Inner, processes: &[RevisionProcesses], sticky: Option<&StickyCookie>) -> Routes {
    let split = &inner.split;
    let mut backends = Vec::new();
    let stable_weight = split.weight.rest().permille();
    if let Some(stable) = &inner.sides.stable {
        backends.push(Backend {
            revision: stable.id.clone(),
            weight: stable_weight,
            endpoints: endpoints(processes, &stable.id, true),
        });
    }
    if let Some(canary) = inner
        .sides
        .canary
        .as_ref()
        .filter(|canary| inner.sides.stable.as_ref().is_none_or(|stable| stable.id != canary.id))
    {
        backends.push(Backend {
            revision: canary.id.clone(),
            weight: split.weight.permille(),
            // Without a share, whoever asks for it by a header must not meet a version that is not ready.
            endpoints: endpoints(processes, &canary.id, !split.weight.is_zero()),
        });
    }
    // A share without anybody to take it: whoever is there gets everything, or nobody does and requests get 503.
    let sum: u16 = backends.iter().map(|backend| backend.weight).sum();
    if sum != 1000 {
        for backend in &mut backends {
            backend.weight = 0;
        }
        if split.weight.is_zero() && inner.sides.stable.is_some() {
            backends[0].weight = 1000;
        }
    }
    let canary = inner
        .sides
        .canary
        .as_ref()
        .filter(|canary| backends.iter().any(|backend| backend.revision == canary.id));
    let matches = split
        .matching
        .as_ref()
        .zip(canary)
        .map(|(matching, canary)| match_rule(matching, &canary.id));
    let mirror = canary.filter(|_| !split.mirror.is_zero()).map(|canary| Mirror {
        revision: canary.id.clone(),
        permille: split.mirror.permille(),
    });
    Routes {
        split: backends,
        matches: matches.into_iter().collect(),
        sticky: sticky.cloned(),
        mirror,
    }
}

/// The instances that run, as Prometheus reads them from a file.
fn target_list(service: &str, sides: &Sides<Option<Running>>, processes: &[RevisionProcesses]) -> String {
    let group = |running: &Running| {
        let instances = processes
            .iter()
            .filter(|p| p.revision == running.id)
            .flat_map(|p| &p.instances);
        let targets: Vec<String> = instances
            .filter_map(endpoint)
            .map(|address| address.to_string())
            .collect();
        serde_json::json!({
            "targets": targets,
            "labels": {"service": service, "revision": running.id, "version": running.version},
        })
    };
    let groups: Vec<serde_json::Value> = [&sides.stable, &sides.canary]
        .into_iter()
        .flatten()
        .map(group)
        .collect();
    serde_json::Value::Array(groups).to_string()
}

/// Whole or not at all: Prometheus may read at any moment.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)
}

fn match_rule(matching: &TrafficMatch, revision: &str) -> MatchRule {
    let (on, named) = match matching {
        TrafficMatch::Header(named) => (MatchOn::Header(named.name.clone()), named),
        TrafficMatch::Cookie(named) => (MatchOn::Cookie(named.name.clone()), named),
    };
    let test = named.value.clone().map_or(MatchTest::Present, MatchTest::Exact);
    MatchRule {
        on,
        test,
        revision: revision.to_owned(),
    }
}

/// What waiting does not mend.
const fn is_fatal(diagnosis: &Diagnosis) -> bool {
    matches!(
        diagnosis.what,
        Problem::InvalidSpec
            | Problem::CommandNotFound
            | Problem::NotExecutable
            | Problem::WorkdirMissing
            | Problem::PermissionDenied
            | Problem::RootRefused
            | Problem::UserUnavailable
            | Problem::CrashLoop
    )
}

fn in_engine_words(diagnosis: &Diagnosis) -> engine::Diagnosis {
    engine::Diagnosis {
        kind: diagnosis.what.label().to_owned(),
        message: diagnosis.to_string(),
        fatal: is_fatal(diagnosis),
    }
}
