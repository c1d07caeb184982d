//! One holder at a time; the clock is moved by hand, tokio's pauses pass by themselves.

use http::Method;

use super::*;
use crate::apiserver::testing::{FakeServer, Trouble};
use crate::clock::ManualClock;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/wade-shop";

struct World {
    fake: FakeServer,
    api: ApiServer,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        let fake = FakeServer::new();
        let api = ApiServer::over(fake.client("shop"), "shop");
        let clock = ManualClock::new("2026-11-22T01:00:00Z".parse().expect("a time"));
        Self { fake, api, clock }
    }

    fn lease(&self) -> Lease {
        Lease::new(&self.api, "shop", Arc::new(self.clock.clone()))
    }

    fn pass(&self, secs: i64) {
        self.clock.set(self.clock.now() + SignedDuration::from_secs(secs));
    }

    fn spec(&self, field: &str) -> Value {
        self.fake.object(PATH).expect("a lease")["spec"][field].clone()
    }

    /// Lets the renewal do its work: tokio's clock goes on, ours with it.
    async fn live(&self, secs: u64) {
        for _ in 0..secs {
            self.pass(1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn held(claim: Result<Claim, ApiError>) -> Held {
    match claim.expect("an answer") {
        Claim::Held(held) => held,
        Claim::HeldBy(holder) => panic!("{holder} has it"),
    }
}

fn refused(claim: Result<Claim, ApiError>) -> Holder {
    match claim.expect("an answer") {
        Claim::Held(held) => panic!("taken: {held:?}"),
        Claim::HeldBy(holder) => holder,
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_is_told_who_has_it() {
    let world = World::new();
    let first = held(world.lease().acquire("ann", 0).await);
    assert_eq!(first.epoch(), 1);
    assert_eq!(world.spec("renewTime"), "2026-11-22T01:00:00.000000Z");
    let holder = refused(world.lease().acquire("bob", 0).await);
    assert_eq!(
        holder.to_string(),
        "ann since 2026-11-22T01:00:00Z, last heard of at 2026-11-22T01:00:00Z"
    );
}

#[tokio::test(start_paused = true)]
async fn of_two_at_once_one_gets_it() {
    for there in [false, true] {
        let world = World::new();
        if there {
            held(world.lease().acquire("before", 0).await)
                .release()
                .await
                .expect("given back");
        }
        let (ann, bob) = (world.lease(), world.lease());
        let (ann, bob) = tokio::join!(ann.acquire("ann", 0), bob.acquire("bob", 0));
        let got = [ann, bob].map(|claim| match claim.expect("an answer") {
            Claim::Held(held) => Some(held.epoch()),
            Claim::HeldBy(_) => None,
        });
        assert_eq!(got.iter().flatten().count(), 1, "{got:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_given_back_is_free_and_its_epochs_go_on() {
    let world = World::new();
    held(world.lease().acquire("ann", 0).await)
        .release()
        .await
        .expect("given back");
    assert_eq!(world.lease().holder().await.expect("read"), None);
    let second = held(world.lease().acquire("bob", 0).await);
    assert_eq!(second.epoch(), 2);
    second.release().await.expect("given back");
    assert_eq!(
        held(world.lease().acquire("cy", 40).await).epoch(),
        41,
        "above what the record carries"
    );
}

#[tokio::test(start_paused = true)]
async fn a_living_holder_renews_and_keeps_it() {
    let world = World::new();
    let first = held(world.lease().acquire("ann", 0).await);
    let bob = world.lease();
    world.fake.forget();
    for _ in 0..60 {
        world.live(1).await;
        refused(bob.acquire("bob", 0).await);
    }
    assert!(first.is_fresh(world.clock.now()));
    let writes = world.fake.writes().len();
    assert!((12..=16).contains(&writes), "{writes} writes in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_taken_over_from_after_its_time_as_we_watch() {
    let world = World::new();
    drop(held(world.lease().acquire("ann", 0).await));
    // Its clock is far ahead of ours: its renewal never looks old.
    world.fake.edit(PATH, |lease| {
        lease["spec"]["renewTime"] = "2026-11-22T09:00:00.000000Z".into();
    });
    let bob = world.lease();
    refused(bob.acquire("bob", 0).await);
    world.pass(14);
    refused(bob.acquire("bob", 0).await);
    world.pass(1);
    assert_eq!(held(bob.acquire("bob", 0).await).epoch(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_holder_long_dead_is_taken_over_from_at_first_sight() {
    let world = World::new();
    drop(held(world.lease().acquire("ann", 0).await));
    world.pass(20);
    refused(world.lease().acquire("bob", 0).await);
    world.pass(1);
    assert_eq!(held(world.lease().acquire("bob", 0).await).epoch(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_forced_takeover_tells_the_one_before() {
    let world = World::new();
    let first = held(world.lease().acquire("ann", 0).await);
    let second = held(world.lease().force("bob", 0).await);
    assert_eq!(second.epoch(), 2);
    world.live(5).await;
    assert!(first.lost().is_cancelled() && !first.is_fresh(world.clock.now()));
    first.release().await.expect("nothing to give back");
    assert_eq!(world.spec("holderIdentity"), "bob");
    world.live(20).await;
    assert!(second.is_fresh(world.clock.now()) && !second.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn without_the_server_it_is_not_fresh_for_longer_than_its_time_and_recovers() {
    let world = World::new();
    let first = held(world.lease().acquire("ann", 0).await);
    world.fake.go_down();
    world.live(14).await;
    assert!(first.is_fresh(world.clock.now()));
    world.live(1).await;
    assert!(!first.is_fresh(world.clock.now()));
    assert!(!first.lost().is_cancelled(), "nobody else has it");
    world.fake.come_back();
    world.live(3).await;
    assert!(first.is_fresh(world.clock.now()));
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_recognised() {
    for there in [false, true] {
        let world = World::new();
        if there {
            held(world.lease().acquire("before", 0).await)
                .release()
                .await
                .expect("given back");
        }
        let method = if there { Method::PUT } else { Method::POST };
        world.fake.trouble(method, "leases", Trouble::LostAnswer);
        let got = held(world.lease().acquire("ann", 0).await);
        assert_eq!(Value::from(got.epoch()), world.spec("leaseTransitions"));
        assert_eq!(got.epoch(), 1 + u64::from(there), "claimed once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again_by_its_holder() {
    let world = World::new();
    let first = held(world.lease().acquire("ann", 6).await);
    world.fake.remove(PATH);
    world.live(5).await;
    assert_eq!(
        (world.spec("holderIdentity"), world.spec("leaseTransitions")),
        ("ann".into(), 7.into())
    );
    assert!(first.is_fresh(world.clock.now()));
    world.fake.remove(PATH);
    let second = held(world.lease().acquire("bob", 7).await);
    world.live(5).await;
    assert!(
        first.lost().is_cancelled() && !second.lost().is_cancelled(),
        "or it is lost"
    );
}

#[tokio::test(start_paused = true)]
async fn holding_raises_the_records_epoch_first() {
    let world = World::new();
    let store = ConfigMapStore::open(&world.api, "shop");
    let ann = match world.lease().hold(&store, "ann", Manner::IfFree).await.expect("held") {
        Claim::Held(held) => held,
        Claim::HeldBy(holder) => panic!("{holder} has it"),
    };
    assert_eq!((ann.epoch(), store.epoch().await), (1, Ok(1)));
    // Somebody deletes the lease, and the record has gone on meanwhile.
    world.fake.remove(PATH);
    let record = "/api/v1/namespaces/shop/configmaps/wade-shop";
    world.fake.edit(record, |object| object["data"]["epoch"] = "9".into());
    world.fake.before(Method::PATCH, "wade-shop", move |fake| {
        fake.edit(record, |object| object["data"]["epoch"] = "12".into());
    });
    let store = ConfigMapStore::open(&world.api, "shop");
    let bob = match world.lease().hold(&store, "bob", Manner::Force).await.expect("held") {
        Claim::Held(held) => held,
        Claim::HeldBy(holder) => panic!("{holder} has it"),
    };
    assert_eq!((bob.epoch(), store.epoch().await), (13, Ok(13)));
    assert_eq!(world.spec("leaseTransitions"), 13);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_just_killed_is_told_from_one_that_lives() {
    let world = World::new();
    let living = held(world.lease().acquire("ann", 0).await);
    let asked = world.lease();
    let (kept, ()) = tokio::join!(asked.is_kept(), world.live(20));
    assert_eq!(kept, Ok(true));

    // Killed right after a renewal.
    drop(living);
    let asked = world.lease();
    let (kept, ()) = tokio::join!(asked.is_kept(), world.live(20));
    assert_eq!(kept, Ok(false));
}
