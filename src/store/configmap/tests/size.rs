//! It always fits.

use super::*;

/// Pauses and resumes for ever, each entry with a verdict.
fn restless(drive: &mut Drive, count: u64) -> Update {
    let mut entries = Vec::new();
    let verdict = judged(100.0, 7.0, 1.0).1;
    for round in 0..count {
        let (command, by) = (round + 2, Actor::named("ann"));
        let event = if drive.state.paused.is_none() {
            let by = by.clone();
            Event::Paused { command, by }
        } else {
            Event::Resumed { command }
        };
        let number = drive.state.next_entry;
        let now = at(i64::try_from(number).expect("small"));
        drive.state = apply(&drive.plan, &drive.state, &event, now).expect("a legal move");
        entries.push(Entry {
            number,
            at: now,
            event,
            reason: "kept for a while, because somebody wants to look at it".to_owned(),
            cause: Cause::Person(by),
            verdict: Some(verdict.clone()),
        });
    }
    Update {
        state: drive.state.clone(),
        entries,
        judge: None,
        verdict: None,
        course: None,
    }
}

#[tokio::test]
async fn a_thousand_entries_fit_and_the_newest_stay_whole() {
    let (fake, _store, mut drive) = one().await;
    drive.go(&[Event::Admitted]).await;
    for _ in 0..20 {
        let update = restless(&mut drive, 50);
        drive.write(&update).await.expect("written, whatever its size");
        let size = Texts::of("shop", &fake.object(PATH).expect("a record")).size();
        assert!(size <= fit::MOST, "{size}");
    }
    assert!(data(&fake, "history").len() <= fit::HISTORY_BYTES);
    let record = drive.load().await;
    assert_eq!(record.state.next_entry, 1002);
    let numbers: Vec<u64> = record.history.iter().map(|entry| entry.number).collect();
    assert!(numbers.len() > 300, "only {} are left", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    assert!(record.history.iter().rev().take(8).all(|entry| entry.verdict.is_some()));
    let update = restless(&mut drive, 2);
    drive.write(&update).await.expect("written");
    drive.write(&update).await.expect("and the repetition is recognised");
}

#[tokio::test]
async fn many_releases_with_long_histories_fit_and_lose_verdicts_first() {
    let fake = FakeServer::new();
    let store = Arc::new(held(&fake, 1).await);
    for number in 1..=14 {
        let mut drive = Drive::begin(&store, &format!("1.{number}")).await;
        drive.go(&[Event::Admitted]).await;
        let update = restless(&mut drive, 100);
        drive.write(&update).await.expect("written");
        let back = Event::Retreated {
            command: None,
            outcome: Outcome::Aborted,
            reason: "enough".to_owned(),
        };
        drive.go(&[back]).await;
        let rest = [
            Event::RouteRestored,
            Event::CanaryDrained,
            Event::CanaryRemoved,
            Event::Restored,
        ];
        drive.go(&rest).await;
    }
    assert!(data(&fake, "releases").len() + data(&fake, "revisions").len() <= fit::PAST_BYTES);
    let all = store.releases().await.expect("releases");
    assert_eq!(all.len(), 10, "all ten are there");
    let with_verdicts = |record: &ReleaseRecord| record.history.iter().filter(|entry| entry.verdict.is_some()).count();
    assert!(with_verdicts(&all[0]) > with_verdicts(&all[9]));
}

#[tokio::test]
async fn long_words_do_not_stop_a_release() {
    let (fake, _store, mut drive) = one().await;
    for event in [Event::Admitted, Event::Ready, Event::SmokePassed] {
        let mut update = drive.update(&[event]);
        update.entries[0].reason = "x".repeat(300 << 10);
        drive.write(&update).await.expect("written");
        let size = Texts::of("shop", &fake.object(PATH).expect("a record")).size();
        assert!(size <= fit::MOST, "{size}");
    }
    assert_eq!(drive.load().await.state, drive.state);
}

#[tokio::test]
async fn a_template_that_leaves_no_room_is_refused_before_anything_is_touched() {
    let fake = FakeServer::new();
    let store = held(&fake, 1).await;
    let mut new = new_release("shop", "1.1");
    new.canary.workload = Value::String("x".repeat(600 << 10));
    let error = store.create_release(&new, at(0)).await.expect_err("too large");
    assert!(error.to_string().contains("1024"), "{error}");
    assert_eq!(store.releases().await, Ok(Vec::new()));
}
