//! Who may do what: the daemon's own rights, each with its reason, and roles for people.
//!
//! The daemon's list starts from what a release takes in a pipeline ([`crate::cluster::rbac`]), because the daemon does
//! the same in every namespace. No Secrets, and no Jobs: a right to read every Secret, or to run pods under every
//! ServiceAccount by name, is not needed for releasing. What needs them is given in the namespace it is for, by binding
//! the ClusterRoles `wade-hooks` there, or a Role of one's own for one Secret.
//!
//! It is still much: whoever may create ReplicaSets may run pods with any account of that namespace. A cluster that does
//! not want this everywhere replaces the ClusterRoleBinding by RoleBindings in the namespaces that use Wade, with
//! `wade-watch` bound in the whole cluster.

use serde_json::{Value, json};

use super::{NAME, SYSTEM, object};
use crate::apiserver::Kind;
use crate::cluster::rbac::{self, Part};
use crate::store::configmap;
use crate::store::lease::LEADER;

const READ: [&str; 3] = ["get", "list", "watch"];
/// What may be asked of a running release; each a verb of its own on `releases.wade.dev`.
pub const COMMANDS: [&str; 8] = [
    "approve", "promote", "abort", "rollback", "pause", "resume", "retry", "settle",
];

/// All of it, in the order of the manifests.
pub fn all() -> Vec<Value> {
    let leader = configmap::name(LEADER);
    vec![
        object(Kind::ServiceAccount, NAME, json!({})),
        cluster_role("wade", releasing()),
        bound("wade", "wade"),
        cluster_role("wade-watch", watching()),
        bound("wade-watch", "wade-watch"),
        cluster_role("wade-hooks", hooks()),
        people("wade-view", "view", viewing()),
        people("wade-edit", "edit", editing()),
        people("wade-admin", "admin", administering()),
        object(Kind::Role, NAME, json!({ "rules": own() })),
        object(
            Kind::RoleBinding,
            NAME,
            json!({ "roleRef": reference("Role", NAME), "subjects": [account()] }),
        ),
        object(Kind::Role, &leader, json!({ "rules": alive() })),
        object(
            Kind::RoleBinding,
            &leader,
            json!({ "roleRef": reference("Role", &leader), "subjects": [everybody()] }),
        ),
        cluster_role("wade-strategies", offered()),
        object(
            Kind::ClusterRoleBinding,
            "wade-strategies",
            json!({ "roleRef": reference("ClusterRole", "wade-strategies"), "subjects": [everybody()] }),
        ),
    ]
}

/// What a pipeline's step asks: whether there is a daemon, and what counts for all. Who holds a Lease, and since when, is
/// no secret; nor is why nothing may begin.
fn alive() -> Vec<Value> {
    let mut lease = rule("coordination.k8s.io", &["leases"], &["get"]);
    lease["resourceNames"] = json!([configmap::name(LEADER)]);
    vec![lease, rule("wade.dev", &["freezes"], &READ)]
}

/// Everybody may use the strategies that are offered, and is held to their minima.
fn offered() -> Vec<Value> {
    vec![rule("wade.dev", &["clusterstrategies"], &READ)]
}

fn everybody() -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated" })
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

/// What a release takes, in whichever namespace it is.
fn releasing() -> Vec<Value> {
    let mut rules: Vec<Value> = rbac::ALL
        .iter()
        // The daemon reaches pods by their addresses; the API server's way to any port of any pod is not for it. What
        // it asks of Wade's own kinds is in `watching`.
        .filter(|rule| !matches!(rule.part, Part::Scrape | Part::Hooks | Part::Daemon))
        .map(|rule| {
            json!({
                "apiGroups": [rule.kind.group()], "resources": [rbac::resource(rule)], "verbs": rule.verbs,
            })
        })
        .collect();
    // What is left paused or held shows as Events; who watches Leases sees at once that a step has died.
    rules.push(rule("", &["events"], &["create", "patch"]));
    rules.push(rule("coordination.k8s.io", &["leases"], &["list", "watch", "patch"]));
    rules
}

/// What it watches in the whole cluster, and asks the API server about its callers.
fn watching() -> Vec<Value> {
    vec![
        rule("wade.dev", &["rollouts", "clusterstrategies", "freezes"], &READ),
        // Of its own it makes a Release for a change that somebody else made, and clears old ones away.
        rule("wade.dev", &["releases"], &["get", "list", "watch", "create", "delete"]),
        rule(
            "wade.dev",
            &["rollouts/status", "releases/status"],
            &["get", "patch", "update"],
        ),
        rule("apps", &["deployments"], &READ),
        rule("", &["namespaces"], &READ),
        rule("", &["nodes"], &["list"]),
        rule(
            "admissionregistration.k8s.io",
            &[
                "mutatingadmissionpolicies",
                "mutatingadmissionpolicybindings",
                "validatingadmissionpolicybindings",
            ],
            &["get", "list"],
        ),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
    ]
}

/// What it does in its own namespace: nothing that it could not do elsewhere, but its election must work even where the
/// ClusterRoleBinding has been replaced.
fn own() -> Vec<Value> {
    vec![
        rule(
            "coordination.k8s.io",
            &["leases"],
            &["get", "list", "watch", "create", "update", "patch"],
        ),
        rule("", &["events"], &["create", "patch"]),
    ]
}

/// For a RoleBinding in a namespace whose Rollouts have hooks.
fn hooks() -> Vec<Value> {
    rbac::ALL
        .iter()
        .filter(|rule| rule.part == Part::Hooks)
        .map(|one| rule(one.kind.group(), &[one.kind.plural()], one.verbs))
        .collect()
}

fn viewing() -> Vec<Value> {
    vec![rule("wade.dev", &["rollouts", "releases", "freezes"], &READ)]
}

fn editing() -> Vec<Value> {
    let asking: Vec<&str> = ["create", "delete"].into_iter().chain(COMMANDS).collect();
    vec![
        rule("wade.dev", &["rollouts"], &["create", "update", "patch", "delete"]),
        rule("wade.dev", &["releases"], &asking),
    ]
}

fn administering() -> Vec<Value> {
    vec![rule("wade.dev", &["freezes"], &["create", "update", "patch", "delete"])]
}

fn cluster_role(name: &str, rules: Vec<Value>) -> Value {
    let mut role = json!({});
    role["rules"] = Value::Array(rules);
    object(Kind::ClusterRole, name, role)
}

/// A role for people, which Kubernetes adds to its own `view`, `edit` and `admin`.
fn people(name: &str, to: &str, rules: Vec<Value>) -> Value {
    let mut role = cluster_role(name, rules);
    role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{to}")] = json!("true");
    role
}

fn bound(name: &str, role: &str) -> Value {
    object(
        Kind::ClusterRoleBinding,
        name,
        json!({ "roleRef": reference("ClusterRole", role), "subjects": [account()] }),
    )
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "apiGroup": Kind::ClusterRole.group(), "kind": kind, "name": name })
}

fn account() -> Value {
    json!({ "kind": Kind::ServiceAccount.name(), "name": NAME, "namespace": SYSTEM })
}

/// The daemon, as the API server names it.
pub fn user() -> String {
    format!("system:serviceaccount:{SYSTEM}:{NAME}")
}
