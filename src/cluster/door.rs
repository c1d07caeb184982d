//! What the command line asks of a cluster, with the same words as of a daemon.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;

use super::admit::{Admission, Ask, admit, earlier_template, new_template};
use super::check::{Check, outlook};
use super::find::Found;
use super::follower::Follower;
use super::order::Order;
use super::probe::{Probe, probe};
use super::rbac::{self, Lacking};
use super::{Cluster, told};
use crate::apiserver::value::name;
use crate::apiserver::{Kind, Selection};
use crate::clock::stopwatch;
use crate::daemon::api::{
    Acknowledged, CommandRequest, Problem, ProblemKind, ReleaseRequest, ReleaseSummary, ReleaseTarget, RolloutView,
    Started,
};
use crate::daemon::client::{Door, Notices};
use crate::daemon::releases::answers;
use crate::daemon::views::summary;
use crate::engine::CommandKind;
use crate::plan::{Lane, render};
use crate::platforms::kubernetes::reach::Reach;
use crate::platforms::kubernetes::template::{self, ConfigKind};
use crate::spec::OnNewRevision;
use crate::store::configmap::ConfigMapStore;
use crate::store::shared::NewRelease;
use crate::store::{ReleaseKey, ReleaseRecord, Store};

/// How long an abort may go unacknowledged before this process takes over (DESIGN.md section 3).
const ABORT_WITHIN: Duration = Duration::from_secs(2);
/// How long a command's caller waits for what came of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// How often the record is read while waiting for somebody else's process.
const LOOK: Duration = Duration::from_millis(500);

/// Everything that was worked out for one request.
pub(crate) struct Worked {
    pub(crate) found: Found,
    pub(crate) probe: Probe,
    pub(crate) admission: Admission,
    /// What it has to wait for elsewhere, if it has to.
    pub(crate) waits: Option<String>,
}

impl Cluster {
    /// Looks at everything and works the release out; nothing is touched.
    pub(crate) async fn work_out(
        &self,
        deployment: &str,
        request: &ReleaseRequest,
        store: &ConfigMapStore,
    ) -> Result<Worked, Problem> {
        let found = Found::read(&self.api, deployment)
            .await
            .map_err(|error| told(&error))?
            .ok_or_else(|| self.no_such(deployment))?;
        let (rollout, resolved) = self.policy(deployment).await?;
        let (ask, lane) = self.ask(&found, request, store).await?;
        found.stable().map_err(|why| Problem::new(ProblemKind::Conflict, why))?;
        let faults = |faults: Vec<String>| Problem::new(ProblemKind::Invalid, faults.join("\n"));
        let template = new_template(&self.api, &found, &ask).await.map_err(faults)?;
        let reach = Reach::open(&self.api)
            .await
            .map_err(|error| Problem::new(ProblemKind::Unavailable, format!("no listener on loopback: {error}")))?;
        let probe = probe(&found.stable_pods(), &reach, &self.client, &self.clock).await;
        let mut admission = admit(
            &rollout,
            &resolved,
            &found,
            &ask,
            &template,
            &probe,
            lane,
            request.require_proof,
        )
        .map_err(|faults| Problem::new(ProblemKind::Conflict, faults.join("\n")))?;
        admission.report.refusals.extend(self.missing_config(&template).await);
        admission.report.refusals.extend(self.refused(&admission.plan));
        admission
            .report
            .refusals
            .extend(self.unguarded_hooks(&admission.plan).await);
        let mut waits = None;
        // The way back and an emergency wait for nobody; and where nothing is to be released there is nothing to compare.
        if admission.plan.lane == Lane::Normal && !(self.options.any && self.options.ask.is_empty()) {
            match self.order(&rollout, deployment, &template).await? {
                Order::Holds(digests) => admission.release.digests = digests,
                Order::UnderWay(what) => waits = Some(what),
                Order::Stands(why) => admission.report.refusals.push(why),
            }
        }
        Ok(Worked {
            found,
            probe,
            admission,
            waits,
        })
    }

    /// ConfigMaps that the new pods could not start without. Secrets are not read: the Role does not ask for that, and a
    /// pod that misses one says so before it meets a user.
    async fn missing_config(&self, template: &Value) -> Vec<String> {
        let mut refs = template::config_refs(template);
        refs.retain(|wanted| wanted.kind == ConfigKind::ConfigMap);
        let mut there = Vec::new();
        let names: BTreeSet<String> = refs.iter().map(|wanted| wanted.name.clone()).collect();
        for name in names {
            match self.api.get(Kind::ConfigMap, &name).await {
                Ok(object) => there.extend(object),
                // What may not be read is not called missing.
                Err(_) => refs.retain(|wanted| wanted.name != name),
            }
        }
        template::missing(&refs, &there, &[])
    }

