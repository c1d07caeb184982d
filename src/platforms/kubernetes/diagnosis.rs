//! What is wrong with the canary's pods, in one sentence: which object, what happened, what to try.
//!
//! Read from what Kubernetes says anyway: container states, pod conditions, the ReplicaSet's condition and Warning
//! events. Each sign becomes a finding; the worst is told, with how many pods share it.
//!
//! *Fatal* means that waiting does not help, so the release ends at once. The rules:
//! * A thing that is named and not there (image, command, ConfigMap, Secret, key) is fatal at once.
//! * A container that crashes is fatal at its second crash. The first may be a race with something that starts at the
//!   same time, and the kubelet starts it again within a second, so certainty costs little. A container that had been
//!   ready is fatal at its first crash: it would have taken users with it.
//! * A registry that cannot be reached is fatal at the third try, pods without a place after [`NO_PLACE_FOR`], unless a
//!   cluster autoscaler is at work.
//! * Failing readiness, evictions and the like are told and never fatal: limits of time are the engine's.

mod image;
mod text;

use std::borrow::Borrow;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::apiserver::value::{condition, count, is_leaving, list, name, number, text, time, uid};
use crate::engine::facts::Diagnosis;

use text::{clip, last_words};

/// How long pods may have no place before waiting is given up.
pub const NO_PLACE_FOR: SignedDuration = SignedDuration::from_secs(30);

/// A log that would tell why a container ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedLog {
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// The log of the run before the present one.
    pub previous: bool,
    /// Which run, counted from 0: each is worth asking for once.
    pub run: u64,
}

/// The logs worth reading: of every container that has ended badly.
pub fn wants_log<P: Borrow<Value>>(pods: &[P]) -> Vec<WantedLog> {
    let mut wanted = Vec::new();
    for pod in pods.iter().map(Borrow::borrow).filter(|pod| !is_leaving(pod)) {
        for status in statuses(pod) {
            let Some(ended) = Ended::of(status) else { continue };
            if ended.code != 0 && !ended.never_began {
                wanted.push(WantedLog {
                    pod: name(pod).to_owned(),
                    container: text(status, "/name").to_owned(),
                    previous: !ended.still,
                    run: ended.restarts - u64::from(!ended.still && ended.restarts > 0),
                });
            }
        }
    }
    wanted
}

/// The worst that is wrong with a ReplicaSet's pods. `logs` are the last lines by pod, as far as they were read.
pub fn diagnose<P: Borrow<Value>, E: Borrow<Value>>(
    set: &Value,
    pods: &[P],
    events: &[E],
    logs: &BTreeMap<String, String>,
    now: Timestamp,
) -> Option<Diagnosis> {
    let events: Vec<&Value> = events.iter().map(Borrow::borrow).collect();
    let mut findings: Vec<Finding> = refused_pods(set, &events).into_iter().collect();
    for pod in pods.iter().map(Borrow::borrow).filter(|pod| !is_leaving(pod)) {
        let seen = Seen {
            pod,
            events: events.iter().copied().filter(|event| is_about(event, pod)).collect(),
            log: logs.get(name(pod)).map(String::as_str),
        };
        findings.extend(seen.worst(now));
    }
    let worst = findings.iter().min_by_key(|finding| finding.rank())?;
    let alike = findings
        .iter()
        .filter(|finding| finding.problem == worst.problem)
        .count()
        - 1;
    let more = match alike {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Some(Diagnosis {
        kind: worst.problem.label().to_owned(),
        message: format!("{}{more} {}; {}", worst.object, worst.what, worst.advice),
        fatal: worst.fatal,
    })
}

/// The kind of a diagnosis that there is no quota left for a pod.
pub const QUOTA_EXCEEDED: &str = "quotaExceeded";

/// What can be wrong, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Problem {
    QuotaExceeded,
    AdmissionDenied,
    PermissionDenied,
    CannotCreatePods,
    OutOfMemory,
    CommandNotFound,
    CrashLoop,
    Crashed,
    InvalidImage,
    ImageNotFound,
    ImageForbidden,
    RegistryUnreachable,
    ImagePull,
    ConfigMissing,
    VolumeMount,
    CannotStart,
    Unschedulable,
    Evicted,
    ProbeFailing,
}

