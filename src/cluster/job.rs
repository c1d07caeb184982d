//! Wade's own work as a Job in the cluster: the step itself (`wade deploy --in-cluster`), which then outlives the pipeline
//! that asked for it, and the watchdog (`--watchdog`), which takes back what a step that died left behind.
//!
//! A Job is what Kubernetes restarts where a node goes away, and the record is what makes that safe: the next pod sees
//! a release that was left and goes on with it. So a Job tries again when its pod was taken away, and never because a
//! release ended badly: an exit code is an answer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Cluster, told};
use crate::apiserver::value::{condition, list, name, text, uid};
use crate::apiserver::{Fault, Kind, Selection};
use crate::daemon::api::{Problem, ProblemKind};
use crate::platforms::kubernetes::{PART, ROLLOUT};

/// Where the files of a step are in its pod.
pub const FILES: &str = "/etc/wade";
/// How long a finished Job is kept to be looked at, in seconds.
const KEPT_S: u32 = 3600;
/// How often a pod that was taken away is replaced.
const RETRIES: u32 = 6;
/// Over the longest time that the work may take: starting, waiting for another release's Lease.
const GRACE: Duration = Duration::from_secs(600);
const CONTAINER: &str = "wade";
/// The exit codes by which a release is answered (DESIGN.md section 7).
const ANSWERS: [u8; 8] = [2, 3, 4, 5, 6, 8, 9, 10];

/// What the Job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// It carries a release.
    Step,
    /// It waits for the end of a release, and brings it about if whoever carries it is gone.
    Watchdog,
}

/// A Job to be made.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// What for.
    pub work: Work,
    /// The rollout.
    pub rollout: String,
    /// An image with `wade` in it.
    pub image: String,
    /// The ServiceAccount it runs as, in the rollout's namespace; `wade rbac` prints what it needs.
    pub account: String,
    /// The words after `wade`.
    pub words: Vec<String>,
    /// Files in [`FILES`], by name.
    pub files: BTreeMap<String, String>,
    /// Variables of the environment.
    pub env: BTreeMap<String, String>,
    /// How long the work may take at most.
    pub longest: Duration,
}

/// How a Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStanding {
    /// Nothing of it runs yet; why, if something speaks against it.
    Starting(Option<String>),
    /// Its pod runs.
    Running,
    /// It has ended with this exit code, and these were its last words.
    Ended(i32, String),
}

impl JobSpec {
    /// The Job as it is sent.
    pub fn job(&self) -> Value {
        let (part, policy) = match self.work {
            // An answer is no reason to try again; a pod that was taken away is, and so is what has no code of its own
            // (1: interrupted, among others) or a cluster that could not be reached (7).
            Work::Step => (
                "step",
                json!({ "rules": [
                    { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] },
                    { "action": "FailJob", "onExitCodes":
                        { "containerName": CONTAINER, "operator": "In", "values": ANSWERS } },
                ] }),
            ),
            Work::Watchdog => (
                "watchdog",
                json!({ "rules": [{ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] }] }),
            ),
        };
        let labels = json!({ "app.kubernetes.io/managed-by": "wade", ROLLOUT: self.rollout, PART: part });
        let env: Vec<Value> = self
            .env
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let mut container = json!({
            "name": CONTAINER, "image": self.image, "args": self.words, "env": env,
            "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } },
            "securityContext": { "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] } },
        });
        let mut pod = json!({
            "restartPolicy": "Never", "serviceAccountName": self.account, "terminationGracePeriodSeconds": 30,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
        });
        if !self.files.is_empty() {
            container["volumeMounts"] = json!([{ "name": "files", "mountPath": FILES, "readOnly": true }]);
            pod["volumes"] = json!([{ "name": "files", "configMap": { "name": self.name() } }]);
        }
        pod["containers"] = json!([container]);
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": self.name(), "labels": labels },
            "spec": {
                "backoffLimit": RETRIES, "ttlSecondsAfterFinished": KEPT_S,
                "activeDeadlineSeconds": (self.longest + GRACE).as_secs(),
                "podFailurePolicy": policy,
                "template": { "metadata": { "labels": labels }, "spec": pod },
            },
        })
    }

    /// Its name: a new one for each release, told apart by what it does.
    pub fn name(&self) -> String {
        let digest = {
            use sha2::{Digest as _, Sha256};
            let mut hash = Sha256::new();
            for word in &self.words {
                hash.update(word.as_bytes());
                hash.update([0]);
            }
            for (name, text) in &self.files {
                hash.update(name.as_bytes());
                hash.update(text.as_bytes());
            }
            hash.finalize()
        };
        let suffix: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let work = match self.work {
            Work::Step => "step",
            Work::Watchdog => "watchdog",
        };
        // A Job's pods carry its name as a label, so it may not be longer than one.
        let rollout: String = self.rollout.chars().take(63 - 23).collect();
        format!("wade-{work}-{}-{suffix}", rollout.trim_end_matches(['-', '.']))
    }

    /// The ConfigMap with its files, which goes with it.
    fn file_map(&self, job: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": self.name(),
                "labels": { "app.kubernetes.io/managed-by": "wade", ROLLOUT: self.rollout, PART: "job" },
                "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": name(job), "uid": uid(job) }] },
            "data": self.files,
        })
    }
}

