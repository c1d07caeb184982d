//! Who is let in, for what, and what is refused in which words.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::super::gate::ClusterGate;
use super::super::routes::{RELEASES, ROLLOUTS, VERBS};
use super::super::{Settings, Transport};
use super::kit::{Served, generous, view};
use crate::apiserver::ApiServer;
use crate::apiserver::testing::FakeServer;

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

#[tokio::test]
async fn a_caller_is_who_the_cluster_says_and_may_what_the_cluster_says() {
    let fake = FakeServer::new();
    let gate = ClusterGate::new(ApiServer::over(fake.client("wade-system"), "wade-system"), None);
    let served = Served::kept(generous(), Transport::default(), None, Arc::default(), Arc::new(gate)).await;
    let path = served.shop.rollout("");

    let unnamed = served.client.get(served.url(&path)).send().await.unwrap();
    assert_eq!(unnamed.headers()["www-authenticate"], "Bearer");
    let (status, message) = Served::problem(unnamed).await;
    assert_eq!(status, 401);
    assert!(message.contains("kubectl create token"), "{message}");

    let no = json!({"status": {"authenticated": false, "error": "[invalid bearer token]"}});
    fake.answer(Method::POST, TOKENS, 201, &no.to_string());
    assert_eq!(Served::problem(served.get("bad", &path).await).await.0, 401);

    let ann = json!({"status": {"authenticated": true, "user": {"username": "ann", "groups": ["payments"]}}});
    fake.answer(Method::POST, TOKENS, 201, &ann.to_string());
    let denied = json!({"status": {"allowed": false}});
    fake.answer(Method::POST, ACCESS, 201, &denied.to_string());
    let (status, message) = Served::problem(served.get("good", &path).await).await;
    assert_eq!(status, 403);
    assert!(
        message.contains("ann may not get rollouts.wade.dev in namespace shop"),
        "{message}"
    );

    fake.go_down();
    let (status, message) = Served::problem(served.get("another", &path).await).await;
    assert_eq!((status, message.contains("cannot say now")), (503, true), "{message}");
    // Whose token it is is remembered; what they may do with a release is not known.
    assert_eq!(
        Served::problem(served.get("good", &served.shop.path("")).await).await.0,
        503
    );
    fake.come_back();

    fake.answer(
        Method::POST,
        ACCESS,
        201,
        &json!({"status": {"allowed": true}}).to_string(),
    );
    assert_eq!(served.get("good", &served.shop.path("")).await.status(), 200);
    let questions: Vec<Value> = fake
        .asked()
        .into_iter()
        .filter(|asked| asked.path == ACCESS)
        .map(|asked| asked.body["spec"].clone())
        .collect();
    let name = served.shop.key().rollout;
    assert_eq!(
        questions.last(),
        Some(&json!({"user": "ann", "groups": ["payments"], "resourceAttributes": {
            "verb": "get", "group": "wade.dev", "resource": "releases", "namespace": "shop", "name": name}}))
    );
}

