//! From a request to a release, and from a command to its acknowledgement.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::api::{Acknowledged, CommandRequest, Problem, ProblemKind, ReleaseRequest, ReleaseTarget, Started};
use super::rollouts::Usable;
use super::{Daemon, Managed, running_of};
use crate::controller::Notice;
use crate::engine::{Actor, Command, CommandKind, Event, Outcome};
use crate::plan::{Circumstances, Comparison, Lane, Outlook, Plan, lower, render};
use crate::spec::{OnNewRevision, OnUndecided, bind};
use crate::store::sqlite::{Beside, CommandError, NewRelease};
use crate::store::{ReleaseKey, Revision, Store, StoreError};

/// How long an abort may go unacknowledged before the daemon writes the weight itself (DESIGN.md section 3).
const ABORT_WITHIN: Duration = Duration::from_secs(2);
/// How long stable may take to be seen ready before a release is planned without it.
const STABLE_WITHIN: Duration = Duration::from_secs(3);
/// How often to look whether it is.
const LOOK: Duration = Duration::from_millis(20);
/// How long a command's caller waits for what came of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl Daemon {
    /// The rollout called `name`, from its file.
    pub(crate) fn usable(&self, name: &str) -> Result<Usable, Problem> {
        let rollouts = self.rollouts();
        rollouts.usable.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = rollouts.usable.keys().map(String::as_str).collect();
            if !rollouts.faults.is_empty() {
                return Problem::new(
                    ProblemKind::Invalid,
                    format!(
                        "no usable rollout {name}; files in the rollouts folder have faults:\n{}",
                        rollouts.faults.join("\n")
                    ),
                );
            }
            let near = known
                .iter()
                .max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
            let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            Problem::new(
                ProblemKind::NotFound,
                format!("there is no rollout {name} in the rollouts folder{hint}"),
            )
        })
    }

    /// Turns a request into a release and sets it going. Waits for a running release as the rollout says.
    ///
    /// # Errors
    /// Everything that is wrong with the request; nothing has been touched then.
    pub async fn release(self: &Arc<Self>, name: &str, request: ReleaseRequest, by: Actor) -> Result<Started, Problem> {
        if request.emergency && request.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
            return Err(Problem::new(
                ProblemKind::Invalid,
                "an emergency release needs a reason for the audit; add --reason",
            ));
        }
        let usable = self.usable(name)?;
        self.check_path(&usable, &request)?;
        let managed = self.open_service(&usable)?;
        // One request at a time per service: the second sees what the first has begun.
        let _admission = managed.admission.lock().await;
        // The identity reads the whole program: not on a thread that others wait for.
        let canary = {
            let (daemon, usable, request) = (Arc::clone(self), usable.clone(), request.clone());
            let read = tokio::task::spawn_blocking(move || daemon.revision(&usable, &request));
            read.await.map_err(Problem::unavailable)??
        };
        self.wait_for_running(&managed, &usable, &canary).await?;
        let way_back = matches!(request.target, ReleaseTarget::Rollback { .. });
        if !request.emergency && !way_back {
            self.wait_for_others(&usable).await?;
        }
        let stable = self.store().stable(name).map_err(Problem::unavailable)?;
        if stable.as_ref().is_some_and(|stable| stable.id == canary.id) {
            return Ok(Started {
                release: None,
                found: vec![format!(
                    "revision {} ({}) serves already; nothing to do",
                    canary.version, canary.id
                )],
                plan: String::new(),
                stable: Some(canary.version.clone()),
                canary: canary.version,
            });
        }
        if !matches!(request.target, ReleaseTarget::Retry)
            && let Some(failed) = self
                .store()
                .quarantined(name, &canary.id)
                .map_err(Problem::unavailable)?
        {
            return Err(Problem::new(
                ProblemKind::Conflict,
                format!(
                    "revision {} of {name} failed in release {} ({}); `wade retry {name}` tries it again",
                    canary.version, failed.release, failed.reason
                ),
            ));
        }
        self.wait_for_stable(&managed, stable.as_ref()).await;
        let plan = self.plan(&managed, &usable, &request, stable.as_ref());
        let found = found(&managed, &plan, stable.as_ref());
        let outlook = managed.rate().map(|rate| Outlook {
            requests_per_second: rate,
            error_rate: 0.0,
        });
        let started = Started {
            release: None,
            found,
            plan: render(&plan, outlook),
            stable: stable.as_ref().map(|stable| stable.version.clone()),
            canary: canary.version.clone(),
        };
        let release = NewRelease {
            rollout: name.to_owned(),
            canary,
            plan,
            by,
            reason: request.reason,
            pipeline: request.pipeline,
            deploy_window: request.deploy_window,
        };
        let (store, now) = (self.store(), self.clock().now());
        store
            .set_kept_releases(name, usable.rollout.spec.history.unwrap_or(10), now)
            .map_err(Problem::unavailable)?;
        let key = store
            .create_release(&release, Beside::Nothing, now)
            .map_err(|error| Problem::new(ProblemKind::Conflict, error.to_string()))?;
        self.wake(&managed);
        Ok(Started {
            release: Some(key),
            ..started
        })
    }

    /// Which command runs is the folder's word: a caller may only name the file that is there anyway.
    fn check_path(&self, usable: &Usable, request: &ReleaseRequest) -> Result<(), Problem> {
        let ReleaseTarget::File { path: Some(path), .. } = &request.target else {
            return Ok(());
        };
        let same = |path: &Path| std::fs::canonicalize(path).ok();
        if same(Path::new(path)).is_some_and(|named| Some(named) == same(&usable.path)) {
            return Ok(());
        }
        Err(Problem::new(
            ProblemKind::Forbidden,
            format!(
                "{path} is not the file that the daemon has for {}: {}; the rollouts folder decides what runs, so change the file there",
                usable.name(),
                usable.path.display()
            ),
        ))
    }

    fn revision(&self, usable: &Usable, request: &ReleaseRequest) -> Result<Revision, Problem> {
        let name = usable.name();
        let invalid = |message: String| Problem::new(ProblemKind::Invalid, message);
        match &request.target {
            ReleaseTarget::File { set, .. } => {
                let (bound, workload) = usable.workload(set).map_err(invalid)?;
                let id = workload
                    .identity()
                    .map_err(|diagnosis| invalid(diagnosis.to_string()))?;
                let workload = serde_json::to_value(&workload).map_err(|error| invalid(error.to_string()))?;
                Ok(Revision {
                    id: id.to_string(),
                    version: bound.version,
                    variables: bound.values,
                    workload,
                })
            }
            ReleaseTarget::Rollback { number } => {
                let served = match number {
                    Some(number) => self.promoted_by(&key(name, *number))?,
                    None => self.served_before(name)?,
                };
                served.ok_or_else(|| {
                    Problem::new(ProblemKind::NotFound, match number {
                        Some(number) => format!("release {number} of {name} did not promote a revision that is still kept; `wade history {name}` lists them"),
                        None => format!("no revision of {name} has served before the present one; `wade history {name}` lists them"),
                    })
                })
            }
            ReleaseTarget::Retry => {
                let last = self.store().latest(name).map_err(Problem::unavailable)?;
                let failed = last.filter(|record| record.state.outcome().is_some_and(|outcome| !outcome.is_forward()));
                failed.map(|record| record.canary).ok_or_else(|| {
                    Problem::new(
                        ProblemKind::Conflict,
                        format!("the last release of {name} did not fail; there is nothing to try again"),
                    )
                })
            }
        }
    }

    /// The revision that a release promoted, if it did.
    fn promoted_by(&self, key: &ReleaseKey) -> Result<Option<Revision>, Problem> {
        match self.store().release(key) {
            Ok(record) if record.state.outcome().is_some_and(Outcome::is_forward) => Ok(Some(record.canary)),
            Ok(_) | Err(StoreError::Unknown(_)) => Ok(None),
            Err(error) => Err(Problem::unavailable(error)),
        }
    }

    /// The revision that served last before the present one.
    fn served_before(&self, name: &str) -> Result<Option<Revision>, Problem> {
        let stable = self.store().stable(name).map_err(Problem::unavailable)?;
        let served = self.store().revisions(name).map_err(Problem::unavailable)?;
        let others = served
            .into_iter()
            .filter(|served| stable.as_ref().is_none_or(|stable| stable.id != served.revision.id));
        Ok(others
            .max_by_key(|served| served.last_served)
            .map(|served| served.revision))
    }

    async fn wait_for_running(&self, managed: &Managed, usable: &Usable, canary: &Revision) -> Result<(), Problem> {
        let name = usable.name();
        let mut notices = self.follow();
        while let Some(running) = self.store().running(name).map_err(Problem::unavailable)? {
            if running.canary.id == canary.id {
                return Err(Problem::new(
                    ProblemKind::Conflict,
                    format!(
                        "{} is releasing {} already; `wade status {name} -w` follows it",
                        running.key, canary.version
                    ),
                ));
            }
            if usable.rollout.spec.on_new_revision == OnNewRevision::Supersede {
                managed.supersede(&canary.version);
            }
            let stopping = || {
                Problem::new(
                    ProblemKind::Unavailable,
                    "the daemon is stopping; nothing was begun, so ask the next one",
                )
            };
            let news = tokio::select! {
                news = tokio::time::timeout(Duration::from_secs(1), notices.recv()) => news,
                () = self.stopping().cancelled() => return Err(stopping()),
            };
            match news {
                Ok(Err(RecvError::Closed)) => return Err(stopping()),
                // News, a gap in the news or none for a second: the record says whether it is over.
                Ok(Ok(_) | Err(RecvError::Lagged(_))) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Waits until none of the rollouts that this one comes after is being released.
    async fn wait_for_others(&self, usable: &Usable) -> Result<(), Problem> {
        for other in &usable.rollout.spec.after {
            self.usable(other).map_err(|problem| {
                Problem::new(
                    ProblemKind::Conflict,
                    format!("{} comes after {other} (spec.after): {problem}", usable.name()),
                )
            })?;
            while self.store().running(other).map_err(Problem::unavailable)?.is_some() {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = self.stopping().cancelled() => {
                        return Err(Problem::unavailable("the daemon is stopping; nothing was begun, so ask the next one"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Stable that has only just been adopted or restarted is given a moment to be seen ready: a release that is planned
    /// without it would be compared with nothing.
    async fn wait_for_stable(&self, managed: &Managed, stable: Option<&Revision>) {
        let Some(stable) = stable else { return };
        let ready = async {
            while managed.service.presence(&stable.id, 1, 1).ready == 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Not ready in time is an answer too; the plan takes it into account.
        let _ = tokio::time::timeout(STABLE_WITHIN, ready).await;
    }

    fn plan(&self, managed: &Managed, usable: &Usable, request: &ReleaseRequest, stable: Option<&Revision>) -> Plan {
        let lane = match (&request.target, stable) {
            (_, None) => Lane::FirstDeploy,
            _ if request.emergency => Lane::Emergency {
                reason: request.reason.clone().unwrap_or_default(),
            },
            (ReleaseTarget::Rollback { .. }, _) => Lane::Rollback,
            _ => Lane::Normal,
        };
        let unfit = stable.and_then(|stable| {
            let running = running_of(stable, None).ok()?;
            let presence = managed.service.presence(&stable.id, running.full, running.full);
            (presence.ready == 0).then(|| format!("stable {} has no ready instance", stable.version))
        });
        let around = Circumstances {
            lane,
            stable_unfit: unfit,
            requests_per_second: managed.rate(),
            found: None,
        };
        let resolved = &usable.resolved;
        let mut plan = lower(
            usable.name(),
            &usable.rollout.spec,
            &resolved.strategy,
            &resolved.analysis,
            &resolved.limits,
            &around,
        );
        if request.require_proof {
            plan.on_undecided = OnUndecided::Gate;
        }
        plan
    }

    /// Records a command and waits a little for what comes of it.
    ///
    /// # Errors
    /// No release runs, or the record cannot be written.
    pub async fn command(
        self: &Arc<Self>,
        name: &str,
        request: CommandRequest,
        by: Actor,
    ) -> Result<Acknowledged, Problem> {
        let managed = self.managed(name).ok_or_else(|| {
            Problem::new(
                ProblemKind::NotFound,
                format!("there is no rollout {name}; `wade status` lists them"),
            )
        })?;
        let running = self
            .store()
            .running(name)
            .map_err(Problem::unavailable)?
            .ok_or_else(|| Problem::not_running(name, request.kind))?;
        let key = running.key.clone();
        let (mut notices, of_this) = (self.follow(), key.clone());
        let added = self
            .store()
            .add_command(&key, request.kind, &by, request.reason.as_deref(), self.clock().now());
        let command = match added {
            Ok(command) => command,
            Err(CommandError::Store(error)) if request.kind == CommandKind::Abort => {
                tracing::error!(rollout = key.rollout, release = key.number, %error, "an abort cannot be recorded; it is followed all the same");
                let pending = self
                    .store()
                    .commands(&key, running.state.handled)
                    .await
                    .unwrap_or_default();
                let last = pending.last().map_or(running.state.handled, |command| command.id);
                let reason = request.reason.clone();
                let command = Command {
                    id: last + 1,
                    kind: request.kind,
                    by,
                    reason,
                    at: self.clock().now(),
                };
                managed.urgent.set(&key, command.clone());
                command
            }
            Err(error) => return Err(Problem::unavailable(error)),
        };
        self.wake(&managed);
        let first = if request.kind == CommandKind::Abort {
            ABORT_WITHIN
        } else {
            ANSWER_WITHIN
        };
        let answer = async {
            loop {
                match notices.recv().await {
                    Ok(Notice::Entry { key: of, entry, .. }) if of == of_this => {
                        if let Some(followed) = answers(&entry.event, command.id) {
                            return Some((followed, entry.reason));
                        }
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        };
        tokio::pin!(answer);
        let mut said = tokio::time::timeout(first, &mut answer).await.ok().flatten();
        if said.is_none() && request.kind == CommandKind::Abort {
            tracing::error!(
                rollout = key.rollout,
                release = key.number,
                "an abort was not acknowledged within {ABORT_WITHIN:?}; taking over"
            );
            self.take_over(&managed)?;
            said = tokio::time::timeout(ANSWER_WITHIN, &mut answer).await.ok().flatten();
            said = said.or(Some((
                true,
                "the weight was put back on stable; the release is being cleaned up".to_owned(),
            )));
        }
        Ok(match said {
            Some((followed, message)) => Acknowledged {
                release: key,
                command: command.id,
                followed: Some(followed),
                message,
            },
            None => Acknowledged {
                release: key,
                command: command.id,
                followed: None,
                message: format!("{} is recorded and will be followed", command.kind),
            },
        })
    }

    /// What releasing with these variables would do, without doing it.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub fn preview(self: &Arc<Self>, name: &str, set: &BTreeMap<String, String>) -> Result<String, Problem> {
        let usable = self.usable(name)?;
        bind(&usable.rollout, set).map_err(|faults| Problem::new(ProblemKind::Invalid, faults.to_string()))?;
        let managed = self.open_service(&usable)?;
        let stable = self.store().stable(name).map_err(Problem::unavailable)?;
        let plan = self.plan(&managed, &usable, &ReleaseRequest::default(), stable.as_ref());
        let outlook = managed.rate().map(|rate| Outlook {
            requests_per_second: rate,
            error_rate: 0.0,
        });
        Ok(render(&plan, outlook))
    }
}

/// Whether an event is what came of a command, and whether it was followed.
pub(crate) fn answers(event: &Event, id: u64) -> Option<bool> {
    let (command, followed) = match event {
        Event::GateOpened { command, .. }
        | Event::Promoted { command, .. }
        | Event::Paused { command, .. }
        | Event::Resumed { command }
        | Event::Retried { command } => (*command, true),
        Event::Retreated { command, .. } => ((*command)?, true),
        Event::Refused { command } => (*command, false),
        _ => return None,
    };
    (command == id).then_some(followed)
}

/// `0.09%`, `2%`: two digits that count.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent > 0.0 {
        (1.0 - percent.log10().floor()).clamp(0.0, 4.0) as usize
    } else {
        0
    };
    let text = format!("{percent:.digits$}");
    let short = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{short}%")
}

/// What was found and chosen, in a few lines.
fn found(managed: &Managed, plan: &Plan, stable: Option<&Revision>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(address) = managed.service.address() {
        let rate = managed
            .rate()
            .map(|rate| format!(", {rate:.0} requests/s"))
            .unwrap_or_default();
        let failing = managed
            .error_share()
            .map(|share| format!(", {} of stable's fail lately", percent(share)))
            .unwrap_or_default();
        lines.push(format!("requests come in on {address}{rate}{failing}"));
    }
    match stable {
        Some(stable) => lines.push(format!("stable is {} ({})", stable.version, stable.id)),
        None => lines.push("no revision serves yet".to_owned()),
    }
    if let Comparison::LimitsOnly { reason } = &plan.comparison {
        lines.push(format!("not compared with stable: {reason}"));
    }
    lines
}

/// A release by rollout and number.
pub(crate) fn key(rollout: &str, number: u64) -> ReleaseKey {
    ReleaseKey {
        rollout: rollout.to_owned(),
        number,
    }
}
