//! Daemons of the cluster as processes of their own: `wade serve --cluster` with the rights that `wade install` gives,
//! each looking after one namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;

use super::eventually;
use super::space::{APP, Space};
use super::step::{Ended, Step};

/// How long a daemon may take to begin.
const UP_WITHIN: Duration = Duration::from_secs(30);
/// The longest time that the API server takes to mind new policies, with room.
const POLICIES_WITHIN: Duration = Duration::from_secs(60);

/// A daemon at work. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) step: Step,
    /// Where its probes are, as a URL.
    probes: String,
}

/// One at a time: the definitions are the whole node's.
static INSTALLING: Mutex<()> = Mutex::const_new(());

/// Definitions, rights and policies for all tests; the daemon's account as a kubeconfig. The daemons themselves are the
/// tests' own. Tests of installing and leaving run alone and take everything away: then it is installed again.
pub(crate) async fn installed(space: &Space) -> PathBuf {
    let _one = INSTALLING.lock().await;
    let file = space.node.run_folder().join("wade-daemon.kubeconfig");
    let config = file.to_string_lossy().into_owned();
    let words = [
        "--kubeconfig",
        &config,
        "get",
        "rollouts.wade.dev",
        "--namespace",
        &space.name,
    ];
    let known = space.node.try_kubectl(&words, "").await.status.success();
    let policy = ["get", "mutatingadmissionpolicybinding/wade-hold"];
    if !known || !space.node.try_kubectl(&policy, "").await.status.success() {
        install(space, &file).await;
    }
    file
}

async fn install(space: &Space, file: &Path) {
    let node = &space.node;
    let printed = Step::start(space, &["install", "--manifests", "--hold", "v1beta1"]);
    let printed = printed.ends(Duration::from_secs(20)).await;
    assert_eq!(printed.code(), Some(0), "{}", printed.output());
    let runs = ["Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"];
    let wanted: Vec<String> = printed
        .output()
        .split("\n---\n")
        .filter(|part| {
            !runs
                .iter()
                .any(|kind| part.lines().any(|line| line == format!("kind: {kind}")))
        })
        .map(str::to_owned)
        .collect();
    let words = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    // Objects of a definition that was made a moment ago are not known yet.
    eventually("Wade's objects are applied", Duration::from_secs(30), || async {
        let applied = node.try_kubectl(&words, &wanted.join("\n---\n")).await;
        applied.status.success().then_some(())
    })
    .await;
    let crds = [
        "wait",
        "--for=condition=Established",
        "crd/rollouts.wade.dev",
        "crd/releases.wade.dev",
    ];
    node.kubectl(&crds).await;
    minded(space).await;
    let token = node
        .kubectl(&["--namespace", "wade-system", "create", "token", "wade"])
        .await;
    let admin = std::fs::read(node.kubeconfig()).expect("the node has a kubeconfig");
    let mut config: Value = serde_json::from_slice(&admin).expect("node up writes JSON");
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    std::fs::write(file, config.to_string()).expect("the node's folder is there");
}

/// Waits until the policy that pauses changed Deployments does.
async fn minded(space: &Space) {
    let name = "minded";
    let container = serde_json::json!({"name": "app", "image": space.node.image("1.0")});
    let object = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": {"wade.dev/hold": "true"}},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}}
    });
    let applied = space
        .node
        .try_kubectl(&["--namespace", &space.name, "apply", "-f", "-"], &object.to_string())
        .await;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let mut count = 0;
    eventually("the policy pauses what changes", POLICIES_WITHIN, || {
        count += 1;
        let value = format!("TRY={count}");
        async move {
            space.kubectl(&["set", "env", "deployment/minded", &value]).await;
            let paused = space
                .kubectl(&["get", "deployment/minded", "-o", "jsonpath={.spec.paused}"])
                .await;
            (paused == "true").then_some(())
        }
    })
    .await;
    space.kubectl(&["delete", "deployment/minded"]).await;
}

