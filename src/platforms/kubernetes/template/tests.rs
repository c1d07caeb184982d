use super::*;

fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "app"}},
        "spec": {
            "initContainers": [{"name": "migrate", "image": "registry.example:5000/shop/migrate:1.4.1"}],
            "containers": [{
                "name": "app", "image": "registry.example:5000/shop/app:1.4.1", "ports": [{"containerPort": 8080}],
                "env": [{"name": "LEVEL", "value": "info"},
                        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "app", "key": "token"}}}],
                "envFrom": [{"configMapRef": {"name": "flags", "optional": true}}],
            }],
            "volumes": [
                {"name": "settings", "configMap": {"name": "settings", "items": [{"key": "app.yaml", "path": "app.yaml"}]}},
                {"name": "tls", "projected": {"sources": [{"secret": {"name": "tls"}}]}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            ],
            "imagePullSecrets": [{"name": "pull"}],
        }
    })
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "app", "generation": 4},
        "spec": {"replicas": 4, "strategy": {"type": "RollingUpdate"}, "template": template()},
        "status": {"observedGeneration": 4, "replicas": 4, "updatedReplicas": 4, "availableReplicas": 3}
    })
}

fn image(container: Option<&str>, image: &str) -> For<String> {
    For {
        container: container.map(str::to_owned),
        value: image.to_owned(),
    }
}

fn variable(container: Option<&str>, name: &str, value: &str) -> For<(String, String)> {
    For {
        container: container.map(str::to_owned),
        value: (name.to_owned(), value.to_owned()),
    }
}

fn edited(edit: impl Fn(&mut Value)) -> Value {
    let mut template = template();
    edit(&mut template);
    template
}

#[test]
fn a_hash_and_empty_fields_make_no_other_template() {
    let alike = [
        edited(|t| t["metadata"]["labels"][HASH] = json!("5d4c")),
        edited(|t| t["metadata"]["creationTimestamp"] = Value::Null),
        edited(|t| t["metadata"]["annotations"] = json!({})),
        edited(|t| t["spec"]["nodeSelector"] = json!({})),
        edited(|t| t["spec"]["tolerations"] = json!([])),
    ];
    for (at, other) in alike.iter().enumerate() {
        assert!(same(&template(), other), "{at}");
        assert_eq!(hash(&template()), hash(other), "{at}");
    }
    let different = [
        edited(|t| t["metadata"]["labels"]["app"] = json!("b")),
        edited(|t| t["metadata"]["labels"]["empty"] = json!("")),
        edited(|t| t["spec"]["containers"][0]["image"] = json!("b")),
        edited(|t| t["spec"]["affinity"] = json!({"podAffinity": {}})),
    ];
    for (at, other) in different.iter().enumerate() {
        assert!(!same(&template(), other), "{at}");
        assert_ne!(hash(&template()), hash(other), "{at}");
    }
    let everything = json!({"labelSelector": {}});
    assert!(!same(&everything, &json!({"labelSelector": null})));
    let unset = json!({"env": [{"name": "A", "value": ""}]});
    assert!(same(&unset, &json!({"env": [{"name": "A"}]})));
}

#[test]
fn a_hash_is_ten_safe_letters_whatever_the_order_of_fields() {
    let one = hash(&json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {}}));
    assert_eq!(
        one,
        hash(&json!({"spec": {}, "metadata": {"labels": {"b": "2", "a": "1"}}}))
    );
    assert_eq!(one.len(), 10);
    assert!(one.bytes().all(|letter| ALPHABET.contains(&letter)), "{one}");
    // It is recorded: another way of hashing would make every revision a new one.
    assert_eq!(hash(&json!({})), "szfcgw5fwv");
}

#[test]
fn without_hash_leaves_everything_else() {
    let with = edited(|t| t["metadata"]["labels"][HASH] = json!("5d4c"));
    assert_eq!(without_hash(&with), template());
    assert_eq!(without_hash(&json!({})), json!({}));
}

#[test]
fn images_are_changed_by_container() {
    let changed = with_images(
        &template(),
        &[image(None, "app:2"), image(Some("migrate"), "migrate:2")],
    )
    .unwrap();
    let seen: Vec<_> = images(&changed)
        .into_iter()
        .map(|one| (one.container, one.image, one.init))
        .collect();
    let wanted = [("migrate", "migrate:2", true), ("app", "app:2", false)];
    assert_eq!(
        seen,
        wanted.map(|(name, image, init)| (name.to_owned(), image.to_owned(), init))
    );
}

