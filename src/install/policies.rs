//! Admission without a webhook: policies in CEL, which the API server runs itself.
//!
//! *Hold* pauses an opted-in Deployment whenever somebody else changes its template, so that the change waits for a
//! release instead of rolling out. The others look: by default they warn, and in a namespace with the label
//! `wade.dev/enforce: "true"` they refuse. Three always refuse:
//! nobody asks for a release, or steers one, in another's name, and nobody has Wade make Jobs that they may not make.
//!
//! Limits of CEL, met here: it has no clock. A new Release carries its own time of creation; for a changed Deployment the
//! newest time of its managed fields is taken, which is the time of that change.

use serde_json::{Value, json};

use super::{HoldApi, SYSTEM, object, rights};
use crate::apiserver::Kind;
use crate::platforms::kubernetes::{HOLD, HOLD_POLICY, HOOKS_POLICY, PART, RELEASE, WRITE};

/// Label of a namespace in which policies refuse instead of warning.
pub const ENFORCE: &str = "wade.dev/enforce";

/// The policy that pauses, with its binding, in the version that the API server serves; nothing where it serves none.
pub fn hold(api: HoldApi) -> Vec<Value> {
    let (policy, binding) = match api {
        HoldApi::None => return Vec::new(),
        HoldApi::V1 => (Kind::MutatingAdmissionPolicyV1, Kind::MutatingAdmissionPolicyBindingV1),
        HoldApi::V1Beta1 => (Kind::MutatingAdmissionPolicy, Kind::MutatingAdmissionPolicyBinding),
    };
    let spec = json!({
        "matchConstraints": {
            "resourceRules": [deployments(&["UPDATE"])],
            "objectSelector": { "matchLabels": { HOLD: "true" } },
        },
        "matchConditions": [
            {
                "name": "template-changed-or-unpaused-in-mid-release",
                "expression": format!(
                    "object.spec.template != oldObject.spec.template || ({} && ({} || ({} && !({}))))",
                    unpaused(), releasing(), waits(), let_through(),
                ),
            },
            { "name": "not-wade", "expression": not_wade() },
        ],
        // A policy that cannot be run must not stop anybody's change; the daemon sees what has rolled out, and says so.
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "Never",
        "mutations": [{
            "patchType": "ApplyConfiguration",
            "applyConfiguration": { "expression": "Object{spec: Object.spec{paused: true}}" },
        }],
    });
    vec![
        object(policy, HOLD_POLICY, json!({ "spec": spec })),
        object(binding, HOLD_POLICY, json!({ "spec": { "policyName": HOLD_POLICY } })),
    ]
}

/// The policies that look, with their bindings.
pub fn validating() -> Vec<Value> {
    let mut all = vec![
        author(),
        object(
            Kind::ValidatingAdmissionPolicyBinding,
            "wade-author",
            json!({ "spec": { "policyName": "wade-author", "validationActions": ["Deny"] } }),
        ),
        commander(),
        object(
            Kind::ValidatingAdmissionPolicyBinding,
            "wade-commander",
            json!({ "spec": { "policyName": "wade-commander", "validationActions": ["Deny"] } }),
        ),
        hooks(),
        object(
            Kind::ValidatingAdmissionPolicyBinding,
            HOOKS_POLICY,
            json!({ "spec": { "policyName": HOOKS_POLICY, "validationActions": ["Deny"] } }),
        ),
        guard(),
    ];
    all.extend(warn_or_deny("wade-guard", None));
    all.push(images());
    all.extend(warn_or_deny("wade-images", None));
    all.push(freeze());
    // Freezes of the object's own namespace, and those that count for all.
    all.extend(warn_or_deny("wade-freeze", Some(None)));
    all.extend(warn_or_deny("wade-freeze", Some(Some(SYSTEM))));
    all
}

fn deployments(operations: &[&str]) -> Value {
    json!({ "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": operations })
}

fn releases() -> Value {
    json!({
        "apiGroups": ["wade.dev"], "apiVersions": ["v1alpha1"], "resources": ["releases"], "operations": ["CREATE"],
    })
}

/// A release runs.
fn releasing() -> String {
    format!("'{RELEASE}' in oldObject.metadata.?annotations.orValue({{}})")
}

