//! Others who write the same objects while a release runs: GitOps tools that apply what they have again and again, and
//! people who delete or roll back.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::api::Kind;
use crate::support::eventually;
use crate::support::node::Node;
use crate::support::scene::{Closed, Expected, NEW, OLD, QUICK, RECORD, SLOW, Scene, phase};
use crate::support::space::{APP, Space};

const LONG: Duration = Duration::from_secs(80);
/// How often a tool applies.
const EVERY: Duration = Duration::from_secs(5);
/// More writes of Wade's to one object in one release are a fight.
const STORM: usize = 25;

/// How a tool applies.
#[derive(Clone, Copy, Debug)]
enum Apply {
    /// `kubectl apply`.
    ClientSide,
    /// Server-side with a field manager of its own, insisting, as such tools are told to.
    ServerSide(&'static str),
}

impl Apply {
    async fn once(self, node: &Node, namespace: &str, object: &Value) -> String {
        let manager = match self {
            Self::ClientSide => None,
            Self::ServerSide(manager) => Some(format!("--field-manager={manager}")),
        };
        let mut words = vec!["--namespace", namespace, "apply", "-f", "-"];
        if let Some(manager) = &manager {
            words.extend(["--server-side", "--force-conflicts", manager]);
        }
        let output = node.try_kubectl(&words, &object.to_string()).await;
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
            .trim()
            .to_owned()
    }
}

/// A tool at work, until dropped.
struct Tool(JoinHandle<()>);

impl Drop for Tool {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tool {
    fn start(space: &Space, how: Apply, object: Value) -> Self {
        let (node, name) = (space.node.clone(), space.name.clone());
        Self(tokio::spawn(async move {
            loop {
                let said = how.once(&node, &name, &object).await;
                println!("{name}: {how:?}: {said}");
                tokio::time::sleep(EVERY).await;
            }
        }))
    }
}

/// What the tool's repository says of the Deployment, with this version.
async fn manifest(scene: &Scene, tag: &str) -> Value {
    let there = scene.space.get(Kind::Deployment, APP).await.expect("it was deployed");
    let spec = &there["spec"];
    let mut template = spec["template"].clone();
    template["spec"]["containers"][0]["image"] = json!(scene.space.node.image(tag));
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": APP},
        "spec": {"replicas": spec["replicas"], "selector": spec["selector"], "template": template}
    })
}

async fn held(scene: &Scene) {
    eventually("the Deployment is held", Duration::from_secs(30), || async {
        let there = scene.space.get(Kind::Deployment, APP).await?;
        (there.pointer("/spec/paused")? == true).then_some(())
    })
    .await;
}

