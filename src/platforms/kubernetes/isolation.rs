//! How the canary's pods are kept from traffic until their first weight.
//!
//! *By label*, where possible: the pods are born with another value of a label that every Service selects by. No
//! Service of the user's is touched, and a Wade that dies leaves them right. A label may only change if nothing else
//! decides by it, so each selector at hand is asked twice, with stable's labels and with the canary's; one that answers
//! differently (a NetworkPolicy, a spread rule of the template) rules the label out.
//!
//! *By pin*, where no label will do: every Service that selects the pods gets stable's hash into its selector. A pin
//! whose hash is gone is an outage, so it is the second choice.
//!
//! What this does not see: selectors of other namespaces, and affinity of other workloads towards these pods.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::HASH;
use super::release::{Isolation, LabelPair};
use crate::apiserver::value::{list, name, selects, text};

/// The longest value of a label.
const MOST_VALUE: usize = 63;
const SUFFIX: &str = "-canary";
/// What people select by first; other labels follow in the order of their names.
const USUAL: [&str; 3] = ["app", "app.kubernetes.io/name", "app.kubernetes.io/instance"];

/// What may decide by a pod's labels, as far as it could be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Around<'a> {
    /// All Services of the namespace.
    pub services: &'a [Value],
    /// All NetworkPolicies of the namespace.
    pub policies: &'a [Value],
    /// Whatever else selects pods: PodMonitors, policies of a mesh or of Cilium. Not ServiceMonitors, which select
    /// Services, and not PodDisruptionBudgets, beside which the canary gets one of its own.
    pub others: &'a [Value],
}

/// How, and why so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How.
    pub isolation: Isolation,
    /// Why, in one sentence.
    pub why: String,
}

/// Chooses how to isolate the canary of a Deployment. `template` is the one to be released; `takes_over` is the
/// ReplicaSet that becomes the canary if the Deployment has one with an equal template: what its selector names cannot
/// change any more.
pub fn choose(deployment: &Value, template: &Value, around: Around<'_>, takes_over: Option<&Value>) -> Choice {
    // Both sides count: a Service must neither reach the canary by accident nor lose it at the hand over.
    let now = labels(deployment.pointer("/spec/template").unwrap_or(&Value::Null));
    let labels = labels(template);
    let mut services = selected_by(around.services, &labels);
    for service in selected_by(around.services, &now) {
        if !services.iter().any(|one| name(one) == name(service)) {
            services.push(service);
        }
    }
    if services.is_empty() {
        return Choice {
            isolation: Isolation::Label {
                labels: BTreeMap::new(),
            },
            why: "no Service selects the pods, so nothing reaches the canary by accident".to_owned(),
        };
    }
    let mut unfit = Vec::new();
    let mut fit = Vec::new();
    for key in keys(&services) {
        match pair_for(&key, &labels, template, around, takes_over) {
            Ok(pair) => fit.push((key, pair)),
            Err(why) => unfit.push(format!("{key}: {why}")),
        }
    }
    let chosen = cover(&services, &fit);
    // Several labels together may do what each alone does not.
    let together = chosen.and_then(|chosen| match differing(&labels, &chosen, template, around) {
        None => Some(chosen),
        Some(by) => {
            unfit.push(format!("all together: {by}"));
            None
        }
    });
    let names: Vec<&str> = services.iter().map(|service| name(service)).collect();
    let names = names.join(", ");
    match together {
        Some(labels) => {
            let values: Vec<_> = labels
                .iter()
                .map(|(key, pair)| format!("{key}={}", pair.canary))
                .collect();
            Choice {
                why: format!(
                    "by label, {}: every Service that selects the pods ({names}) selects by it, and nothing else does",
                    values.join(" and ")
                ),
                isolation: Isolation::Label { labels },
            }
        }
        None => Choice {
            isolation: Isolation::Pin,
            why: format!(
                "by a pin of {names} to stable's pods, because no label will do ({})",
                if unfit.is_empty() {
                    "no Service selects by one that the pods keep".to_owned()
                } else {
                    unfit.join("; ")
                }
            ),
        },
    }
}

