//! What a daemon in a cluster is made of, from one source: `wade install`, the manifests and the Helm chart in deploy/.
//!
//! [`manifests`] is plain values from [`Settings`]; [`files`] writes them down as YAML and as a chart (a test compares
//! what lies in deploy/ with it); [`apply`] puts them into a cluster and says what changed; [`leave`] takes everything out
//! again, running releases first. The namespace is always [`crate::crd::SYSTEM`]: most of what is installed belongs to
//! the cluster and exists once, so a choice of namespace would be a choice of one name among several.
//!
//! In reading order: [`workload`] (Deployment and what surrounds it), [`rights`] (RBAC), [`policies`] (admission).
//!
//! What it does not do: give the daemon Secrets. Who wants notifications from a Secret, or hooks, gives that right in the
//! namespace that it is for ([`rights`] has the roles to bind).

pub mod apply;
pub mod files;
pub mod leave;
pub mod policies;
pub mod rights;
pub mod workload;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::apiserver::Kind;
pub use crate::crd::SYSTEM;
use crate::crd::definitions;

/// As which field manager `wade install` writes.
pub const INSTALLER: &str = "wade-install";
/// The name of most of what is installed.
pub const NAME: &str = "wade";

/// What can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The daemon's image.
    pub image: String,
    /// How many of it run; one leads, the others are warm.
    pub replicas: u32,
    /// How changes by others are held in the API server itself.
    pub hold: HoldApi,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: format!("wade:{}", env!("CARGO_PKG_VERSION")),
            replicas: 2,
            hold: HoldApi::None,
        }
    }
}

/// Which version of MutatingAdmissionPolicy the API server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldApi {
    /// From Kubernetes 1.36.
    V1,
    /// Before, where its gate is open.
    V1Beta1,
    /// None: Deployments stay paused between releases instead.
    None,
}

/// Everything, in the order in which it is installed.
pub fn manifests(settings: &Settings) -> Vec<Value> {
    let mut all = vec![workload::namespace()];
    all.extend(definitions());
    all.extend(rights::all());
    all.extend(policies::validating());
    all.extend(policies::hold(settings.hold));
    all.extend(workload::all(settings));
    all
}

/// Labels of everything that is installed.
fn labels() -> Value {
    json!({ "app.kubernetes.io/name": NAME, "app.kubernetes.io/managed-by": INSTALLER })
}

/// An object with its name and labels, in the daemon's namespace unless its kind is of the cluster.
fn object(kind: Kind, name: &str, body: Value) -> Value {
    let mut metadata = json!({ "name": name, "labels": labels() });
    if !kind.is_of_the_cluster() {
        metadata["namespace"] = json!(SYSTEM);
    }
    let mut object = json!({ "apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata });
    if let (Value::Object(object), Value::Object(body)) = (&mut object, body) {
        object.extend(body);
    }
    object
}

/// The kind of a manifest of ours.
pub fn kind_of(object: &Value) -> Option<Kind> {
    const OURS: [Kind; 16] = [
        Kind::Namespace,
        Kind::CustomResourceDefinition,
        Kind::ServiceAccount,
        Kind::ClusterRole,
        Kind::ClusterRoleBinding,
        Kind::Role,
        Kind::RoleBinding,
        Kind::ValidatingAdmissionPolicy,
        Kind::ValidatingAdmissionPolicyBinding,
        Kind::MutatingAdmissionPolicyV1,
        Kind::MutatingAdmissionPolicyBindingV1,
        Kind::MutatingAdmissionPolicy,
        Kind::MutatingAdmissionPolicyBinding,
        Kind::Deployment,
        Kind::Service,
        Kind::NetworkPolicy,
    ];
    let said = |kind: &Kind| object["kind"] == kind.name() && object["apiVersion"] == kind.api_version();
    OURS.into_iter().chain([Kind::PodDisruptionBudget]).find(said)
}
