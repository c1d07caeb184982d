//! Scaling in the very moment in which the canary's ReplicaSet is given to the Deployment.

use super::*;

#[tokio::test]
async fn a_hand_over_that_a_scaling_has_jammed_comes_to_its_end() {
    let mut ground = Ground::started(true).await;
    let full = [Action::Hold, Action::Canary { capacity: weight(100) }, at(100)];
    ground.until(&full, |world| world.canary.ready == 4).await;
    let give = [Action::Canary { capacity: weight(100) }, at(100), Action::Adopt];
    // Given, and in the same moment scaled from 4 to 6 while paused: 4 old and 8 new are all that it may have.
    let uid_of = uid(&ground.deployment()).to_owned();
    ground.fake.edit(&format!("{SETS}/app-h2"), |set| {
        set["metadata"]["ownerReferences"] = json!([{ "apiVersion": "apps/v1", "kind": "Deployment",
            "name": "app", "uid": uid_of, "controller": true }]);
        set["metadata"]["annotations"][REVISION] = json!("2");
        set["spec"]["replicas"] = json!(8);
    });
    ground.fake.edit(DEPLOYMENT, |deployment| {
        deployment["metadata"]["annotations"][REVISION] = json!("2");
        deployment["spec"]["replicas"] = json!(6);
        deployment["status"]["observedGeneration"] = json!(1_000);
    });
    ground.settle().await;
    for _ in 0..5 {
        ground.apply(&Action::Adopt).await.expect("accepted");
        ground.see().await;
    }
    let paused = ground.deployment()["spec"]["paused"].clone();
    assert_eq!(paused, json!(false), "a rolling update ends it");
    // As the Deployment controller does then.
    let size = |set: &str, size: u32| {
        let path = format!("{SETS}/{set}");
        ground.fake.edit(&path, |set| set["spec"]["replicas"] = json!(size));
    };
    size("app-h2", 6);
    size("app-h1", 0);
    ground.until(&give, |world| world.adopted).await;
    let leave = [at(100), Action::Adopt, Action::Retire];
    ground.until(&leave, |world| world.restored).await;
    assert_eq!(ground.deployment()["spec"]["paused"], json!(false));
    assert_eq!(ground.deployment()["spec"]["replicas"], json!(6));
}

#[tokio::test]
async fn what_has_been_given_away_is_not_scaled_any_more() {
    let mut ground = Ground::started(true).await;
    let full = [Action::Hold, Action::Canary { capacity: weight(100) }, at(100)];
    ground.until(&full, |world| world.canary.ready == 4).await;
    let give = [Action::Canary { capacity: weight(100) }, at(100), Action::Adopt];
    let orphan = |ground: &Ground| {
        let set = ground.set("app-h2").expect("it is there");
        crate::apiserver::value::controller(&set).is_none()
    };
    // Until the one patch that gives it away, with nobody there to adopt it.
    for _ in 0..10 {
        for action in &give {
            ground.apply(action).await.expect("accepted");
        }
        if orphan(&ground) {
            break;
        }
        play_the_rest(&ground.fake);
        ground.see().await;
    }
    assert!(orphan(&ground), "it was given away");
    // Scaled in that very moment, before the Deployment has adopted it, and afterwards before it is its newest.
    ground
        .fake
        .edit(DEPLOYMENT, |deployment| deployment["spec"]["replicas"] = json!(2));
    let uid_of = uid(&ground.deployment()).to_owned();
    for adopted in [false, true] {
        if adopted {
            ground.fake.edit(&format!("{SETS}/app-h2"), |set| {
                set["metadata"]["ownerReferences"] = json!([{ "apiVersion": "apps/v1", "kind": "Deployment",
                    "name": "app", "uid": uid_of, "controller": true }]);
            });
        }
        ground.see().await;
        for action in &give {
            ground.apply(action).await.expect("accepted");
        }
        let set = ground.set("app-h2").expect("it is there");
        assert_eq!(
            count(&set, "/spec/replicas"),
            4,
            "the Deployment divides the difference itself"
        );
    }
}
