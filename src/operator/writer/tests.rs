//! On a clock that stands still unless somebody sleeps: how many at once, what is tried again, what is dropped.

use serde_json::json;
use tokio::sync::Notify;

use super::*;

/// A server with as much trouble as a test wants.
#[derive(Default)]
struct Server {
    /// Faults of the next writes, in order.
    faults: Mutex<Vec<Fault>>,
    /// What was written, in order.
    wrote: Mutex<Vec<(String, Value)>>,
    /// Requests now, and the most there were.
    now: Mutex<(usize, usize)>,
    tries: Mutex<usize>,
    /// Writes are held back until this is told, if it is to be waited for.
    gate: Option<Notify>,
}

struct To(Arc<Server>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Pen for To {
    async fn write(&self, target: &Target, status: &Value) -> Result<(), ApiError> {
        *lock(&self.0.tries) += 1;
        {
            let mut now = lock(&self.0.now);
            now.0 += 1;
            now.1 = now.1.max(now.0);
        }
        match &self.0.gate {
            Some(gate) => gate.notified().await,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        lock(&self.0.now).0 -= 1;
        let fault = {
            let mut faults = lock(&self.0.faults);
            (!faults.is_empty()).then(|| faults.remove(0))
        };
        match fault {
            Some(fault) => Err(ApiError::other("patch", "rollout", fault)),
            None => {
                lock(&self.0.wrote).push((target.at.name.clone(), status.clone()));
                Ok(())
            }
        }
    }

    fn written(&self, _: &Target, _: &Value) {}
}

fn target(name: &str) -> Target {
    Target {
        kind: Kind::Rollout,
        at: At {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        },
    }
}

fn writer(server: &Arc<Server>) -> (StatusWriter, Arc<AtomicBool>) {
    let leads = Arc::new(AtomicBool::new(true));
    (
        StatusWriter::new(Box::new(To(Arc::clone(server))), Arc::clone(&leads)),
        leads,
    )
}

async fn settles(writer: &StatusWriter) {
    while !writer.shared.words().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn away() -> Fault {
    Fault::Unreachable("away".to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_thousand_words_are_written_a_few_at_a_time_and_none_is_lost() {
    let server = Arc::new(Server {
        faults: Mutex::new(vec![away(); 48]),
        ..Server::default()
    });
    let (writer, _) = writer(&server);
    for number in 0..1000 {
        writer.say(target(&format!("app{number}")), json!({"phase": "Idle"}), Voice::Leader);
    }
    settles(&writer).await;
    let mut names: Vec<String> = lock(&server.wrote).iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!((names.len(), lock(&server.wrote).len()), (1000, 1000));
    assert_eq!(lock(&server.now).1, AT_ONCE);
    assert_eq!(*lock(&server.tries), 1048);
}

#[tokio::test(start_paused = true)]
async fn the_newest_word_wins_and_keeps_what_only_an_older_one_said() {
    let server = Arc::new(Server {
        gate: Some(Notify::new()),
        ..Server::default()
    });
    let (writer, _) = writer(&server);
    let release = target("app-1");
    writer.say(release.clone(), json!({"phase": "starting"}), Voice::Carrier);
    tokio::time::sleep(Duration::from_millis(1)).await;
    // The first is under way; these wait.
    writer.say(
        release.clone(),
        json!({"phase": "warming", "plan": "p"}),
        Voice::Carrier,
    );
    writer.say(release.clone(), json!({"phase": "stepping"}), Voice::Carrier);
    let whole = json!({"phase": "stepping", "plan": "p"});
    assert_eq!(writer.unwritten(&release), Some(whole.clone()));
    let gate = server.gate.as_ref().expect("it was given");
    for _ in 0..2 {
        gate.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let wrote: Vec<Value> = lock(&server.wrote).iter().map(|(_, status)| status.clone()).collect();
    assert_eq!(wrote, [json!({"phase": "starting"}), whole]);
    assert_eq!(writer.unwritten(&release), None);
}

#[tokio::test(start_paused = true)]
async fn a_word_that_fails_is_laid_under_the_newer_one() {
    let server = Arc::new(Server {
        faults: Mutex::new(vec![away()]),
        ..Server::default()
    });
    let (writer, _) = writer(&server);
    writer.say(
        target("app-1"),
        json!({"phase": "starting", "found": ["x"]}),
        Voice::Carrier,
    );
    tokio::time::sleep(Duration::from_millis(5)).await;
    writer.say(target("app-1"), json!({"phase": "done"}), Voice::Carrier);
    settles(&writer).await;
    let last = ("app-1".to_owned(), json!({"phase": "done", "found": ["x"]}));
    assert_eq!(*lock(&server.wrote), [last]);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_leads_no_more_takes_nothing_back() {
    let server = Arc::new(Server {
        faults: Mutex::new(vec![away(), away()]),
        ..Server::default()
    });
    let (writer, leads) = writer(&server);
    writer.say(target("idle"), json!({"phase": "Idle"}), Voice::Leader);
    writer.say(target("carried"), json!({"phase": "Releasing"}), Voice::Carrier);
    tokio::time::sleep(Duration::from_millis(50)).await;
    leads.store(false, Ordering::Release);
    settles(&writer).await;
    let carried = ("carried".to_owned(), json!({"phase": "Releasing"}));
    assert_eq!(*lock(&server.wrote), [carried]);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_knows_better_is_not_written() {
    let server = Arc::new(Server {
        faults: Mutex::new(vec![away()]),
        ..Server::default()
    });
    let (writer, _) = writer(&server);
    writer.say(target("app"), json!({"phase": "Releasing"}), Voice::Carrier);
    tokio::time::sleep(Duration::from_millis(50)).await;
    writer.forget(&target("app"));
    settles(&writer).await;
    assert_eq!(*lock(&server.wrote), []);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_not_written_again() {
    let server = Arc::new(Server {
        faults: Mutex::new(vec![Fault::NotFound]),
        ..Server::default()
    });
    let (writer, _) = writer(&server);
    writer.say(target("gone"), json!({"phase": "Idle"}), Voice::Leader);
    settles(&writer).await;
    assert_eq!((*lock(&server.tries), lock(&server.wrote).len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_refused_keeps_nobody_waiting() {
    let refused = Fault::Refused("a policy".to_owned());
    let server = Arc::new(Server {
        faults: Mutex::new(vec![refused; 3 * AT_ONCE]),
        ..Server::default()
    });
    let (writer, _) = writer(&server);
    for number in 0..3 * AT_ONCE {
        writer.say(target(&format!("refused{number}")), json!({}), Voice::Leader);
    }
    writer.say(target("fine"), json!({}), Voice::Leader);
    // Less than the first pause.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(*lock(&server.wrote), [("fine".to_owned(), json!({}))]);
}
