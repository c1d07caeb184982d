//! Which of several daemons begins releases: one Lease, and a standby whose watches are warm.
//!
//! Leadership decides only who *begins*. A release that runs has a Lease of its own with an epoch that fences
//! (`store::lease`), so nothing rests on two leaders never overlapping: at worst a release is asked for twice, and the
//! second asker finds the first one's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::apiserver::value::text;
use crate::apiserver::view::View;
use crate::apiserver::{ApiError, ApiServer, Kind, Selection};
use crate::clock::Clock;
use crate::store::lease::{Claim, Held, LEADER, Lease};

/// How often a standby looks by itself whether the leader has fallen silent; news of its Lease wake it at once.
const LOOK: Duration = Duration::from_secs(2);

/// The Lease of leadership, watched.
pub struct Leadership {
    lease: Lease,
    view: View,
    wake: Arc<Notify>,
    identity: String,
}

impl Leadership {
    /// Begins to watch the Lease in `api`'s namespace.
    pub fn watch(api: &ApiServer, identity: &str, clock: Arc<dyn Clock>) -> Self {
        let wake = Arc::new(Notify::new());
        let named = Selection::named(&crate::store::configmap::name(LEADER));
        Self {
            lease: Lease::new(api, LEADER, clock),
            view: View::start(api, &[(Kind::Lease, named)], Arc::clone(&wake)),
            wake,
            identity: identity.to_owned(),
        }
    }

    /// Waits until the Lease is ours. `trouble` is told why it cannot be asked for.
    pub async fn acquire(&self, trouble: impl Fn(&ApiError)) -> Held {
        loop {
            let there = self.view.get(Kind::Lease, &crate::store::configmap::name(LEADER));
            // A living leader's Lease changes every few seconds: only silence is worth a request.
            let renewed = there.as_ref().map(|lease| text(lease, "/spec/renewTime").to_owned());
            let held = there
                .as_ref()
                .is_some_and(|lease| !text(lease, "/spec/holderIdentity").is_empty());
            if !held || self.is_silent().await {
                match self.lease.acquire(&self.identity, 0).await {
                    Ok(Claim::Held(held)) => return held,
                    Ok(Claim::HeldBy(_)) => {}
                    Err(error) => trouble(&error),
                }
            }
            let news = async {
                loop {
                    self.wake.notified().await;
                    let now = self.view.get(Kind::Lease, &crate::store::configmap::name(LEADER));
                    // Its renewals are no news.
                    if now
                        .as_ref()
                        .is_none_or(|lease| text(lease, "/spec/holderIdentity").is_empty())
                        || now.map(|lease| text(&lease, "/spec/renewTime").to_owned()) == renewed
                    {
                        return;
                    }
                }
            };
            // A timeout is the usual end of the wait.
            let _ = tokio::time::timeout(LOOK, news).await;
        }
    }

    /// Whether the leader seems to be dead by what has been watched; asks the server only then.
    async fn is_silent(&self) -> bool {
        let there = self.view.get(Kind::Lease, &crate::store::configmap::name(LEADER));
        match there {
            Some(lease) => self.lease.looks_dead(&lease),
            None => true,
        }
    }
}
