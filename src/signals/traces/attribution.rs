//! Whose span it is: resource attributes against the names that both revisions go by.
//!
//! Attributes are asked in order, and the first that fits exactly one side decides. One that fits neither, or both (two
//! revisions of the same version), says nothing, and the next is asked. What no attribute tells apart belongs to nobody
//! and is counted as such: a guess would be evidence against the wrong revision.

use std::collections::{BTreeMap, BTreeSet};

use crate::judge::observation::Sides;
use crate::signals::Side;

/// The attribute by which a service calls itself.
pub const SERVICE_NAME: &str = "service.name";
/// The attribute with a revision's version.
pub const SERVICE_VERSION: &str = "service.version";
/// The attribute with a pod's name.
pub const POD_NAME: &str = "k8s.pod.name";
/// The attribute with a ReplicaSet's name.
pub const REPLICA_SET: &str = "k8s.replicaset.name";

/// The names that a revision goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Wade's own name for it, different from every other revision's.
    pub id: String,
    /// The version that users gave it.
    pub version: String,
    /// Its ReplicaSet, where there is one; its pods' names begin with it.
    pub replica_set: Option<String>,
}

impl Names {
    fn fit(&self, attribute: &str, value: &str) -> bool {
        let set = self.replica_set.as_deref();
        match attribute {
            REPLICA_SET => set == Some(value),
            POD_NAME => set
                .and_then(|set| value.strip_prefix(set)?.strip_prefix('-'))
                .is_some_and(|rest| !rest.is_empty() && !rest.contains('-')),
            _ => value == self.id || (!self.version.is_empty() && value == self.version),
        }
    }
}

/// By what spans are attributed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `service.name` of the service, if a user said it. A pod or ReplicaSet tells its service by itself; anything else
    /// counts only together with this name, or with the rollout's if none was said.
    pub service: Option<String>,
    /// The rollout's name.
    pub rollout: String,
    /// The attributes that are asked, in order.
    pub attributes: Vec<String>,
}

impl Rule {
    /// The usual rule for a rollout.
    pub fn of(rollout: &str) -> Self {
        Self {
            service: None,
            rollout: rollout.to_owned(),
            attributes: [SERVICE_VERSION, POD_NAME, REPLICA_SET].map(str::to_owned).to_vec(),
        }
    }

    /// Every attribute that attribution looks at.
    pub fn wanted(&self) -> BTreeSet<&str> {
        self.attributes
            .iter()
            .map(String::as_str)
            .chain([SERVICE_NAME])
            .collect()
    }

    /// Whose spans carry `resource`.
    pub fn side_of(&self, resource: &BTreeMap<String, String>, sides: &Sides<Option<Names>>) -> Belongs {
        let service = resource.get(SERVICE_NAME);
        if self.service.is_some() && self.service.as_ref() != service {
            return Belongs::Elsewhere;
        }
        let is_named = service.is_some_and(|name| *name == self.rollout || self.service.as_ref() == Some(name));
        let mut told = false;
        for attribute in &self.attributes {
            let by_itself = matches!(attribute.as_str(), POD_NAME | REPLICA_SET);
            let Some(value) = resource.get(attribute).filter(|_| is_named || by_itself) else {
                continue;
            };
            let fits = |side: Side| side.of(sides).as_ref().is_some_and(|names| names.fit(attribute, value));
            match (fits(Side::Canary), fits(Side::Stable)) {
                (true, false) => return Belongs::To(Side::Canary),
                (false, true) => return Belongs::To(Side::Stable),
                (true, true) => told = true,
                (false, false) => {}
            }
        }
        match (told, is_named) {
            (true, _) => Belongs::Both,
            (false, true) => Belongs::Neither,
            (false, false) => Belongs::Elsewhere,
        }
    }
}

/// Whose span it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// One of the two revisions.
    To(Side),
    /// The service's, but no attribute tells its two revisions apart.
    Both,
    /// The service's, of neither revision that is compared now.
    Neither,
    /// Another service's.
    Elsewhere,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sides(versions: [&str; 2], sets: [Option<&str>; 2]) -> Sides<Option<Names>> {
        let names = |i: usize, id: &str| {
            Some(Names {
                id: id.to_owned(),
                version: versions[i].to_owned(),
                replica_set: sets[i].map(str::to_owned),
            })
        };
        Sides {
            canary: names(0, "shop-c"),
            stable: names(1, "shop-s"),
        }
    }

    fn resource(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_first_attribute_that_tells_them_apart_decides() {
        let rule = Rule::of("shop");
        let local = sides(["2.0", "1.0"], [None, None]);
        let cluster = sides(["2.0", "1.0"], [Some("shop-7d9f"), Some("shop-5c6b")]);
        let same = sides(["1.0", "1.0"], [Some("shop-7d9f"), Some("shop-5c6b")]);
        let (canary, stable) = (Belongs::To(Side::Canary), Belongs::To(Side::Stable));
        let table = [
            (&local, vec![(SERVICE_NAME, "shop"), (SERVICE_VERSION, "2.0")], canary),
            (&local, vec![(SERVICE_NAME, "shop"), (SERVICE_VERSION, "1.0")], stable),
            (
                &local,
                vec![(SERVICE_NAME, "shop"), (SERVICE_VERSION, "shop-s")],
                stable,
            ),
            (
                &local,
                vec![(SERVICE_NAME, "shop"), (SERVICE_VERSION, "0.9")],
                Belongs::Neither,
            ),
            (&local, vec![(SERVICE_NAME, "shop")], Belongs::Neither),
            // Another service may well have the same version.
            (
                &local,
                vec![(SERVICE_NAME, "cart"), (SERVICE_VERSION, "2.0")],
                Belongs::Elsewhere,
            ),
            (&local, vec![(SERVICE_VERSION, "2.0")], Belongs::Elsewhere),
            (
                &cluster,
                vec![(SERVICE_NAME, "any"), (POD_NAME, "shop-7d9f-x2x4z")],
                canary,
            ),
            (&cluster, vec![(REPLICA_SET, "shop-5c6b")], stable),
            // A ReplicaSet whose name begins like another's.
            (&cluster, vec![(POD_NAME, "shop-5c6b-web-x2x4z")], Belongs::Elsewhere),
            (
                &same,
                vec![(SERVICE_NAME, "shop"), (SERVICE_VERSION, "1.0")],
                Belongs::Both,
            ),
            (
                &same,
                vec![
                    (SERVICE_NAME, "shop"),
                    (SERVICE_VERSION, "1.0"),
                    (POD_NAME, "shop-5c6b-abcde"),
                ],
                stable,
            ),
        ];
        for (sides, attributes, expected) in table {
            assert_eq!(rule.side_of(&resource(&attributes), sides), expected, "{attributes:?}");
        }
    }

    #[test]
    fn a_service_that_a_user_named_is_asked_for_always() {
        let rule = Rule {
            service: Some("web-shop".to_owned()),
            ..Rule::of("shop")
        };
        let sides = sides(["2.0", "1.0"], [Some("shop-7d9f"), Some("shop-5c6b")]);
        let of = |attributes: &[(&str, &str)]| rule.side_of(&resource(attributes), &sides);
        assert_eq!(of(&[(POD_NAME, "shop-7d9f-x2x4z")]), Belongs::Elsewhere);
        assert_eq!(
            of(&[(SERVICE_NAME, "web-shop"), (SERVICE_VERSION, "2.0")]),
            Belongs::To(Side::Canary)
        );
    }
}
