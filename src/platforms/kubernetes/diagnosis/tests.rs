use serde_json::json;

use super::*;

const NOW: &str = "2026-03-01T10:01:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn set() -> Value {
    json!({"metadata": {"name": "app-5d4", "uid": "set"}, "spec": {"replicas": 1}, "status": {"replicas": 1}})
}

/// A pod whose container `app` has this status; it was placed and has never been ready.
#[expect(clippy::needless_pass_by_value, reason = "it reads as a literal where it is called")]
fn pod(status: Value) -> Value {
    let mut all = json!({"name": "app", "image": "registry.example/shop/app:1.4.2", "ready": false, "restartCount": 0});
    all.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    json!({
        "metadata": {"name": "app-5d4-x1", "uid": "pod"},
        "spec": {"containers": [{
            "name": "app", "image": "registry.example/shop/app:1.4.2",
            "resources": {"limits": {"memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
        }]},
        "status": {
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-03-01T10:00:00Z"},
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady",
                 "lastTransitionTime": "2026-03-01T10:00:00Z"},
            ],
            "containerStatuses": [all],
        }
    })
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"state": {"waiting": {"reason": reason, "message": message}}})
}

fn terminated(code: u64, reason: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason,
           "startedAt": "2026-03-01T10:00:01Z", "finishedAt": "2026-03-01T10:00:03Z"}})
}

fn event(reason: &str, message: &str) -> Value {
    json!({"type": "Warning", "reason": reason, "message": message, "count": 1,
           "lastTimestamp": "2026-03-01T10:00:05Z",
           "involvedObject": {"kind": "Pod", "name": "app-5d4-x1", "uid": "pod", "fieldPath": "spec.containers{app}"}})
}

fn said(pod: Value, events: &[Value], log: &str) -> (String, bool, String) {
    let logs = BTreeMap::from([("app-5d4-x1".to_owned(), log.to_owned())]);
    match diagnose(&set(), &[pod], events, &logs, now()) {
        Some(found) => (found.kind, found.fatal, found.message),
        None => (String::new(), false, String::new()),
    }
}

const PULL: &str = "failed to pull and unpack image \"registry.example/shop/app:1.4.2\": failed to resolve reference \
                    \"registry.example/shop/app:1.4.2\": ";

fn pull_error(code: &str, words: &str) -> String {
    format!("rpc error: code = {code} desc = {PULL}{words}")
}

