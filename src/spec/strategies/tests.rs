use super::super::{PassEarly, Percent, Span, read_rollout};
use super::*;

fn rollout(spec: &str) -> Rollout {
    let text = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: hello}}\nspec:\n  workload: {{process: {{command: [x], port: auto}}}}\n  traffic: {{}}\n{spec}"
    );
    read_rollout(&text, "test.yaml").unwrap_or_else(|faults| panic!("{faults}"))
}

fn refusal(spec: &str) -> String {
    resolve(&rollout(spec), &BTreeMap::new()).unwrap_err().to_string()
}

#[test]
fn every_embedded_strategy_reads_and_is_called_what_its_file_is() {
    for (name, text) in SOURCES {
        let file = read_strategy(text, name).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(file.metadata.name, name);
        let comment = text
            .lines()
            .take_while(|line| line.starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n");
        for said in [&format!("# {name}:"), "For:", "Not for:"] {
            assert!(comment.contains(said), "strategies/{name}.yaml does not say `{said}`");
        }
    }
    let files: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/strategies"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        files.len(),
        SOURCES.len(),
        "a file in strategies/ is not embedded: {files:?}"
    );
}

#[test]
fn silence_means_careful() {
    let expected = builtin("careful").unwrap().spec.clone();
    let resolved = resolve(&rollout(""), &BTreeMap::new());
    let expected = Resolved {
        strategy: expected.strategy,
        analysis: expected.analysis,
        limits: expected.limits,
    };
    assert_eq!(resolved, Ok(expected));
}

#[test]
fn the_rollouts_words_win_over_the_strategys_field_by_field() {
    let spec = "  strategy: {use: demo, with: {bake: 9s}}\n  analysis: {look: 1s, falseRollback: 2%, history: {least: 10s}, passEarly: {latency: 2x}}\n  limits: {ready: 20s}";
    let resolved = resolve(&rollout(spec), &BTreeMap::new()).unwrap();
    let mut expected = builtin("demo").unwrap().spec.clone();
    let Strategy::Canary(canary) = &mut expected.strategy else {
        panic!("demo is a canary")
    };
    canary.bake = Some(Span::secs(9));
    expected.analysis.look = Some(Span::secs(1));
    expected.analysis.false_rollback = Percent::from_fraction(0.02);
    // Inside of these two the strategy's other words stay.
    expected.analysis.history.as_mut().unwrap().least = Some(Span::secs(10));
    let Some(PassEarly::When(rule)) = &mut expected.analysis.pass_early else {
        panic!("demo has a rule")
    };
    rule.latency = Some("2x".parse().unwrap());
    expected.limits.ready = Some(Span::secs(20));
    let expected = Resolved {
        strategy: expected.strategy,
        analysis: expected.analysis,
        limits: expected.limits,
    };
    assert_eq!(resolved, expected);
}

#[test]
fn a_users_own_strategy_is_found_before_wades() {
    let mut own = builtin("quick").unwrap().clone();
    own.metadata.name = "careful".to_owned();
    let extra = BTreeMap::from([("careful".to_owned(), own.clone())]);
    let resolved = resolve(&rollout(""), &extra).unwrap();
    assert_eq!(resolved.strategy, own.spec.strategy);
}

#[test]
fn what_has_no_place_in_the_strategy_is_refused() {
    insta::assert_snapshot!("unknown_name", refusal("  strategy: {use: carefull}"));
    insta::assert_snapshot!(
        "misplaced_overrides",
        refusal("  strategy: {use: blue-green, with: {steps: [{weight: 5%}], match: {cookie: {name: beta}}}}")
    );
    insta::assert_snapshot!(
        "together_wrong",
        refusal("  strategy: {use: demo}\n  analysis: {look: 3s}\n  limits: {settle: 15s}")
    );
    insta::assert_snapshot!(
        "no_source",
        refusal("  analysis: {metrics: [{gauge: {name: lag, query: queue_lag}}]}")
    );
}

#[test]
fn faults_of_resolving_get_their_lines_from_the_text() {
    let text = "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {name: hello}\nspec:\n  workload: {process: {command: [x], port: auto}}\n  traffic: {}\n  strategy:\n    use: quik\n";
    let rollout = read_rollout(text, "rollout.yaml").unwrap();
    let faults = resolve(&rollout, &BTreeMap::new())
        .unwrap_err()
        .located_in(text, "rollout.yaml");
    insta::assert_snapshot!("located", faults);
}

/// Every Wade file below `dir`, by path.
fn wade_files(dir: &std::path::Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            wade_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("apiVersion: wade.dev/") {
                found.insert(path.display().to_string(), text);
            }
        }
    }
}

#[test]
fn every_file_that_people_copy_from_reads_and_resolves() {
    let mut files = BTreeMap::new();
    for folder in ["strategies", "examples"] {
        wade_files(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
            &mut files,
        );
    }
    assert!(files.len() >= SOURCES.len());
    let read = |(name, text): (&String, &String)| match super::super::read(text, name) {
        Ok(super::super::Document::Rollout(rollout)) => (Some(rollout), None),
        Ok(super::super::Document::Config(_)) => (None, None),
        Ok(super::super::Document::Strategy(strategy)) => (None, Some((strategy.metadata.name.clone(), *strategy))),
        Ok(super::super::Document::Config(_)) => panic!("{name} is the daemon's configuration"),
        Err(faults) => panic!("{faults}"),
    };
    let (rollouts, strategies): (Vec<_>, Vec<_>) = files.iter().map(read).unzip();
    let extra = strategies.into_iter().flatten().collect();
    for rollout in rollouts.into_iter().flatten() {
        resolve(&rollout, &extra).unwrap_or_else(|faults| panic!("{faults}"));
    }
}

#[test]
fn every_embedded_strategy_can_be_used_and_overridden_in_all_it_has() {
    for name in names() {
        resolve(
            &rollout(&format!("  strategy: {{use: {name}, with: {{bake: 1s}}}}")),
            &BTreeMap::new(),
        )
        .unwrap_or_else(|faults| panic!("{faults}"));
    }
}
