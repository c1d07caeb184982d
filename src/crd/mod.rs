//! The custom resources of a daemon in a cluster, from Rust types: `Rollout`, `Release`, `ClusterStrategy`, `Freeze`.
//!
//! The idea: a type is written once, and the CustomResourceDefinition, what `kubectl explain` shows and what the daemon
//! reads all come from it. [`structural`] turns the JSON Schema of a type into what an API server takes (no references,
//! no free unions); [`definition`] adds columns, short names and the rules in CEL; the files in deploy/ are written from
//! there and compared by a test.
//!
//! A `Rollout` in a cluster is the same as in a file, without what only means something on one machine, or would let its
//! author use the daemon's own rights: processes, commands, files and variables of the daemon. These fields are not in
//! the definition, so an API server does not keep them, and [`rollout::read`] refuses them a second time.
//!
//! What it does not do: talk to a server (`install` and the daemon do), or decide anything about a release. Next:
//! [`release`], [`strategy`] (minima) and [`freeze`] hold the plain functions that an admission asks.

pub mod condition;
pub mod definition;
pub mod freeze;
pub mod release;
pub mod rollout;
pub mod selector;
pub mod strategy;
pub mod structural;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use condition::Condition;
pub use definition::definitions;
pub use freeze::{FreezeSpec, FrozenBy, Whose, frozen};
pub use release::{ReleaseSpec, ReleaseStatus, Target};
pub use rollout::RolloutStatus;
pub use strategy::{ClusterStrategySpec, Minima, below_minima};

use crate::apiserver::value::name;

/// The namespace that the daemon lives in unless it is told another one; a [`FreezeSpec`] there counts for all.
pub const SYSTEM: &str = "wade-system";

/// The `spec` of an object of one of our kinds; Rollouts are read by [`rollout::read`], which knows more.
///
/// # Errors
/// It is not one, with the object's name: an older or newer definition is installed.
pub fn spec_of<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object["spec"].clone()).map_err(|error| {
        let kind = object["kind"].as_str().unwrap_or("object");
        format!(
            "the spec of {kind} {} cannot be understood: {error}; `wade install` brings the definitions up to date",
            name(object)
        )
    })
}
