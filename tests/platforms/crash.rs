//! The daemon dies by SIGKILL at random moments of releases, good and bad, under constant traffic, and starts again.
//!
//! What must hold then, whatever the moment: processes run on and none runs twice; requests are divided as the record
//! says; no entry of a history is lost, and the history leads to the state; every release ends as it may end; users
//! lose what comes while nobody listens, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wade::clock::{Clock, SystemClock, stopwatch};
use wade::daemon::api::{ReleaseRequest, ReleaseTarget, RolloutView};
use wade::daemon::client::Client;
use wade::demo::load::{Load, NO_VERSION, Snapshot};
use wade::engine::desired::split_now;
use wade::engine::{HandOver, Outcome, Phase, State, apply, replay};
use wade::plan::{ALL_STABLE, Split};
use wade::spec::Weight;
use wade::store::{ReleaseKey, ReleaseRecord};

use super::yard::{GOOD, Rollout, SERVICE, Sample, Yard, request};

/// How often the daemon dies at least.
const KILLS: u32 = 30;
/// A quiet machine takes a minute. One that builds three other things at the same time must not fail for that.
const LIMIT: Duration = Duration::from_secs(240);
/// Users' requests per second.
const RPS: f64 = 100.0;
/// Kills at any moment in one release at most: more would be a test of patience.
const KILLS_A_RELEASE: u32 = 2;
/// Kills at each of the moments below, on purpose.
const KILLS_A_MOMENT: u32 = 2;
/// Moments in which the daemon has to have died at least once.
const MOMENTS: [&str; 6] = [
    "starting",
    "smoking",
    "preparing",
    "analysing",
    "handingOver",
    "returning",
];
/// What was refused while nobody listened has been counted after this.
const COUNTED: Duration = Duration::from_millis(150);

