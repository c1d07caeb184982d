//! The adapter against a small API server in memory: what it writes, and that it writes nothing when nothing changed.
//!
//! [`Ground::settle`] plays Kubernetes' controllers: pods for ReplicaSets, endpoints for Services, a gateway that takes
//! every route, and a Deployment that adopts what matches it.

mod hand_over;
mod rolling;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::adapter::{KubernetesPlatform, watched};
use super::reach::Reach;
use super::release::{Before, Isolation, LabelPair, Release, RouteKind, RouteRef};
use super::{EPOCH, HASH, RELEASE, REVISION, WRITE, template};
use crate::apiserver::ApiServer;
use crate::apiserver::testing::FakeServer;
use crate::apiserver::value::{annotation, count, label, name, selects, text, uid};
use crate::apiserver::view::View;
use crate::clock::ManualClock;
use crate::engine::{Action, World};
use crate::plan::{ALL_STABLE, SmokePlan, Split};
use crate::platforms::{Platform, PlatformError};
use crate::spec::{Span, Weight};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/app";
const SETS: &str = "/apis/apps/v1/namespaces/shop/replicasets";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const SERVICES: &str = "/api/v1/namespaces/shop/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/web";

struct Ground {
    fake: FakeServer,
    platform: KubernetesPlatform,
    clock: ManualClock,
    now: Timestamp,
}

fn pod_template(image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": "app" } },
        "spec": { "containers": [{ "name": "app", "image": image, "ports": [{ "containerPort": 8080 }] }] },
    })
}