impl Problem {
    const fn label(self) -> &'static str {
        match self {
            Self::QuotaExceeded => QUOTA_EXCEEDED,
            Self::AdmissionDenied => "admissionDenied",
            Self::PermissionDenied => "permissionDenied",
            Self::CannotCreatePods => "cannotCreatePods",
            Self::OutOfMemory => "outOfMemory",
            Self::CommandNotFound => "commandNotFound",
            Self::CrashLoop => "crashLoop",
            Self::Crashed => "crashed",
            Self::InvalidImage => "invalidImage",
            Self::ImageNotFound => "imageNotFound",
            Self::ImageForbidden => "imageForbidden",
            Self::RegistryUnreachable => "registryUnreachable",
            Self::ImagePull => "imagePull",
            Self::ConfigMissing => "configMissing",
            Self::VolumeMount => "volumeMount",
            Self::CannotStart => "cannotStart",
            Self::Unschedulable => "unschedulable",
            Self::Evicted => "evicted",
            Self::ProbeFailing => "probeFailing",
        }
    }
}

/// One sign: what it happened to, what happened, what to try.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    problem: Problem,
    fatal: bool,
    object: String,
    what: String,
    advice: String,
}

impl Finding {
    fn rank(&self) -> (bool, Problem) {
        (!self.fatal, self.problem)
    }
}

/// Why the ReplicaSet cannot make pods at all.
fn refused_pods(set: &Value, events: &[&Value]) -> Option<Finding> {
    let failure = condition(set, "ReplicaFailure").filter(|one| text(one, "/status") == "True");
    let missing = count(set, "/status/replicas") < count(set, "/spec/replicas");
    let event = || {
        let failed = |event: &&&Value| text(event, "/reason") == "FailedCreate" && is_about(event, set);
        let last = events.iter().filter(failed).max_by_key(|event| when(event));
        let message = last.map(|event| text(event, "/message"));
        message.filter(|_| missing)
    };
    let message = failure.map(|one| text(one, "/message")).or_else(event)?;
    let message = message.strip_prefix("Error creating: ").unwrap_or(message);
    let has = |words: &str| message.contains(words);
    let (problem, fatal, advice) = if has("exceeded quota") {
        let advice = "raise the quota, or give the canary fewer pods (`finish: rolling`)";
        (Problem::QuotaExceeded, true, advice)
    } else if has("failed calling webhook") {
        // The webhook is down; the ReplicaSet tries again by itself.
        (Problem::CannotCreatePods, false, "look at the webhook's own pods")
    } else if has("denied the request") || has("denied request") || has("violates PodSecurity") {
        (
            Problem::AdmissionDenied,
            true,
            "change the pod template as the policy says",
        )
    } else if has("cannot create resource") {
        (
            Problem::PermissionDenied,
            true,
            "give the controller manager back its rights",
        )
    } else if has("service account") || has("serviceaccount") {
        (
            Problem::CannotCreatePods,
            true,
            "create the ServiceAccount that the template names",
        )
    } else if has("is forbidden") || has("must specify limits") {
        (
            Problem::AdmissionDenied,
            true,
            "change the pod template as the message says",
        )
    } else if has("is invalid") {
        (
            Problem::CannotCreatePods,
            true,
            "correct the pod template as the message says",
        )
    } else {
        (
            Problem::CannotCreatePods,
            false,
            "`kubectl describe replicaset` shows its events",
        )
    };
    Some(Finding {
        problem,
        fatal,
        object: format!("ReplicaSet {}", name(set)),
        what: format!("cannot create pods: {}", clip(message)),
        advice: advice.to_owned(),
    })
}

/// Whether an event is about an object: by uid, or by name where the event has none.
fn is_about(event: &Value, object: &Value) -> bool {
    match text(event, "/involvedObject/uid") {
        "" => text(event, "/involvedObject/name") == name(object),
        id => id == uid(object),
    }
}

