//! A pipeline with few rights: exactly the Role that `wade rbac` prints, and one right less.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::support::account::Account;
use crate::support::api::Kind;
use crate::support::scene::{Expected, NEW, QUICK, Scene};
use crate::support::step::Step;

/// The rules of the Role that `wade rbac` prints for the application; kubectl reads the YAML.
async fn printed(scene: &Scene) -> Value {
    let words = ["rbac", "-n", &scene.space.name, "--scrape", "--daemon"];
    let told = Step::start(&scene.space, &words).ends(Duration::from_secs(20)).await;
    assert_eq!(told.code(), Some(0), "{}", told.output());
    let words = ["create", "--dry-run=client", "--output=json", "-f", "-"];
    let read = scene.space.node.try_kubectl(&words, &told.output()).await;
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let objects = serde_json::Deserializer::from_slice(&read.stdout).into_iter::<Value>();
    let objects: Vec<Value> = objects.map(|object| object.expect("kubectl prints JSON")).collect();
    let role = objects
        .iter()
        .flat_map(|object| {
            object["items"]
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![object.clone()])
        })
        .find(|object| object["kind"] == "Role");
    role.unwrap_or_else(|| panic!("no Role in\n{}", told.output()))["rules"].clone()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn the_printed_role_is_enough() {
    let scene = Scene::open("enough", QUICK).await;
    let rules = printed(&scene).await;
    let account = Account::new(&scene.space, "pipeline", &rules).await;
    let ended = scene
        .deploy_as(account.kubeconfig(), NEW, &[])
        .ends(Duration::from_secs(70))
        .await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    println!("FIGURE memory of the step: {} KiB", ended.most_memory_kib);
    assert_eq!(ended.code(), Some(0));
    let closed = scene.close(Expected::on(NEW)).await;

    let mut used = BTreeMap::<String, BTreeSet<&str>>::new();
    let (mut mine, mut writes) = (0, 0);
    for request in closed
        .requests
        .iter()
        .filter(|request| request.user.username.ends_with(":pipeline"))
    {
        let Some(object) = &request.object else { continue };
        mine += 1;
        writes += usize::from(request.is_write());
        let resource = [object.resource.as_str(), &object.subresource].join("/");
        used.entry(resource.trim_end_matches('/').to_owned())
            .or_default()
            .insert(&request.verb);
        let code = request.response.as_ref().map_or(0, |response| response.code);
        assert_ne!(code, 403, "{} {}", request.verb, request.uri);
    }
    println!("FIGURE API requests of a release: {mine}, of which {writes} write");
    for (resource, verbs) in &used {
        println!("FIGURE used: {resource}: {verbs:?}");
    }
    assert!(mine > 0, "the audit log names the pipeline's requests");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_missing_right_is_named_before_anything_is_touched() {
    let scene = Scene::open("lacking", QUICK).await;
    let rules = printed(&scene).await;
    for (verb, resource) in [
        ("patch", "httproutes"),
        ("create", "replicasets"),
        ("patch", "deployments"),
        ("update", "leases"),
        ("create", "configmaps"),
        ("watch", "pods"),
    ] {
        let name = format!("no-{verb}-{resource}");
        let less = without(&rules, verb, resource);
        assert_ne!(less, rules, "the Role gives {verb} {resource}");
        let account = Account::new(&scene.space, &name, &less).await;
        let before = scene.history();
        let ended = scene
            .deploy_as(account.kubeconfig(), NEW, &[])
            .ends(Duration::from_secs(30))
            .await;
        println!("without {verb} {resource}: exit {:?}\n{}", ended.code(), ended.output());
        assert_eq!(ended.code(), Some(7), "without {verb} {resource}");
        let said = ended.output();
        assert!(said.contains(verb) && said.contains(resource), "{said}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after = scene.history();
        for kind in [
            Kind::Deployment,
            Kind::ReplicaSet,
            Kind::Service,
            Kind::HttpRoute,
            Kind::ConfigMap,
            Kind::Lease,
        ] {
            assert_eq!(before.of(kind).count(), after.of(kind).count(), "{kind:?} was touched");
        }
    }
    scene.close(Expected::on("1.0")).await;
}

/// The rules without one verb on one resource.
fn without(rules: &Value, verb: &str, resource: &str) -> Value {
    let mut less = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        let names = |key: &str| -> Vec<String> {
            let list = rule[key].as_array().into_iter().flatten();
            list.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let (verbs, resources) = (names("verbs"), names("resources"));
        if !verbs.iter().any(|name| name == verb) || !resources.iter().any(|name| name == resource) {
            less.push(rule.clone());
            continue;
        }
        // The rest of the resources keep all their verbs, this one keeps the others.
        let (mut others, mut this) = (rule.clone(), rule.clone());
        others["resources"] = resources.iter().filter(|name| *name != resource).cloned().collect();
        this["resources"] = Value::from(vec![resource]);
        this["verbs"] = verbs.iter().filter(|name| *name != verb).cloned().collect();
        less.extend([others, this].into_iter().filter(|rule| {
            ["resources", "verbs"]
                .iter()
                .all(|key| rule[*key].as_array().is_some_and(|list| !list.is_empty()))
        }));
    }
    Value::Array(less)
}
