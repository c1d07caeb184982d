//! What is known of the whole cluster: every Rollout, Release and Deployment, each as the few facts that a decision needs.
//!
//! Watched once for the whole cluster, so that a thousand idle rollouts cost no request and, since of each object only a
//! sketch is kept, little memory. What is needed beyond that is read when a release begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::grumble::Grumbler;
use crate::apiserver::value::{annotation, count, flag, label, name, number, text, uid};
use crate::apiserver::{ApiError, ApiServer, Kind, Seen, Selection};
use crate::clock::stopwatch;
use crate::crd;
use crate::platforms::kubernetes::{HOLD, LEFT_PAUSED, RELEASE, WRITE, managers, template, workload};
use crate::spec::Workload;

/// An object of some namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What of a Rollout object is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySketch {
    /// Where it is.
    pub at: At,
    /// Its uid.
    pub uid: String,
    /// Which version of its spec.
    pub generation: u64,
    /// The Deployment that it is about, or every fault of it.
    pub deployment: Result<String, String>,
    /// Its status as it stands there, so that nothing is written that stands there already.
    pub status: Box<str>,
    /// It is on its way out, and waits for Wade to let go.
    pub leaving: bool,
    /// What it says under the label by which releases at once are bounded, if they are.
    pub group: Option<String>,
}

impl At {
    /// Another object of the same namespace.
    pub fn beside(&self, name: &str) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }
}

impl PolicySketch {
    /// The Deployment that it is about; one of its own name as long as it does not say.
    pub fn about(&self) -> At {
        self.at.beside(self.deployment.as_ref().unwrap_or(&self.at.name))
    }
}

/// What of a Deployment is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentSketch {
    /// Its uid.
    pub uid: String,
    /// `spec.paused`.
    pub paused: bool,
    /// Who says so, if somebody does: a policy of the API server leaves no name.
    pub paused_by: Option<String>,
    /// A release holds it, or has not quite let go of it.
    pub held: bool,
    /// Wade has left it paused, because its template is not Wade's to put back.
    pub left_paused: bool,
    /// It carries the label by which the policy pauses it.
    pub labelled: bool,
    /// What its pod template comes to.
    pub template: String,
    /// Who wrote the template last.
    pub writer: Option<String>,
    /// All its pods are of this template, and available.
    pub complete: bool,
    /// How many pods it wants.
    pub replicas: u32,
}

/// What of a Release object is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskSketch {
    /// The Rollout.
    pub rollout: String,
    /// Nobody has taken it up yet.
    pub pending: bool,
    /// The release's number, once it has one.
    pub number: Option<u64>,
    /// It is over.
    pub over: bool,
}

/// The cluster as it is watched. Dropping it ends the watches.
pub struct Fleet {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    wake: Notify,
    synced: Notify,
}

#[derive(Default)]
struct Known {
    policies: BTreeMap<At, PolicySketch>,
    deployments: BTreeMap<At, DeploymentSketch>,
    asks: BTreeMap<At, AskSketch>,
    /// Rollouts by the Deployment that they are about, and Release objects by their Rollout: names, since all of it is in
    /// one namespace.
    about: BTreeMap<At, BTreeSet<String>>,
    asked_of: BTreeMap<At, BTreeSet<String>>,
    /// Deployments about which something has changed.
    dirty: BTreeSet<At>,
    synced: BTreeSet<Kind>,
    trouble: BTreeMap<Kind, Broken>,
}

/// A watch that fails.
struct Broken {
    error: ApiError,
    /// The last failure: a watch that is told nothing new does not say that it has been connected again.
    last: Instant,
}

/// A watch that cannot be connected fails again within this: the pause between two tries and the time to connect.
pub(super) const FAILS_WITHIN: Duration = Duration::from_secs(8);

/// Label of a Release object that asks for nothing: it shows a release that somebody began in another way.
pub const SHOWN: &str = "wade.dev/shown";
/// The kinds that are watched.
const WATCHED: [Kind; 3] = [Kind::Rollout, Kind::Deployment, Kind::Release];

