//! What is written comes back, once, and costs what it should.

use super::*;
use crate::store::Revision;
use crate::store::record::JudgeRecord;

#[tokio::test]
async fn a_record_comes_back_whole_in_another_process() {
    let (fake, _store, mut drive) = one().await;
    drive.reach_the_bake().await;
    for (total, bad, weight) in [
        (5.0, 1.0, 0.0),
        (100.0, 100.0, 1.0),
        (1e300, 1.0, 1.0),
        (1e9, 12_345.678, 1.0),
    ] {
        let (judge, mut verdict) = judged(total, bad, weight);
        verdict.evidence = f64::NEG_INFINITY;
        let mut update = drive.update(&[]);
        update.judge = Some(judge.clone());
        update.verdict = Some(verdict.clone());
        drive.write(&update).await.expect("written");
        assert!(data(&fake, "verdict").contains(r#"{"$float":"-inf"}"#));
        let loaded = over(&fake).load(&drive.key).await.expect("a record");
        // Compared in words: NaN, should a judge ever hold one, equals nothing.
        let words = |judge: &JudgeRecord| texts::encode(judge).expect("words");
        assert_eq!(loaded.judge.as_ref().map(words), Some(words(&judge)));
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

/// What happens to the request of one step.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    Nothing,
    Lost(fn() -> Trouble),
    DeletedBefore,
    DeletedMeanwhile,
    CommandMeanwhile,
}

/// A release from begin to end, each step repeated until it is written; step `at` meets with a mishap.
async fn promoted_with(mishap: Mishap, at_step: usize) -> (ReleaseRecord, Option<Revision>) {
    let (fake, store, mut drive) = one().await;
    let by = Actor::named("ann");
    let passed = Event::StageEnded { proof: Proof::Passed };
    let waited = Event::StageEnded {
        proof: Proof::NotJudged,
    };
    let steps = [
        vec![Event::Admitted],
        vec![Event::Ready, Event::SmokePassed],
        vec![Event::GateOpened { command: 1, by }],
        vec![Event::Prepared, Event::Shifted { restarts: 0 }],
        vec![passed, Event::Prepared],
        vec![Event::Shifted { restarts: 1 }],
        vec![waited, Event::Adopted],
        vec![Event::StableDrained, Event::Retired],
    ];
    for (index, events) in steps.iter().enumerate() {
        let mut update = drive.update(events);
        let (judge, verdict) = judged(1000.0, 13.0, 1.0);
        update.judge = Some(judge);
        update.verdict = Some(verdict);
        match mishap {
            Mishap::Lost(trouble) if index == at_step => fake.trouble(Method::PATCH, "wade-shop", trouble()),
            Mishap::DeletedBefore if index == at_step => fake.remove(PATH),
            Mishap::DeletedMeanwhile if index == at_step => {
                fake.before(Method::PATCH, "wade-shop", |fake| fake.remove(PATH));
            }
            Mishap::CommandMeanwhile if index == at_step => {
                store
                    .add_command(&drive.key, CommandKind::Pause, &Actor::named("bob"), None, at(1))
                    .await
                    .expect("added");
            }
            _ => {}
        }
        let mut tries = 0;
        while let Err(error) = drive.write(&update).await {
            tries += 1;
            assert!(tries < 3, "step {index}: {error}");
        }
    }
    let record = over(&fake).load(&drive.key).await.expect("a record");
    (record, over(&fake).stable().await.expect("read"))
}

#[tokio::test]
async fn whatever_happens_to_one_request_the_record_ends_the_same() {
    let (whole, stable) = promoted_with(Mishap::Nothing, 0).await;
    assert_eq!(whole.state.outcome().map(Outcome::label), Some("Promoted"));
    assert_eq!((stable.as_ref(), whole.history.len()), (Some(&revision("1.1")), 13));
    let mishaps = [
        Mishap::Lost(|| Trouble::Unreachable),
        Mishap::Lost(|| Trouble::LostAnswer),
        Mishap::DeletedBefore,
        Mishap::DeletedMeanwhile,
        Mishap::CommandMeanwhile,
    ];
    for mishap in mishaps {
        for step in 0..8 {
            let got = promoted_with(mishap, step).await;
            assert_eq!(got, (whole.clone(), stable.clone()), "{mishap:?} at step {step}");
        }
    }
}
