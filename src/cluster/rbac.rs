//! Which permissions a release takes, each with its reason: one list, from which `wade rbac` prints a Role and by which
//! `wade deploy` asks, before anything is touched, whether the caller has them.
//!
//! The caller's rights are asked for whole, in one request (SelfSubjectRulesReview). That answer may be incomplete (a
//! webhook that authorizes cannot list), so what is not in it is asked for by name (SelfSubjectAccessReview) before it is
//! called missing. What a release cannot do without ends it; the rest becomes a warning that says what will be worse.
//!
//! Not in the list: nodes. They are outside of every namespace, so no Role can give them; without them only the
//! estimate of room on the nodes is left out.

mod role;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::apiserver::value::{flag, list};
use crate::apiserver::{ApiError, ApiServer, Kind};
use crate::plan::Plan;
use crate::platforms::kubernetes::{Release, RouteKind};
use crate::spec::{AddressFrom, NotifySpec, SmokeTest, Source};

pub use role::{RoleFor, role};

/// Where the caller's rights are asked for whole.
const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
/// Where one is asked for by name.
const ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// What a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Every release.
    Release,
    /// Better words when a release fails.
    Words,
    /// Looking before anything is touched.
    Look,
    /// A route of the Gateway API.
    Route(RouteKind),
    /// A HorizontalPodAutoscaler.
    Hpa,
    /// KEDA.
    Keda,
    /// PodDisruptionBudgets.
    Budget,
    /// The author's own Jobs.
    Hooks,
    /// Requests to the pods through the API server.
    Scrape,
    /// Asking a daemon, and minding what those who run the cluster say.
    Daemon,
}

/// One rule of the Role.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// What it is for.
    pub part: Part,
    /// The kind of object.
    pub kind: Kind,
    /// A part of the object, `log`; empty for the object.
    pub sub: &'static str,
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// Why.
    pub why: &'static str,
    /// What is worse without it.
    pub without: &'static str,
}

const fn rule(
    part: Part,
    kind: Kind,
    verbs: &'static [&'static str],
    why: &'static str,
    without: &'static str,
) -> Rule {
    Rule {
        part,
        kind,
        sub: "",
        verbs,
        why,
        without,
    }
}

