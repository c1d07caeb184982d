//! The node as a test finds it: the environment that `node up` wrote, and the commands that a person has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Names the file that `node up` writes.
const ENV: &str = "WADE_CLUSTER_ENV";

/// Where everything is. Cheap to make; every test makes its own.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    values: BTreeMap<String, String>,
}

impl Node {
    /// The node that the environment names.
    pub(crate) fn from_env() -> Self {
        let file = std::env::var(ENV).unwrap_or_else(|_| {
            panic!("this test needs the Kubernetes node: run it with `just cluster-test` ({ENV} names no node)")
        });
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{ENV}={file} cannot be read: {error}"));
        let values = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim_matches('\'').to_owned()))
            .collect();
        Self { values }
    }

    /// A value of the environment file.
    pub(crate) fn value(&self, key: &str) -> &str {
        self.values
            .get(key)
            .unwrap_or_else(|| panic!("the node's environment file has no {key}"))
    }

    /// The admin's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        PathBuf::from(self.value("KUBECONFIG"))
    }

    /// Where the Gateway's data plane listens, as `host:port`.
    pub(crate) fn envoy(&self) -> &str {
        self.value("WADE_CLUSTER_ENVOY")
    }

    /// The address of the node itself: what a pod or the API server reaches a test's own server by.
    pub(crate) fn address(&self) -> &str {
        self.value("WADE_CLUSTER_NODE_IP")
    }

    /// Prometheus, as a URL.
    pub(crate) fn prometheus(&self) -> &str {
        self.value("WADE_CLUSTER_PROMETHEUS")
    }

    /// The sample application's image with this tag; each answers with its tag.
    pub(crate) fn image(&self, tag: &str) -> String {
        format!("{}:{tag}", self.value("WADE_CLUSTER_IMAGE"))
    }

    /// The image of this checkout's `wade`.
    pub(crate) fn wade_image(&self) -> &'static str {
        "lab.local/wade:test"
    }

    /// The folder with all that the node writes.
    pub(crate) fn run_folder(&self) -> &Path {
        Path::new(self.value("WADE_CLUSTER_RUN"))
    }

    /// kubectl as admin, as a command to which the words are added: for those who need more than its output.
    pub(crate) fn kubectl_command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(self.value("WADE_CLUSTER_KUBECTL"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).stdin(Stdio::null());
        command
    }

    /// What a person would type, and its output; panics with kubectl's own words if it fails.
    pub(crate) async fn kubectl(&self, words: &[&str]) -> String {
        let output = self.try_kubectl(words, "").await;
        assert!(
            output.status.success(),
            "kubectl {}: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// kubectl with this on its standard input, however it ends.
    pub(crate) async fn try_kubectl(&self, words: &[&str], input: &str) -> Output {
        let mut command = Command::from(self.kubectl_command());
        command.args(words).kill_on_drop(true);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl is installed with the node");
        let mut pipe = child.stdin.take().expect("it was asked for");
        // It may end without reading; its own words say why.
        let _ = pipe.write_all(input.as_bytes()).await;
        drop(pipe);
        child.wait_with_output().await.expect("kubectl was started")
    }

    /// Kills a part of the node (`apiserver`, `prometheus`, `contour`, …) without warning; it stays away until the outage
    /// is over. Everyone shares the node: a test that does this has its space by [`super::space::Space::alone`].
    pub(crate) fn kill(&self, part: &str) -> Outage {
        let outage = Outage {
            node: self.clone(),
            part: part.to_owned(),
        };
        self.tell("kill", part);
        outage
    }

    /// Ends a part in good order and starts it again at once.
    pub(crate) fn restart(&self, part: &str) {
        self.tell("restart", part);
    }

    /// Blocks: it takes a moment, and an outage may also be over because a test has failed.
    fn tell(&self, verb: &str, part: &str) {
        let mut command = std::process::Command::new(self.value("WADE_CLUSTER_NODE"));
        command.args([verb, part]).stdin(Stdio::null());
        for key in ["WADE_CLUSTER_CACHE", "WADE_CLUSTER_NETNS", "WADE_CLUSTER_RUN"] {
            command.env(key, self.value(key));
        }
        let output = command.output().expect("the node's command lies in the checkout");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "node {verb} {part}: {said}");
    }

    /// Waits until no other test runs, and keeps them waiting; [`Node::among_others`] is the other side.
    pub(crate) async fn alone(&self) -> tokio::sync::RwLockWriteGuard<'static, ()> {
        TURNS.write().await
    }

    /// Held by a test that needs the shared parts of the node to stay as they are.
    pub(crate) async fn among_others(&self) -> tokio::sync::RwLockReadGuard<'static, ()> {
        TURNS.read().await
    }
}

/// A part of the node is away, until this is dropped: also when the test fails, so that the next one finds it there.
#[derive(Debug)]
pub(crate) struct Outage {
    node: Node,
    part: String,
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.node.tell("start", &self.part);
    }
}

/// Whose turn it is: many tests that leave the node alone, or one that stops a part of it.
static TURNS: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());
