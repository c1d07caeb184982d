//! Against a real server on loopback, because what matters here is what happens when one misbehaves.

use std::collections::VecDeque;

use axum::extract::State;
use http::StatusCode;

use super::*;
use crate::engine::Retreat;
use crate::engine::{Actor, Cause, Entry};
use crate::store::ReleaseKey;

/// What a server was sent, and what it answers next; nothing left means 200.
#[derive(Clone, Default)]
struct Heard {
    bodies: Arc<Mutex<Vec<Value>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

enum Answer {
    Status(u16),
    Silence,
}

impl Heard {
    /// Serves on a free port; the address holds a secret.
    async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let app = axum::Router::new()
            .fallback(|State(heard): State<Heard>, body: String| async move {
                let answer = heard.answers.lock().expect("no panic").pop_front();
                match answer {
                    Some(Answer::Silence) => std::future::pending().await,
                    Some(Answer::Status(status)) => StatusCode::from_u16(status).expect("a status"),
                    None => {
                        let body = serde_json::from_str(&body).expect("JSON");
                        heard.bodies.lock().expect("no panic").push(body);
                        StatusCode::OK
                    }
                }
            })
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}/T0/very-secret")
    }

    fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().expect("no panic").clone()
    }
}

/// Every Secret holds this.
struct All(String);

#[async_trait::async_trait]
impl Secrets for All {
    async fn url(&self, secret: &str) -> Result<String, String> {
        match secret {
            "none" => Err("there is no Secret none".to_owned()),
            _ => Ok(self.0.clone()),
        }
    }
}

fn about() -> Message {
    Message {
        event: What::Began,
        rollout: "checkout".to_owned(),
        namespace: Some("shop".to_owned()),
        release: 57,
        from: Some("1.4.1".to_owned()),
        version: "1.4.2".to_owned(),
        outcome: None,
        proven: None,
        reason: String::new(),
        at: Timestamp::UNIX_EPOCH,
        by: "ci".to_owned(),
        pipeline: Pipeline {
            commit: Some("3fa9".to_owned()),
            author: None,
            url: Some("https://ci/7".to_owned()),
            traceparent: None,
        },
    }
}

fn notice(event: Event, phase: Phase, reason: &str) -> Notice {
    Notice::Entry {
        key: ReleaseKey {
            rollout: "checkout".to_owned(),
            number: 57,
        },
        entry: Entry {
            number: 1,
            at: Timestamp::UNIX_EPOCH,
            event,
            reason: reason.to_owned(),
            cause: Cause::Person(Actor::named("ann")),
            verdict: None,
        },
        phase,
    }
}

fn retreated() -> Notice {
    let reason = "30 % of <answers> fail".to_owned();
    let event = Event::Retreated {
        command: None,
        outcome: Outcome::RolledBack,
        reason: reason.clone(),
    };
    let retreat = Retreat {
        outcome: Outcome::RolledBack,
        reason: reason.clone(),
    };
    notice(event, Phase::Returning(crate::engine::Return::Route, retreat), &reason)
}

fn story() -> Vec<Notice> {
    let passed = Event::StageEnded {
        proof: crate::engine::Proof::Passed,
    };
    vec![
        notice(Event::Admitted, Phase::Starting, "it may begin"),
        notice(Event::Ready, Phase::Smoking, "ready"),
        notice(passed, Phase::Gated { stage: 1 }, "group:payments must say yes"),
        retreated(),
        notice(
            Event::Restored,
            Phase::Done(Outcome::RolledBack),
            "everything is as before",
        ),
    ]
}

/// Tells a whole story; what was complained of early and late, and how long it took.
async fn tell(address: &str, specs: Value, story: Vec<Notice>) -> (Vec<String>, Vec<String>, Duration) {
    let (sender, receiver) = broadcast::channel(64);
    let told = Told {
        wanted: serde_json::from_value(specs).expect("specs"),
        secrets: Arc::new(All(address.to_owned())),
        client: crate::signals::http::http_client().expect("a client"),
        patience: Patience {
            answer_within: Duration::from_millis(300),
            between: Duration::from_millis(10),
            finish_within: Duration::from_secs(3),
        },
    };
    let early = Arc::<Mutex<Vec<String>>>::default();
    let heard = Arc::clone(&early);
    let following = tokio::spawn(follow(about(), receiver, told, move |sentence| {
        heard.lock().expect("no panic").push(sentence);
    }));
    for notice in story {
        sender.send(notice).expect("it listens");
    }
    let begun = crate::clock::stopwatch();
    let late = following.await.expect("no panic");
    let early = early.lock().expect("no panic").clone();
    (early, late, begun.elapsed())
}

