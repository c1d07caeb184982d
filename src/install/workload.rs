//! The daemon's Deployment and what surrounds it.
//!
//! Nothing in the pod can be written but an empty folder; nobody in it is root; nothing can be gained by it. The
//! NetworkPolicy lets it reach everything but link-local addresses, where clouds keep credentials: it has to ask pods,
//! Prometheus and webhooks wherever they are.

use serde_json::{Value, json};

use super::{NAME, SYSTEM, Settings, labels, object};
use crate::apiserver::Kind;

/// Who the daemon runs as. The Dockerfile says the same, which a test compares.
pub const USER: u32 = 65532;
/// What the image starts.
pub const ENTRYPOINT: &str = "/wade";
/// How it is started in a cluster.
pub const ARGUMENTS: [&str; 2] = ["serve", "--cluster"];
/// The port of the API, TLS.
pub const API: u16 = 8443;
/// The port of metrics and probes, plain.
pub const METRICS: u16 = 9090;
/// The Secret with the API's certificate (`tls.crt`, `tls.key`), if there is one.
pub const TLS_SECRET: &str = "wade-tls";
/// Where it is mounted.
pub const TLS_FOLDER: &str = "/etc/wade/tls";

/// The namespace. It keeps to the strictest pod security that Kubernetes has.
pub fn namespace() -> Value {
    let mut namespace = object(Kind::Namespace, SYSTEM, json!({}));
    namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = json!("restricted");
    namespace
}

/// Everything else.
pub fn all(settings: &Settings) -> Vec<Value> {
    vec![service(), network_policy(), budget(), deployment(settings)]
}

fn selector() -> Value {
    json!({ "app.kubernetes.io/name": NAME })
}

/// The Deployment.
pub fn deployment(settings: &Settings) -> Value {
    object(
        Kind::Deployment,
        NAME,
        json!({ "spec": {
            "replicas": settings.replicas,
            "selector": { "matchLabels": selector() },
            // A new one is warm before an old one goes; a leader that goes hands over at once.
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": {
                    "labels": labels(),
                    "annotations": {
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": METRICS.to_string(),
                    },
                },
                "spec": pod(settings),
            },
        }}),
    )
}

fn pod(settings: &Settings) -> Value {
    let probe = |path: &str, every: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": "metrics" },
            "periodSeconds": every, "timeoutSeconds": 3, "failureThreshold": failures,
        })
    };
    let spread = |key: &str| {
        json!({
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": selector() },
        })
    };
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    json!({
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "topologySpreadConstraints": [spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")],
        "containers": [{
            "name": NAME,
            "image": settings.image,
            "imagePullPolicy": "IfNotPresent",
            "args": ARGUMENTS,
            "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")],
            "ports": [
                { "name": "api", "containerPort": API, "protocol": "TCP" },
                { "name": "metrics", "containerPort": METRICS, "protocol": "TCP" },
            ],
            // Live: the loop turns. Ready: everything that is watched has been seen once.
            "livenessProbe": probe("/healthz", 10, 3),
            "readinessProbe": probe("/readyz", 5, 2),
            "startupProbe": probe("/healthz", 2, 30),
            "resources": {
                "requests": { "cpu": "50m", "memory": "64Mi" },
                "limits": { "memory": "256Mi" },
            },
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "volumeMounts": [
                { "name": "tmp", "mountPath": "/tmp" },
                { "name": "tls", "mountPath": TLS_FOLDER, "readOnly": true },
            ],
        }],
        "volumes": [
            { "name": "tmp", "emptyDir": { "sizeLimit": "64Mi" } },
            { "name": "tls", "secret": { "secretName": TLS_SECRET, "optional": true } },
        ],
    })
}

fn service() -> Value {
    let port = |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": name, "protocol": "TCP" });
    object(
        Kind::Service,
        NAME,
        json!({ "spec": {
            "type": "ClusterIP", "selector": selector(), "ports": [port("api", API), port("metrics", METRICS)],
        }}),
    )
}

fn budget() -> Value {
    object(
        Kind::PodDisruptionBudget,
        NAME,
        json!({ "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector() } } }),
    )
}

fn network_policy() -> Value {
    let port = |port: u16| json!({ "port": port, "protocol": "TCP" });
    object(
        Kind::NetworkPolicy,
        NAME,
        json!({ "spec": {
            "podSelector": { "matchLabels": selector() },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "ports": [port(API), port(METRICS)] }],
            "egress": [{ "to": [
                { "ipBlock": { "cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"] } },
                { "ipBlock": { "cidr": "::/0", "except": ["fe80::/10"] } },
            ]}],
        }}),
    )
}
