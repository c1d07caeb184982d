use proptest::prelude::*;

use serde_json::json;

use super::extras::header_of;
use super::rules::{MOST_WEIGHT, array, lowest, units};
use super::*;
use crate::spec::{NamedMatch, TrafficMatch};

type Edit<'a> = &'a dyn Fn(&mut Value);

const APP: &str = "app";
const CANARY: &str = "app-canary";
const PAIR: Pair<'static> = Pair {
    service: APP,
    canary: CANARY,
};

fn backend(name: &str, weight: u64) -> Value {
    json!({"group": "", "kind": "Service", "name": name, "port": 80, "weight": weight})
}

fn path(prefix: &str) -> Value {
    json!({"path": {"type": "PathPrefix", "value": prefix}})
}

#[expect(clippy::needless_pass_by_value, reason = "it reads as a literal where it is called")]
fn rule(prefix: &str, backends: Vec<Value>) -> Value {
    json!({"matches": [path(prefix)], "backendRefs": backends})
}

fn route(rules: &Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop", "generation": 3}, "spec": {"rules": rules}})
}

fn percent(permille: u16) -> Split {
    Split::weight(Weight::from_permille(permille).unwrap())
}

fn matching(wanted: TrafficMatch) -> Split {
    Split {
        matching: Some(wanted),
        ..percent(0)
    }
}

fn header(name: &str, value: Option<&str>) -> TrafficMatch {
    TrafficMatch::Header(NamedMatch {
        name: name.to_owned(),
        value: value.map(str::to_owned),
    })
}

fn cookie(name: &str, value: Option<&str>) -> TrafficMatch {
    TrafficMatch::Cookie(NamedMatch {
        name: name.to_owned(),
        value: value.map(str::to_owned),
    })
}

/// A plain route, one with filters and another backend, and a rule that does not lead to the Service.
fn rules() -> Value {
    let mut filtered = backend("app", 30);
    filtered["filters"] = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-debug"]}}]);
    let mut cart = rule("/cart", vec![filtered, backend("cart", 70)]);
    cart["timeouts"] = json!({"request": "5s"});
    json!([
        rule("/", vec![backend("app", 1)]),
        cart,
        rule("/static", vec![backend("files", 1)])
    ])
}

fn weights(rules: &Value) -> Vec<Vec<u64>> {
    items(rules)
        .iter()
        .map(|rule| backends(rule).iter().map(weight).collect())
        .collect()
}

#[test]
fn a_route_leads_to_services_by_backend_kind_and_namespace() {
    let one = |reference: Value| route(&json!([{"backendRefs": [reference]}]));
    let cases = [
        ("plain", json!({"name": "app", "port": 80}), None, true),
        ("its port", json!({"name": "app", "port": 80}), Some(80), true),
        ("another port", json!({"name": "app", "port": 80}), Some(81), false),
        ("said in full", backend("app", 1), None, true),
        (
            "same namespace",
            json!({"name": "app", "namespace": "shop"}),
            None,
            true,
        ),
        (
            "other namespace",
            json!({"name": "app", "namespace": "other"}),
            None,
            false,
        ),
        (
            "other kind",
            json!({"name": "app", "group": "x.io", "kind": "Backend"}),
            None,
            false,
        ),
        ("weight 0", backend("app", 0), None, false),
        ("other name", backend("apps", 1), None, false),
    ];
    for (what, reference, port, leads) in cases {
        assert_eq!(leads_to(&one(reference), "app", port), leads, "{what}");
    }
    assert!(!leads_to(&json!({}), "app", None));
}

#[test]
fn references_carry_the_rules_and_whether_the_canary_is_declared() {
    let services = ["app".to_owned(), "cart".to_owned(), "other".to_owned()];
    let found = references(&route(&rules()), RouteKind::Http, &services);
    let seen: Vec<_> = found.iter().map(|one| (one.service.as_str(), one.declared)).collect();
    assert_eq!(seen, [("app", false), ("cart", false)]);
    assert_eq!(found[0].rules, rules());
    let declared = references(&route(&warmed(&rules(), APP, CANARY)), RouteKind::Grpc, &services);
    assert!(declared[0].declared && !declared[1].declared);
}