    pub(super) fn no_such(&self, deployment: &str) -> Problem {
        Problem::new(
            ProblemKind::NotFound,
            format!(
                "there is no deployment {deployment} in namespace {}; create it with `kubectl apply` (there is nothing to compare a first version with), or name another namespace with -n",
                self.namespace()
            ),
        )
    }

    /// What is to be released, and in which lane.
    async fn ask(
        &self,
        found: &Found,
        request: &ReleaseRequest,
        store: &ConfigMapStore,
    ) -> Result<(Ask, Lane), Problem> {
        let name = name(&found.deployment);
        let of_template = |template: Value| Ask {
            template: Some(template),
            ..Ask::default()
        };
        let lane = if request.emergency {
            Lane::Emergency {
                reason: request.reason.clone().unwrap_or_default(),
            }
        } else {
            Lane::Normal
        };
        match &request.target {
            ReleaseTarget::File { .. } if self.options.ask.is_empty() && self.options.any => {
                Ok((of_template(present(found)), lane))
            }
            ReleaseTarget::File { .. } if self.options.ask.is_empty() => Err(Problem::new(
                ProblemKind::Invalid,
                format!(
                    "say what to release: `wade deploy deployment/{name} --image IMAGE:TAG` (or --set-image, --env, --from-file, --held)"
                ),
            )),
            ReleaseTarget::File { .. } => Ok((self.options.ask.clone(), self.lane_of_held(found, store, lane).await?)),
            ReleaseTarget::Rollback { number: Some(number) } => {
                let key = ReleaseKey {
                    rollout: name.to_owned(),
                    number: *number,
                };
                let kept = store.release(&key).await.ok();
                kept.map(|record| record.canary.workload["template"].clone())
                    .filter(|template| !template.is_null())
                    .map(|template| (of_template(template), Lane::Rollback))
                    .ok_or_else(|| {
                        Problem::new(
                            ProblemKind::NotFound,
                            format!("release {number} of {name} is not kept any more; `wade history deployment/{name}` lists those that are"),
                        )
                    })
            }
            ReleaseTarget::Rollback { number: None } => earlier_template(found)
                .map(|template| (of_template(template), Lane::Rollback))
                .ok_or_else(|| {
                    Problem::new(
                        ProblemKind::NotFound,
                        format!(
                            "deployment {name} keeps no earlier revision (`kubectl rollout history deployment/{name}`)"
                        ),
                    )
                }),
            ReleaseTarget::Retry => {
                let last = store.latest().await.map_err(Problem::unavailable)?;
                last.filter(|record| record.state.outcome().is_some_and(|outcome| !outcome.is_forward()))
                    .map(|record| (of_template(record.canary.workload["template"].clone()), lane))
                    .ok_or_else(|| {
                        Problem::new(
                            ProblemKind::Conflict,
                            format!("the last release of {name} did not fail; there is nothing to try again"),
                        )
                    })
            }
        }
    }

    /// Which revision is asked for, whatever else is going on.
    async fn identity_of(
        &self,
        deployment: &str,
        request: &ReleaseRequest,
        store: &ConfigMapStore,
    ) -> Result<(String, String), Problem> {
        let found = Found::read(&self.api, deployment)
            .await
            .map_err(|error| told(&error))?
            .ok_or_else(|| self.no_such(deployment))?;
        let (ask, _) = self.ask(&found, request, store).await?;
        let template = new_template(&self.api, &found, &ask)
            .await
            .map_err(|faults| Problem::new(ProblemKind::Invalid, faults.join("\n")))?;
        Ok((template::hash(&template), template::version_of(&template, None)))
    }

    fn started(&self, worked: &Worked, lacking: Lacking) -> Started {
        let admission = &worked.admission;
        let check = Check::new(&worked.found, &worked.probe, admission, lacking, false);
        Started {
            release: None,
            found: check.brief(),
            plan: check.plan,
            stable: Some(admission.stable.version.clone()),
            canary: admission.canary.version.clone(),
        }
    }