impl Daemon {
    /// A daemon that looks after this namespace alone and has its leader's Lease there, so that tests do not meet.
    pub(crate) async fn start(space: &Space, more: &[&str]) -> Self {
        let kubeconfig = installed(space).await;
        Self::start_as(space, &kubeconfig, more).await
    }

    /// As [`Self::start`], as somebody; [`installed`] must have been asked for.
    pub(crate) async fn start_as(space: &Space, kubeconfig: &Path, more: &[&str]) -> Self {
        let words = [
            &[
                "serve",
                "--cluster",
                "--only-namespace",
                &space.name,
                "--home",
                &space.name,
                "--probes",
                "127.0.0.1:0",
            ],
            more,
        ]
        .concat();
        let step = Step::start_as(space, kubeconfig, &words);
        let line = step.says("looking after", UP_WITHIN).await;
        let (_, probes) = line.text.rsplit_once("probes on ").expect("it says where they are");
        Self {
            step,
            probes: probes.trim().to_owned(),
        }
    }

    /// What a probe answers: `healthz`, `readyz`, `metrics`.
    pub(crate) async fn probe(&self, path: &str) -> (u16, String) {
        // No TLS, and so no more of a client than this.
        let answer = reqwest::Client::builder().no_proxy().build();
        let answer = answer
            .expect("nothing of this is input")
            .get(format!("{}/{path}", self.probes))
            .send()
            .await;
        match answer {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(error) => (0, error.to_string()),
        }
    }

    /// Waits until it says that it is ready, or that it is not; what it says.
    pub(crate) async fn is_ready(&self, ready: bool, within: Duration) -> String {
        let what = if ready {
            "the daemon is ready"
        } else {
            "the daemon is not ready"
        };
        eventually(what, within, || async {
            let (status, said) = self.probe("readyz").await;
            ((status == 200) == ready).then_some(said)
        })
        .await
    }

    /// Waits until it leads.
    pub(crate) async fn leads(&self) {
        self.step.says(" leading ", UP_WITHIN).await;
    }

    /// As a node that loses power.
    pub(crate) async fn kill(self) -> Ended {
        self.step.kill().await
    }

    /// As a rolling update of itself.
    pub(crate) async fn stop(self) -> Ended {
        self.step.signal("TERM");
        self.step.ends(Duration::from_secs(15)).await
    }
}

/// A Rollout object about the sample application, with this policy (what comes below `workload`); waits until the
/// application has been opted in.
pub(crate) async fn look_after(space: &Space, policy: &str) {
    apply(space, policy).await;
    eventually("the application is adopted", Duration::from_secs(60), || async {
        let label = "jsonpath={.metadata.labels.wade\\.dev/hold}";
        let said = space.kubectl(&["get", "deployment/app", "-o", label]).await;
        (said == "true").then_some(())
    })
    .await;
}

/// The Rollout object alone.
pub(crate) async fn apply(space: &Space, policy: &str) {
    let head = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {APP}, namespace: {}}}\nspec:\n  workload: {{deployment: {APP}}}",
        space.name
    );
    let words = ["apply", "-f", "-"];
    let applied = space.node.try_kubectl(&words, &format!("{head}{policy}")).await;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// What the Rollout object says of itself: `.status.FIELD`.
pub(crate) async fn says(space: &Space, field: &str) -> String {
    let path = format!("jsonpath={{.status.{field}}}");
    space.kubectl(&["get", "rollouts.wade.dev/app", "-o", &path]).await
}

/// Waits until the release of this number has ended, and says how.
pub(crate) async fn ended(space: &Space, number: u64, within: Duration) -> String {
    eventually(&format!("release {number} is over"), within, || async {
        let words = [
            "get",
            "rollouts.wade.dev/app",
            "-o",
            "jsonpath={.status.release} {.status.outcome}",
        ];
        let said = space.kubectl(&words).await;
        let (seen, outcome) = said.split_once(' ')?;
        (seen == number.to_string() && !outcome.is_empty()).then(|| outcome.to_owned())
    })
    .await
}
