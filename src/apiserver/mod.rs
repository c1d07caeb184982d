//! The Kubernetes API server: one handle, objects as JSON values.
//!
//! Why values and not typed structs: what Wade copies (a pod template) or puts back (a route's rules) has to come back
//! whole, and a struct drops every field that is newer than itself. So requests are built as plain values by plain
//! functions, which tests compare, and this module only carries them. kube does what it is good at: kubeconfig,
//! credentials, TLS, watches that survive their connection.
//!
//! Every call bounds its own time ([`REQUEST_WITHIN`]) and every fault says verb, kind and name, and whether asking
//! again may help. Reading on: [`kind`] (which objects), [`error`] (what can go wrong), [`value`] (reaching into them).

mod again;
mod discovery;
pub mod error;
pub mod kind;
mod meter;
pub mod value;
pub mod view;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use http::{Method, Request};
use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use again::Again;
pub use error::{ApiError, Fault};
pub use kind::Kind;
pub use meter::Meter;

use crate::clock::stopwatch;

/// The longest a request may take; a watch is not one.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// As which field manager Wade writes.
pub const MANAGER: &str = "wade";
/// So many objects are listed at a time. A page is in memory whole, as a tree many times the size of its text, and what
/// was once allocated is seldom given back: with 200 a daemon's memory was that of its first list.
const PAGE: u32 = 50;
/// The longest answer of a pod that is taken.
const MOST_LOG: u32 = 16 * 1024;

/// A handle on one namespace of one cluster; clones share the connection.
#[derive(Clone)]
pub struct ApiServer {
    client: kube::Client,
    namespace: String,
    /// Inside the cluster: pods can be reached by their addresses.
    inside: bool,
    /// The server's address, for messages.
    place: String,
    /// Who counts what is asked.
    meter: Option<Arc<dyn Meter>>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiServer({}, namespace {})", self.place, self.namespace)
    }
}

/// How to find the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// A kubeconfig file; KUBECONFIG, ~/.kube/config or the pod's own account if not said.
    pub kubeconfig: Option<std::path::PathBuf>,
    /// A context of the kubeconfig; its current one if not said.
    pub context: Option<String>,
    /// The namespace; the context's own if not said.
    pub namespace: Option<String>,
    /// Act as this user (impersonation); mostly for tests of permissions.
    pub token_file: Option<std::path::PathBuf>,
}

/// How an object is changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 7386: objects are merged, `null` removes.
    Merge(Value),
    /// RFC 6902: a list of operations, all or none; `test` makes it conditional.
    Json(Value),
    /// Server-side apply with force, as this field manager.
    Apply {
        /// The object, whole as far as it is ours.
        object: Value,
        /// As whom.
        manager: String,
        /// Take fields over from others.
        force: bool,
    },
}

/// Which objects of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector.
    pub fields: Option<String>,
}

impl Selection {
    /// By labels.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self {
            labels: Some(selector.into()),
            fields: None,
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Self {
        Self {
            labels: None,
            fields: Some(format!("metadata.name={name}")),
        }
    }

    /// By fields.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self {
            labels: None,
            fields: Some(selector.into()),
        }
    }

    fn query(&self) -> String {
        let mut words = Vec::new();
        for (key, value) in [("labelSelector", &self.labels), ("fieldSelector", &self.fields)] {
            if let Some(value) = value {
                words.push(format!("{key}={}", escaped(value)));
            }
        }
        words.join("&")
    }
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<T = Value> {
    /// Everything that there is now, whole; what is not in it is gone.
    All(Vec<T>),
    /// One object, new or changed.
    Object(T),
    /// One object that is gone.
    Gone(T),
}