impl Fleet {
    /// Begins to watch: the whole cluster if `api`'s namespace is empty, else that namespace alone.
    /// `by` is the label of Rollouts by which releases at once are bounded.
    pub fn start(api: &ApiServer, by: Option<String>) -> Self {
        let shared = Arc::new(Shared::default());
        let policy = move |object: &Value| policy(object, by.as_deref());
        let tasks = vec![
            follow(api, Kind::Rollout, policy, Arc::clone(&shared), |known, at, sketch| {
                let before = known.policies.get(&at).cloned();
                for one in before.iter().chain(sketch.as_ref()) {
                    // Its own status is no news.
                    let same = before.as_ref().zip(sketch.as_ref()).is_some_and(|(before, now)| {
                        (before.generation, before.leaving) == (now.generation, now.leaving) && before.uid == now.uid
                    });
                    if !same {
                        known.dirty.insert(one.about());
                    }
                }
                known.put_policy(&at, sketch);
            }),
            follow(
                api,
                Kind::Deployment,
                deployment,
                Arc::clone(&shared),
                |known, at, sketch| {
                    if known.deployments.get(&at) != sketch.as_ref() {
                        known.dirty.insert(at.clone());
                    }
                    put(&mut known.deployments, at, sketch);
                },
            ),
            follow(api, Kind::Release, ask, Arc::clone(&shared), |known, at, sketch| {
                if let Some(sketch) = sketch.as_ref().filter(|sketch| sketch.pending) {
                    let about = at.beside(&sketch.rollout);
                    let about = known.policies.get(&about).map_or(about, PolicySketch::about);
                    known.dirty.insert(about);
                }
                known.put_ask(&at, sketch);
            }),
        ];
        Self { shared, tasks }
    }

    /// Waits until everything has been listed once.
    pub async fn synced(&self) {
        loop {
            let changed = self.shared.synced.notified();
            if self.is_synced() {
                return;
            }
            changed.await;
        }
    }

    /// Whether everything has been listed once.
    pub fn is_synced(&self) -> bool {
        self.known().synced.len() == WATCHED.len()
    }

    /// What is wrong with a watch now.
    pub fn trouble(&self) -> Option<ApiError> {
        self.known().broken().map(|(_, error)| error.clone()).next()
    }

    /// How many watches are told everything, and how many are not.
    pub fn watches(&self) -> (usize, usize) {
        let known = self.known();
        let failing: BTreeSet<Kind> = known.broken().map(|(kind, _)| kind).collect();
        let broken = WATCHED
            .iter()
            .filter(|kind| failing.contains(kind) || !known.synced.contains(kind))
            .count();
        (WATCHED.len() - broken, broken)
    }

    /// Waits for news.
    pub async fn changed(&self) {
        self.shared.wake.notified().await;
    }

    /// Everything about which there is news since the last call.
    pub fn take_dirty(&self) -> BTreeSet<At> {
        std::mem::take(&mut self.known().dirty)
    }

    /// Looks at these again.
    pub fn mark(&self, which: impl IntoIterator<Item = At>) {
        self.known().dirty.extend(which);
        self.shared.wake.notify_one();
    }

    /// Looks at everything again.
    pub fn mark_all(&self) {
        {
            let mut known = self.known();
            let all: Vec<At> = known.deployments.keys().cloned().collect();
            let missing: Vec<At> = known.policies.values().map(PolicySketch::about).collect();
            known.dirty.extend(all);
            known.dirty.extend(missing);
        }
        self.shared.wake.notify_one();
    }

    /// The Deployment.
    pub fn deployment(&self, at: &At) -> Option<DeploymentSketch> {
        self.known().deployments.get(at).cloned()
    }

    /// Every Deployment that a release holds.
    pub fn held(&self) -> Vec<At> {
        let known = self.known();
        let held = known.deployments.iter().filter(|(_, deployment)| deployment.held);
        held.map(|(at, _)| at.clone()).collect()
    }