/// Prints and bounds what Wade wrote, object by object.
fn no_storm(closed: &Closed) {
    let mut all = 0;
    for resource in ["deployments", "httproutes", "services", "replicasets"] {
        let by = |agent: &str| {
            let mine = closed.requests.iter().filter(|request| {
                let object = request
                    .object
                    .as_ref()
                    .is_some_and(|object| object.resource == resource);
                object && request.is_write() && request.user_agent.starts_with(agent)
            });
            mine.count()
        };
        let (wade, kubectl) = (by("wade/"), by("kubectl"));
        println!(
            "FIGURE {}: {resource} written {wade} times by wade, {kubectl} by kubectl",
            closed.space.name
        );
        assert!(wade <= STORM, "{resource} was written {wade} times");
        all += wade;
    }
    assert!(all > 0, "the audit log names wade's writes");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_tool_that_applies_the_same_revision_is_no_trouble() {
    for how in [Apply::ClientSide, Apply::ServerSide("deployer")] {
        let scene = Scene::open("agreeing", QUICK).await;
        let object = manifest(&scene, NEW).await;
        let step = scene.deploy(NEW);
        held(&scene).await;
        let tool = Tool::start(&scene.space, how, object);
        let ended = step.ends(LONG).await;
        println!("exit {:?}\n{}", ended.code(), ended.output());
        drop(tool);
        assert_eq!(ended.code(), Some(0));
        let closed = scene.close(Expected::on(NEW)).await;
        assert_eq!(
            closed.history.pods().len(),
            8,
            "no pods but stable's and the judged ones"
        );
        no_storm(&closed);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_tool_that_puts_the_old_revision_back_ends_the_release() {
    for how in [Apply::ClientSide, Apply::ServerSide("deployer")] {
        let scene = Scene::open("disagreeing", QUICK).await;
        let object = manifest(&scene, OLD).await;
        println!("{}", how.once(&scene.space.node, &scene.space.name, &object).await);
        let step = scene.deploy(NEW);
        held(&scene).await;
        let tool = Tool::start(&scene.space, how, object);
        let ended = step.ends(LONG).await;
        println!("exit {:?}\n{}", ended.code(), ended.output());
        drop(tool);
        assert!(matches!(ended.code(), Some(5 | 10)), "{}", ended.output());
        assert!(
            ended.output().contains("was put back in mid-release"),
            "{}",
            ended.output()
        );
        let who = match how {
            Apply::ClientSide => "kubectl",
            Apply::ServerSide(manager) => manager,
        };
        assert!(ended.output().contains(who), "it names {who}: {}", ended.output());
        let closed = scene.close(Expected::on(OLD)).await;
        no_storm(&closed);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_tool_that_unpauses_ends_the_release_before_unjudged_pods_serve() {
    let scene = Scene::open("unpausing", QUICK).await;
    let mut object = manifest(&scene, NEW).await;
    object["spec"]["paused"] = json!(false);
    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    let tool = Tool::start(&scene.space, Apply::ClientSide, object);
    let ended = step.ends(LONG).await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    drop(tool);
    assert!(matches!(ended.code(), Some(5 | 10)), "{}", ended.output());
    assert!(
        ended.output().contains("was resumed in mid-release"),
        "{}",
        ended.output()
    );
    let history = scene.history();
    println!("{} pods, {}", history.pods().len(), phase(&history));
    let closed = scene.close(Expected::on(OLD)).await;
    no_storm(&closed);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_template_that_a_gitops_tool_owns_is_held_and_not_fought_over() {
    let scene = Scene::open("owned", SLOW).await;
    let object = manifest(&scene, OLD).await;
    let argo = Apply::ServerSide("argocd-controller");
    // The one that created it lets go, as after a move to the tool.
    let there = scene.space.path(Kind::Deployment, APP);
    let nobody = json!({"metadata": {"managedFields": [{}]}});
    scene.space.api.merge(&there, &nobody).await.expect("an admin may");
    println!("{}", argo.once(&scene.space.node, &scene.space.name, &object).await);
    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    let abort = scene.wade(&["abort", "--reason", "not good"]).ends(LONG).await;
    let ended = step.ends(LONG).await;
    println!("exit {:?}\n{}\n{}", ended.code(), ended.output(), abort.output());
    assert_eq!((ended.code(), abort.code()), (Some(4), Some(0)));
    let expected = Expected {
        left_paused: true,
        ..Expected::on(OLD)
    };
    // The tool comes round again, and then the next release is as any other.
    println!("{}", argo.once(&scene.space.node, &scene.space.name, &object).await);
    let closed = scene.close(expected).await;
    no_storm(&closed);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_route_that_is_applied_again_and_again_is_no_storm() {
    let scene = Scene::open("rerouting", QUICK).await;
    let route = scene.space.get(Kind::HttpRoute, APP).await.expect("it was deployed");
    let object = json!({
        "apiVersion": route["apiVersion"], "kind": "HTTPRoute",
        "metadata": {"name": APP}, "spec": route["spec"]
    });
    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    let tool = Tool::start(&scene.space, Apply::ClientSide, object);
    let ended = step.ends(LONG).await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    drop(tool);
    assert!(matches!(ended.code(), Some(0 | 10)), "{}", ended.output());
    let version = if ended.code() == Some(0) { NEW } else { OLD };
    let closed = scene.close(Expected::on(version)).await;
    no_storm(&closed);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_record_that_is_deleted_costs_nothing() {
    let scene = Scene::open("forgotten", QUICK).await;
    let step = scene.deploy(NEW);
    for weight in [20, 50] {
        scene.reaches(weight, Duration::from_secs(40)).await;
        scene.space.kubectl(&["delete", "configmap", RECORD]).await;
    }
    let ended = step.ends(LONG).await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    assert_eq!(ended.code(), Some(0));
    let closed = scene.close(Expected::on(NEW)).await;
    assert_eq!(closed.history.pods().len(), 8);
    assert!(phase(&closed.history).contains("Promoted"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_deployment_rolled_back_by_hand_while_wade_is_dead_is_settled() {
    let scene = Scene::open("by-hand", SLOW).await;
    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    step.kill().await;
    let image = format!("{APP}={}", scene.space.node.image(OLD));
    scene.space.kubectl(&["set", "image", "deployment/app", &image]).await;
    scene.space.kubectl(&["rollout", "resume", "deployment/app"]).await;
    let ended = scene.wade(&["settle", "--wait", "60s"]).ends(LONG).await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    assert_eq!(ended.code(), Some(0));
    let closed = scene.close(Expected::on(OLD)).await;
    no_storm(&closed);
}
