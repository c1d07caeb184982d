//! Following a release: by the notices of this process if it carries it, else by reading the record of another's.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::controller::Notice;
use crate::daemon::api::Problem;
use crate::daemon::client::Notices;
use crate::engine::{Phase, apply};
use crate::store::configmap::ConfigMapStore;
use crate::store::{ReleaseKey, ReleaseRecord, Store};

/// How often the record is read while another process carries the release.
const LOOK: Duration = Duration::from_millis(500);

/// Follows a release by the notices of this process, or by reading the record of another's.
pub(super) struct Follower {
    store: ConfigMapStore,
    key: ReleaseKey,
    next: u64,
    backlog: VecDeque<Notice>,
    over: bool,
    notices: Option<broadcast::Receiver<Notice>>,
    told: String,
}

impl Follower {
    /// From entry `next` on; `notices` are this process's own, if it carries the release.
    pub(super) fn new(
        store: ConfigMapStore,
        record: &ReleaseRecord,
        next: u64,
        notices: Option<broadcast::Receiver<Notice>>,
    ) -> Self {
        let mut follower = Self {
            store,
            key: record.key.clone(),
            next,
            backlog: VecDeque::new(),
            over: false,
            notices,
            told: String::new(),
        };
        follower.read(record);
        follower
    }

    /// Puts what the record says from `next` on into the backlog.
    fn read(&mut self, record: &ReleaseRecord) {
        let mut state = crate::engine::State::new(record.created);
        for entry in &record.history {
            // Old entries may have been pruned; then the phase is the record's own.
            state = apply(&record.plan, &state, &entry.event, entry.at).unwrap_or_else(|_| record.state.clone());
            if entry.number < self.next {
                continue;
            }
            self.next = entry.number + 1;
            self.backlog.push_back(Notice::Entry {
                key: self.key.clone(),
                entry: entry.clone(),
                phase: state.phase.clone(),
            });
        }
        self.over |= record.state.outcome().is_some();
    }
}

#[async_trait]
impl Notices for Follower {
    async fn next(&mut self) -> Result<Option<Notice>, Problem> {
        loop {
            if let Some(notice) = self.backlog.pop_front() {
                return Ok(Some(notice));
            }
            if self.over {
                return Ok(None);
            }
            match &mut self.notices {
                Some(notices) => match notices.recv().await {
                    Ok(Notice::Entry { entry, .. }) if entry.number < self.next => {}
                    Ok(notice) => {
                        if let Notice::Entry { entry, phase, .. } = &notice {
                            self.next = entry.number + 1;
                            self.over |= matches!(phase, Phase::Done(_));
                        }
                        return Ok(Some(notice));
                    }
                    Err(RecvError::Lagged(_)) => {
                        let record = self.store.load(&self.key).await.map_err(Problem::unavailable)?;
                        self.read(&record);
                    }
                    // Somebody else carries it now.
                    Err(RecvError::Closed) => self.notices = None,
                },
                None => {
                    tokio::time::sleep(LOOK).await;
                    let record = self.store.load(&self.key).await.map_err(Problem::unavailable)?;
                    let before = self.backlog.len();
                    self.read(&record);
                    if self.backlog.len() == before
                        && let Some(verdict) = &record.verdict
                        && verdict.reason != self.told
                    {
                        self.told.clone_from(&verdict.reason);
                        return Ok(Some(Notice::Look {
                            key: self.key.clone(),
                            at: record.history.last().map_or(record.created, |entry| entry.at),
                            phase: record.state.phase.clone(),
                            waiting_for: verdict.reason.clone(),
                            verdict: Some(verdict.clone()),
                        }));
                    }
                }
            }
        }
    }
}
