//! `finish: rolling`: the end of a release where there is no room for both revisions at full size.
//!
//! The canary is handed to the Deployment at the size that the last stage has judged, and the Deployment's own rolling
//! update does the rest, with as many pods above its size as there are canary pods and none below it. That is the shift
//! to 100 %: it is confirmed when the last old pod has left, the bake follows as always, and nothing is left to adopt.
//!
//! What it costs: there is no warm stable to go back to. On the way back the Deployment gets the old template again and
//! rolls the other way, pod by pod.

use serde_json::Value;

use super::adapter::KubernetesPlatform;
use super::look::Look;
use super::workload;
use crate::apiserver::Kind;
use crate::platforms::PlatformError;

impl KubernetesPlatform {
    /// Hands the canary over as it is, then lets the Deployment roll.
    pub(super) async fn roll(&mut self, look: &Look<'_>) -> Result<(), PlatformError> {
        let Some(set) = &look.set else {
            return Err(PlatformError::Refused("the canary's replicaset is gone".to_owned()));
        };
        let release = std::sync::Arc::clone(&self.release);
        if !look.is_given() {
            // First: a paused Deployment spreads whatever its surge leaves room for over both sets.
            let extra = crate::apiserver::value::count(set, "/spec/replicas");
            self.ensure(Kind::Deployment, &release.deployment, |object| {
                workload::surge(object, extra)
            })
            .await?;
            return self.adopt(look).await;
        }
        self.ensure(Kind::Deployment, &release.deployment, |object| {
            workload::let_roll(object, &release)
        })
        .await?;
        Ok(())
    }

    /// Lets the Deployment roll back. True while it has more to do than the routes have.
    pub(super) async fn roll_back(&mut self, look: &Look<'_>) -> Result<bool, PlatformError> {
        if !look.was_given() {
            return Ok(false);
        }
        let Some(stable) = &look.stable else {
            return Err(PlatformError::Refused(
                "stable's replicaset is gone, so the Deployment cannot roll back to it; `kubectl rollout history` says what is left"
                    .to_owned(),
            ));
        };
        let template: &Value = &stable["spec"]["template"];
        let release = std::sync::Arc::clone(&self.release);
        self.ensure(Kind::Deployment, &release.deployment, |object| {
            workload::rolled_back(object, template, &release)
        })
        .await?;
        Ok(true)
    }
}
