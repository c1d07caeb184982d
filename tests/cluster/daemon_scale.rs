//! The daemon with much to look after: a thousand Rollouts at rest, and a hundred releases at once. No pods are needed.
//!
//! Both take minutes and load the node, so they run with `WADE_CLUSTER_SOAK` alone, and print FIGURE lines; what is
//! asserted tells one mechanism from another one.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::api::Kind;
use crate::support::audit::{Audit, Request};
use crate::support::daemon::{Daemon, installed};
use crate::support::recorder::text;
use crate::support::space::Space;
use crate::support::step::Step;
use crate::support::{eventually, now, seconds};

/// Rollouts at rest.
const IDLE: usize = 1000;
/// How long the daemon is measured at rest.
const AT_REST: Duration = Duration::from_secs(60);
/// Releases at once.
const BUSY: usize = 100;
/// How many of them are aborted, one after the other, to see how long a decision takes.
const SAMPLES: usize = 5;
/// Clock ticks of `/proc/PID/stat` a second: the kernel's own constant.
const TICKS: f64 = 100.0;
/// The daemon as the API server knows it.
const WADE: &str = "system:serviceaccount:wade-system:wade";

fn is_soak() -> bool {
    let soak = std::env::var_os("WADE_CLUSTER_SOAK").is_some();
    if !soak {
        eprintln!("not run: WADE_CLUSTER_SOAK is not set");
    }
    soak
}

/// Creates objects a few at a time.
async fn create_all(space: &Space, collection: &str, objects: Vec<Value>) {
    let made = stream::iter(objects).map(|object| async move {
        let made = space.api.create(collection, &object).await;
        made.unwrap_or_else(|refused| panic!("{}: {}", text(&object, "/metadata/name"), refused.message));
    });
    made.buffer_unordered(8).collect::<Vec<()>>().await;
}

fn deployment(space: &Space, name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                // Nobody places its pods: they say what the test makes them say.
                "schedulerName": "nobody",
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "app", "image": space.node.image("1.0"),
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}}}],
            }},
        },
    })
}

fn rollout(name: &str) -> Value {
    json!({
        "apiVersion": "wade.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": name},
        "spec": {
            "workload": {"deployment": name},
            "strategy": {"canary": {"steps": [{"weight": "50%", "max": "10m"}], "bake": "2s"}},
        },
    })
}

fn rollouts(space: &Space) -> String {
    format!("/apis/wade.dev/v1alpha1/namespaces/{}/rollouts", space.name)
}

/// How many Rollouts of the namespace have this phase.
async fn in_phase(space: &Space, phase: &str) -> usize {
    let list = space.api.get(&rollouts(space)).await;
    let list = list.unwrap_or_else(|refused| panic!("{}", refused.message));
    let items = list["items"].as_array().into_iter().flatten();
    items.filter(|rollout| text(rollout, "/status/phase") == phase).count()
}

/// Memory in MiB.
struct Memory {
    now: f64,
    most: f64,
    /// What of it is its own; the rest is pages of the program's file, which a debug build has many of.
    own: f64,
}

impl Memory {
    fn of(daemon: &Daemon) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.step.pid())).expect("it runs");
        let field = |name: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|kib| kib.parse::<f64>().ok())
                .expect("the kernel says it")
                / 1024.0
        };
        Self {
            now: field("VmRSS:"),
            most: field("VmHWM:"),
            own: field("RssAnon:"),
        }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} MiB ({:.1} its own, {:.1} at most)",
            self.now, self.own, self.most
        )
    }
}

/// Seconds of CPU so far.
fn cpu(daemon: &Daemon) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.step.pid())).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("the command's name is in brackets");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    [11, 12]
        .iter()
        .map(|at| fields[*at].parse::<f64>().expect("ticks"))
        .sum::<f64>()
        / TICKS
}

