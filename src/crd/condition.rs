//! A condition as Kubernetes has them, so that `kubectl wait --for=condition=…` works.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One aspect of an object, and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect: `Valid`, `Held`, `Releasing`, …
    #[serde(rename = "type")]
    pub of: String,
    /// `True`, `False` or `Unknown`.
    pub status: Truth,
    /// One word for programs.
    pub reason: String,
    /// One sentence for people.
    #[serde(default)]
    pub message: String,
    /// Since when it is so.
    #[schemars(schema_with = "super::structural::moment")]
    pub last_transition_time: Timestamp,
    /// The generation of the spec that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Puts `new` in the place of the condition of its type. Its time stays the old one's while the status is the same, so
/// that writing it again changes nothing.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|old| old.of == new.of) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time;
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(status: bool, at: i64) -> Condition {
        Condition {
            of: "Held".to_owned(),
            status: status.into(),
            reason: "Policy".to_owned(),
            message: String::new(),
            last_transition_time: Timestamp::from_second(at).expect("in range"),
            observed_generation: Some(1),
        }
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut conditions = Vec::new();
        set(&mut conditions, held(true, 1));
        set(&mut conditions, held(true, 5));
        assert_eq!(conditions, [held(true, 1)]);
        set(&mut conditions, held(false, 7));
        assert_eq!(conditions, [held(false, 7)]);
    }
}