#[test]
fn every_fault_in_images_is_told() {
    let two = edited(|t| {
        let side = json!({"name": "proxy", "image": "proxy:1"});
        t["spec"]["containers"].as_array_mut().unwrap().push(side);
    });
    let wanted = [
        image(None, "app:2"),
        image(Some("ap"), "app:2"),
        image(Some("app"), "app 2"),
    ];
    let told = with_images(&two, &wanted).unwrap_err().to_string();
    for words in [
        "the pods have 2 containers, so this has to say which",
        "there is no such container",
        "there are migrate, app, proxy",
        "this is no image",
    ] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
}

#[test]
fn variables_are_replaced_in_place_or_added_at_the_end() {
    let wanted = [
        variable(None, "TOKEN", "x"),
        variable(Some("app"), "NEW", ""),
        variable(None, "LEVEL", "debug"),
    ];
    let changed = with_env(&template(), &wanted).unwrap();
    assert_eq!(
        changed["spec"]["containers"][0]["env"],
        json!([{"name": "LEVEL", "value": "debug"}, {"name": "TOKEN", "value": "x"}, {"name": "NEW", "value": ""}])
    );
    let told = with_env(&template(), &[variable(None, "A=B", "x")])
        .unwrap_err()
        .to_string();
    assert!(told.contains("this is no name of a variable"), "{told}");
}

#[test]
fn a_version_is_what_people_call_it() {
    let digest = "sha256:4bf92f3577b34da6a3ce929d0e0e4736aaaa";
    let cases = [
        ("app:1.4.2", None, "1.4.2"),
        ("registry.example:5000/shop/app:1.4.2", None, "1.4.2"),
        ("registry.example:5000/shop/app", Some("v7"), "v7"),
        (&format!("app:1.4.2@{digest}"), Some("v7"), "1.4.2"),
        (&format!("app@{digest}"), None, "4bf92f3577b3"),
        ("app:latest", Some("v7"), "v7"),
    ];
    for (image, label, wanted) in cases {
        let template = edited(|t| {
            t["spec"]["containers"][0]["image"] = json!(image);
            if let Some(label) = label {
                t["metadata"]["labels"]["app.kubernetes.io/version"] = json!(label);
            }
        });
        assert_eq!(version_of(&template, None), wanted, "{image}");
    }
    let unnamed = edited(|t| t["spec"]["containers"][0]["image"] = json!("app"));
    assert_eq!(version_of(&unnamed, None), hash(&unnamed));
    assert_eq!(version_of(&template(), Some("migrate")), "1.4.1");
}

#[test]
fn images_that_mean_something_else_tomorrow_are_refused() {
    let strict = VersionPolicy::default();
    let forbids = VersionPolicy {
        forbid: vec!["1.10".to_owned()],
        ..VersionPolicy::default()
    };
    let lenient = VersionPolicy {
        allow_latest: true,
        ..VersionPolicy::default()
    };
    let cases = [
        ("app:1.4.2", &strict, None),
        ("app:latest", &strict, Some("means something else tomorrow")),
        ("registry.example:5000/app", &strict, Some("without a tag")),
        ("app:latest@sha256:4bf9", &strict, None),
        ("app:latest", &lenient, None),
        ("app:1.10", &forbids, Some("the version `1.10` is refused")),
    ];
    for (image, policy, wanted) in cases {
        let template = edited(|t| t["spec"]["containers"][0]["image"] = json!(image));
        let found = refused_images(&template, policy);
        match wanted {
            None => assert_eq!(found, [], "{image}"),
            Some(words) => assert!(
                found.len() == 1 && found[0].problem.contains(words),
                "{image}: {found:?}"
            ),
        }
    }
}

#[test]
fn a_healthy_deployment_has_no_obstacles() {
    let shared = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteMany"]}});
    assert_eq!(refusals(&deployment(), &[shared]), []);
    assert_eq!(refusals(&deployment(), &[]), [], "who may not look refuses nothing");
}

