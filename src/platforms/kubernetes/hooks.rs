//! Hooks in a cluster: a Job for each, made from a CronJob of the same namespace as `kubectl create job --from` does.
//!
//! A Job's name says which hook of which release it is, so a holder that goes on after another one died finds what was
//! begun and waits for it, and a hook runs once. Time is kept by the Job itself (`activeDeadlineSeconds`): it ends though
//! nobody watches. It runs under the ServiceAccount that its CronJob names. Who may have Wade make Jobs is decided before
//! (an admission policy asks for the right to `create` them; a step has its caller's own rights).

use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{EPOCH, PART, ROLLOUT, Release, isolation};
use crate::apiserver::value::{label, list, name, text, uid};
use crate::apiserver::{ApiServer, Fault, Kind, Selection};
use crate::clock::stopwatch;
use crate::engine::HookReport;
use crate::platforms::PlatformError;
use crate::platforms::hooking::HookRunner;
use crate::platforms::kubernetes::adapter::refusal;
use crate::spec::hooks::HOOK_WITHIN;
use crate::spec::{CronJobHook, HookPoint, HookSpec};

/// Label of a hook's Job and its pods: the release's number.
const NUMBER: &str = "wade.dev/number";
/// The part that a hook's Job is.
pub const HOOK: &str = "hook";
/// How long a finished Job is kept to be looked at, in seconds, where its CronJob does not say.
const KEPT_S: u64 = 24 * 3600;
/// How often a Job is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// What a pod says that will not start by waiting.
const HOPELESS: [&str; 4] = [
    "CreateContainerConfigError",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// The hooks of one release.
pub struct KubernetesHooks {
    api: ApiServer,
    release: Release,
    hooks: Vec<HookSpec>,
    epoch: u64,
    looked: Option<Instant>,
}

/// How a hook's Job stands.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Running,
    Well,
    Failed(String),
}

impl KubernetesHooks {
    /// The hooks of `release`, begun by the holder with this epoch.
    pub fn new(api: ApiServer, release: Release, hooks: &[HookSpec], epoch: u64) -> Self {
        Self {
            api,
            release,
            hooks: hooks.to_vec(),
            epoch,
            looked: None,
        }
    }