    /// One try at a new release; `None` if another one came in between, so that everything has to be looked at anew.
    async fn try_release(
        self: &Arc<Self>,
        name: &str,
        request: &ReleaseRequest,
        store: &ConfigMapStore,
        begun: Instant,
    ) -> Result<Option<Started>, Problem> {
        let before = latest_number(store).await?;
        // What a dead run left behind hides what is there: it is settled first, and then everything is looked at anew.
        if let Some(record) = running(store).await? {
            let (ask_id, version) = self.identity_of(name, request, store).await?;
            if let Some(key) = Box::pin(self.make_way(store, request, name, (&ask_id, &version))).await? {
                return Ok(Some(Started {
                    release: Some(key.clone()),
                    found: vec![format!(
                        "{key} was left unfinished by a run that is gone; going on with it"
                    )],
                    plan: render(&record.plan, None),
                    stable: record.stable.as_ref().map(|stable| stable.version.clone()),
                    canary: record.canary.version.clone(),
                }));
            }
        }
        let mut worked = Box::pin(self.work_out(name, request, store)).await?;
        // A way back is asked for without a file: those who were told of the way on are told of it too.
        if !matches!(request.target, ReleaseTarget::File { .. }) && self.options.rollout.is_none() {
            let last = store.latest().await.map_err(Problem::unavailable)?;
            worked.admission.plan.notify = last.map(|record| record.plan.notify).unwrap_or_default();
        }
        let admission = &worked.admission;
        if admission.unchanged {
            return Ok(Some(Started {
                found: vec![format!(
                    "revision {} ({}) serves already; nothing to do",
                    admission.canary.version, admission.canary.id
                )],
                plan: String::new(),
                ..self.started(&worked, Lacking::default())
            }));
        }
        let retried = matches!(request.target, ReleaseTarget::Retry);
        self.objections(store, &mut worked.admission, retried).await?;
        let admission = &worked.admission;
        if !admission.report.refusals.is_empty() {
            let against = admission.report.refusals.join("\n");
            return Err(Problem::new(ProblemKind::Conflict, against));
        }
        if let Some(what) = &worked.waits {
            return self.wait_elsewhere(what, begun).await.map(|()| None);
        }
        let lacking = self.check_rights(admission).await?;
        let started = self.started(&worked, lacking);
        let Some(lease) = self.lease_for_new(store, name).await? else {
            return Ok(None);
        };
        if latest_number(store).await? != before {
            // What was worked out is of a time before that release.
            let _ = lease.release().await;
            return Ok(None);
        }
        let mut canary = admission.canary.clone();
        canary.workload = serde_json::to_value(&admission.release).map_err(Problem::unavailable)?;
        let release = NewRelease {
            rollout: name.to_owned(),
            canary,
            plan: admission.plan.clone(),
            by: self.caller().await,
            reason: request.reason.clone(),
            pipeline: request.pipeline.clone(),
            deploy_window: request.deploy_window,
        };
        let kept = self.policy(name).await?.0.spec.history.unwrap_or(10);
        store
            .set_kept_releases(kept, self.clock.now())
            .await
            .map_err(Problem::unavailable)?;
        store
            .set_stable(&admission.stable, self.clock.now())
            .await
            .map_err(Problem::unavailable)?;
        let key = store
            .create_release(&release, self.clock.now())
            .await
            .map_err(|error| Problem::new(ProblemKind::Conflict, error.to_string()))?;
        let record = store.load(&key).await.map_err(Problem::unavailable)?;
        self.carry(lease, record).await?;
        Ok(Some(Started {
            release: Some(key),
            ..started
        }))
    }

    pub(super) fn store(&self, deployment: &str) -> ConfigMapStore {
        ConfigMapStore::open(&self.api, deployment)
    }

    /// Sees to it that no release is in the way: waits for one that is carried, ends one whose carrier has died. A
    /// dead one of this very revision is gone on with: its key.
    async fn make_way(
        self: &Arc<Self>,
        store: &ConfigMapStore,
        request: &ReleaseRequest,
        deployment: &str,
        (revision, version): (&str, &str),
    ) -> Result<Option<ReleaseKey>, Problem> {
        let on_new = self.policy(deployment).await?.0.spec.on_new_revision;
        let mut asked = false;
        loop {
            let Some(record) = running(store).await? else {
                return Ok(None);
            };
            if !self.is_abandoned(deployment).await? {
                if record.canary.id == revision {
                    // A pipeline's second try comes a second after its first was killed.
                    if !self.is_in_living_hands(deployment).await? {
                        continue;
                    }
                    return Err(Problem::new(
                        ProblemKind::Conflict,
                        format!(
                            "{} is releasing {version} already; `wade status deployment/{deployment} -n {} -w` follows it",
                            record.key,
                            self.namespace()
                        ),
                    ));
                }
                if !asked {
                    // What may not begin pushes nothing aside, and does not wait for its refusal.
                    self.may_begin(deployment, request).await?;
                }
                if on_new == OnNewRevision::Supersede && !asked {
                    let by = self.caller().await;
                    let reason = format!("{version} is to be released");
                    let _ = store
                        .add_command(
                            &record.key,
                            CommandKind::Supersede,
                            &by,
                            Some(&reason),
                            self.clock.now(),
                        )
                        .await;
                }
                asked = true;
                tokio::time::sleep(LOOK).await;
                continue;
            }
            if record.canary.id == revision {
                self.carry_on(store, record.clone(), false).await?;
                return Ok(Some(record.key));
            }
            let by = self.caller().await;
            let reason = format!("its step has died, and {version} is to be released");
            if record.state.phase.can_retreat() {
                store
                    .add_command(&record.key, CommandKind::Abort, &by, Some(&reason), self.clock.now())
                    .await
                    .map_err(Problem::unavailable)?;
            }
            self.carry_on(store, record, false).await?;
            // What could not be told of the other release is not this caller's concern.
            let _ = self.finished().await;
        }
    }

