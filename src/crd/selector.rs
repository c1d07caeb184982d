//! Label selectors, as Kubernetes has them everywhere: all that is said must hold, and `{}` selects everything.
//!
//! An API server does the same for lists; here they select by the labels of an object that is known already (the
//! namespace and the Rollout that a Freeze is about).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Which objects, by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels that an object has, each with this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    /// What else must hold of its labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One thing that must hold of an object's labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what: for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// It has one of the values.
    In,
    /// It has none of them, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether an object with these labels is selected.
    pub fn selects(&self, labels: &Labels) -> bool {
        let same = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.match_labels.iter().all(same) && self.match_expressions.iter().all(|wanted| wanted.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let is_in = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => is_in,
            Operator::NotIn => !is_in,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_selector_selects_as_kubernetes_does() {
        let labels = Labels::from([
            ("tier".to_owned(), "prod".to_owned()),
            ("team".to_owned(), "pay".to_owned()),
        ]);
        let expression =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let of = |expressions: &[Value]| json!({ "matchExpressions": expressions });
        let cases = [
            (json!({}), true),
            (json!({"matchLabels": {"tier": "prod"}}), true),
            (json!({"matchLabels": {"tier": "prod", "team": "shop"}}), false),
            (json!({"matchLabels": {"zone": "eu"}}), false),
            (of(&[expression("tier", "In", &["test", "prod"])]), true),
            (of(&[expression("zone", "In", &["eu"])]), false),
            (of(&[expression("tier", "NotIn", &["prod"])]), false),
            (of(&[expression("zone", "NotIn", &["eu"])]), true),
            (of(&[expression("team", "Exists", &[])]), true),
            (of(&[expression("team", "DoesNotExist", &[])]), false),
            (
                of(&[expression("team", "Exists", &[]), expression("zone", "Exists", &[])]),
                false,
            ),
        ];
        for (said, selected) in cases {
            let selector: Selector = serde_json::from_value(said.clone()).expect("it is one");
            assert_eq!(selector.selects(&labels), selected, "{said}");
        }
        let wrong = json!({"matchExpressions": [{"key": "tier", "operator": "Is"}]});
        assert!(serde_json::from_value::<Selector>(wrong).is_err());
    }
}
