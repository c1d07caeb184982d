//! What outlives a release.

use super::*;

#[tokio::test]
async fn one_release_at_a_time_and_numbers_only_grow() {
    let (fake, store, mut drive) = one().await;
    let new = new_release("shop", "1.2");
    let error = store.create_release(&new, at(1)).await.expect_err("one is running");
    assert!(
        matches!(&error, CreateError::Running { key, phase } if key.number == 1 && phase == "waiting"),
        "{error}"
    );
    drive.retreat(Outcome::Aborted).await;
    for number in 2..5 {
        let mut drive = Drive::begin(&store, "1.2").await;
        assert_eq!(drive.key.number, number);
        drive.retreat(Outcome::Aborted).await;
        // Deleting the record does not make its holder use a number again.
        if number == 3 {
            fake.remove(PATH);
        }
    }
}

#[tokio::test]
async fn a_release_whose_answer_was_lost_is_found_and_not_in_its_own_way() {
    let fake = FakeServer::new();
    let store = held(&fake, 1).await;
    fake.trouble(Method::PATCH, "wade-shop", Trouble::LostAnswer);
    let key = store
        .create_release(&new_release("shop", "1.1"), at(0))
        .await
        .expect("created");
    assert_eq!(key.number, 1);
}

#[tokio::test]
async fn a_promoted_revision_serves_and_can_be_gone_back_to() {
    let fake = FakeServer::new();
    let store = Arc::new(held(&fake, 1).await);
    store.set_stable(&revision("1.0"), at(0)).await.expect("noted");
    for version in ["1.1", "1.2"] {
        Drive::begin(&store, version).await.promote().await;
        assert_eq!(store.stable().await, Ok(Some(revision(version))));
    }
    let mut failed = Drive::begin(&store, "1.3").await;
    assert_eq!(failed.load().await.stable, Some(revision("1.2")));
    failed.retreat(Outcome::RolledBack).await;
    assert_eq!(store.stable().await, Ok(Some(revision("1.2"))));
    // From another process, with all that is needed to start them again.
    let served = over(&fake).revisions().await.expect("revisions");
    let ids: Vec<_> = served.iter().map(|served| served.revision.clone()).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.contains(&revision("1.0")) && ids.contains(&revision("1.1")) && ids.contains(&revision("1.2")));
    let all = over(&fake).releases().await.expect("releases");
    let told: Vec<_> = all
        .iter()
        .map(|record| {
            (
                record.key.number,
                record.canary.clone(),
                record.state.outcome().map(Outcome::label),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (3, revision("1.3"), Some("RolledBack")),
            (2, revision("1.2"), Some("Promoted")),
            (1, revision("1.1"), Some("Promoted")),
        ]
    );
    assert_eq!(all[2].pipeline.commit.as_deref(), Some("3fa9c1e"));
    assert!(
        all.iter()
            .all(|record| record.ended.is_some() && record.judge.is_none())
    );
}

#[tokio::test]
async fn a_failed_revision_is_quarantined_until_it_is_let_go_or_serves() {
    let fake = FakeServer::new();
    let store = Arc::new(held(&fake, 1).await);
    Drive::begin(&store, "1.1").await.retreat(Outcome::RolledBack).await;
    let quarantine = store.quarantined("id-1.1").await.expect("read").expect("quarantined");
    assert_eq!((quarantine.release, quarantine.reason.as_str()), (1, "because of 2"));
    assert_eq!(store.clear_quarantine("id-1.1", at(9)).await, Ok(true));
    assert_eq!(store.clear_quarantine("id-1.1", at(9)).await, Ok(false));
    assert_eq!(store.quarantined("id-1.1").await, Ok(None));
    Drive::begin(&store, "1.1").await.retreat(Outcome::Rejected).await;
    assert!(store.quarantined("id-1.1").await.expect("read").is_some());
    Drive::begin(&store, "1.1").await.promote().await;
    assert_eq!(store.quarantined("id-1.1").await, Ok(None), "it serves");
    Drive::begin(&store, "1.2").await.retreat(Outcome::Aborted).await;
    assert_eq!(
        store.quarantined("id-1.2").await,
        Ok(None),
        "a person's word is no verdict"
    );
}

#[tokio::test]
async fn only_so_many_finished_releases_are_kept() {
    let fake = FakeServer::new();
    let store = Arc::new(held(&fake, 1).await);
    store.set_kept_releases(3, at(0)).await.expect("set");
    for number in 1..=6 {
        let mut drive = Drive::begin(&store, &format!("1.{number}")).await;
        if number == 1 {
            drive.promote().await;
        } else {
            drive.retreat(Outcome::Aborted).await;
        }
    }
    let numbers = async || -> Vec<u64> {
        let all = store.releases().await.expect("releases");
        all.iter().map(|record| record.key.number).collect()
    };
    assert_eq!(numbers().await, [6, 5, 4]);
    assert_eq!(
        store.stable().await.expect("read"),
        Some(revision("1.1")),
        "the one that serves is kept"
    );
    Drive::begin(&store, "1.7").await;
    assert_eq!(numbers().await, [7, 6, 5, 4], "and the running one");
    store.set_kept_releases(1, at(0)).await.expect("set");
    assert_eq!(numbers().await, [7, 6]);
}
