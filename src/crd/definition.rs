//! The CustomResourceDefinitions themselves: schemas from the types, columns, short names, and rules in CEL.

use serde_json::{Value, json};

use super::freeze::FreezeSpec;
use super::release::{ReleaseSpec, ReleaseStatus};
use super::rollout::RolloutStatus;
use super::strategy::ClusterStrategySpec;
use super::structural;
use crate::apiserver::Kind;
use crate::spec::RolloutSpec;

/// A column of `kubectl get`: heading, where it is, and its type.
type Column = (&'static str, &'static str, &'static str);

/// So many requirements in a selector, and values in each.
const MOST_REQUIREMENTS: u64 = 20;
const AGE: Column = ("Age", ".metadata.creationTimestamp", "date");

/// All definitions, in the order in which they are installed.
pub fn definitions() -> Vec<Value> {
    vec![rollout(), release(), cluster_strategy(), freeze()]
}

fn rollout() -> Value {
    let mut spec = structural::of::<RolloutSpec>();
    let deployment = &mut spec["properties"]["workload"]["properties"]["deployment"];
    deployment["minLength"] = json!(1);
    deployment["maxLength"] = json!(63);
    deployment["x-kubernetes-validations"] = json!([{
        "rule": "self == oldSelf",
        "message": "a Rollout keeps its Deployment; delete it and create another one",
    }]);
    rising(&mut spec["properties"]["strategy"]);
    definition(
        Kind::Rollout,
        &["wro"],
        "The policy of one service: how its new versions are released.",
        &spec,
        Some(structural::of::<RolloutStatus>()),
        &[
            ("Phase", ".status.phase", "string"),
            ("Stable", ".status.stable", "string"),
            ("Canary", ".status.canary", "string"),
            ("Weight", ".status.weight", "string"),
            ("Held", ".status.conditions[?(@.type==\"Held\")].status", "string"),
            AGE,
        ],
    )
}

fn release() -> Value {
    let mut spec = structural::of::<ReleaseSpec>();
    spec["x-kubernetes-validations"] = json!([
        { "rule": "self == oldSelf", "message": "a Release never changes; create a new one" },
        {
            "rule": "!has(self.emergency) || !self.emergency || (has(self.reason) && self.reason.trim() != '')",
            "message": "an emergency needs a reason",
        },
        {
            "rule": "!has(self.number) || (has(self.target) && self.target == 'rollback')",
            "message": "a number means the release that a rollback goes back to: add `target: rollback`",
        },
        {
            "rule": "(has(self.target) && self.target != 'deploy') || has(self.image) || has(self.images) || has(self.env)",
            "message": "say what is new: image, images or env",
        },
    ]);
    // `self == oldSelf` is estimated by the size of everything in it.
    for field in ["images", "env"] {
        spec["properties"][field]["maxProperties"] = json!(64);
        spec["properties"][field]["additionalProperties"]["maxLength"] = json!(4096);
    }
    // Whoever has no reason may say so.
    spec["properties"]["reason"]["nullable"] = json!(true);
    for field in ["commit", "author", "url"] {
        spec["properties"]["pipeline"]["properties"][field]["maxLength"] = json!(2048);
    }
    definition(
        Kind::Release,
        &["wrel"],
        "One attempt to move a Rollout to a new version.",
        &spec,
        Some(structural::of::<ReleaseStatus>()),
        &[
            ("Rollout", ".spec.rollout", "string"),
            ("Number", ".status.number", "integer"),
            ("Phase", ".status.phase", "string"),
            ("Outcome", ".status.outcome", "string"),
            ("Canary", ".status.canary", "string"),
            AGE,
        ],
    )
}

fn cluster_strategy() -> Value {
    let mut spec = structural::of::<ClusterStrategySpec>();
    rising(&mut spec["properties"]["strategy"]);
    definition(
        Kind::ClusterStrategy,
        &[],
        "A strategy that every Rollout of the cluster may use, and what none may go below.",
        &spec,
        None,
        &[AGE],
    )
}

fn freeze() -> Value {
    let mut spec = structural::of::<FreezeSpec>();
    spec["x-kubernetes-validations"] = json!([{
        "rule": "!has(self.from) || self.from < self.until",
        "message": "it ends before it begins",
    }]);
    for selector in ["namespaces", "rollouts"] {
        let wanted = &mut spec["properties"][selector]["properties"]["matchExpressions"];
        // As many as an API server takes the cost of the rule for.
        wanted["maxItems"] = json!(MOST_REQUIREMENTS);
        wanted["items"]["properties"]["values"]["maxItems"] = json!(MOST_REQUIREMENTS);
        wanted["items"]["x-kubernetes-validations"] = json!([{
            "rule": "(self.operator == 'In' || self.operator == 'NotIn') == (has(self.values) && self.values.size() > 0)",
            "message": "In and NotIn take values, Exists and DoesNotExist none",
        }]);
    }
    definition(
        Kind::Freeze,
        &[],
        "A time in which no release begins.",
        &spec,
        None,
        &[
            ("Until", ".spec.until", "string"),
            ("By", ".spec.by", "string"),
            ("Reason", ".spec.reason", "string"),
            AGE,
        ],
    )
}

/// Wherever a strategy has steps, their weights rise.
fn rising(strategy: &mut Value) {
    let rule = json!({
        "rule": "self.map(s, has(s.weight), double(s.weight.replace('%', ''))).isSorted()",
        "message": "weights rise from step to step",
    });
    for shape in ["canary", "ab", "shadow"] {
        let path = format!("/properties/{shape}/properties/steps");
        if let Some(steps) = strategy.pointer_mut(&path) {
            steps["x-kubernetes-validations"] = json!([rule]);
        }
    }
    if let Some(steps) = strategy.pointer_mut("/properties/with/properties/steps") {
        steps["x-kubernetes-validations"] = json!([rule]);
    }
}

fn definition(
    kind: Kind,
    short: &[&str],
    about: &str,
    spec: &Value,
    status: Option<Value>,
    columns: &[Column],
) -> Value {
    let mut version = json!({
        "name": kind.version(),
        "served": true,
        "storage": true,
        "schema": { "openAPIV3Schema": {
            "description": about,
            "type": "object",
            "required": ["spec"],
            "properties": { "spec": spec },
        }},
        "additionalPrinterColumns": columns.iter().map(|(name, path, of)| json!({
            "name": name, "jsonPath": path, "type": of,
        })).collect::<Vec<_>>(),
    });
    if let Some(status) = status {
        version["schema"]["openAPIV3Schema"]["properties"]["status"] = status;
        version["subresources"] = json!({ "status": {} });
    }
    let mut names = json!({
        "kind": kind.name(),
        "listKind": format!("{}List", kind.name()),
        "plural": kind.plural(),
        "singular": kind.word(),
        "categories": ["wade"],
    });
    if !short.is_empty() {
        names["shortNames"] = json!(short);
    }
    json!({
        "apiVersion": Kind::CustomResourceDefinition.api_version(),
        "kind": Kind::CustomResourceDefinition.name(),
        "metadata": { "name": kind.resource() },
        "spec": {
            "group": kind.group(),
            "names": names,
            "scope": if kind.is_of_the_cluster() { "Cluster" } else { "Namespaced" },
            "versions": [version],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a structural schema may say in one place, as the API server checks it.
    fn check(schema: &Value, path: &str, faults: &mut Vec<String>) {
        let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
        if schema["type"].is_null() && !open && schema["x-kubernetes-int-or-string"] != true {
            faults.push(format!("{path} has no type"));
        }
        for banned in [
            "$ref", "$defs", "const", "anyOf", "oneOf", "allOf", "not", "examples", "default", "title",
        ] {
            if schema.get(banned).is_some() {
                faults.push(format!("{path} has {banned}"));
            }
        }
        if schema["type"].is_array() || schema["additionalProperties"] == false {
            faults.push(format!("{path} has what structural schemas do not"));
        }
        if schema.get("properties").is_some() && schema.get("additionalProperties").is_some() {
            faults.push(format!("{path} has both properties and additionalProperties"));
        }
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if schema["properties"].get(name).is_none() {
                faults.push(format!("{path} requires {name}, which is not there"));
            }
        }
        if schema["type"] == "array" && !schema["maxItems"].is_u64() {
            faults.push(format!("{path} has no bound"));
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            check(field, &format!("{path}.{name}"), faults);
        }
        for inner in ["items", "additionalProperties"] {
            if schema.get(inner).is_some_and(Value::is_object) {
                check(&schema[inner], &format!("{path}[]"), faults);
            }
        }
    }

    #[test]
    fn every_schema_is_structural_and_small() {
        for definition in definitions() {
            let name = definition["metadata"]["name"].as_str().expect("a name");
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let mut faults = Vec::new();
            check(schema, name, &mut faults);
            assert_eq!(faults, Vec::<String>::new());
            let size = definition.to_string().len();
            assert!(size < 100_000, "{name} takes {size} bytes");
        }
    }

    #[test]
    fn open_parts_are_few_and_known() {
        fn open(schema: &Value, path: &str, found: &mut Vec<String>) {
            if schema["x-kubernetes-preserve-unknown-fields"] == true {
                found.push(path.to_owned());
            }
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                open(field, &format!("{path}.{name}"), found);
            }
            for inner in ["items", "additionalProperties"] {
                if schema.get(inner).is_some_and(Value::is_object) {
                    open(&schema[inner], &format!("{path}[]"), found);
                }
            }
        }
        let mut found = Vec::new();
        open(
            &rollout()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
            "spec",
            &mut found,
        );
        // A value in JSON, and a switch that may be settings instead.
        assert_eq!(found, ["spec.smoke[].json", "spec.analysis.passEarly"]);
    }
}