#[tokio::test]
async fn every_act_takes_its_own_right_and_no_other() {
    let served = Served::with(generous(), Transport::default(), None).await;
    let commands = served.shop.rollout("/commands");
    let releases = served.shop.rollout("/releases");
    let emergency = r#"{"emergency": true, "reason": "fire"}"#.to_owned();
    let mut table: Vec<(&str, &str, &str, String)> = vec![
        ("create", RELEASES, &releases, "{}".to_owned()),
        (
            "promote",
            RELEASES,
            &commands,
            r#"{"kind": {"promote": {"full": true}}}"#.to_owned(),
        ),
    ];
    for verb in ["approve", "pause", "resume", "abort", "retry"] {
        table.push((verb, RELEASES, &commands, json!({"kind": verb}).to_string()));
    }
    let words: Vec<&str> = VERBS.iter().map(|(verb, _)| *verb).collect();
    for (verb, resource, path, body) in &table {
        assert!(words.contains(verb) || *verb == "create", "{verb} is documented");
        let right = format!("ann {verb} {resource} shop");
        served.guards.rights.lock().unwrap().clear();
        for other in words.iter().chain(&["create", "get", "list", "watch", "update"]) {
            if other != verb {
                let others = format!("ann {other} {resource} shop");
                served.guards.rights.lock().unwrap().insert(others);
            }
        }
        served
            .guards
            .rights
            .lock()
            .unwrap()
            .insert(format!("ann {verb} {resource} elsewhere"));
        served
            .guards
            .rights
            .lock()
            .unwrap()
            .insert(format!("bob {verb} {resource} shop"));
        assert_eq!(served.post("ann", path, body).await.status(), 403, "{verb}");
        assert!(
            served.shop.asked.lock().unwrap().is_empty(),
            "{verb} was not carried out"
        );
        served.guards.rights.lock().unwrap().insert(right);
        assert!(served.post("ann", path, body).await.status().is_success(), "{verb}");
        let asked = std::mem::take(&mut *served.shop.asked.lock().unwrap());
        assert_eq!(asked.len(), 1, "{verb}");
        assert!(
            asked[0].starts_with("ann ") && asked[0].ends_with(" from 127.0.0.1"),
            "{asked:?}"
        );
    }
    let mut rights = served.guards.rights.lock().unwrap().clone();
    rights.remove(&format!("ann emergency {RELEASES} shop"));
    *served.guards.rights.lock().unwrap() = rights;
    served
        .guards
        .rights
        .lock()
        .unwrap()
        .insert(format!("ann create {RELEASES} shop"));
    assert_eq!(served.post("ann", &releases, &emergency).await.status(), 403);
    served
        .guards
        .rights
        .lock()
        .unwrap()
        .insert(format!("ann emergency {RELEASES} shop"));
    assert_eq!(served.post("ann", &releases, &emergency).await.status(), 201);
    let image = r#"{"target": {"file": {"set": {"image": "x/miner"}}}}"#;
    let (status, message) = Served::problem(served.post("ann", &releases, image).await).await;
    assert_eq!(
        (status, message.as_str()),
        (403, "may not patch"),
        "a release is no way around the Deployment's rights"
    );
    served
        .guards
        .rights
        .lock()
        .unwrap()
        .insert("ann patch deployments.apps shop".to_owned());
    assert_eq!(served.post("ann", &releases, image).await.status(), 201);
    let (status, _) = Served::problem(served.post("ann", &commands, r#"{"kind": "supersede"}"#).await).await;
    assert_eq!(status, 400, "nobody asks that of a release by hand");
}

#[tokio::test]
async fn only_namespaces_that_the_caller_may_see_are_listed() {
    let served = Served::with(generous(), Transport::default(), None).await;
    let record = served.shop.record.lock().unwrap().clone();
    let places = ["bank", "mail", "shop"].map(|namespace| (namespace.to_owned(), view(&record)));
    *served.shop.rollouts.lock().unwrap() = places.to_vec();
    let grant = |right: String| served.guards.rights.lock().unwrap().insert(right);
    grant(format!("ann list {ROLLOUTS} mail"));
    grant(format!("root list {ROLLOUTS} *"));
    let seen = |value: Value| -> Vec<String> {
        let list = value.as_array().unwrap().iter();
        list.map(|rollout| rollout["namespace"].as_str().unwrap().to_owned())
            .collect()
    };
    let of = |user: &'static str| served.get(user, "/api/v1/rollouts");
    assert_eq!(seen(of("ann").await.json().await.unwrap()), ["mail"]);
    assert_eq!(seen(of("root").await.json().await.unwrap()), ["bank", "mail", "shop"]);
    assert_eq!(Served::problem(of("bob").await).await.0, 403);
    served.guards.away.store(true, Ordering::SeqCst);
    assert_eq!(
        Served::problem(of("ann").await).await.0,
        503,
        "what is not known is not shown"
    );
}

#[tokio::test]
async fn bodies_that_are_not_what_is_asked_for_are_refused_in_words() {
    let served = Served::open().await;
    let path = served.shop.rollout("/commands");
    let long = json!({"kind": "abort", "reason": "x".repeat(1001)}).to_string();
    let huge = format!(r#"{{"kind": "abort", "reason": "{}"}}"#, "x".repeat(300 * 1024));
    let deep = "[".repeat(10_000);
    for (body, status, words) in [
        ("", 400, "EOF"),
        ("{}", 400, "missing field `kind`"),
        (r#"{"kind": "explode"}"#, 400, "unknown variant"),
        (r#"{"kind": "abort", "force": true}"#, 400, "unknown field `force`"),
        (&long, 400, "at most 1000"),
        (&huge, 413, "at most 256 KiB"),
        (&deep, 400, "expected value"),
    ] {
        let (got, message) = Served::problem(served.post("ann", &path, body).await).await;
        assert_eq!(got, status, "{message}");
        assert!(message.contains(words), "{message}");
    }
    let text = served
        .client
        .post(served.url(&path))
        .bearer_auth("ann")
        .body(r#"{"kind": "abort"}"#);
    assert_eq!(Served::problem(text.send().await.unwrap()).await.0, 415);
    let (status, _) = Served::problem(served.get("ann", &path).await).await;
    assert_eq!(status, 405);
    let foreign = served
        .client
        .get(served.url("/api/v1/rollouts"))
        .bearer_auth("ann")
        .header("origin", "https://evil.example");
    assert_eq!(Served::problem(foreign.send().await.unwrap()).await.0, 403);
    assert!(
        served.shop.asked.lock().unwrap().is_empty(),
        "nothing of this was carried out"
    );
}

#[tokio::test]
async fn a_caller_who_asks_too_often_waits_and_others_do_not() {
    let settings = Settings {
        rate: 0.5,
        burst: 3.0,
        ..Settings::default()
    };
    let served = Served::with(settings, Transport::default(), None).await;
    served.guards.open.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(served.get("ann", "/api/v1/rollouts").await.status(), 200);
    }
    let refused = served.get("ann", "/api/v1/rollouts").await;
    assert_eq!(refused.status(), 429);
    let after: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&after), "{after}");
    assert_eq!(served.get("bob", "/api/v1/rollouts").await.status(), 200);
}

#[tokio::test]
async fn what_was_begun_is_finished_though_its_caller_hangs_up() {
    let served = Served::open().await;
    *served.shop.slowness.lock().unwrap() = Duration::from_millis(300);
    let path = served.shop.rollout("/commands");
    let asked = served.post("ann", &path, r#"{"kind": "abort"}"#);
    assert!(
        tokio::time::timeout(Duration::from_millis(150), asked).await.is_err(),
        "hung up"
    );
    for _ in 0..100 {
        if !served.shop.asked.lock().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(*served.shop.asked.lock().unwrap(), ["ann abort from 127.0.0.1"]);
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_act_is_one_line_of_the_audit_done_or_refused() {
    let page = Page::default();
    let writer = page.clone();
    let lines = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(lines);
    let served = Served::with(generous(), Transport::default(), None).await;
    served
        .guards
        .rights
        .lock()
        .unwrap()
        .insert(format!("ann abort {RELEASES} shop"));
    let path = served.shop.rollout("/commands");
    let body = json!({"kind": "abort", "reason": "slow\nfake: line"}).to_string();
    assert_eq!(served.post("ann", &path, &body).await.status(), 200);
    assert_eq!(served.post("eve", &path, &body).await.status(), 403);
    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    let audit: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["target"] == "wade::audit")
        .collect();
    let told: Vec<[&Value; 5]> = audit
        .iter()
        .map(|line| {
            [
                &line["user"],
                &line["verb"],
                &line["from"],
                &line["namespace"],
                &line["outcome"],
            ]
        })
        .collect();
    assert_eq!(
        json!(told),
        json!([
            ["ann", "abort", "127.0.0.1", "shop", "done"],
            ["eve", "abort", "127.0.0.1", "shop", "Forbidden"],
        ])
    );
    assert_eq!(audit[0]["reason"], "slow\nfake: line");
}