    /// Every Rollout about this Deployment, by name: there should be one.
    pub fn policies(&self, at: &At) -> Vec<PolicySketch> {
        let known = self.known();
        known.policies_about(at).cloned().collect()
    }

    /// The Rollout.
    pub fn policy(&self, at: &At) -> Option<PolicySketch> {
        self.known().policies.get(at).cloned()
    }

    /// Every Rollout with its Deployment.
    pub fn all_policies(&self) -> Vec<PolicySketch> {
        self.known().policies.values().cloned().collect()
    }

    /// The Release objects about a Deployment, by name.
    pub fn asks(&self, at: &At) -> Vec<(String, AskSketch)> {
        let known = self.known();
        let rollouts = known.policies_about(at).map(|policy| &policy.at);
        let names = rollouts.filter_map(|rollout| known.asked_of.get(rollout)).flatten();
        names
            .filter_map(|name| {
                let ask = known.asks.get(&at.beside(name))?;
                Some((name.clone(), ask.clone()))
            })
            .collect()
    }

    /// A status as it was written: it counts at once.
    pub fn wrote_status(&self, policy: &At, status: &str) {
        if let Some(known) = self.known().policies.get_mut(policy) {
            known.status = status.into();
        }
    }

    /// A Release object as its status was written: it counts at once.
    pub fn answered(&self, ask: &At, over: bool) {
        if let Some(known) = self.known().asks.get_mut(ask) {
            known.pending = false;
            known.over |= over;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Known {
    fn put_policy(&mut self, at: &At, sketch: Option<PolicySketch>) {
        let now = sketch.as_ref().map(PolicySketch::about);
        let before = match sketch {
            Some(sketch) => self.policies.insert(at.clone(), sketch),
            None => self.policies.remove(at),
        };
        let before = before.map(|before| before.about());
        move_name(&mut self.about, before, now, &at.name);
    }

    fn put_ask(&mut self, at: &At, sketch: Option<AskSketch>) {
        let now = sketch.as_ref().map(|ask| at.beside(&ask.rollout));
        let before = match sketch {
            Some(sketch) => self.asks.insert(at.clone(), sketch),
            None => self.asks.remove(at),
        };
        let before = before.map(|before| at.beside(&before.rollout));
        move_name(&mut self.asked_of, before, now, &at.name);
    }

    fn policies_about(&self, at: &At) -> impl Iterator<Item = &PolicySketch> {
        let names = self.about.get(at).into_iter().flatten();
        let namespace = at.clone();
        names.filter_map(move |name| self.policies.get(&namespace.beside(name)))
    }

    /// The watches that fail now, and why.
    fn broken(&self) -> impl Iterator<Item = (Kind, &ApiError)> {
        let failing = self
            .trouble
            .iter()
            // What was never listed has not been connected again either.
            .filter(|(kind, broken)| !self.synced.contains(kind) || broken.last.elapsed() < FAILS_WITHIN);
        failing.map(|(kind, broken)| (*kind, &broken.error))
    }
}

/// Keeps an index of names: taken from under `before`, put under `now`.
fn move_name(index: &mut BTreeMap<At, BTreeSet<String>>, before: Option<At>, now: Option<At>, name: &str) {
    if before == now {
        return;
    }
    if let Some(before) = before
        && let Some(names) = index.get_mut(&before)
    {
        names.remove(name);
        if names.is_empty() {
            index.remove(&before);
        }
    }
    if let Some(now) = now {
        index.entry(now).or_default().insert(name.to_owned());
    }
}

fn put<T>(into: &mut BTreeMap<At, T>, at: At, sketch: Option<T>) {
    match sketch {
        Some(sketch) => {
            into.insert(at, sketch);
        }
        None => {
            into.remove(&at);
        }
    }
}

/// Follows one kind; `set` is told of each change, with `None` for what is gone.
fn follow<T: Send + 'static>(
    api: &ApiServer,
    kind: Kind,
    sketch: impl Fn(&Value) -> T + Send + Sync + Clone + 'static,
    shared: Arc<Shared>,
    set: impl Fn(&mut Known, At, Option<T>) + Send + 'static,
) -> JoinHandle<()> {
    let stream = api.watch_as(kind, &Selection::default(), move |object| {
        (place(&object), sketch(&object))
    });
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        let grumbler = Grumbler::default();
        let mut there: BTreeSet<At> = BTreeSet::new();
        while let Some(event) = stream.next().await {
            {
                let mut known = shared.known.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Ok(seen) => {
                        known.trouble.remove(&kind);
                        match seen {
                            Seen::All(objects) => {
                                let now: BTreeSet<At> = objects.iter().map(|(at, _)| at.clone()).collect();
                                for gone in there.difference(&now) {
                                    set(&mut known, gone.clone(), None);
                                }
                                for (at, sketch) in objects {
                                    set(&mut known, at, Some(sketch));
                                }
                                there = now;
                                known.synced.insert(kind);
                            }
                            Seen::Object((at, sketch)) => {
                                there.insert(at.clone());
                                set(&mut known, at, Some(sketch));
                            }
                            Seen::Gone((at, _)) => {
                                there.remove(&at);
                                set(&mut known, at, None);
                            }
                        }
                    }
                    Err(error) => {
                        if let Some(unsaid) = grumbler.may_say_of("watch", &error) {
                            tracing::warn!(%error, unsaid, "a watch is broken; it is opened again and again");
                        }
                        let last = stopwatch();
                        known.trouble.insert(kind, Broken { error, last });
                    }
                }
            }
            shared.synced.notify_waiters();
            shared.wake.notify_one();
        }
    })
}

