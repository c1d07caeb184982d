//! Other holders, other shells, and people with kubectl.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn an_earlier_holder_is_fenced() {
    let (fake, _store, mut drive) = one().await;
    drive.go(&[Event::Admitted]).await;
    let second = Arc::new(held(&fake, 2).await);
    let update = drive.update(&[Event::Ready]);
    let error = drive.write(&update).await.expect_err("fenced");
    assert!(
        matches!(error, StoreError::Fenced { ours: 1, theirs: 2, .. }),
        "{error}"
    );
    let error = drive
        .store
        .set_kept_releases(3, at(1))
        .await
        .expect_err("and everything else");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let back = held_again(&fake, 1, "holder-1").await;
    assert!(matches!(back, Err(StoreError::Fenced { .. })), "{back:?}");
    let same = held_again(&fake, 2, "somebody else").await;
    assert!(
        matches!(same, Err(StoreError::Fenced { .. })),
        "one epoch, one holder: {same:?}"
    );
    held_again(&fake, 2, "holder-2").await.expect("a repetition");
    drive.store = second;
    drive.epoch = 2;
    drive.write(&update).await.expect("the new holder goes on");
}

async fn held_again(fake: &FakeServer, epoch: u64, holder: &str) -> Result<(), StoreError> {
    over(fake).take_over(epoch, holder).await
}

#[tokio::test]
async fn a_takeover_right_before_a_write_fences_it() {
    let (fake, _store, mut drive) = one().await;
    let update = drive.update(&[Event::Admitted]);
    fake.before(Method::PATCH, "wade-shop", |fake| {
        fake.edit(PATH, |object| object["data"]["epoch"] = "7".into());
    });
    let error = drive.write(&update).await.expect_err("fenced");
    assert!(
        matches!(error, StoreError::Fenced { ours: 1, theirs: 7, .. }),
        "{error}"
    );
    assert_eq!(data(&fake, "next"), "1", "nothing was written");
}

#[tokio::test]
async fn a_deleted_record_is_put_back_by_its_holder() {
    let (fake, store, mut drive) = one().await;
    store
        .add_command(&drive.key, CommandKind::Pause, &Actor::named("bob"), None, at(1))
        .await
        .expect("added");
    drive.go(&[Event::Admitted, Event::Ready]).await;
    let before = drive.load().await;
    fake.remove(PATH);
    assert_eq!(drive.load().await, before, "the holder still knows it");
    assert_eq!(store.commands(&drive.key, 0).await, Ok(Vec::new()));
    assert!(matches!(
        over(&fake).load(&drive.key).await,
        Err(StoreError::Unknown(_))
    ));
    drive.go(&[Event::SmokePassed]).await;
    let back = over(&fake).load(&drive.key).await.expect("it is back");
    assert_eq!((back.history.len(), back.plan), (3, before.plan));
    assert_eq!(data(&fake, "epoch"), "1");
    let next = store
        .add_command(&drive.key, CommandKind::Pause, &Actor::named("bob"), None, at(2))
        .await
        .expect("added");
    assert_eq!(next.id, 2, "a number that was given away is not used again");
}

#[tokio::test]
async fn what_an_earlier_holder_put_back_is_overwritten() {
    let (fake, _store, mut first) = one().await;
    first.go(&[Event::Admitted]).await;
    let stale = fake.object(PATH).expect("a record");
    let second = Arc::new(held(&fake, 2).await);
    let mut drive = Drive {
        store: Arc::clone(&second),
        key: first.key.clone(),
        plan: first.plan.clone(),
        state: first.state.clone(),
        epoch: 2,
    };
    drive.go(&[Event::Ready]).await;
    fake.remove(PATH);
    fake.put(PATH, stale);
    assert_eq!(
        drive.load().await.history.len(),
        2,
        "what counts is what the holder wrote"
    );
    drive.go(&[Event::SmokePassed]).await;
    assert_eq!(data(&fake, "epoch"), "2");
    assert_eq!(over(&fake).load(&drive.key).await.expect("a record").history.len(), 3);
}

#[tokio::test]
async fn commands_from_two_shells_at_once_are_both_kept() {
    let (fake, store, drive) = one().await;
    let (key, other) = (drive.key.clone(), over(&fake));
    let (ann, bob) = (Actor::named("ann"), Actor::named("bob"));
    // Bob's request comes between ann's read and ann's write.
    let (first, second) = tokio::join!(
        store.add_command(&key, CommandKind::Pause, &ann, Some("look at this"), at(1)),
        other.add_command(&key, CommandKind::Abort, &bob, None, at(1)),
    );
    let mut ids = [first.expect("added").id, second.expect("added").id];
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    let overtaken = fake.asked().iter().filter(|asked| asked.status == 422).count();
    assert_eq!(overtaken, 1, "they did get in each other's way");
    assert_eq!(store.commands(&key, 0).await.expect("commands").len(), 2);
    assert_eq!(store.commands(&key, 1).await.expect("commands").len(), 1);
}

