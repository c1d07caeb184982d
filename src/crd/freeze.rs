//! `Freeze`: a time in which no release begins, with who says so, why, and until when.
//!
//! It counts for the Rollouts of its namespace; in the daemon's own namespace for all. Going back is always allowed, and
//! emergencies are unless it says otherwise. Whoever may write Freezes of a namespace may end them: that is what RBAC is
//! for, and the audit log of the cluster says who did.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SYSTEM, spec_of};
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
    /// Rollouts that it does not count for.
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

    fn namespace(&self) -> &str {
        self.name.split_once('/').map_or("", |(namespace, _)| namespace)
    }
}

impl std::fmt::Display for FrozenBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FreezeSpec { until, reason, by, .. } = &self.spec;
        write!(f, "freeze {} of {by} until {until}: {reason}", self.name)
    }
}

/// The freeze that keeps a release of `namespace`/`rollout` from beginning now; of several the one that lasts longest.
pub fn frozen<'a>(
    freezes: &'a [FrozenBy],
    (namespace, rollout): (&str, &str),
    lane: &Lane,
    now: Timestamp,
) -> Option<&'a FrozenBy> {
    let stops = |freeze: &&FrozenBy| {
        let spec = &freeze.spec;
        let here = freeze.namespace() == namespace || freeze.namespace() == SYSTEM;
        let excepted = spec
            .except
            .iter()
            .any(|name| name == rollout || name.split_once('/') == Some((namespace, rollout)));
        let lane = match lane {
            Lane::Normal | Lane::FirstDeploy => true,
            Lane::Rollback => false,
            Lane::Emergency { .. } => spec.emergencies == Emergencies::Refused,
        };
        here && !excepted && lane && spec.from.is_none_or(|from| from <= now) && now <= spec.until
    };
    freezes.iter().filter(stops).max_by_key(|freeze| freeze.spec.until)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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

    #[test]
    fn a_freeze_stops_what_begins_in_its_place_and_time() {
        let within: Timestamp = "2026-12-24T12:00:00Z".parse().expect("a time");
        let before: Timestamp = "2026-12-20T17:59:59Z".parse().expect("a time");
        let after: Timestamp = "2027-01-02T08:00:01Z".parse().expect("a time");
        let emergency = Lane::Emergency {
            reason: "down".to_owned(),
        };
        let shop = ("shop", "checkout");
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
            let found = frozen(&freezes, whose, lane, now);
            assert_eq!(found.is_some(), stopped, "{namespace} {more} {lane:?} {now}");
        }
    }

    #[test]
    fn of_several_the_longest_is_named_with_who_and_why() {
        let now: Timestamp = "2026-12-24T12:00:00Z".parse().expect("a time");
        let longer = freeze(SYSTEM, &json!({"until": "2027-02-01T00:00:00Z"}));
        let freezes = [freeze("shop", &json!({})), longer.clone(), freeze("shop", &json!({}))];
        let found = frozen(&freezes, ("shop", "checkout"), &Lane::Normal, now);
        assert_eq!(found, Some(&longer));
        assert_eq!(
            longer.to_string(),
            "freeze wade-system/xmas of ops until 2027-02-01T00:00:00Z: holidays"
        );
    }
}
