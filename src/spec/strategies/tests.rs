use super::super::{Percent, Span, read_rollout};
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
    let spec =
        "  strategy: {use: demo, with: {bake: 9s}}\n  analysis: {look: 1s, falseRollback: 2%}\n  limits: {ready: 20s}";
    let resolved = resolve(&rollout(spec), &BTreeMap::new()).unwrap();
    let mut expected = builtin("demo").unwrap().spec.clone();
    let Strategy::Canary(canary) = &mut expected.strategy else {
        panic!("demo is a canary")
    };
    canary.bake = Some(Span::secs(9));
    expected.analysis.look = Some(Span::secs(1));
    expected.analysis.false_rollback = Percent::from_fraction(0.02);
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
