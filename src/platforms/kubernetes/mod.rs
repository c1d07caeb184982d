//! Kubernetes: a plain Deployment released step by step, with nothing installed in the cluster.
//!
//! The idea, in the order in which it happens (DESIGN.md section 5 has what was seen on a real node):
//!
//! 1. *Hold*: one patch pauses the Deployment and gives it the new template. Stable's ReplicaSet serves on, untouched.
//! 2. *Canary*: a ReplicaSet of our own with exactly that template. It is owned by this release's *anchor* (the Service
//!    `app-canary`), never by the record, so nothing that Wade forgets can take pods away.
//! 3. *Isolation*: until its first weight the canary gets no traffic by accident: its pods are born with another value of
//!    a label that every Service selects by, or every Service is pinned to stable's hash.
//! 4. *Shift*: the weights of the user's own HTTPRoute; without a route, the number of pods that carry the label.
//! 5. *Hand over*: the ReplicaSet is given to the Deployment as its own: the pods that were judged are those that serve.
//! 6. *The way back* at any point before: weight, isolation, canary, template, in this order.
//!
//! What this module does not do: decide. It observes ([`adapter`]), compares with what should hold and writes the
//! difference. What to write is worked out by plain functions over JSON values: [`workload`] (Deployment, ReplicaSet and
//! what surrounds them), [`template`], [`isolation`], [`route`]; [`diagnosis`] puts what is wrong into words;
//! [`hooks`] runs the author's own Jobs beside a release.

pub mod adapter;
pub mod budget;
pub mod diagnosis;
pub mod digest;
pub mod hooks;
pub mod isolation;
mod look;
pub mod managers;
pub mod reach;
pub mod release;
mod rolling;
pub mod route;
pub mod share;
pub mod signals;
mod steps;
pub mod template;
pub mod workload;

#[cfg(test)]
mod tests;

pub use release::{Before, Isolation, MetricsPort, Release, RouteKind, RouteRef, Scaler, ScalerKind};

/// On the Deployment while a release runs: a [`release::Held`] as JSON. Removing it by hand tells Wade to let go.
pub const RELEASE: &str = "wade.dev/release";
/// On a Deployment: another value with each write of Wade's that lets it roll, so that the policy which pauses other
/// writers' changes can tell Wade's from theirs (an object does not say who writes it). Taken off in a write of its own
/// once a release has let go: a write that takes it off counts as somebody else's.
pub const WRITE: &str = "wade.dev/write";
/// Label of a Deployment whose template others may change and only a release puts into force: `true`.
pub const HOLD: &str = "wade.dev/hold";
/// The policy in the API server that pauses such a Deployment when its template changes, by name.
pub const HOLD_POLICY: &str = "wade-hold";
/// The policy in the API server that lets only those write hooks who may make Jobs, by name.
pub const HOOKS_POLICY: &str = "wade-hooks";
/// On everything Wade writes while a release runs: the holder's epoch. A holder with a lower one stops.
pub const EPOCH: &str = "wade.dev/epoch";
/// On a Deployment that Wade has left paused because its template is somebody else's to put back: why.
pub const LEFT_PAUSED: &str = "wade.dev/left-paused";
/// As which field manager a manifest that was handed in is applied: it is the user's word, and stays.
pub const APPLIER: &str = "wade-deploy";
/// Label of what Wade creates: which part of it, `record` or `release`.
pub const PART: &str = "wade.dev/part";
/// Label of everything Wade creates: the rollout's name.
pub const ROLLOUT: &str = "wade.dev/rollout";
/// Label of a canary's pods where a Service for them is declared in Git, with the Deployment's name: from their birth until
/// no route leads to them alone any more, also while they serve already.
pub const CANARY: &str = "wade.dev/canary";
/// The label by which a ReplicaSet tells its pods from others'.
pub const HASH: &str = "pod-template-hash";
/// On a ReplicaSet: the Deployment's revision number it carries.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
