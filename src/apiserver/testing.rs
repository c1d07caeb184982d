//! A small API server in memory: for tests that ask what Wade sends, and what it does when the server misbehaves.
//!
//! It stores objects by path and does what matters of the real one: resource versions and uids with their conflicts,
//! merge patches and JSON patches (all or nothing, with `test`), writes that change nothing and so make no new version,
//! `metadata.generation`, the removal of what a removed object owns, lists, watches (with objects that begin or cease to
//! match a selector) and the texts of the real server's refusals. Server-side apply is a merge that creates: who owns
//! which field is not kept. There are no controllers, no admission and no defaults: a test plays these with
//! [`FakeServer::put`] and [`FakeServer::edit`].
//!
//! It names nothing of this crate, so that tests outside of it can include the file.
#![allow(dead_code, reason = "a kit: not every test binary that includes it uses all of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::stream;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use patch::{merge, patch_json};

// By path, so that it is found wherever this file is included.
#[path = "testing/patch.rs"]
mod patch;

/// The server; clones share it.
#[derive(Clone)]
pub(crate) struct FakeServer {
    inner: Arc<Mutex<Inner>>,
    /// The newest version, and how often the server has gone away.
    news: watch::Sender<(u64, u64)>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    version: u64,
    outages: u64,
    log: Vec<Change>,
    asked: Vec<Asked>,
    troubles: Vec<(Method, String, Trouble)>,
    hooks: Vec<(Method, String, Hook)>,
    answers: Vec<(Method, String, u16, String)>,
    unknown: Vec<String>,
    down: bool,
}

type Hook = Box<dyn FnOnce(&FakeServer) + Send>;

struct Change {
    version: u64,
    collection: String,
    before: Option<Value>,
    after: Option<Value>,
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    /// `null` without a body.
    pub(crate) body: Value,
    /// How it was answered; 0 if it was not.
    pub(crate) status: u16,
}

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// Nothing is done.
    Unreachable,
    /// It is done, and the answer is lost.
    LostAnswer,
    /// Nothing is done and nothing is answered, ever.
    Silence,
    /// Refused with code, reason, message.
    Refused(u16, &'static str, &'static str),
}

struct Place {
    collection: String,
    name: Option<String>,
}

