//! All rollouts as they change, looked at once for all who follow.
//!
//! While somebody follows, one task looks at all rollouts every second and keeps what is new, with a number that grows
//! with each change. Per rollout only the newest is kept: a follower is told how things are, not every step of the way
//! there (a release's own stream tells that). So a follower may be as slow as it likes, and may come back with the number
//! that it saw last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::Doors;
use super::answers::{Gone, Outline};

/// Changes that one follower takes at once: what it holds while it is slow.
const AT_ONCE: usize = 64;
/// Rollouts that went away and are remembered, so that who comes back is told.
const MOST_GONE: usize = 1000;

/// What is known of all rollouts.
pub(super) struct Fleet {
    doors: Arc<dyn Doors>,
    look: Duration,
    board: Mutex<Board>,
    news: watch::Sender<u64>,
    running: Mutex<bool>,
    /// Numbers of another process mean nothing here.
    run: String,
}

#[derive(Default)]
struct Board {
    /// The newest change.
    last: u64,
    /// Whether everything has been looked at once.
    seen: bool,
    /// What went away before this change is forgotten.
    floor: u64,
    rollouts: BTreeMap<(String, String), Known>,
    /// Whose change has which number.
    by_change: BTreeMap<u64, (String, String)>,
}

struct Known {
    change: u64,
    /// `None` once it is gone.
    outline: Option<Outline>,
    json: Arc<str>,
}

/// One change, as followers are told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) number: u64,
    pub(super) namespace: String,
    /// `rollout` or `gone`.
    pub(super) event: &'static str,
    pub(super) json: Arc<str>,
}

impl Fleet {
    pub(super) fn new(doors: Arc<dyn Doors>, look: Duration) -> Arc<Self> {
        let unique = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
        Arc::new(Self {
            doors,
            look,
            board: Mutex::default(),
            news: watch::Sender::new(0),
            running: Mutex::new(false),
            run: unique.split('-').next().unwrap_or_default().to_owned(),
        })
    }

    /// Begins to follow: from then on somebody looks.
    pub(super) fn follow(self: &Arc<Self>) -> watch::Receiver<u64> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let news = self.news.subscribe();
        if !*running {
            *running = true;
            // What was seen long ago is looked at anew before anybody is told.
            self.board().seen = false;
            tokio::spawn(look_around(Arc::downgrade(self)));
        }
        news
    }

    /// The id of a change, and back.
    pub(super) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.run)
    }

    /// The number behind an id, if it still means something.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        let number = id.strip_prefix(&self.run)?.strip_prefix('-')?.parse().ok()?;
        let board = self.board();
        (number >= board.floor && number <= board.last).then_some(number)
    }

    /// The next few changes after `number`, oldest first; `None` while nothing has been looked at.
    pub(super) fn since(&self, number: u64) -> Option<Vec<Change>> {
        let board = self.board();
        board.seen.then(|| {
            let newer = board.by_change.range(number + 1..);
            newer
                .filter_map(|(number, place)| Some((number, place, board.rollouts.get(place)?)))
                .take(AT_ONCE)
                .map(|(number, (namespace, _), known)| Change {
                    number: *number,
                    namespace: namespace.clone(),
                    event: if known.outline.is_some() { "rollout" } else { "gone" },
                    json: Arc::clone(&known.json),
                })
                .collect()
        })
    }

    async fn look(&self) {
        match self.doors.rollouts().await {
            Ok(now) => {
                let now = now
                    .iter()
                    .map(|(namespace, rollout)| Outline::of(namespace, rollout))
                    .collect();
                let last = self.board().update(now);
                self.news
                    .send_if_modified(|known| std::mem::replace(known, last) != last);
            }
            Err(problem) => tracing::debug!(%problem, "the rollouts could not be looked at for the event stream"),
        }
    }

    /// Whether nobody follows any more; then it is noted that nobody looks.
    fn is_idle(&self) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = self.news.receiver_count() == 0;
        *running = !idle;
        idle
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_around(fleet: Weak<Fleet>) {
    loop {
        let Some(fleet) = fleet.upgrade() else { return };
        fleet.look().await;
        if fleet.is_idle() {
            return;
        }
        let pause = fleet.look;
        drop(fleet);
        tokio::time::sleep(pause).await;
    }
}