#[test]
fn warming_adds_the_canary_at_zero_and_nothing_else() {
    let warm = warmed(&rules(), APP, CANARY);
    let mut filtered = rules()[1]["backendRefs"][0].clone();
    filtered["name"] = json!("app-canary");
    filtered["weight"] = json!(0);
    let mut wanted = rules();
    wanted[0]["backendRefs"] = json!([backend("app", 1), backend("app-canary", 0)]);
    wanted[1]["backendRefs"] = json!([rules()[1]["backendRefs"][0], filtered, backend("cart", 70)]);
    assert_eq!(warm, wanted);
    assert_eq!(warmed(&warm, APP, CANARY), warm, "once is enough");
}

#[test]
fn weights_are_readable_and_leave_others_their_share() {
    let warm = warmed(&rules(), APP, CANARY);
    let cases = [
        (0, vec![vec![1, 0], vec![30, 0, 70], vec![1]]),
        (50, vec![vec![95, 5], vec![2850, 150, 7000], vec![1]]),
        (333, vec![vec![667, 333], vec![2001, 999, 7000], vec![1]]),
        (500, vec![vec![50, 50], vec![15, 15, 70], vec![1]]),
        (1000, vec![vec![0, 1], vec![0, 30, 70], vec![1]]),
    ];
    for (permille, wanted) in cases {
        let made = with_split(&warm, &rules(), APP, CANARY, &percent(permille)).unwrap();
        assert_eq!(weights(&made), wanted, "{permille} per mille");
    }
    assert_eq!(with_split(&warm, &rules(), APP, CANARY, &percent(0)).unwrap(), warm);
}

#[test]
fn weight_before_warmth_is_refused_but_the_way_back_is_not() {
    let refused = with_split(&rules(), &rules(), APP, CANARY, &percent(50)).unwrap_err();
    assert!(
        refused.starts_with("rule 1 leads to Service app and not to app-canary"),
        "{refused}"
    );
    assert_eq!(
        with_split(&rules(), &rules(), APP, CANARY, &ALL_STABLE).unwrap(),
        rules()
    );
}

#[test]
fn weights_too_large_to_divide_are_refused_before_anything_is_touched() {
    let large = json!([rule("/", vec![backend("app", 999_983), backend("cart", 1_000_000)])]);
    let found = refusals(&route(&large), APP, CANARY, &[percent(500), percent(1000)]);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("too large to divide them by 50.0 %"), "{found:?}");
    let even = json!([rule("/", vec![backend("app", 500_000), backend("cart", 1_000_000)])]);
    assert_eq!(
        refusals(&route(&even), APP, CANARY, &[percent(500), percent(1)]),
        Vec::<String>::new()
    );
    let given = json!([rule("/", vec![backend("app", 9), backend("app-canary", 1)])]);
    assert!(
        refusals(&route(&given), APP, CANARY, &[])[0]
            .starts_with("rule 1 gives Service app-canary the weight 1 already")
    );
}

#[test]
fn a_namesake_in_another_namespace_is_refused() {
    let mut both = rules();
    let away = json!({"name": "app", "namespace": "other", "port": 80});
    both[2]["backendRefs"] = json!([away]);
    let found = refusals(&route(&both), APP, CANARY, &[]);
    assert!(
        found[0].starts_with("rule 3 leads to Service app of namespace other"),
        "{found:?}"
    );
}