impl FakeServer {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            inner: Arc::default(),
            news: watch::Sender::new((0, 0)),
        }
    }

    /// A client of it. Must be called inside a tokio runtime.
    pub(crate) fn client(&self, namespace: &str) -> kube::Client {
        let app = axum::Router::new().fallback(serve).with_state(self.clone());
        kube::Client::new(app, namespace)
    }

    /// The object at a path, as stored.
    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.inner().objects.get(path).cloned()
    }

    /// All objects below a collection's path.
    pub(crate) fn objects(&self, collection: &str) -> Vec<Value> {
        let inner = self.inner();
        inner.below(collection).map(|(_, object)| object.clone()).collect()
    }

    /// Stores an object as somebody else would: created, or replaced without a precondition.
    pub(crate) fn put(&self, path: &str, object: Value) -> Value {
        let mut inner = self.inner();
        let stored = inner.store(path, object);
        self.tell(&inner);
        stored
    }

    /// Changes an object as somebody else would. Panics if there is none.
    pub(crate) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut inner = self.inner();
        let mut object = inner.objects.get(path).cloned().expect("an object to edit");
        change(&mut object);
        let stored = inner.store(path, object);
        self.tell(&inner);
        stored
    }

    /// Removes an object, and what it owns, as somebody else would.
    pub(crate) fn remove(&self, path: &str) {
        let mut inner = self.inner();
        inner.remove(path);
        self.tell(&inner);
    }

    /// Everything that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.inner().asked.clone()
    }

    /// What was asked so far that may change something.
    pub(crate) fn writes(&self) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|asked| asked.method != Method::GET);
        asked
    }

    /// Forgets what was asked.
    pub(crate) fn forget(&self) {
        self.inner().asked.clear();
    }

    /// The next request of this method whose path contains `path` goes wrong; several are used up in order.
    pub(crate) fn trouble(&self, method: Method, path: &str, trouble: Trouble) {
        self.inner().troubles.push((method, path.to_owned(), trouble));
    }

    /// Does something right before the next request of this method whose path contains `path` is carried out.
    pub(crate) fn before(&self, method: Method, path: &str, hook: impl FnOnce(&Self) + Send + 'static) {
        self.inner().hooks.push((method, path.to_owned(), Box::new(hook)));
    }

    /// Requests of this method whose path begins with `path` are answered so: reviews, logs, a pod's own port.
    pub(crate) fn answer(&self, method: Method, path: &str, status: u16, text: &str) {
        let mut inner = self.inner();
        inner
            .answers
            .retain(|(known, at, ..)| (known, at.as_str()) != (&method, path));
        inner.answers.push((method, path.to_owned(), status, text.to_owned()));
    }

    /// The server does not know what begins with this path (`/apis/gateway.networking.k8s.io`).
    pub(crate) fn without(&self, path: &str) {
        self.inner().unknown.push(path.to_owned());
    }

    /// Goes away: requests fail, watches end.
    pub(crate) fn go_down(&self) {
        let mut inner = self.inner();
        inner.down = true;
        inner.outages += 1;
        self.tell(&inner);
    }

    /// Comes back, with what it had.
    pub(crate) fn come_back(&self) {
        self.inner().down = false;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, inner: &Inner) {
        self.news.send_replace((inner.version, inner.outages));
    }

    fn carry_out(&self, method: &Method, path: &str, media: &str, body: &Value) -> Answer {
        let mut inner = self.inner();
        let known = inner
            .answers
            .iter()
            .find(|(known, at, ..)| known == method && path.starts_with(at.as_str()));
        if let Some((_, _, status, text)) = known {
            return Answer::Text(*status, text.clone());
        }
        if inner.unknown.iter().any(|unknown| path.starts_with(unknown.as_str())) {
            return status(404, "NotFound", "the server could not find the requested resource");
        }
        let place = place(path);
        let answer = match (method.as_str(), &place.name) {
            ("GET", Some(name)) => inner.get(&place.path(), name),
            ("POST", None) => inner.create(&place.collection, body),
            ("PUT", Some(name)) => inner.replace(&place.path(), name, body),
            ("PATCH", Some(name)) => inner.patch(&place.path(), name, media, body),
            ("DELETE", Some(name)) => inner.delete(&place.path(), name, body),
            _ => status(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ),
        };
        self.tell(&inner);
        answer
    }

    fn list(&self, collection: &str, query: &BTreeMap<String, String>) -> Answer {
        let inner = self.inner();
        if inner
            .unknown
            .iter()
            .any(|unknown| collection.starts_with(unknown.as_str()))
        {
            return status(404, "NotFound", "the server could not find the requested resource");
        }
        let items: Vec<Value> = inner
            .below(collection)
            .filter(|(_, object)| matches(object, query))
            .map(|(_, object)| bare(object))
            .collect();
        let version = inner.version.to_string();
        Answer::Json(
            200,
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    fn watch(&self, collection: &str, query: BTreeMap<String, String>) -> Body {
        let from = query.get("resourceVersion").and_then(|word| word.parse().ok());
        let outages = self.inner().outages;
        let start = (self.clone(), self.news.subscribe(), from.unwrap_or(0));
        let collection = collection.to_owned();
        Body::from_stream(stream::unfold(start, move |(server, mut news, mut last)| {
            let (collection, query) = (collection.clone(), query.clone());
            async move {
                loop {
                    news.borrow_and_update();
                    {
                        let inner = server.inner();
                        if inner.outages != outages {
                            return None;
                        }
                        let seen = last;
                        let new = inner.log.iter().filter(|change| change.version > seen);
                        for change in new {
                            last = change.version;
                            if change.collection != collection {
                                continue;
                            }
                            if let Some(line) = event(change, &query) {
                                drop(inner);
                                return Some((Ok::<_, std::convert::Infallible>(line), (server, news, last)));
                            }
                        }
                    }
                    news.changed().await.ok()?;
                }
            }
        }))
    }
}

/// What a watcher with this selection is told of a change.
fn event(change: &Change, query: &BTreeMap<String, String>) -> Option<String> {
    let before = change.before.as_ref().filter(|object| matches(object, query));
    let after = change.after.as_ref().filter(|object| matches(object, query));
    let (word, object) = match (before, after) {
        (None, None) => return None,
        (None, Some(object)) => ("ADDED", object),
        (Some(_), Some(object)) => ("MODIFIED", object),
        (Some(object), None) => ("DELETED", change.after.as_ref().unwrap_or(object)),
    };
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = json!(change.version.to_string());
    Some(format!("{}\n", json!({"type": word, "object": object})))
}

enum Answer {
    Json(u16, Value),
    Text(u16, String),
}

fn status(code: u16, reason: &str, message: &str) -> Answer {
    Answer::Json(
        code,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "code": code}),
    )
}