/// The Services that select pods with these labels. One without a selector selects nothing, and ExternalName leads
/// away from the cluster.
pub fn selected_by<'a>(services: &'a [Value], labels: &Value) -> Vec<&'a Value> {
    let own = |service: &&Value| text(service, "/spec/type") != "ExternalName";
    let hits = |service: &&Value| {
        service
            .pointer("/spec/selector")
            .is_some_and(|selector| selects(selector, labels))
    };
    services.iter().filter(own).filter(hits).collect()
}

/// Whether a label selector (`matchLabels` and `matchExpressions`) selects these labels; an empty one selects all, none
/// at all selects nothing.
pub fn matches(selector: &Value, labels: &Value) -> bool {
    let Some(fields) = selector.as_object() else {
        return false;
    };
    let pairs = fields.get("matchLabels").and_then(Value::as_object);
    let equal = pairs.is_none_or(|pairs| pairs.iter().all(|(key, value)| labels.get(key) == Some(value)));
    let holds = |expression: &Value| {
        let value = labels.get(text(expression, "/key"));
        let among = value.is_some_and(|value| list(expression, "/values").contains(value));
        match text(expression, "/operator") {
            "In" => among,
            "NotIn" => !among,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    equal && list(selector, "/matchExpressions").iter().all(holds)
}

fn labels(template: &Value) -> Value {
    let found = template.pointer("/metadata/labels").cloned();
    found.unwrap_or_else(|| Value::Object(Map::new()))
}

/// Every key that a Service selects by, the usual ones first.
fn keys(services: &[&Value]) -> Vec<String> {
    let all: BTreeSet<&String> = services
        .iter()
        .filter_map(|service| service.pointer("/spec/selector")?.as_object())
        .flat_map(Map::keys)
        .filter(|key| *key != HASH)
        .collect();
    let rank = |key: &&String| USUAL.iter().position(|usual| usual == key).unwrap_or(USUAL.len());
    let mut all: Vec<&String> = all.into_iter().collect();
    all.sort_by_key(rank);
    all.into_iter().cloned().collect()
}

/// Stable's and the canary's value of a label, if it can be changed.
fn pair_for(
    key: &str,
    labels: &Value,
    template: &Value,
    around: Around<'_>,
    takes_over: Option<&Value>,
) -> Result<LabelPair, String> {
    let Some(stable) = labels.get(key).and_then(Value::as_str) else {
        return Err("the new template does not carry it".to_owned());
    };
    if let Some(set) = takes_over {
        let fixed = set
            .pointer("/spec/selector/matchLabels")
            .is_some_and(|pairs| pairs.get(key).is_some());
        let asked = list(set, "/spec/selector/matchExpressions")
            .iter()
            .any(|one| text(one, "/key") == key);
        if fixed || asked {
            return Err(format!(
                "ReplicaSet {}, which this release takes over, selects by it and cannot change that",
                name(set)
            ));
        }
    }
    let pair = LabelPair {
        stable: stable.to_owned(),
        canary: canary_value(stable),
    };
    let alone = BTreeMap::from([(key.to_owned(), pair.clone())]);
    match differing(labels, &alone, template, around) {
        Some(by) => Err(by),
        None => Ok(pair),
    }
}

/// `<value>-canary`, as a label's value may be.
fn canary_value(stable: &str) -> String {
    if stable.is_empty() {
        return SUFFIX.trim_start_matches('-').to_owned();
    }
    let cut: String = stable.chars().take(MOST_VALUE - SUFFIX.len()).collect();
    let cut = cut.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
    let value = format!("{cut}{SUFFIX}");
    if value == stable { format!("{cut}-wade") } else { value }
}

/// What would decide otherwise about a pod with these other values.
fn differing(
    labels: &Value,
    other: &BTreeMap<String, LabelPair>,
    template: &Value,
    around: Around<'_>,
) -> Option<String> {
    let mut canary = labels.clone();
    for (key, pair) in other {
        canary[key] = json!(pair.canary);
    }
    let reached = selected_by(around.services, &canary);
    let gained = reached.iter().find(|service| {
        let selector = service.pointer("/spec/selector").unwrap_or(&Value::Null);
        !selects(selector, labels)
    });
    if let Some(service) = gained {
        return Some(format!("Service {} selects the canary's value", name(service)));
    }
    let differs = |selector: &Value| matches(selector, labels) != matches(selector, &canary);
    let policy = around
        .policies
        .iter()
        .find(|policy| pod_selectors(policy).into_iter().any(differs));
    if let Some(policy) = policy {
        return Some(format!("NetworkPolicy {} decides by it", name(policy)));
    }
    let one = around.others.iter().find(|object| {
        let named = ["/spec/selector", "/spec/podSelector", "/spec/endpointSelector"];
        let by_labels = object.pointer("/spec/workloadSelector/labels");
        let plain = by_labels.is_some_and(|pairs| selects(pairs, labels) != selects(pairs, &canary));
        plain || named.iter().filter_map(|at| object.pointer(at)).any(differs)
    });
    if let Some(object) = one {
        return Some(format!("{} {} decides by it", text(object, "/kind"), name(object)));
    }
    placement_selectors(template)
        .into_iter()
        .find(|(_, term)| {
            let keyed = ["/matchLabelKeys", "/mismatchLabelKeys"];
            let keyed = keyed.iter().flat_map(|at| list(term, at)).filter_map(Value::as_str);
            term.pointer("/labelSelector").is_some_and(differs) || keyed.into_iter().any(|key| other.contains_key(key))
        })
        .map(|(what, _)| format!("the template's {what} decides by it"))
}

/// Every pod selector of a NetworkPolicy that may mean these pods: whom it is for, and whom it lets in or out.
fn pod_selectors(policy: &Value) -> Vec<&Value> {
    let peers = |way: &str, side: &str| {
        let rules = list(policy, way).iter();
        let side = side.to_owned();
        rules
            .flat_map(move |rule| list(rule, &side))
            .filter_map(|peer| peer.get("podSelector"))
            .collect::<Vec<_>>()
    };
    let mut all: Vec<&Value> = policy.pointer("/spec/podSelector").into_iter().collect();
    all.extend(peers("/spec/ingress", "/from"));
    all.extend(peers("/spec/egress", "/to"));
    all
}

/// The terms by which a template asks where its pods may run, with what each is called.
fn placement_selectors(template: &Value) -> Vec<(&'static str, &Value)> {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let mut all = Vec::new();
    for kind in ["podAffinity", "podAntiAffinity"] {
        let required = list(template, &format!("/spec/affinity/{kind}/{REQUIRED}")).iter();
        let preferred = list(template, &format!("/spec/affinity/{kind}/{PREFERRED}")).iter();
        let preferred = preferred.filter_map(|one| one.get("podAffinityTerm"));
        all.extend(required.chain(preferred).map(|term| (kind, term)));
    }
    let spread = list(template, "/spec/topologySpreadConstraints").iter();
    all.extend(spread.map(|term| ("topologySpreadConstraints", term)));
    all
}

/// One label that every Service selects by, or else the first fit label of each.
fn cover(services: &[&Value], fit: &[(String, LabelPair)]) -> Option<BTreeMap<String, LabelPair>> {
    let by = |service: &Value, key: &str| {
        let selector = service.pointer("/spec/selector");
        selector.is_some_and(|selector| selector.get(key).is_some())
    };
    let one = fit
        .iter()
        .find(|(key, _)| services.iter().all(|service| by(service, key)));
    if let Some(one) = one {
        return Some(BTreeMap::from([one.clone()]));
    }
    let each = services
        .iter()
        .map(|service| fit.iter().find(|(key, _)| by(service, key)).cloned());
    each.collect()
}

#[cfg(test)]
mod tests;