#[test]
fn each_obstacle_is_one_sentence_with_what_to_do() {
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    type Edit<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Obstacle, Edit<'_>, &str); 8] = [
        (
            Obstacle::Recreate,
            &|d| d["spec"]["strategy"] = json!({"type": "Recreate"}),
            "has strategy Recreate",
        ),
        (
            Obstacle::HostPort,
            &|d| d["spec"]["template"]["spec"]["containers"][0]["ports"][0]["hostPort"] = json!(80),
            "take port 80 of their node",
        ),
        (
            Obstacle::HostPort,
            &|d| d["spec"]["template"]["spec"]["hostNetwork"] = json!(true),
            "take port 8080 of their node",
        ),
        (
            Obstacle::NoReplicas,
            &|d| d["spec"]["replicas"] = json!(0),
            "has 0 replicas",
        ),
        (Obstacle::Paused, &|d| d["spec"]["paused"] = json!(true), "`--held`"),
        (
            Obstacle::Unfinished,
            &|d| d["metadata"]["generation"] = json!(5),
            "4 of 4 pods",
        ),
        (
            Obstacle::Unfinished,
            &|d| d["status"] = json!({"observedGeneration": 4, "replicas": 5, "updatedReplicas": 2}),
            "2 of 4 pods have its present template, 3 others are left",
        ),
        (
            Obstacle::Unfinished,
            &|d| d["status"]["replicas"] = json!(5),
            "1 others are left",
        ),
    ];
    for (obstacle, edit, words) in cases {
        let mut deployment = deployment();
        edit(&mut deployment);
        let found = refusals(&deployment, &[]);
        assert!(found.len() == 1 && found[0].obstacle == obstacle, "{words}: {found:?}");
        assert!(found[0].sentence.contains(words), "{found:?}");
        assert!(found[0].sentence.contains("deployment app"), "{found:?}");
    }
    let found = refusals(&deployment(), &[claim]);
    assert!(
        found[0]
            .sentence
            .contains("PersistentVolumeClaim data, which is ReadWriteOnce"),
        "{found:?}"
    );
    assert!(found[0].obstacle.is_about_parallel());
}

#[test]
fn a_deployment_that_wade_holds_is_no_obstacle() {
    let mut held = deployment();
    held["metadata"]["annotations"] = json!({RELEASE: "{}"});
    held["spec"]["paused"] = json!(true);
    held["status"]["updatedReplicas"] = json!(0);
    assert_eq!(refusals(&held, &[]), []);
}

#[test]
fn fewer_replicas_with_a_new_version_are_refused() {
    let cases = [
        (4, None, None, None),
        (4, Some(4), None, None),
        (4, Some(3), None, None),
        (4, Some(2), None, Some("2 instead of 4 replicas")),
        (1, Some(0), None, Some("0 instead of 1 replicas")),
        (4, Some(3), Some(4), Some("fewer than the 4")),
        (4, Some(6), Some(8), None),
    ];
    for (before, after, least, wanted) in cases {
        let found = replica_drop(before, after, least);
        match wanted {
            None => assert_eq!(found, None, "{before} to {after:?}"),
            Some(words) => assert!(
                found.is_some_and(|found| found.contains(words)),
                "{before} to {after:?}"
            ),
        }
    }
}

#[test]
fn configuration_is_found_wherever_a_template_may_name_it() {
    use ConfigKind::{ConfigMap, Secret};
    let found = config_refs(&template());
    let seen: Vec<_> = found
        .iter()
        .map(|one| {
            (
                one.kind,
                one.name.as_str(),
                one.key.as_deref(),
                one.optional,
                one.by.as_str(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (ConfigMap, "flags", None, true, "container app"),
            (ConfigMap, "settings", Some("app.yaml"), false, "volume settings"),
            (Secret, "app", Some("token"), false, "container app"),
            (Secret, "pull", None, true, "imagePullSecrets"),
            (Secret, "tls", None, false, "volume tls"),
        ]
    );
    let settings = json!({"metadata": {"name": "settings"}, "data": {"other.yaml": ""}});
    let secret = json!({"metadata": {"name": "app"}, "data": {"token": "eA=="}});
    assert_eq!(
        missing(&found, &[settings], &[secret]),
        [
            "ConfigMap settings has no key app.yaml, and volume settings needs it; apply it before the release",
            "Secret tls is not there, and volume tls needs it; apply it before the release",
        ]
    );
}