    /// Waits a moment for what came of a command, in the record.
    async fn answer(
        &self,
        store: &ConfigMapStore,
        key: &ReleaseKey,
        id: u64,
        within: Duration,
    ) -> Option<(bool, String)> {
        let look = async {
            loop {
                if let Ok(record) = store.load(key).await {
                    let answer =
                        record.history.iter().rev().find_map(|entry| {
                            answers(&entry.event, id).map(|followed| (followed, entry.reason.clone()))
                        });
                    if answer.is_some() {
                        return answer;
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(within, look).await.ok().flatten()
    }
}

fn has_reason(request: &ReleaseRequest) -> Result<(), Problem> {
    if request.emergency && request.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
        return Err(Problem::new(
            ProblemKind::Invalid,
            "an emergency release needs a reason for the audit; add --reason",
        ));
    }
    Ok(())
}

/// The template that serves, which stands for any new one where only the way is asked for.
fn present(found: &Found) -> Value {
    let set = found.stable().unwrap_or(&found.deployment);
    template::without_hash(&set["spec"]["template"])
}

/// The number of the newest release, running or not.
async fn latest_number(store: &ConfigMapStore) -> Result<Option<u64>, Problem> {
    let latest = store.latest().await.map_err(Problem::unavailable)?;
    Ok(latest.map(|record| record.key.number))
}

/// The release that is not over.
pub(crate) async fn running(store: &ConfigMapStore) -> Result<Option<ReleaseRecord>, Problem> {
    store.running().await.map_err(Problem::unavailable)
}

#[async_trait]
impl Door for Arc<Cluster> {
    async fn rollouts(&self) -> Result<Vec<RolloutView>, Problem> {
        let selector = format!("{}=record", crate::platforms::kubernetes::PART);
        let records = self
            .api
            .list(Kind::ConfigMap, &Selection::labels(selector))
            .await
            .map_err(|error| told(&error))?;
        let mut views = Vec::new();
        for record in &records {
            let Some(rollout) = crate::apiserver::value::label(record, crate::platforms::kubernetes::ROLLOUT) else {
                continue;
            };
            if let Some(deployment) = self
                .api
                .get(Kind::Deployment, rollout)
                .await
                .map_err(|error| told(&error))?
            {
                let store = self.store(rollout);
                views.push(self.view_of(&deployment, &store).await?);
            }
        }
        Ok(views)
    }

    async fn rollout(&self, name: &str) -> Result<RolloutView, Problem> {
        let deployment = self
            .api
            .get(Kind::Deployment, name)
            .await
            .map_err(|error| told(&error))?
            .ok_or_else(|| self.no_such(name))?;
        let store = self.store(name);
        self.view_of(&deployment, &store).await
    }

    async fn release(&self, name: &str, request: &ReleaseRequest) -> Result<Started, Problem> {
        has_reason(request)?;
        if let Some(started) = self.release_through(name, request).await? {
            return Ok(started);
        }
        self.permitted(&rbac::needed_always(name)).await?;
        let store = self.store(name);
        let begun = stopwatch();
        loop {
            if let Some(started) = Box::pin(self.try_release(name, request, &store, begun)).await? {
                return Ok(started);
            }
        }
    }

    async fn release_detached(&self, name: &str, request: &ReleaseRequest) -> Result<Started, Problem> {
        has_reason(request)?;
        // A release that this process began would be left behind with nobody to carry it.
        self.release_through(name, request).await?.ok_or_else(|| {
            Problem::new(
                ProblemKind::Invalid,
                format!(
                    "--detach needs somebody who carries the release after this command has ended, and no daemon of namespace {} \
                     does that for deployment/{name}: leave --detach out, or let it run in the cluster (--in-cluster). A daemon \
                     is asked where a Rollout is about the Deployment, and -f, --strategy, --notify, --from-file and --held are \
                     left out",
                    self.home()
                ),
            )
        })
    }

    async fn preview(&self, name: &str, request: &ReleaseRequest) -> Result<String, Problem> {
        let store = self.store(name);
        let worked = Box::pin(self.work_out(name, request, &store)).await?;
        Ok(render(&worked.admission.plan, outlook(&worked.probe)))
    }

    async fn command(&self, name: &str, request: &CommandRequest) -> Result<Acknowledged, Problem> {
        let store = self.store(name);
        let record = running(&store)
            .await?
            .ok_or_else(|| Problem::not_running(name, request.kind))?;
        let key = record.key.clone();
        let by = self.caller().await;
        let added = store
            .add_command(&key, request.kind, &by, request.reason.as_deref(), self.clock.now())
            .await;
        let aborts = request.kind == CommandKind::Abort;
        let id = match added {
            Ok(command) => command.id,
            // Going back waits for nothing, so not for a record that cannot be written either.
            Err(_) if aborts => {
                let command = crate::engine::Command {
                    id: record.state.handled + 1,
                    kind: request.kind,
                    by,
                    reason: request.reason.clone(),
                    at: self.clock.now(),
                };
                let id = command.id;
                self.carry_on_with(&store, record.clone(), true, Some(command)).await?;
                id
            }
            Err(error) => return Err(Problem::unavailable(error)),
        };
        let here = self.carried(|carrying| carrying.key == key).unwrap_or(false);
        let abandoned = !here && self.is_abandoned(name).await?;
        if abandoned {
            self.carry_on(&store, record.clone(), false).await?;
        }
        let first = if aborts && !abandoned {
            ABORT_WITHIN
        } else {
            ANSWER_WITHIN
        };
        let mut said = self.answer(&store, &key, id, first).await;
        if said.is_none() && aborts && !here && !abandoned {
            // The holder hangs: take the Lease by force, which fences it off, and write the weight.
            self.carry_on(&store, record, true).await?;
            said = self.answer(&store, &key, id, ANSWER_WITHIN).await;
        }
        Ok(match said {
            Some((followed, message)) => Acknowledged {
                release: key,
                command: id,
                followed: Some(followed),
                message,
            },
            None => Acknowledged {
                release: key,
                command: id,
                followed: None,
                message: format!("{} is recorded and will be followed", request.kind),
            },
        })
    }

    async fn releases(&self, name: &str) -> Result<Vec<ReleaseSummary>, Problem> {
        let store = self.store(name);
        Ok(store
            .releases()
            .await
            .map_err(Problem::unavailable)?
            .iter()
            .map(summary)
            .collect())
    }

    async fn record(&self, key: &ReleaseKey) -> Result<ReleaseRecord, Problem> {
        let store = self.store(&key.rollout);
        store
            .release(key)
            .await
            .map_err(|error| Problem::new(ProblemKind::NotFound, error.to_string()))
    }

    async fn events(&self, key: &ReleaseKey, from: u64) -> Result<Box<dyn Notices>, Problem> {
        let notices = self
            .carried(|carrying| carrying.notices.upgrade().filter(|_| carrying.key == *key))
            .flatten()
            .map(|notices| notices.subscribe());
        let store = self.store(&key.rollout);
        let record = store
            .release(key)
            .await
            .map_err(|error| Problem::new(ProblemKind::NotFound, error.to_string()))?;
        let follower = Follower::new(store, &record, from, notices);
        Ok(Box::new(follower))
    }

    fn place(&self) -> String {
        format!(" -n {}", self.namespace())
    }

    async fn finished(&self) -> Vec<String> {
        let task = self
            .carrying
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .map(|carrying| carrying.task);
        if let Some(task) = task {
            // What it came to is in the record.
            let _ = task.await;
        }
        std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_carrying(&self) -> bool {
        self.carries()
    }

    async fn settle(&self, name: &str) -> Result<Option<ReleaseKey>, Problem> {
        let store = self.store(name);
        let Some(record) = running(&store).await? else {
            return Ok(None);
        };
        if !self.is_abandoned(name).await? {
            return Ok(None);
        }
        if record.state.phase.can_retreat() {
            let by = self.caller().await;
            store
                .add_command(
                    &record.key,
                    CommandKind::Abort,
                    &by,
                    Some("settled: the run that carried it is gone"),
                    self.clock.now(),
                )
                .await
                .map_err(Problem::unavailable)?;
        }
        let key = record.key.clone();
        self.carry_on(&store, record, false).await?;
        Ok(Some(key))
    }
}
