//! Bad input, and what a person reads about it.

use proptest::prelude::*;

use super::super::fault::MAX_FAULTS;
use super::super::nodes::{MAX_BYTES, MAX_DEPTH};
use super::super::strategies::SOURCES;
use super::super::{Workload, notes};
use super::*;

const FULL: &str = include_str!("full.yaml");

/// A valid rollout around `spec`.
fn with_spec(spec: &str) -> String {
    format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: hello}}\nspec:\n  workload: {{process: {{command: [x], port: auto}}}}\n  traffic: {{listen: \"127.0.0.1:0\"}}\n{spec}"
    )
}

fn refused(text: &str) -> Faults {
    read(text, "rollout.yaml").expect_err("this file is wrong")
}

fn full() -> Rollout {
    read_rollout(FULL, "full.yaml").unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn the_minimal_file_that_is_shown_reads() {
    let rollout = read_rollout(MINIMAL, "minimal.yaml").unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(rollout.metadata.name, "hello");
}

#[test]
fn every_field_is_read_and_what_is_written_as_json_reads_back_the_same() {
    let rollout = full();
    let json = serde_json::to_string_pretty(&rollout).unwrap();
    assert_eq!(read_rollout(&json, "full.json"), Ok(rollout));
    for (name, text) in SOURCES {
        let strategy = read_strategy(text, name).unwrap();
        let json = serde_json::to_string(&strategy).unwrap();
        assert_eq!(read(&json, name), Ok(Document::Strategy(Box::new(strategy))));
    }
}

#[test]
fn the_full_file_uses_every_field_of_the_schema() {
    // Fields of other variants than the ones the full file chooses.
    const ELSEWHERE: [&str; 32] = [
        "deployment",
        "cronJob",
        "imageFrom",
        "requires",
        "sameDigest",
        "secretRef",
        "use",
        "with",
        "canary",
        "blueGreen",
        "shadow",
        "preview",
        "gate",
        "mirror",
        "header",
        "tcp",
        "scrape",
        "spec",
        "strategy",
        "data",
        "rollouts",
        "strategies",
        "socket",
        "http",
        "tokenFile",
        "jaeger",
        "otlp",
        "tls",
        "cert",
        "key",
        "clientCa",
        "spansPerSecond",
    ];
    let definitions = super::super::schema()["$defs"].as_object().unwrap();
    let mut missing: Vec<&str> = Vec::new();
    for definition in definitions.values() {
        let variants = definition["oneOf"].as_array().into_iter().flatten();
        for schema in std::iter::once(definition).chain(variants) {
            for field in schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name)
            {
                let written = [format!("{field}:"), format!("\"{field}\":")]
                    .iter()
                    .any(|key| FULL.contains(key));
                if !written && !ELSEWHERE.contains(&field.as_str()) {
                    missing.push(field);
                }
            }
        }
    }
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn the_field_decides_what_a_scalar_is() {
    let rollout = full();
    assert_eq!(rollout.spec.versions.forbid, ["1.10", "latest"]);
    assert_eq!(rollout.metadata.labels["country"], "no");
    assert_eq!(rollout.metadata.labels["since"], "2026-01-01");
    let Workload::Process(process) = &rollout.spec.workload else {
        panic!("it is a process")
    };
    assert_eq!(
        (process.env["DEBUG"].as_str(), process.env["RATIO"].as_str()),
        ("false", "1.10")
    );
    assert_eq!(rollout.spec.windows.unwrap().open[0].from, "09:00");
}

#[test]
fn yaml_that_cannot_be_read_is_shown_where_it_breaks() {
    insta::assert_snapshot!("empty_file", refused("# nothing but a comment\n"));
    insta::assert_snapshot!("not_a_mapping", refused("just some text\n"));
    insta::assert_snapshot!(
        "tabs",
        refused("apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata:\n\tname: x\n")
    );
    insta::assert_snapshot!(
        "open_bracket",
        refused("apiVersion: wade.dev/v1alpha1\nmetadata: {name: x\nspec: 1\n")
    );
    insta::assert_snapshot!("two_documents", refused(&format!("{MINIMAL}\n---\n{MINIMAL}\n")));
    insta::assert_snapshot!(
        "duplicate_keys_tags_and_merges",
        refused(&with_spec(
            "  mode: enforce\n  mode: observe\n  history: !!int 3\n  limits:\n    <<: {ready: 1m}\n"
        ))
    );
}

#[test]
fn an_empty_document_at_the_end_is_no_second_one() {
    assert!(read(&format!("---\n{MINIMAL}\n---\n"), "x.yaml").is_ok());
    assert!(read(&format!("\u{feff}{MINIMAL}"), "x.yaml").is_ok());
}

#[test]
fn files_of_other_kinds_are_told_what_is_different() {
    insta::assert_snapshot!(
        "argo",
        refused("apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nspec: {replicas: 5}\n")
    );
    insta::assert_snapshot!("flagger", refused("apiVersion: flagger.app/v1beta1\nkind: Canary\n"));
    insta::assert_snapshot!("no_kind", refused("metadata: {name: x}\n"));
    insta::assert_snapshot!(
        "misspelt_kind",
        refused("apiVersion: wade.dev/v1alpha2\nkind: Rolout\n")
    );
    let strategy = SOURCES[0].1;
    insta::assert_snapshot!(
        "strategy_for_rollout",
        read_rollout(strategy, "careful.yaml").unwrap_err()
    );
    insta::assert_snapshot!(
        "rollout_for_strategy",
        read_strategy(MINIMAL, "rollout.yaml").unwrap_err()
    );
}

#[test]
fn choices_say_which_kinds_there_are_and_which_were_found() {
    insta::assert_snapshot!(
        "two_strategies",
        refused(&with_spec(
            "  strategy:\n    canary: {steps: [{weight: 5%}]}\n    blueGreen: {preview: 30s}\n"
        ))
    );
    insta::assert_snapshot!(
        "misspelt_choices",
        refused(&with_spec(
            "  strategy:\n    canari: {steps: []}\n  analysis:\n    metrics:\n      - error: {}\n      - errors\n      - latncy: {}\n"
        ))
    );
    insta::assert_snapshot!(
        "steps",
        refused(&with_spec(
            "  strategy:\n    canary:\n      steps:\n        - 5%\n        - wieght: 20%\n        - min: 5s\n        - wait: 5m\n        - {weight: 20%, pause: 5m}\n        - {weight: 30%, maxx: 3m}\n        - 7\n        - {}\n        -\n"
        ))
    );
    insta::assert_snapshot!("strategy_as_word", refused(&with_spec("  strategy: quick\n")));
}

#[test]
fn values_of_the_wrong_type_are_told_what_to_write() {
    insta::assert_snapshot!(refused(&with_spec(
        "  mode: observer
  smoke: {http: /healthz}
  history: \"3\"
  limits: {ready: -5s, settle: 5, smokeTries: 0, gate: soon}
  versions: {allowLatest: yes, forbid: 1.0}
  analysis:
    falseRollback: 0.01
    metrics:
      - errors: {allow: 0.9x, weight: lots}
      - latency: {quantiles: [p42, p90]}
      - errors:
    onNoData: []
    tripwire: {looks: 2.5}
  windows:
    open:
      - {days: [monday], from: 09:00, to: 17:00}
  gates:
    - before: 120%
"
    )));
}

#[test]
fn fields_that_make_no_sense_together_are_all_reported() {
    insta::assert_snapshot!(
        "workload",
        refused(
            "apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {name: Check_Out, namespace: -x}
spec:
  workload:
    process:
      command: [\"\", \"${verison}\", \"${PORT}\", \"${x\"]
      env: {PORT: 80, A=B: c, OK: \"$${fine} ${version}\"}
      ready: {tcp: false}
      metrics: {path: metrics}
  variables:
    version: {}
    PORT: {}
    9lives: {}
    tier: {default: gold, oneOf: [silver, lead]}
  traffic:
    listen: localhost:8080
    sticky: {cookie: \"a b\", ttl: 0s}
  smoke:
    - {http: \"http://localhost/healthz\", method: get, headers: {\"X Y\": z}, json: {total: 0, $.ok: 1}}
    - {grpc: \"\", within: 0s}
"
        )
    );
    insta::assert_snapshot!(
        "strategy_and_analysis",
        refused(&with_spec(
            "  strategy:
    canary:
      steps:
        - gate: {approvers: [\"team:x\", \"user:\", \"a b\", ann]}
        - weight: 0%
        - weight: 20%
        - {weight: 10%, min: 5m, max: 1m}
        - {weight: 20%, max: 0s}
        - pause: 0s
  analysis:
    falseRollback: 0%
    look: 20s
    burstWindow: 15s
    severeWindow: 0s
    history: {least: 1m, block: 5m}
    metrics:
      - errors: {max: 0%}
      - errors: {}
      - latency: {quantiles: [p50, p99, p50]}
      - counters: {name: errors, total: a, bad: a}
      - gauge: {name: lag, query: \"\"}
    source:
      prometheus: {url: \"http://ann:secret@prom:9090\", canary: \"a\", stable: \"a\"}
    tripwire: {errors: 0%}
  gates:
    - {before: 0%}
    - {before: 50%}
    - {before: 50%, expires: 0s}
  windows:
    open:
      - {days: [mon, mon], from: 9am, to: 25:00, zone: Berlin}
      - {from: 09:00, to: 09:00, zone: UTC}
    freezes:
      - {from: 2026-02-02, to: 2026-02-01, why: \"\"}
      - {from: christmas, to: 2026-02-01T10:00Z, why: x}
  limits: {settle: 6m, smoke: 0s, release: 1s, ready: 10s}
"
        ))
    );
    insta::assert_snapshot!(
        "shadow_without_requests",
        refused(
            "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {name: x}\nspec:\n  workload: {process: {command: [x], port: auto}}\n  strategy: {shadow: {mirror: 0%, steps: []}}\n"
        )
    );
}

#[test]
fn a_password_in_an_address_is_not_repeated() {
    let text =
        with_spec("  analysis: {source: {prometheus: {url: \"https://ann:hunter2@prom\", canary: a, stable: b}}}\n");
    assert!(!refused(&text).to_string().contains("hunter2"));
}

#[test]
fn a_pause_or_gate_may_come_first_and_port_zero_is_an_address() {
    let text = with_spec("  strategy: {canary: {steps: [{pause: 5s}, {gate: {}}, {weight: 1%}]}}\n");
    assert!(read(&text, "x.yaml").is_ok());
}

#[test]
fn faults_are_given_to_programs_as_json() {
    let faults = refused(&with_spec("  history: many\n"));
    insta::assert_json_snapshot!(faults.to_json());
}

#[test]
fn notes_are_no_faults() {
    let text = "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {name: x}\nspec:\n  mode: observe\n  workload: {process: {command: [x], port: auto, instances: 8}}\n  traffic: {listen: \"0.0.0.0:80\"}\n  gates: [{before: 50%}]\n";
    let worker = "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {name: x}\nspec:\n  workload: {process: {command: [x], instances: 3}}\n";
    let said = |text: &str| -> Vec<String> {
        let rollout = read_rollout(text, "x").unwrap_or_else(|faults| panic!("{faults}"));
        notes(&rollout).iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        said(text),
        [
            "spec.traffic.listen: 0.0.0.0:80 can be reached from other machines, without TLS",
            "spec.workload.process.instances: the first step of 5% starts 1 of 8 instances; more follow as it grows",
            "spec.mode: Wade only says what it would have done: it shifts no traffic and takes nothing back",
            "spec.gates: gates stop nothing while `mode` is `observe`",
        ]
    );
    assert_eq!(
        said(worker),
        [
            "spec.workload.process.instances: without `traffic` the share of instances is the split: the first step of 5% is 1 of 3 (33%)"
        ]
    );
}

/// The one fault of a file that is too much, and how long it took to say so is bounded by the test's patience.
fn only_problem(text: &str) -> String {
    let faults = refused(text);
    assert_eq!(faults.faults.len(), 1, "{faults}");
    let fault = &faults.faults[0];
    format!("{}: {}", fault.problem, fault.found)
}

#[test]
fn what_a_small_file_could_blow_up_is_bounded() {
    // Nine levels of nine aliases: 387 million values from 400 bytes.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..=9 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert_eq!(
        only_problem(&bomb),
        "the document is too large: more than 20000 values, with aliases counted as what they stand for"
    );
    // One long text behind many aliases.
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 1000].join(", "));
    assert_eq!(
        only_problem(&long),
        "the document is too large: more than 4194304 bytes of text, with aliases counted as what they stand for"
    );
    // Depth, plain and by aliases; in brackets and by indentation.
    let deep = format!("{}x{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
    let block = "- ".repeat(MAX_BYTES / 2);
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..100 {
        chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    for text in [&deep, &block, &chain, &"{a: ".repeat(10_000)] {
        assert_eq!(
            only_problem(text),
            "the document is too large: more than 64 levels of nesting"
        );
    }
    assert_eq!(
        only_problem(&" ".repeat(2 << 20)),
        "the file is too large: 2097152 bytes"
    );
    assert_eq!(
        only_problem("a: &a [*a]\n"),
        "an alias stands inside of what it refers to: "
    );
    assert!(only_problem("a: *nowhere\n").starts_with("this is not YAML"));
    assert!(only_problem(&"[".repeat(MAX_BYTES)).starts_with("the document is too large"));
}

#[test]
fn a_document_as_deep_as_allowed_is_read() {
    // The limits count what is refused, not what is good: one level less is a matter of fields again.
    let deep = format!("{}x{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    assert_eq!(refused(&deep).faults[0].problem, "the file is not a mapping");
}

#[test]
fn a_file_with_thousands_of_faults_shows_the_first_hundred() {
    let metrics: String = (0..2000).map(|_| "      - latency: {quantiles: [p1]}\n").collect();
    let faults = refused(&with_spec(&format!("  analysis:\n    metrics:\n{metrics}")));
    assert_eq!((faults.faults.len(), faults.left_out > 0), (MAX_FAULTS, true));
    assert!(faults.to_string().ends_with("of them not shown"));
}

#[test]
fn control_characters_of_the_file_do_not_reach_the_terminal() {
    let faults = refused(&with_spec("  \"mo\\u001b[31mde\": x\n"));
    assert!(!faults.to_string().contains('\u{1b}'), "{faults}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn reading_never_panics_on_any_text(text in "\\PC{0,200}") {
        let _ = read(&text, "x");
    }

    #[test]
    fn reading_never_panics_on_yaml_like_text(text in "[a-c:,\\[\\]{}&*!|>'\"%#@\\-? \n\t0-9~<]{0,120}") {
        let _ = read(&text, "x").map_err(|faults| faults.to_string());
    }

    /// A valid file with a piece cut out, put elsewhere or replaced: read or refused with words, and whatever is
    /// accepted is written and read back the same.
    #[test]
    fn a_mutated_file_is_read_or_refused_with_words(
        from in 0..FULL.len(), length in 0..40_usize, at in 0..FULL.len(), piece in "[a-z0-9:%\\-\\[\\]{}, \n\"]{0,6}",
    ) {
        let cut: String = FULL.chars().skip(from).take(length).collect();
        let mut text = FULL.replacen(&cut, &piece, 1);
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        if length % 2 == 0 {
            text.insert_str(at, &cut);
        }
        match read(&text, "x") {
            Ok(Document::Rollout(rollout)) => {
                let json = serde_json::to_string(&rollout).unwrap();
                prop_assert_eq!(read(&json, "x"), Ok(Document::Rollout(rollout)));
            }
            Ok(Document::Strategy(_) | Document::Config(_)) => {}
            Err(faults) => {
                prop_assert!(!faults.faults.is_empty());
                for fault in &faults.faults {
                    prop_assert!(!fault.problem.is_empty());
                    prop_assert!(!fault.problem.starts_with("internal"), "{}\n{}", faults, text);
                }
            }
        }
    }
}

#[test]
fn the_daemons_config_is_read_as_strictly_as_a_rollout() {
    let text = "\
apiVersion: wade.dev/v1alpha1
kind: Config
data: state
http: {listen: 127.0.0.1:7711, tokenFile: token}
";
    let config = read_config(text, "wade.yaml").unwrap();
    assert_eq!(config.data.as_deref(), Some("state"));
    assert_eq!(read(text, "wade.yaml"), Ok(Document::Config(Box::new(config))));

    let wrong = text.replace("data:", "dta:").replace("127.0.0.1", "0.0.0.0");
    let faults = read_config(&wrong, "wade.yaml").unwrap_err().to_string();
    assert!(
        faults.contains("dta") && faults.contains("did you mean `data`?"),
        "{faults}"
    );
    let open = text.replace("127.0.0.1", "0.0.0.0");
    let faults = read_config(&open, "wade.yaml").unwrap_err().to_string();
    assert!(faults.starts_with("wade.yaml:4:"), "{faults}");
    assert!(faults.contains("only loopback"), "{faults}");
}

#[test]
fn what_traces_cannot_be_told_by_is_said_all_at_once() {
    let traces = "{newErrors: 0%, service: \" \", attributes: [], from: {jaeger: {url: \"jaeger:16686\", every: 0s}}}";
    let faults = refused(&with_spec(&format!("  analysis: {{traces: {traces}}}\n")));
    let problems: Vec<&str> = faults.faults.iter().map(|fault| fault.problem.as_str()).collect();
    let expected = [
        "no service keeps a limit of 0%",
        "no service has this name",
        "no attribute would tell the revisions apart",
        "this is not the address of a server",
        "this asks without a break",
    ];
    assert_eq!(problems, expected);
}
