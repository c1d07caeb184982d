//! What is written comes back, once, and costs what it should.

use super::*;

#[tokio::test]
async fn a_record_comes_back_whole_in_another_process() {
    let (fake, _store, mut drive) = one().await;
    drive.reach_the_bake().await;
    // A metric without weight has minus infinity in its logarithms.
    for weight in [0.0, 1.0] {
        let (judge, verdict) = judged(1000.0, 13.0, weight);
        let mut update = drive.update(&[]);
        update.judge = Some(judge.clone());
        update.verdict = Some(verdict.clone());
        drive.write(&update).await.expect("written");
        let loaded = over(&fake).load(&drive.key).await.expect("a record");
        assert_eq!(loaded.judge, Some(judge));
        assert_eq!(loaded.verdict, Some(verdict));
        let new = new_release("shop", "1.1");
        assert_eq!((loaded.canary, loaded.plan), (new.canary, new.plan));
        assert_eq!((loaded.by, loaded.reason), (new.by, new.reason));
        assert_eq!(
            (loaded.pipeline, loaded.deploy_window),
            (new.pipeline, new.deploy_window)
        );
        assert_eq!(loaded.state, drive.state);
        assert_eq!(
            loaded.history.iter().map(|entry| entry.number).collect::<Vec<_>>(),
            (1..=9).collect::<Vec<_>>()
        );
        assert!(loaded.history[2].verdict.is_some());
        let infinite = data(&fake, "judge").contains("$float");
        assert!(infinite || weight > 0.0, "an infinity is among them");
    }
    let object = fake.object(PATH).expect("a record");
    assert_eq!(object["metadata"]["labels"]["wade.dev/rollout"], "shop");
    assert!(object["metadata"]["ownerReferences"].is_null());
}

#[tokio::test]
async fn evidence_alone_is_a_small_write_and_nothing_new_is_none() {
    let (fake, _store, mut drive) = one().await;
    drive.reach_the_bake().await;
    let (judge, verdict) = judged(1000.0, 13.0, 1.0);
    let mut update = drive.update(&[]);
    update.judge = Some(judge);
    update.verdict = Some(verdict);
    fake.forget();
    drive.write(&update).await.expect("written");
    drive.write(&update).await.expect("there already");
    let asked = fake.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let touched: Vec<(&str, &str)> = asked[0]
        .body
        .as_array()
        .expect("a JSON patch")
        .iter()
        .map(|op| (op["op"].as_str().expect("an op"), op["path"].as_str().expect("a path")))
        .collect();
    let expected = [
        ("test", "/data/epoch"),
        ("test", "/data/number"),
        ("test", "/data/next"),
        ("add", "/data/judge"),
        ("add", "/data/verdict"),
    ];
    assert_eq!(touched, expected);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised() {
    let (fake, _store, mut drive) = one().await;
    let update = drive.update(&[Event::Admitted, Event::Ready]);
    fake.trouble(Method::PATCH, "wade-shop", Trouble::LostAnswer);
    let error = drive.write(&update).await.expect_err("nobody knows");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    drive.write(&update).await.expect("it had arrived");
    assert_eq!(drive.load().await.history.len(), 2);
    drive.go(&[Event::SmokePassed]).await;
    drive.write(&update).await.expect("a late repetition changes nothing");
    assert_eq!(drive.load().await.state, drive.state);
}

#[tokio::test]
async fn a_write_that_never_arrived_is_made_by_the_repetition() {
    let (fake, _store, mut drive) = one().await;
    let update = drive.update(&[Event::Admitted, Event::Ready]);
    fake.trouble(Method::PATCH, "wade-shop", Trouble::Unreachable);
    drive.write(&update).await.expect_err("no server");
    assert_eq!(drive.load().await.history.len(), 0);
    drive.write(&update).await.expect("written");
    assert_eq!(drive.load().await.history, update.entries);
}

#[tokio::test]
async fn a_gap_and_another_entry_under_the_same_number_are_damage() {
    let (_fake, _store, mut drive) = one().await;
    drive.go(&[Event::Admitted]).await;
    let first = drive.update(&[Event::Ready]);
    let gap = drive.update(&[Event::SmokePassed]);
    let error = drive.write(&gap).await.expect_err("entry 2 is missing");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    drive.write(&first).await.expect("written");
    let mut other = first;
    other.entries[0].cause = Cause::Engine;
    let error = drive.write(&other).await.expect_err("it is another one");
    assert!(error.to_string().contains("two controllers"), "{error}");
}

#[tokio::test]
async fn a_key_that_makes_no_sense_is_named() {
    let (fake, store, mut drive) = one().await;
    drive.promote().await;
    let mut next = Drive::begin(&store, "1.2").await;
    next.go(&[Event::Admitted]).await;
    fake.edit(PATH, |object| object["data"]["releases"] = "nonsense".into());
    assert_eq!(
        store.releases().await.expect("the running one can be read").len(),
        1,
        "a line that cannot be read is skipped"
    );
    fake.edit(PATH, |object| object["data"]["state"] = "{}".into());
    let error = over(&fake).load(&next.key).await.expect_err("no state");
    assert!(error.to_string().contains("key state"), "{error}");
}
