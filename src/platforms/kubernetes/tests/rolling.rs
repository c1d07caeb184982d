//! `finish: rolling`, on a Deployment controller that rolls when it is let.

use super::*;
use crate::apiserver::value::is_controlled_by;
use crate::platforms::kubernetes::HASH;

const GIVEN: [Action; 1] = [Action::Hold];

fn half() -> Vec<Action> {
    vec![Action::Hold, Action::Canary { capacity: weight(50) }, at(50)]
}

/// The last shift: no more pods are asked for than the stage before had.
fn last() -> Vec<Action> {
    vec![Action::Hold, Action::Canary { capacity: weight(50) }, at(100)]
}

async fn begun(routed: bool) -> Ground {
    let ground = Ground::new(routed).await;
    let mut release = Release::clone(&ground.platform.release);
    release.rolling = true;
    let mut ground = Ground::over(ground.fake.clone(), release).await;
    let start = [
        Action::Hold,
        Action::Route(ALL_STABLE),
        Action::Canary { capacity: weight(50) },
    ];
    ground.until(&start, |world| world.canary.ready == 2).await;
    ground
        .until(&half(), |world| world.route.split == Some(Split::weight(weight(50))))
        .await;
    ground
}

/// One step of the rolling update that the Deployment controller makes: a pod over, a pod less.
fn roll_on(ground: &Ground) {
    let deployment = ground.deployment();
    let (Some(new), Some(old)) = (ground.set("app-h2"), ground.set("app-h1")) else {
        return;
    };
    if deployment["spec"]["paused"] == json!(true) || !is_controlled_by(&new, &deployment) {
        return;
    }
    let forward = template::same(&new["spec"]["template"], &deployment["spec"]["template"]);
    let (grows, shrinks) = if forward { (&new, &old) } else { (&old, &new) };
    let full = count(&deployment, "/spec/replicas");
    let newest = name(grows).to_owned();
    let resize = |set: &Value, size: u32| {
        let path = format!("{SETS}/{}", name(set));
        ground.fake.edit(&path, |set| set["spec"]["replicas"] = json!(size));
    };
    resize(grows, (count(grows, "/spec/replicas") + 1).min(full));
    resize(shrinks, count(shrinks, "/spec/replicas").saturating_sub(1));
    let revision = if forward { "2" } else { "3" };
    ground.fake.edit(&format!("{SETS}/{newest}"), |set| {
        set["metadata"]["annotations"][REVISION] = json!(revision);
    });
    ground.fake.edit(DEPLOYMENT, |deployment| {
        deployment["metadata"]["annotations"][REVISION] = json!(revision);
    });
}

/// The Deployment takes the orphan, and nothing else: it is paused.
fn take(ground: &Ground) {
    let deployment = ground.deployment();
    if let Some(set) = ground.set("app-h2")
        && crate::apiserver::value::controller(&set).is_none()
    {
        ground.fake.edit(&format!("{SETS}/app-h2"), |set| {
            set["metadata"]["ownerReferences"] = json!([{ "apiVersion": "apps/v1", "kind": "Deployment",
                "name": "app", "uid": uid(&deployment), "controller": true }]);
            set["metadata"]["annotations"][REVISION] = json!("2");
        });
        ground.fake.edit(DEPLOYMENT, |deployment| {
            deployment["metadata"]["annotations"][REVISION] = json!("2");
        });
    }
}

/// As the controller goes on, with a Deployment controller that makes one step each time; ends when `done`. Returns the
/// fewest pods of both revisions that were ever wanted together, and the most.
async fn go_on(ground: &mut Ground, actions: &[Action], done: impl Fn(&World) -> bool) -> (u32, u32) {
    let (mut fewest, mut most) = (u32::MAX, 0);
    for _ in 0..40 {
        for action in actions {
            ground.apply(action).await.expect("accepted");
        }
        take(ground);
        roll_on(ground);
        play_the_rest(&ground.fake);
        let world = ground.see().await;
        let wanted = |set: &str| ground.set(set).map_or(0, |set| count(&set, "/spec/replicas"));
        let both = wanted("app-h1") + wanted("app-h2");
        (fewest, most) = (fewest.min(both), most.max(both));
        if done(&world) {
            return (fewest, most);
        }
    }
    panic!("it does not come about: {:?}", ground.platform.observe().await);
}

