//! Whether what the tests stand on can fail: clients that count, a recorder that sees, a step that can be killed.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::account::Account;
use crate::support::api::Kind;
use crate::support::audit::Audit;
use crate::support::client::Connections;
use crate::support::metrics::Metrics;
use crate::support::recorder::{Change, lowest};
use crate::support::space::{APP, Sample, Space};
use crate::support::step::Step;
use crate::support::targets::Targets;
use crate::support::{eventually, now};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn the_clients_count_what_goes_wrong() {
    let space = Space::new("counting").await;
    let sample = Sample {
        replicas: 1,
        tag: "half-errors",
        ..Sample::default()
    };
    space.deploy(&sample).await;
    let edge = space.through_edge(40, Connections::New);
    let service = space.through_service(APP, 40, Connections::Kept).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let gone = now();
    space.kubectl(&["scale", "deployment/app", "--replicas=0"]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;

    for (path, client) in [("edge", edge), ("service", service)] {
        let tally = client.stop().await;
        println!("{path}: {tally}\n  {:?}", tally.per_second());
        let own = tally.only(|answer| answer.is_from("half-errors"));
        let share = own.bad().total() as f64 / own.total() as f64;
        assert!(
            (0.3..0.7).contains(&share),
            "{path}: {share} of the answers were errors"
        );
        // Without a pod nobody answers in its name, and none of that passes for an answer of it.
        let rest = tally.only(|answer| !answer.is_from("half-errors"));
        assert!(rest.total() > 40, "{path}: only {} requests found no pod", rest.total());
        assert_eq!(rest.bad().total(), rest.total(), "{path}");
        assert!(
            rest.first() > Some(gone),
            "{path}: something was lost before the pod went"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn the_recorder_and_the_audit_log_see_what_happens() {
    let space = Space::new("watching").await;
    let audit = Audit::start(&space.node);
    let recorder = space.recorder().await;
    let sample = Sample {
        replicas: 2,
        route: false,
        env: vec![("CRASH_AFTER", "2s")],
        ..Sample::default()
    };
    space.deploy(&sample).await;
    eventually("a container is started again", Duration::from_secs(40), || async {
        (recorder.history().restarts() > 0).then_some(())
    })
    .await;
    let begun = now();
    space.kubectl(&["delete", "deployment/app", "--wait"]).await;
    eventually("the pods are gone", Duration::from_secs(40), || async {
        recorder.history().present(Kind::Pod).is_empty().then_some(())
    })
    .await;

    let history = recorder.history();
    assert_eq!(history.pods().len(), 2);
    assert_eq!(lowest(&history.ready_endpoints(APP), begun), Some(0));
    assert!(history.ready_pods(|_| true).iter().any(|(_, count)| *count == 2));
    let gone = history
        .of(Kind::Deployment)
        .filter(|seen| seen.change == Change::Deleted);
    assert_eq!(gone.map(|seen| seen.name()).collect::<Vec<_>>(), [APP]);

    let deletes = audit
        .requests(|request| request.is_in(&space.name) && request.is_write() && request.verb == "delete")
        .await;
    let by_kubectl: Vec<_> = deletes
        .iter()
        .filter(|request| request.user_agent.starts_with("kubectl/"))
        .filter_map(|request| request.object.as_ref())
        .map(|object| (object.resource.as_str(), object.name.as_str()))
        .collect();
    assert_eq!(by_kubectl, [("deployments", APP)]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn prometheus_scrapes_the_pods() {
    let space = Space::new("scraping").await;
    space.deploy(&Sample::default()).await;
    let recorder = Arc::new(space.recorder().await);
    let _targets = Targets::start(&space, recorder);
    let query = format!("count(up{{namespace=\"{}\"}} == 1)", space.name);
    let url = format!("{}/api/v1/query", space.node.prometheus());
    let client = reqwest::Client::builder().no_proxy().build().expect("no input");
    eventually("Prometheus has scraped all four", Duration::from_secs(20), || async {
        let request = client.get(&url).query(&[("query", &query)]).send();
        let answer: Value = request.await.ok()?.json().await.ok()?;
        (answer.pointer("/data/result/0/value/1")? == "4").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn the_recorder_outlives_the_api_server() {
    let space = Space::alone("outliving").await;
    let recorder = space.recorder().await;
    let outage = space.node.kill("apiserver");
    assert!(space.api.get("/readyz").await.is_err(), "killed, it answers nothing");
    drop(outage);
    eventually("the API server is back", Duration::from_secs(60), || async {
        space.api.send(Method::GET, "/readyz", None).await.ok().map(drop)
    })
    .await;
    let sample = Sample {
        replicas: 1,
        ..Sample::default()
    };
    space.deploy(&sample).await;
    eventually("the recorder sees again", Duration::from_secs(20), || async {
        (recorder.history().present(Kind::Pod).len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_step_is_heard_and_killed() {
    let space = Space::new("stepping").await;
    let told = Step::start(&space, &["--version"]).ends(Duration::from_secs(10)).await;
    assert_eq!(
        (told.code(), told.output()),
        (Some(0), format!("wade {}", env!("CARGO_PKG_VERSION")))
    );

    let step = Step::start(&space, &["sample-service", "--port=0"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let killed = step.kill().await;
    assert_eq!(killed.code(), None, "{}", killed.output());
    assert!(killed.most_memory_kib > 1000, "{} KiB", killed.most_memory_kib);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn an_autoscaler_follows_all_three_kinds_of_metrics() {
    let average = |value: &str| json!({"type": "AverageValue", "averageValue": value});
    let resource = json!({"type": "Resource", "resource": {"name": "cpu", "target": average("100m")}});
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "requests"}, "target": average("10")}});
    let external = json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": average("10")}});
    // Each asks for three pods; it begins with one.
    let cases = [
        (resource, json!({"pods": {"cpu": {"": "300m"}, "memory": {"": "20Mi"}}})),
        (pods, json!({"pods": {"requests": {"": "30"}}})),
        (external, json!({"external": {"queue": "30"}})),
    ];
    let space = Space::new("scaling").await;
    let sample = Sample {
        replicas: 1,
        route: false,
        ..Sample::default()
    };
    space.deploy(&sample).await;
    let metrics = Metrics::new(&space);
    for (metric, values) in cases {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": APP});
        let object = json!({
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": APP},
            "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3, "metrics": [metric]}
        });
        metrics.set(&values);
        space.create_object(Kind::HorizontalPodAutoscaler, &object).await;
        eventually(
            &format!("{metric} scales to three"),
            Duration::from_secs(40),
            || async {
                let deployment = space.get(Kind::Deployment, APP).await?;
                (deployment.pointer("/spec/replicas")? == 3).then_some(())
            },
        )
        .await;
        space.kubectl(&["delete", "hpa", APP]).await;
        space.kubectl(&["scale", "deployment/app", "--replicas=1"]).await;
        space.rolled_out().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn an_account_may_do_what_its_role_says() {
    let space = Space::new("asking").await;
    let rules = json!([{"apiGroups": [""], "resources": ["services"], "verbs": ["list"]}]);
    let account = Account::new(&space, "reader", &rules).await;
    let kubeconfig = account.kubeconfig().to_string_lossy().into_owned();
    let ask = async |resource: &str| {
        let words = ["--kubeconfig", &kubeconfig, "--namespace", &space.name, "get", resource];
        let output = space.node.try_kubectl(&words, "").await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    assert!(ask("services").await.0);
    let (allowed, said) = ask("pods").await;
    assert!(!allowed && said.contains("cannot list resource \"pods\""), "{said}");
}
