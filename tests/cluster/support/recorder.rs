//! An independent witness: it watches a namespace's objects from outside and remembers every state of each of them.
//!
//! What a checker asks is answered from that history by plain functions, so that "never short of a pod" means at no
//! moment that the API server knew of, and not at the moments somebody happened to look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::api::{Api, Kind, Refused};
use super::now;

/// What is watched.
const WATCHED: [Kind; 8] = [
    Kind::ConfigMap,
    Kind::Deployment,
    Kind::EndpointSlice,
    Kind::HttpRoute,
    Kind::Lease,
    Kind::Pod,
    Kind::ReplicaSet,
    Kind::Service,
];

/// What happened to an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// It was there when it was first looked at, or has come to be.
    Added,
    /// It is another one than before.
    Modified,
    /// It is gone; the state is its last one.
    Deleted,
}

/// One state of one object.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// When the recorder heard of it.
    pub(crate) at: Timestamp,
    pub(crate) kind: Kind,
    pub(crate) change: Change,
    pub(crate) object: Arc<Value>,
}

impl Seen {
    /// The object's name.
    pub(crate) fn name(&self) -> &str {
        text(&self.object, "/metadata/name")
    }

    /// The object's identity: another one of the same name has another.
    pub(crate) fn uid(&self) -> &str {
        text(&self.object, "/metadata/uid")
    }
}

