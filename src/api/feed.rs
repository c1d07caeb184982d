//! One release's notices, read once for all who follow it.
//!
//! A follower of a release that another process carries reads the record twice a second. So 500 of them must not be 500
//! readers: there is one per release while somebody follows, and what it reads is kept as text for all. Entries are kept
//! whole, so a follower comes in at any entry and misses none however slow it is; of looks, which tell of the same
//! thing again and again, only the newest is kept. So a slow follower costs nothing but its place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Doors;
use crate::controller::Notice;
use crate::daemon::api::{Problem, ProblemKind};
use crate::daemon::client::Notices;
use crate::engine::Actor;
use crate::store::ReleaseKey;

/// Entries that one follower takes at once: what it holds while it is slow.
const AT_ONCE: usize = 16;
/// The most entries that are kept of one release; a record has far fewer.
const MOST_ENTRIES: usize = 10_000;

/// The feeds that somebody follows, by namespace and release.
#[derive(Default)]
pub(super) struct Feeds {
    open: Mutex<BTreeMap<(String, ReleaseKey), Arc<Feed>>>,
}

/// What is known of one release.
pub(super) struct Feed {
    told: Mutex<Told>,
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct Told {
    entries: VecDeque<(u64, Arc<str>)>,
    /// The newest look or trouble, and how many there were.
    latest: Option<(u64, Arc<str>)>,
    looks: u64,
    end: Option<End>,
}

/// How a feed ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// The release is over.
    Over,
    /// It cannot be read any more; to be tried again.
    Lost(Problem),
}

/// Somebody who follows.
pub(super) struct Follower {
    feed: Arc<Feed>,
    news: watch::Receiver<u64>,
    next: u64,
    looks: u64,
}

/// What a follower has not seen yet.
#[derive(Debug, PartialEq)]
pub(super) struct News {
    /// Notices as JSON; entries with their number.
    pub(super) notices: Vec<(Option<u64>, Arc<str>)>,
    /// Nothing more will come.
    pub(super) end: Option<End>,
}

impl Feeds {
    /// Follows a release from entry `from` on.
    pub(super) async fn follow(
        self: &Arc<Self>,
        doors: &dyn Doors,
        namespace: &str,
        key: &ReleaseKey,
        from: u64,
    ) -> Result<Follower, Problem> {
        let place = (namespace.to_owned(), key.clone());
        if let Some(follower) = self.open().get(&place).and_then(|feed| feed.follower(from)) {
            return Ok(follower);
        }
        // Reading is in nobody's name: who may read was asked before.
        let notices = doors.at(namespace, &Actor::named("wade")).events(key, 1).await?;
        let mut open = self.open();
        // Somebody may have been quicker; then what was opened here is closed again.
        if let Some(follower) = open.get(&place).and_then(|feed| feed.follower(from)) {
            return Ok(follower);
        }
        let feed = Arc::new(Feed {
            told: Mutex::default(),
            news: watch::Sender::new(0),
        });
        let follower = feed.follower(from).expect("nothing has ended yet");
        open.insert(place.clone(), Arc::clone(&feed));
        drop(open);
        let feeds = Arc::clone(self);
        tokio::spawn(async move {
            feed.read(notices).await;
            feeds.close(&place, &feed);
        });
        Ok(follower)
    }

    /// Forgets a feed; those who follow still have it.
    fn close(&self, place: &(String, ReleaseKey), feed: &Arc<Feed>) {
        let mut open = self.open();
        if open.get(place).is_some_and(|known| Arc::ptr_eq(known, feed)) {
            open.remove(place);
        }
        // Somebody may have come while nobody was there.
        feed.finish(End::Lost(Problem::new(
            ProblemKind::Unavailable,
            "the stream has ended; follow again",
        )));
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<(String, ReleaseKey), Arc<Feed>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    fn follower(self: &Arc<Self>, from: u64) -> Option<Follower> {
        let news = self.news.subscribe();
        let ended = matches!(self.told().end, Some(End::Lost(_)));
        (!ended).then(|| Follower {
            feed: Arc::clone(self),
            news,
            next: from,
            looks: 0,
        })
    }

    async fn read(&self, mut notices: Box<dyn Notices>) {
        loop {
            let next = tokio::select! {
                next = notices.next() => next,
                () = self.news.closed() => return,
            };
            match next {
                Ok(Some(notice)) => self.tell(&notice),
                Ok(None) => return self.finish(End::Over),
                Err(problem) => return self.finish(End::Lost(problem)),
            }
        }
    }

    fn tell(&self, notice: &Notice) {
        let json: Arc<str> = serde_json::to_string(notice).expect("notices are plain values").into();
        let mut told = self.told();
        match notice {
            Notice::Entry { entry, .. } => {
                told.entries.push_back((entry.number, json));
                if told.entries.len() > MOST_ENTRIES {
                    told.entries.pop_front();
                }
            }
            Notice::Look { .. } | Notice::Trouble { .. } => {
                told.looks += 1;
                told.latest = Some((told.looks, json));
            }
        }
        drop(told);
        self.news.send_modify(|count| *count += 1);
    }

    fn finish(&self, end: End) {
        self.told().end.get_or_insert(end);
        self.news.send_modify(|count| *count += 1);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Waits until there may be something new. Whoever calls this has seen what [`news`](Self::news) said before.
    pub(super) async fn changed(&mut self) {
        // The sender is part of the feed, which this holds.
        let _ = self.news.changed().await;
    }

    /// What has not been seen yet.
    pub(super) fn news(&mut self) -> News {
        self.news.borrow_and_update();
        let told = self.feed.told();
        let mut notices: Vec<(Option<u64>, Arc<str>)> = told
            .entries
            .iter()
            .filter(|(number, _)| *number >= self.next)
            .take(AT_ONCE)
            .map(|(number, json)| (Some(*number), Arc::clone(json)))
            .collect();
        if let Some((Some(last), _)) = notices.last() {
            self.next = last + 1;
        }
        if notices.len() == AT_ONCE {
            return News { notices, end: None };
        }
        if let Some((count, json)) = told.latest.as_ref().filter(|(count, _)| *count > self.looks) {
            self.looks = *count;
            notices.push((None, Arc::clone(json)));
        }
        News {
            notices,
            end: told.end.clone(),
        }
    }
}
