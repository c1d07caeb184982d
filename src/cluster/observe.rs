//! Observe mode: an ordinary rolling update is judged while Kubernetes rolls, and nothing is touched.
//!
//! That is how a team starts: the same judge compares the pods of the new ReplicaSet with those of the old one for as
//! long as both are there, then watches the new ones alone, and says when it would have gone back and why. It needs
//! permission to read, no Lease and no record. What it cannot do is what a release does: nobody waits for it, so by the
//! time it knows, everybody may be on the new version already.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::Notify;

use super::find::Found;
use super::probe::probe;
use super::{Cluster, told};
use crate::apiserver::value::{annotation, count, label, name};
use crate::apiserver::view::View;
use crate::apiserver::{Kind, Selection};
use crate::controller::with_limits;
use crate::daemon::api::{Problem, ProblemKind};
use crate::judge::{Call, Judge, Verdict};
use crate::plan::{Circumstances, Found as PlanFound, Plan, lower};
use crate::platforms::kubernetes::adapter::watched;
use crate::platforms::kubernetes::reach::Reach;
use crate::platforms::kubernetes::signals::KubernetesSignals;
use crate::platforms::kubernetes::{Before, HASH, Isolation, REVISION, Release, template, workload};
use crate::signals::{Condition, Signals};
use crate::spec::MetricsEndpoint;

/// How often a rollout that has not begun is looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How long everything may take to be listed once.
const SYNC_WITHIN: Duration = Duration::from_secs(20);
/// A rollout that does not come to its end is watched this long.
const MOST: SignedDuration = SignedDuration::from_hours(1);

/// What is told while watching.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A rollout has begun: the old and the new version.
    Began {
        /// What served.
        old: String,
        /// What is rolled out.
        new: String,
    },
    /// A look.
    Look {
        /// Pods of the new version that are ready, and of the old one.
        pods: (u32, u32),
        /// What is known.
        verdict: Box<Verdict>,
        /// Why nothing could be measured, if so.
        blind: Option<String>,
    },
    /// From here on a release would have been going back.
    WouldHave(Box<Verdict>),
    /// Every pod is of the new version.
    RolledOut,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// When a release would have gone back, and why.
    pub would_have: Option<(Timestamp, Box<Verdict>)>,
    /// What was known at the end.
    pub last: Option<Box<Verdict>>,
}

/// The two sides of a rolling update.
struct Rolling {
    release: Release,
    old: String,
    new: String,
}

impl Cluster {
    /// Waits for a rolling update of `deployment` to begin (at most `wait`), then judges it to its end and a little
    /// longer.
    ///
    /// # Errors
    /// The cluster cannot be reached or read, or no rolling update begins in time.
    pub async fn observe(
        &self,
        deployment: &str,
        wait: Duration,
        mut tell: impl FnMut(Timestamp, Told),
    ) -> Result<Observed, Problem> {
        let plan_and_probe = self.observer_plan(deployment).await?;
        let (plan, metrics) = plan_and_probe;
        let rolling = tokio::time::timeout(wait, self.rolling(deployment)).await.map_err(|_| {
            Problem::new(
                ProblemKind::Conflict,
                format!(
                    "no rolling update of deployment {deployment} has begun within {} s; begin one beside this command",
                    wait.as_secs()
                ),
            )
        })??;
        let mut release = rolling.release;
        release.metrics = metrics;
        tell(
            self.clock.now(),
            Told::Began {
                old: rolling.old,
                new: rolling.new,
            },
        );
        let wake = Arc::new(Notify::new());
        let view = Arc::new(View::start(&self.api, &watched(&release, None), wake));
        view.synced(SYNC_WITHIN).await.map_err(|error| told(&error))?;
        let reach = Reach::open(&self.api)
            .await
            .map_err(|error| Problem::new(ProblemKind::Unavailable, format!("no listener on loopback: {error}")))?;
        let signals = KubernetesSignals::new(
            Arc::clone(&view),
            release.clone(),
            reach,
            &plan.measure,
            &plan.history,
            &self.client,
            &self.clock,
        );
        Ok(self.watch_rolling(&plan, &release, &view, signals, tell).await)
    }

    async fn watch_rolling(
        &self,
        plan: &Plan,
        release: &Release,
        view: &View,
        mut signals: KubernetesSignals,
        mut tell: impl FnMut(Timestamp, Told),
    ) -> Observed {
        let began = self.clock.now();
        let bake = plan.stages[plan.bake()].max.signed();
        let mut judge = Judge::new(plan.judge.clone(), None);
        judge.start_stage(0, 0.0, 1.0);
        let mut rolled_out: Option<Timestamp> = None;
        let mut seen = Observed {
            would_have: None,
            last: None,
        };
        loop {
            tokio::time::sleep(plan.look.0).await;
            let now = self.clock.now();
            let t = now.duration_since(began).as_secs_f64();
            let sample = signals.take(now);
            let verdict = Box::new(judge.look_doubting(t, &with_limits(&sample.observation, plan), sample.doubt));
            if verdict.call == Call::Fail && seen.would_have.is_none() {
                seen.would_have = Some((now, verdict.clone()));
                tell(now, Told::WouldHave(verdict.clone()));
            }
            let blind = match sample.condition {
                Condition::Measured => None,
                Condition::SourceDown { reason } | Condition::Unmeasured { reason } => Some(reason),
                Condition::CanarySilent => Some("the new pods show no requests yet".to_owned()),
                Condition::BothSilent => Some("no requests on either version".to_owned()),
            };
            let ready = |set: &str| {
                view.get(Kind::ReplicaSet, set)
                    .map_or(0, |set| count(&set, "/status/readyReplicas"))
            };
            seen.last = Some(verdict.clone());
            tell(
                now,
                Told::Look {
                    pods: (ready(&release.canary_set()), ready(&release.stable_set())),
                    verdict,
                    blind,
                },
            );
            let done = view
                .get(Kind::Deployment, &release.deployment)
                .zip(view.get(Kind::ReplicaSet, &release.canary_set()))
                .is_some_and(|(deployment, set)| {
                    let stable = view.get(Kind::ReplicaSet, &release.stable_set());
                    workload::is_adopted(&deployment, &set, stable.as_deref())
                });
            match rolled_out {
                None if done => {
                    rolled_out = Some(now);
                    judge.start_bake(t);
                    tell(now, Told::RolledOut);
                }
                Some(since) if now.duration_since(since) >= bake => return seen,
                _ if now.duration_since(began) >= MOST => return seen,
                _ => {}
            }
        }
    }