#[test]
fn images_that_cannot_be_pulled_are_told_apart() {
    let not_found = pull_error("NotFound", "registry.example/shop/app:1.4.2: not found");
    let denied = pull_error(
        "Unknown",
        "pull access denied, repository does not exist or may require authorization: server message: \
         insufficient_scope: authorization failed",
    );
    let refused = pull_error(
        "Unknown",
        "failed to do request: Head \"https://registry.example/v2/shop/app/manifests/1.4.2\": dial tcp \
         192.0.2.7:443: connect: connection refused",
    );
    let counted = |count: u64| {
        let mut event = event(
            "Failed",
            &format!("Failed to pull image \"registry.example/shop/app:1.4.2\": {refused}"),
        );
        event["count"] = json!(count);
        event
    };
    let mut with_secret = pod(waiting("ErrImagePull", &denied));
    with_secret["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
    let lost = event(
        "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (pull); attempting to pull the image may not succeed.",
    );
    let cases = [
        (
            pod(waiting("ErrImagePull", &not_found)),
            vec![],
            (
                "imageNotFound",
                true,
                "the registry does not have it: registry.example/shop/app:1.4.2: not found; look at the tag",
            ),
        ),
        (
            // Before 1.32 the kubelet did not repeat the reason while backing off.
            pod(waiting(
                "ImagePullBackOff",
                "Back-off pulling image \"registry.example/shop/app:1.4.2\"",
            )),
            vec![event(
                "Failed",
                &format!("Failed to pull image \"registry.example/shop/app:1.4.2\": {not_found}"),
            )],
            (
                "imageNotFound",
                true,
                "the registry does not have it: registry.example/shop/app:1.4.2: not found",
            ),
        ),
        (
            pod(waiting(
                "ImagePullBackOff",
                &format!("Back-off pulling image \"registry.example/shop/app:1.4.2\": ErrImagePull: {not_found}"),
            )),
            vec![],
            ("imageNotFound", true, "registry.example/shop/app:1.4.2: not found"),
        ),
        (
            pod(waiting("ErrImagePull", &denied)),
            vec![],
            (
                "imageForbidden",
                true,
                "the registry refuses it and the pods name no pull secret",
            ),
        ),
        (
            with_secret.clone(),
            vec![],
            ("imageForbidden", true, "does not accept pull secret pull"),
        ),
        (
            with_secret,
            vec![lost],
            ("imageForbidden", true, "pull secret pull is not there"),
        ),
        (
            pod(waiting("ErrImagePull", &refused)),
            vec![counted(1)],
            (
                "registryUnreachable",
                false,
                "its registry cannot be reached: failed to do request",
            ),
        ),
        (
            pod(waiting("ErrImagePull", &refused)),
            vec![counted(3)],
            ("registryUnreachable", true, "connection refused"),
        ),
        (
            pod(waiting(
                "InvalidImageName",
                "Failed to apply default image tag \"App:1\": couldn't parse image name",
            )),
            vec![],
            ("invalidImage", true, "has an image that is none"),
        ),
        (
            pod(waiting(
                "ErrImageNeverPull",
                "Container image \"app:1\" is not present with pull policy of Never",
            )),
            vec![],
            ("imageNotFound", true, "imagePullPolicy Never"),
        ),
        (
            pod(waiting(
                "ErrImagePull",
                "rpc error: code = Unknown desc = unexpected EOF",
            )),
            vec![],
            ("imagePull", false, "unexpected EOF"),
        ),
    ];
    check(cases.into_iter().map(|(pod, events, wanted)| (pod, events, "", wanted)));
}

fn check<'a>(cases: impl IntoIterator<Item = (Value, Vec<Value>, &'a str, (&'a str, bool, &'a str))>) {
    for (pod, events, log, (kind, fatal, words)) in cases {
        let (seen, is_fatal, message) = said(pod, &events, log);
        assert_eq!((seen.as_str(), is_fatal), (kind, fatal), "{words}: {message}");
        assert!(message.contains(words), "{words} is not in: {message}");
    }
}

#[test]
fn what_keeps_a_container_from_being_made_is_named() {
    let runc = |end: &str| {
        format!(
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create \
             failed: unable to start container process: error during container init: {end}"
        )
    };
    let start_error = |restarts: u64| {
        let mut status = json!({"restartCount": restarts, "state": terminated(128, "StartError")});
        status["state"]["terminated"]["message"] = json!(runc("exec: \"serve\": executable file not found in $PATH"));
        status
    };
    check([
        (
            pod(waiting(
                "CreateContainerConfigError",
                "configmap \"settings\" not found",
            )),
            vec![],
            "",
            (
                "configMissing",
                true,
                "container app of pod app-5d4-x1 cannot be created: configmap \"settings\" not found; apply it",
            ),
        ),
        (
            pod(waiting(
                "CreateContainerConfigError",
                "couldn't find key token in Secret shop/app",
            )),
            vec![],
            "",
            ("configMissing", true, "couldn't find key token in Secret shop/app"),
        ),
        (
            pod(waiting(
                "CreateContainerConfigError",
                "container has runAsNonRoot and image will run as root (pod: \"app-5d4-x1_shop(pod)\", container: app)",
            )),
            vec![],
            "",
            ("cannotStart", true, "set runAsUser"),
        ),
        (
            pod(waiting(
                "RunContainerError",
                &runc("exec: \"serve\": executable file not found in $PATH"),
            )),
            vec![],
            "",
            (
                "commandNotFound",
                true,
                "cannot be started: exec: \"serve\": executable file not found in $PATH; look at `command`",
            ),
        ),
        (
            pod(start_error(0)),
            vec![],
            "",
            ("commandNotFound", true, "exec: \"serve\": executable file not found"),
        ),
        (
            pod(waiting(
                "RunContainerError",
                &runc("exec: \"/app/run.sh\": permission denied"),
            )),
            vec![],
            "",
            ("commandNotFound", true, "make the file executable"),
        ),
        (
            pod(waiting("CreateContainerError", "context deadline exceeded")),
            vec![],
            "",
            ("cannotStart", false, "context deadline exceeded"),
        ),
    ]);
}