/// What has been asked of the API server so far, by verb and result, as the daemon's own page says.
async fn asked(daemon: &Daemon) -> BTreeMap<String, f64> {
    let (_, page) = daemon.probe("metrics").await;
    let lines = page
        .lines()
        .filter_map(|line| line.strip_prefix("wade_apiserver_requests_total"));
    lines
        .filter_map(|line| {
            let (labels, value) = line.rsplit_once(' ')?;
            Some((labels.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn soak_a_thousand_rollouts_at_rest() {
    if !is_soak() {
        return;
    }
    let space = Space::new("thousand").await;
    installed(&space).await;
    let names: Vec<String> = (0..IDLE).map(|number| format!("app{number:04}")).collect();
    let deployments = names.iter().map(|name| deployment(&space, name, 0)).collect();
    create_all(&space, &Kind::Deployment.collection(&space.name), deployments).await;
    create_all(
        &space,
        &rollouts(&space),
        names.iter().map(|name| rollout(name)).collect(),
    )
    .await;
    let begun = now();
    let first = Daemon::start(&space, &[]).await;
    first.leads().await;
    let leads = now();
    eventually("every Rollout has its status", Duration::from_secs(400), || async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        (in_phase(&space, "Idle").await == IDLE).then_some(())
    })
    .await;
    let memory = Memory::of(&first);
    println!(
        "FIGURE {IDLE} new Rollouts: leading after {:.1} s, all adopted and said {:.1} s later; {memory}; {:?}",
        seconds(begun, leads),
        seconds(leads, now()),
        asked(&first).await
    );
    let late = first
        .step
        .lines()
        .iter()
        .filter(|line| line.text.contains("cannot be written"))
        .count();
    println!("FIGURE {late} lines about statuses that were late");
    first.stop().await;

    let daemon = Daemon::start(&space, &[]).await;
    daemon.leads().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let start = Memory::of(&daemon);
    let (before, used) = (asked(&daemon).await, cpu(&daemon));
    tokio::time::sleep(AT_REST).await;
    let (after, spent) = (asked(&daemon).await, cpu(&daemon) - used);
    let rest = Memory::of(&daemon);
    let more: BTreeMap<&str, f64> = after
        .iter()
        .map(|(kind, count)| (kind.as_str(), count - before.get(kind).copied().unwrap_or(0.0)))
        .filter(|(_, count)| *count > 0.0)
        .collect();
    println!(
        "FIGURE {IDLE} Rollouts at rest: {start} at the start, {rest} after a minute; {spent:.2} s of CPU a minute; requests a minute {more:?}"
    );
    let requests: f64 = more.values().sum();
    assert!(requests < 60.0, "only the Lease is renewed: {more:?}");
    assert!(
        spent < 6.0,
        "it does not look at everything again and again: {spent:.2} s"
    );
}

/// Makes the pods of these Deployments ready, as a kubelet would.
async fn play_kubelet(space: &Space) -> usize {
    let pods = space.list(Kind::Pod).await;
    let ready = |pod: &Value| text(pod, "/status/phase") == "Running";
    let wanted: Vec<Value> = pods.into_iter().filter(|pod| !ready(pod)).collect();
    let count = wanted.len();
    let made = stream::iter(wanted).map(|pod| async move {
        let path = format!("{}/status", space.path(Kind::Pod, text(&pod, "/metadata/name")));
        let at = now().to_string();
        let conditions: Vec<Value> = ["Initialized", "ContainersReady", "Ready"]
            .iter()
            .map(|of| json!({"type": of, "status": "True", "lastTransitionTime": at}))
            .collect();
        let status = json!({"status": {
            "phase": "Running", "podIP": "198.18.0.1", "podIPs": [{"ip": "198.18.0.1"}], "conditions": conditions,
            "containerStatuses": [{"name": "app", "ready": true, "started": true, "restartCount": 0,
                "image": "x", "imageID": "x", "state": {"running": {"startedAt": at}}}],
        }});
        // One that has gone meanwhile needs no kubelet.
        let _ = space.api.merge(&path, &status).await;
    });
    made.buffer_unordered(8).collect::<Vec<()>>().await;
    count
}

/// Begins a release of each, by a change of its template that anybody could make.
async fn change(space: &Space, names: &[String]) {
    let made = stream::iter(names).map(|name| async move {
        let patch = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "app", "image": space.node.image("2.0"), "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}}}
        ]}}}});
        let changed = space.api.merge(&space.path(Kind::Deployment, name), &patch).await;
        changed.unwrap_or_else(|refused| panic!("{name}: {}", refused.message));
    });
    made.buffer_unordered(4).collect::<Vec<()>>().await;
}

