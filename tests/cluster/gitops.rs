//! GitOps for real: a tool that applies everything it has in Git every few seconds, in every phase of every release, and
//! a daemon that looks after the same Deployment. Neither may undo the other's work for long, and nobody may notice.
//!
//! One story, told three times: a new version goes out; a bad one is taken back and stays away, however often the tool
//! comes round with it; the next one goes out, or Git goes back to what serves, which puts all to rest; and a version that
//! serves is reverted in Git, which is a release in the fast lane.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use wade::clock::stopwatch;

use crate::support::api::Kind;
use crate::support::daemon::{Daemon, installed, says};
use crate::support::node::Node;
use crate::support::recorder::text;
use crate::support::scene::{CANARY, Closed, Expected, NEW, OLD, Scene};
use crate::support::space::{APP, Sample, Space, merge};
use crate::support::{eventually, now};

const LONG: Duration = Duration::from_secs(100);
/// About 10 s, long enough for the tool to come round in each stage.
const POLICY: &str = "
  strategy:
    canary:
      steps:
        - {weight: 20%, max: 4s}
        - {weight: 50%, max: 3s}
      bake: 3s
  smoke: [{http: /healthz}]
  analysis: {passEarly: {minStage: 3s}}
  limits: {settle: 1s}
";
/// How often the tool comes round.
const EVERY: Duration = Duration::from_millis(2500);
/// How long a version that was taken back is offered again and again.
const OFFERED: Duration = Duration::from_secs(8);
/// A version whose pods never start.
const BAD: &str = "not-there";
/// The version after it.
const NEXT: &str = "2.1";
/// Writes of Wade's to one object in one release, if nobody else writes it.
const CALM: usize = 12;
/// Releases in the longest story.
const RELEASES: usize = 5;

/// How the tool applies.
#[derive(Clone, Copy, Debug)]
enum How {
    /// `kubectl apply`.
    ClientSide,
    /// Server-side under a name of its own; by force, as Argo CD and Flux do it, or giving way to other owners.
    ServerSide { manager: &'static str, force: bool },
}

impl How {
    async fn apply(self, node: &Node, namespace: &str, git: &Value) -> String {
        let mut words = vec!["--namespace", namespace, "apply", "-f", "-"];
        let named;
        if let Self::ServerSide { manager, force } = self {
            named = format!("--field-manager={manager}");
            words.extend(["--server-side", &named]);
            if force {
                words.push("--force-conflicts");
            }
        }
        let output = node.try_kubectl(&words, &git.to_string()).await;
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).trim().replace('\n', "; ")
    }
}

