use super::*;

fn deployment(labels: &Value) -> Value {
    json!({"metadata": {"name": "app"}, "spec": {"selector": {"matchLabels": {"app": "app"}},
           "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}}}})
}

fn service(name: &str, selector: &Value) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "7"}, "spec": {"selector": selector}})
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

fn by_label(pairs: &[(&str, &str, &str)]) -> Isolation {
    let pair = |stable: &str, canary: &str| LabelPair {
        stable: stable.to_owned(),
        canary: canary.to_owned(),
    };
    Isolation::Label {
        labels: pairs
            .iter()
            .map(|(key, stable, canary)| ((*key).to_owned(), pair(stable, canary)))
            .collect(),
    }
}

struct Case {
    what: &'static str,
    services: Vec<Value>,
    policies: Vec<Value>,
    others: Vec<Value>,
    template: Value,
    takes_over: Option<Value>,
    wanted: Isolation,
    why: &'static str,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            what: "",
            services: vec![service("app", &json!({"app": "app"}))],
            policies: Vec::new(),
            others: Vec::new(),
            template: Value::Null,
            takes_over: None,
            wanted: by_label(&[("app", "app", "app-canary")]),
            why: "",
        }
    }
}

fn cases() -> Vec<Case> {
    let both = || service("app", &json!({"app": "app", "tier": "web"}));
    let by_tier = || by_label(&[("tier", "web", "web-canary")]);
    vec![
        Case {
            what: "one Service",
            why: "every Service that selects the pods (app) selects by it",
            ..Case::default()
        },
        Case {
            what: "a headless Service counts, one without selector, ExternalName and other pods' do not",
            services: vec![
                service("app", &json!({"app": "app"})),
                json!({"metadata": {"name": "peers"}, "spec": {"clusterIP": "None", "selector": {"app": "app"}}}),
                json!({"metadata": {"name": "manual"}, "spec": {}}),
                json!({"metadata": {"name": "away"}, "spec": {"type": "ExternalName", "selector": {"tier": "web"}}}),
                service("other", &json!({"app": "other"})),
            ],
            why: "(app, peers)",
            ..Case::default()
        },
        Case {
            what: "two Services without a label in common",
            services: vec![
                service("app", &json!({"app": "app"})),
                service("web", &json!({"tier": "web"})),
            ],
            wanted: by_label(&[("app", "app", "app-canary"), ("tier", "web", "web-canary")]),
            why: "app=app-canary and tier=web-canary",
            ..Case::default()
        },
        Case {
            what: "no Service",
            services: vec![service("other", &json!({"app": "other"}))],
            wanted: by_label(&[]),
            why: "no Service selects the pods",
            ..Case::default()
        },
        Case {
            what: "a NetworkPolicy for the pods takes the label, another is left",
            services: vec![both()],
            policies: vec![policy("deny", &json!({"podSelector": {"matchLabels": {"app": "app"}}}))],
            wanted: by_tier(),
            why: "tier=web-canary",
            ..Case::default()
        },
        Case {
            what: "a NetworkPolicy of the database lets the pods in by their label",
            services: vec![both()],
            policies: vec![policy(
                "db",
                &json!({"podSelector": {"matchLabels": {"app": "db"}},
                        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "app"}}}]}]}),
            )],
            wanted: by_tier(),
            ..Case::default()
        },
        Case {
            what: "policies for everybody and for others decide nothing here",
            policies: vec![
                policy("all", &json!({"podSelector": {}})),
                policy("db", &json!({"podSelector": {"matchLabels": {"app": "db"}}})),
                policy(
                    "labelled",
                    &json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}),
                ),
            ],
            ..Case::default()
        },
        Case {
            what: "a policy for everybody but the app would begin to hold",
            policies: vec![policy(
                "rest",
                &json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["app"]}]}}),
            )],
            wanted: Isolation::Pin,
            why: "app: NetworkPolicy rest decides by it",
            ..Case::default()
        },
        Case {
            what: "anti-affinity by the label",
            template: json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "podAffinityTerm": {"labelSelector": {"matchLabels": {"app": "app"}}}}]}}}),
            wanted: Isolation::Pin,
            why: "app: the template's podAntiAffinity decides by it",
            ..Case::default()
        },
        Case {
            what: "spread by the label, another is left",
            services: vec![both()],
            template: json!({"topologySpreadConstraints": [{"labelSelector": {"matchLabels": {"app": "app"}}}]}),
            wanted: by_tier(),
            ..Case::default()
        },
        Case {
            what: "a PodMonitor and a mesh policy",
            services: vec![both()],
            others: vec![
                json!({"kind": "PodMonitor", "metadata": {"name": "app"},
                       "spec": {"selector": {"matchLabels": {"app": "app"}}}}),
                json!({"kind": "Sidecar", "metadata": {"name": "web"},
                       "spec": {"workloadSelector": {"labels": {"tier": "web"}}}}),
            ],
            wanted: Isolation::Pin,
            why: "app: PodMonitor app decides by it; tier: Sidecar web decides by it",
            ..Case::default()
        },
        Case {
            what: "somebody else's Service waits for the canary's value",
            services: vec![
                service("app", &json!({"app": "app"})),
                service("theirs", &json!({"app": "app-canary"})),
            ],
            wanted: Isolation::Pin,
            why: "app: Service theirs selects the canary's value",
            ..Case::default()
        },
        Case {
            what: "an old ReplicaSet of the Deployment's own selects by the label",
            takes_over: Some(json!({"metadata": {"name": "app-5d4"},
                "spec": {"selector": {"matchLabels": {"app": "app", "pod-template-hash": "5d4"}}}})),
            wanted: Isolation::Pin,
            why: "ReplicaSet app-5d4, which this release takes over, selects by it",
            ..Case::default()
        },
        Case {
            what: "an old ReplicaSet of Wade's selects by the hash alone",
            takes_over: Some(json!({"metadata": {"name": "app-5d4"},
                "spec": {"selector": {"matchLabels": {"pod-template-hash": "5d4"}}}})),
            ..Case::default()
        },
    ]
}