#[test]
fn the_second_crash_is_fatal_and_the_first_of_a_pod_that_was_ready() {
    let crashed = |code: u64, restarts: u64| json!({"restartCount": restarts, "state": terminated(code, "Error")});
    let mut was_ready = pod(crashed(1, 0));
    was_ready["status"]["conditions"][1]["lastTransitionTime"] = json!("2026-03-01T10:00:03Z");
    let looping = json!({"restartCount": 3, "lastState": terminated(2, "Error"), "state": {"waiting": {
        "reason": "CrashLoopBackOff",
        "message": "back-off 40s restarting failed container=app pod=app-5d4-x1_shop(pod)"}}});
    let recovered = json!({"restartCount": 1, "ready": true, "lastState": terminated(1, "Error"),
        "state": {"running": {"startedAt": "2026-03-01T10:00:04Z"}}});
    let log = "connecting to postgres://app:hunter2@db/shop\npanic: DB_URL is not set\ngoroutine 1 [running]:";
    check([
        (
            pod(crashed(1, 0)),
            vec![],
            log,
            (
                "crashed",
                false,
                "ended with exit code 1: connecting to postgres://…@db/shop | panic: DB_URL is not set",
            ),
        ),
        (
            pod(crashed(1, 1)),
            vec![],
            log,
            ("crashLoop", true, "ended with exit code 1, twice so far: "),
        ),
        (
            pod(looping),
            vec![],
            "",
            (
                "crashLoop",
                true,
                "ended with exit code 2, 4 times so far; `kubectl logs --previous`",
            ),
        ),
        (
            was_ready,
            vec![],
            "",
            ("crashed", true, "ended with exit code 1 after it had been ready"),
        ),
        (
            pod(recovered),
            vec![],
            "",
            ("crashed", false, "ended with exit code 1; "),
        ),
        (
            pod(crashed(139, 1)),
            vec![],
            "",
            ("crashLoop", true, "exit code 139 (SIGSEGV)"),
        ),
        (
            pod(crashed(127, 0)),
            vec![],
            "",
            ("commandNotFound", true, "exit code 127"),
        ),
        (
            pod(crashed(126, 0)),
            vec![],
            "",
            ("commandNotFound", true, "exit code 126"),
        ),
        (pod(crashed(0, 0)), vec![], "", ("", false, "")),
        (
            pod(crashed(0, 1)),
            vec![],
            "",
            ("crashLoop", true, "ends by itself with exit code 0, twice so far"),
        ),
    ]);
}

#[test]
fn memory_is_told_with_its_limit() {
    let killed = json!({"restartCount": 1, "lastState": terminated(137, "OOMKilled"), "state": {"running": {}}});
    let mut unlimited = pod(killed.clone());
    unlimited["spec"]["containers"][0]["resources"] = json!({});
    check([
        (
            pod(killed),
            vec![],
            "",
            (
                "outOfMemory",
                true,
                "used more memory than its limit of 64Mi; raise the memory limit",
            ),
        ),
        (
            unlimited,
            vec![],
            "",
            ("outOfMemory", true, "the node had no memory left"),
        ),
    ]);
}

#[test]
fn probes_are_told_with_what_they_were_answered() {
    let running = || json!({"state": {"running": {"startedAt": "2026-03-01T10:00:01Z"}}});
    let mut other = event(
        "Unhealthy",
        "Readiness probe failed: HTTP probe failed with statuscode: 500",
    );
    other["involvedObject"]["fieldPath"] = json!("spec.containers{proxy}");
    let liveness = "Liveness probe failed: Get \"http://10.0.0.7:8080/live\": context deadline exceeded";
    let killing = event("Killing", "Container app failed liveness probe, will be restarted");
    let restarted = |restarts: u64| json!({"restartCount": restarts, "lastState": terminated(137, "Error"), "state": {"running": {}}});
    let ready = json!({"ready": true, "state": {"running": {}}});
    let failed = || {
        event(
            "Unhealthy",
            "Readiness probe failed: HTTP probe failed with statuscode: 503",
        )
    };
    check([
        (
            pod(running()),
            vec![failed()],
            "",
            (
                "probeFailing",
                false,
                "is not ready, its readiness probe GET :8080/healthz fails: HTTP probe failed with statuscode: 503; look",
            ),
        ),
        (pod(running()), vec![other], "", ("", false, "")),
        (pod(ready), vec![failed()], "", ("", false, "")),
        (
            pod(restarted(1)),
            vec![event("Unhealthy", liveness), killing.clone()],
            "",
            ("crashLoop", false, "was killed because its liveness probe failed: Get"),
        ),
        (
            pod(restarted(2)),
            vec![event("Unhealthy", liveness), killing],
            "",
            ("crashLoop", true, "was killed because its liveness probe failed"),
        ),
    ]);
}