/// What is released, and how that may end.
#[derive(Clone, Copy, Debug)]
enum Act {
    Good,
    /// Back to the revision before.
    Rollback,
    /// Ready, passes its smoke tests, and bad for users.
    Bad(&'static str),
    /// Never fit for users.
    Unfit(&'static str),
}

const ACTS: [Act; 8] = [
    Act::Good,
    Act::Bad("--fail-percent=60"),
    Act::Good,
    Act::Unfit("--broken-smoke"),
    Act::Bad("--slow-factor=10"),
    Act::Rollback,
    Act::Unfit("--crash-at-start"),
    Act::Good,
];

impl Act {
    fn allows(self, outcome: &Outcome) -> bool {
        match self {
            Self::Good | Self::Rollback => matches!(outcome, Outcome::Promoted { .. } | Outcome::Returned),
            Self::Bad(_) => matches!(outcome, Outcome::RolledBack | Outcome::Rejected),
            Self::Unfit(_) => *outcome == Outcome::Rejected,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_at_any_moment_goes_on_where_it_was() {
    let seed = match std::env::var("WADE_CRASH_SEED") {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("WADE_CRASH_SEED={text} is not a number")),
        Err(_) => SystemClock.now().as_millisecond() as u64,
    };
    println!("WADE_CRASH_SEED={seed}");
    let mut trial = Trial::begin(seed).await;
    for (round, act) in ACTS.iter().cycle().enumerate() {
        let missing = MOMENTS.iter().any(|moment| !trial.kills.contains_key(moment));
        if trial.killed() >= KILLS && !missing && round >= ACTS.len() {
            break;
        }
        assert!(trial.began.elapsed() < LIMIT, "after {LIMIT:?} only {:?}", trial.kills);
        trial.release(round, *act).await;
        if trial.dice.random_bool(0.4) {
            trial.crash("done", None).await;
        }
    }
    trial.finish().await;
}

struct Trial {
    yard: Yard,
    client: Client,
    load: Load,
    dice: ChaCha8Rng,
    began: std::time::Instant,
    /// Kills by the phase they were meant for.
    kills: BTreeMap<&'static str, u32>,
    /// Every release as last seen.
    records: BTreeMap<u64, ReleaseRecord>,
    /// Requests lost when the daemon was last up again.
    lost: u64,
    down: Duration,
    /// Answers of revisions that have been taken from users for good.
    frozen: BTreeMap<String, u64>,
    serving: String,
}

impl Trial {
    async fn begin(seed: u64) -> Self {
        // The first test takes a while, so that a daemon can die in the middle of it.
        let smoke = "{command: [sleep, '0.4']}, {http: /selftest}";
        let mut yard = Yard::new(&Rollout {
            smoke,
            more: "  history: 100\n",
            ..Rollout::default()
        });
        let client = yard.start().await;
        let first = yard.release(&client, "1.0.0", GOOD).await;
        assert_eq!(first.state.outcome(), Some(&Outcome::FirstDeploy));
        let load = Load::start(yard.address(), RPS, seed);
        Self {
            yard,
            client,
            load,
            dice: ChaCha8Rng::seed_from_u64(seed),
            began: stopwatch(),
            kills: BTreeMap::new(),
            records: [(1, first)].into(),
            lost: 0,
            down: Duration::ZERO,
            frozen: BTreeMap::new(),
            serving: "1.0.0".to_owned(),
        }
    }

    fn killed(&self) -> u32 {
        self.kills.values().sum()
    }

    async fn release(&mut self, round: usize, act: Act) {
        let version = format!("1.{}.0", round + 1);
        let ask = match act {
            Act::Good => request(&version, GOOD),
            Act::Bad(flaw) | Act::Unfit(flaw) => request(&version, flaw),
            Act::Rollback => ReleaseRequest {
                target: ReleaseTarget::Rollback { number: None },
                ..ReleaseRequest::default()
            },
        };
        let Some(key) = self.ask(&ask).await else { return };
        let version = self.client.record(&key).await.expect("recorded").canary.version;
        let before = answers(&self.load.snapshot(), &version);
        self.frozen.remove(&version);
        let (mut mine, mut random, mut last, mut pause) = (0, 0, stopwatch(), self.pause());
        let began = stopwatch();
        let record = loop {
            let seen = answers(&self.load.snapshot(), &version);
            let record = self
                .client
                .record(&key)
                .await
                .unwrap_or_else(|problem| panic!("{problem}\n{}", self.yard.log()));
            self.see(&record);
            if record.state.split_of.is_none() {
                assert_eq!(
                    seen, before,
                    "{version} answered users before it had any weight: {:#?}",
                    record.history
                );
            }
            if record.state.outcome().is_some() {
                break record;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{key} does not end: {:?}\n{}",
                record.state,
                self.yard.log()
            );
            let label = record.state.phase.label();
            let on_purpose = self.kills.get(label).copied().unwrap_or(0) < KILLS_A_MOMENT;
            let wanted = MOMENTS.contains(&label) && on_purpose && self.dice.random_bool(0.3);
            let by_chance = random < KILLS_A_RELEASE && last.elapsed() > pause;
            if wanted || by_chance {
                self.crash(label, Some(&key)).await;
                mine += 1;
                random += u32::from(by_chance);
                (last, pause) = (stopwatch(), self.pause());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let outcome = record.state.outcome().expect("just seen");
        println!(
            "{:>5.1} s  {version} {act:?}: {} after {mine} kills",
            self.began.elapsed().as_secs_f64(),
            outcome.label()
        );
        assert!(
            act.allows(outcome),
            "{act:?} ended as {outcome:?}: {:#?}\n{}",
            record.history,
            self.yard.log()
        );
        let gone = if outcome.is_forward() {
            std::mem::replace(&mut self.serving, version)
        } else {
            version
        };
        // Its last answers may still be on their way to the client that counts.
        tokio::time::sleep(COUNTED).await;
        self.frozen.insert(gone.clone(), answers(&self.load.snapshot(), &gone));
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.dice.random_range(50..2500))
    }

    /// Asks for a release, sometimes with the daemon dying under the question. `None` if there is nothing to go back to.
    async fn ask(&mut self, ask: &ReleaseRequest) -> Option<ReleaseKey> {
        let known = self.records.keys().last().copied().unwrap_or(0);
        if self.dice.random_bool(0.25) {
            let (client, question) = (self.client.clone(), ask.clone());
            let asked = tokio::spawn(async move { client.release(SERVICE, &question).await });
            tokio::time::sleep(Duration::from_millis(self.dice.random_range(0..60))).await;
            self.crash("asked", None).await;
            asked.abort();
            // Either it has been recorded, whole, or it has never been.
            let newest = self
                .client
                .releases(SERVICE)
                .await
                .expect("an answer")
                .into_iter()
                .next()
                .expect("the first one at least");
            if newest.key.number > known {
                return Some(newest.key);
            }
        }
        match self.client.release(SERVICE, ask).await {
            Ok(started) => Some(started.release.expect("a new revision")),
            Err(problem) if ask.target == (ReleaseTarget::Rollback { number: None }) => {
                println!("no rollback: {problem}");
                None
            }
            Err(problem) => panic!("{problem}\n{}", self.yard.log()),
        }
    }

    /// Kills the daemon, starts it again, and looks at what it made of that.
    async fn crash(&mut self, moment: &'static str, key: Option<&ReleaseKey>) {
        let known = match key {
            Some(key) => Some(self.client.record(key).await.expect("it still runs")),
            None => None,
        };
        if let Some(record) = &known {
            self.see(record);
        }
        let before = self.load.snapshot();
        assert_eq!(
            before.lost_total(),
            self.lost,
            "requests were lost while the daemon was there: {before:#?}\n{}",
            self.yard.log()
        );
        self.yard.kill().await;
        let dead = stopwatch();
        let left = self.yard.samples();
        self.client = self.yard.start().await;
        self.down += dead.elapsed();
        let view = self.client.rollout(SERVICE).await.expect("an answer");
        let now = self.yard.samples();
        // A release that was just being asked for is not known yet, or not there.
        let after = match &view.release {
            Some(release) => self.client.record(&release.key).await.expect("an answer"),
            None => panic!("the record of every release is gone"),
        };
        self.see(&after);
        self.restored(&view, known.as_ref().filter(|known| known.key == after.key), &after);
        self.alive(&left, &now, &after);
        once(&now);
        tokio::time::sleep(COUNTED).await;
        once(&self.yard.samples());
        self.lost = self.load.snapshot().lost_total();
        *self.kills.entry(moment).or_default() += 1;
    }

    /// The history goes on from what was seen of it before, and leads to the state.
    fn see(&mut self, record: &ReleaseRecord) {
        let number = record.key.number;
        if let Some(known) = self.records.get(&number) {
            let begins = record.history.get(..known.history.len());
            assert_eq!(
                begins,
                Some(known.history.as_slice()),
                "{}: an entry was lost or changed",
                record.key
            );
        }
        let replayed = replay(&record.plan, record.created, &record.history).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(replayed, record.state, "{}: the history leads elsewhere", record.key);
        self.records.insert(number, record.clone());
    }

    /// The split in force is one that the record has asked for since the daemon died.
    fn restored(&self, view: &RolloutView, known: Option<&ReleaseRecord>, after: &ReleaseRecord) {
        let from = known.map_or(0, |known| known.history.len());
        let mut state = State::new(after.created);
        let mut asked = Vec::new();
        for (index, entry) in after.history.iter().enumerate() {
            if index >= from {
                asked.push(split_of(after, &state));
            }
            state = apply(&after.plan, &state, &entry.event, entry.at).expect("replayed before");
        }
        asked.push(split_of(after, &state));
        assert!(
            asked.contains(&view.split),
            "{:?} is in force, the record asks for {asked:?}\n{}",
            view.split,
            self.yard.log()
        );
    }

    /// Whoever ran for the sides of the release when the daemon died still does.
    fn alive(&self, left: &[Sample], now: &[Sample], after: &ReleaseRecord) {
        let canary = Some(after.canary.id.as_str());
        let stable = after.stable.as_ref().map(|stable| stable.id.as_str());
        let stays = match &after.state.phase {
            Phase::HandingOver(HandOver::Drain | HandOver::Retire) => [canary, None],
            Phase::Done(outcome) if outcome.is_forward() => [canary, None],
            Phase::Returning(..) | Phase::Done(_) => [stable, None],
            // A version that crashes at its start may do so just now.
            _ if after.canary.variables.values().any(|value| value == "--crash-at-start") => [stable, None],
            _ => [stable, canary],
        };
        for sample in left
            .iter()
            .filter(|sample| stays.contains(&Some(sample.revision.as_str())))
        {
            assert!(
                now.contains(sample),
                "{sample:?} has not survived in {:?}: {now:#?}\n{}",
                after.state.phase,
                self.yard.log()
            );
        }
    }

    async fn finish(mut self) {
        let view = self
            .yard
            .until("stable is whole", async || {
                let view = self.client.rollout(SERVICE).await.ok()?;
                view.stable
                    .as_ref()
                    .is_some_and(|stable| stable.ready == 2)
                    .then_some(view)
            })
            .await;
        let stable = view.stable.expect("just seen");
        assert_eq!(
            (stable.version.as_str(), stable.wanted, view.canary, view.split),
            (self.serving.as_str(), 2, None, ALL_STABLE)
        );
        let running: Vec<String> = self.yard.samples().into_iter().map(|sample| sample.revision).collect();
        assert_eq!(
            running,
            [stable.id.as_str(), stable.id.as_str()],
            "nothing but stable runs"
        );
        for (number, known) in &self.records {
            let key = ReleaseKey {
                rollout: SERVICE.to_owned(),
                number: *number,
            };
            assert_eq!(
                self.client.record(&key).await.as_ref(),
                Ok(known),
                "a finished release does not change any more"
            );
        }
        let end = self.load.stop().await;
        assert_eq!(
            end.lost_total(),
            self.lost,
            "requests were lost while the daemon was there: {end:#?}"
        );
        for (version, count) in &self.frozen {
            assert_eq!(
                answers(&end, version),
                *count,
                "{version} answered users after it had been taken from them"
            );
        }
        let flawed = |version: &str| {
            let mut records = self.records.values();
            records.any(|record| {
                record.canary.version == version
                    && record
                        .canary
                        .variables
                        .values()
                        .any(|value| value.starts_with("--fail-percent=6"))
            })
        };
        for (version, count) in &end.versions {
            assert!(
                flawed(version) || count.failed == 0,
                "{version} failed: {count:#?}\n{}",
                self.yard.log()
            );
        }
        assert!(
            !end.versions.contains_key(NO_VERSION),
            "the proxy answered by itself: {:#?}",
            end.versions
        );
        println!(
            "{} kills {:?}, {} releases, {:.1} s; {} requests, lost while nobody listened ({:.1} s): {:?}",
            self.kills.values().sum::<u32>(),
            self.kills,
            self.records.len(),
            self.began.elapsed().as_secs_f64(),
            end.sent,
            self.down.as_secs_f64(),
            end.lost
        );
        assert_eq!(self.yard.terminate().await.code(), Some(0));
        self.yard.launch(&["--stop-processes"]);
        self.yard.answering().await;
        assert_eq!(
            (self.yard.terminate().await.code(), self.yard.samples()),
            (Some(0), Vec::new())
        );
    }
}

/// What should be in force in a state, as an operator reads the record.
fn split_of(record: &ReleaseRecord, state: &State) -> Split {
    match &state.phase {
        // The new revision is the one that serves, and all traffic is the serving one's.
        Phase::HandingOver(HandOver::Adopt) => Split::weight(Weight::FULL),
        Phase::HandingOver(_) | Phase::Returning(..) | Phase::Done(_) => ALL_STABLE,
        _ => split_now(&record.plan, state),
    }
}

/// Users' answers by a version.
fn answers(snapshot: &Snapshot, version: &str) -> u64 {
    snapshot
        .versions
        .get(version)
        .map_or(0, |count| count.served + count.failed)
}

/// No slot of a revision has two processes.
fn once(samples: &[Sample]) {
    for pair in samples.windows(2) {
        let same = pair[0].revision == pair[1].revision && pair[0].slot == pair[1].slot;
        assert!(!same, "one slot runs twice: {samples:#?}");
    }
}