/// A template waits that is not rolled out, or nobody has looked yet whether one does.
fn waits() -> &'static str {
    "(oldObject.?status.?observedGeneration.orValue(0) < oldObject.metadata.?generation.orValue(0) || \
     oldObject.?status.?updatedReplicas.orValue(0) < oldObject.spec.?replicas.orValue(1))"
}

/// A person lets it through, or Wade does, or the Deployment is let go of. A tool whose manifests say `paused: false`
/// writes the same when it comes round, and means nothing by it: a version that has been taken back would roll out. It is
/// known by not being one of the commands by which people write.
fn let_through() -> String {
    format!(
        "request.?options.?fieldManager.orValue('') in ['kubectl-rollout', 'kubectl-patch', 'kubectl-edit'] || \
         request.userInfo.username == '{}' || object.metadata.?labels[?'{HOLD}'].orValue('') != 'true'",
        rights::user()
    )
}

/// It was paused, and is not any more.
fn unpaused() -> &'static str {
    "oldObject.spec.?paused.orValue(false) && !object.spec.?paused.orValue(false)"
}

/// The write is not one of Wade's, each of which changes this annotation.
fn not_wade() -> String {
    let of = |object: &str| format!("{object}.metadata.?annotations[?'{WRITE}'].orValue('')");
    format!(
        "{new} == '' || {new} == {old}",
        new = of("object"),
        old = of("oldObject")
    )
}

/// Nobody asks for a release in another's name. The daemon may, for callers of its API whom it has authenticated.
fn author() -> Value {
    let spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": { "resourceRules": [releases()] },
        "variables": [{ "name": "wade", "expression": format!("request.userInfo.username == '{}'", rights::user()) }],
        "validations": [
            {
                "expression": "variables.wade || object.spec.by == request.userInfo.username",
                "messageExpression": "'spec.by is ' + object.spec.by + ', but you are ' + request.userInfo.username + ': write your own name, the audit goes by it'",
                "reason": "Forbidden",
            },
            {
                "expression": "variables.wade || object.spec.?target.orValue('deploy') != 'held'",
                "message": "`target: held` is for releases that the daemon shows; leave it out to ask for one",
                "reason": "Forbidden",
            },
            {
                // Or the right to ask for releases would be the right to run any image.
                "expression": "variables.wade || authorizer.group('apps').resource('deployments')\
                               .namespace(request.namespace).check('patch').allowed()",
                "message": "a Release changes its Deployment, and you may not: that takes `patch` on deployments.apps in this namespace",
                "reason": "Forbidden",
            },
        ],
    });
    object(Kind::ValidatingAdmissionPolicy, "wade-author", json!({ "spec": spec }))
}

/// A hook is a Job that Wade makes, so whoever writes one must be allowed to make Jobs: the API server's own authorizer is
/// asked about the author, with all their groups, at the moment of writing. Whoever may create a Job in a namespace may
/// run it as any ServiceAccount there; Kubernetes has no finer right.
fn hooks() -> Value {
    let spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": { "resourceRules": [{
            "apiGroups": ["wade.dev"], "apiVersions": ["v1alpha1"], "resources": ["rollouts"], "operations": ["CREATE", "UPDATE"],
        }]},
        "matchConditions": [{
            "name": "hooks-written",
            "expression": "object.spec.?hooks.orValue([]).size() > 0 && (oldObject == null || object.spec.?hooks != oldObject.spec.?hooks)",
        }],
        "validations": [{
            "expression": "authorizer.group('batch').resource('jobs').namespace(request.namespace).check('create').allowed()",
            "messageExpression": "'hooks are Jobs that run when this is released, and ' + request.userInfo.username + ' may not make any: that takes `create` on jobs.batch in namespace ' + request.namespace",
            "reason": "Forbidden",
        }],
    });
    object(Kind::ValidatingAdmissionPolicy, HOOKS_POLICY, json!({ "spec": spec }))
}

