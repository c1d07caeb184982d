//! Releases: asked for, read back, listed; and what outlives them.

use jiff::Timestamp;

use super::fit::fit;
use super::texts::{Key, Rollout};
use super::{ConfigMapStore, update};
use crate::store::shared::{CreateError, NewRelease, Quarantine, RolloutState, ServedRevision};
use crate::store::{ReleaseKey, ReleaseRecord, Revision, StoreError};

impl ConfigMapStore {
    /// Makes the record of a new release, from the stable revision as it is at this moment. Numbers grow by one and are
    /// never used again.
    ///
    /// # Errors
    /// [`CreateError::Running`] if one is not over; if it would be too large for a ConfigMap.
    pub async fn create_release(&self, new: &NewRelease, now: Timestamp) -> Result<ReleaseKey, CreateError> {
        let made = self.change(|texts| update::begin(texts, new, now)).await?;
        Ok(made.key()?)
    }

    /// The whole record of a release.
    ///
    /// # Errors
    /// `Unknown`, or `Damaged` with the key that makes no sense.
    pub async fn release(&self, key: &ReleaseKey) -> Result<ReleaseRecord, StoreError> {
        match self.effective().await? {
            Some(texts) => texts.release(key),
            None => Err(StoreError::Unknown(key.clone())),
        }
    }

    /// The release that is not over.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub async fn running(&self) -> Result<Option<ReleaseRecord>, StoreError> {
        let latest = self.latest().await?;
        Ok(latest.filter(|record| record.state.outcome().is_none()))
    }

    /// The newest release, over or not.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub async fn latest(&self) -> Result<Option<ReleaseRecord>, StoreError> {
        match self.effective().await? {
            Some(texts) => texts.current(),
            None => Ok(None),
        }
    }

    /// Every release that is kept, newest first. Finished ones have no judge any more, and old ones may have lost the
    /// verdicts of their entries.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub async fn releases(&self) -> Result<Vec<ReleaseRecord>, StoreError> {
        let Some(texts) = self.effective().await? else {
            return Ok(Vec::new());
        };
        Ok(texts.current()?.into_iter().chain(texts.past()).collect())
    }

    /// What is known of the rollout; `None` if there is no record.
    ///
    /// # Errors
    /// `Damaged` with the key that makes no sense.
    pub async fn rollout(&self) -> Result<Option<RolloutState>, StoreError> {
        let Some(texts) = self.effective().await? else {
            return Ok(None);
        };
        let Some(rollout) = texts.get::<Rollout>(Key::Rollout)? else {
            return Ok(None);
        };
        Ok(Some(RolloutState {
            name: texts.rollout_name().to_owned(),
            stable: update::stable(&texts, &rollout),
            quarantined: rollout.quarantined,
            kept: rollout.kept,
            updated: rollout.updated,
        }))
    }

    /// The revision that serves, as far as the record knows.
    ///
    /// # Errors
    /// As [`Self::rollout`].
    pub async fn stable(&self) -> Result<Option<Revision>, StoreError> {
        Ok(self.rollout().await?.and_then(|rollout| rollout.stable))
    }

    /// Takes note of a revision that serves without a release of Wade's; it is no longer quarantined.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn set_stable(&self, revision: &Revision, now: Timestamp) -> Result<(), StoreError> {
        let changed = self.change(|texts| {
            let mut to = texts.clone();
            update::serve(&mut to, revision, now)?;
            fit(&mut to)?;
            Ok::<_, StoreError>(to)
        });
        changed.await.map(|_| ())
    }

    /// Revisions that have served and are still kept, the latest first: what a rollback can go to.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn revisions(&self) -> Result<Vec<ServedRevision>, StoreError> {
        let Some(texts) = self.effective().await? else {
            return Ok(Vec::new());
        };
        let served = texts.revisions().into_iter().filter_map(|known| {
            Some(ServedRevision {
                revision: known.revision,
                first_served: known.first_served?,
                last_served: known.last_served?,
            })
        });
        let mut served: Vec<ServedRevision> = served.collect();
        served.sort_by_key(|served| std::cmp::Reverse(served.last_served));
        Ok(served)
    }

    /// Why this revision must not be tried again by itself; `None` if it may.
    ///
    /// # Errors
    /// As [`Self::rollout`].
    pub async fn quarantined(&self, revision: &str) -> Result<Option<Quarantine>, StoreError> {
        let all = self
            .rollout()
            .await?
            .map(|rollout| rollout.quarantined)
            .unwrap_or_default();
        Ok(all.into_iter().find(|known| known.revision == revision))
    }

    /// Lets a revision be tried again (`wade retry`); answers whether it was quarantined.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn clear_quarantine(&self, revision: &str, now: Timestamp) -> Result<bool, StoreError> {
        if self.quarantined(revision).await?.is_none() {
            return Ok(false);
        }
        self.change_rollout(now, |rollout| {
            rollout.quarantined.retain(|known| known.revision != revision);
        })
        .await?;
        Ok(true)
    }

    /// How many finished releases are kept, at least one; older ones go at once.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn set_kept_releases(&self, kept: u32, now: Timestamp) -> Result<(), StoreError> {
        let kept = kept.max(1);
        if self.rollout().await?.is_some_and(|rollout| rollout.kept == kept) {
            return Ok(());
        }
        self.change_rollout(now, |rollout| rollout.kept = kept).await
    }

    async fn change_rollout(&self, now: Timestamp, change: impl Fn(&mut Rollout)) -> Result<(), StoreError> {
        let changed = self.change(|texts| {
            let mut rollout = texts.rollout(now)?;
            change(&mut rollout);
            rollout.updated = now;
            let mut to = texts.clone();
            to.put_readable(Key::Rollout, &rollout)?;
            fit(&mut to)?;
            Ok::<_, StoreError>(to)
        });
        changed.await.map(|_| ())
    }
}
