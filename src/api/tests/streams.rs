//! Streams: what they tell, how they are resumed, and how many there may be.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::super::routes::{RELEASES, ROLLOUTS};
use super::super::{Settings, Transport};
use super::kit::{Served, Shop, generous, view};
use crate::controller::Notice;
use crate::engine::{Outcome, Phase};

/// A stream as a client reads it.
struct Reading {
    response: reqwest::Response,
    text: String,
}

impl Reading {
    /// The next event: id, name, data.
    async fn event(&mut self) -> Option<(String, String, Value)> {
        loop {
            let frame = self.frame().await?;
            if frame.starts_with(':') {
                continue;
            }
            let field = |name: &str| {
                let line = frame.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().trim().to_owned()
            };
            let data = serde_json::from_str(&field("data:")).expect("JSON");
            return Some((field("id:"), field("event:"), data));
        }
    }

    async fn frame(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                return Some(self.text.drain(..end + 2).collect());
            }
            let read = tokio::time::timeout(Duration::from_secs(10), self.response.chunk());
            let bytes = read.await.expect("a stream says something within 10 s").ok()??;
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}

async fn follow(served: &Served, user: &str, path: &str, last: Option<&str>) -> Reading {
    let mut request = served
        .client
        .get(served.url(path))
        .bearer_auth(user)
        .header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    Reading {
        response,
        text: String::new(),
    }
}

fn end(shop: &Shop) -> Notice {
    let record = shop.record.lock().unwrap();
    let mut entry = record.history.last().unwrap().clone();
    entry.number += 1;
    Notice::Entry {
        key: record.key.clone(),
        entry,
        phase: Phase::Done(Outcome::RolledBack),
    }
}

fn look(shop: &Shop, words: &str) -> Notice {
    let record = shop.record.lock().unwrap();
    Notice::Look {
        key: record.key.clone(),
        at: record.created,
        phase: Phase::Starting,
        waiting_for: words.to_owned(),
        verdict: None,
    }
}

#[tokio::test]
async fn a_stream_tells_every_entry_once_is_resumed_where_it_broke_off_and_ends_with_the_release() {
    let served = Served::open().await;
    let path = served.shop.path("/events");
    let entries = served.shop.record.lock().unwrap().history.len() as u64;
    let mut first = follow(&served, "ann", &path, None).await;
    for number in 1..=entries {
        let (id, name, data) = first.event().await.unwrap();
        assert_eq!((id, name.as_str()), (number.to_string(), "entry"));
        assert_eq!(data["entry"]["number"], number);
    }
    served
        .shop
        .notices
        .send(look(&served.shop, "the second stage"))
        .unwrap();
    let (id, name, data) = first.event().await.unwrap();
    assert_eq!(
        (id.as_str(), name.as_str()),
        ("", "look"),
        "a look is nothing to go on from"
    );
    assert_eq!(data["waitingFor"], "the second stage");

    let mut resumed = follow(&served, "ann", &path, Some("4")).await;
    assert_eq!(resumed.event().await.unwrap().0, "5");
    let mut from = follow(&served, "ann", &format!("{path}?from={entries}"), None).await;
    assert_eq!(from.event().await.unwrap().0, entries.to_string());
    let lines = served
        .client
        .get(served.url(&path))
        .bearer_auth("ann")
        .send()
        .await
        .unwrap();
    assert_eq!(lines.headers()["content-type"], "application/x-ndjson");

    served.shop.notices.send(end(&served.shop)).unwrap();
    while let Some((id, name, _)) = from.event().await {
        assert!(id.is_empty() == (name != "entry"));
        if name == "end" {
            assert_eq!(from.event().await, None, "nothing after the end");
            break;
        }
    }
    let text = lines.text().await.unwrap();
    let told: Vec<Notice> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> = told
        .iter()
        .filter_map(|notice| match notice {
            Notice::Entry { entry, .. } => Some(entry.number),
            _ => None,
        })
        .collect();
    assert_eq!(
        numbers,
        (1..=entries + 1).collect::<Vec<_>>(),
        "as the client of the daemon reads it"
    );
    assert_eq!(
        served.shop.opened.load(Ordering::SeqCst),
        1,
        "one reading for four followers"
    );
}