    /// The Job of hook `index`, made if it is not there.
    async fn ensure(&self, index: usize, hook: &CronJobHook) -> Result<Result<Value, String>, PlatformError> {
        let wanted = job_name(&self.release, index);
        if let Some(there) = self.api.get(Kind::Job, &wanted).await.map_err(refusal)? {
            return Ok(if label(&there, PART) == Some(HOOK) {
                Ok(there)
            } else {
                Err(format!(
                    "there is a Job {wanted} already, and it is not Wade's; remove it and try again"
                ))
            });
        }
        let Some(cron) = self.api.get(Kind::CronJob, &hook.cron_job).await.map_err(refusal)? else {
            return Ok(Err(format!(
                "there is no CronJob {} in namespace {}; create it, suspended if it is for releases alone",
                hook.cron_job,
                self.api.namespace()
            )));
        };
        let deployment = self.api.get(Kind::Deployment, &self.release.deployment).await;
        let deployment = deployment.map_err(refusal)?.unwrap_or_default();
        let job = match job(&self.release, &deployment, &cron, index, hook, self.epoch) {
            Ok(job) => job,
            Err(why) => return Ok(Err(why)),
        };
        match self.api.create(Kind::Job, &job).await {
            Ok(made) => Ok(Ok(made)),
            // Another holder was faster; the next look finds it.
            Err(error) if matches!(error.fault, Fault::Exists) => Ok(Ok(job)),
            Err(error) if error.is_passing() => Err(refusal(error)),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    async fn standing(&self, job: &Value) -> Result<Standing, PlatformError> {
        let standing = standing(job);
        if standing != Standing::Running {
            return Ok(standing);
        }
        let pods = Selection::labels(format!("batch.kubernetes.io/job-name={}", name(job)));
        let pods = self.api.list(Kind::Pod, &pods).await.map_err(refusal)?;
        Ok(pods.iter().find_map(hopeless).map_or(Standing::Running, |why| {
            Standing::Failed(format!("its pod does not start: {why}"))
        }))
    }

    /// Whether a hook of another point, begun before, still runs: what undoes must not meet what it undoes.
    async fn is_another_running(&self, at: HookPoint) -> Result<bool, PlatformError> {
        for (index, hook) in self.hooks.iter().enumerate() {
            if hook.at() == at {
                continue;
            }
            let job = self.api.get(Kind::Job, &job_name(&self.release, index)).await;
            if job
                .map_err(refusal)?
                .is_some_and(|job| standing(&job) == Standing::Running)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[async_trait]
impl HookRunner for KubernetesHooks {
    async fn run(&mut self, at: HookPoint) -> Result<Option<HookReport>, PlatformError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(None);
        }
        self.looked = Some(stopwatch());
        if self.is_another_running(at).await? {
            return Ok(None);
        }
        let mut names = Vec::new();
        for (index, hook) in self.hooks.iter().enumerate() {
            let HookSpec::CronJob(hook) = hook else { continue };
            if hook.at != at {
                continue;
            }
            let failed = |why: String| {
                Some(HookReport {
                    at,
                    passed: false,
                    summary: format!("hook {} ({at}) failed: {why}", hook.cron_job),
                })
            };
            let job = match self.ensure(index, hook).await? {
                Ok(job) => job,
                Err(why) => return Ok(failed(why)),
            };
            match self.standing(&job).await? {
                Standing::Running => return Ok(None),
                Standing::Failed(why) => {
                    let look = format!("kubectl logs job/{} -n {}", name(&job), self.api.namespace());
                    return Ok(failed(format!("{why}; `{look}`")));
                }
                Standing::Well => names.push(hook.cron_job.clone()),
            }
        }
        Ok(Some(HookReport {
            at,
            passed: true,
            summary: format!("hooks {at} ended well: {}", names.join(", ")),
        }))
    }
}

/// One name per hook of a release of this very Deployment: one that was removed and made again begins to count anew.
fn job_name(release: &Release, index: usize) -> String {
    // A Job's pods carry its name as a label, so it may not be longer than one.
    let short: String = release.deployment.chars().take(63 - 28).collect();
    let uid: String = release.uid.chars().take(8).collect();
    let short = short.trim_end_matches(['-', '.']);
    format!("wade-{short}-{uid}-{}-{index}", release.number)
}

/// The Job as it is sent.
///
/// # Errors
/// One sentence: why there can be none.
fn job(
    release: &Release,
    deployment: &Value,
    cron: &Value,
    index: usize,
    hook: &CronJobHook,
    epoch: u64,
) -> Result<Value, String> {
    let mut spec = cron["spec"]["jobTemplate"]["spec"].clone();
    let fields = spec.as_object_mut().ok_or("its CronJob has no job in it")?;
    for theirs in ["suspend", "selector", "manualSelector"] {
        fields.remove(theirs);
    }
    let within = hook.within.unwrap_or(HOOK_WITHIN).0.as_secs().max(1);
    fields.insert("activeDeadlineSeconds".to_owned(), json!(within));
    fields.entry("ttlSecondsAfterFinished").or_insert(json!(KEPT_S));
    let own = json!({
        "app.kubernetes.io/managed-by": "wade", ROLLOUT: release.deployment, PART: HOOK, NUMBER: release.number.to_string(),
    });
    let pod = &mut spec["template"];
    let mut labels = pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    if isolation::matches(&deployment["spec"]["selector"], &Value::Object(labels.clone())) {
        return Err(format!(
            "the pods of CronJob {} have the labels of deployment {}, so users would be sent to them; give them labels of their own",
            hook.cron_job, release.deployment
        ));
    }
    labels.extend(own.as_object().cloned().unwrap_or_default());
    pod["metadata"]["labels"] = Value::Object(labels);
    let image = hook
        .image_from
        .as_deref()
        .map(|from| image_of(&release.template, from))
        .transpose()?;
    let told = [
        ("WADE_ROLLOUT", release.deployment.clone()),
        ("WADE_RELEASE", release.number.to_string()),
        ("WADE_HOOK", hook.at.label().to_owned()),
    ];
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        if let Some(image) = &image {
            container["image"] = json!(image);
        }
        let mut env = list(container, "/env").to_vec();
        for (name, value) in &told {
            if !env.iter().any(|variable| text(variable, "/name") == *name) {
                env.push(json!({ "name": name, "value": value }));
            }
        }
        container["env"] = Value::Array(env);
    }
    let mut owners = Vec::new();
    if !uid(deployment).is_empty() {
        owners.push(
            json!({ "apiVersion": Kind::Deployment.api_version(), "kind": Kind::Deployment.name(),
            "name": release.deployment, "uid": uid(deployment) }),
        );
    }
    Ok(json!({
        "apiVersion": Kind::Job.api_version(), "kind": Kind::Job.name(),
        "metadata": {
            "name": job_name(release, index), "labels": own,
            "annotations": { "cronjob.kubernetes.io/instantiate": "manual", EPOCH: epoch.to_string() },
            "ownerReferences": owners,
        },
        "spec": spec,
    }))
}

/// The new image of a container.
fn image_of(template: &Value, container: &str) -> Result<String, String> {
    let of = list(template, "/spec/containers");
    of.iter()
        .find(|one| text(one, "/name") == container)
        .map(|one| text(one, "/image").to_owned())
        .ok_or_else(|| {
            let there: Vec<&str> = of.iter().map(|one| text(one, "/name")).collect();
            format!(
                "imageFrom names container {container}, and the Deployment has: {}",
                there.join(", ")
            )
        })
}

fn standing(job: &Value) -> Standing {
    let is = |of: &str| {
        list(job, "/status/conditions")
            .iter()
            .find(|condition| text(condition, "/type") == of && text(condition, "/status") == "True")
    };
    if is("Complete").or(is("SuccessCriteriaMet")).is_some() {
        return Standing::Well;
    }
    match is("Failed").or(is("FailureTarget")) {
        Some(failed) => {
            let message = text(failed, "/message");
            let message = if message.is_empty() {
                text(failed, "/reason")
            } else {
                message
            };
            Standing::Failed(message.to_owned())
        }
        None => Standing::Running,
    }
}

/// Why a pod will not start by waiting.
fn hopeless(pod: &Value) -> Option<String> {
    list(pod, "/status/containerStatuses").iter().find_map(|container| {
        let waiting = container.pointer("/state/waiting")?;
        let reason = text(waiting, "/reason");
        HOPELESS
            .contains(&reason)
            .then(|| format!("{reason}: {}", text(waiting, "/message")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Span;

    fn release() -> Release {
        serde_json::from_value(json!({
            "deployment": "checkout", "uid": "0a1b2c3d-1111", "number": 7, "stable": "s", "canary": "c",
            "template": {"spec": {"containers": [{"name": "app", "image": "shop/checkout:2"}]}},
            "isolation": "pin", "services": [], "before": {"replicas": 3, "maxSurge": "25%", "maxUnavailable": "25%", "historyLimit": 10, "paused": false},
        }))
        .expect("a release")
    }

    fn cron(labels: &Value) -> Value {
        json!({"spec": {"suspend": true, "jobTemplate": {"spec": {
            "suspend": true, "backoffLimit": 1,
            "template": {"metadata": {"labels": labels}, "spec": {
                "serviceAccountName": "migrator", "restartPolicy": "Never",
                "containers": [{"name": "m", "image": "shop/checkout:1", "env": [{"name": "WADE_HOOK", "value": "mine"}]}],
            }},
        }}}})
    }

    fn hook(image_from: Option<&str>) -> CronJobHook {
        CronJobHook {
            cron_job: "migrate".to_owned(),
            at: HookPoint::BeforeStart,
            image_from: image_from.map(str::to_owned),
            within: Some(Span::secs(90)),
        }
    }

    fn deployment() -> Value {
        json!({"metadata": {"name": "checkout", "uid": "u"}, "spec": {"selector": {"matchLabels": {"app": "checkout"}}}})
    }

    #[test]
    fn a_job_is_the_cron_jobs_with_the_new_image_and_a_deadline() {
        let made = job(
            &release(),
            &deployment(),
            &cron(&json!({"job": "migrate"})),
            0,
            &hook(Some("app")),
            3,
        );
        let made = made.expect("it can be made");
        assert_eq!(name(&made), "wade-checkout-0a1b2c3d-7-0");
        assert_eq!(made["spec"]["activeDeadlineSeconds"], 90);
        assert_eq!(made["spec"]["backoffLimit"], 1);
        assert_eq!(
            made["spec"].get("suspend"),
            None,
            "the CronJob is suspended, not its Job"
        );
        let pod = &made["spec"]["template"];
        assert_eq!(pod["spec"]["serviceAccountName"], "migrator");
        assert_eq!(pod["spec"]["containers"][0]["image"], "shop/checkout:2");
        assert_eq!(pod["metadata"]["labels"]["job"], "migrate");
        let env = pod["spec"]["containers"][0]["env"].as_array().expect("a list");
        assert!(
            env.contains(&json!({"name": "WADE_HOOK", "value": "mine"})),
            "the author's own stays"
        );
        assert!(env.contains(&json!({"name": "WADE_RELEASE", "value": "7"})));
        assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "checkout");
        let longest = Release {
            deployment: "a".repeat(63),
            number: 1_000_000,
            ..release()
        };
        assert!(job_name(&longest, 15).len() <= 63, "{}", job_name(&longest, 15));
    }

    #[test]
    fn what_would_get_users_or_has_no_image_is_refused() {
        let users = job(
            &release(),
            &deployment(),
            &cron(&json!({"app": "checkout"})),
            0,
            &hook(None),
            3,
        );
        assert!(users.expect_err("users").contains("labels of their own"));
        let image = job(&release(), &deployment(), &cron(&json!({})), 0, &hook(Some("web")), 3);
        assert_eq!(
            image.expect_err("no such container"),
            "imageFrom names container web, and the Deployment has: app"
        );
    }

    #[test]
    fn how_a_job_stands_is_in_its_conditions() {
        let of = |kind: &str, message: &str| {
            standing(&json!({"status": {"conditions": [{"type": kind, "status": "True", "message": message}]}}))
        };
        assert_eq!(standing(&json!({"status": {"active": 1}})), Standing::Running);
        assert_eq!(of("Complete", ""), Standing::Well);
        assert_eq!(
            of("Failed", "Job was active longer than specified deadline"),
            Standing::Failed("Job was active longer than specified deadline".to_owned())
        );
        let waiting = |reason: &str| json!({"status": {"containerStatuses": [{"state": {"waiting": {"reason": reason, "message": "no such image"}}}]}});
        assert_eq!(
            hopeless(&waiting("ImagePullBackOff")).as_deref(),
            Some("ImagePullBackOff: no such image")
        );
        assert_eq!(hopeless(&waiting("ContainerCreating")), None);
    }
}
