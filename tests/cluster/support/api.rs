//! The API server by plain HTTP: enough to read, write and watch objects as JSON, and nothing of Wade's own client.

use std::fs;

use reqwest::{Certificate, Client, Method, Response, StatusCode};
use serde_json::Value;

use super::node::Node;

/// The admin's connection to the API server.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    client: Client,
    server: String,
    token: String,
}

/// What the API server answered when it refused.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Api {
    /// As the kubeconfig says. `node up` wrote it as JSON, which is YAML.
    pub(crate) fn new(node: &Node) -> Self {
        let text = fs::read(node.kubeconfig()).expect("the node has a kubeconfig");
        let config: Value = serde_json::from_slice(&text).expect("node up writes JSON");
        let word = |pointer: &str| {
            let value = config.pointer(pointer).and_then(Value::as_str);
            value.unwrap_or_else(|| panic!("the kubeconfig has no {pointer}"))
        };
        let authority = fs::read(word("/clusters/0/cluster/certificate-authority")).expect("the node has a CA");
        // A second test in this process finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([Certificate::from_pem(&authority).expect("openssl wrote it")])
            .user_agent("wade-cluster-tests")
            .build()
            .expect("nothing of this is input");
        Self {
            client,
            server: word("/clusters/0/cluster/server").to_owned(),
            token: word("/users/0/user/token").to_owned(),
        }
    }

    /// One request; the answer as it comes, if it is not a refusal.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Response, Refused> {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.server))
            .bearer_auth(&self.token);
        if let Some((kind, value)) = body {
            request = request.header("content-type", kind).body(value.to_string());
        }
        let unreachable = |error: reqwest::Error| Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: format!("{error:?}"),
        };
        let response = request.send().await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(Refused {
            status: response.status(),
            message: response.text().await.map_err(unreachable)?,
        })
    }

    async fn value(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> Result<Value, Refused> {
        let response = self.send(method, path, body).await?;
        response.json().await.map_err(|error| Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: format!("{error:?}"),
        })
    }

    /// Reads an object or a list.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Refused> {
        self.value(Method::GET, path, None).await
    }

    /// Creates an object in its collection.
    pub(crate) async fn create(&self, collection: &str, object: &Value) -> Result<Value, Refused> {
        self.value(Method::POST, collection, Some(("application/json", object)))
            .await
    }

    /// Changes an object by a merge patch.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value, Refused> {
        self.value(Method::PATCH, path, Some(("application/merge-patch+json", patch)))
            .await
    }

    /// Server-side apply; the path names the manager.
    pub(crate) async fn apply(&self, path: &str, object: &Value) -> Result<Value, Refused> {
        // JSON is YAML.
        self.value(Method::PATCH, path, Some(("application/apply-patch+yaml", object)))
            .await
    }

    /// Deletes an object; its dependents follow in the background.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Refused> {
        self.send(Method::DELETE, path, None).await.map(|_| ())
    }
}

/// The kinds that the tests read, and where the API server keeps them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    ConfigMap,
    Deployment,
    EndpointSlice,
    HorizontalPodAutoscaler,
    HttpRoute,
    Job,
    Lease,
    Pod,
    PodDisruptionBudget,
    ReplicaSet,
    ResourceQuota,
    Service,
}

impl Kind {
    /// Where a namespace's objects of this kind are listed.
    pub(crate) fn collection(self, namespace: &str) -> String {
        let (group, resource) = match self {
            Self::ConfigMap => ("api/v1", "configmaps"),
            Self::Deployment => ("apis/apps/v1", "deployments"),
            Self::EndpointSlice => ("apis/discovery.k8s.io/v1", "endpointslices"),
            Self::HorizontalPodAutoscaler => ("apis/autoscaling/v2", "horizontalpodautoscalers"),
            Self::HttpRoute => ("apis/gateway.networking.k8s.io/v1", "httproutes"),
            Self::Job => ("apis/batch/v1", "jobs"),
            Self::Lease => ("apis/coordination.k8s.io/v1", "leases"),
            Self::Pod => ("api/v1", "pods"),
            Self::PodDisruptionBudget => ("apis/policy/v1", "poddisruptionbudgets"),
            Self::ReplicaSet => ("apis/apps/v1", "replicasets"),
            Self::ResourceQuota => ("api/v1", "resourcequotas"),
            Self::Service => ("api/v1", "services"),
        };
        format!("/{group}/namespaces/{namespace}/{resource}")
    }
}
