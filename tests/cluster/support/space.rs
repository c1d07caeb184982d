//! A namespace of the test's own with the sample application in it; taken away afterwards, and described on the way
//! out if the test failed.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};

use super::api::{Api, Kind, Refused};
use super::client::{Client, Connections, Load};
use super::node::Node;
use super::recorder::{Recorder, text};
use super::{eventually, now};

/// The application's name: of its Deployment, its Service, its route and its container.
pub(crate) const APP: &str = "app";

/// How long an application may take to come up; other builds may have the machine.
const UP_WITHIN: Duration = Duration::from_secs(90);

/// The sample application as a test wants it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) replicas: u32,
    /// The image's tag, and with it the version that it answers.
    pub(crate) tag: &'static str,
    /// Further environment variables.
    pub(crate) env: Vec<(&'static str, &'static str)>,
    /// Merged over its container.
    pub(crate) container: Value,
    /// Whether there is an HTTPRoute to the Service.
    pub(crate) route: bool,
    /// Applied server-side, by a manager of this name, in place of created: as Helm and GitOps tools do.
    pub(crate) applied_by: Option<&'static str>,
    /// Merged over the Deployment that all this makes.
    pub(crate) over: Value,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            replicas: 4,
            tag: "1.0",
            env: Vec::new(),
            container: json!({}),
            route: true,
            applied_by: None,
            over: json!({}),
        }
    }
}

/// A namespace.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) node: Node,
    pub(crate) api: Api,
    /// The namespace's name.
    pub(crate) name: String,
    _turn: Turn,
}