#[test]
fn a_label_is_changed_only_if_nothing_else_decides_by_it() {
    for case in cases() {
        let mut deployment = deployment(&json!({"app": "app", "tier": "web"}));
        if let Value::Object(spec) = &case.template {
            let into = deployment["spec"]["template"]["spec"].as_object_mut().unwrap();
            into.extend(spec.clone());
        }
        let around = Around {
            services: &case.services,
            policies: &case.policies,
            others: &case.others,
        };
        let choice = choose(
            &deployment,
            &deployment["spec"]["template"],
            around,
            case.takes_over.as_ref(),
        );
        assert_eq!(choice.isolation, case.wanted, "{}: {}", case.what, choice.why);
        assert!(choice.why.contains(case.why), "{}: {}", case.what, choice.why);
    }
}

#[test]
fn a_label_that_the_new_template_drops_isolates_nothing() {
    let old = deployment(&json!({"app": "app", "tier": "web"}));
    let new = deployment(&json!({"app": "app"}));
    let services = [service("web", &json!({"tier": "web"}))];
    let around = Around {
        services: &services,
        ..Around::default()
    };
    let choice = choose(&old, &new["spec"]["template"], around, None);
    assert_eq!(choice.isolation, Isolation::Pin);
    assert!(
        choice.why.contains("tier: the new template does not carry it"),
        "{}",
        choice.why
    );
}

#[test]
fn a_canary_value_is_another_value_and_a_valid_one() {
    let long = "x".repeat(63);
    let ends = format!("{}-canary", "x".repeat(56));
    let dotted = format!("{}.{}", "x".repeat(55), "y".repeat(7));
    for stable in ["app", "", "app-canary", &long, &ends, &dotted] {
        let canary = canary_value(stable);
        assert_ne!(canary, stable);
        assert!(canary.len() <= MOST_VALUE, "{canary}");
        assert!(
            canary.starts_with(|c: char| c.is_ascii_alphanumeric()) && !canary.contains(".-"),
            "{canary}"
        );
    }
    assert_eq!(canary_value("app"), "app-canary");
    assert_eq!(canary_value(""), "canary");
}

#[test]
fn label_selectors_are_read_as_the_server_does() {
    let labels = json!({"app": "app", "tier": "web"});
    let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    let cases = [
        (json!({}), true),
        (Value::Null, false),
        (json!({"matchLabels": {"app": "app"}}), true),
        (json!({"matchLabels": {"app": "app", "x": "y"}}), false),
        (expression("tier", "In", json!(["web", "api"])), true),
        (expression("tier", "NotIn", json!(["web"])), false),
        (expression("x", "NotIn", json!(["web"])), true),
        (expression("x", "Exists", Value::Null), false),
        (expression("x", "DoesNotExist", Value::Null), true),
        (expression("x", "Gt", json!(["1"])), false),
    ];
    for (selector, wanted) in cases {
        assert_eq!(matches(&selector, &labels), wanted, "{selector}");
    }
}