/// All containers' statuses, init containers first: as long as one of them fails, the others have not begun.
fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let all = ["/status/initContainerStatuses", "/status/containerStatuses"];
    all.into_iter().flat_map(|at| list(pod, at))
}

/// How a container's last run ended.
struct Ended<'a> {
    code: u64,
    reason: &'a str,
    message: &'a str,
    restarts: u64,
    /// It has not been started again yet.
    still: bool,
    /// The runtime could not even start it.
    never_began: bool,
    began_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
}

impl<'a> Ended<'a> {
    fn of(status: &'a Value) -> Option<Self> {
        let now = status.pointer("/state/terminated");
        let ended = now.or_else(|| status.pointer("/lastState/terminated"))?;
        let reason = text(ended, "/reason");
        Some(Self {
            code: number(ended, "/exitCode").unwrap_or(0),
            reason,
            message: text(ended, "/message"),
            restarts: number(status, "/restartCount").unwrap_or(0),
            still: now.is_some(),
            never_began: ["StartError", "ContainerCannotRun"].contains(&reason),
            began_at: time(ended, "/startedAt"),
            ended_at: time(ended, "/finishedAt"),
        })
    }
}

/// One pod with what has been said of it.
struct Seen<'a> {
    pod: &'a Value,
    events: Vec<&'a Value>,
    log: Option<&'a str>,
}

impl<'a> Seen<'a> {
    fn worst(&self, now: Timestamp) -> Option<Finding> {
        if let Some(evicted) = self.evicted() {
            // What its containers say is how they were stopped.
            return Some(evicted);
        }
        let mut findings: Vec<Finding> = self.without_place(now).into_iter().collect();
        for status in statuses(self.pod) {
            findings.extend(self.waiting(status));
            findings.extend(self.ended(status));
        }
        findings.extend(self.mounts());
        findings.extend(self.probes());
        findings.into_iter().min_by_key(Finding::rank)
    }

    fn pod_named(&self) -> String {
        format!("pod {}", name(self.pod))
    }

    fn container_named(&self, status: &Value) -> String {
        format!("container {} of pod {}", text(status, "/name"), name(self.pod))
    }

    fn find(&self, problem: Problem, fatal: bool, object: String, what: String, advice: &str) -> Finding {
        Finding {
            problem,
            fatal,
            object,
            what,
            advice: advice.to_owned(),
        }
    }