fn rules() -> Value {
    json!([{ "backendRefs": [{ "group": "", "kind": "Service", "name": "app", "port": 80, "weight": 1 }],
             "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }] }])
}

fn weight(percent: u16) -> Weight {
    Weight::from_permille(percent * 10).expect("a percentage")
}

fn at(percent: u16) -> Action {
    Action::Route(Split::weight(weight(percent)))
}

impl Ground {
    /// Four pods of version 1.0 behind one Service, with or without a route.
    async fn new(routed: bool) -> Self {
        let fake = FakeServer::new();
        let deployment = fake.put(
            DEPLOYMENT,
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": { "name": "app", "namespace": "shop", "annotations": { REVISION: "1" } },
                "spec": { "replicas": 4, "revisionHistoryLimit": 10, "selector": { "matchLabels": { "app": "app" } },
                    "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
                    "template": pod_template("app:1.0") },
            }),
        );
        let mut stable = pod_template("app:1.0");
        stable["metadata"]["labels"][HASH] = json!("h1");
        fake.put(
            &format!("{SETS}/app-h1"),
            json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": { "name": "app-h1", "namespace": "shop", "labels": { "app": "app", HASH: "h1" },
                    "annotations": { REVISION: "1" },
                    "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment", "name": "app", "uid": uid(&deployment), "controller": true }] },
                "spec": { "replicas": 4, "selector": { "matchLabels": { "app": "app", HASH: "h1" } }, "template": stable },
            }),
        );
        fake.put(
            &format!("{SERVICES}/app"),
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "app", "namespace": "shop" },
                "spec": { "selector": { "app": "app" }, "ports": [{ "port": 80, "targetPort": 8080 }] } }),
        );
        fake.put(
            ROUTE,
            json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": { "name": "web", "namespace": "shop" }, "spec": { "rules": rules() } }),
        );
        let routes = vec![RouteRef {
            kind: RouteKind::Http,
            name: "web".to_owned(),
            service: "app".to_owned(),
            rules: rules(),
            declared: false,
        }];
        let pair = LabelPair {
            stable: "app".to_owned(),
            canary: "app-canary".to_owned(),
        };
        let release = Release {
            deployment: "app".to_owned(),
            uid: uid(&deployment).to_owned(),
            number: 7,
            template: pod_template("app:1.1"),
            stable: "h1".to_owned(),
            canary: "h2".to_owned(),
            takes_over: false,
            isolation: Isolation::Label {
                labels: [("app".to_owned(), pair)].into(),
            },
            services: vec!["app".to_owned()],
            routes: if routed { routes } else { Vec::new() },
            before: Before {
                paused: false,
                max_surge: json!("25%"),
                max_unavailable: json!("25%"),
                history_limit: json!(10),
            },
            scaler: None,
            budgets: Vec::new(),
            metrics: None,
            port: Some(8080),
            template_owner: None,
            rolling: false,
            digests: Default::default(),
            manifest: None,
        };
        Self::over(fake, release).await
    }

    async fn over(fake: FakeServer, release: Release) -> Self {
        play(&fake);
        let api = ApiServer::over(fake.client("shop"), "shop");
        let wake = Arc::new(Notify::new());
        let view = Arc::new(View::start(&api, &watched(&release, None), Arc::clone(&wake)));
        view.synced(Duration::from_secs(5)).await.expect("everything is listed");
        let now: Timestamp = "2026-03-02T10:00:00Z".parse().expect("a literal");
        let clock = ManualClock::new(now);
        let smoke = SmokePlan {
            tests: Vec::new(),
            tries: 1,
            within: Span::secs(1),
            again: None,
        };
        let client = crate::signals::http::http_client().expect("a client");
        let platform = KubernetesPlatform::new(
            api,
            view,
            release,
            smoke,
            client,
            Reach::Direct,
            Arc::new(clock.clone()),
            wake,
        );
        Self {
            fake,
            platform,
            clock,
            now,
        }
    }

    async fn apply(&mut self, action: &Action) -> Result<(), PlatformError> {
        self.platform.apply(action, 3).await
    }

    /// Lets the controllers work and a second pass; the watches tell in the meantime.
    async fn settle(&mut self) -> World {
        play(&self.fake);
        self.see().await
    }

    /// A second later, as the watches tell it.
    async fn see(&mut self) -> World {
        self.now += SignedDuration::from_secs(1);
        self.clock.set(self.now);
        // What was played has to come through the watches: a moment of real time, on loopback within the process.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.platform.observe().await.expect("the world is seen")
    }

    /// Applies until `done`, as the controller would.
    async fn until(&mut self, actions: &[Action], done: impl Fn(&World) -> bool) -> World {
        for _ in 0..30 {
            for action in actions {
                self.apply(action).await.expect("accepted");
            }
            let world = self.settle().await;
            if done(&world) {
                return world;
            }
        }
        panic!("it does not come about: {:?}", self.platform.observe().await);
    }

    fn deployment(&self) -> Value {
        self.fake.object(DEPLOYMENT).expect("it is there")
    }

    fn rules(&self) -> Value {
        self.fake.object(ROUTE).expect("it is there")["spec"]["rules"].clone()
    }

    fn set(&self, name: &str) -> Option<Value> {
        self.fake.object(&format!("{SETS}/{name}"))
    }

    async fn started(routed: bool) -> Self {
        let mut ground = Self::new(routed).await;
        let start = [
            Action::Hold,
            Action::Route(ALL_STABLE),
            Action::Canary { capacity: weight(25) },
        ];
        ground.until(&start, |world| world.canary.ready == 1).await;
        ground
    }
}

/// Kubernetes' controllers, once around.
fn play(fake: &FakeServer) {
    play_the_deployment(fake);
    play_the_rest(fake);
}

fn play_the_deployment(fake: &FakeServer) {
    let deployment = fake.object(DEPLOYMENT);
    if let Some(deployment) = &deployment {
        for set in fake.objects(SETS) {
            let orphan = crate::apiserver::value::controller(&set).is_none();
            let matches = selects(
                &deployment["spec"]["selector"]["matchLabels"],
                &set["metadata"]["labels"],
            );
            if orphan && matches {
                fake.edit(&format!("{SETS}/{}", name(&set)), |set| {
                    set["metadata"]["ownerReferences"] = json!([{ "apiVersion": "apps/v1", "kind": "Deployment",
                        "name": "app", "uid": uid(deployment), "controller": true }]);
                    if template::same(&set["spec"]["template"], &deployment["spec"]["template"]) {
                        set["metadata"]["annotations"][REVISION] = json!("2");
                    }
                });
                fake.edit(DEPLOYMENT, |deployment| {
                    deployment["metadata"]["annotations"][REVISION] = json!("2");
                });
                fake.edit(&format!("{SETS}/app-h1"), |old| old["spec"]["replicas"] = json!(0));
            }
        }
    }
}

