//! The handle and the view, against the server in memory.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::testing::{FakeServer, Trouble};
use super::view::View;
use super::{ApiServer, Fault, Kind, Patch, Selection};

const PATH: &str = "/api/v1/namespaces/shop/configmaps/x";

fn server() -> (FakeServer, ApiServer) {
    let fake = FakeServer::new();
    let api = ApiServer::over(fake.client("shop"), "shop");
    (fake, api)
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"a": "b"}}, "data": {"k": value}})
}

#[tokio::test]
async fn objects_are_created_read_patched_and_deleted() {
    let (fake, api) = server();
    assert_eq!(api.get(Kind::ConfigMap, "x").await.expect("an answer"), None);
    let made = api
        .create(Kind::ConfigMap, &config_map("x", "1"))
        .await
        .expect("created");
    let again = api
        .create(Kind::ConfigMap, &config_map("x", "1"))
        .await
        .expect_err("there is one");
    assert_eq!(again.fault, Fault::Exists);
    let merged = Patch::Merge(json!({"data": {"k": null, "l": "2"}}));
    let changed = api.patch(Kind::ConfigMap, "x", &merged).await.expect("patched");
    assert_eq!(changed["data"], json!({"l": "2"}));
    let stale = api
        .replace(Kind::ConfigMap, "x", &made)
        .await
        .expect_err("it has changed");
    assert!(stale.is_conflict(), "{stale}");
    assert_eq!(
        api.list(Kind::ConfigMap, &Selection::labels("a=b"))
            .await
            .expect("a list")
            .len(),
        1
    );
    assert!(
        api.list(Kind::ConfigMap, &Selection::labels("a=c"))
            .await
            .expect("a list")
            .is_empty()
    );
    api.delete(Kind::ConfigMap, "x", Some("another"))
        .await
        .expect("left alone");
    assert!(fake.object(PATH).is_some());
    api.delete(Kind::ConfigMap, "x", None).await.expect("deleted");
    assert!(fake.object(PATH).is_none());
}

#[tokio::test]
async fn a_json_patch_is_done_whole_or_not_at_all() {
    let (fake, api) = server();
    fake.put(PATH, config_map("x", "1"));
    let patch = |old: &str| {
        Patch::Json(json!([
            {"op": "add", "path": "/data/l", "value": "new"},
            {"op": "test", "path": "/data/k", "value": old},
            {"op": "replace", "path": "/data/k", "value": "2"},
        ]))
    };
    let refused = api.patch(Kind::ConfigMap, "x", &patch("0")).await;
    assert!(refused.expect_err("the test fails").is_conflict());
    assert_eq!(fake.object(PATH).expect("there")["data"], json!({"k": "1"}));
    api.patch(Kind::ConfigMap, "x", &patch("1")).await.expect("patched");
    assert_eq!(fake.object(PATH).expect("there")["data"], json!({"k": "2", "l": "new"}));
}

#[tokio::test]
async fn a_lost_answer_is_not_a_lost_write() {
    let (fake, api) = server();
    fake.trouble(Method::POST, "configmaps", Trouble::Unreachable);
    fake.trouble(Method::POST, "configmaps", Trouble::LostAnswer);
    for there in [false, true] {
        let error = api
            .create(Kind::ConfigMap, &config_map("x", "1"))
            .await
            .expect_err("no answer");
        assert!(matches!(error.fault, Fault::Unreachable(_)), "{error}");
        assert_eq!(fake.object(PATH).is_some(), there);
    }
}

async fn until(view: &View, wake: &Notify, what: impl Fn(Option<Arc<Value>>) -> bool) {
    let seen = async {
        while !what(view.get(Kind::ConfigMap, "x")) {
            wake.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen)
        .await
        .expect("seen in time");
}

#[tokio::test]
async fn a_view_sees_what_is_there_what_changes_and_what_goes() {
    let (fake, api) = server();
    fake.put(PATH, config_map("x", "1"));
    fake.put("/api/v1/namespaces/shop/configmaps/y", config_map("y", "1"));
    let wake = Arc::new(Notify::new());
    let view = View::start(&api, &[(Kind::ConfigMap, Selection::named("x"))], Arc::clone(&wake));
    view.synced(Duration::from_secs(10)).await.expect("listed");
    assert_eq!(view.list(Kind::ConfigMap).len(), 1, "the other one is not selected");
    fake.edit(PATH, |object| object["data"]["k"] = json!("2"));
    until(&view, &wake, |object| {
        object.is_some_and(|object| object["data"]["k"] == "2")
    })
    .await;
    fake.remove(PATH);
    until(&view, &wake, |object| object.is_none()).await;
}

#[tokio::test]
async fn a_view_survives_an_outage() {
    let (fake, api) = server();
    fake.put(PATH, config_map("x", "1"));
    let wake = Arc::new(Notify::new());
    let view = View::start(&api, &[(Kind::ConfigMap, Selection::named("x"))], Arc::clone(&wake));
    view.synced(Duration::from_secs(10)).await.expect("listed");
    fake.go_down();
    while view.trouble(Duration::ZERO).is_none() {
        wake.notified().await;
    }
    assert!(
        view.get(Kind::ConfigMap, "x").is_some(),
        "a broken watch is not an empty one"
    );
    fake.edit(PATH, |object| object["data"]["k"] = json!("2"));
    fake.come_back();
    until(&view, &wake, |object| {
        object.is_some_and(|object| object["data"]["k"] == "2")
    })
    .await;
    assert!(view.trouble(Duration::ZERO).is_none());
}