    /// The container's own words in the pod's spec.
    fn spec_of(&self, container: &str) -> &'a Value {
        let all = ["/spec/containers", "/spec/initContainers"];
        let mut all = all.into_iter().flat_map(|at| list(self.pod, at));
        all.find(|one| text(one, "/name") == container).unwrap_or(&Value::Null)
    }

    /// The last event with this reason.
    fn event(&self, reason: &str) -> Option<&'a Value> {
        let of = self
            .events
            .iter()
            .copied()
            .filter(|event| text(event, "/reason") == reason);
        of.max_by_key(|event| when(event))
    }

    fn evicted(&self) -> Option<Finding> {
        let target = condition(self.pod, "DisruptionTarget").filter(|one| text(one, "/status") == "True");
        let failed = text(self.pod, "/status/phase") == "Failed";
        let why = match (target, failed) {
            (Some(target), _) => format!("{} ({})", clip(text(target, "/message")), text(target, "/reason")),
            (None, true) if !text(self.pod, "/status/reason").is_empty() => format!(
                "{} ({})",
                clip(text(self.pod, "/status/message")),
                text(self.pod, "/status/reason")
            ),
            (None, _) => return None,
        };
        let advice = "another pod takes its place; if it goes on, look at the node's memory and disk and at priorities";
        let what = format!("was removed from its node: {why}");
        Some(self.find(Problem::Evicted, false, self.pod_named(), what, advice))
    }

    fn without_place(&self, now: Timestamp) -> Option<Finding> {
        let placed = condition(self.pod, "PodScheduled").filter(|one| text(one, "/status") == "False")?;
        if text(placed, "/reason") != "Unschedulable" {
            return None;
        }
        let message = text(placed, "/message");
        let message = message
            .split(" preemption:")
            .next()
            .unwrap_or(message)
            .trim_end_matches('.');
        let since = time(placed, "/lastTransitionTime").unwrap_or(now);
        let grows = ["TriggeredScaleUp", "Nominated"]
            .iter()
            .any(|reason| self.event(reason).is_some());
        let has = |words: &str| message.contains(words);
        let advice = if has("Insufficient") || has("Too many pods") {
            "add nodes, lower the requests of the pods, or give the canary fewer (`finish: rolling`)"
        } else if has("taint") {
            "add a toleration, or nodes without the taint"
        } else if has("affinity") || has("selector") || has("spread") {
            "look at nodeSelector, affinity and topologySpreadConstraints of the template"
        } else if has("persistentvolumeclaim") || has("PersistentVolume") {
            "look at the volume claims of the template"
        } else {
            "`kubectl describe pod` shows what the scheduler says of each node"
        };
        let what = match grows {
            true => format!("has no place yet, and a node is being added: {}", clip(message)),
            false => format!("has no place: {}", clip(message)),
        };
        let fatal = !grows && now.duration_since(since) >= NO_PLACE_FOR;
        Some(self.find(Problem::Unschedulable, fatal, self.pod_named(), what, advice))
    }

    fn waiting(&self, status: &Value) -> Option<Finding> {
        let waiting = status.pointer("/state/waiting")?;
        let message = text(waiting, "/message");
        let object = || self.container_named(status);
        let reason = text(waiting, "/reason");
        if let Some(finding) = image::pulling(self, status, reason, message) {
            return Some(finding);
        }
        match reason {
            "CreateContainerConfigError" => {
                let (problem, advice) = if message.contains("not found") || message.contains("couldn't find key") {
                    (
                        Problem::ConfigMissing,
                        "apply it before the release, or mark it optional",
                    )
                } else if message.contains("runAsNonRoot") {
                    (
                        Problem::CannotStart,
                        "set runAsUser, or give the image a user that is not root",
                    )
                } else {
                    (Problem::CannotStart, "correct the container in the template")
                };
                let what = format!("cannot be created: {}", clip(message));
                Some(self.find(problem, true, object(), what, advice))
            }
            "CreateContainerError" | "RunContainerError" => Some(self.not_started(object(), message)),
            _ => None,
        }
    }

    /// The runtime refused to create or start a container.
    fn not_started(&self, object: String, message: &str) -> Finding {
        let has = |words: &str| message.contains(words);
        let what = format!("cannot be started: {}", clip(innermost(message)));
        if has("executable file not found") || has("no such file or directory") || has("no command specified") {
            let advice = "look at `command` in the template and at what the image really has";
            return self.find(Problem::CommandNotFound, true, object, what, advice);
        }
        if has("permission denied") {
            let advice = "make the file executable in the image, or run as a user who may";
            return self.find(Problem::CommandNotFound, true, object, what, advice);
        }
        if has("exec format error") {
            let advice = "build the image for the nodes' architecture";
            return self.find(Problem::CommandNotFound, true, object, what, advice);
        }
        let advice = "the kubelet tries again; look at the node if it goes on";
        self.find(Problem::CannotStart, false, object, what, advice)
    }

    fn ended(&self, status: &Value) -> Option<Finding> {
        let ended = Ended::of(status)?;
        let object = self.container_named(status);
        let is_init = list(self.pod, "/status/initContainerStatuses").contains(status);
        if ended.never_began {
            return Some(self.not_started(object, ended.message));
        }
        if ended.reason == "OOMKilled" {
            let limit = text(self.spec_of(text(status, "/name")), "/resources/limits/memory");
            let what = match limit {
                "" => "was killed because the node had no memory left for it".to_owned(),
                limit => format!("was killed because it used more memory than its limit of {limit}"),
            };
            let advice = "raise the memory limit, or look for what the new version keeps in memory";
            return Some(self.find(Problem::OutOfMemory, true, object, what, advice));
        }
        let loops = text(status, "/state/waiting/reason") == "CrashLoopBackOff";
        let again = loops || (ended.still && ended.restarts >= 1) || ended.restarts >= 2;
        if ended.code == 0 {
            // An init container is meant to end; a container of a Deployment is not.
            let advice = "a Deployment's container has to keep running; for work that ends use a Job";
            let what = format!("ends by itself with exit code 0, {} so far", times(ended.restarts + 1));
            return (again && !is_init).then(|| self.find(Problem::CrashLoop, true, object, what, advice));
        }
        if let Some(probe) = self.killed_by_probe(status) {
            let what = format!("was killed because its {probe}");
            let advice = "look at what the probe asks, and whether the container needs longer to start";
            return Some(self.find(Problem::CrashLoop, again, object, what, advice));
        }
        let was_ready = self.was_ready_until(&ended);
        let mut what = format!("ended with {}", exit_words(ended.code));
        if was_ready {
            what.push_str(" after it had been ready");
        }
        if again {
            what = format!(
                "{what}, {} so far",
                times(ended.restarts + u64::from(ended.still || loops))
            );
        }
        if let Some(words) = self.log.and_then(last_words).or_else(|| last_words(ended.message)) {
            what = format!("{what}: {words}");
        }
        let (problem, advice) = match ended.code {
            126 => (Problem::CommandNotFound, "make the command executable in the image"),
            127 => (
                Problem::CommandNotFound,
                "look at the command and at what the image really has",
            ),
            _ if again => (
                Problem::CrashLoop,
                "`kubectl logs --previous` shows all of its last run",
            ),
            _ => (Problem::Crashed, "`kubectl logs --previous` shows all of its last run"),
        };
        let fatal = again || was_ready || matches!(ended.code, 126 | 127);
        Some(self.find(problem, fatal, object, what, advice))
    }

    /// Whether the pod was ready until a container of it ended: then it stopped being ready in that moment, while a pod
    /// that never was ready has said so since before its containers ran.
    fn was_ready_until(&self, ended: &Ended<'_>) -> bool {
        let ready = condition(self.pod, "Ready").filter(|one| text(one, "/status") == "False");
        let since = ready.and_then(|one| time(one, "/lastTransitionTime"));
        match (since, ended.began_at, ended.ended_at) {
            (Some(since), Some(began), Some(end)) => since > began && since >= end,
            _ => false,
        }
    }

    /// The probe that had a container killed, and what it was answered.
    fn killed_by_probe(&self, status: &Value) -> Option<String> {
        let container = text(status, "/name");
        let killed = self.event("Killing").map(|event| text(event, "/message"))?;
        let kind = ["liveness", "startup"]
            .into_iter()
            .find(|kind| killed.contains(&format!("Container {container} failed {kind} probe")))?;
        let answer = self.unhealthy(kind, container);
        Some(match answer {
            Some(answer) => format!("{kind} probe failed: {}", clip(answer)),
            None => format!("{kind} probe failed"),
        })
    }

    /// What the last failed probe of a kind was answered.
    fn unhealthy(&self, kind: &str, container: &str) -> Option<&'a str> {
        let of = |event: &&&Value| {
            let message = text(event, "/message").to_ascii_lowercase();
            let place = text(event, "/involvedObject/fieldPath");
            text(event, "/reason") == "Unhealthy"
                && message.starts_with(kind)
                && (place.is_empty() || place.contains(&format!("{{{container}}}")))
        };
        let last = self.events.iter().filter(of).max_by_key(|event| when(event))?;
        let message = text(last, "/message");
        Some(message.split_once(": ").map_or(message, |(_, answer)| answer))
    }

    fn mounts(&self) -> Option<Finding> {
        let waits = |status: &Value| {
            let reason = text(status, "/state/waiting/reason");
            ["ContainerCreating", "PodInitializing"].contains(&reason)
        };
        if !statuses(self.pod).any(waits) {
            return None;
        }
        let failed = ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"];
        let event = failed
            .iter()
            .filter_map(|reason| self.event(reason))
            .max_by_key(|event| when(event))?;
        let message = text(event, "/message");
        let has = |words: &str| message.contains(words);
        let object = self.pod_named();
        if text(event, "/reason") == "FailedCreatePodSandBox" {
            let what = format!("gets no network or sandbox: {}", clip(message));
            let advice = "the kubelet tries again; look at the node and its network plugin if it goes on";
            return Some(self.find(Problem::CannotStart, false, object, what, advice));
        }
        let what = format!("cannot mount its volumes: {}", clip(message));
        let config = (has("configmap \"") || has("secret \"")) && has("not found");
        Some(if config || has("references non-existent") {
            let advice = "apply it before the release, or mark it optional";
            self.find(Problem::ConfigMissing, true, object, what, advice)
        } else if has("Multi-Attach") {
            let advice = "both versions cannot share this volume; use a ReadWriteMany claim";
            self.find(Problem::VolumeMount, true, object, what, advice)
        } else {
            let advice = "the kubelet tries again; look at the volume if it goes on";
            self.find(Problem::VolumeMount, false, object, what, advice)
        })
    }

    /// A container that runs and is not ready, with what its probe is answered.
    fn probes(&self) -> Option<Finding> {
        let running = statuses(self.pod).filter(|one| one.pointer("/state/running").is_some());
        running
            .filter(|one| one.get("ready") == Some(&Value::Bool(false)))
            .find_map(|status| {
                let container = text(status, "/name");
                let kinds = ["startup", "readiness", "liveness"];
                let (kind, answer) = kinds
                    .into_iter()
                    .find_map(|kind| self.unhealthy(kind, container).map(|answer| (kind, answer)))?;
                let asks = probe_words(self.spec_of(container), kind);
                let what = format!("is not ready, its {kind} probe{asks} fails: {}", clip(answer));
                let advice = "look at what the probe asks and at the container's log";
                Some(self.find(Problem::ProbeFailing, false, self.container_named(status), what, advice))
            })
    }
}