/// Every rule there is, in the order of the Role.
pub const ALL: [Rule; 25] = [
    rule(
        Part::Release,
        Kind::Deployment,
        &["get", "list", "watch", "patch"],
        "the Deployment is held, given the new template, and handed over",
        "",
    ),
    rule(
        Part::Release,
        Kind::ReplicaSet,
        &["get", "list", "watch", "create", "patch", "delete"],
        "the canary is a ReplicaSet: made, sized, handed to the Deployment or removed",
        "",
    ),
    rule(
        Part::Release,
        Kind::Pod,
        &["get", "list", "watch", "patch"],
        "the pods are watched, and the canary's are relabelled when they begin to serve",
        "",
    ),
    rule(
        Part::Release,
        Kind::Service,
        &["get", "list", "watch", "create", "patch", "delete"],
        "the canary has a Service of its own while the release runs; where no label isolates it, Services are pinned",
        "",
    ),
    rule(
        Part::Release,
        Kind::EndpointSlice,
        &["list", "watch"],
        "traffic moves only when the endpoints are seen",
        "",
    ),
    rule(
        Part::Release,
        Kind::Event,
        &["list", "watch"],
        "why a pod does not start is in its events",
        "",
    ),
    rule(
        Part::Release,
        Kind::ConfigMap,
        &["get", "list", "watch", "create", "patch", "delete"],
        "the record of the releases; and what owns the canary where there is no Service",
        "",
    ),
    rule(
        Part::Release,
        Kind::Lease,
        &["get", "create", "update"],
        "one wade at a time carries a release",
        "",
    ),
    Rule {
        part: Part::Words,
        kind: Kind::Pod,
        sub: "log",
        verbs: &["get"],
        why: "the last lines of a container that crashed, for the diagnosis",
        without: "a crash is reported without the container's last lines",
    },
    rule(
        Part::Words,
        Kind::Event,
        &["create"],
        "what the release does is told as Events of the Deployment",
        "`kubectl describe` does not tell of the release",
    ),
    rule(
        Part::Look,
        Kind::NetworkPolicy,
        &["list"],
        "no label is changed that a NetworkPolicy decides by",
        "a NetworkPolicy that selects by the label which isolates the canary is not seen",
    ),
    rule(
        Part::Look,
        Kind::ResourceQuota,
        &["list"],
        "a quota without room for both versions is seen before anything is touched",
        "a quota that is too small shows only when pods are refused",
    ),
    rule(
        Part::Look,
        Kind::PersistentVolumeClaim,
        &["list"],
        "a volume that two versions must not share is seen before anything is touched",
        "a ReadWriteOnce volume shows only when the canary does not start",
    ),
    rule(
        Part::Route(RouteKind::Http),
        Kind::HttpRoute,
        &["get", "list", "watch", "patch"],
        "the weights are written into the HTTPRoutes that lead to the Services",
        "HTTPRoutes are not found, so the share of pods is the split",
    ),
    rule(
        Part::Route(RouteKind::Grpc),
        Kind::GrpcRoute,
        &["get", "list", "watch", "patch"],
        "the same for GRPCRoutes",
        "GRPCRoutes are not found, so the share of pods is the split",
    ),
    rule(
        Part::Hpa,
        Kind::HorizontalPodAutoscaler,
        &["get", "list", "watch", "patch"],
        "stable must not be scaled down while the canary takes its load, or there is no way back",
        "a HorizontalPodAutoscaler is not found, and may shrink stable in mid-release",
    ),
    rule(
        Part::Keda,
        Kind::ScaledObject,
        &["get", "list", "watch", "patch"],
        "the same for KEDA",
        "a ScaledObject is not found, and KEDA may shrink stable in mid-release",
    ),
    rule(
        Part::Budget,
        Kind::PodDisruptionBudget,
        &["get", "list", "watch", "create", "patch", "delete"],
        "idle stable pods must not stand in for serving ones, so the canary gets a budget of its own",
        "PodDisruptionBudgets are not found, and evictions may take the canary's pods",
    ),
    rule(
        Part::Hooks,
        Kind::CronJob,
        &["get"],
        "hooks (spec.hooks) are made from CronJobs",
        "",
    ),
    rule(
        Part::Hooks,
        Kind::Job,
        &["get", "create"],
        "hooks are Jobs. A strong right: whoever makes one runs it as any ServiceAccount of this namespace",
        "",
    ),
    Rule {
        part: Part::Scrape,
        kind: Kind::Pod,
        sub: "proxy",
        verbs: &["get", "create"],
        why: "metrics and smoke tests from outside of the cluster, through the API server. A strong right: whoever has it \
              can send any request to any port of any pod in this namespace. Not needed where wade itself runs inside of the cluster",
        without: "the pods cannot be asked from outside of the cluster, so there are no metrics of them",
    },
    rule(
        Part::Daemon,
        Kind::Rollout,
        &["list"],
        "whether a Rollout is about the Deployment, so that a daemon is asked for the release",
        "the release is not given to a daemon",
    ),
    rule(
        Part::Daemon,
        Kind::Release,
        &["create", "get", "delete"],
        "a daemon is asked by a Release object, which is removed if nobody takes it up",
        "a daemon cannot be asked",
    ),
    rule(
        Part::Daemon,
        Kind::Freeze,
        &["list"],
        "nothing begins in a freeze of this namespace",
        "freezes of this namespace are not minded by a step that works by itself",
    ),
    rule(
        Part::Daemon,
        Kind::Namespace,
        &["get"],
        "a freeze may name namespaces by their labels; a Role gives this one alone",
        "a freeze that names namespaces by labels counts as one that is about this one",
    ),
];

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Right {
    /// `patch`.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// `deployments`, `pods/log`.
    pub resource: String,
    /// The only object it is needed for; any if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)
    }
}