impl Inner {
    fn below<'a>(&'a self, collection: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        let prefix = format!("{collection}/");
        self.objects
            .iter()
            .filter(move |(path, _)| path.strip_prefix(&prefix).is_some_and(|name| !name.contains('/')))
    }

    /// Stores, unless nothing changes; a new object gets a uid.
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        let before = self.objects.get(path).cloned();
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let place = place(path);
        object["metadata"]["name"] = json!(place.name.clone().unwrap_or_default());
        if let Some(before) = &before {
            for field in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
                object["metadata"][field] = before["metadata"][field].clone();
            }
            if *before == object {
                return object;
            }
        }
        self.version += 1;
        if before.is_none() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
            object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            object["metadata"]["generation"] = json!(1);
        }
        if let Some(before) = before.as_ref().filter(|before| before["spec"] != object["spec"]) {
            let generation = before["metadata"]["generation"].as_u64().unwrap_or(0);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        self.log.push(Change {
            version: self.version,
            collection: place.collection,
            before,
            after: Some(object.clone()),
        });
        object
    }

    fn remove(&mut self, path: &str) {
        let Some(object) = self.objects.remove(path) else {
            return;
        };
        self.version += 1;
        let uid = object["metadata"]["uid"].clone();
        self.log.push(Change {
            version: self.version,
            collection: place(path).collection,
            before: Some(object),
            after: None,
        });
        let owned: Vec<String> = self
            .objects
            .iter()
            .filter(|(_, object)| {
                object["metadata"]["ownerReferences"]
                    .as_array()
                    .is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in owned {
            self.remove(&path);
        }
    }

    fn get(&self, path: &str, name: &str) -> Answer {
        match self.objects.get(path) {
            Some(object) => Answer::Json(200, object.clone()),
            None => not_found(path, name),
        }
    }

    fn create(&mut self, collection: &str, body: &Value) -> Answer {
        let mut name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            let stem = body["metadata"]["generateName"].as_str().unwrap_or("generated-");
            name = format!("{stem}{}", self.version);
        }
        let path = format!("{collection}/{name}");
        if self.objects.contains_key(&path) {
            return status(409, "AlreadyExists", &format!("{} already exists", words(&path, &name)));
        }
        if let Some(refusal) = too_large(&path, &name, body) {
            return refusal;
        }
        Answer::Json(201, self.store(&path, body.clone()))
    }

    fn replace(&mut self, path: &str, name: &str, body: &Value) -> Answer {
        let Some(known) = self.objects.get(path) else {
            return not_found(path, name);
        };
        self.admit(path, name, &known.clone(), body.clone(), Vec::new())
    }

    fn patch(&mut self, path: &str, name: &str, media: &str, body: &Value) -> Answer {
        let Some(known) = self.objects.get(path).cloned() else {
            return match media {
                "application/apply-patch+yaml" => Answer::Json(201, self.store(path, body.clone())),
                _ => not_found(path, name),
            };
        };
        let mut object = known.clone();
        match media {
            "application/json-patch+json" => {
                if patch_json(&mut object, body).is_err() {
                    // The real server does not say which operation failed, or why.
                    return status(
                        422,
                        "Invalid",
                        "the server rejected our request due to an error in our request",
                    );
                }
            }
            "application/merge-patch+json" | "application/apply-patch+yaml" => merge(&mut object, body),
            other => {
                return status(
                    415,
                    "UnsupportedMediaType",
                    &format!("the fake server cannot patch by {other}"),
                );
            }
        }
        self.admit(path, name, &known, object, Vec::new())
    }

    /// Stores a changed object if its preconditions hold.
    fn admit(&mut self, path: &str, name: &str, known: &Value, object: Value, mut broken: Vec<&str>) -> Answer {
        for field in ["uid", "resourceVersion"] {
            let asked = &object["metadata"][field];
            if asked.is_string() && *asked != "" && *asked != known["metadata"][field] {
                broken.push(field);
            }
        }
        if !broken.is_empty() {
            let message = format!(
                "Operation cannot be fulfilled on {}: the object has been modified; please apply your changes to the \
                 latest version and try again",
                words(path, name)
            );
            return status(409, "Conflict", &message);
        }
        if let Some(refusal) = too_large(path, name, &object) {
            return refusal;
        }
        Answer::Json(200, self.store(path, object))
    }

    fn delete(&mut self, path: &str, name: &str, options: &Value) -> Answer {
        let Some(known) = self.objects.get(path) else {
            return not_found(path, name);
        };
        let asked = &options["preconditions"]["uid"];
        if asked.is_string() && *asked != known["metadata"]["uid"] {
            let message = format!("Precondition failed: UID in precondition: {asked}");
            return status(409, "Conflict", &message);
        }
        self.remove(path);
        Answer::Json(
            200,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
        )
    }
}

/// `configmaps "x"`.
fn words(path: &str, name: &str) -> String {
    let collection = place(path).collection;
    format!("{} \"{name}\"", collection.rsplit('/').next().unwrap_or_default())
}

fn not_found(path: &str, name: &str) -> Answer {
    status(404, "NotFound", &format!("{} not found", words(path, name)))
}