fn play_the_rest(fake: &FakeServer) {
    for set in fake.objects(SETS) {
        let owned = name(&set).to_owned();
        let pods: Vec<Value> = fake
            .objects(PODS)
            .into_iter()
            .filter(|pod| name(pod).starts_with(&format!("{owned}-")))
            .collect();
        let wanted = count(&set, "/spec/replicas") as usize;
        for number in pods.len()..wanted {
            let pod = format!("{owned}-{number}");
            fake.put(
                &format!("{PODS}/{pod}"),
                json!({ "apiVersion": "v1", "kind": "Pod",
                    "metadata": { "name": pod, "namespace": "shop", "labels": set["spec"]["template"]["metadata"]["labels"],
                        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owned, "uid": uid(&set), "controller": true }] },
                    "status": { "phase": "Running", "podIP": "10.0.0.1",
                        "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-03-02T10:00:00Z" }] } }),
            );
        }
        for pod in pods.iter().skip(wanted) {
            fake.remove(&format!("{PODS}/{}", name(pod)));
        }
        let (wanted, path) = (json!(wanted), format!("{SETS}/{owned}"));
        if set["status"]["availableReplicas"] != wanted {
            fake.edit(&path, |set| {
                set["status"] = json!({ "replicas": wanted, "readyReplicas": wanted, "availableReplicas": wanted });
            });
        }
    }
    let pods = fake.objects(PODS);
    for service in fake.objects(SERVICES) {
        let endpoints: Vec<Value> = pods
            .iter()
            .filter(|pod| selects(&service["spec"]["selector"], &pod["metadata"]["labels"]))
            .map(|pod| json!({ "conditions": { "ready": true }, "targetRef": { "name": name(pod) } }))
            .collect();
        let path = format!("{SLICES}/{}", name(&service));
        if fake
            .object(&path)
            .is_none_or(|slice| slice["endpoints"] != json!(endpoints))
        {
            fake.put(
                &path,
                json!({ "metadata": { "name": name(&service), "namespace": "shop",
                    "labels": { "kubernetes.io/service-name": name(&service) } }, "endpoints": endpoints }),
            );
        }
    }
    if let Some(route) = fake.object(ROUTE) {
        let generation = route["metadata"]["generation"].clone();
        let condition = |of: &str| json!({ "type": of, "status": "True", "observedGeneration": generation });
        let status = json!({ "parents": [{ "controllerName": "gateway", "parentRef": { "name": "edge" },
            "conditions": [condition("Accepted"), condition("ResolvedRefs")] }] });
        if route["status"] != status {
            fake.edit(ROUTE, |route| route["status"] = status);
        }
    }
}

#[tokio::test]
async fn the_start_holds_isolates_and_warms_and_nobody_is_moved() {
    let ground = Ground::started(true).await;
    let deployment = ground.deployment();
    assert_eq!(deployment["spec"]["paused"], json!(true));
    assert_eq!(deployment["spec"]["template"], pod_template("app:1.1"));
    assert_eq!(
        deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"],
        json!("100%")
    );
    assert!(annotation(&deployment, RELEASE).is_some_and(|held| held.contains("\"number\":7")));
    assert_eq!(annotation(&deployment, EPOCH), Some("3"));

    let set = ground.set("app-h2").expect("the canary");
    assert_eq!(set["spec"]["selector"], json!({ "matchLabels": { HASH: "h2" } }));
    assert_eq!(
        set["spec"]["template"]["metadata"]["labels"],
        json!({ "app": "app-canary", HASH: "h2" })
    );
    assert_eq!(
        label(&set, "app"),
        Some("app"),
        "what the Deployment looks for when it adopts"
    );
    let anchor = ground
        .fake
        .object(&format!("{SERVICES}/app-canary"))
        .expect("the anchor");
    assert_eq!(text(&set, "/metadata/ownerReferences/0/uid"), uid(&anchor));
    assert_eq!(anchor["spec"]["selector"], json!({ HASH: "h2" }));

    let backends = ground.rules()[0]["backendRefs"].clone();
    assert_eq!((name_of(&backends[0]), name_of(&backends[1])), ("app", "app-canary"));
    assert_eq!(backends[1]["weight"], json!(0));
    let slice = ground.fake.object(&format!("{SLICES}/app")).expect("endpoints");
    assert_eq!(
        slice["endpoints"].as_array().map(Vec::len),
        Some(4),
        "only stable's pods"
    );
}