impl Cluster {
    /// Asks whether a Job could be made, and makes nothing.
    ///
    /// # Errors
    /// As [`Self::start_job`].
    pub async fn try_job(&self, spec: &JobSpec) -> Result<(), Problem> {
        self.check_account(spec).await?;
        match self.api.try_create(Kind::Job, &spec.job()).await {
            Ok(_) => Ok(()),
            Err(error) if error.fault == Fault::Exists => Ok(()),
            Err(error) => Err(told(&error)),
        }
    }

    async fn check_account(&self, spec: &JobSpec) -> Result<(), Problem> {
        if matches!(self.api.get(Kind::ServiceAccount, &spec.account).await, Ok(None)) {
            return Err(Problem::new(
                ProblemKind::Conflict,
                format!(
                    "there is no ServiceAccount {account} in namespace {namespace} for the Job to run as; make it with what it may do: `kubectl create serviceaccount {account} -n {namespace}` and `wade rbac -n {namespace} --service-account {namespace}/{account} | kubectl apply -f -`",
                    account = spec.account,
                    namespace = self.namespace()
                ),
            ));
        }
        Ok(())
    }

    /// Makes a Job, and what it reads. One with the same name that has ended is replaced; one that runs is the answer.
    ///
    /// # Errors
    /// Not permitted, not reachable, refused by the cluster.
    pub async fn start_job(&self, spec: &JobSpec) -> Result<Value, Problem> {
        self.check_account(spec).await?;
        let wanted = spec.job();
        let there = self
            .api
            .get(Kind::Job, name(&wanted))
            .await
            .map_err(|error| told(&error))?;
        if let Some(there) = there {
            if ["Complete", "Failed"].iter().all(|kind| !holds(&there, kind)) {
                return Ok(there);
            }
            self.api
                .delete(Kind::Job, name(&there), Some(uid(&there)))
                .await
                .map_err(|error| told(&error))?;
            self.job_gone(name(&there)).await?;
        }
        let job = self
            .api
            .create(Kind::Job, &wanted)
            .await
            .map_err(|error| told(&error))?;
        if !spec.files.is_empty() {
            let files = spec.file_map(&job);
            // One of the Job before may still be on its way out; the pod waits for this one.
            let _ = self.api.delete(Kind::ConfigMap, name(&files), None).await;
            self.api
                .create(Kind::ConfigMap, &files)
                .await
                .map_err(|error| told(&error))?;
        }
        Ok(job)
    }

    /// Removes a Job, its pods and its files.
    ///
    /// # Errors
    /// Not permitted, not reachable.
    pub async fn remove_job(&self, job: &str) -> Result<(), Problem> {
        let removed = self.api.delete(Kind::Job, job, None).await;
        removed.map_err(|error| told(&error))
    }

