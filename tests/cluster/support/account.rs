//! Somebody with few rights: a ServiceAccount, the Role it is given, and a kubeconfig to be it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::space::Space;

/// An account of a namespace.
#[derive(Debug)]
pub(crate) struct Account {
    kubeconfig: PathBuf,
}

impl Account {
    /// An account that may do what `rules` (a Role's) say, in the namespace, and nothing else.
    pub(crate) async fn new(space: &Space, name: &str, rules: &Value) -> Self {
        let about = json!({"name": name, "namespace": space.name});
        let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": space.name});
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": about, "rules": rules},
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": about,
                "subjects": [subject], "roleRef": role
            }
        ]});
        Self::of(space, name, &objects.to_string()).await
    }

    /// The account of this name, with whatever these manifests give it.
    pub(crate) async fn of(space: &Space, name: &str, manifests: &str) -> Self {
        let applied = space.node.try_kubectl(&["apply", "-f", "-"], manifests).await;
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        let token = space.kubectl(&["create", "token", name]).await;
        let admin = fs::read(space.node.kubeconfig()).expect("the node has a kubeconfig");
        let mut config: Value = serde_json::from_slice(&admin).expect("node up writes JSON");
        config["users"][0]["user"] = json!({"token": token.trim()});
        let kubeconfig = space
            .node
            .run_folder()
            .join(format!("{}-{name}.kubeconfig", space.name));
        fs::write(&kubeconfig, config.to_string()).expect("the node's folder is there");
        Self { kubeconfig }
    }

    /// What to give to [`super::step::Step::start_as`].
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // The account goes with its namespace; a kubeconfig without one is litter and no danger.
        let _ = fs::remove_file(&self.kubeconfig);
    }
}
