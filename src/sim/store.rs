//! The simulated record: fenced, sometimes down, and sometimes silent about a write that it has made.

use async_trait::async_trait;

use super::faults::Fault;
use super::ground::{Ground, Shared, give_way, on};
use super::sabotage::Sabotage;
use super::seen::{Call, Seen};
use crate::engine::{Command, CommandKind, Event, Proof};
use crate::store::{ReleaseKey, ReleaseRecord, Store, StoreError, Update};

/// How often a fault strikes that strikes now and then.
const NOW_AND_THEN: f64 = 0.3;

/// The record of the simulated release.
#[derive(Clone, Debug)]
pub(super) struct SimStore {
    shared: Shared,
    /// Whose calls these are, for the list of what was seen.
    epoch: u64,
}

impl SimStore {
    /// The record as the controller with this epoch reaches it.
    pub(super) fn new(shared: Shared, epoch: u64) -> Self {
        Self { shared, epoch }
    }

    fn down(&self, ground: &mut Ground, call: Call, what: &'static str) -> Result<(), StoreError> {
        let flaky = ground.active(Fault::StoreFlaky) && ground.chance.happens(0.5);
        let full = ground.active(Fault::StoreFull) && call == Call::Record;
        if full || flaky || ground.active(Fault::StoreDown) {
            ground.failed(self.epoch, call);
            return Err(StoreError::Unavailable {
                what,
                why: if full { "the disk is full" } else { "it does not answer" }.to_owned(),
            });
        }
        Ok(())
    }
}

/// Writes whole or not at all; the same again changes nothing. `who` writes, and says it is `epoch`.
fn write(ground: &mut Ground, who: u64, epoch: u64, update: &Update) -> Result<(), StoreError> {
    let key = ground.record.key.clone();
    if epoch < ground.store_epoch && !ground.sabotaged(Sabotage::NoFence) {
        return Err(StoreError::Fenced {
            key,
            ours: epoch,
            theirs: ground.store_epoch,
        });
    }
    let damaged = |why: String| StoreError::Damaged {
        what: key.to_string(),
        why,
    };
    let known = ground.record.history.len() as u64;
    let mut fresh = Vec::new();
    for entry in &update.entries {
        match entry.number {
            number if number <= known => {
                let index = usize::try_from(number - 1).expect("fewer than the history has");
                if ground.record.history[index] != *entry {
                    return Err(damaged(format!(
                        "entry {number} is there already and says something else"
                    )));
                }
            }
            number if number == known + fresh.len() as u64 + 1 => fresh.push(entry.clone()),
            number => return Err(damaged(format!("entry {number} would leave a gap"))),
        }
    }
    if !update.entries.is_empty() && fresh.is_empty() {
        return Ok(());
    }
    let mut update = update.clone();
    tamper(ground, &mut update, &mut fresh);
    ground.store_epoch = ground.store_epoch.max(epoch);
    let record = &mut ground.record;
    record.state = update.state.clone();
    record.history.extend(fresh);
    record.judge = update.judge.clone().or(record.judge.take());
    record.verdict = update.verdict.clone().or(record.verdict.take());
    record.course = update.course.clone().unwrap_or_else(|| record.course.clone());
    ground.note(Seen::Recorded {
        epoch: who,
        update: Box::new(update),
    });
    Ok(())
}

fn tamper(ground: &Ground, update: &mut Update, fresh: &mut [crate::engine::Entry]) {
    for entry in update.entries.iter_mut().chain(fresh) {
        match (ground.sabotage, &mut entry.event) {
            (Some(Sabotage::ProofForged), Event::StageEnded { proof }) if *proof == Proof::Unproven => {
                *proof = Proof::Passed;
            }
            (Some(Sabotage::ReasonsDropped), _) => entry.reason = " ".to_owned(),
            _ => {}
        }
    }
    if ground.sabotaged(Sabotage::StateTampered) {
        update.state.restarts_before_bake += 1;
    }
}

#[async_trait]
impl Store for SimStore {
    async fn record(&self, _: &ReleaseKey, epoch: u64, update: &Update) -> Result<(), StoreError> {
        give_way().await;
        let result = {
            let mut ground = on(&self.shared);
            if ground.sabotaged(Sabotage::NothingWritten) {
                Ok(())
            } else {
                self.down(&mut ground, Call::Record, "written").and_then(|()| {
                    write(&mut ground, self.epoch, epoch, update)?;
                    if ground.active(Fault::StoreRepliesLost) && ground.chance.happens(NOW_AND_THEN) {
                        ground.failed(self.epoch, Call::Record);
                        return Err(StoreError::Unavailable {
                            what: "written",
                            why: "no answer within 2s".to_owned(),
                        });
                    }
                    Ok(())
                })
            }
        };
        give_way().await;
        result
    }

    async fn commands(&self, _: &ReleaseKey, handled: u64) -> Result<Vec<Command>, StoreError> {
        give_way().await;
        let mut ground = on(&self.shared);
        self.down(&mut ground, Call::Commands, "read")?;
        let hidden = ground.sabotaged(Sabotage::AbortHidden);
        let shown = |command: &&Command| command.id > handled && !(hidden && command.kind == CommandKind::Abort);
        Ok(ground.commands.iter().filter(shown).cloned().collect())
    }

    async fn load(&self, _: &ReleaseKey) -> Result<ReleaseRecord, StoreError> {
        give_way().await;
        let mut ground = on(&self.shared);
        self.down(&mut ground, Call::Load, "read")?;
        // Through text and back, as every real store does.
        let damaged = |error: serde_json::Error| StoreError::Damaged {
            what: "release".to_owned(),
            why: error.to_string(),
        };
        let text = serde_json::to_string(&ground.record).map_err(damaged)?;
        let mut record: ReleaseRecord = serde_json::from_str(&text).map_err(damaged)?;
        if ground.sabotaged(Sabotage::RecordFaded) {
            record.state.had_users = false;
            record.history.pop();
        }
        let whole = record == ground.record;
        ground.note(Seen::Loaded {
            epoch: self.epoch,
            state: Box::new(record.state.clone()),
            whole,
        });
        Ok(record)
    }
}
