//! Into a cluster and out of it again: what `wade install` says and does, what its definitions and policies refuse, and
//! that `wade uninstall` leaves services as they were, in the middle of a release too.
//!
//! What is installed belongs to the whole cluster, so no other test runs beside these.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{CANARY, Expected, NEW, OLD, SLOW, Scene};
use crate::support::space::{APP, Sample, Space};
use crate::support::step::{Ended, Step};

/// How long a whole install or uninstall may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(240);

/// `wade` with these words, to its end.
async fn wade(space: &Space, words: &[&str]) -> Ended {
    Step::start(space, words).ends(WITHIN).await
}

/// Takes out what an earlier test or a person may have left.
async fn clean(space: &Space) {
    let ended = wade(space, &["uninstall", "--purge"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
}

async fn install(space: &Space) {
    let ended = wade(space, &["install", "--image", space.node.wade_image()]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
}

/// All that is installed, by kind and name.
async fn installed(space: &Space) -> Vec<String> {
    let kinds = "namespaces,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,\
                 mutatingadmissionpolicies,mutatingadmissionpolicybindings";
    let ours = "app.kubernetes.io/managed-by=wade-install";
    let labelled = space.node.kubectl(&["get", kinds, "-l", ours, "-o", "name"]).await;
    let definitions = space.node.kubectl(&["get", "crd", "-o", "name"]).await;
    let definitions = definitions.lines().filter(|name| name.ends_with(".wade.dev"));
    labelled.lines().chain(definitions).map(str::to_owned).collect()
}

/// Waits until the daemon has taken the Deployment into its care.
async fn held(space: &Space) {
    eventually("the Deployment is held", Duration::from_secs(30), || async {
        let words = ["get", "deployment", APP, "-o", "jsonpath={.metadata.labels}"];
        space.kubectl(&words).await.contains("wade.dev/hold").then_some(())
    })
    .await;
}

/// What `kubectl create --dry-run=server` says to an object, and whether it takes it.
async fn tried(space: &Space, object: &Value) -> (bool, String) {
    let words = ["create", "--dry-run=server", "-n", &space.name, "-f", "-"];
    let output = space.node.try_kubectl(&words, &object.to_string()).await;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), said.concat())
}

fn of_kind(kind: &str, spec: &Value) -> Value {
    json!({"apiVersion": "wade.dev/v1alpha1", "kind": kind, "metadata": {"name": "tried"}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn install_says_what_it_does_and_uninstall_leaves_nothing() {
    let space = Space::alone("install").await;
    clean(&space).await;
    let dry = wade(&space, &["install", "--dry-run"]).await;
    assert_eq!(dry.code(), Some(0), "{}", dry.output());
    assert!(
        dry.output().contains("would be created deployment wade"),
        "{}",
        dry.output()
    );
    assert_eq!(
        installed(&space).await,
        Vec::<String>::new(),
        "a dry run stores nothing"
    );

    let first = wade(&space, &["install", "--image", space.node.wade_image()]).await;
    assert_eq!(first.code(), Some(0), "{}", first.output());
    assert!(
        first.output().contains("created   deployment wade"),
        "{}",
        first.output()
    );
    assert!(first.output().contains("2 of 2 pods"), "{}", first.output());
    assert!(installed(&space).await.len() > 20);

    for words in [&["install", "--dry-run"][..], &["install"]] {
        let words = [words, &["--image", space.node.wade_image()]].concat();
        let again = wade(&space, &words).await;
        assert_eq!(again.code(), Some(0), "{}", again.output());
        for word in ["created ", "changed "] {
            let news = again
                .lines
                .iter()
                .find(|line| line.text.starts_with(word) || line.text.starts_with("would"));
            assert!(news.is_none(), "{news:?} in {}", again.output());
        }
    }

    let gone = wade(&space, &["uninstall", "--purge"]).await;
    assert_eq!(gone.code(), Some(0), "{}", gone.output());
    eventually("nothing is left", Duration::from_secs(60), || async {
        installed(&space).await.is_empty().then_some(())
    })
    .await;
    let again = wade(&space, &["uninstall"]).await;
    assert_eq!((again.code(), again.output().as_str()), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn definitions_take_every_example_and_say_what_is_wrong() {
    let space = Space::alone("definitions").await;
    install(&space).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tries = 0;
    for entry in fs::read_dir(root.join("strategies")).expect("there are strategies") {
        let text = fs::read_to_string(entry.expect("it reads").path()).expect("it is text");
        let mut object: Value = serde_saphyr::from_str(&text).expect("it is YAML");
        object["kind"] = json!("ClusterStrategy");
        let (taken, said) = tried(&space, &object).await;
        assert!(taken, "{said}");
        tries += 1;
    }
    for entry in fs::read_dir(root.join("examples")).expect("there are examples") {
        let Ok(text) = fs::read_to_string(entry.expect("it reads").path().join("rollout.yaml")) else {
            continue;
        };
        let mut object: Value = serde_saphyr::from_str(&text).expect("it is YAML");
        let spec = object["spec"].as_object_mut().expect("a Rollout has one");
        spec.insert("workload".to_owned(), json!({"deployment": "checkout"}));
        for local in ["traffic", "variables"] {
            spec.remove(local);
        }
        let (taken, said) = tried(&space, &object).await;
        assert!(taken, "{said}");
        tries += 1;
    }
    assert!(tries > 20, "only {tries} were tried");
    let rollout = |field: &str, value: Value| {
        let mut spec = json!({"workload": {"deployment": "x"}});
        spec[field] = value;
        of_kind("Rollout", &spec)
    };
    let release = |spec: Value| of_kind("Release", &spec);
    let wrong = [
        (
            rollout("workload", json!({"process": {"command": ["x"]}})),
            "unknown field",
        ),
        (rollout("stratgy", json!({})), "unknown field \"spec.stratgy\""),
        (
            rollout(
                "strategy",
                json!({"canary": {"steps": [{"weight": "50%"}, {"weight": "20%"}]}}),
            ),
            "weights rise from step to step",
        ),
        (
            rollout(
                "strategy",
                json!({"use": "careful", "canary": {"steps": [{"weight": "5%"}]}}),
            ),
            "write exactly one of use, canary",
        ),
        (
            rollout("strategy", json!({"canary": {"steps": [{"weight": "150%"}]}})),
            "weight",
        ),
        (rollout("smoke", json!([{"command": ["id"]}])), "unknown field"),
        (
            rollout("notify", json!([{"slack": {"urlFrom": {"env": "X"}}}])),
            "unknown field",
        ),
        (
            release(json!({"rollout": "x", "by": "kubernetes-admin"})),
            "say what is new",
        ),
        (
            release(json!({"rollout": "x", "by": "x", "image": "a:1", "emergency": true})),
            "an emergency needs a reason",
        ),
        (
            release(json!({"rollout": "x", "by": "mallory", "image": "a:1"})),
            "write your own name",
        ),
        (
            of_kind(
                "Freeze",
                &json!({"from": "2027-02-01T00:00:00Z", "until": "2027-01-01T00:00:00Z", "reason": "r", "by": "b"}),
            ),
            "it ends before it begins",
        ),
    ];
    for (object, words) in wrong {
        let (taken, said) = tried(&space, &object).await;
        assert!(!taken && said.contains(words), "{object}: {said}");
    }
    clean(&space).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn uninstall_in_the_middle_of_a_release_leaves_everything_as_it_was() {
    let scene = Scene::open_alone("uninstall", SLOW).await;
    let space = &scene.space;
    clean(space).await;
    install(space).await;
    let policy = scene.policy().display().to_string();
    space.kubectl(&["apply", "-f", &policy]).await;
    held(space).await;
    let image = format!("{APP}={}", space.node.image(NEW));
    space.kubectl(&["set", "image", "deployment", APP, &image]).await;
    scene.reaches(20, Duration::from_secs(90)).await;
    // The rights are enough for all of it.
    let ours = "app.kubernetes.io/name=wade";
    let words = ["-n", "wade-system", "logs", "-l", ours, "--tail=-1"];
    let logs = space.node.kubectl(&words).await;
    assert!(
        !logs.contains("missing permission") && !logs.contains("forbidden"),
        "{logs}"
    );

    let ended = wade(space, &["uninstall", "--purge"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    assert!(ended.output().contains("ended "), "{}", ended.output());
    let found = space.kubectl(&["get", "deployment", APP, "-o", "json"]).await;
    assert!(!found.contains("wade.dev/"), "{found}\n{}", ended.output());
    let services = space.kubectl(&["get", "services", "-o", "name"]).await;
    assert!(!services.contains(CANARY), "{services}");
    assert_eq!(installed(space).await, Vec::<String>::new());
    scene.close(Expected::on(OLD)).await;
}

/// As `kubectl` with these words, which it refuses; what it says.
async fn refused(space: &Space, words: &[&str]) -> String {
    let output = space
        .node
        .try_kubectl(&[&["-n", space.name.as_str()], words].concat(), "")
        .await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success(),
        "kubectl {} was taken: {said}",
        words.join(" ")
    );
    said
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn policies_warn_and_refuse_where_that_is_opted_in() {
    let space = Space::alone("policies").await;
    install(&space).await;
    space.deploy(&Sample::default()).await;
    let mut rollout = of_kind("Rollout", &json!({"workload": {"deployment": APP}}));
    rollout["metadata"]["namespace"] = json!(space.name);
    let output = space
        .node
        .try_kubectl(&["apply", "-f", "-"], &rollout.to_string())
        .await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    held(&space).await;
    let freeze = json!({
        "apiVersion": "wade.dev/v1alpha1", "kind": "Freeze", "metadata": {"name": "f", "namespace": space.name},
        "spec": {"until": "2099-12-31T00:00:00Z", "reason": "holidays", "by": "ops"},
    });
    let output = space.node.try_kubectl(&["apply", "-f", "-"], &freeze.to_string()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let image = format!("{APP}={}", space.node.image("1.1"));
    let change = ["set", "image", "deployment", APP, &image, "--dry-run=server"];
    let loose = format!("{APP}=nginx");
    let unnamed = ["set", "image", "deployment", APP, &loose, "--dry-run=server"];
    // By default somebody is told, and may go on.
    eventually("the freeze is told of", Duration::from_secs(30), || async {
        let words = [&["-n", space.name.as_str()], &change[..]].concat();
        let output = space.node.try_kubectl(&words, "").await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said.contains("Warning")
            .then_some(())
            .filter(|()| said.contains("of ops until 2099-12-31T00:00:00Z: holidays"))
    })
    .await;
    space
        .node
        .kubectl(&["label", "namespace", &space.name, "wade.dev/enforce=true"])
        .await;
    eventually("the label is seen", Duration::from_secs(30), || async {
        let words = [&["-n", space.name.as_str()], &change[..]].concat();
        let output = space.node.try_kubectl(&words, "").await;
        (!output.status.success()).then_some(())
    })
    .await;
    assert!(refused(&space, &change).await.contains("holidays"));
    assert!(refused(&space, &unnamed).await.contains("write a tag or a digest"));
    // What is no new version is nobody's concern, and neither is a freeze that is over.
    space
        .kubectl(&["scale", "deployment", APP, "--replicas=3", "--dry-run=server"])
        .await;
    space
        .kubectl(&[
            "patch",
            "freeze",
            "f",
            "--type=merge",
            "-p",
            r#"{"spec":{"until":"2026-01-01T00:00:00Z"}}"#,
        ])
        .await;
    eventually("the freeze is over", Duration::from_secs(30), || async {
        let words = [&["-n", space.name.as_str()], &change[..]].concat();
        space.node.try_kubectl(&words, "").await.status.success().then_some(())
    })
    .await;
    clean(&space).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_command_is_recorded_under_ones_own_name() {
    let space = Space::alone("commands").await;
    install(&space).await;
    space
        .kubectl(&["create", "rolebinding", "alice", "--clusterrole=admin", "--user=alice"])
        .await;
    let record = |waiting: Value| {
        let commands = json!({"release": 1, "waiting": waiting}).to_string();
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "wade-tried", "namespace": space.name, "labels": {"wade.dev/part": "record"}},
            "data": {"commands": commands},
        })
    };
    let by = |user: &str, groups: &[&str]| json!({"kind": "abort", "by": {"user": user, "groups": groups}, "reason": "\"user\":\"bob\""});
    let cases = [
        (json!([by("alice", &[])]), true),
        (json!([by("alice", &["system:authenticated"])]), true),
        (json!([by("bob", &[])]), false),
        (json!([by("alice", &[]), by("bob", &[])]), false),
        (json!([by("alice", &["payments"])]), false),
    ];
    for (waiting, taken) in cases {
        let words = ["create", "--as=alice", "--dry-run=server", "-f", "-"];
        let output = space
            .node
            .try_kubectl(&words, &record(waiting.clone()).to_string())
            .await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), taken, "{waiting}: {said}");
        assert!(taken || said.contains("a command is recorded"), "{said}");
    }
    clean(&space).await;
}