/// A permission that a release asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub right: Right,
    /// What is worse without it; `None` if nothing goes without it.
    pub without: Option<&'static str>,
}

/// Which permissions the caller lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lacking {
    /// Nothing goes without these.
    pub needed: Vec<Right>,
    /// Without these it goes worse; with what is worse.
    pub useful: Vec<(Right, String)>,
    /// Why the rights could not be asked for, if they could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl Lacking {
    /// That nothing goes without those, in one sentence.
    pub fn refusal(&self, who: &str, namespace: &str) -> Option<String> {
        (!self.needed.is_empty()).then(|| {
            format!(
                "{who} lacks permissions in namespace {namespace}: {}; `{}` prints the Role that gives them",
                joined(&self.needed),
                self.remedy(namespace)
            )
        })
    }

    /// The command that prints the Role which gives what is missing.
    pub fn remedy(&self, namespace: &str) -> String {
        let scrape = self.needed.iter().any(|right| right.resource == "pods/proxy");
        let hooks = self.needed.iter().any(|right| right.group == Kind::Job.group());
        format!(
            "wade rbac -n {namespace}{}{}",
            if scrape { " --scrape" } else { "" },
            if hooks { " --hooks" } else { "" }
        )
    }

    /// What is worse for want of rights, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut sentences: Vec<&String> = Vec::new();
        for (_, without) in &self.useful {
            if !sentences.contains(&without) {
                sentences.push(without);
            }
        }
        let of = |sentence: &String| -> Vec<Right> {
            let same = self.useful.iter().filter(|(_, without)| without == sentence);
            same.map(|(right, _)| right.clone()).collect()
        };
        let mut lines: Vec<String> = sentences
            .into_iter()
            .map(|sentence| format!("{sentence} (missing permission: {})", joined(&of(sentence))))
            .collect();
        lines.extend(
            self.unknown
                .iter()
                .map(|why| format!("whether all permissions are there is not known: {why}")),
        );
        lines
    }
}

/// `get, list pods; patch deployments.apps`.
fn joined(rights: &[Right]) -> String {
    let place = |right: &Right| Right {
        verb: String::new(),
        name: None,
        ..right.clone()
    };
    let mut places: Vec<Right> = Vec::new();
    for right in rights {
        if !places.contains(&place(right)) {
            places.push(place(right));
        }
    }
    let words: Vec<String> = places
        .iter()
        .map(|at| {
            let verbs: Vec<&str> = rights
                .iter()
                .filter(|right| place(right) == *at)
                .map(|right| right.verb.as_str())
                .collect();
            format!("{}{at}", verbs.join(", "))
        })
        .collect();
    words.join("; ")
}

/// What every release of this Deployment asks for, whatever is found around it.
pub fn needed_always(deployment: &str) -> Vec<Need> {
    ALL.iter()
        .filter(|rule| rule.part == Part::Release)
        .flat_map(|rule| needs(rule, deployment, None))
        .collect()
}

/// What this release asks for. `inside`: pods are reached by their addresses.
pub fn needed_by(release: &Release, plan: &Plan, inside: bool) -> Vec<Need> {
    let has_route = |kind: RouteKind| release.routes.iter().any(|route| route.kind == kind);
    let scaled_by = |kind: Kind| release.scaler.as_ref().is_some_and(|scaler| scaler.kind.kind() == kind);
    // Smoke tests reach the pods the same way, and a release without an answer ends before any traffic.
    let asks_pods = plan.smoke.tests.iter().any(|test| !matches!(test, SmokeTest::Grpc(_)));
    ALL.iter()
        .filter(|rule| rule.part != Part::Scrape || (!inside && (asks_pods || scrapes(plan))))
        .filter(|rule| rule.part != Part::Hooks || !plan.hooks.is_empty())
        // Whether they are wanted depends on what is installed: who looks for it says what could not be seen.
        .filter(|rule| rule.part != Part::Daemon)
        .flat_map(|rule| {
            let essential = match rule.part {
                Part::Release | Part::Hooks => true,
                Part::Words | Part::Look | Part::Daemon => false,
                Part::Route(kind) => has_route(kind),
                Part::Hpa => scaled_by(Kind::HorizontalPodAutoscaler),
                Part::Keda => scaled_by(Kind::ScaledObject),
                Part::Budget => !release.budgets.is_empty(),
                Part::Scrape => asks_pods,
            };
            needs(rule, &release.deployment, (!essential).then_some(rule.without))
        })
        // Only a test that sends something takes this verb.
        .filter(|need| need.right.resource != "pods/proxy" || need.right.verb == "get" || sends(plan))
        .chain(plan.notify.iter().filter_map(secret))
        .collect()
}

