//! What is asked before a release, by `wade deploy` and by `wade check` alike: permissions, objections, everything.

use super::Cluster;
use super::admit::Admission;
use super::check::Check;
use super::door::running;
use super::rbac::{self, Lacking, Need};
use crate::daemon::api::{Problem, ProblemKind, ReleaseRequest};
use crate::store::configmap::ConfigMapStore;

impl Cluster {
    /// Which of these permissions the caller lacks, asked of the server.
    ///
    /// # Errors
    /// Some that nothing goes without are missing: all of them, named at once.
    pub(super) async fn permitted(&self, needs: &[Need]) -> Result<Lacking, Problem> {
        let lacking = rbac::lacking(&self.api, needs).await;
        if lacking.needed.is_empty() {
            return Ok(lacking);
        }
        let who = self.caller().await.user;
        let refusal = lacking.refusal(&who, self.namespace()).unwrap_or_default();
        Err(Problem::new(ProblemKind::Forbidden, refusal))
    }

    /// As [`Self::permitted`], for a release that has been worked out.
    pub(super) async fn check_rights(&self, admission: &Admission) -> Result<Lacking, Problem> {
        self.permitted(&self.needs(admission)).await
    }

    fn needs(&self, admission: &Admission) -> Vec<Need> {
        rbac::needed_by(&admission.release, &admission.plan, self.api.is_inside())
    }

    /// Adds to the report what speaks against a release besides what its own objects say.
    pub(super) async fn objections(
        &self,
        store: &ConfigMapStore,
        admission: &mut Admission,
        retried: bool,
    ) -> Result<(), Problem> {
        let name = &admission.release.deployment;
        let ruling = self.ruling(name, &admission.plan.lane).await?;
        let mut against = ruling.against;
        if !retried
            && let Some(failed) = store
                .quarantined(&admission.canary.id)
                .await
                .map_err(Problem::unavailable)?
        {
            against.push(format!(
                "revision {} of {name} failed in release {} ({}); `wade retry deployment/{name} -n {}` tries it again",
                admission.canary.version,
                failed.release,
                failed.reason,
                self.namespace()
            ));
        }
        against.extend(self.check_time(&admission.plan).err().map(|problem| problem.message));
        admission.report.refusals.extend(against);
        admission.report.warnings.extend(ruling.unseen);
        Ok(())
    }

