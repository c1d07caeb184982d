//! Claims about the record on Kubernetes, tried against the API server in memory.

mod others;
mod record;
mod rollouts;
mod size;

use http::Method;
use serde_json::Value;

use super::*;
use crate::apiserver::testing::{FakeServer, Trouble};
use crate::engine::{Actor, Cause, CommandKind, Entry, Event, Outcome, Proof, apply};
use crate::plan::Plan;
use crate::store::shared::{CommandError, CreateError};
use crate::store::sqlite::tests::{at, judged, new_release, plan, revision};

const PATH: &str = "/api/v1/namespaces/shop/configmaps/wade-shop";

fn over(fake: &FakeServer) -> ConfigMapStore {
    ConfigMapStore::open(&ApiServer::over(fake.client("shop"), "shop"), "shop")
}

/// A store that may write.
async fn held(fake: &FakeServer, epoch: u64) -> ConfigMapStore {
    let store = over(fake);
    store
        .take_over(epoch, &format!("holder-{epoch}"))
        .await
        .expect("taken over");
    store
}

fn data(fake: &FakeServer, key: &str) -> String {
    let object = fake.object(PATH).expect("a record");
    object["data"][key].as_str().unwrap_or_default().to_owned()
}

/// Drives one release of a store through the engine's own table of moves, so that no history is stored that could not
/// have happened.
struct Drive {
    store: Arc<ConfigMapStore>,
    key: ReleaseKey,
    plan: Plan,
    state: State,
    epoch: u64,
}

impl Drive {
    async fn begin(store: &Arc<ConfigMapStore>, version: &str) -> Self {
        let key = store
            .create_release(&new_release("shop", version), at(0))
            .await
            .expect("created");
        Self {
            store: Arc::clone(store),
            key,
            plan: plan("shop"),
            state: State::new(at(0)),
            epoch: store.epoch.load(Ordering::SeqCst),
        }
    }

    /// The update that these events make, which is not written.
    fn update(&mut self, events: &[Event]) -> Update {
        let entries = events.iter().map(|event| {
            let number = self.state.next_entry;
            let now = at(i64::try_from(number).expect("small"));
            self.state = apply(&self.plan, &self.state, event, now).expect("a legal move");
            Entry {
                number,
                at: now,
                event: event.clone(),
                reason: format!("because of {number}"),
                cause: Cause::Person(Actor::named("ann")),
                verdict: number.is_multiple_of(3).then(|| judged(100.0, 7.0, 1.0).1),
            }
        });
        let entries = entries.collect();
        Update {
            state: self.state.clone(),
            entries,
            judge: None,
            verdict: None,
            course: None,
        }
    }

    async fn write(&self, update: &Update) -> Result<(), StoreError> {
        self.store.record(&self.key, self.epoch, update).await
    }

    async fn go(&mut self, events: &[Event]) -> Update {
        let update = self.update(events);
        self.write(&update).await.expect("written");
        update
    }

    async fn load(&self) -> ReleaseRecord {
        self.store.load(&self.key).await.expect("a record")
    }

    async fn reach_the_bake(&mut self) {
        self.go(&[Event::Admitted, Event::Ready, Event::SmokePassed]).await;
        let by = Actor::named("ann");
        self.go(&[Event::GateOpened { command: 1, by }, Event::Prepared]).await;
        let passed = Event::StageEnded { proof: Proof::Passed };
        self.go(&[Event::Shifted { restarts: 0 }, passed, Event::Prepared])
            .await;
        self.go(&[Event::Shifted { restarts: 1 }]).await;
    }

    async fn promote(&mut self) {
        self.reach_the_bake().await;
        let proof = Proof::NotJudged;
        self.go(&[Event::StageEnded { proof }, Event::Adopted]).await;
        self.go(&[Event::StableDrained, Event::Retired]).await;
    }

    async fn retreat(&mut self, outcome: Outcome) {
        self.go(&[Event::Admitted]).await;
        let reason = "errors 30 %".to_owned();
        let back = Event::Retreated {
            command: None,
            outcome,
            reason,
        };
        self.go(&[back]).await;
        let rest = [
            Event::RouteRestored,
            Event::CanaryDrained,
            Event::CanaryRemoved,
            Event::Restored,
        ];
        self.go(&rest).await;
    }
}

async fn one() -> (FakeServer, Arc<ConfigMapStore>, Drive) {
    let fake = FakeServer::new();
    let store = Arc::new(held(&fake, 1).await);
    let drive = Drive::begin(&store, "1.1").await;
    (fake, store, drive)
}