/// Watching, until dropped.
#[derive(Debug)]
pub(crate) struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Recorder {
    /// Begins, and returns when everything that is there has been seen once.
    pub(crate) async fn start(api: &Api, namespace: &str) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (listed, mut all_listed) = mpsc::channel(WATCHED.len());
        let tasks = WATCHED
            .map(|kind| {
                let watch = Watch {
                    api: api.clone(),
                    kind,
                    collection: kind.collection(namespace),
                    seen: seen.clone(),
                    known: BTreeMap::new(),
                };
                tokio::spawn(watch.follow(listed.clone()))
            })
            .into();
        for _ in WATCHED {
            all_listed.recv().await.expect("each watch says when it has listed");
        }
        Self { seen, tasks }
    }

    /// Everything so far.
    pub(crate) fn history(&self) -> History {
        History(self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One kind's watch. It survives the API server's restarts: what went unseen meanwhile is made up for by a new list.
struct Watch {
    api: Api,
    kind: Kind,
    collection: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// The present objects by identity.
    known: BTreeMap<String, Arc<Value>>,
}

impl Watch {
    async fn follow(mut self, listed: mpsc::Sender<()>) {
        let mut listed = Some(listed);
        loop {
            // A server that is away, or has forgotten the version that the watch began at: from the beginning.
            if let Ok(mut stream) = self.list().await {
                if let Some(listed) = listed.take() {
                    // Nobody waits any more if the recorder is gone.
                    let _ = listed.send(()).await;
                }
                self.read(&mut stream).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Lists, notes what differs from before, and opens the watch from there.
    async fn list(&mut self) -> Result<Response, Refused> {
        let list = self.api.get(&self.collection).await?;
        let mut gone = self.known.clone();
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        for item in items {
            let before = gone.remove(text(&item, "/metadata/uid"));
            match before {
                None => self.note(Change::Added, item),
                Some(before) if *before != item => self.note(Change::Modified, item),
                Some(_) => {}
            }
        }
        for object in gone.into_values() {
            self.note(Change::Deleted, (*object).clone());
        }
        let version = text(&list, "/metadata/resourceVersion");
        let path = format!("{}?watch=1&resourceVersion={version}", self.collection);
        self.api.send(Method::GET, &path, None).await
    }

    /// Reads events, one to a line, until the stream ends.
    async fn read(&mut self, stream: &mut Response) {
        let mut rest = Vec::new();
        while let Ok(Some(chunk)) = stream.chunk().await {
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let Ok(mut event) = serde_json::from_slice::<Value>(&line) else {
                    return;
                };
                let change = match text(&event, "/type") {
                    "ADDED" => Change::Added,
                    "MODIFIED" => Change::Modified,
                    "DELETED" => Change::Deleted,
                    // An ERROR: the server wants a new list.
                    _ => return,
                };
                self.note(change, event["object"].take());
            }
        }
    }

    fn note(&mut self, change: Change, object: Value) {
        let object = Arc::new(object);
        let uid = text(&object, "/metadata/uid").to_owned();
        match change {
            Change::Added | Change::Modified => self.known.insert(uid, object.clone()),
            Change::Deleted => self.known.remove(&uid),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken under the lock, so that the history is in the order of its times.
        seen.push(Seen {
            at: now(),
            kind: self.kind,
            change,
            object,
        });
    }
}

/// All that was seen, in order.
#[derive(Clone, Debug)]
pub(crate) struct History(Vec<Seen>);

impl History {
    /// Only what was seen from this moment on.
    pub(crate) fn since(&self, from: Timestamp) -> Self {
        Self(self.0.iter().filter(|seen| seen.at >= from).cloned().collect())
    }

    /// Only what was seen before this moment.
    pub(crate) fn until(&self, to: Timestamp) -> Self {
        Self(self.0.iter().filter(|seen| seen.at < to).cloned().collect())
    }

    /// Everything that was seen of a kind.
    pub(crate) fn of(&self, kind: Kind) -> impl Iterator<Item = &Seen> {
        self.0.iter().filter(move |seen| seen.kind == kind)
    }

    /// The objects of a kind that are there at the end.
    pub(crate) fn present(&self, kind: Kind) -> Vec<Arc<Value>> {
        let mut present = BTreeMap::new();
        for seen in self.of(kind) {
            match seen.change {
                Change::Deleted => present.remove(seen.uid()),
                Change::Added | Change::Modified => present.insert(seen.uid(), seen.object.clone()),
            };
        }
        present.into_values().collect()
    }

    /// How often objects of this kind and name were written, by anyone, their status included.
    pub(crate) fn writes(&self, kind: Kind, name: &str) -> usize {
        self.of(kind).filter(|seen| seen.name() == name).count()
    }

    /// The identities of all pods that were ever there: each is a pod start.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        self.of(Kind::Pod).map(|seen| seen.uid().to_owned()).collect()
    }

    /// How often containers were started again, in all pods together.
    pub(crate) fn restarts(&self) -> u64 {
        let mut most = BTreeMap::<&str, u64>::new();
        for seen in self.of(Kind::Pod) {
            let statuses = seen
                .object
                .pointer("/status/containerStatuses")
                .and_then(Value::as_array);
            let count: u64 = statuses
                .into_iter()
                .flatten()
                .filter_map(|status| status.get("restartCount").and_then(Value::as_u64))
                .sum();
            let known = most.entry(seen.uid()).or_default();
            *known = count.max(*known);
        }
        most.values().sum()
    }

    /// The number of ready pods that the condition holds for, whenever it changed.
    pub(crate) fn ready_pods(&self, holds: impl Fn(&Value) -> bool) -> Vec<(Timestamp, usize)> {
        let mut ready = BTreeSet::new();
        let mut counts = Vec::new();
        for seen in self.of(Kind::Pod) {
            let counts_now = seen.change != Change::Deleted && is_serving(&seen.object) && holds(&seen.object);
            let changed = if counts_now {
                ready.insert(seen.uid())
            } else {
                ready.remove(seen.uid())
            };
            if changed {
                counts.push((seen.at, ready.len()));
            }
        }
        counts
    }

    /// The number of ready endpoints of a Service, whenever it changed.
    pub(crate) fn ready_endpoints(&self, service: &str) -> Vec<(Timestamp, usize)> {
        let mut slices = BTreeMap::new();
        let mut counts: Vec<(Timestamp, usize)> = Vec::new();
        let owner = "/metadata/labels/kubernetes.io~1service-name";
        for seen in self.of(Kind::EndpointSlice) {
            if text(&seen.object, owner) != service {
                continue;
            }
            let ready = if seen.change == Change::Deleted {
                0
            } else {
                endpoints(&seen.object)
            };
            slices.insert(seen.uid(), ready);
            let total = slices.values().sum();
            if counts.last().is_none_or(|(_, last)| *last != total) {
                counts.push((seen.at, total));
            }
        }
        counts
    }
}

/// The lowest of the counts from a moment on; what held at that moment counts too.
pub(crate) fn lowest(counts: &[(Timestamp, usize)], from: Timestamp) -> Option<usize> {
    let before = counts.iter().rev().find(|(at, _)| *at < from);
    let after = counts.iter().filter(|(at, _)| *at >= from);
    before.into_iter().chain(after).map(|(_, count)| *count).min()
}

/// Ready, and not on its way out.
fn is_serving(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready && pod.pointer("/metadata/deletionTimestamp").is_none()
}

fn endpoints(slice: &Value) -> usize {
    let endpoints = slice.get("endpoints").and_then(Value::as_array);
    endpoints
        .into_iter()
        .flatten()
        .filter(|endpoint| endpoint.pointer("/conditions/ready") == Some(&Value::Bool(true)))
        .count()
}

/// A text at a JSON pointer; empty if there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