#[tokio::test]
async fn a_command_in_between_is_kept_and_does_not_fail_the_holders_write() {
    let (fake, store, mut drive) = one().await;
    let update = drive.update(&[Event::Admitted]);
    fake.before(Method::PATCH, "wade-shop", |fake| {
        fake.edit(PATH, |object| {
            object["data"]["commands"] =
                r#"{"release":1,"last":1,"waiting":[{"id":1,"kind":"abort","by":{"user":"bob"},"at":"2026-01-01T00:00:00Z"}]}"#
                    .into();
        });
    });
    fake.forget();
    drive.write(&update).await.expect("written");
    assert_eq!(fake.asked().len(), 1, "at the first attempt");
    assert_eq!(
        store.commands(&drive.key, 0).await.expect("commands")[0].kind,
        CommandKind::Abort
    );
}

#[tokio::test]
async fn answered_commands_go_and_too_many_are_refused_but_for_aborts() {
    let (_fake, store, mut drive) = one().await;
    drive.go(&[Event::Admitted, Event::Ready, Event::SmokePassed]).await;
    let (ann, key) = (Actor::named("ann"), drive.key.clone());
    let add = |kind| store.add_command(&key, kind, &ann, None, at(5));
    assert_eq!(add(CommandKind::Approve).await.expect("added").id, 1);
    drive
        .go(&[Event::GateOpened {
            command: 1,
            by: ann.clone(),
        }])
        .await;
    assert_eq!(store.commands(&drive.key, drive.state.handled).await, Ok(Vec::new()));
    for id in 2..=65 {
        assert_eq!(add(CommandKind::Pause).await.expect("added").id, id);
    }
    let full = add(CommandKind::Pause).await.expect_err("too many");
    assert!(matches!(full, CommandError::TooMany { waiting: 64, .. }), "{full}");
    add(CommandKind::Abort).await.expect("an abort gets in");
}

#[tokio::test]
async fn a_command_to_a_release_that_is_over_is_refused() {
    let (_fake, store, mut drive) = one().await;
    drive.retreat(Outcome::Aborted).await;
    let ann = drive_actor();
    let ask = || store.add_command(&drive.key, CommandKind::Pause, &ann, None, at(9));
    assert!(matches!(ask().await, Err(CommandError::Over { .. })));
    Drive::begin(&store, "1.2").await;
    assert!(
        matches!(ask().await, Err(CommandError::Over { .. })),
        "also when the next one runs"
    );
    let nobody = ReleaseKey {
        rollout: "shop".to_owned(),
        number: 9,
    };
    let asked = store
        .add_command(&nobody, CommandKind::Pause, &drive_actor(), None, at(9))
        .await;
    assert!(matches!(asked, Err(CommandError::Store(StoreError::Unknown(_)))));
}

fn drive_actor() -> Actor {
    Actor::named("ann")
}

#[tokio::test]
async fn a_command_whose_answer_was_lost_is_not_added_twice() {
    let (fake, store, drive) = one().await;
    fake.trouble(Method::PATCH, "wade-shop", Trouble::LostAnswer);
    let added = store
        .add_command(&drive.key, CommandKind::Abort, &drive_actor(), None, at(1))
        .await
        .expect("it is there");
    assert_eq!(added.id, 1);
    assert_eq!(store.commands(&drive.key, 0).await.expect("commands"), [added]);
}

#[tokio::test]
async fn looking_for_commands_costs_no_request_and_a_new_one_wakes() {
    let (fake, _store, drive) = one().await;
    let wake = Arc::new(Notify::new());
    let api = ApiServer::over(fake.client("shop"), "shop");
    let watching = ConfigMapStore::watch(&api, "shop", Arc::clone(&wake))
        .await
        .expect("watched");
    fake.forget();
    for _ in 0..100 {
        assert_eq!(watching.commands(&drive.key, 0).await, Ok(Vec::new()));
    }
    assert!(
        fake.asked().iter().all(|asked| asked.query.contains("watch=")),
        "{:?}",
        fake.asked()
    );
    over(&fake)
        .add_command(&drive.key, CommandKind::Abort, &drive_actor(), None, at(1))
        .await
        .expect("added");
    tokio::time::timeout(Duration::from_secs(10), wake.notified())
        .await
        .expect("woken");
    assert_eq!(watching.commands(&drive.key, 0).await.expect("commands").len(), 1);
}

#[tokio::test]
async fn a_command_is_seen_although_the_watch_is_broken() {
    let (fake, _store, drive) = one().await;
    let wake = Arc::new(Notify::new());
    let api = ApiServer::over(fake.client("shop"), "shop");
    let watching = ConfigMapStore::watch(&api, "shop", wake).await.expect("watched");
    over(&fake)
        .add_command(&drive.key, CommandKind::Abort, &drive_actor(), None, at(1))
        .await
        .expect("added");
    fake.go_down();
    let seen = async {
        // The watch reconnects by itself only after its own pause; asking does not wait for that.
        tokio::time::sleep(BROKEN_AFTER).await;
        fake.come_back();
        while watching
            .commands(&drive.key, 0)
            .await
            .map_or(true, |seen| seen.is_empty())
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen).await.expect("seen");
}