#[tokio::test]
async fn the_fleet_tells_what_is_there_then_what_changes_and_is_resumed() {
    let settings = Settings {
        look: Duration::from_millis(20),
        ..generous()
    };
    let served = Served::with(settings, Transport::default(), None).await;
    let grant = |right: String| served.guards.rights.lock().unwrap().insert(right);
    grant(format!("ann watch {ROLLOUTS} shop"));
    grant(format!("root watch {ROLLOUTS} *"));
    let record = served.shop.record.lock().unwrap().clone();
    let change = |places: &[(&str, bool)]| {
        let views = places.iter().map(|(namespace, quarantined)| {
            let mut view = view(&record);
            if *quarantined {
                view.quarantined.insert("x".to_owned(), "bad".to_owned());
            }
            ((*namespace).to_owned(), view)
        });
        *served.shop.rollouts.lock().unwrap() = views.collect();
    };
    change(&[("bank", false), ("shop", false)]);
    let mut root = follow(&served, "root", "/api/v1/events", None).await;
    let mut ann = follow(&served, "ann", "/api/v1/events", None).await;
    let place = |event: Option<(String, String, Value)>| {
        let (id, name, data) = event.unwrap();
        (
            id,
            name,
            data["namespace"].as_str().unwrap_or_default().to_owned(),
            data,
        )
    };
    assert_eq!(place(root.event().await).2, "bank");
    assert_eq!(place(root.event().await).2, "shop");
    assert_eq!(place(ann.event().await).2, "shop", "ann does not hear of the bank");
    change(&[("bank", true), ("shop", true)]);
    let (seen, name, namespace, data) = place(root.event().await);
    assert_eq!(
        (name.as_str(), namespace.as_str(), &data["quarantined"]),
        ("rollout", "bank", &Value::from(1))
    );
    assert_eq!(place(ann.event().await).2, "shop");
    change(&[("bank", true)]);
    assert_eq!(place(ann.event().await).1, "gone");

    let mut again = follow(&served, "root", "/api/v1/events", Some(&seen)).await;
    let (_, name, namespace, _) = place(again.event().await);
    assert_eq!(
        (name.as_str(), namespace.as_str()),
        ("gone", "shop"),
        "what happened since, and no more"
    );
    let mut lost = follow(&served, "root", "/api/v1/events", Some("other-7")).await;
    assert_eq!(
        place(lost.event().await).1,
        "reset",
        "an id of another process means nothing"
    );
    assert_eq!(place(lost.event().await).2, "bank");
}

#[tokio::test]
async fn a_right_that_is_taken_away_ends_the_stream() {
    let settings = Settings {
        recheck: Duration::from_millis(50),
        heartbeat: Duration::from_millis(20),
        ..generous()
    };
    let served = Served::with(settings, Transport::default(), None).await;
    let right = format!("ann watch {RELEASES} shop");
    served.guards.rights.lock().unwrap().insert(right.clone());
    let mut stream = follow(&served, "ann", &served.shop.path("/events"), None).await;
    let mut beats = 0;
    while beats < 5 {
        beats += u32::from(stream.frame().await.unwrap().starts_with(':'));
    }
    served.guards.rights.lock().unwrap().remove(&right);
    loop {
        let Some((_, name, data)) = stream.event().await else {
            panic!("it says why")
        };
        if name == "problem" {
            assert_eq!(data["kind"], "forbidden");
            break;
        }
    }
    assert_eq!(stream.event().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_follow_one_release_and_the_next_is_told_to_come_back() {
    let served = Served::open().await;
    let path = served.shop.path("/events");
    let users: Vec<String> = (0..500).map(|n| format!("user-{}", n % 10)).collect();
    let streams = users.iter().map(|user| follow(&served, user, &path, None));
    let mut streams: Vec<Reading> = join_all(streams).await;
    let request = served.client.get(served.url(&path)).bearer_auth("one-more");
    let refused = request.send().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));

    served.shop.notices.send(end(&served.shop)).unwrap();
    let entries = served.shop.record.lock().unwrap().history.len() + 1;
    let told = join_all(streams.iter_mut().map(|stream| async {
        let mut numbers = Vec::new();
        while let Some((id, name, _)) = stream.event().await {
            match name.as_str() {
                "entry" => numbers.push(id),
                "end" => break,
                other => assert_eq!(other, "look"),
            }
        }
        numbers
    }))
    .await;
    let all: Vec<String> = (1..=entries).map(|number| number.to_string()).collect();
    assert!(
        told.iter().all(|numbers| *numbers == all),
        "everybody was told everything, in order"
    );
    assert_eq!(
        served.shop.opened.load(Ordering::SeqCst),
        1,
        "by one reading of the record"
    );
    drop(streams);
    for _ in 0..200 {
        if served.get("one-more", &path).await.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("places are given back");
}

#[tokio::test]
async fn one_caller_does_not_take_all_places() {
    let settings = Settings {
        streams_per_caller: 2,
        ..generous()
    };
    let served = Served::with(settings, Transport::default(), None).await;
    served.guards.open.store(true, Ordering::SeqCst);
    let path = served.shop.path("/events");
    let _first = follow(&served, "ann", &path, None).await;
    let _second = follow(&served, "ann", "/api/v1/events", None).await;
    assert_eq!(Served::problem(served.get("ann", &path).await).await.0, 429);
    let _other = follow(&served, "bob", &path, None).await;
}