fn name_of(backend: &Value) -> &str {
    backend["name"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn nothing_is_written_when_nothing_has_changed() {
    let mut ground = Ground::started(true).await;
    let stage = [Action::Hold, Action::Canary { capacity: weight(50) }, at(20)];
    ground
        .until(&stage, |world| world.route.split == Some(Split::weight(weight(20))))
        .await;
    ground.fake.forget();
    for _ in 0..5 {
        for action in &stage {
            ground.apply(action).await.expect("accepted");
        }
        ground.settle().await;
    }
    assert_eq!(ground.fake.writes(), [], "the world is as it should be");
}

#[tokio::test]
async fn the_pods_that_were_judged_are_the_pods_that_serve() {
    let mut ground = Ground::started(true).await;
    let full = [Action::Hold, Action::Canary { capacity: weight(100) }, at(100)];
    ground
        .until(&full, |world| {
            world.canary.ready == 4 && world.route.split == Some(Split::weight(weight(100)))
        })
        .await;
    let judged: Vec<Value> = canary_pods(&ground);
    let give = [Action::Canary { capacity: weight(100) }, at(100), Action::Adopt];
    let world = ground.until(&give, |world| world.adopted).await;
    assert_eq!(world.stable.exists, 0);
    let leave = [at(100), Action::Adopt, Action::Retire];
    let world = ground.until(&leave, |world| world.restored).await;
    assert_eq!(
        world.route.split,
        Some(Split::weight(weight(100))),
        "everybody is on the new revision"
    );

    let uids = |pods: &[Value]| -> Vec<String> { pods.iter().map(|pod| uid(pod).to_owned()).collect() };
    assert_eq!(uids(&canary_pods(&ground)), uids(&judged), "the same pods");
    assert!(canary_pods(&ground).iter().all(|pod| label(pod, "app") == Some("app")));
    let deployment = ground.deployment();
    let spec = &deployment["spec"];
    assert_eq!(spec.get("paused"), None);
    assert_eq!(spec["strategy"]["rollingUpdate"]["maxSurge"], json!("25%"));
    assert_eq!(deployment["spec"]["revisionHistoryLimit"], json!(10));
    assert_eq!(
        [RELEASE, EPOCH, WRITE].map(|ours| annotation(&deployment, ours)),
        [None; 3]
    );
    assert_eq!(ground.rules(), rules(), "the route is exactly as it was");
    assert_eq!(ground.fake.object(&format!("{SERVICES}/app-canary")), None);
}

fn canary_pods(ground: &Ground) -> Vec<Value> {
    let mut pods = ground.fake.objects(PODS);
    pods.retain(|pod| label(pod, HASH) == Some("h2"));
    pods
}

#[tokio::test]
async fn a_set_that_was_taken_over_is_given_back_once_and_not_fought_for() {
    let ground = Ground::new(true).await;
    let deployment = ground.deployment();
    let mut earlier = pod_template("app:1.1");
    earlier["metadata"]["labels"][HASH] = json!("h2");
    ground.fake.put(
        &format!("{SETS}/app-h2"),
        json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "name": "app-h2", "namespace": "shop", "labels": { "app": "app", HASH: "h2" },
                "annotations": { REVISION: "0" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment", "name": "app", "uid": uid(&deployment), "controller": true }] },
            "spec": { "replicas": 0, "selector": { "matchLabels": { "app": "app", HASH: "h2" } }, "template": earlier },
        }),
    );
    let mut release = Release::clone(&ground.platform.release);
    release.takes_over = true;
    release.isolation = Isolation::Pin;
    let mut ground = Ground::over(ground.fake.clone(), release).await;
    let full = [Action::Hold, Action::Canary { capacity: weight(100) }, at(100)];
    ground
        .until(&full, |world| {
            world.canary.ready == 4 && world.route.split == Some(Split::weight(weight(100)))
        })
        .await;
    let service = ground.fake.object(&format!("{SERVICES}/app")).expect("it is there");
    assert_eq!(
        service["spec"]["selector"],
        json!({ "app": "app", HASH: "h1" }),
        "pinned to stable"
    );
    let judged = canary_pods(&ground);
    let give = [Action::Canary { capacity: weight(100) }, at(100), Action::Adopt];
    for _ in 0..4 {
        for action in &give {
            ground.apply(action).await.expect("accepted");
        }
        // The Deployment does not notice yet; everything else does.
        play_the_rest(&ground.fake);
        ground.see().await;
    }
    let orphan = ground.set("app-h2").expect("the canary");
    assert_eq!(
        crate::apiserver::value::controller(&orphan),
        None,
        "given away, and not taken back"
    );
    ground.until(&give, |world| world.adopted).await;
    let leave = [at(100), Action::Adopt, Action::Retire];
    ground.until(&leave, |world| world.restored).await;
    assert_eq!(canary_pods(&ground), judged, "the same pods, not even relabelled");
    let service = ground.fake.object(&format!("{SERVICES}/app")).expect("it is there");
    assert_eq!(service["spec"]["selector"], json!({ "app": "app" }));
}

#[tokio::test]
async fn the_way_back_leaves_everything_as_it_was() {
    for routed in [true, false] {
        let mut ground = Ground::new(routed).await;
        let (deployment, service) = (ground.deployment(), ground.fake.object(&format!("{SERVICES}/app")));
        let stage = [Action::Hold, Action::Canary { capacity: weight(50) }, at(20)];
        ground
            .until(&stage, |world| {
                world.route.split.as_ref().is_some_and(Split::serves_users)
            })
            .await;
        ground
            .until(&[Action::Route(ALL_STABLE)], |world| {
                world.route.split == Some(ALL_STABLE) && world.canary.drained
            })
            .await;
        ground
            .until(&[Action::Route(ALL_STABLE), Action::RemoveCanary], |world| {
                world.canary.exists == 0
            })
            .await;
        let end = [Action::Route(ALL_STABLE), Action::RemoveCanary, Action::Restore];
        ground.until(&end, |world| world.restored).await;
        assert_eq!(ground.deployment()["spec"], deployment["spec"], "routed: {routed}");
        assert_eq!(
            ground.deployment()["metadata"]["annotations"],
            deployment["metadata"]["annotations"]
        );
        assert_eq!(ground.rules(), rules());
        let spec = |service: Option<Value>| service.map(|service| service["spec"].clone());
        assert_eq!(spec(ground.fake.object(&format!("{SERVICES}/app"))), spec(service));
        assert_eq!(ground.set("app-h2"), None);
        assert_eq!(canary_pods(&ground), Vec::<Value>::new());
    }
}

#[tokio::test]
async fn without_a_route_labelled_pods_are_the_split_and_the_pin_is_all() {
    let mut ground = Ground::started(false).await;
    let split = |ground: &Ground| {
        let serving = canary_pods(ground)
            .iter()
            .filter(|pod| label(pod, "app") == Some("app"))
            .count();
        let service = ground.fake.object(&format!("{SERVICES}/app")).expect("it is there");
        (serving, service["spec"]["selector"].clone())
    };
    assert_eq!(
        split(&ground),
        (0, json!({ "app": "app" })),
        "no user meets it before its first weight"
    );
    let half = [Action::Hold, Action::Canary { capacity: weight(100) }, at(20)];
    ground
        .until(&half, |world| {
            world.canary.ready == 4 && world.route.split == Some(Split::weight(weight(20)))
        })
        .await;
    assert_eq!(split(&ground), (1, json!({ "app": "app" })));
    let all = [Action::Hold, Action::Canary { capacity: weight(100) }, at(100)];
    ground
        .until(&all, |world| world.route.split == Some(Split::weight(weight(100))))
        .await;
    assert_eq!(split(&ground), (4, json!({ "app": "app", HASH: "h2" })));
    let leave = [
        Action::Canary { capacity: weight(100) },
        at(100),
        Action::Adopt,
        Action::Retire,
    ];
    ground.until(&leave, |world| world.adopted && world.restored).await;
    assert_eq!(split(&ground), (4, json!({ "app": "app" })), "the pin is off again");
}

#[tokio::test]
async fn a_weight_that_somebody_overwrites_is_put_back() {
    let mut ground = Ground::started(true).await;
    let stage = [Action::Hold, Action::Canary { capacity: weight(50) }, at(20)];
    let at_20 = |world: &World| world.route.split == Some(Split::weight(weight(20)));
    ground.until(&stage, at_20).await;
    ground.fake.edit(ROUTE, |route| route["spec"]["rules"] = rules());
    let seen = ground.settle().await;
    assert_eq!(seen.route.split, Some(ALL_STABLE), "their write is seen as what it is");
    for action in &stage {
        ground.apply(action).await.expect("accepted");
    }
    let weights = |ground: &Ground| {
        let backends = ground.rules()[0]["backendRefs"].clone();
        let weights = backends.as_array().expect("backends").iter();
        weights.map(|one| count(one, "/weight")).collect::<Vec<_>>()
    };
    // The data plane has to hear of it again before anybody is sent there.
    assert_eq!(weights(&ground), [1, 0], "its backend is back, without traffic");
    ground.until(&stage, at_20).await;
    assert_eq!(weights(&ground), [80, 20]);
}

#[tokio::test]
async fn a_write_that_somebody_was_quicker_than_is_worked_out_anew() {
    let mut ground = Ground::started(true).await;
    // The route is warm, and has been for a while.
    ground.settle().await;
    ground.settle().await;
    ground.fake.before(Method::PATCH, "httproutes/web", |fake| {
        fake.edit(ROUTE, |route| route["metadata"]["labels"] = json!({ "theirs": "kept" }));
    });
    ground.apply(&at(20)).await.expect("the second try is accepted");
    let route = ground.fake.object(ROUTE).expect("it is there");
    assert_eq!(label(&route, "theirs"), Some("kept"));
    assert_eq!(ground.settle().await.route.split, Some(Split::weight(weight(20))));
}

#[tokio::test]
async fn a_holder_that_was_believed_dead_writes_nothing_more() {
    let mut ground = Ground::started(true).await;
    ground.fake.edit(DEPLOYMENT, |deployment| {
        deployment["metadata"]["annotations"][EPOCH] = json!("4");
    });
    ground.fake.forget();
    play(&ground.fake);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let fenced = PlatformError::Fenced { ours: 3, theirs: 4 };
    assert_eq!(ground.apply(&at(20)).await, Err(fenced.clone()));
    assert_eq!(ground.platform.observe().await.map(|_| ()), Err(fenced));
    assert_eq!(ground.fake.writes(), []);
}

#[tokio::test]
async fn what_others_do_to_the_deployment_is_seen_and_named() {
    type Change = fn(&mut Value);
    let changes: [(Change, bool, &str); 4] = [
        (
            |d| d["spec"]["paused"] = json!(false),
            false,
            "was resumed in mid-release",
        ),
        (
            |d| d["spec"]["template"] = pod_template("app:1.2"),
            true,
            "was changed in mid-release",
        ),
        (
            |d| d["spec"]["template"] = pod_template("app:1.0"),
            false,
            "was put back in mid-release",
        ),
        (
            |d| {
                if let Some(annotations) = d["metadata"]["annotations"].as_object_mut() {
                    annotations.shift_remove(RELEASE);
                }
            },
            false,
            "letting go",
        ),
    ];
    for (change, newer, words) in changes {
        let mut ground = Ground::started(true).await;
        assert_eq!(ground.settle().await.interference, None);
        ground.fake.edit(DEPLOYMENT, change);
        let seen = ground.settle().await.interference.expect(words);
        assert!(seen.message.contains(words), "{}", seen.message);
        assert_eq!(seen.newer, newer, "{words}");
    }
    let mut ground = Ground::started(true).await;
    ground.fake.remove(DEPLOYMENT);
    let seen = ground.settle().await.interference.expect("it is gone");
    assert!(seen.message.contains("was deleted in mid-release"), "{}", seen.message);
}

#[tokio::test]
async fn nothing_is_handed_over_that_nobody_has_judged() {
    let mut ground = Ground::started(true).await;
    let full = [Action::Hold, Action::Canary { capacity: weight(100) }, at(100)];
    ground
        .until(&full, |world| world.route.split == Some(Split::weight(weight(100))))
        .await;
    ground.fake.edit(DEPLOYMENT, |deployment| {
        deployment["spec"]["template"] = pod_template("app:1.2");
    });
    ground.settle().await;
    let refused = ground.apply(&Action::Adopt).await.expect_err("another template");
    assert!(refused.to_string().contains("is another one now"), "{refused}");
    let set = ground.set("app-h2").expect("still ours");
    assert!(crate::apiserver::value::controller(&set).is_some_and(|(kind, _, _)| kind == "Service"));
}