/// The test's claim on the node's shared parts, held until its end.
#[derive(Debug)]
enum Turn {
    AmongOthers(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

impl Space {
    /// A namespace for a test that leaves the node's shared parts alone.
    pub(crate) async fn new(test: &str) -> Self {
        let node = Node::from_env();
        let turn = Turn::AmongOthers(node.among_others().await);
        Self::create(node, test, turn).await
    }

    /// A namespace for a test that stops a part of the node: no other test runs beside it.
    pub(crate) async fn alone(test: &str) -> Self {
        let node = Node::from_env();
        let turn = Turn::Alone(node.alone().await);
        Self::create(node, test, turn).await
    }

    async fn create(node: Node, test: &str, turn: Turn) -> Self {
        let api = Api::new(&node);
        // The one before may still be going.
        let name = format!("{test}-{}", now().as_millisecond() % 100_000_000);
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        api.create("/api/v1/namespaces", &object)
            .await
            .expect("an admin may create a namespace");
        Self {
            node,
            api,
            name,
            _turn: turn,
        }
    }

    /// kubectl in this namespace.
    pub(crate) async fn kubectl(&self, words: &[&str]) -> String {
        self.node
            .kubectl(&[&["--namespace", self.name.as_str()], words].concat())
            .await
    }

    /// An object of this namespace.
    pub(crate) async fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        self.api.get(&self.path(kind, name)).await.ok()
    }

    /// All objects of a kind in this namespace.
    pub(crate) async fn list(&self, kind: Kind) -> Vec<Value> {
        let list = self.api.get(&kind.collection(&self.name)).await;
        let list = list.unwrap_or_else(|refused| panic!("cannot list {kind:?}: {}", refused.message));
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Where the API server keeps an object of this namespace.
    pub(crate) fn path(&self, kind: Kind, name: &str) -> String {
        format!("{}/{name}", kind.collection(&self.name))
    }

    /// Creates an object in this namespace.
    pub(crate) async fn create_object(&self, kind: Kind, object: &Value) -> Value {
        let created = self.api.create(&kind.collection(&self.name), object).await;
        created.unwrap_or_else(|refused| panic!("cannot create a {kind:?}: {}", refused.message))
    }

    /// Creates the sample application and waits until all of it serves, by both ways.
    pub(crate) async fn deploy(&self, sample: &Sample) {
        for (kind, object) in self.objects(sample) {
            match sample.applied_by {
                Some(manager) => self
                    .apply(kind, &object, manager)
                    .await
                    .expect("nobody else writes here"),
                None => self.create_object(kind, &object).await,
            };
        }
        self.rolled_out().await;
        self.answers(async || self.through_service(APP, 1, Connections::New).await)
            .await;
        if sample.route {
            self.answers(async || self.through_edge(1, Connections::New)).await;
        }
    }

    /// The sample application's objects.
    pub(crate) fn objects(&self, sample: &Sample) -> Vec<(Kind, Value)> {
        let mut deployment = self.deployment(sample);
        merge(
            &mut deployment["spec"]["template"]["spec"]["containers"][0],
            &sample.container,
        );
        merge(&mut deployment, &sample.over);
        let mut objects = vec![(Kind::Deployment, deployment), (Kind::Service, service())];
        if sample.route {
            objects.push((Kind::HttpRoute, self.route()));
        }
        objects
    }

    /// Server-side apply without force.
    pub(crate) async fn apply(&self, kind: Kind, object: &Value, manager: &str) -> Result<Value, Refused> {
        let path = format!(
            "{}?fieldManager={manager}",
            self.path(kind, text(object, "/metadata/name"))
        );
        self.api.apply(&path, object).await
    }

    fn deployment(&self, sample: &Sample) -> Value {
        let env: Vec<_> = sample
            .env
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": APP},
            "spec": {
                "replicas": sample.replicas,
                "selector": {"matchLabels": {"app": APP}},
                "template": {
                    "metadata": {"labels": {"app": APP}},
                    "spec": {
                        "automountServiceAccountToken": false,
                        "enableServiceLinks": false,
                        "terminationGracePeriodSeconds": 15,
                        "containers": [{
                            "name": APP,
                            "image": self.node.image(sample.tag),
                            "imagePullPolicy": "Never",
                            "env": env,
                            "ports": [{"name": "http", "containerPort": 8080}],
                            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1}
                        }]
                    }
                }
            }
        })
    }

    fn route(&self) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": APP},
            "spec": {
                "parentRefs": [{"namespace": "gateway", "name": "edge"}],
                "hostnames": [self.host()],
                "rules": [{"backendRefs": [{"name": APP, "port": 80}]}]
            }
        })
    }

    /// Another version of the sample application, as a person asks for one.
    pub(crate) async fn set_image(&self, tag: &str) {
        let image = format!("{APP}={}", self.node.image(tag));
        self.kubectl(&["set", "image", "deployment/app", &image]).await;
    }

    /// Waits until the Deployment's newest template is all there is, and available.
    pub(crate) async fn rolled_out(&self) {
        eventually("the application is available", UP_WITHIN, || async {
            let deployment = self.get(Kind::Deployment, APP).await?;
            let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
            let wanted = number("/spec/replicas");
            let seen = number("/status/observedGeneration") >= number("/metadata/generation");
            let complete = [
                "/status/replicas",
                "/status/updatedReplicas",
                "/status/availableReplicas",
            ]
            .iter()
            .all(|pointer| number(pointer) == wanted);
            (seen && complete).then_some(())
        })
        .await;
    }

    /// Waits until the application answers, well or not: kube-proxy and Envoy hear of its pods later than the Deployment.
    async fn answers(&self, client: impl AsyncFn() -> Client) {
        eventually("the application answers", UP_WITHIN, || async {
            let client = client().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let tally = client.stop().await;
            let all = tally.total() > 0 && tally.only(|answer| answer.is_from("")).total() == 0;
            (all && tally.lost().total() == 0).then_some(())
        })
        .await;
    }

    /// The host that the route is chosen by.
    pub(crate) fn host(&self) -> String {
        format!("{}.test", self.name)
    }

    /// A client that goes through the Gateway.
    pub(crate) fn through_edge(&self, rate: u32, connections: Connections) -> Client {
        Client::start(Load {
            to: self.node.envoy().parse().expect("node up writes an address"),
            host: self.host(),
            rate,
            connections,
            header: None,
        })
    }

    /// A client that goes through the Gateway and whose requests carry a header.
    pub(crate) fn through_edge_with(&self, rate: u32, header: (&'static str, &'static str)) -> Client {
        Client::start(Load {
            to: self.node.envoy().parse().expect("node up writes an address"),
            host: self.host(),
            rate,
            connections: Connections::New,
            header: Some(header),
        })
    }

    /// A client that goes straight to a Service.
    pub(crate) async fn through_service(&self, service: &str, rate: u32, connections: Connections) -> Client {
        let object = self.get(Kind::Service, service).await.expect("the Service exists");
        let address = text(&object, "/spec/clusterIP").parse().expect("it has an address");
        Client::start(Load {
            to: SocketAddr::new(address, 80),
            host: self.host(),
            rate,
            connections,
            header: None,
        })
    }

    /// An independent witness of all that happens here.
    pub(crate) async fn recorder(&self) -> Recorder {
        Recorder::start(&self.api, &self.name).await
    }

    /// Writes down all that may explain a failure, and says where.
    fn describe(&self) {
        let folder = self.node.run_folder().join("failed").join(&self.name);
        let written = self.write_description(&folder);
        let mut words = String::new();
        for question in [
            &["get", "pods", "-o", "wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
        ] {
            let answer = self.ask(question);
            let lines: Vec<_> = answer.lines().collect();
            let _ = writeln!(words, "--- kubectl {}", question.join(" "));
            for line in &lines[lines.len().saturating_sub(25)..] {
                let _ = writeln!(words, "{line}");
            }
        }
        match written {
            Ok(()) => eprintln!("{words}--- all of it: {}", folder.display()),
            Err(error) => eprintln!("{words}--- it could not be written to {}: {error}", folder.display()),
        }
    }

    fn write_description(&self, folder: &Path) -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let kinds = "deployments,replicasets,pods,services,endpointslices,httproutes,configmaps,leases,hpa,pdb,quota";
        fs::write(
            folder.join("objects.yaml"),
            self.ask(&["get", kinds, "-o", "yaml", "--show-managed-fields"]),
        )?;
        let events = self.ask(&["get", "events", "--sort-by=.lastTimestamp", "-o", "wide"]);
        fs::write(folder.join("events.txt"), events)?;
        for pod in self.ask(&["get", "pods", "-o", "name"]).lines() {
            let name = pod.trim_start_matches("pod/");
            fs::write(
                folder.join(format!("{name}.log")),
                self.ask(&["logs", pod, "--timestamps"]),
            )?;
            let previous = self.ask(&["logs", pod, "--timestamps", "--previous"]);
            if !previous.is_empty() {
                fs::write(folder.join(format!("{name}.previous.log")), previous)?;
            }
        }
        Ok(())
    }

    /// kubectl without a runtime: a test that ends by a panic may not wait.
    fn ask(&self, words: &[&str]) -> String {
        let mut command = self.node.kubectl_command();
        command
            .args(["--namespace", &self.name, "--request-timeout=10s"])
            .args(words);
        let output = command.output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.describe();
        }
        self.ask(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": APP},
        "spec": {"selector": {"app": APP}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    })
}

/// Lays one object over another one, as a JSON merge patch would.
pub(crate) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