/// Nobody steers a release in another's name either, or in that of a group which may open a gate. Commands wait in the
/// record as JSON, in one line of text; what is added there must name its writer. Quotes in a reason are escaped, so
/// they cannot look like a name.
fn commander() -> Value {
    let found = |object: &str, what: &str| format!("{object}.?data[?'commands'].orValue('').findAll('{what}')");
    // However it is laid out: the name alone, and the words of the list one after the other.
    let users = |object: &str| {
        format!(
            "{}.map(found, found.split('\"')[3])",
            found(object, r#""user":\\s*"[^"]*""#)
        )
    };
    let groups = |object: &str| {
        format!(
            "{}.map(found, found.findAll('\"[^\"]*\"').join(' '))",
            found(object, r#""groups":\\s*\\[[^\\]]*\\]"#)
        )
    };
    let before = |list: String| format!("oldObject == null ? [] : {list}");
    let spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE", "UPDATE"],
            }],
            "objectSelector": { "matchLabels": { PART: "record" } },
        },
        "matchConditions": [{
            "name": "not-the-daemon", "expression": format!("request.userInfo.username != '{}'", rights::user()),
        }],
        "variables": [
            { "name": "users", "expression": users("object") },
            { "name": "usersBefore", "expression": before(users("oldObject")) },
            { "name": "groups", "expression": groups("object") },
            { "name": "groupsBefore", "expression": before(groups("oldObject")) },
        ],
        "validations": [
            {
                "expression": "variables.users.all(user, user == request.userInfo.username \
                               || variables.users.filter(u, u == user).size() <= variables.usersBefore.filter(u, u == user).size())",
                "messageExpression": "'a command is recorded under the name of who gives it, and you are ' + request.userInfo.username",
                "reason": "Forbidden",
            },
            {
                "expression": "variables.groups.all(list, \
                               variables.groups.filter(l, l == list).size() <= variables.groupsBefore.filter(l, l == list).size() \
                               || list.split(' ').all(word, word == '\"groups\"' || word.replace('\"', '') in request.userInfo.?groups.orValue([])))",
                "message": "a command is recorded with the groups of who gives it, and you are not in all of these",
                "reason": "Forbidden",
            },
        ],
    });
    object(
        Kind::ValidatingAdmissionPolicy,
        "wade-commander",
        json!({ "spec": spec }),
    )
}

/// `kubectl rollout resume` in mid-release, where no policy pauses it again.
fn guard() -> Value {
    let spec = json!({
        "failurePolicy": "Ignore",
        "matchConstraints": {
            "resourceRules": [deployments(&["UPDATE"])],
            "objectSelector": { "matchLabels": { HOLD: "true" } },
        },
        "matchConditions": [{ "name": "not-wade", "expression": not_wade() }],
        "validations": [{
            "expression": format!("!({}) || !({})", releasing(), unpaused()),
            "messageExpression": "'a release of deployment ' + object.metadata.name + ' is running: use `wade promote` or `wade abort`, not `kubectl rollout resume`'",
        }],
    });
    object(Kind::ValidatingAdmissionPolicy, "wade-guard", json!({ "spec": spec }))
}

/// Images without a tag, or with one that moves.
fn images() -> Value {
    let spec = json!({
        "failurePolicy": "Ignore",
        "matchConstraints": {
            "resourceRules": [deployments(&["CREATE", "UPDATE"])],
            "objectSelector": { "matchLabels": { HOLD: "true" } },
        },
        "matchConditions": [{
            "name": "template-changed",
            "expression": "oldObject == null || object.spec.template != oldObject.spec.template",
        }],
        "variables": [{
            "name": "loose",
            "expression": "(object.spec.template.spec.containers.map(c, c.image) + object.spec.template.spec.?initContainers.orValue([]).map(c, c.image))\
                           .filter(i, !i.contains('@') && (!i.split('/')[i.split('/').size() - 1].contains(':') || i.endsWith(':latest')))",
        }],
        "validations": [{
            "expression": "variables.loose.size() == 0",
            "messageExpression": "'an image that may change under its name cannot be released or gone back to: ' + variables.loose.join(', ') + '; write a tag or a digest'",
        }],
    });
    object(Kind::ValidatingAdmissionPolicy, "wade-images", json!({ "spec": spec }))
}