/// What a probe asks: ` GET :8080/healthz`.
fn probe_words(container: &Value, kind: &str) -> String {
    let Some(probe) = container.get(format!("{kind}Probe")) else {
        return String::new();
    };
    let port = |at: &str| match probe.pointer(at) {
        Some(Value::String(name)) => name.clone(),
        Some(port) => port.to_string(),
        None => String::new(),
    };
    match probe {
        probe if probe.get("httpGet").is_some() => {
            format!(" GET :{}{}", port("/httpGet/port"), text(probe, "/httpGet/path"))
        }
        probe if probe.get("grpc").is_some() => format!(" gRPC :{}", port("/grpc/port")),
        probe if probe.get("tcpSocket").is_some() => format!(" TCP :{}", port("/tcpSocket/port")),
        _ => String::new(),
    }
}

/// What a container ended with.
fn exit_words(code: u64) -> String {
    let signal = match code {
        132 => "SIGILL",
        134 => "SIGABRT",
        135 => "SIGBUS",
        136 => "SIGFPE",
        137 => "SIGKILL",
        139 => "SIGSEGV",
        143 => "SIGTERM",
        _ => return format!("exit code {code}"),
    };
    format!("exit code {code} ({signal})")
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    }
}

/// The end of a chain of wrapped errors, from the part that names what was executed.
fn innermost(message: &str) -> &str {
    let heads = [
        "exec: ",
        "error during container init: ",
        "unable to start container process: ",
    ];
    let from = heads.iter().find_map(|head| message.rfind(head));
    from.map_or(message, |from| &message[from..])
}

/// When an event was last seen, as text that sorts: all are RFC 3339 in UTC.
fn when(event: &Value) -> &str {
    let stamps = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/firstTimestamp",
    ];
    let said = stamps.iter().map(|at| text(event, at)).find(|stamp| !stamp.is_empty());
    said.unwrap_or_default()
}

#[cfg(test)]
mod tests;