fn place(object: &Value) -> At {
    At {
        namespace: text(object, "/metadata/namespace").to_owned(),
        name: name(object).to_owned(),
    }
}

fn policy(object: &Value, by: Option<&str>) -> PolicySketch {
    let deployment = match crd::rollout::read(object) {
        Ok(rollout) => match rollout.spec.workload {
            Workload::Deployment(name) => Ok(name),
            Workload::Process(_) => Err("spec.workload: a process cannot run in a cluster".to_owned()),
        },
        Err(faults) => Err(faults.to_string()),
    };
    PolicySketch {
        at: place(object),
        uid: uid(object).to_owned(),
        generation: number(object, "/metadata/generation").unwrap_or(0),
        deployment,
        status: object.get("status").map(Value::to_string).unwrap_or_default().into(),
        leaving: object.pointer("/metadata/deletionTimestamp").is_some(),
        group: by.and_then(|key| label(object, key)).map(str::to_owned),
    }
}

fn deployment(object: &Value) -> DeploymentSketch {
    let replicas = workload::replicas(object);
    let seen = count(object, "/status/observedGeneration") >= count(object, "/metadata/generation");
    let all = ["replicas", "updatedReplicas", "availableReplicas"]
        .iter()
        .all(|what| count(object, &format!("/status/{what}")) == replicas);
    DeploymentSketch {
        uid: uid(object).to_owned(),
        paused: flag(object, "/spec/paused"),
        paused_by: managers::managers_of(object, &["spec", "paused"])
            .first()
            .map(|manager| manager.manager.clone()),
        // In its last step a release has lifted the hold, and its mark is still there: whoever carries it may die between
        // the two (seen: a release that was never over, because nobody looked for it).
        held: annotation(object, RELEASE).is_some() || annotation(object, WRITE).is_some(),
        left_paused: annotation(object, LEFT_PAUSED).is_some(),
        labelled: label(object, HOLD) == Some("true"),
        template: template::revision_of(object),
        writer: managers::last_writer(object, &["spec", "template"]),
        complete: seen && all,
        replicas,
    }
}

fn ask(object: &Value) -> AskSketch {
    AskSketch {
        rollout: text(object, "/spec/rollout").to_owned(),
        pending: text(object, "/status/phase").is_empty() && label(object, SHOWN).is_none(),
        number: number(object, "/status/number"),
        over: !text(object, "/status/outcome").is_empty(),
    }
}