impl ApiServer {
    /// Finds the cluster and makes a handle; nothing is sent yet.
    ///
    /// # Errors
    /// No kubeconfig and no account of a pod, or one that cannot be understood.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ApiError> {
        let broken = |error: &dyn std::error::Error| {
            ApiError::other(
                "connect to",
                "the cluster",
                Fault::Unreachable(format!(
                    "{}; set KUBECONFIG, use --kubeconfig, or run where a pod's account is mounted",
                    chain(error)
                )),
            )
        };
        let choice = KubeConfigOptions {
            context: options.context.clone(),
            ..KubeConfigOptions::default()
        };
        let explicit = options.kubeconfig.is_some() || options.context.is_some();
        let (mut config, inside) = match &options.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| broken(&error))?;
                let config = kube::Config::from_custom_kubeconfig(file, &choice).await;
                (config.map_err(|error| broken(&error))?, false)
            }
            None => match kube::Config::from_kubeconfig(&choice).await {
                Ok(config) => (config, false),
                Err(error) if explicit => return Err(broken(&error)),
                Err(outside) => match kube::Config::incluster() {
                    Ok(config) => (config, true),
                    // The kubeconfig is what a person means; the account is the other thing that was tried.
                    Err(_) => return Err(broken(&outside)),
                },
            },
        };
        if let Some(path) = &options.token_file {
            config.auth_info = kube::config::AuthInfo {
                token_file: Some(path.display().to_string()),
                ..kube::config::AuthInfo::default()
            };
        }
        // A connection that is dead without a word must not look like a server that thinks.
        config.connect_timeout = Some(REQUEST_WITHIN);
        // The cluster's audit log should say who it was.
        let who = http::HeaderValue::from_static(concat!("wade/", env!("CARGO_PKG_VERSION")));
        config.headers.push((http::header::USER_AGENT, who));
        let namespace = options.namespace.clone().unwrap_or(config.default_namespace.clone());
        let place = config.cluster_url.to_string();
        let client = kube::Client::try_from(config).map_err(|error| broken(&error))?;
        Ok(Self {
            client,
            namespace,
            inside,
            place,
            meter: None,
        })
    }

    /// A handle over a client that exists, for tests against a scripted server.
    pub fn over(client: kube::Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            inside: false,
            place: "a test".to_owned(),
            meter: None,
        }
    }

    /// With somebody who counts what is asked.
    #[must_use]
    pub fn metered(mut self, meter: Arc<dyn Meter>) -> Self {
        self.meter = Some(meter);
        self
    }

    /// The same cluster, in another namespace. The empty one means all of them, for lists and watches.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self.clone()
        }
    }

    /// The same cluster, with its pods reached by their addresses: for a daemon that runs in its network.
    #[must_use]
    pub fn from_inside(&self) -> Self {
        Self {
            inside: true,
            ..self.clone()
        }
    }

    /// The namespace that everything happens in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether pods can be reached by their addresses, because this runs in one.
    pub fn is_inside(&self) -> bool {
        self.inside
    }

    /// The server's address, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// When the credentials run out, where they say so.
    pub fn valid_until(&self) -> Option<Timestamp> {
        let until = self.client.valid_until().as_ref()?;
        Timestamp::from_second(until.as_second()).ok()
    }

    /// One object; `None` if there is none.
    ///
    /// # Errors
    /// Not reachable, not permitted.
    pub async fn get(&self, kind: Kind, name: &str) -> Result<Option<Value>, ApiError> {
        let path = kind.path(&self.namespace, Some(name));
        match self.ask(Method::GET, &path, None, "get", kind, name).await {
            Ok(value) => Ok(Some(value)),
            Err(ApiError {
                fault: Fault::NotFound, ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind.
    ///
    /// # Errors
    /// Not reachable, not permitted; [`Fault::NotFound`] if the cluster does not know the kind.
    pub async fn list(&self, kind: Kind, which: &Selection) -> Result<Vec<Value>, ApiError> {
        let path = with_query(kind.path(&self.namespace, None), &which.query());
        let mut list = self.ask(Method::GET, &path, None, "list", kind, "").await?;
        let Value::Array(mut items) = list["items"].take() else {
            return Ok(Vec::new());
        };
        for item in &mut items {
            kind.stamp(item);
        }
        Ok(items)
    }

    /// Creates an object and returns it as stored.
    ///
    /// # Errors
    /// [`Fault::Exists`] and what the server refuses.
    pub async fn create(&self, kind: Kind, object: &Value) -> Result<Value, ApiError> {
        self.send_create(kind, object, "").await
    }

    /// What would be stored, or why not; nothing is stored.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn try_create(&self, kind: Kind, object: &Value) -> Result<Value, ApiError> {
        self.send_create(kind, object, "&dryRun=All").await
    }

    async fn send_create(&self, kind: Kind, object: &Value, more: &str) -> Result<Value, ApiError> {
        let name = value::name(object);
        let path = with_query(
            kind.path(&self.namespace, None),
            &format!("fieldManager={MANAGER}{more}"),
        );
        self.ask(
            Method::POST,
            &path,
            Some(("application/json", object)),
            "create",
            kind,
            name,
        )
        .await
    }

    /// Changes an object and returns it as stored.
    ///
    /// # Errors
    /// [`Fault::Conflict`] if a precondition in it does not hold, and what the server refuses.
    pub async fn patch(&self, kind: Kind, name: &str, patch: &Patch) -> Result<Value, ApiError> {
        self.patch_at(kind, name, None, patch).await
    }

    /// As [`Self::patch`], of a subresource.
    ///
    /// # Errors
    /// As [`Self::patch`].
    pub async fn patch_at(&self, kind: Kind, name: &str, part: Option<&str>, patch: &Patch) -> Result<Value, ApiError> {
        self.send_patch(kind, name, part, patch, "").await
    }

    async fn send_patch(
        &self,
        kind: Kind,
        name: &str,
        part: Option<&str>,
        patch: &Patch,
        more: &str,
    ) -> Result<Value, ApiError> {
        let mut path = kind.path(&self.namespace, Some(name));
        if let Some(part) = part {
            path = format!("{path}/{part}");
        }
        let (media, body, query) = match patch {
            Patch::Merge(body) => ("application/merge-patch+json", body, format!("fieldManager={MANAGER}")),
            Patch::Json(body) => ("application/json-patch+json", body, format!("fieldManager={MANAGER}")),
            Patch::Apply { object, manager, force } => (
                "application/apply-patch+yaml",
                object,
                format!("fieldManager={}&force={force}", escaped(manager)),
            ),
        };
        self.ask(
            Method::PATCH,
            &with_query(path, &format!("{query}{more}")),
            Some((media, body)),
            "patch",
            kind,
            name,
        )
        .await
    }

    /// What a change would make of an object, with all the server completes and all it refuses; nothing is stored.
    ///
    /// # Errors
    /// As [`Self::patch`].
    pub async fn try_patch(&self, kind: Kind, name: &str, patch: &Patch) -> Result<Value, ApiError> {
        self.send_patch(kind, name, None, patch, "&dryRun=All").await
    }

    /// Replaces an object whole, subject to its resourceVersion.
    ///
    /// # Errors
    /// [`Fault::Conflict`] if it has changed since it was read.
    pub async fn replace(&self, kind: Kind, name: &str, object: &Value) -> Result<Value, ApiError> {
        let path = with_query(
            kind.path(&self.namespace, Some(name)),
            &format!("fieldManager={MANAGER}"),
        );
        self.ask(
            Method::PUT,
            &path,
            Some(("application/json", object)),
            "update",
            kind,
            name,
        )
        .await
    }

    /// Deletes an object, with what it owns in the background. One that is gone already, or another one of the same
    /// name (`uid` given and different), is left alone.
    ///
    /// # Errors
    /// Not reachable, not permitted.
    pub async fn delete(&self, kind: Kind, name: &str, uid: Option<&str>) -> Result<(), ApiError> {
        let mut options = json!({ "propagationPolicy": "Background" });
        if let Some(uid) = uid {
            options["preconditions"] = json!({ "uid": uid });
        }
        let path = kind.path(&self.namespace, Some(name));
        let asked = self
            .ask(
                Method::DELETE,
                &path,
                Some(("application/json", &options)),
                "delete",
                kind,
                name,
            )
            .await;
        match asked {
            Ok(_) => Ok(()),
            Err(ApiError {
                fault: Fault::NotFound | Fault::Conflict(_),
                ..
            }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks the server a question that is posted (reviews of access); `path` is the whole path.
    ///
    /// # Errors
    /// Not reachable, not permitted.
    pub async fn review(&self, path: &str, question: &Value) -> Result<Value, ApiError> {
        let request = request(Method::POST, path, Some(("application/json", question)));
        self.send("ask", request)
            .await
            .map_err(|fault| ApiError::other("ask", path, fault))
            .and_then(|text| parsed(&text).map_err(|fault| ApiError::other("ask", path, fault)))
    }

    /// The last lines of a container's output; of its run before the present one if `previous`.
    ///
    /// # Errors
    /// Not reachable, not permitted, nothing there.
    pub async fn log(&self, pod: &str, container: &str, previous: bool, lines: u32) -> Result<String, ApiError> {
        let path = format!(
            "{}/log?container={}&previous={previous}&tailLines={lines}&limitBytes={MOST_LOG}",
            Kind::Pod.path(&self.namespace, Some(pod)),
            escaped(container)
        );
        let sent = self.send("get", request(Method::GET, &path, None)).await;
        sent.map_err(|fault| ApiError {
            verb: "get",
            what: format!("the log of pod {pod}"),
            needs: Some(("get".to_owned(), "pods/log".to_owned())),
            fault,
        })
    }

    /// Sends a request to a pod's port through the API server; `path` begins with `/`. The caller bounds the time.
    ///
    /// # Errors
    /// As the server says; an answer of the pod is not an error, whatever its status.
    pub async fn through_proxy(
        &self,
        pod: &str,
        port: u16,
        method: Method,
        path: &str,
        headers: &http::HeaderMap,
        body: Vec<u8>,
    ) -> Result<http::Response<Body>, ApiError> {
        let uri = format!("{}:{port}/proxy{path}", Kind::Pod.path(&self.namespace, Some(pod)));
        let fault = |fault| ApiError {
            verb: "reach",
            what: format!("port {port} of pod {pod} through the API server"),
            needs: Some(("get".to_owned(), "pods/proxy".to_owned())),
            fault,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Body::from(body))
            .map_err(|error| fault(Fault::Invalid(error.to_string())))?;
        *request.headers_mut() = headers.clone();
        self.client
            .send(request)
            .await
            .map_err(|error| fault(Fault::Unreachable(chain(&error))))
    }

    /// What there is of a kind, and every change of it from then on. It reconnects by itself; an error it yields is
    /// news about the connection, not its end.
    pub fn watch(&self, kind: Kind, which: &Selection) -> impl Stream<Item = Result<Seen, ApiError>> + Send + use<> {
        self.watch_as(kind, which, |object| object)
    }

    /// As [`Self::watch`], keeping of each object only what `sketch` takes from it: whole objects of a whole cluster are
    /// more than is ever needed at once.
    pub fn watch_as<T, F>(
        &self,
        kind: Kind,
        which: &Selection,
        sketch: F,
    ) -> impl Stream<Item = Result<Seen<T>, ApiError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Fn(Value) -> T + Send + 'static,
    {
        let resource = ApiResource {
            group: kind.group().to_owned(),
            version: kind.version().to_owned(),
            api_version: kind.api_version(),
            kind: kind.name().to_owned(),
            plural: kind.plural().to_owned(),
        };
        let api: kube::Api<DynamicObject> = if self.namespace.is_empty() || kind.is_of_the_cluster() {
            kube::Api::all_with(self.client.clone(), &resource)
        } else {
            kube::Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        };
        let mut config = watcher::Config::default().page_size(PAGE);
        config.label_selector.clone_from(&which.labels);
        config.field_selector.clone_from(&which.fields);
        let mut all: Vec<T> = Vec::new();
        let meter = self.meter.clone();
        watcher(api, config)
            .backoff(Again::default())
            .map_err(move |error| {
                let (verb, fault) = watch_fault(&error);
                if let Some(meter) = &meter {
                    meter.asked("watch", fault.word(), None);
                }
                ApiError {
                    verb,
                    what: kind.plural().to_owned(),
                    needs: Some((verb.to_owned(), kind.resource())),
                    fault,
                }
            })
            .filter_map(move |event| {
                let seen = match event {
                    Ok(watcher::Event::Init) => {
                        all.clear();
                        None
                    }
                    Ok(watcher::Event::InitApply(object)) => {
                        all.push(sketch(plain(kind, object)));
                        None
                    }
                    Ok(watcher::Event::InitDone) => Some(Ok(Seen::All(std::mem::take(&mut all)))),
                    Ok(watcher::Event::Apply(object)) => Some(Ok(Seen::Object(sketch(plain(kind, object))))),
                    Ok(watcher::Event::Delete(object)) => Some(Ok(Seen::Gone(sketch(plain(kind, object))))),
                    Err(error) => Some(Err(error)),
                };
                std::future::ready(seen)
            })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        verb: &'static str,
        kind: Kind,
        name: &str,
    ) -> Result<Value, ApiError> {
        let failed = |fault| ApiError {
            verb,
            what: if name.is_empty() {
                format!("{} in {}", kind.plural(), self.namespace)
            } else {
                format!("{} {name}", kind.word())
            },
            needs: Some((verb.to_owned(), kind.resource())),
            fault,
        };
        let text = self.send(verb, request(method, path, body)).await.map_err(failed)?;
        parsed(&text).map_err(failed)
    }

    async fn send(&self, verb: &'static str, request: Request<Vec<u8>>) -> Result<String, Fault> {
        let watch = stopwatch();
        let answer = match tokio::time::timeout(REQUEST_WITHIN, self.client.request_text(request)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(fault_of(&error)),
            Err(_) => Err(Fault::Unreachable(format!(
                "{} did not answer within {} s",
                self.place,
                REQUEST_WITHIN.as_secs()
            ))),
        };
        if let Some(meter) = &self.meter {
            meter.asked(
                verb,
                answer.as_ref().map_or_else(Fault::word, |_| "ok"),
                Some(watch.elapsed()),
            );
        }
        answer
    }
}

fn request(method: Method, path: &str, body: Option<(&str, &Value)>) -> Request<Vec<u8>> {
    let builder = Request::builder().method(method).uri(path);
    let built = match body {
        Some((media, value)) => builder
            .header(http::header::CONTENT_TYPE, media)
            .body(value.to_string().into_bytes()),
        None => builder.body(Vec::new()),
    };
    built.expect("names of objects are checked by the server, and everything else is ours or escaped")
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

/// A word as part of a query.
fn escaped(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    for byte in word.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn parsed(text: &str) -> Result<Value, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::Invalid(format!("the answer is no JSON: {error}")))
}

/// The object as it came; its parts are moved, not copied.
fn plain(kind: Kind, object: DynamicObject) -> Value {
    let mut value = object.data;
    value["metadata"] = serde_json::to_value(object.metadata).unwrap_or_default();
    kind.stamp(&mut value);
    value
}

fn fault_of(error: &kube::Error) -> Fault {
    match error {
        kube::Error::Api(status) => Fault::of_status(status.code, &status.reason, &status.message),
        kube::Error::SerdeError(error) => Fault::Invalid(error.to_string()),
        other => Fault::Unreachable(chain(other)),
    }
}

/// Which of a watch's two requests failed, and how.
fn watch_fault(error: &watcher::Error) -> (&'static str, Fault) {
    match error {
        watcher::Error::InitialListFailed(error) => ("list", fault_of(error)),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => ("watch", fault_of(error)),
        watcher::Error::WatchError(status) => ("watch", Fault::of_status(status.code, &status.reason, &status.message)),
        watcher::Error::NoResourceVersion => ("list", Fault::Invalid("the answer has no resourceVersion".to_owned())),
    }
}

/// An error with its causes, the innermost last.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}