fn secret(notify: &NotifySpec) -> Option<Need> {
    let (NotifySpec::Slack(from) | NotifySpec::Webhook(from)) = notify;
    let AddressFrom::SecretRef(name) = from else {
        return None;
    };
    Some(Need {
        right: Right {
            verb: "get".to_owned(),
            group: String::new(),
            resource: "secrets".to_owned(),
            name: Some(name.clone()),
        },
        without: Some("those whom spec.notify names by a Secret are not told (see --notify-secret)"),
    })
}

fn scrapes(plan: &Plan) -> bool {
    !matches!(plan.measure.source, Some(Source::Prometheus(_)))
}

fn sends(plan: &Plan) -> bool {
    plan.smoke.tests.iter().any(|test| match test {
        SmokeTest::Http(test) => test
            .method
            .as_deref()
            .is_some_and(|method| method != "GET" && method != "HEAD"),
        SmokeTest::Command(_) => true,
        SmokeTest::Grpc(_) => false,
    })
}

fn needs(rule: &Rule, deployment: &str, without: Option<&'static str>) -> Vec<Need> {
    let resource = resource(rule);
    rule.verbs
        .iter()
        .map(|verb| Need {
            right: Right {
                verb: (*verb).to_owned(),
                group: rule.kind.group().to_owned(),
                resource: resource.clone(),
                name: (rule.kind == Kind::Deployment).then(|| deployment.to_owned()),
            },
            without,
        })
        .collect()
}

/// The resource of a rule, `pods/log`.
pub(crate) fn resource(rule: &Rule) -> String {
    match rule.sub {
        "" => rule.kind.plural().to_owned(),
        sub => format!("{}/{sub}", rule.kind.plural()),
    }
}

/// Which of `needs` the caller lacks.
pub async fn lacking(api: &ApiServer, needs: &[Need]) -> Lacking {
    let question = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": { "namespace": api.namespace() },
    });
    let known = api.review(RULES, &question).await.unwrap_or_default();
    // Complete: what is not in it is not there, and needs no second question.
    let complete = known.get("status").is_some() && !flag(&known, "/status/incomplete");
    let open: Vec<&Need> = needs.iter().filter(|need| !covered(&known, &need.right)).collect();
    let answers = futures_util::future::join_all(open.iter().map(|need| async {
        if complete && need.right.name.is_none() {
            return Ok(false);
        }
        allowed(api, &need.right).await
    }))
    .await;
    let mut lacking = Lacking::default();
    for (need, answer) in open.into_iter().zip(answers) {
        match (answer, need.without) {
            (Ok(true), _) => {}
            (Ok(false), None) => lacking.needed.push(need.right.clone()),
            (Ok(false), Some(without)) => lacking.useful.push((need.right.clone(), without.to_owned())),
            (Err(error), _) => lacking.unknown = Some(error.to_string()),
        }
    }
    lacking
}

async fn allowed(api: &ApiServer, right: &Right) -> Result<bool, ApiError> {
    let (resource, sub) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
    let question = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": {
            "namespace": api.namespace(), "verb": right.verb, "group": right.group, "resource": resource,
            "subresource": sub, "name": right.name.as_deref().unwrap_or_default(),
        }},
    });
    let answer = api.review(ACCESS, &question).await?;
    Ok(flag(&answer, "/status/allowed"))
}