#[test]
fn a_pod_without_a_place_is_given_time_or_a_node() {
    let unplaced = |since: &str, message: &str| {
        let mut pod = pod(json!({}));
        pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message, "lastTransitionTime": since}]);
        pod["status"]["containerStatuses"] = json!([]);
        pod
    };
    let cpu = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: 3 No preemption \
               victims found for incoming pod.";
    let taint =
        "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}. no new claims to deallocate";
    let (early, late) = ("2026-03-01T10:00:31Z", "2026-03-01T10:00:30Z");
    check([
        (
            unplaced(early, cpu),
            vec![],
            "",
            (
                "unschedulable",
                false,
                "has no place: 0/3 nodes are available: 3 Insufficient cpu; add nodes",
            ),
        ),
        (
            unplaced(late, cpu),
            vec![],
            "",
            ("unschedulable", true, "3 Insufficient cpu"),
        ),
        (
            unplaced(late, cpu),
            vec![event(
                "TriggeredScaleUp",
                "pod triggered scale-up: [{pool 3->4 (max: 10)}]",
            )],
            "",
            ("unschedulable", false, "a node is being added"),
        ),
        (
            unplaced(late, taint),
            vec![],
            "",
            ("unschedulable", true, "add a toleration"),
        ),
    ]);
}

#[test]
fn pods_that_the_server_refuses_are_told_by_the_replica_set() {
    let quota = "pods \"app-5d4-\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5";
    let security = "pods \"app-5d4-x\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true";
    let webhook = "admission webhook \"policy.example\" denied the request: images must come from registry.example";
    let down =
        "Internal error occurred: failed calling webhook \"policy.example\": failed to call webhook: Post: dial tcp";
    let account =
        "pods \"app-5d4-\" is forbidden: error looking up service account shop/app: serviceaccount \"app\" not found";
    let rights = "pods is forbidden: User \"system:serviceaccount:kube-system:replicaset-controller\" cannot create \
                  resource \"pods\" in API group \"\" in the namespace \"shop\"";
    let cases = [
        (quota, "quotaExceeded", true),
        (security, "admissionDenied", true),
        (webhook, "admissionDenied", true),
        (down, "cannotCreatePods", false),
        (account, "cannotCreatePods", true),
        (rights, "permissionDenied", true),
    ];
    let none: [Value; 0] = [];
    for (message, kind, fatal) in cases {
        let mut failing = set();
        failing["status"] = json!({"replicas": 0, "conditions": [
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}]});
        let found = diagnose(&failing, &none, &none, &BTreeMap::new(), now()).unwrap();
        assert_eq!((found.kind.as_str(), found.fatal), (kind, fatal), "{}", found.message);
        assert!(
            found.message.starts_with("ReplicaSet app-5d4 cannot create pods: "),
            "{}",
            found.message
        );
        // The event is there before the condition.
        failing["status"] = json!({"replicas": 0});
        let mut created = event("FailedCreate", &format!("Error creating: {message}"));
        created["involvedObject"] = json!({"kind": "ReplicaSet", "name": "app-5d4", "uid": "set"});
        let from_event = diagnose(&failing, &none, &[&created], &BTreeMap::new(), now()).unwrap();
        assert_eq!(from_event, found);
        assert_eq!(
            diagnose(&set(), &none, &[created], &BTreeMap::new(), now()),
            None,
            "it has all its pods since"
        );
    }
}

#[test]
fn volumes_that_cannot_be_mounted_are_told() {
    let creating = || pod(waiting("ContainerCreating", ""));
    let mount = |message: &str| event("FailedMount", message);
    check([
        (
            creating(),
            vec![mount(
                "MountVolume.SetUp failed for volume \"settings\" : configmap \"settings\" not found",
            )],
            "",
            ("configMissing", true, "pod app-5d4-x1 cannot mount its volumes"),
        ),
        (
            creating(),
            vec![mount(
                "MountVolume.SetUp failed for volume \"s\" : configmap references non-existent config key: app.yaml",
            )],
            "",
            ("configMissing", true, "app.yaml"),
        ),
        (
            creating(),
            vec![mount(
                "MountVolume.SetUp failed for volume \"s\" : failed to sync configmap cache: timed out waiting for the condition",
            )],
            "",
            ("volumeMount", false, "timed out"),
        ),
        (
            creating(),
            vec![event(
                "FailedAttachVolume",
                "Multi-Attach error for volume \"pvc-1\" Volume is already used by pod(s) app-1",
            )],
            "",
            ("volumeMount", true, "ReadWriteMany"),
        ),
        (
            creating(),
            vec![event(
                "FailedCreatePodSandBox",
                "Failed to create pod sandbox: plugin type=\"bridge\" failed",
            )],
            "",
            ("cannotStart", false, "network"),
        ),
        (
            pod(json!({"ready": true, "state": {"running": {}}})),
            vec![mount("late")],
            "",
            ("", false, ""),
        ),
    ]);
}

