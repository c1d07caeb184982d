//! What a daemon keeps to when it carries what others wrote.
//!
//! A Rollout is refused before a release begins (`work_out`). But a record may have been begun by a step, or written by
//! anybody who may write ConfigMaps; whatever stands in it is not done on the daemon's behalf either. Such a release is
//! taken back, which needs none of it.

use super::Cluster;
use crate::apiserver::Kind;
use crate::engine::{Actor, Command, CommandKind};
use crate::notify::Secrets;
use crate::plan::Plan;
use crate::platforms::kubernetes::HOOKS_POLICY;
use crate::spec::targets::{AllowedHosts, notify_fault, smoke_fault};
use crate::store::ReleaseRecord;

impl Cluster {
    /// A daemon makes Jobs with its own rights, so it must be sure that the author of the hooks could have made them: a
    /// policy in the API server sees to that, where it is installed. A step has its caller's own rights.
    pub(super) async fn unguarded_hooks(&self, plan: &Plan) -> Option<String> {
        if self.options.confined.is_none() || plan.hooks.is_empty() {
            return None;
        }
        if self.namespace() == crate::crd::SYSTEM {
            return Some("hooks do not run in Wade's own namespace, where its ServiceAccount is".to_owned());
        }
        let binding = Kind::ValidatingAdmissionPolicyBinding;
        match self.api.get(binding, HOOKS_POLICY).await {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!(
                "hooks run only where the policy {HOOKS_POLICY} is installed, or whoever may write a Rollout could run Jobs; `wade install` brings it"
            )),
            Err(error) => Some(format!(
                "whether the policy {HOOKS_POLICY} is installed is not known: {error}"
            )),
        }
    }

    /// What of a plan this process refuses to do; nothing where it acts with its caller's own rights.
    pub(super) fn refused(&self, plan: &Plan) -> Vec<String> {
        self.options
            .confined
            .as_ref()
            .map_or_else(Vec::new, |hosts| faults(hosts, plan))
    }

    /// Takes out of a record what is not to be done, and says how the release is taken back then.
    pub(super) fn confine(&self, record: &mut ReleaseRecord) -> Option<Command> {
        let hosts = self.options.confined.as_ref()?;
        let faults = faults(hosts, &record.plan);
        if faults.is_empty() {
            return None;
        }
        let plan = &mut record.plan;
        plan.smoke.tests.retain(|test| smoke_fault(test).is_none());
        plan.notify.retain(|told| notify_fault(told).is_none());
        let allowed = |plan: &Plan| hosts.faults(&[], plan.measure.source.as_ref(), None, &[]).is_empty();
        if !allowed(plan) {
            plan.measure.source = None;
        }
        let allowed = |plan: &Plan| hosts.faults(&[], None, store_of(plan), &[]).is_empty();
        if !allowed(plan) {
            plan.measure.traces = None;
        }
        Some(Command {
            id: record.state.handled + 1,
            kind: CommandKind::Abort,
            by: Actor::named("wade"),
            reason: Some(format!("a daemon does not carry it on: {}", faults.join("; "))),
            at: self.clock.now(),
        })
    }
}

fn store_of(plan: &Plan) -> Option<&crate::spec::TraceStore> {
    plan.measure.traces.as_ref().and_then(|traces| traces.from.as_ref())
}

fn faults(hosts: &AllowedHosts, plan: &Plan) -> Vec<String> {
    hosts.faults(
        &plan.smoke.tests,
        plan.measure.source.as_ref(),
        store_of(plan),
        &plan.notify,
    )
}

/// Secrets whose addresses are only used where they lead to an allowed host: who may write a Secret could otherwise make
/// the daemon post to anything that it can reach.
pub(super) struct OnlyAllowed<S> {
    pub(super) secrets: S,
    pub(super) confined: Option<AllowedHosts>,
}

#[async_trait::async_trait]
impl<S: Secrets> Secrets for OnlyAllowed<S> {
    async fn url(&self, secret: &str) -> Result<String, String> {
        let url = self.secrets.url(secret).await?;
        match &self.confined {
            Some(hosts) => hosts.allow(url.trim()).map(|()| url),
            None => Ok(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(&'static str);

    #[async_trait::async_trait]
    impl Secrets for Fixed {
        async fn url(&self, _: &str) -> Result<String, String> {
            Ok(self.0.to_owned())
        }
    }

    #[tokio::test]
    async fn an_address_in_a_secret_leads_only_where_an_administrator_allows() {
        let hosts = AllowedHosts(vec!["hooks.example".to_owned()]);
        for (url, confined, fine) in [
            ("https://hooks.example/T0", Some(hosts.clone()), true),
            ("http://169.254.169.254/secret", Some(hosts.clone()), false),
            ("http://kubernetes.default/api", Some(hosts), false),
            ("http://anywhere/", None, true),
        ] {
            let secrets = OnlyAllowed {
                secrets: Fixed(url),
                confined,
            };
            let answer = secrets.url("x").await;
            assert_eq!(answer.is_ok(), fine, "{url}");
            assert!(
                answer.is_ok() || !answer.unwrap_err().contains("169.254"),
                "an address is a secret"
            );
        }
    }
}