/// A ConfigMap holds 1 MiB.
fn too_large(path: &str, name: &str, object: &Value) -> Option<Answer> {
    let data = object["data"].as_object().filter(|_| path.contains("/configmaps/"))?;
    let size: usize = data
        .iter()
        .map(|(_, text)| text.as_str().unwrap_or_default().len())
        .sum();
    let message = format!("ConfigMap \"{name}\" is invalid: []: Too long: may not be more than 1048576 bytes");
    (size > 1 << 20).then(|| status(422, "Invalid", &message))
}

impl Place {
    fn path(&self) -> String {
        format!("{}/{}", self.collection, self.name.as_deref().unwrap_or_default())
    }
}

/// Where a path points; a subresource is its object.
fn place(path: &str) -> Place {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let base = if parts.first() == Some(&"api") { 2 } else { 3 };
    let plural = if parts.get(base) == Some(&"namespaces") && parts.len() > base + 2 {
        base + 2
    } else {
        base
    };
    let end = (plural + 1).min(parts.len());
    Place {
        collection: format!("/{}", parts[..end].join("/")),
        name: parts.get(plural + 1).map(|name| (*name).to_owned()),
    }
}

fn matches(object: &Value, query: &BTreeMap<String, String>) -> bool {
    let terms = |key: &str| {
        let words = query.get(key).cloned().unwrap_or_default();
        // `a=b,c in (d,e)` has two terms: what stands in brackets is one.
        let mut found: Vec<String> = Vec::new();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            match found
                .last_mut()
                .filter(|last| last.contains('(') && !last.contains(')'))
            {
                Some(last) => last.push_str(&format!(",{word}")),
                None => found.push(word.to_owned()),
            }
        }
        found
    };
    let labels = terms("labelSelector").into_iter().all(|term| {
        let labels = &object["metadata"]["labels"];
        if let Some((key, values)) = term.split_once(" in ") {
            let values = values.trim_matches(['(', ')']);
            values.split(',').any(|value| labels[key] == value)
        } else if let Some((key, value)) = term.split_once("!=") {
            labels[key] != value
        } else if let Some((key, value)) = term.split_once('=') {
            labels[key] == value.trim_start_matches('=')
        } else {
            !labels[term.as_str()].is_null()
        }
    });
    let fields = terms("fieldSelector").into_iter().all(|term| {
        term.split_once('=').is_some_and(|(key, value)| {
            let pointer = format!("/{}", key.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str) == Some(value)
        })
    });
    labels && fields
}

/// As items of a list are: without their kind.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.shift_remove("apiVersion");
        fields.shift_remove("kind");
    }
    object
}

fn unescaped(word: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = word.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            byte => byte,
        };
        out.push(byte);
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn serve(State(server): State<FakeServer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method, parts.uri.path().to_owned());
    let raw_query = parts.uri.query().unwrap_or_default().to_owned();
    let query: BTreeMap<String, String> = raw_query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (unescaped(key), unescaped(value)))
        .collect();
    let media = parts
        .headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let (trouble, hook, at) = {
        let mut inner = server.inner();
        inner.asked.push(Asked {
            method: method.clone(),
            path: path.clone(),
            query: raw_query,
            body: body.clone(),
            status: 0,
        });
        let fits = |on: &Method, at: &str| *on == method && path.contains(at);
        let trouble = inner.troubles.iter().position(|(on, at, _)| fits(on, at));
        let trouble = trouble.map(|index| inner.troubles.remove(index).2);
        let hook = inner.hooks.iter().position(|(on, at, _)| fits(on, at));
        let hook = hook.map(|index| inner.hooks.remove(index).2);
        let trouble = if inner.down {
            Some(Trouble::Unreachable)
        } else {
            trouble
        };
        (trouble, hook, inner.asked.len() - 1)
    };
    if let Some(hook) = hook {
        hook(&server);
    }
    let unreachable = || {
        status(
            503,
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
        )
    };
    let answer = match trouble {
        Some(Trouble::Unreachable) => unreachable(),
        Some(Trouble::Silence) => return std::future::pending().await,
        Some(Trouble::Refused(code, reason, message)) => status(code, reason, message),
        trouble => {
            let place = place(&path);
            let lists = method == Method::GET && place.name.is_none();
            if lists && query.get("watch").is_some_and(|word| word == "true" || word == "1") {
                return Response::new(server.watch(&place.collection, query));
            }
            let done = if lists {
                server.list(&place.collection, &query)
            } else {
                server.carry_out(&method, &path, &media, &body)
            };
            match trouble {
                Some(Trouble::LostAnswer) => unreachable(),
                _ => done,
            }
        }
    };
    let (code, text) = match answer {
        Answer::Json(code, value) => (code, value.to_string()),
        Answer::Text(code, text) => (code, text),
    };
    if let Some(asked) = server.inner().asked.get_mut(at) {
        asked.status = code;
    }
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a code that HTTP has");
    response
}
