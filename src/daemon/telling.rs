//! Who is told of a release while it is driven: the log, the numbers, and whom the rollout names.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::Daemon;
use crate::controller::Notice;
use crate::notify::{self, Message, NoSecrets, Patience, Told};
use crate::store::ReleaseRecord;
use crate::telemetry;

impl Daemon {
    /// Counts the release, beside it: as long as this task drives it, and to the end of what it has to send if it is over.
    pub(super) fn observe(&self, record: &ReleaseRecord) -> AbortOnDropHandle<()> {
        let about = telemetry::About {
            namespace: None,
            record: record.clone(),
        };
        let following = telemetry::follow(Arc::clone(&self.telemetry), about, self.notices.subscribe(), None);
        AbortOnDropHandle::new(tokio::spawn(following))
    }

    /// Tells whom the rollout names, beside the release.
    pub(super) fn tell(&self, record: &ReleaseRecord) -> Option<JoinHandle<()>> {
        if record.plan.notify.is_empty() {
            return None;
        }
        let told = Told {
            wanted: record.plan.notify.clone(),
            secrets: Arc::new(NoSecrets),
            client: self.client.clone(),
            patience: Patience::default(),
        };
        let (key, telemetry) = (record.key.clone(), Arc::clone(&self.telemetry));
        let say = move |sentence: String| {
            telemetry.untold();
            tracing::warn!(rollout = key.rollout, release = key.number, "{sentence}");
        };
        let following = notify::follow(
            Message::about(record, None),
            self.notices.subscribe(),
            told,
            say.clone(),
        );
        Some(tokio::spawn(async move { following.await.into_iter().for_each(say) }))
    }
}

/// Writes a notice into the log.
pub(super) fn log(notice: &Notice) {
    match notice {
        Notice::Entry { key, entry, phase } => {
            tracing::info!(
                rollout = key.rollout,
                release = key.number,
                number = entry.number,
                phase = phase.label(),
                reason = entry.reason,
                "release"
            );
        }
        Notice::Trouble { key, message, .. } => {
            tracing::warn!(rollout = key.rollout, release = key.number, "{message}");
        }
        Notice::Look { key, waiting_for, .. } => tracing::debug!(
            rollout = key.rollout,
            release = key.number,
            reason = waiting_for,
            "look"
        ),
    }
}