#[test]
fn a_header_gets_a_rule_of_its_own_before_each_rule() {
    let wanted = header("x-canary", Some("yes"));
    let made = with_split(&warmed(&rules(), APP, CANARY), &rules(), APP, CANARY, &matching(wanted)).unwrap();
    let match_of = |prefix: &str| {
        json!([{"path": {"type": "PathPrefix", "value": prefix},
                "headers": [{"type": "Exact", "name": "x-canary", "value": "yes"}]}])
    };
    assert_eq!(items(&made).len(), 5);
    assert_eq!(
        made[0],
        json!({"matches": match_of("/"), "backendRefs": [backend("app-canary", 1)]})
    );
    assert_eq!(made[2]["matches"], match_of("/cart"));
    assert_eq!(made[2]["timeouts"], json!({"request": "5s"}));
    assert_eq!(
        made[2]["backendRefs"][0]["filters"],
        rules()[1]["backendRefs"][0]["filters"]
    );
    assert_eq!(made[1], warmed(&rules(), APP, CANARY)[0]);
}

#[test]
fn a_cookie_is_a_pattern_on_its_header() {
    let made = header_of(&cookie("beta.user", Some("1")));
    assert_eq!(
        made,
        json!({"type": "RegularExpression", "name": "Cookie", "value": r"^(.*;\s*)?beta\.user=1(;.*)?$"})
    );
}

#[test]
fn a_match_that_a_route_cannot_hold_is_refused_in_words() {
    let many: Vec<Value> = (0..9)
        .map(|n| rule(&format!("/{n}"), vec![backend("app", 1)]))
        .collect();
    let many = json!(many);
    let refused = refusals(&route(&many), APP, CANARY, &[matching(header("x", None))]);
    assert!(refused[0].contains("needs 18 rules"), "{refused:?}");
    let mut taken = rules();
    taken[0]["matches"][0]["headers"] = json!([{"type": "Exact", "name": "X-Canary", "value": "no"}]);
    let refused = refusals(
        &route(&taken),
        APP,
        CANARY,
        &[matching(header("x-canary", Some("yes")))],
    );
    assert!(
        refused[0].starts_with("rule 1: it matches on the header x-canary already"),
        "{refused:?}"
    );
}

#[test]
fn a_named_rule_keeps_its_name_to_itself() {
    let mut named = rules();
    named[0]["name"] = json!("home");
    let made = with_split(
        &warmed(&named, APP, CANARY),
        &named,
        APP,
        CANARY,
        &matching(header("x", None)),
    )
    .unwrap();
    assert_eq!((made[0].get("name"), &made[1]["name"]), (None, &json!("home")));
    assert_eq!(restored(&made, &named, APP, CANARY), named);
}

#[test]
fn a_mirror_is_a_filter_that_goes_again() {
    let original = json!([rule("/", vec![backend("app", 1)])]);
    let warm = warmed(&original, APP, CANARY);
    for (permille, share) in [
        (250, json!({"percent": 25})),
        (5, json!({"fraction": {"numerator": 5, "denominator": 1000}})),
    ] {
        let split = Split {
            mirror: Weight::from_permille(permille).unwrap(),
            ..ALL_STABLE
        };
        let made = with_split(&warm, &original, APP, CANARY, &split).unwrap();
        let mut mirror = json!({"backendRef": {"group": "", "kind": "Service", "name": "app-canary", "port": 80}});
        mirror
            .as_object_mut()
            .unwrap()
            .extend(share.as_object().unwrap().clone());
        assert_eq!(
            made[0]["filters"],
            json!([{"type": "RequestMirror", "requestMirror": mirror}])
        );
        assert_eq!(split_of(&made, &original, APP, CANARY), Observed::Split(split.clone()));
        assert_eq!(with_split(&made, &original, APP, CANARY, &ALL_STABLE).unwrap(), warm);
        assert_eq!(restored(&made, &original, APP, CANARY), original);
    }
    let split = Split {
        mirror: Weight::FULL,
        ..ALL_STABLE
    };
    assert!(
        refusals(&route(&rules()), APP, CANARY, &[split])[0]
            .starts_with("rule 2: a mirror copies what the whole rule gets")
    );
}