    /// Everything that is known before a release; nothing is touched. Without anything to release in the options it is
    /// about any new version.
    ///
    /// # Errors
    /// Permissions are missing without which nothing can be looked at, there is no stable revision, or what is to be
    /// released is no revision at all.
    pub async fn check(&self, name: &str, request: &ReleaseRequest) -> Result<Check, Problem> {
        self.permitted(&rbac::needed_always(name)).await?;
        let store = self.store(name);
        let running = running(&store).await?;
        let mut worked = Box::pin(self.work_out(name, request, &store)).await?;
        let lacking = rbac::lacking(&self.api, &self.needs(&worked.admission)).await;
        let any = self.options.ask.is_empty();
        self.objections(&store, &mut worked.admission, any).await?;
        let mut check = Check::new(&worked.found, &worked.probe, &worked.admission, lacking, any);
        if let Some(record) = running {
            let place = format!("deployment/{name} -n {}", self.namespace());
            check.warnings.push(if self.is_abandoned(name).await? {
                format!("{} was left unfinished by a run that is gone: `wade settle {place}`, or the next deploy, puts it right first", record.key)
            } else {
                format!("{} is running: `wade status {place} -w` follows it, and another one waits for its end", record.key)
            });
        }
        Ok(check)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::apiserver::ApiServer;
    use crate::apiserver::testing::FakeServer;
    use crate::clock::SystemClock;
    use crate::cluster::Options;
    use crate::cluster::check::Standing;

    const REVIEW: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

    fn shop() -> FakeServer {
        let fake = FakeServer::new();
        let template = json!({"metadata": {"labels": {"app": "app"}},
            "spec": {"containers": [{"name": "app", "image": "x/app:1.0", "ports": [{"containerPort": 8080}]}]}});
        let deployment = fake.put(
            "/apis/apps/v1/namespaces/shop/deployments/app",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app", "namespace": "shop"},
                "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "app"}}, "template": template}}),
        );
        let mut own = template;
        own["metadata"]["labels"]["pod-template-hash"] = json!("h1");
        let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "app", "controller": true,
            "uid": deployment["metadata"]["uid"]});
        fake.put(
            "/apis/apps/v1/namespaces/shop/replicasets/app-h1",
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": {"name": "app-h1", "namespace": "shop", "labels": {"app": "app", "pod-template-hash": "h1"},
                    "ownerReferences": [owner]},
                "spec": {"replicas": 2, "template": own}, "status": {"replicas": 2, "availableReplicas": 2}}),
        );
        fake.edit("/apis/apps/v1/namespaces/shop/deployments/app", |object| {
            object["status"] = json!({"observedGeneration": object["metadata"]["generation"],
                "replicas": 2, "updatedReplicas": 2});
        });
        for (name, cluster_ip) in [("app", "10.0.0.1"), ("peers", "None")] {
            fake.put(
                &format!("/api/v1/namespaces/shop/services/{name}"),
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
                    "spec": {"clusterIP": cluster_ip, "selector": {"app": "app"}, "ports": [{"port": 80}]}}),
            );
        }
        let rules = json!([{"backendRefs": [{"name": "app", "port": 80}]}]);
        fake.put(
            "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/web",
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": "web", "namespace": "shop", "managedFields": [
                    {"manager": "argocd-controller", "operation": "Apply", "fieldsV1": {"f:spec": {"f:rules": {}}}}]},
                "spec": {"rules": rules}}),
        );
        allow(&fake, &["*"]);
        fake
    }

    fn allow(fake: &FakeServer, verbs: &[&str]) {
        let rules: Value = json!({"status": {"incomplete": false, "resourceRules": [
            {"verbs": verbs, "apiGroups": ["*"], "resources": ["*"]}]}});
        fake.answer(Method::POST, REVIEW, 201, &rules.to_string());
        let no = r#"{"status": {"allowed": false}}"#;
        fake.answer(
            Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            201,
            no,
        );
    }

    fn cluster(fake: &FakeServer) -> Cluster {
        let api = ApiServer::over(fake.client("shop"), "shop");
        let options = Options {
            any: true,
            ..Options::default()
        };
        Cluster::new(api, options, Arc::new(SystemClock)).expect("a client can be made")
    }

    #[tokio::test]
    async fn a_check_tells_everything_and_writes_nothing() {
        let fake = shop();
        let cluster = cluster(&fake);
        let seen = Box::pin(cluster.check("app", &ReleaseRequest::default()))
            .await
            .expect("a check");
        assert_eq!(
            seen.services.iter().map(|service| service.headless).collect::<Vec<_>>(),
            [false, true]
        );
        assert_eq!(seen.not_canaried.len(), 2, "{:?}", seen.not_canaried);
        assert!(
            seen.not_canaried[1].contains("peers (headless"),
            "{:?}",
            seen.not_canaried
        );
        let writer = &seen.writers[0];
        assert!(
            writer.puts_back && writer.advice.contains("ignoreDifferences"),
            "{writer:?}"
        );
        assert_eq!(
            seen.standing(),
            Standing::Refused,
            "Argo CD would take the canary's backend away"
        );
        assert_eq!(seen.canary, None);
        let written: Vec<_> = fake
            .writes()
            .into_iter()
            .filter(|asked| !asked.path.contains("authorization"))
            .collect();
        assert_eq!(written, []);
    }

    #[tokio::test]
    async fn a_backend_that_is_declared_for_the_canary_reaches_it() {
        let fake = shop();
        let ports = json!([{"port": 80}]);
        fake.put(
            "/api/v1/namespaces/shop/services/app-canary",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "app-canary", "namespace": "shop"},
                "spec": {"clusterIP": "10.0.0.2", "selector": {"wade.dev/canary": "app"}, "ports": ports}}),
        );
        fake.edit(
            "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/web",
            |route| {
                route["spec"]["rules"] = json!([{"backendRefs": [
                    {"name": "app", "port": 80, "weight": 1}, {"name": "app-canary", "port": 80, "weight": 0}]}]);
            },
        );
        let cluster = cluster(&fake);
        let seen = Box::pin(cluster.check("app", &ReleaseRequest::default()))
            .await
            .expect("a check");
        let refusals = seen.refusals.join("\n");
        assert_eq!(
            refusals, "",
            "what is declared at weight 0 is what GitOps tools are told to do"
        );
    }

    #[tokio::test]
    async fn who_has_paused_a_deployment_is_asked_and_the_policy_that_holds_changes_is_nobody() {
        // Who has paused it, whether it is opted in, and whether a release is refused for it.
        let cases = [(Some("kubectl"), true, true), (None, true, false), (None, false, true)];
        for (manager, opted_in, refused) in cases {
            let fake = shop();
            fake.edit("/apis/apps/v1/namespaces/shop/deployments/app", |object| {
                object["spec"]["paused"] = json!(true);
                if opted_in {
                    object["metadata"]["labels"] = json!({"wade.dev/hold": "true"});
                }
                if let Some(manager) = manager {
                    object["metadata"]["managedFields"] = json!([{"manager": manager, "operation": "Update",
                        "fieldsV1": {"f:spec": {"f:paused": {}}}}]);
                }
            });
            let seen = Box::pin(cluster(&fake).check("app", &ReleaseRequest::default())).await;
            let refusals = seen.expect("a check").refusals;
            let said = refusals
                .iter()
                .any(|refusal| refusal.contains("paused by somebody else"));
            assert_eq!(said, refused, "{manager:?} {opted_in} {refusals:?}");
        }
    }

    #[tokio::test]
    async fn missing_permissions_are_named_before_anything_is_looked_at() {
        let fake = shop();
        allow(&fake, &["get", "list", "watch"]);
        let cluster = cluster(&fake);
        let refused = Box::pin(cluster.check("app", &ReleaseRequest::default()))
            .await
            .expect_err("no rights");
        assert_eq!(refused.kind, ProblemKind::Forbidden);
        for right in [
            "patch deployments.apps",
            "create, patch, delete replicasets.apps",
            "create, update leases",
        ] {
            assert!(refused.message.contains(right), "{}", refused.message);
        }
    }
}
