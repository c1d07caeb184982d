//! Which kinds of objects Wade touches, and how they are addressed.

use serde_json::{Value, json};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub enum Kind {
    ClusterRole,
    ClusterRoleBinding,
    ClusterStrategy,
    ConfigMap,
    CronJob,
    CustomResourceDefinition,
    Deployment,
    EndpointSlice,
    Event,
    Freeze,
    GrpcRoute,
    HorizontalPodAutoscaler,
    HttpRoute,
    Job,
    Lease,
    LimitRange,
    MutatingAdmissionPolicy,
    MutatingAdmissionPolicyBinding,
    MutatingAdmissionPolicyBindingV1,
    MutatingAdmissionPolicyV1,
    Namespace,
    NetworkPolicy,
    Node,
    PersistentVolumeClaim,
    Pod,
    PodDisruptionBudget,
    Release,
    ReplicaSet,
    ResourceQuota,
    Role,
    RoleBinding,
    Rollout,
    ScaledObject,
    Secret,
    Service,
    ServiceAccount,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
}

impl Kind {
    /// The API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        self.parts().0
    }

    /// The version of the API group.
    pub const fn version(self) -> &'static str {
        self.parts().1
    }

    /// The plural, as in paths and rules.
    pub const fn plural(self) -> &'static str {
        self.parts().2
    }

    /// The kind, as in manifests.
    pub const fn name(self) -> &'static str {
        self.parts().3
    }

    /// What people call it, `deployment`.
    pub fn word(self) -> String {
        self.name().to_ascii_lowercase()
    }

    /// `apps/v1`, `v1`.
    pub fn api_version(self) -> String {
        match self.group() {
            "" => self.version().to_owned(),
            group => format!("{group}/{}", self.version()),
        }
    }

    /// `deployments.apps`, as permissions name it.
    pub fn resource(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    /// The path of one object, or of all; in every namespace if `namespace` is empty.
    pub fn path(self, namespace: &str, name: Option<&str>) -> String {
        let base = match self.group() {
            "" => format!("/api/{}", self.version()),
            group => format!("/apis/{group}/{}", self.version()),
        };
        let place = if self.is_of_the_cluster() || namespace.is_empty() {
            base
        } else {
            format!("{base}/namespaces/{namespace}")
        };
        match name {
            Some(name) => format!("{place}/{}/{name}", self.plural()),
            None => format!("{place}/{}", self.plural()),
        }
    }

    /// Whether its objects are in no namespace.
    pub const fn is_of_the_cluster(self) -> bool {
        matches!(
            self,
            Self::ClusterRole
                | Self::ClusterRoleBinding
                | Self::ClusterStrategy
                | Self::CustomResourceDefinition
                | Self::MutatingAdmissionPolicy
                | Self::MutatingAdmissionPolicyBinding
                | Self::MutatingAdmissionPolicyBindingV1
                | Self::MutatingAdmissionPolicyV1
                | Self::Namespace
                | Self::Node
                | Self::ValidatingAdmissionPolicy
                | Self::ValidatingAdmissionPolicyBinding
        )
    }

    /// Says in the object what it is, which items of a list do not.
    pub fn stamp(self, object: &mut Value) {
        if let Value::Object(fields) = object {
            fields.insert("apiVersion".to_owned(), json!(self.api_version()));
            fields.insert("kind".to_owned(), json!(self.name()));
        }
    }

    const fn parts(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ConfigMap => ("", "v1", "configmaps", "ConfigMap"),
            Self::Deployment => ("apps", "v1", "deployments", "Deployment"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
            Self::Event => ("", "v1", "events", "Event"),
            Self::GrpcRoute => ("gateway.networking.k8s.io", "v1", "grpcroutes", "GRPCRoute"),
            Self::HorizontalPodAutoscaler => (
                "autoscaling",
                "v2",
                "horizontalpodautoscalers",
                "HorizontalPodAutoscaler",
            ),
            Self::HttpRoute => ("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute"),
            Self::CronJob => ("batch", "v1", "cronjobs", "CronJob"),
            Self::Job => ("batch", "v1", "jobs", "Job"),
            Self::Lease => ("coordination.k8s.io", "v1", "leases", "Lease"),
            Self::LimitRange => ("", "v1", "limitranges", "LimitRange"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
            Self::Node => ("", "v1", "nodes", "Node"),
            Self::PersistentVolumeClaim => ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
            Self::Pod => ("", "v1", "pods", "Pod"),
            Self::PodDisruptionBudget => ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
            Self::ReplicaSet => ("apps", "v1", "replicasets", "ReplicaSet"),
            Self::ResourceQuota => ("", "v1", "resourcequotas", "ResourceQuota"),
            Self::Role => ("rbac.authorization.k8s.io", "v1", "roles", "Role"),
            Self::ScaledObject => ("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
            Self::Secret => ("", "v1", "secrets", "Secret"),
            Self::Service => ("", "v1", "services", "Service"),
            Self::ServiceAccount => ("", "v1", "serviceaccounts", "ServiceAccount"),
            Self::ClusterRole => ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole"),
            Self::ClusterRoleBinding => (
                "rbac.authorization.k8s.io",
                "v1",
                "clusterrolebindings",
                "ClusterRoleBinding",
            ),
            Self::ClusterStrategy => ("wade.dev", "v1alpha1", "clusterstrategies", "ClusterStrategy"),
            Self::CustomResourceDefinition => (
                "apiextensions.k8s.io",
                "v1",
                "customresourcedefinitions",
                "CustomResourceDefinition",
            ),
            Self::Freeze => ("wade.dev", "v1alpha1", "freezes", "Freeze"),
            Self::Namespace => ("", "v1", "namespaces", "Namespace"),
            Self::Release => ("wade.dev", "v1alpha1", "releases", "Release"),
            Self::RoleBinding => ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
            Self::Rollout => ("wade.dev", "v1alpha1", "rollouts", "Rollout"),
            Self::ValidatingAdmissionPolicy => (
                "admissionregistration.k8s.io",
                "v1",
                "validatingadmissionpolicies",
                "ValidatingAdmissionPolicy",
            ),
            Self::ValidatingAdmissionPolicyBinding => (
                "admissionregistration.k8s.io",
                "v1",
                "validatingadmissionpolicybindings",
                "ValidatingAdmissionPolicyBinding",
            ),
            Self::MutatingAdmissionPolicy => (
                "admissionregistration.k8s.io",
                "v1beta1",
                "mutatingadmissionpolicies",
                "MutatingAdmissionPolicy",
            ),
            Self::MutatingAdmissionPolicyV1 => (
                "admissionregistration.k8s.io",
                "v1",
                "mutatingadmissionpolicies",
                "MutatingAdmissionPolicy",
            ),
            Self::MutatingAdmissionPolicyBindingV1 => (
                "admissionregistration.k8s.io",
                "v1",
                "mutatingadmissionpolicybindings",
                "MutatingAdmissionPolicyBinding",
            ),
            Self::MutatingAdmissionPolicyBinding => (
                "admissionregistration.k8s.io",
                "v1beta1",
                "mutatingadmissionpolicybindings",
                "MutatingAdmissionPolicyBinding",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_resources_are_as_the_server_names_them() {
        assert_eq!(
            Kind::Deployment.path("shop", Some("app")),
            "/apis/apps/v1/namespaces/shop/deployments/app"
        );
        assert_eq!(Kind::Pod.path("shop", None), "/api/v1/namespaces/shop/pods");
        assert_eq!(Kind::Node.path("shop", None), "/api/v1/nodes");
        assert_eq!(Kind::Deployment.path("", None), "/apis/apps/v1/deployments");
        assert_eq!(
            Kind::ClusterStrategy.path("shop", Some("safe")),
            "/apis/wade.dev/v1alpha1/clusterstrategies/safe"
        );
        assert_eq!(Kind::HttpRoute.resource(), "httproutes.gateway.networking.k8s.io");
        assert_eq!(Kind::ConfigMap.api_version(), "v1");
    }
}
