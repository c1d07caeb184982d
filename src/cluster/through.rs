//! Asking a daemon that looks after the cluster, where there is one: a Release object is made, and the record followed.
//!
//! A daemon is there when its Lease is fresh and a Rollout is about the Deployment. Everything else is done by this
//! process itself, as if there were none; so a pipeline needs no switch, and a daemon that dies before it has begun costs
//! a few seconds.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Cluster, told};
use crate::apiserver::value::{list, name, number, text, time, uid};
use crate::apiserver::{ApiError, Fault, Kind, Selection};
use crate::clock::stopwatch;
use crate::crd::ReleaseSpec;
use crate::daemon::api::{Problem, ProblemKind, ReleaseRequest, Started};
use crate::store::lease::{DURATION, LEADER};
use crate::store::{ReleaseKey, configmap};

/// How often it is looked what came of the Release object.
const LOOK: Duration = Duration::from_millis(300);
/// A daemon that has not answered for this long is looked at again.
const DOUBT_AFTER: Duration = Duration::from_secs(10);

impl Cluster {
    /// Asks the daemon for a release, if there is one that looks after this Deployment; `None` if there is none.
    ///
    /// # Errors
    /// The daemon refuses it, or what it says cannot be read.
    pub(super) async fn release_through(
        &self,
        deployment: &str,
        request: &ReleaseRequest,
    ) -> Result<Option<Started>, Problem> {
        let Some(rollout) = self.looked_after(deployment).await else {
            return Ok(None);
        };
        let by = self.caller().await;
        let spec = ReleaseSpec::from_parts(&rollout, &by.user, request, &self.options.ask);
        let object = json!({
            "apiVersion": Kind::Release.api_version(), "kind": Kind::Release.name(),
            "metadata": { "generateName": format!("{deployment}-") }, "spec": spec,
        });
        let asked = match self.api.create(Kind::Release, &object).await {
            Ok(asked) => asked,
            // The definition has just been taken away, so there is no daemon any more.
            Err(ApiError {
                fault: Fault::NotFound, ..
            }) => return Ok(None),
            Err(error) => return Err(told(&error)),
        };
        let mut doubt = stopwatch();
        loop {
            let there = self.api.get(Kind::Release, name(&asked)).await;
            let there = there.map_err(|error| told(&error))?.ok_or_else(|| {
                let message = format!("release {} was deleted before it began", name(&asked));
                Problem::new(ProblemKind::Conflict, message)
            })?;
            if let Some(answer) = answered(deployment, &there) {
                return answer.map(Some);
            }
            if doubt.elapsed() > DOUBT_AFTER {
                if !self.daemon_lives().await {
                    // What nobody has taken up is not left for a daemon that comes back tomorrow.
                    let gone = self.api.delete(Kind::Release, name(&asked), Some(uid(&asked))).await;
                    gone.map_err(|error| told(&error))?;
                    return Ok(None);
                }
                doubt = stopwatch();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The Rollout about this Deployment that a living daemon looks after. What may not be read is not there.
    async fn looked_after(&self, deployment: &str) -> Option<String> {
        let options = &self.options;
        // What the command line says of the policy itself is only known here; and the daemon does not ask itself.
        let own = options.rollout.is_some()
            || options.strategy.is_some()
            || options.actor.is_some()
            || options.ask.manifest.is_some()
            // What waits in the Deployment the daemon finds without being asked.
            || options.ask.held
            || !options.notify.is_empty();
        if own {
            return None;
        }
        let rollouts = self.api.list(Kind::Rollout, &Selection::default()).await.ok()?;
        let rollout = rollouts
            .iter()
            .find(|rollout| text(rollout, "/spec/workload/deployment") == deployment)?;
        self.daemon_lives().await.then(|| name(rollout).to_owned())
    }

    /// Whether the Lease of the daemon's leader is fresh.
    async fn daemon_lives(&self) -> bool {
        let lease = self
            .api
            .in_namespace(self.home())
            .get(Kind::Lease, &configmap::name(LEADER))
            .await;
        let Ok(Some(lease)) = lease else { return false };
        let fresh =
            time(&lease, "/spec/renewTime").is_some_and(|renewed| self.clock.now().duration_since(renewed) < DURATION);
        fresh && !text(&lease, "/spec/holderIdentity").is_empty()
    }
}

/// What the daemon says to a Release object, once it has said something.
fn answered(deployment: &str, object: &Value) -> Option<Result<Started, Problem>> {
    let status = object.get("status")?;
    let words = |path: &str| {
        Some(text(status, path))
            .filter(|words| !words.is_empty())
            .map(str::to_owned)
    };
    let message = words("/message").unwrap_or_default();
    match text(status, "/phase") {
        "" => None,
        "refused" => {
            let kind = serde_json::from_value(status["problem"].clone()).unwrap_or(ProblemKind::Conflict);
            Some(Err(Problem::new(kind, message)))
        }
        phase => {
            let release = number(status, "/number").map(|number| ReleaseKey {
                rollout: deployment.to_owned(),
                number,
            });
            if release.is_none() && phase != "unchanged" {
                return None;
            }
            let mut found: Vec<String> = list(status, "/found")
                .iter()
                .filter_map(|line| line.as_str().map(str::to_owned))
                .collect();
            if release.is_none() {
                found = vec![message];
            }
            Some(Ok(Started {
                release,
                found,
                plan: words("/plan").unwrap_or_default(),
                stable: words("/stable"),
                canary: words("/canary").unwrap_or_default(),
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_is_what_the_caller_is_told() {
        let of = |status: Value| answered("app", &json!({ "status": status }));
        assert!(answered("app", &json!({})).is_none(), "nothing has been said");
        assert!(of(json!({ "phase": "starting" })).is_none(), "it has no number yet");
        let refused = of(json!({ "phase": "refused", "problem": "invalid", "message": "no" }));
        let refused = refused.expect("said").expect_err("refused");
        assert_eq!((refused.kind, refused.message.as_str()), (ProblemKind::Invalid, "no"));
        let begun = of(json!({ "phase": "starting", "number": 7, "canary": "2.0", "found": ["a", "b"], "plan": "p" }));
        let begun = begun.expect("said").expect("begun");
        assert_eq!(begun.release.map(|key| key.number), Some(7));
        assert_eq!((begun.found.len(), begun.plan.as_str()), (2, "p"));
        let unchanged = of(json!({ "phase": "unchanged", "canary": "1.0", "message": "1.0 serves already" }));
        assert_eq!(unchanged.expect("said").expect("no fault").release, None);
    }
}