impl Board {
    /// Takes in how everything is now, and returns the number of the newest change.
    fn update(&mut self, now: Vec<Outline>) -> u64 {
        let before = self.last;
        let mut there = std::collections::BTreeSet::new();
        for outline in now {
            let place = (outline.namespace.clone(), outline.name.clone());
            there.insert(place.clone());
            let known = self.rollouts.get(&place);
            if known.and_then(|known| known.outline.as_ref()) != Some(&outline) {
                if let Some(known) = known {
                    self.by_change.remove(&known.change);
                }
                self.last += 1;
                self.by_change.insert(self.last, place.clone());
                let json = text(&outline);
                self.rollouts.insert(
                    place,
                    Known {
                        change: self.last,
                        outline: Some(outline),
                        json,
                    },
                );
            }
        }
        for (place, known) in &mut self.rollouts {
            if known.outline.is_some() && !there.contains(place) {
                self.last += 1;
                self.by_change.remove(&known.change);
                self.by_change.insert(self.last, place.clone());
                known.change = self.last;
                known.outline = None;
                known.json = text(&Gone {
                    namespace: place.0.clone(),
                    name: place.1.clone(),
                });
            }
        }
        self.forget();
        if !self.seen {
            self.seen = true;
            // That everything has been looked at is news, also where there is nothing.
            self.last = self.last.max(before + 1);
        }
        self.last
    }

    /// Keeps the number of those that are gone bounded.
    fn forget(&mut self) {
        let mut gone: Vec<u64> = self
            .rollouts
            .values()
            .filter(|known| known.outline.is_none())
            .map(|known| known.change)
            .collect();
        if gone.len() > MOST_GONE {
            gone.sort_unstable();
            let floor = gone[gone.len() - MOST_GONE - 1];
            self.floor = floor;
            self.rollouts
                .retain(|_, known| known.outline.is_some() || known.change > floor);
            let rollouts = &self.rollouts;
            self.by_change.retain(|_, place| rollouts.contains_key(place));
        }
    }
}

fn text(value: &impl Serialize) -> Arc<str> {
    serde_json::to_string(value).expect("outlines are plain values").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ALL_STABLE;

    fn outline(name: &str, stable: &str) -> Outline {
        Outline {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            split: ALL_STABLE,
            stable: Some(stable.to_owned()),
            canary: None,
            release: None,
            quarantined: 0,
        }
    }

    #[test]
    fn only_what_changed_gets_a_new_number() {
        let mut board = Board::default();
        assert_eq!(board.update(vec![outline("a", "1"), outline("b", "1")]), 2);
        assert_eq!(board.update(vec![outline("a", "1"), outline("b", "1")]), 2);
        assert_eq!(board.update(vec![outline("a", "2"), outline("b", "1")]), 3);
        assert_eq!(board.update(vec![outline("a", "2")]), 4);
        let changes: Vec<_> = board
            .rollouts
            .iter()
            .map(|((_, name), known)| (name.as_str(), known.change, known.outline.is_some()))
            .collect();
        assert_eq!(changes, [("a", 3, true), ("b", 4, false)]);
    }

    #[test]
    fn what_is_gone_is_forgotten_at_last() {
        let mut board = Board::default();
        for n in 0..3 * MOST_GONE {
            board.update(vec![outline(&format!("r{n}"), "1")]);
            assert!(board.rollouts.len() <= MOST_GONE + 1 && board.by_change.len() == board.rollouts.len());
        }
        assert!(
            board.floor > 0,
            "who comes back with an older number is told everything anew"
        );
    }
}