#[test]
fn a_mirror_whose_share_was_dropped_is_noticed() {
    let original = json!([rule("/", vec![backend("app", 1)])]);
    let split = Split {
        mirror: Weight::from_permille(100).unwrap(),
        ..ALL_STABLE
    };
    let mut made = with_split(&warmed(&original, APP, CANARY), &original, APP, CANARY, &split).unwrap();
    made[0]["filters"][0]["requestMirror"]
        .as_object_mut()
        .unwrap()
        .remove("percent");
    let Observed::NotOurs { what } = split_of(&made, &original, APP, CANARY) else {
        panic!("it copies everything")
    };
    assert!(what.contains("everything is copied"), "{what}");
}

#[test]
fn what_others_write_is_told_in_words() {
    let made = with_split(&warmed(&rules(), APP, CANARY), &rules(), APP, CANARY, &percent(50)).unwrap();
    let original = rules();
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut rules = made.clone();
        edit(&mut rules);
        match split_of(&rules, &original, APP, CANARY) {
            Observed::NotOurs { what } => what,
            Observed::Absent => "absent".to_owned(),
            Observed::Split(split) => split.to_string(),
        }
    };
    let cases: [(&str, Edit<'_>, &str); 8] = [
        ("untouched", &|_| {}, "5%"),
        ("reset to the original", &|rules| *rules = original.clone(), "absent"),
        (
            "one weight reset",
            &|rules| rules[0]["backendRefs"][1]["weight"] = json!(95),
            "rule 1 gives app-canary 50% and rule 2 5%",
        ),
        (
            "no share of ours",
            &|rules| rules[0]["backendRefs"][1]["weight"] = json!(2),
            "app-canary has 2 of 97, a share that Wade does not write",
        ),
        (
            "our backend removed from one rule",
            &|rules| drop(rules[1]["backendRefs"].as_array_mut().unwrap().remove(1)),
            "rule 2 leads to Service app and not to app-canary",
        ),
        (
            "stable removed",
            &|rules| drop(rules[0]["backendRefs"].as_array_mut().unwrap().remove(0)),
            "rule 1 leads to app-canary alone",
        ),
        (
            "all gone",
            &|rules| *rules = json!([rule("/", vec![backend("files", 1)])]),
            "no rule leads to Service app any more",
        ),
        (
            "another scale, another timeout: still our split",
            &|rules| {
                rules[0]["backendRefs"][0]["weight"] = json!(19);
                rules[0]["backendRefs"][1]["weight"] = json!(1);
                rules[1]["timeouts"]["request"] = json!("9s");
            },
            "5%",
        ),
    ];
    for (what, edit, wanted) in cases {
        assert_eq!(edited(edit), wanted, "{what}");
    }
}

#[test]
fn restoring_keeps_what_others_changed() {
    let mut now = with_split(
        &warmed(&rules(), APP, CANARY),
        &rules(),
        APP,
        CANARY,
        &matching(cookie("beta", None)),
    )
    .unwrap();
    now[3]["timeouts"]["request"] = json!("9s");
    now[3]["backendRefs"][2]["weight"] = json!(90);
    let extra = rule("/new", vec![backend("new", 1)]);
    now.as_array_mut().unwrap().push(extra.clone());
    let mut wanted = rules();
    wanted[1]["timeouts"]["request"] = json!("9s");
    // 30 to 90, in lowest terms.
    wanted[1]["backendRefs"][0]["weight"] = json!(1);
    wanted[1]["backendRefs"][1]["weight"] = json!(3);
    wanted.as_array_mut().unwrap().push(extra);
    assert_eq!(restored(&now, &rules(), APP, CANARY), wanted);
}

#[test]
fn a_rule_left_to_the_canary_alone_comes_back_to_stable() {
    let original = json!([rule("/", vec![backend("app", 1)])]);
    let now = json!([rule("/", vec![backend("app-canary", 1)])]);
    let back = with_split(&now, &original, APP, CANARY, &ALL_STABLE).unwrap();
    assert_eq!(back, warmed(&original, APP, CANARY));
    assert_eq!(restored(&now, &original, APP, CANARY), original);
}

