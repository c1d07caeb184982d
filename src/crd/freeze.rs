//! `Freeze`: a time in which no release begins, with who says so, why, and until when.
//!
//! It counts for the Rollouts of its namespace; in Wade's own namespace for those of every namespace, or of the
//! namespaces whose labels it names. Going back is always allowed, and emergencies are unless it says otherwise. Whoever
//! may write Freezes of a namespace may end them: that is what RBAC is for, and the audit log of the cluster says who did.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::selector::{Labels, Selector};
use super::spec_of;
use crate::apiserver::value::{name, text};
use crate::plan::Lane;

/// When nothing may begin, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FreezeSpec {
    /// First moment; at once if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::structural::moment")]
    pub from: Option<Timestamp>,
    /// Last moment. There is no freeze without an end.
    #[schemars(schema_with = "super::structural::moment")]
    pub until: Timestamp,
    /// Why; shown to everybody who is stopped by it.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who answers for it, a person or a team.
    #[schemars(length(min = 1, max = 512))]
    pub by: String,
    /// Of all namespaces that it could count for, only those with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Selector>,
    /// Only Rollouts with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollouts: Option<Selector>,
    /// Rollouts that it does not count for, by name, or by namespace and name (`shop/checkout`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Whether emergencies may go on.
    #[serde(default)]
    pub emergencies: Emergencies,
}

/// Whether emergencies may go on in a freeze.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Emergencies {
    /// `--emergency --reason` goes on.
    #[default]
    Allowed,
    /// Nothing goes on but the way back.
    Refused,
}

/// A freeze that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenBy {
    /// Its namespace and name.
    pub name: String,
    /// What it says.
    pub spec: FreezeSpec,
}

impl FrozenBy {
    /// A Freeze object.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn read(object: &Value) -> Result<Self, String> {
        Ok(Self {
            name: format!("{}/{}", text(object, "/metadata/namespace"), name(object)),
            spec: spec_of(object)?,
        })
    }

    fn counts_for(&self, whose: &Whose<'_>) -> bool {
        let own = self.name.split_once('/').map_or("", |(namespace, _)| namespace);
        let selected = |selector: &Option<Selector>, labels: Option<&Labels>| match (selector, labels) {
            (Some(selector), Some(labels)) => selector.selects(labels),
            (Some(_), None) | (None, _) => true,
        };
        let excepted =
            |name: &String| name == whose.rollout || name.split_once('/') == Some((whose.namespace, whose.rollout));
        (own == whose.namespace || own == whose.home)
            && selected(&self.spec.namespaces, whose.namespace_labels)
            && selected(&self.spec.rollouts, whose.rollout_labels)
            && !self.spec.except.iter().any(excepted)
    }
}

impl std::fmt::Display for FrozenBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FreezeSpec { until, reason, by, .. } = &self.spec;
        write!(f, "freeze {} of {by} until {until}: {reason}", self.name)
    }
}

/// The Rollout whose release is to begin.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The namespace in which Wade lives, whose Freezes count everywhere.
    pub home: &'a str,
    /// The Rollout's namespace.
    pub namespace: &'a str,
    /// The Rollout's name.
    pub rollout: &'a str,
    /// The namespace's labels; as long as they are not known, every selector counts as one that selects it.
    pub namespace_labels: Option<&'a Labels>,
    /// The Rollout's labels, in the same way.
    pub rollout_labels: Option<&'a Labels>,
}

