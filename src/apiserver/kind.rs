//! Which kinds of objects Wade touches, and how they are addressed.

use serde_json::{Value, json};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub enum Kind {
    ConfigMap,
    Deployment,
    EndpointSlice,
    Event,
    GrpcRoute,
    HorizontalPodAutoscaler,
    HttpRoute,
    Job,
    Lease,
    LimitRange,
    NetworkPolicy,
    Node,
    PersistentVolumeClaim,
    Pod,
    PodDisruptionBudget,
    ReplicaSet,
    ResourceQuota,
    Role,
    ScaledObject,
    Secret,
    Service,
    ServiceAccount,
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

    /// The path of one object, or of all.
    pub fn path(self, namespace: &str, name: Option<&str>) -> String {
        let base = match self.group() {
            "" => format!("/api/{}", self.version()),
            group => format!("/apis/{group}/{}", self.version()),
        };
        let place = match self {
            Self::Node => base,
            _ => format!("{base}/namespaces/{namespace}"),
        };
        match name {
            Some(name) => format!("{place}/{}/{name}", self.plural()),
            None => format!("{place}/{}", self.plural()),
        }
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
        assert_eq!(Kind::HttpRoute.resource(), "httproutes.gateway.networking.k8s.io");
        assert_eq!(Kind::ConfigMap.api_version(), "v1");
    }
}