#[test]
fn a_backend_for_the_canary_too_many_gets_nothing() {
    let original = json!([rule("/", vec![backend("app", 1)])]);
    let now = json!([rule(
        "/",
        vec![backend("app", 1), backend(CANARY, 1), backend(CANARY, 5)]
    )]);
    assert!(matches!(
        split_of(&now, &original, APP, CANARY),
        Observed::NotOurs { .. }
    ));
    let back = with_split(&now, &original, APP, CANARY, &ALL_STABLE).unwrap();
    assert_eq!(weights(&back), [vec![1, 0, 0]]);
    assert_eq!(restored(&now, &original, APP, CANARY), original);
}

#[test]
fn what_the_user_declared_for_the_canary_stays() {
    let declared = json!([
        rule("/preview", vec![backend("app-canary", 1)]),
        rule("/", vec![backend("app", 100), backend("app-canary", 0)])
    ]);
    assert_eq!(warmed(&declared, APP, CANARY), declared);
    let made = with_split(&declared, &declared, APP, CANARY, &percent(200)).unwrap();
    assert_eq!(weights(&made), [vec![1], vec![80, 20]]);
    assert_eq!(split_of(&made, &declared, APP, CANARY), Observed::Split(percent(200)));
    assert_eq!(restored(&made, &declared, APP, CANARY), declared);
}

#[test]
fn two_services_of_one_workload_in_one_rule_do_not_disturb_each_other() {
    let original = json!([rule("/", vec![backend("app", 1), backend("admin", 1)])]);
    let mut now = warmed(&warmed(&original, APP, CANARY), "admin", "admin-canary");
    for (service, canary) in [(APP, CANARY), ("admin", "admin-canary"), (APP, CANARY)] {
        now = with_split(&now, &original, service, canary, &percent(50)).unwrap();
    }
    for (service, canary) in [(APP, CANARY), ("admin", "admin-canary")] {
        assert_eq!(split_of(&now, &original, service, canary), Observed::Split(percent(50)));
    }
    assert_eq!(lowest(&weights(&now)[0]), [19, 1, 19, 1]);
    assert_eq!(
        restored(
            &restored(&now, &original, APP, CANARY),
            &original,
            "admin",
            "admin-canary"
        ),
        original
    );
}

#[test]
fn grpc_rules_without_matches_can_be_matched() {
    let original = json!([{"backendRefs": [backend("app", 1)]}]);
    let split = matching(header("x", Some("1")));
    let made = with_split(&warmed(&original, APP, CANARY), &original, APP, CANARY, &split).unwrap();
    assert_eq!(split_of(&made, &original, APP, CANARY), Observed::Split(split));
    assert_eq!(restored(&made, &original, APP, CANARY), original);
}

#[test]
fn a_route_is_confirmed_when_every_gateway_has_taken_this_generation() {
    let condition = |of: &str, status: &str, generation: u64| {
        json!({"type": of, "status": status, "observedGeneration": generation,
               "reason": "BackendNotFound", "message": "service shop/app-canary not found"})
    };
    let parent = |conditions: Vec<Value>| {
        json!({"parentRef": {"name": "edge"}, "controllerName": "projectcontour.io/gateway-controller",
               "conditions": conditions})
    };
    let good = || {
        parent(vec![
            condition("Accepted", "True", 3),
            condition("ResolvedRefs", "True", 3),
        ])
    };
    let said = |parents: Vec<Value>| {
        let mut route = route(&rules());
        route["status"] = json!({"parents": parents});
        confirmed(&route).err().unwrap_or_default()
    };
    assert_eq!(said(vec![good()]), "");
    let cases = [
        (
            vec![],
            "no gateway has taken the route web; look at its parentRefs and at the gateway's listeners",
        ),
        (
            vec![good(), parent(vec![condition("Accepted", "True", 2)])],
            "gateway edge has not looked at the route web since its last change",
        ),
        (
            vec![parent(vec![
                condition("Accepted", "True", 3),
                condition("ResolvedRefs", "False", 3),
            ])],
            "gateway edge says ResolvedRefs False of the route web: service shop/app-canary not found (BackendNotFound)",
        ),
        (
            vec![parent(vec![condition("Accepted", "True", 3)])],
            "gateway edge has not said ResolvedRefs of the route web yet",
        ),
    ];
    for (parents, wanted) in cases {
        assert_eq!(said(parents), wanted);
    }
}

