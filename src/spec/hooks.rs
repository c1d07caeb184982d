//! What else a release does: hooks (migrations, warm-ups, clean-ups), and what it waits for: other rollouts, other places.
//!
//! A hook is somebody's own job, run at one of four points. Wade has no opinion about what it does, only about whether
//! it ended well: what does not, before users are moved, ends the release. In a cluster it is a Job made from a CronJob
//! of the same namespace, under the ServiceAccount that the CronJob names, never under Wade's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, Path};
use super::rollout::{Rollout, Workload};
use super::values::Span;

/// How long a hook may take if it does not say.
pub const HOOK_WITHIN: Span = Span::secs(600);
/// Hooks that one rollout may have: each is a Job that somebody has to understand on a bad night.
const MOST_HOOKS: usize = 16;

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HookPoint {
    /// Before the new revision is started. If it fails, the release is rejected and nothing has been started.
    BeforeStart,
    /// Before the new revision gets all traffic, after the gate before it. If it fails, the release goes back.
    BeforeFullTraffic,
    /// When the new revision serves and the old one is gone. If it fails, that is said, and the new revision stays.
    AfterPromotion,
    /// When a release that had begun has gone back, for whatever reason. If it fails, that is said.
    AfterRollback,
}

impl HookPoint {
    /// The word in the rollout.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BeforeStart => "beforeStart",
            Self::BeforeFullTraffic => "beforeFullTraffic",
            Self::AfterPromotion => "afterPromotion",
            Self::AfterRollback => "afterRollback",
        }
    }
}

impl std::fmt::Display for HookPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

/// A job of the author's own that belongs to a release; told apart by its first key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HookSpec {
    /// A Job in the cluster.
    CronJob(CronJobHook),
    /// A command on this machine.
    Command(CommandHook),
}

/// A Job made from a CronJob of the same namespace, as `kubectl create job --from=cronjob/NAME` makes one; the CronJob
/// itself may be suspended for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CronJobHook {
    /// The CronJob, by name.
    #[schemars(length(min = 1, max = 52))]
    pub cron_job: String,
    /// When.
    pub at: HookPoint,
    /// The container of the Deployment whose new image the Job's containers get, so that a migration is the one that
    /// the new revision was built with. Without it they keep the CronJob's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub image_from: Option<String>,
    /// How long it may take; 10 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// A command on this machine, with the rights of the daemon: only for rollouts of processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandHook {
    /// Program and arguments, as a list: no shell reads it.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// When.
    pub at: HookPoint,
    /// How long it may take; 10 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

impl HookSpec {
    /// When it runs.
    pub const fn at(&self) -> HookPoint {
        match self {
            Self::CronJob(hook) => hook.at,
            Self::Command(hook) => hook.at,
        }
    }

    /// How long it may take.
    pub fn within(&self) -> Span {
        let said = match self {
            Self::CronJob(hook) => hook.within,
            Self::Command(hook) => hook.within,
        };
        said.unwrap_or(HOOK_WITHIN)
    }

    /// What it is called in sentences.
    pub fn name(&self) -> &str {
        match self {
            Self::CronJob(hook) => &hook.cron_job,
            Self::Command(hook) => hook.command.first().map_or("", String::as_str),
        }
    }
}

/// What has to be true in another namespace before a release begins here: what goes to production has been promoted in
/// staging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requires {
    /// The namespace in which the same images have to be promoted already.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// The Deployment there; the one of the same name if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub deployment: Option<String>,
    /// Compare what the pods really run (the digest that the tag meant when they started), not what the image is
    /// called: a tag that was moved, or another registry's image of the same name, is found out before it has users.
    #[serde(default)]
    pub same_digest: bool,
}