/// Whether a review of rules gives a right without any condition.
fn covered(review: &Value, right: &Right) -> bool {
    let says = |rule: &Value, field: &str, fits: &dyn Fn(&str) -> bool| {
        list(rule, field)
            .iter()
            .filter_map(Value::as_str)
            .any(|word| word == "*" || fits(word))
    };
    let sub = right.resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
    list(review, "/status/resourceRules").iter().any(|rule| {
        let names = list(rule, "/resourceNames");
        let named = names.is_empty() || right.name.as_ref().is_some_and(|name| names.contains(&json!(name)));
        named
            && says(rule, "/verbs", &|word| word == right.verb)
            && says(rule, "/apiGroups", &|word| word == right.group)
            && says(rule, "/resources", &|word| {
                word == right.resource || Some(word) == sub.as_deref()
            })
    })
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::apiserver::testing::FakeServer;

    fn right(verb: &str, group: &str, resource: &str) -> Right {
        Right {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            name: None,
        }
    }

    #[test]
    fn a_review_covers_what_it_names_and_wildcards_and_nothing_bound_to_other_names() {
        let review = json!({"status": {"resourceRules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/log"]},
            {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"]},
        ]}});
        let named = |name: &str| Right {
            name: Some(name.to_owned()),
            ..right("get", "", "secrets")
        };
        let cases = [
            (right("get", "", "pods"), true),
            (right("list", "", "pods"), false),
            (right("get", "", "pods/log"), true),
            (right("get", "", "pods/proxy"), false),
            (right("patch", "apps", "deployments"), true),
            (right("get", "", "secrets"), false),
            (named("one"), true),
            (named("two"), false),
        ];
        for (right, expected) in cases {
            assert_eq!(covered(&review, &right), expected, "{right}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_named_at_once_and_asked_for_again_where_the_review_is_incomplete() {
        let fake = FakeServer::new();
        let api = ApiServer::over(fake.client("shop"), "shop");
        let rules = json!({"status": {"incomplete": true, "resourceRules": [
            {"verbs": ["get", "list", "watch"], "apiGroups": ["apps", "", "discovery.k8s.io"], "resources": ["*"]},
        ]}});
        fake.answer(Method::POST, RULES, 201, &rules.to_string());
        fake.answer(Method::POST, ACCESS, 201, r#"{"status": {"allowed": false}}"#);
        let found = lacking(&api, &needed_always("app")).await;
        assert_eq!(
            found.refusal("ci", "shop").expect("much is missing"),
            "ci lacks permissions in namespace shop: patch deployments.apps; create, patch, delete replicasets.apps; \
             patch pods; create, patch, delete services; create, patch, delete configmaps; \
             get, create, update leases.coordination.k8s.io; `wade rbac -n shop` prints the Role that gives them"
        );
        assert_eq!(
            fake.asked().len(),
            1 + found.needed.len(),
            "only what is open is asked for by name"
        );
        fake.answer(Method::POST, ACCESS, 201, r#"{"status": {"allowed": true}}"#);
        assert_eq!(lacking(&api, &needed_always("app")).await, Lacking::default());
        fake.go_down();
        let unknown = lacking(&api, &needed_always("app")).await;
        assert!(
            unknown.needed.is_empty() && unknown.unknown.is_some(),
            "no answer is no refusal"
        );
    }

    #[test]
    fn what_is_worse_is_said_once_for_each_reason() {
        let lacking = Lacking {
            useful: ["list", "watch"]
                .map(|verb| {
                    (
                        right(verb, "keda.sh", "scaledobjects"),
                        "KEDA may shrink stable".to_owned(),
                    )
                })
                .to_vec(),
            ..Lacking::default()
        };
        assert_eq!(
            lacking.warnings(),
            ["KEDA may shrink stable (missing permission: list, watch scaledobjects.keda.sh)"]
        );
    }
}