/// What is in Git, and a tool that applies it again and again until it is dropped.
struct Tool {
    git: Arc<Mutex<Value>>,
    rounds: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Tool {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tool {
    fn start(space: &Space, how: How, git: Value) -> Self {
        let (node, name) = (space.node.clone(), space.name.clone());
        let git = Arc::new(Mutex::new(git));
        let rounds = Arc::<Mutex<Vec<String>>>::default();
        let (reads, tells) = (git.clone(), rounds.clone());
        let task = tokio::spawn(async move {
            loop {
                let now = reads.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let said = how.apply(&node, &name, &now).await;
                let line = format!("{} {said}", crate::support::now().strftime("%H:%M:%S%.3f"));
                println!("{name}: {line}");
                tells.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                tokio::time::sleep(EVERY).await;
            }
        });
        Self { git, rounds, task }
    }

    /// A commit: another version.
    fn commit(&self, image: &str) {
        let mut git = self.git.lock().unwrap_or_else(PoisonError::into_inner);
        git["items"][0]["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    }

    fn rounds(&self) -> usize {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A repository, as a test wants it.
struct Story {
    name: &'static str,
    how: How,
    /// How the daemon holds.
    hold: &'static [&'static str],
    /// The backend of the canary is declared in Git, at weight 0, with its Service.
    declared: bool,
    /// Merged over the Deployment in Git.
    over: Value,
    /// What Git brings when a version has been taken back.
    then: Then,
}

/// What Git brings when a version has been taken back.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The next version; later it is reverted.
    Next,
    /// A revert to what serves; later a revert to what served before.
    Revert,
}

impl Story {
    /// Everything that is in Git, the Deployment first.
    fn git(&self, space: &Space) -> Value {
        let sample = Sample::default();
        let mut items: Vec<Value> = space.objects(&sample).into_iter().map(|(_, object)| object).collect();
        merge(&mut items[0], &self.over);
        if self.over.pointer("/spec/replicas") == Some(&Value::Null) {
            items[0]["spec"].as_object_mut().expect("an object").remove("replicas");
        }
        if self.declared {
            items[2]["spec"]["rules"][0]["backendRefs"] = json!([
                {"name": APP, "port": 80, "weight": 100}, {"name": CANARY, "port": 80, "weight": 0}
            ]);
            let mut canary = items[1].clone();
            canary["metadata"]["name"] = json!(CANARY);
            canary["spec"]["selector"] = json!({"wade.dev/canary": APP});
            items.push(canary);
        }
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    async fn told(&self) {
        let space = Space::new(self.name).await;
        installed(&space).await;
        let applied_by = match self.how {
            How::ServerSide { manager, .. } => Some(manager),
            How::ClientSide => None,
        };
        let sample = Sample {
            applied_by,
            ..Sample::default()
        };
        space.deploy(&sample).await;
        let mut git = self.git(&space);
        // Before anybody watches: from here on nothing in Git is news but versions.
        println!("{}", self.how.apply(&space.node, &space.name, &git).await);
        space.rolled_out().await;
        let scene = Scene::watch(space, POLICY).await;
        let file = scene.policy().to_string_lossy().into_owned();
        let read = ["create", "--dry-run=client", "-o", "json", "-f", &file];
        let rollout: Value = serde_json::from_str(&scene.space.kubectl(&read).await).expect("JSON");
        git["items"].as_array_mut().expect("a list").push(rollout);
        let daemon = Daemon::start(&scene.space, self.hold).await;
        let tool = Tool::start(&scene.space, self.how, git);
        adopted(&scene.space).await;

        let image = |tag: &str| scene.space.node.image(tag);
        tool.commit(&image(NEW));
        assert_eq!(over(&scene.space, 1).await, "Promoted");
        println!("--- {NEW} promoted after {} rounds", tool.rounds());

        tool.commit(&image(BAD));
        assert_eq!(over(&scene.space, 2).await, "Rejected");
        println!("--- {BAD} rejected after {} rounds", tool.rounds());
        refused(&scene.space, "failed in release 2").await;
        let offered = now();
        tokio::time::sleep(OFFERED).await;
        assert_eq!(says(&scene.space, "release").await, "2", "nothing begins again");
        assert_eq!(says(&scene.space, "phase").await, "Refused");
        let history = scene.history().since(offered);
        let pauses: Vec<bool> = history
            .of(Kind::Deployment)
            .map(|seen| seen.object.pointer("/spec/paused") == Some(&json!(true)))
            .collect();
        assert!(pauses.iter().all(|paused| *paused), "its pause flaps: {pauses:?}");
        let bad = image(BAD);
        let started = history.of(Kind::Pod);
        let started = started
            .filter(|seen| text(&seen.object, "/spec/containers/0/image") == bad)
            .count();
        assert_eq!(started, 0, "pods that nobody judges");

        let (number, serves) = match self.then {
            Then::Next => {
                // Somebody may try it again by name, though the tool's template waits, paused.
                let home = scene.space.name.clone();
                let retried = scene.wade(&["retry", "--home", &home]).ends(LONG).await;
                assert_eq!(over(&scene.space, 3).await, "Rejected", "{}", retried.output());
                tool.commit(&image(NEXT));
                assert_eq!(over(&scene.space, 4).await, "Promoted");
                println!("--- {NEXT} promoted after {} rounds", tool.rounds());
                (5, NEW)
            }
            Then::Revert => {
                tool.commit(&image(NEW));
                self.at_rest(&scene.space).await;
                println!("--- at rest after {} rounds", tool.rounds());
                (3, OLD)
            }
        };
        tool.commit(&image(serves));
        assert_eq!(over(&scene.space, number).await, "Promoted");
        println!("--- back on {serves} after {} rounds", tool.rounds());
        let record = scene.record().await.expect("a record");
        let plan = text(&record, "/data/plan");
        assert!(
            plan.contains("\"lane\":\"rollback\""),
            "what served before goes the short way: {plan}"
        );
        // Nothing more happens, though the tool comes round.
        let quiet = now();
        tokio::time::sleep(2 * EVERY).await;
        let writes = scene.history().since(quiet).writes(Kind::Deployment, APP);
        let rounds = tool.rounds();
        drop(tool);
        let left_paused = !self.hold.is_empty();
        let expected = Expected {
            left_paused,
            ..Expected::on(serves)
        };
        let closed = scene.close(expected).await;
        self.no_fight(&closed, rounds);
        assert!(writes <= 3, "{writes} writes of a Deployment at rest");
        drop(daemon);
    }

    /// Git says what serves: nothing waits any more, and the Deployment is as it is between releases.
    async fn at_rest(&self, space: &Space) {
        let paused = !self.hold.is_empty();
        eventually("the Deployment is at rest", Duration::from_secs(30), || async {
            let there = space.get(Kind::Deployment, APP).await?;
            let image = text(&there, "/spec/template/spec/containers/0/image");
            let is_paused = there.pointer("/spec/paused") == Some(&json!(true));
            let marked = there.pointer("/metadata/annotations/wade.dev~1left-paused").is_some();
            let said = says(space, "phase").await;
            (image == space.node.image(NEW) && is_paused == paused && (paused || !marked) && said == "Idle")
                .then_some(())
        })
        .await;
    }

    /// Prints and bounds what Wade wrote, object by object.
    fn no_fight(&self, closed: &Closed, rounds: usize) {
        for resource in ["deployments", "httproutes", "services", "replicasets", "rollouts"] {
            let by = |agent: &str| {
                let writes = closed.requests.iter().filter(|request| {
                    let object = request.object.as_ref();
                    let about =
                        object.is_some_and(|object| object.resource == resource && object.subresource.is_empty());
                    about && request.is_write() && request.user_agent.starts_with(agent)
                });
                writes.count()
            };
            let (wade, kubectl) = (by("wade/"), by("kubectl"));
            println!(
                "FIGURE {}: {resource} written {wade} times by wade, {kubectl} by the tool in {rounds} rounds",
                self.name
            );
            // What the tool takes away in each of its rounds is put back once: of the route in two writes, of the
            // Deployment where the manifests say what Wade changes.
            let insists = self.over.pointer("/spec/strategy").is_some();
            let put_back = match resource {
                "httproutes" => 2 * rounds,
                "deployments" if insists => rounds,
                _ => 0,
            };
            let most = RELEASES * CALM + put_back;
            assert!(wade <= most, "{resource} was written {wade} times by wade");
        }
    }
}

/// How the release of this number ended; what the Rollout says of itself if it does not.
async fn over(space: &Space, number: u64) -> String {
    let watch = stopwatch();
    loop {
        let number_now = says(space, "release").await;
        let outcome = says(space, "outcome").await;
        if number_now == number.to_string() && !outcome.is_empty() {
            return outcome;
        }
        assert!(
            watch.elapsed() < LONG,
            "release {number} is not over: {} {}, {}",
            says(space, "release").await,
            says(space, "phase").await,
            says(space, "message").await
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn adopted(space: &Space) {
    eventually("the application is adopted", Duration::from_secs(30), || async {
        let label = "jsonpath={.metadata.labels.wade\\.dev/hold}";
        let said = space.kubectl(&["get", "deployment/app", "-o", label]).await;
        (said == "true").then_some(())
    })
    .await;
}

async fn refused(space: &Space, why: &str) {
    eventually(&format!("it is refused: {why}"), Duration::from_secs(30), || async {
        let said = says(space, "message").await;
        (says(space, "phase").await == "Refused" && said.contains(why)).then_some(())
    })
    .await;
}

/// `kubectl apply` in a loop, with replicas left to an autoscaler.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_tool_that_applies_client_side_is_no_fight() {
    let story = Story {
        name: "git-client",
        how: How::ClientSide,
        hold: &[],
        declared: true,
        over: json!({"spec": {"replicas": null}}),
        then: Then::Next,
    };
    story.told().await;
}

/// As Argo CD does it, with manifests that say what Wade changes as well: `paused`, the surge, the weights.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_tool_that_insists_on_every_field_is_no_fight() {
    let story = Story {
        name: "git-argo",
        how: How::ServerSide {
            manager: "argocd-controller",
            force: true,
        },
        hold: &[],
        declared: true,
        over: json!({"spec": {"paused": false, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        then: Then::Revert,
    };
    story.told().await;
}

/// Where no policy pauses: the Deployment stays paused between releases.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_tool_that_gives_way_is_no_fight_without_a_policy() {
    let story = Story {
        name: "git-paused",
        how: How::ServerSide {
            manager: "deployer",
            force: false,
        },
        hold: &["--hold", "paused"],
        declared: true,
        over: json!({}),
        then: Then::Revert,
    };
    story.told().await;
}