/// Waits until the release of this Rollout runs.
async fn begun(space: &Space, name: &str) {
    let path = format!("{}/{name}", rollouts(space));
    eventually(
        &format!("the release of {name} runs"),
        Duration::from_secs(300),
        || async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let rollout = space.api.get(&path).await.ok()?;
            (text(&rollout, "/status/phase") == "Releasing").then_some(())
        },
    )
    .await;
}

/// Milliseconds from the moment in which an abort was written to the daemon's next write of that record: its decision.
async fn decision(space: &Space, name: &str) -> f64 {
    let audit = Audit::start(&space.node);
    let about = format!("deployment/{name}");
    let words = ["abort", &about, "-n", &space.name, "--reason", "measured"];
    // It is the decision that counts; the way back takes its time, and nobody's pods end here.
    let step = Step::start(space, &words);
    step.says("aborted by", Duration::from_secs(60)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    step.kill().await;
    let record = format!("wade-{name}");
    let requests = audit
        .requests(|request| {
            request.is_in(&space.name)
                && request.is_write()
                && request
                    .object
                    .as_ref()
                    .is_some_and(|object| object.resource == "configmaps" && object.name == record)
        })
        .await;
    let by = |wade: bool, after: Option<Timestamp>| {
        let mine = requests
            .iter()
            .filter(|request: &&Request| (request.user.username == WADE) == wade);
        mine.map(|request| request.at)
            .filter(|at| after.is_none_or(|after| *at > after))
            .min()
    };
    let told = by(false, None).expect("the command was written");
    let decided = by(true, Some(told)).expect("the daemon answered it");
    seconds(told, decided) * 1000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn soak_a_hundred_releases_decide_as_quickly_as_one() {
    if !is_soak() {
        return;
    }
    let space = Space::new("hundred").await;
    installed(&space).await;
    let names: Vec<String> = (0..BUSY).map(|number| format!("app{number:03}")).collect();
    let deployments = names.iter().map(|name| deployment(&space, name, 2)).collect();
    create_all(&space, &Kind::Deployment.collection(&space.name), deployments).await;
    let mut ready = 0;
    while ready < 2 * BUSY {
        ready += play_kubelet(&space).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    create_all(
        &space,
        &rollouts(&space),
        names.iter().map(|name| rollout(name)).collect(),
    )
    .await;
    let limits = ["--most-releases", "100", "--most-per-namespace", "100"];
    let daemon = Daemon::start(&space, &limits).await;
    daemon.leads().await;
    let all_in = async |phase: &str, count: usize| {
        eventually(
            &format!("{count} Rollouts are {phase}"),
            Duration::from_secs(400),
            || async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                (in_phase(&space, phase).await == count).then_some(())
            },
        )
        .await;
    };
    all_in("Idle", BUSY).await;
    let idle = Memory::of(&daemon);

    let mut alone = Vec::new();
    for name in &names[..SAMPLES] {
        change(&space, std::slice::from_ref(name)).await;
        begun(&space, name).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        alone.push(decision(&space, name).await);
    }
    let changed = now();
    // Those that were taken back are quarantined: the others are enough to be many.
    change(&space, &names[SAMPLES..]).await;
    stream::iter(&names[SAMPLES..])
        .for_each_concurrent(4, |name| begun(&space, name))
        .await;
    let began = seconds(changed, now());
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (used, since) = (cpu(&daemon), now());
    let before = asked(&daemon).await.values().sum::<f64>();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let share = (cpu(&daemon) - used) / seconds(since, now());
    let requests = (asked(&daemon).await.values().sum::<f64>() - before) / seconds(since, now());
    let mut among = Vec::new();
    for name in names[SAMPLES..].iter().take(SAMPLES) {
        among.push(decision(&space, name).await);
    }
    let busy = Memory::of(&daemon);
    let (one, many) = (median(alone.clone()), median(among.clone()));
    println!(
        "FIGURE among a few releases, ms: {alone:.0?}\nFIGURE among {} releases, ms: {among:.0?}",
        BUSY - SAMPLES
    );
    println!(
        "FIGURE decision after an abort: {one:.0} ms among a few releases, {many:.0} ms among {}, ratio {:.2}; all began within {began:.1} s; {:.0} % of a core and {requests:.1} requests a second while they run; {idle} before, {busy} then",
        BUSY - SAMPLES,
        many / one,
        share * 100.0
    );
    assert!(many < 20.0 * one.max(100.0), "{many:.0} ms against {one:.0} ms");
}
