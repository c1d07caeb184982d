//! What is known of a namespace: watched, so that looking costs no request and news arrive in milliseconds.
//!
//! One task per watched kind keeps the objects up to date and wakes whoever waits. Own writes are put in at once
//! ([`View::put`]), so a look right after a write sees it; a watch that still tells of an older version does not
//! overwrite the newer one (resource versions are compared as numbers, which every API server in use keeps).
//!
//! A watch that is broken is said to be ([`View::trouble`]), never taken for "nothing there".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::value::{name, resource_version, uid};
use super::{ApiError, ApiServer, Kind, Seen, Selection};
use crate::clock::stopwatch;

/// A watch that cannot be connected fails again within this: the pause between two tries and the time to connect.
const FAILS_WITHIN: Duration = Duration::from_secs(8);

/// A watched part of a namespace. Dropping it ends the watches.
#[derive(Debug)]
pub struct View {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    kinds: Mutex<BTreeMap<Kind, Watched>>,
    changed: Notify,
    wake: Arc<Notify>,
}

/// A watch that fails again and again.
#[derive(Debug)]
struct Broken {
    error: ApiError,
    since: Instant,
    /// The last failure: one that has been connected again and has nothing to tell says nothing at all.
    last: Instant,
}

#[derive(Debug, Default)]
struct Watched {
    objects: BTreeMap<String, Arc<Value>>,
    synced: bool,
    /// What is wrong with the watch.
    trouble: Option<Broken>,
}

impl View {
    /// Begins to watch; `wake` is told of every change. Must be called inside a tokio runtime.
    pub fn start(api: &ApiServer, what: &[(Kind, Selection)], wake: Arc<Notify>) -> Self {
        let kinds = what.iter().map(|(kind, _)| (*kind, Watched::default())).collect();
        let shared = Arc::new(Shared {
            kinds: Mutex::new(kinds),
            changed: Notify::new(),
            wake,
        });
        let tasks = what
            .iter()
            .map(|(kind, which)| tokio::spawn(follow(api.clone(), *kind, which.clone(), Arc::clone(&shared))))
            .collect();
        Self { shared, tasks }
    }

    /// Waits until everything has been listed once.
    ///
    /// # Errors
    /// The trouble of a watch that did not come about in time.
    pub async fn synced(&self, within: Duration) -> Result<(), ApiError> {
        let all = async {
            loop {
                let changed = self.shared.changed.notified();
                if self.kinds().values().all(|watched| watched.synced) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(within, all).await.is_ok() {
            return Ok(());
        }
        let kinds = self.kinds();
        let (kind, late) = kinds
            .iter()
            .find(|(_, watched)| !watched.synced)
            .expect("the wait above ended because one is not synced");
        Err(late.trouble.as_ref().map_or_else(
            || {
                ApiError::other(
                    "watch",
                    kind.plural(),
                    super::Fault::Unreachable("no answer in time".to_owned()),
                )
            },
            |broken| broken.error.clone(),
        ))
    }

    /// One object.
    pub fn get(&self, kind: Kind, name: &str) -> Option<Arc<Value>> {
        self.kinds().get(&kind)?.objects.get(name).cloned()
    }

    /// All objects of a kind, by name.
    pub fn list(&self, kind: Kind) -> Vec<Arc<Value>> {
        self.kinds()
            .get(&kind)
            .map(|watched| watched.objects.values().cloned().collect())
            .unwrap_or_default()
    }

    /// An own write as the server answered it: it counts at once.
    pub fn put(&self, kind: Kind, object: Value) {
        let mut kinds = self.kinds();
        if let Some(watched) = kinds.get_mut(&kind) {
            watched.newer(object);
        }
    }

    /// An object that is known to be gone.
    pub fn gone(&self, kind: Kind, name: &str) {
        if let Some(watched) = self.kinds().get_mut(&kind) {
            watched.objects.remove(name);
        }
    }

    /// A watch that has been broken for at least this long and still is.
    pub fn trouble(&self, at_least: Duration) -> Option<ApiError> {
        self.kinds()
            .values()
            .filter_map(|watched| watched.trouble.as_ref())
            .find(|broken| broken.since.elapsed() >= at_least && broken.last.elapsed() < FAILS_WITHIN)
            .map(|broken| broken.error.clone())
    }

    fn kinds(&self) -> MutexGuard<'_, BTreeMap<Kind, Watched>> {
        self.shared.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Watched {
    /// Puts an object in, unless a newer version of the same object is known.
    fn newer(&mut self, object: Value) {
        let version = |object: &Value| resource_version(object).parse::<u64>().unwrap_or(0);
        let known = self.objects.get(name(&object));
        if known.is_some_and(|known| uid(known) == uid(&object) && version(known) > version(&object)) {
            return;
        }
        self.objects.insert(name(&object).to_owned(), Arc::new(object));
    }
}

async fn follow(api: ApiServer, kind: Kind, which: Selection, shared: Arc<Shared>) {
    let mut events = std::pin::pin!(api.watch(kind, &which));
    while let Some(event) = events.next().await {
        {
            let mut kinds = shared.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(watched) = kinds.get_mut(&kind) else { return };
            match event {
                Ok(seen) => {
                    watched.trouble = None;
                    match seen {
                        Seen::All(objects) => {
                            let names: Vec<&str> = objects.iter().map(name).collect();
                            watched.objects.retain(|known, _| names.contains(&known.as_str()));
                            objects.into_iter().for_each(|object| watched.newer(object));
                            watched.synced = true;
                        }
                        Seen::Object(object) => watched.newer(object),
                        Seen::Gone(object) => {
                            if watched
                                .objects
                                .get(name(&object))
                                .is_some_and(|known| uid(known) == uid(&object))
                            {
                                watched.objects.remove(name(&object));
                            }
                        }
                    }
                }
                Err(error) => {
                    let now = stopwatch();
                    let before = watched
                        .trouble
                        .as_ref()
                        .filter(|broken| broken.last.elapsed() < FAILS_WITHIN);
                    let since = before.map_or(now, |broken| broken.since);
                    watched.trouble = Some(Broken {
                        error,
                        since,
                        last: now,
                    });
                }
            }
        }
        shared.changed.notify_waiters();
        shared.wake.notify_one();
    }
}
