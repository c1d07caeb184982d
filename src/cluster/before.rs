//! What is asked before a release, by `wade deploy` and by `wade check` alike: permissions, objections, everything.

use super::admit::Admission;
use super::check::Check;
use super::door::{running, unavailable};
use super::rbac::{self, Lacking, Need};
use super::{Cluster, problem};
use crate::daemon::api::{Problem, ProblemKind, ReleaseRequest};
use crate::store::configmap::ConfigMapStore;

impl Cluster {
    /// Which of these permissions the caller lacks, asked of the server.
    ///
    /// # Errors
    /// Some that nothing goes without are missing: all of them, named at once.
    pub(super) async fn permitted(&self, needs: &[Need]) -> Result<Lacking, Problem> {
        let lacking = rbac::lacking(&self.api, needs).await;
        if lacking.needed.is_empty() {
            return Ok(lacking);
        }
        let who = self.caller().await.user;
        let refusal = lacking.refusal(&who, self.namespace()).unwrap_or_default();
        Err(problem(ProblemKind::Forbidden, refusal))
    }

    /// As [`Self::permitted`], for a release that has been worked out.
    pub(super) async fn check_rights(&self, admission: &Admission) -> Result<Lacking, Problem> {
        self.permitted(&self.needs(admission)).await
    }

    fn needs(&self, admission: &Admission) -> Vec<Need> {
        rbac::needed_by(&admission.release, &admission.plan, self.api.is_inside())
    }

    /// What speaks against a release besides what its own objects say.
    pub(super) async fn objections(
        &self,
        store: &ConfigMapStore,
        admission: &Admission,
        retried: bool,
    ) -> Result<Vec<String>, Problem> {
        let name = &admission.release.deployment;
        let mut against = Vec::new();
        if !retried && let Some(failed) = store.quarantined(&admission.canary.id).await.map_err(unavailable)? {
            against.push(format!(
                "revision {} of {name} failed in release {} ({}); `wade retry deployment/{name} -n {}` tries it again",
                admission.canary.version,
                failed.release,
                failed.reason,
                self.namespace()
            ));
        }
        against.extend(self.check_time(&admission.plan).err().map(|problem| problem.message));
        Ok(against)
    }

    /// Everything that is known before a release; nothing is touched. Without anything to release in the options it is
    /// about any new version.
    ///
    /// # Errors
    /// Permissions are missing without which nothing can be looked at, there is no stable revision, or what is to be
    /// released is no revision at all.
    pub async fn check(&self, name: &str, request: &ReleaseRequest) -> Result<Check, Problem> {
        self.permitted(&rbac::needed_always(name)).await?;
        let store = self.store(name);
        let running = running(&store).await?;
        let mut worked = self.work_out(name, request, &store).await?;
        let lacking = rbac::lacking(&self.api, &self.needs(&worked.admission)).await;
        let any = self.options.ask.is_empty();
        let against = self.objections(&store, &worked.admission, any).await?;
        worked.admission.report.refusals.extend(against);
        let mut check = Check::new(&worked.found, &worked.probe, &worked.admission, lacking, any);
        if let Some(record) = running {
            let place = format!("deployment/{name} -n {}", self.namespace());
            check.warnings.push(if self.is_abandoned(name).await? {
                format!("{} was left unfinished by a run that is gone: `wade settle {place}`, or the next deploy, puts it right first", record.key)
            } else {
                format!("{} is running: `wade status {place} -w` follows it, and another one waits for its end", record.key)
            });
        }
        Ok(check)
    }
}