/// Changes while a Freeze lasts. The daemon holds Releases to it by the clock; this says so at once, to whoever writes.
fn freeze() -> Value {
    let within = "(!has(params.spec.from) || at >= params.spec.from) && at <= params.spec.until";
    let on = |list: &str| format!("{list}.exists(at, {within})");
    let spec = json!({
        "failurePolicy": "Ignore",
        "paramKind": { "apiVersion": Kind::Freeze.api_version(), "kind": Kind::Freeze.name() },
        "matchConstraints": { "resourceRules": [releases(), deployments(&["UPDATE"])] },
        "matchConditions": [
            {
                "name": "held-or-asked",
                "expression": format!("request.resource.resource == 'releases' || object.metadata.?labels[?'{HOLD}'].orValue('') == 'true'"),
            },
            {
                "name": "something-new",
                "expression": "request.resource.resource == 'releases' ? object.spec.?target.orValue('deploy') != 'rollback' : object.spec.template != oldObject.spec.template",
            },
            { "name": "not-wade", "expression": format!("request.resource.resource == 'releases' || {}", not_wade()) },
        ],
        "variables": [
            { "name": "release", "expression": "request.resource.resource == 'releases'" },
            { "name": "rollout", "expression": "variables.release ? object.spec.rollout : object.metadata.name" },
            {
                "name": "excepted",
                "expression": "params.spec.?except.orValue([]).exists(e, e == variables.rollout || e == request.namespace + '/' + variables.rollout) \
                               || (variables.release && object.spec.?emergency.orValue(false) && params.spec.?emergencies.orValue('allowed') == 'allowed')",
            },
            { "name": "labels", "expression": "namespaceObject.metadata.?labels.orValue({})" },
            {
                // By the labels of its Rollout, which cannot be seen here, the daemon alone holds it.
                "name": "meant",
                "expression": "!has(params.spec.rollouts) && (!has(params.spec.namespaces) || (\
                               params.spec.namespaces.?matchLabels.orValue({}).all(k, k in variables.labels && variables.labels[k] == params.spec.namespaces.matchLabels[k]) \
                               && params.spec.namespaces.?matchExpressions.orValue([]).all(e, \
                               e.operator == 'Exists' ? e.key in variables.labels : \
                               e.operator == 'DoesNotExist' ? !(e.key in variables.labels) : \
                               (e.operator == 'In') == (e.key in variables.labels && variables.labels[e.key] in e.values))))",
            },
            {
                "name": "frozen",
                "expression": format!(
                    "variables.release ? {} : ({} && !object.metadata.?managedFields.orValue([]).exists(m, has(m.time) && m.time > params.spec.until))",
                    on("[object.metadata.creationTimestamp]"),
                    on("object.metadata.?managedFields.orValue([]).filter(m, has(m.time)).map(m, m.time)"),
                ),
            },
        ],
        "validations": [{
            "expression": "!variables.meant || variables.excepted || !variables.frozen",
            "messageExpression": "'freeze ' + params.metadata.namespace + '/' + params.metadata.name + ' of ' + params.spec.by + ' until ' + string(params.spec.until) + ': ' + params.spec.reason",
        }],
    });
    object(Kind::ValidatingAdmissionPolicy, "wade-freeze", json!({ "spec": spec }))
}

/// Two bindings: one that warns, and one that refuses where that is opted in to. `freezes` asks for the Freezes of the
/// object's own namespace, or of the one that is named.
fn warn_or_deny(policy: &str, freezes: Option<Option<&str>>) -> [Value; 2] {
    [("warn", "NotIn", "Warn"), ("deny", "In", "Deny")].map(|(word, operator, action)| {
        let mut spec = json!({
            "policyName": policy,
            "validationActions": [action],
            "matchResources": { "namespaceSelector": { "matchExpressions": [
                { "key": ENFORCE, "operator": operator, "values": ["true"] },
            ]}},
        });
        let mut name = format!("{policy}-{word}");
        if let Some(namespace) = freezes {
            spec["paramRef"] = json!({ "selector": {}, "parameterNotFoundAction": "Allow" });
            if let Some(namespace) = namespace {
                spec["paramRef"]["namespace"] = json!(namespace);
                name = format!("{policy}-all-{word}");
            }
        }
        object(Kind::ValidatingAdmissionPolicyBinding, &name, json!({ "spec": spec }))
    })
}