    /// What is judged, and where the pods show it.
    async fn observer_plan(
        &self,
        deployment: &str,
    ) -> Result<(Plan, Option<crate::platforms::kubernetes::MetricsPort>), Problem> {
        let found = Found::read(&self.api, deployment)
            .await
            .map_err(|error| told(&error))?
            .ok_or_else(|| self.no_such(deployment))?;
        let (rollout, resolved) = self.policy(deployment).await?;
        let reach = Reach::open(&self.api)
            .await
            .map_err(|error| Problem::new(ProblemKind::Unavailable, format!("no listener on loopback: {error}")))?;
        let seen = probe(&found.stable_pods(), &reach, &self.client, &self.clock).await;
        let around = Circumstances {
            found: Some(PlanFound {
                takes_requests: true,
                by_instances: true,
                instances: workload::replicas(&found.deployment),
                metrics: seen.metrics.as_ref().map(|metrics| MetricsEndpoint {
                    path: metrics.path.clone(),
                }),
            }),
            ..Circumstances::default()
        };
        let plan = lower(
            deployment,
            &rollout.spec,
            &resolved.strategy,
            &resolved.analysis,
            &resolved.limits,
            &around,
        );
        Ok((plan, seen.metrics))
    }

    /// Waits until two ReplicaSets of the Deployment have pods.
    async fn rolling(&self, deployment: &str) -> Result<Rolling, Problem> {
        loop {
            let object = self
                .api
                .get(Kind::Deployment, deployment)
                .await
                .map_err(|error| told(&error))?
                .ok_or_else(|| self.no_such(deployment))?;
            let sets = self
                .api
                .list(Kind::ReplicaSet, &Selection::default())
                .await
                .map_err(|error| told(&error))?;
            if let Some(rolling) = sides(&object, &sets) {
                return Ok(rolling);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The newest ReplicaSet and the one with the most pods beside it.
fn sides(deployment: &Value, sets: &[Value]) -> Option<Rolling> {
    let own: Vec<&Value> = sets
        .iter()
        .filter(|set| crate::apiserver::value::is_controlled_by(set, deployment))
        .collect();
    let newest = own.iter().find(|set| {
        annotation(set, REVISION).is_some()
            && annotation(set, REVISION) == annotation(deployment, REVISION)
            && template::same(&set["spec"]["template"], &deployment["spec"]["template"])
    })?;
    let old = own
        .iter()
        .filter(|set| name(set) != name(newest) && count(set, "/spec/replicas") > 0)
        .max_by_key(|set| count(set, "/spec/replicas"))?;
    let hash = |set: &Value| label(set, HASH).unwrap_or_default().to_owned();
    Some(Rolling {
        release: Release {
            deployment: name(deployment).to_owned(),
            uid: crate::apiserver::value::uid(deployment).to_owned(),
            number: 0,
            template: deployment["spec"]["template"].clone(),
            stable: hash(old),
            canary: hash(newest),
            takes_over: false,
            isolation: Isolation::Pin,
            services: Vec::new(),
            routes: Vec::new(),
            before: Before::default(),
            scaler: None,
            budgets: Vec::new(),
            metrics: None,
            port: None,
            template_owner: None,
            rolling: false,
            digests: Default::default(),
            manifest: None,
        },
        old: template::version_of(&old["spec"]["template"], None),
        new: template::version_of(&newest["spec"]["template"], None),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rolling_update_has_two_sides_and_a_quiet_deployment_none() {
        let deployment = json!({
            "metadata": { "name": "app", "uid": "u", "annotations": { REVISION: "2" } },
            "spec": { "template": { "metadata": { "labels": { "app": "app" } },
                "spec": { "containers": [{ "name": "app", "image": "app:1.1" }] } } },
        });
        let set = |hash: &str, image: &str, revision: &str, replicas: u32| {
            json!({
                "metadata": { "name": format!("app-{hash}"), "labels": { HASH: hash }, "annotations": { REVISION: revision },
                    "ownerReferences": [{ "kind": "Deployment", "name": "app", "uid": "u", "controller": true }] },
                "spec": { "replicas": replicas, "template": { "metadata": { "labels": { "app": "app", HASH: hash } },
                    "spec": { "containers": [{ "name": "app", "image": image }] } } },
            })
        };
        let (old, new) = (set("a", "app:1.0", "1", 3), set("b", "app:1.1", "2", 1));
        let rolling = sides(&deployment, &[old, new.clone()]).expect("both have pods");
        assert_eq!(
            (rolling.release.stable.as_str(), rolling.release.canary.as_str()),
            ("a", "b")
        );
        assert_eq!((rolling.old.as_str(), rolling.new.as_str()), ("1.0", "1.1"));
        assert!(sides(&deployment, &[set("a", "app:1.0", "1", 0), new]).is_none());
    }
}