/// The freeze that keeps a release from beginning now; of several the one that lasts longest.
pub fn frozen<'a>(freezes: &'a [FrozenBy], whose: &Whose<'_>, lane: &Lane, now: Timestamp) -> Option<&'a FrozenBy> {
    let stops = |freeze: &&FrozenBy| {
        let spec = &freeze.spec;
        let lane = match lane {
            Lane::Normal | Lane::FirstDeploy => true,
            Lane::Rollback => false,
            Lane::Emergency { .. } => spec.emergencies == Emergencies::Refused,
        };
        lane && freeze.counts_for(whose) && spec.from.is_none_or(|from| from <= now) && now <= spec.until
    };
    freezes.iter().filter(stops).max_by_key(|freeze| freeze.spec.until)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::SYSTEM;

    fn freeze(namespace: &str, more: &Value) -> FrozenBy {
        let mut object = json!({
            "kind": "Freeze", "metadata": {"namespace": namespace, "name": "xmas"},
            "spec": {"from": "2026-12-20T18:00:00Z", "until": "2027-01-02T08:00:00Z", "reason": "holidays", "by": "ops"},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        FrozenBy::read(&object).expect("it is one")
    }

    fn whose<'a>(namespace: &'a str, rollout: &'a str) -> Whose<'a> {
        Whose {
            home: SYSTEM,
            namespace,
            rollout,
            namespace_labels: None,
            rollout_labels: None,
        }
    }

    #[test]
    fn a_freeze_stops_what_begins_in_its_place_and_time() {
        let within: Timestamp = "2026-12-24T12:00:00Z".parse().expect("a time");
        let before: Timestamp = "2026-12-20T17:59:59Z".parse().expect("a time");
        let after: Timestamp = "2027-01-02T08:00:01Z".parse().expect("a time");
        let emergency = Lane::Emergency {
            reason: "down".to_owned(),
        };
        let shop = whose("shop", "checkout");
        // Where the freeze is, what it says besides, whose release, which lane, when, and whether it is stopped.
        let cases = [
            ("shop", json!({}), shop, &Lane::Normal, within, true),
            ("shop", json!({}), shop, &Lane::Normal, before, false),
            ("shop", json!({}), shop, &Lane::Normal, after, false),
            ("shop", json!({}), shop, &Lane::Rollback, within, false),
            ("shop", json!({}), shop, &emergency, within, false),
            (
                "shop",
                json!({"emergencies": "refused"}),
                shop,
                &emergency,
                within,
                true,
            ),
            ("bank", json!({}), shop, &Lane::Normal, within, false),
            (SYSTEM, json!({}), shop, &Lane::Normal, within, true),
            (
                SYSTEM,
                json!({"except": ["shop/checkout"]}),
                shop,
                &Lane::Normal,
                within,
                false,
            ),
            (
                SYSTEM,
                json!({"except": ["bank/checkout"]}),
                shop,
                &Lane::Normal,
                within,
                true,
            ),
            (
                "shop",
                json!({"except": ["checkout"]}),
                shop,
                &Lane::Normal,
                within,
                false,
            ),
        ];
        for (namespace, more, whose, lane, now, stopped) in cases {
            let freezes = [freeze(namespace, &more)];
            let found = frozen(&freezes, &whose, lane, now);
            assert_eq!(found.is_some(), stopped, "{namespace} {more} {lane:?} {now}");
        }
    }

    #[test]
    fn a_freeze_counts_for_the_namespaces_and_rollouts_whose_labels_it_names() {
        let now: Timestamp = "2026-12-24T12:00:00Z".parse().expect("a time");
        let labels = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
        let (prod, test, web) = (labels("tier", "prod"), labels("tier", "test"), labels("part", "web"));
        let none = Labels::new();
        let by_tier = json!({"namespaces": {"matchLabels": {"tier": "prod"}}});
        let by_part = json!({"rollouts": {"matchExpressions": [{"key": "part", "operator": "In", "values": ["web"]}]}});
        // Where the freeze is, whom it names, the home, the labels of namespace and Rollout, and whether it stops.
        let cases = [
            (SYSTEM, &by_tier, SYSTEM, Some(&prod), Some(&none), true),
            (SYSTEM, &by_tier, SYSTEM, Some(&test), Some(&none), false),
            // What is not known might be selected.
            (SYSTEM, &by_tier, SYSTEM, None, Some(&none), true),
            (SYSTEM, &by_part, SYSTEM, Some(&none), Some(&web), true),
            (SYSTEM, &by_part, SYSTEM, Some(&none), Some(&none), false),
            ("shop", &by_part, SYSTEM, Some(&none), Some(&web), true),
            // A selector only ever makes it less: elsewhere than at home it reaches no other namespace.
            ("shop", &by_tier, SYSTEM, Some(&test), None, false),
            ("bank", &by_tier, SYSTEM, Some(&prod), None, false),
            // The home is where Wade lives, not a name.
            (SYSTEM, &by_tier, "wade-eu", Some(&prod), None, false),
            ("wade-eu", &by_tier, "wade-eu", Some(&prod), None, true),
        ];
        for (place, says, home, namespace_labels, rollout_labels, stopped) in cases {
            let freezes = [freeze(place, says)];
            let whose = Whose {
                home,
                namespace_labels,
                rollout_labels,
                ..whose("shop", "checkout")
            };
            let found = frozen(&freezes, &whose, &Lane::Normal, now);
            assert_eq!(found.is_some(), stopped, "{place} {says} {whose:?}");
        }
    }

    #[test]
    fn of_several_the_longest_is_named_with_who_and_why() {
        let now: Timestamp = "2026-12-24T12:00:00Z".parse().expect("a time");
        let longer = freeze(SYSTEM, &json!({"until": "2027-02-01T00:00:00Z"}));
        let freezes = [freeze("shop", &json!({})), longer.clone(), freeze("shop", &json!({}))];
        let found = frozen(&freezes, &whose("shop", "checkout"), &Lane::Normal, now);
        assert_eq!(found, Some(&longer));
        assert_eq!(
            longer.to_string(),
            "freeze wade-system/xmas of ops until 2027-02-01T00:00:00Z: holidays"
        );
    }
}