#[test]
fn every_per_mille_comes_back_as_it_was_written() {
    for permille in 0..=1000 {
        let split = percent(permille);
        let made = with_split(&warmed(&rules(), APP, CANARY), &rules(), APP, CANARY, &split).unwrap();
        assert_eq!(
            split_of(&made, &rules(), APP, CANARY),
            Observed::Split(split.clone()),
            "{permille}"
        );
    }
}

fn any_rules() -> impl Strategy<Value = Value> {
    let other = ("[a-c]", 0_u64..=400).prop_map(|(name, weight)| backend(&name, weight));
    let one = (
        1_u64..=400,
        prop::collection::vec(other, 0..3),
        any::<bool>(),
        0_usize..3,
    );
    let one = one.prop_map(|(weight, mut others, unsaid, at)| {
        let mut ours = backend("app", weight);
        if unsaid {
            ours.as_object_mut().unwrap().remove("weight");
        }
        others.insert(at.min(others.len()), ours);
        others
    });
    prop::collection::vec(one, 1..4).prop_map(|all| {
        let rules = all.into_iter().enumerate();
        json!(
            rules
                .map(|(at, backends)| rule(&format!("/{at}"), backends))
                .collect::<Vec<_>>()
        )
    })
}

fn any_split() -> impl Strategy<Value = Split> {
    let text = "[a-z.+*()=-]{1,8}";
    let named = ("[a-z][a-z.-]{0,6}", prop::option::of(text), any::<bool>());
    let matching = named.prop_map(|(name, value, as_cookie)| {
        if as_cookie {
            cookie(&name, value.as_deref())
        } else {
            header(&name, value.as_deref())
        }
    });
    (0_u16..=1000, prop::option::of(matching)).prop_map(|(permille, matching)| Split {
        matching,
        ..percent(permille)
    })
}

proptest! {
    /// From any split to any other, over any rules: it reads as written, others keep their share, and it all comes back.
    #[test]
    fn splits_follow_each_other_and_leave_no_trace(original in any_rules(), splits in prop::collection::vec(any_split(), 1..5)) {
        let mut now = warmed(&original, APP, CANARY);
        for split in splits {
            now = with_split(&now, &original, APP, CANARY, &split).unwrap();
            let seen = split_of(&now, &original, APP, CANARY);
            prop_assert_eq!(seen, Observed::Split(split.clone()));
            prop_assert_eq!(&with_split(&now, &original, APP, CANARY, &split).unwrap(), &now);
            let divided: Vec<&Value> = items(&now).iter().filter(|rule| PAIR.serves(rule)).collect();
            prop_assert_eq!(divided.len(), items(&original).len());
            for (rule, before) in divided.into_iter().zip(items(&original)) {
                prop_assert!(backends(rule).iter().all(|one| weight(one) <= MOST_WEIGHT));
                prop_assert_eq!(lowest(&units(rule, PAIR)), lowest(&units(before, PAIR)));
            }
        }
        prop_assert_eq!(&restored(&now, &original, APP, CANARY), &original);
        prop_assert_eq!(with_split(&now, &original, APP, CANARY, &ALL_STABLE).unwrap(), {
            // The weights of a rule that does not say them are said from then on.
            let mut all = warmed(&original, APP, CANARY);
            for rule in all.as_array_mut().unwrap() {
                for one in array(rule, "backendRefs") {
                    let said = weight(one);
                    set(one, "weight", json!(said));
                }
            }
            all
        });
    }
}