#[test]
fn evicted_and_leaving_pods_end_no_release() {
    let mut evicted = pod(json!({"state": terminated(137, "Error"), "restartCount": 1}));
    evicted["status"]["phase"] = json!("Failed");
    evicted["status"]["reason"] = json!("Evicted");
    evicted["status"]["message"] = json!("The node was low on resource: memory. ");
    let mut preempted = pod(json!({"state": {"running": {}}}));
    preempted["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True",
        "reason": "PreemptionByScheduler", "message": "default-scheduler: preempting to accommodate a higher priority pod"}]);
    let mut leaving = pod(json!({"state": terminated(143, "Error"), "restartCount": 1}));
    leaving["metadata"]["deletionTimestamp"] = json!(NOW);
    check([
        (
            evicted,
            vec![],
            "",
            ("evicted", false, "The node was low on resource: memory. (Evicted)"),
        ),
        (preempted, vec![], "", ("evicted", false, "PreemptionByScheduler")),
        (leaving, vec![], "", ("", false, "")),
    ]);
}

#[test]
fn the_worst_is_told_first_with_how_many_share_it() {
    let unready = || pod(json!({"state": {"running": {}}}));
    let missing = |name: &str| {
        let mut pod = pod(waiting("CreateContainerConfigError", "secret \"app\" not found"));
        pod["metadata"]["name"] = json!(name);
        pod
    };
    let pods = [unready(), missing("a"), missing("b"), missing("c")];
    let events = [event("Unhealthy", "Readiness probe failed: connection refused")];
    let found = diagnose(&set(), &pods, &events, &BTreeMap::new(), now()).unwrap();
    assert_eq!(
        found.message,
        "container app of pod a (and 2 more) cannot be created: secret \"app\" not found; apply it before the release, \
         or mark it optional"
    );
}

#[test]
fn init_containers_are_looked_at_and_may_end() {
    let mut pod = pod(waiting("PodInitializing", ""));
    let init = |code: u64, restarts: u64| json!([{"name": "migrate", "restartCount": restarts, "ready": code == 0, "state": terminated(code, "Error")}]);
    pod["status"]["initContainerStatuses"] = init(0, 1);
    assert_eq!(said(pod.clone(), &[], "").0, "");
    pod["status"]["initContainerStatuses"] = init(1, 1);
    let (kind, fatal, message) = said(pod, &[], "");
    assert_eq!((kind.as_str(), fatal), ("crashLoop", true));
    assert!(
        message.starts_with("container migrate of pod app-5d4-x1 ended with exit code 1, twice"),
        "{message}"
    );
}

#[test]
fn each_run_that_ended_badly_is_asked_for_once() {
    let log = |previous: bool, run: u64| WantedLog {
        pod: "app-5d4-x1".to_owned(),
        container: "app".to_owned(),
        previous,
        run,
    };
    let first = pod(json!({"state": terminated(1, "Error")}));
    let again = pod(json!({"restartCount": 1, "lastState": terminated(1, "Error"), "state": {"running": {}}}));
    let second = pod(json!({"restartCount": 1, "lastState": terminated(1, "Error"), "state": terminated(1, "Error")}));
    let fine = pod(json!({"restartCount": 1, "lastState": terminated(0, "Completed"), "state": {"running": {}}}));
    let never = pod(json!({"state": terminated(128, "StartError")}));
    assert_eq!(wants_log(&[first]), [log(false, 0)]);
    assert_eq!(wants_log(&[again]), [log(true, 0)]);
    assert_eq!(wants_log(&[second]), [log(false, 1)]);
    assert_eq!(wants_log(&[fine, never]), []);
}