#[tokio::test]
async fn a_webhook_hears_the_story_whole() {
    let heard = Heard::default();
    let address = heard.serve().await;
    let (early, late, _) = tell(&address, json!([{"webhook": {"secretRef": "shop"}}]), story()).await;
    assert_eq!((early, late), (vec![], vec![]));
    let bodies = heard.bodies();
    let events: Vec<&Value> = bodies.iter().map(|body| &body["event"]).collect();
    assert_eq!(events, ["began", "waits", "back", "ended"]);
    assert_eq!(
        bodies[3],
        json!({
            "event": "ended", "rollout": "checkout", "namespace": "shop", "release": 57, "from": "1.4.1",
            "version": "1.4.2", "outcome": "RolledBack", "reason": "everything is as before",
            "at": "1970-01-01T00:00:00Z", "by": "ci", "commit": "3fa9", "url": "https://ci/7",
            "text": "checkout 1.4.1 → 1.4.2 (shop, release 57) RolledBack: everything is as before https://ci/7",
        })
    );
}

#[tokio::test]
async fn slack_gets_text_without_markup() {
    let heard = Heard::default();
    let address = heard.serve().await;
    let end = notice(Event::Retired, Phase::Done(Outcome::Promoted { proven: false }), "done");
    tell(
        &address,
        json!([{"slack": {"secretRef": "shop"}}]),
        vec![retreated(), end],
    )
    .await;
    let texts: Vec<Value> = heard.bodies();
    assert_eq!(
        texts,
        [
            json!({"text": "checkout 1.4.1 → 1.4.2 (shop, release 57) goes back to stable: 30 % of &lt;answers&gt; fail https://ci/7"}),
            json!({"text": "checkout 1.4.1 → 1.4.2 (shop, release 57) Promoted, unproven: done https://ci/7"}),
        ]
    );
}

#[tokio::test]
async fn a_passing_fault_is_tried_again_and_a_refusal_is_not() {
    let heard = Heard::default();
    let address = heard.serve().await;
    heard
        .answers
        .lock()
        .expect("no panic")
        .extend([503, 429].map(Answer::Status));
    let end = || vec![notice(Event::Retired, Phase::Done(Outcome::FirstDeploy), "done")];
    let specs = json!([{"webhook": {"secretRef": "shop"}}]);
    let (_, late, _) = tell(&address, specs.clone(), end()).await;
    assert_eq!((heard.bodies().len(), late), (1, vec![]), "the third try arrives");
    heard
        .answers
        .lock()
        .expect("no panic")
        .extend([404].map(Answer::Status));
    let (_, late, _) = tell(&address, specs, end()).await;
    assert_eq!(
        late,
        ["webhook (Secret shop) could not be told: it answered 404 Not Found"]
    );
}

#[tokio::test]
async fn an_address_that_hangs_delays_nobody_else_and_is_given_up() {
    let (hanging, fine) = (Heard::default(), Heard::default());
    let silence = std::iter::repeat_with(|| Answer::Silence).take(100);
    hanging.answers.lock().expect("no panic").extend(silence);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("address");
    std::fs::write(&file, fine.serve().await + "\n").expect("written");
    let specs = json!([{"webhook": {"secretRef": "shop"}}, {"webhook": {"urlFrom": {"file": file}}}]);
    let (early, late, took) = tell(&hanging.serve().await, specs, story()).await;
    assert_eq!(fine.bodies().len(), 4);
    assert!(took < Duration::from_secs(5), "{took:?}: bounded");
    let said = [early, late].concat().join("\n");
    assert!(
        said.contains("webhook (Secret shop)") && said.contains("tried 3 times"),
        "{said}"
    );
    assert!(said.contains("not everybody could be told in time"), "{said}");
    assert!(
        !said.contains("very-secret") && !said.contains("127.0.0.1"),
        "an address is never shown: {said}"
    );
}

#[tokio::test]
async fn what_cannot_be_found_is_said_and_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "very-secret").expect("written");
    let specs = json!([
        {"slack": {"secretRef": "none"}},
        {"slack": {"urlFrom": {"env": "WADE_NO_SUCH_VARIABLE"}}},
        {"slack": {"urlFrom": {"file": wrong}}},
    ]);
    let (early, late, _) = tell("", specs, story()).await;
    assert_eq!(late, Vec::<String>::new());
    assert_eq!(
        early[0],
        "nobody is told by slack (Secret none): there is no Secret none"
    );
    assert_eq!(
        early[1],
        "nobody is told by slack (variable WADE_NO_SUCH_VARIABLE): it is not set, or no text"
    );
    assert!(
        early[2].ends_with("it holds no URL") && !early[2].contains("very-secret"),
        "{}",
        early[2]
    );
}

#[test]
fn other_releases_are_not_told_of() {
    let mut other = about();
    other.release = 58;
    assert_eq!(other.of(&retreated()), None);
    assert_eq!(about().of(&retreated()).map(|message| message.event), Some(What::Back));
}
