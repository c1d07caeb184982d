//! The daemon on a bad API server: one that is away for a minute, and one that does not let it.

use std::time::Duration;

use crate::support::account::Account;
use crate::support::daemon::{Daemon, apply, ended, installed, look_after, says};
use crate::support::node::Node;
use crate::support::recorder::text;
use crate::support::scene::{Expected, NEW, QUICK, Scene, phase, weights};
use crate::support::space::{Sample, Space};
use crate::support::wire::Wire;
use crate::support::{eventually, now, seconds};

const LONG: Duration = Duration::from_secs(120);
/// Longer than a release's Lease lasts, and than a watch is waited for.
const OUTAGE: Duration = Duration::from_secs(60);
/// With a first stage that outlives most of the outage, so that there is something to be judged twice.
const LONGER: &str = "
  strategy:
    canary:
      steps:
        - {weight: 20%, max: 20s}
        - {weight: 50%, max: 6s}
      bake: 3s
  smoke: [{http: /healthz}]
  analysis: {passEarly: {minStage: 15s}}
  limits: {settle: 1s}
";

/// For the whole outage: alive, and not ready. Says how long it took to notice.
async fn outage(daemon: &Daemon, wire: &Wire) -> f64 {
    wire.cut();
    let begun = now();
    let why = daemon.is_ready(false, Duration::from_secs(20)).await;
    let noticed = seconds(begun, now());
    println!("not ready: {}", why.trim());
    while seconds(begun, now()) < OUTAGE.as_secs_f64() {
        let (alive, _) = daemon.probe("healthz").await;
        assert_eq!(alive, 200, "it lives, whatever the API server does");
        let (ready, _) = daemon.probe("readyz").await;
        assert_eq!(ready, 503, "it does not see");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    noticed
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_release_outlives_a_minute_without_the_api_server() {
    let scene = Scene::open("minute-away", LONGER).await;
    let wire = Wire::new(&scene.space, &installed(&scene.space).await).await;
    let daemon = Daemon::start_as(&scene.space, wire.kubeconfig(), &[]).await;
    daemon.leads().await;
    look_after(&scene.space, LONGER).await;
    scene.space.set_image(NEW).await;
    // The cut may fall between the weight's write and its confirmation: what cannot be seen is not late.
    scene.reaches(20, LONG).await;
    let before = daemon.step.lines().len();
    let noticed = outage(&daemon, &wire).await;
    assert_eq!(scene.weight(), 20, "nothing forward is done blindly");
    let lines = daemon.step.lines().len() - before;
    wire.mend();
    let mended = now();
    daemon.is_ready(true, Duration::from_secs(60)).await;
    let ready = seconds(mended, now());
    let outcome = ended(&scene.space, 1, LONG).await;
    println!(
        "FIGURE API server away for {} s: not ready after {noticed:.1} s; {lines} lines; ready again after {ready:.1} s, the \
         release over after {:.1} s",
        OUTAGE.as_secs(),
        seconds(mended, now())
    );
    assert_eq!(outcome, "Promoted");
    assert!(
        lines <= 30,
        "{lines} lines in a minute:\n{}",
        daemon.step.lines()[before..]
            .iter()
            .map(|line| format!("{}\n", line.text))
            .collect::<String>()
    );
    goes_only_forward(&scene);
    assert_eq!(says(&scene.space, "stable").await, NEW, "the last word was not lost");
    scene.close(Expected::on(NEW)).await;
    drop(daemon);
}

/// One of two is cut off, in the middle of a release that it carries; the other one goes on, and only that one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn soak_a_leader_that_is_cut_off_judges_nothing_twice() {
    if std::env::var_os("WADE_CLUSTER_SOAK").is_none() {
        eprintln!("not run: WADE_CLUSTER_SOAK is not set");
        return;
    }
    let scene = Scene::open("cut-off", LONGER).await;
    let wire = Wire::new(&scene.space, &installed(&scene.space).await).await;
    let first = Daemon::start_as(&scene.space, wire.kubeconfig(), &[]).await;
    first.leads().await;
    let second = Daemon::start(&scene.space, &[]).await;
    look_after(&scene.space, LONGER).await;
    scene.space.set_image(NEW).await;
    scene.reaches(20, LONG).await;
    confirmed(&scene).await;
    let cut = now();
    let other = async {
        second.step.says("going on with what nobody carried", LONG).await;
        seconds(cut, now())
    };
    let (noticed, taken) = tokio::join!(outage(&first, &wire), other);
    wire.mend();
    first.is_ready(true, Duration::from_secs(60)).await;
    println!("FIGURE leader cut off: not ready after {noticed:.1} s; the standby goes on after {taken:.1} s");
    assert_eq!(ended(&scene.space, 1, LONG).await, "Promoted");
    // Time enough for the first to say what it should not.
    tokio::time::sleep(Duration::from_secs(20)).await;
    goes_only_forward(&scene);
    let status = [says(&scene.space, "phase").await, says(&scene.space, "outcome").await];
    assert_eq!(status, ["Idle", "Promoted"]);
    let again = "going on with what nobody carried";
    assert!(
        first.step.lines().iter().all(|line| !line.text.contains(again)),
        "it is in the second one's hands"
    );
    scene.close(Expected::on(NEW)).await;
    drop((first, second));
}

/// Waits until the stage has begun: a router that is not seen to take its weight is gone back from, outage or not.
async fn confirmed(scene: &Scene) {
    let said = "jsonpath={.items[?(@.reason==\"StageBegan\")].message}";
    eventually("the router's weight is confirmed", LONG, || async {
        let events = scene.space.kubectl(&["get", "events", "-o", said]).await;
        events.contains("20%").then_some(())
    })
    .await;
}

/// The canary's weight never falls, until the hand over gives its backend back.
fn goes_only_forward(scene: &Scene) {
    let history = scene.history();
    let shares: Vec<u64> = weights(&history).iter().map(|weight| weight.canary).collect();
    assert_eq!(shares, [0, 20, 50, 100, 0], "{}", phase(&history));
}

/// A right that an account has in the whole cluster, taken away again at the end.
struct Granted {
    node: Node,
    name: String,
}

impl Granted {
    async fn everywhere(space: &Space, account: &str) -> Self {
        let name = format!("{}-{account}", space.name);
        let whom = format!("--serviceaccount={}:{account}", space.name);
        let words = ["create", "clusterrolebinding", &name, "--clusterrole=wade-watch", &whom];
        space.node.kubectl(&words).await;
        Self {
            node: space.node.clone(),
            name,
        }
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let mut command = self.node.kubectl_command();
        // Whoever looks for what is left finds it by the namespace's name.
        let _ = command.args(["delete", "clusterrolebinding", &self.name]).output();
    }
}

/// First it may nothing, then what is in its namespace, then all: each time it says what is missing, waits without
/// hurry, and goes on by itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_token_without_rights_is_told_what_it_lacks() {
    let space = Space::new("no-rights").await;
    installed(&space).await;
    space
        .deploy(&Sample {
            replicas: 1,
            ..Sample::default()
        })
        .await;
    let about = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: poor, namespace: {}}}\n",
        space.name
    );
    let account = Account::of(&space, "poor", &about).await;
    let daemon = Daemon::start_as(&space, account.kubeconfig(), &["--hold", "policy"]).await;
    let why = daemon.is_ready(false, Duration::from_secs(10)).await;
    daemon
        .step
        .says("missing permission: list", Duration::from_secs(10))
        .await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let why_still = daemon.is_ready(false, Duration::from_secs(5)).await;
    println!("without rights: {}\nand later: {}", why.trim(), why_still.trim());
    assert!(why_still.contains("missing permission: list "), "{why_still}");
    for resource in ["rollouts.wade.dev", "releases.wade.dev", "deployments.apps"] {
        let named = |line: &str| line.contains(&format!("missing permission: list {resource}"));
        let said = daemon.step.lines().iter().filter(|line| named(&line.text)).count();
        assert_eq!(said, 1, "{resource} is named once a minute");
    }
    let lines = daemon.step.lines().len();
    assert!(lines <= 10, "{lines} lines about the same three rights");
    assert_eq!(daemon.probe("healthz").await.0, 200);

    // It may see, and have its turn.
    let whom = format!("--serviceaccount={}:poor", space.name);
    let leases = [
        "--verb=get,list,watch,create,update,patch",
        "--resource=leases.coordination.k8s.io",
    ];
    space
        .kubectl(&[&["create", "role", "turn"], &leases[..]].concat())
        .await;
    space
        .kubectl(&["create", "rolebinding", "turn", "--role=turn", &whom])
        .await;
    let everywhere = Granted::everywhere(&space, "poor").await;
    let given = now();
    daemon.is_ready(true, Duration::from_secs(30)).await;
    daemon.leads().await;
    println!(
        "FIGURE rights to see given: ready and leading after {:.1} s",
        seconds(given, now())
    );
    apply(&space, QUICK).await;
    let waits = eventually("the Rollout says what is missing", Duration::from_secs(30), || async {
        let message = says(&space, "message").await;
        message.contains("missing permission").then_some(message)
    })
    .await;
    assert!(waits.contains("missing permission: patch deployments.apps"), "{waits}");
    assert_eq!(says(&space, "phase").await, "Waiting");

    // And now it may act.
    space
        .kubectl(&["create", "rolebinding", "wade", "--clusterrole=wade", &whom])
        .await;
    let given = now();
    look_after(&space, QUICK).await;
    println!(
        "FIGURE rights to act given: adopted after {:.1} s",
        seconds(given, now())
    );
    space.set_image(NEW).await;
    let held = async || {
        let held =
            r#"jsonpath={.status.conditions[?(@.type=="Held")].status} {.status.conditions[?(@.type=="Held")].reason}"#;
        space.kubectl(&["get", "rollouts.wade.dev/app", "-o", held]).await
    };
    eventually("the change is held", Duration::from_secs(20), || async {
        (held().await == "True Releasing").then_some(())
    })
    .await;
    assert_eq!(ended(&space, 1, LONG).await, "Promoted");
    eventually("nothing is held", Duration::from_secs(20), || async {
        (held().await == "False NotPaused").then_some(())
    })
    .await;
    let lines = daemon.step.lines();
    println!("FIGURE rights: {} lines in all", lines.len());
    for line in &lines {
        println!("{}", line.text);
    }
    let serves = space.kubectl(&["get", "deployment/app", "-o", "json"]).await;
    let serves = serde_json::from_str(&serves).expect("kubectl prints JSON");
    assert_eq!(
        text(&serves, "/spec/template/spec/containers/0/image"),
        space.node.image(NEW)
    );
    drop((everywhere, daemon));
}