/// Everything that is wrong with hooks and order.
pub(super) fn check(rollout: &Rollout, faults: &mut Vec<Fault>) {
    let spec = &rollout.spec;
    let in_cluster = matches!(spec.workload, Workload::Deployment(_));
    if spec.hooks.len() > MOST_HOOKS {
        let fault = Fault::new(Path::of("spec.hooks"), "these are too many").found(spec.hooks.len().to_string());
        faults.push(fault.help("write at most 16; one Job may do several things"));
    }
    for (index, hook) in spec.hooks.iter().enumerate() {
        let path = Path::of("spec.hooks").index(index);
        super::validate::check_not_zero(
            &path.key("within"),
            Some(hook.within()),
            "nothing can be done in no time",
            faults,
        );
        match hook {
            HookSpec::CronJob(hook) if in_cluster => {
                super::validate::check_label(&path.key("cronJob"), &hook.cron_job, faults);
            }
            HookSpec::CronJob(_) => {
                let fault = Fault::new(path.key("cronJob"), "there are no CronJobs on one machine");
                faults.push(fault.help("name a program: `command: [./migrate, up]`"));
            }
            HookSpec::Command(_) if in_cluster => {
                let fault = Fault::new(path.key("command"), "Wade runs no commands for a Deployment");
                faults.push(fault.help("name a CronJob of the namespace, suspended or not: `cronJob: migrate`"));
            }
            HookSpec::Command(_) => {}
        }
    }
    let after = Path::of("spec.after");
    for (index, name) in spec.after.iter().enumerate() {
        super::validate::check_label(&after.index(index), name, faults);
        if *name == rollout.metadata.name {
            let fault = Fault::new(after.index(index), "a rollout cannot wait for itself").found(format!("`{name}`"));
            faults.push(fault.help("name the rollouts that have to be through before this one"));
        }
        if spec.after[..index].contains(name) {
            let fault = Fault::new(after.index(index), "it is named twice").found(format!("`{name}`"));
            faults.push(fault.help("remove one"));
        }
    }
    if let Some(requires) = &spec.requires {
        let path = Path::of("spec.requires");
        super::validate::check_label(&path.key("namespace"), &requires.namespace, faults);
        if !in_cluster {
            let fault = Fault::new(path, "there are no namespaces on one machine");
            faults.push(fault.help("leave it out"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::read_rollout;

    fn said(workload: &str, more: &str) -> String {
        let text = format!(
            "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: x}}\nspec:\n  workload: {workload}\n  {more}\n"
        );
        read_rollout(&text, "x.yaml").map_or_else(|faults| faults.to_string(), |_| String::new())
    }

    #[test]
    fn hooks_fit_where_the_rollout_lives() {
        let (deployment, process) = ("{deployment: x}", "{process: {command: [./x]}}");
        let job = "hooks: [{cronJob: migrate, at: beforeStart, imageFrom: app, within: 5m}]";
        let command = "hooks: [{command: [./migrate, up], at: afterRollback}]";
        assert_eq!(said(deployment, job), "");
        assert_eq!(said(process, command), "");
        assert!(
            said(process, job).contains("spec.hooks[0].cronJob"),
            "{}",
            said(process, job)
        );
        assert!(
            said(deployment, command).contains("suspended or not"),
            "{}",
            said(deployment, command)
        );
        let wrong = said(deployment, "hooks: [{cronJob: Migrate, at: beforestart, within: 0s}]");
        for word in ["beforestart", "beforeStart"] {
            assert!(wrong.contains(word), "{word}: {wrong}");
        }
        let zero = said(deployment, "hooks: [{cronJob: Migrate, at: beforeStart, within: 0s}]");
        for word in ["spec.hooks[0].within", "spec.hooks[0].cronJob", "`Migrate`"] {
            assert!(zero.contains(word), "{word}: {zero}");
        }
    }

    #[test]
    fn order_names_others_once() {
        let deployment = "{deployment: x}";
        assert_eq!(
            said(
                deployment,
                "after: [db, api]\n  requires: {namespace: staging, sameDigest: true}"
            ),
            ""
        );
        let wrong = said(deployment, "after: [db, x, db]\n  requires: {namespace: Staging}");
        for word in [
            "spec.after[1]",
            "wait for itself",
            "spec.after[2]",
            "named twice",
            "spec.requires.namespace",
        ] {
            assert!(wrong.contains(word), "{word}: {wrong}");
        }
    }
}