#[tokio::test]
async fn the_deployment_rolls_the_rest_and_never_has_more_than_the_judged_pods_over() {
    for routed in [true, false] {
        let mut ground = begun(routed).await;
        let all_new = Some(Split::weight(weight(100)));
        let (fewest, most) = go_on(&mut ground, &last(), |world| world.route.split == all_new).await;
        assert!(fewest >= 4 && most <= 6, "{fewest} to {most} pods");
        assert_eq!(
            ground.deployment()["spec"]["strategy"]["rollingUpdate"]["maxSurge"],
            json!(2),
            "just the canary's pods over"
        );
        assert!(
            ground
                .set("app-h1")
                .is_some_and(|set| count(&set, "/spec/replicas") == 0)
        );
        // The bake goes on, and holds nothing back.
        for action in last().iter().chain(&GIVEN) {
            ground.apply(action).await.expect("accepted");
        }
        assert_eq!(ground.deployment()["spec"]["paused"], json!(false));
        let leave = [at(100), Action::Adopt, Action::Retire];
        ground.until(&leave, |world| world.adopted && world.restored).await;
        let deployment = ground.deployment();
        assert_eq!(
            deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"],
            json!("25%")
        );
        assert_eq!(annotation(&deployment, RELEASE), None);
        assert_eq!(ground.rules(), rules(), "the route is exactly as it was");
    }
}

#[tokio::test]
async fn a_regression_in_the_roll_is_rolled_back() {
    for routed in [true, false] {
        let mut ground = begun(routed).await;
        // Handed over, and the first of stable's pods are gone.
        go_on(&mut ground, &last(), |world| world.stable.ready == 3).await;
        let back = [Action::Route(ALL_STABLE)];
        let (fewest, _) = go_on(&mut ground, &back, |world| world.route.split == Some(ALL_STABLE)).await;
        assert!(fewest >= 4, "{fewest} pods");
        assert!(canary_pods(&ground).is_empty());
        let restore = [Action::Route(ALL_STABLE), Action::RemoveCanary, Action::Restore];
        ground.until(&restore, |world| world.restored).await;
        let deployment = ground.deployment();
        assert_eq!(image(&deployment), "app:1.0");
        assert_ne!(deployment["spec"]["paused"], json!(true));
        assert_eq!(count(&ground.set("app-h1").expect("stable"), "/spec/replicas"), 4);
        assert!(ground.set("app-h2").is_some(), "it stays in the Deployment's history");
        assert_eq!(ground.rules(), rules());
    }
}

fn image(deployment: &Value) -> &str {
    deployment
        .pointer("/spec/template/spec/containers/0/image")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_taken_over_set_is_held_like_any_other_until_it_has_pods() {
    let ground = Ground::new(true).await;
    let mut release = Release::clone(&ground.platform.release);
    (release.rolling, release.takes_over) = (true, true);
    let deployment = ground.deployment();
    let mut earlier = pod_template("app:1.1");
    earlier["metadata"]["labels"][HASH] = json!("h2");
    ground.fake.put(
        &format!("{SETS}/app-h2"),
        json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "name": "app-h2", "namespace": "shop", "labels": { "app": "app", HASH: "h2" },
                "annotations": { REVISION: "0" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment", "name": "app", "uid": uid(&deployment), "controller": true }] },
            "spec": { "replicas": 0, "selector": { "matchLabels": { "app": "app", HASH: "h2" } }, "template": earlier } }),
    );
    let mut ground = Ground::over(ground.fake.clone(), release).await;
    ground.apply(&Action::Hold).await.expect("accepted");
    assert_eq!(
        ground.deployment()["spec"]["paused"],
        json!(true),
        "held, though the set is the Deployment's"
    );
}