    async fn job_gone(&self, name: &str) -> Result<(), Problem> {
        for _ in 0..100 {
            match self.api.get(Kind::Job, name).await {
                Ok(Some(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                Ok(None) => return Ok(()),
                Err(error) => return Err(told(&error)),
            }
        }
        Err(Problem::new(
            ProblemKind::Conflict,
            format!("the Job {name} of the release before does not go; `kubectl delete job/{name}` says why"),
        ))
    }

    /// How a Job stands.
    ///
    /// # Errors
    /// Not permitted, not reachable, or somebody has deleted it.
    pub async fn job_standing(&self, job: &str) -> Result<JobStanding, Problem> {
        let object = self.api.get(Kind::Job, job).await.map_err(|error| told(&error))?;
        let Some(object) = object else {
            return Err(Problem::new(
                ProblemKind::NotFound,
                format!("the Job {job} is gone: somebody has deleted it"),
            ));
        };
        let which = Selection::labels(format!("batch.kubernetes.io/job-name={job}"));
        let mut pods = self.api.list(Kind::Pod, &which).await.map_err(|error| told(&error))?;
        pods.sort_by(|a, b| text(a, "/metadata/creationTimestamp").cmp(text(b, "/metadata/creationTimestamp")));
        let newest = pods.last();
        for kind in ["Complete", "Failed"] {
            if holds(&object, kind) {
                let code = newest.and_then(exit_code).unwrap_or(i32::from(kind == "Failed"));
                let words = match newest {
                    Some(pod) => self.api.log(name(pod), CONTAINER, false, 40).await.unwrap_or_default(),
                    None => condition(&object, kind)
                        .map_or("", |one| text(one, "/message"))
                        .to_owned(),
                };
                return Ok(JobStanding::Ended(code, words));
            }
        }
        match newest {
            Some(pod) if text(pod, "/status/phase") == "Running" => Ok(JobStanding::Running),
            Some(pod) => Ok(JobStanding::Starting(waits_for(pod))),
            None => Ok(JobStanding::Starting(self.why_no_pod(job).await)),
        }
    }

    /// The newest warning about a Job that has no pod: a ServiceAccount that is missing, a quota, an admission policy.
    async fn why_no_pod(&self, job: &str) -> Option<String> {
        let which = Selection::fields(format!(
            "involvedObject.kind=Job,involvedObject.name={job},type=Warning"
        ));
        let events = self.api.list(Kind::Event, &which).await.ok()?;
        let newest = events
            .iter()
            .max_by_key(|event| text(event, "/lastTimestamp").to_owned())?;
        Some(text(newest, "/message").to_owned())
    }
}

fn holds(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|one| text(one, "/status") == "True")
}

fn exit_code(pod: &Value) -> Option<i32> {
    let status = list(pod, "/status/containerStatuses").first()?;
    let code = status.pointer("/state/terminated/exitCode")?.as_i64()?;
    i32::try_from(code).ok()
}

/// Why a pod's container does not run, where the kubelet says so.
fn waits_for(pod: &Value) -> Option<String> {
    let state = list(pod, "/status/containerStatuses").first()?.get("state")?;
    let waiting = state.get("waiting").or_else(|| state.get("terminated"))?;
    let reason = text(waiting, "/reason");
    (!matches!(reason, "" | "ContainerCreating" | "PodInitializing")).then(|| {
        format!("{reason}: {}", text(waiting, "/message"))
            .trim_end_matches([':', ' '])
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::apiserver::ApiServer;
    use crate::apiserver::testing::FakeServer;
    use crate::clock::SystemClock;
    use crate::cluster::Options;

    const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";
    const ACCOUNT: &str = "/api/v1/namespaces/shop/serviceaccounts/wade";

    fn spec() -> JobSpec {
        JobSpec {
            work: Work::Step,
            rollout: "checkout".to_owned(),
            image: "registry.example/wade:1".to_owned(),
            account: "wade".to_owned(),
            words: vec!["deploy".to_owned(), "deployment/checkout".to_owned()],
            files: BTreeMap::from([("rollout.yaml".to_owned(), "kind: Rollout".to_owned())]),
            env: BTreeMap::from([("CI_COMMIT_SHA".to_owned(), "3fa9".to_owned())]),
            longest: Duration::from_secs(900),
        }
    }

    fn cluster(fake: &FakeServer) -> Cluster {
        let api = ApiServer::over(fake.client("shop"), "shop");
        Cluster::new(api, Options::default(), Arc::new(SystemClock)).expect("a client")
    }

    #[test]
    fn a_jobs_pod_may_do_nothing_but_ask_the_cluster() {
        let job = spec().job();
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
        assert_eq!(
            pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"],
            json!(true)
        );
        assert_eq!(
            pod["containers"][0]["securityContext"]["capabilities"]["drop"],
            json!(["ALL"])
        );
        assert_eq!(job["spec"]["activeDeadlineSeconds"], json!(1500));
        // Which comes first decides: a pod that was taken away ends with a code as well.
        assert_eq!(job["spec"]["podFailurePolicy"]["rules"][0]["action"], json!("Ignore"));
    }

    #[test]
    fn a_name_is_a_label_and_tells_two_releases_apart() {
        let long = JobSpec {
            rollout: "x".repeat(63),
            ..spec()
        };
        assert!(long.name().len() <= 63, "{}", long.name());
        let other = JobSpec {
            words: vec!["deploy".to_owned(), "deployment/other".to_owned()],
            ..spec()
        };
        assert_eq!(spec().name(), spec().name());
        assert_ne!(spec().name(), other.name());
    }

    #[tokio::test]
    async fn an_account_that_is_missing_is_said_before_anything_is_made() {
        let fake = FakeServer::new();
        let error = cluster(&fake).start_job(&spec()).await.expect_err("there is none");
        assert!(error.message.contains("no ServiceAccount wade"), "{}", error.message);
        assert!(fake.objects(JOBS).is_empty());
    }

    #[tokio::test]
    async fn a_job_that_runs_is_followed_and_one_that_ended_is_replaced() {
        let fake = FakeServer::new();
        fake.put(ACCOUNT, json!({ "metadata": { "name": "wade", "namespace": "shop" } }));
        let cluster = cluster(&fake);
        let first = cluster.start_job(&spec()).await.expect("made");
        let again = cluster.start_job(&spec()).await.expect("it runs");
        assert_eq!(uid(&first), uid(&again));
        fake.edit(&format!("{JOBS}/{}", spec().name()), |job| {
            job["status"] = json!({ "conditions": [{ "type": "Failed", "status": "True", "message": "deadline" }] });
        });
        assert_eq!(
            cluster.job_standing(&spec().name()).await,
            Ok(JobStanding::Ended(1, "deadline".to_owned()))
        );
        let replaced = cluster.start_job(&spec()).await.expect("made anew");
        assert_ne!(uid(&first), uid(&replaced));
        let files = fake
            .object(&format!("/api/v1/namespaces/shop/configmaps/{}", spec().name()))
            .expect("its files");
        assert_eq!(
            files["metadata"]["ownerReferences"][0]["uid"],
            replaced["metadata"]["uid"]
        );
    }
}
