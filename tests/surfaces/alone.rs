//! Verbs that need nothing running, and what is said when the daemon that a verb needs is not there.

use std::io::Write;
use std::process::Stdio;

use super::{Ran, command, ran, wade};

const GOOD: &str = "\
apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {name: hello}
spec:
  workload: {process: {command: [./hello], port: auto}}
  traffic: {listen: 127.0.0.1:8080}
";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("good.yaml"), GOOD).unwrap();
    std::fs::write(
        folder.path().join("bad.yaml"),
        GOOD.replace("traffic:", "trafic:").replace("port: auto", "port: 80"),
    )
    .unwrap();
    folder
}

#[test]
fn a_valid_file_is_ok_and_exits_0() {
    let folder = folder();
    let expected = Ran {
        code: 0,
        out: "good.yaml: ok, Rollout hello\n".to_owned(),
        err: String::new(),
    };
    assert_eq!(wade(folder.path(), &["validate", "good.yaml"]), expected);
}

#[test]
fn every_fault_is_told_and_the_exit_code_is_2() {
    let folder = folder();
    let seen = wade(folder.path(), &["validate", "bad.yaml", "missing.yaml", "good.yaml"]);
    assert_eq!(seen.code, 2);
    for part in ["bad.yaml:5:", "bad.yaml:6:", "2 faults", "good.yaml: ok"] {
        assert!(seen.out.contains(part), "{part} is missing in {}", seen.out);
    }
    assert!(seen.err.contains("missing.yaml: cannot be read"), "{}", seen.err);
}

#[test]
fn faults_as_json_are_one_object_per_file() {
    let folder = folder();
    let seen = wade(folder.path(), &["validate", "bad.yaml", "good.yaml", "-o", "json"]);
    let lines: Vec<serde_json::Value> = seen
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let counts: Vec<usize> = lines
        .iter()
        .map(|line| line["faults"].as_array().unwrap().len())
        .collect();
    assert_eq!((seen.code, counts, seen.err.as_str()), (2, vec![2, 0], ""));
}

#[test]
fn a_plan_is_shown_and_a_faulty_file_has_none() {
    let folder = folder();
    let plan = wade(
        folder.path(),
        &["plan", "-f", "good.yaml", "--rps", "200", "--error-rate", "0.1%"],
    );
    assert_eq!((plan.code, plan.err.as_str()), (0, ""));
    assert!(
        plan.out.starts_with("hello by careful: 5% → 20% → 50% → 100%"),
        "{}",
        plan.out
    );
    assert!(plan.out.contains("a rise in errors to x"), "{}", plan.out);
    let emergency = wade(folder.path(), &["plan", "-f", "good.yaml", "--emergency"]);
    assert!(emergency.out.contains("EMERGENCY"), "{}", emergency.out);
    let bad = wade(folder.path(), &["plan", "-f", "bad.yaml"]);
    assert_eq!((bad.code, bad.out.as_str()), (2, ""));
    assert!(bad.err.contains("2 faults"), "{}", bad.err);
}

#[test]
fn a_release_without_a_daemon_exits_7_and_says_how_to_get_one() {
    let folder = folder();
    for verb in [
        ["deploy", "hello"],
        ["status", "hello"],
        ["abort", "hello"],
        ["why", "hello"],
        ["rollback", "hello"],
    ] {
        let seen = wade(folder.path(), &verb);
        let expected = "error: no daemon listens on wade-data/wade.sock; start one with `wade serve --config wade.yaml`, or name its socket with --socket or WADE_SOCKET\n";
        assert_eq!(
            (seen.code, seen.out.as_str(), seen.err.as_str()),
            (7, "", expected),
            "{verb:?}"
        );
    }
    let json = wade(folder.path(), &["deploy", "hello", "-o", "json"]);
    let problem: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json.code, problem["kind"].as_str()), (7, Some("unavailable")));
}

#[test]
fn what_makes_no_sense_is_refused_before_a_daemon_is_looked_for() {
    let folder = folder();
    let cases: [(&[&str], &str); 8] = [
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["deploy"], "required arguments"),
        (&["deploy", "hello", "--set", "version"], "write NAME=VALUE"),
        (
            &["deploy", "hello", "--set", "version=1", "--version", "2"],
            "set it once",
        ),
        (&["deploy", "hello", "--emergency"], "--reason"),
        (
            &["deploy", "other", "-f", "good.yaml"],
            "good.yaml describes the rollout hello, not other",
        ),
        (&["deploy", "-f", "bad.yaml"], "2 faults"),
        (&["status", "--url", "http://127.0.0.1:1"], "--token-file"),
    ];
    for (args, part) in cases {
        let seen = wade(folder.path(), args);
        assert_eq!((seen.code, seen.out.as_str()), (2, ""), "{args:?}");
        assert!(seen.err.contains(part), "{args:?}: {}", seen.err);
    }
}

#[test]
fn a_deploy_window_that_is_neither_true_nor_false_is_a_mistake() {
    let folder = folder();
    for (value, code) in [("yes", 2), ("", 2), ("true", 7), ("false", 7)] {
        let seen = ran(command(folder.path(), &["deploy", "hello"])
            .env("DEPLOY_WINDOW", value)
            .output()
            .unwrap());
        assert_eq!(seen.code, code, "{value}: {}", seen.err);
    }
}

#[test]
fn serve_refuses_a_configuration_with_faults() {
    let folder = folder();
    std::fs::write(
        folder.path().join("wade.yaml"),
        "apiVersion: wade.dev/v1alpha1\nkind: Config\nrolouts: x\n",
    )
    .unwrap();
    let seen = wade(folder.path(), &["serve"]);
    assert_eq!((seen.code, seen.out.as_str()), (2, ""));
    assert!(
        seen.err.contains("wade.yaml:3:") && seen.err.contains("`rollouts`"),
        "{}",
        seen.err
    );
}

#[test]
fn the_schema_is_json_and_knows_all_kinds() {
    let folder = folder();
    let schema: serde_json::Value = serde_json::from_str(&wade(folder.path(), &["schema"]).out).unwrap();
    for kind in ["Rollout", "StrategyFile", "Config"] {
        assert!(schema["$defs"][kind].is_object(), "{kind}");
    }
}

#[test]
fn strategies_are_listed_and_what_is_printed_is_valid() {
    let folder = folder();
    assert_eq!(
        wade(folder.path(), &["strategies"]).out.lines().count(),
        wade::spec::strategies::SOURCES.len()
    );
    let careful = wade(folder.path(), &["strategies", "careful"]).out;
    std::fs::write(folder.path().join("careful.yaml"), &careful).unwrap();
    assert_eq!(
        wade(folder.path(), &["validate", "careful.yaml"]).out,
        "careful.yaml: ok, Strategy careful\n"
    );
    let unknown = wade(folder.path(), &["strategies", "bold"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("there are careful, quick"), "{}", unknown.err);
}

#[test]
fn shells_and_man_get_their_files() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish"] {
        let script = wade(folder.path(), &["completions", shell]);
        assert!(script.code == 0 && script.out.contains("rollback"), "{shell}");
        assert!(!script.out.contains("__exec"), "{shell}");
    }
    assert_eq!(wade(folder.path(), &["man", "--dir", "man"]).code, 0);
    let page = std::fs::read_to_string(folder.path().join("man/wade-deploy.1")).unwrap();
    assert!(page.contains("emergency"), "{page}");
}

#[test]
fn an_example_is_simulated_and_a_file_of_another_kind_is_refused() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/errors-rolled-back");
    let seen = wade(
        &examples,
        &["simulate", "-f", "rollout.yaml", "--scenario", "scenario.yaml"],
    );
    let read = |name: &str| std::fs::read_to_string(examples.join(name)).unwrap();
    let expected = wade::sim::cli_text(&read("rollout.yaml"), &read("scenario.yaml")).unwrap();
    assert_eq!(
        seen,
        Ran {
            code: 0,
            out: expected,
            err: String::new()
        }
    );
    let seen = wade(
        &examples,
        &["simulate", "-f", "rollout.yaml", "--scenario", "rollout.yaml"],
    );
    assert_eq!((seen.code, seen.out.as_str()), (2, ""));
    assert!(seen.err.contains("rollout.yaml:"), "{}", seen.err);
}

#[test]
fn the_judge_answers_on_standard_output_until_its_input_ends() {
    let folder = folder();
    let mut child = command(folder.path(), &["judge", "--stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"this is no JSON\n").unwrap();
    let seen = ran(child.wait_with_output().unwrap());
    assert_eq!((seen.code, seen.out.lines().count()), (0, 1), "{seen:?}");
    assert!(serde_json::from_str::<serde_json::Value>(&seen.out).is_ok(), "{seen:?}");
}

#[test]
fn a_program_that_cannot_be_started_exits_126_with_a_sentence() {
    let folder = folder();
    let seen = wade(folder.path(), &["__exec", "--open-files=64", "--", "./no-such-program"]);
    assert_eq!((seen.code, seen.out.as_str()), (126, ""));
    assert!(
        seen.err.starts_with("wade: cannot become ./no-such-program: "),
        "{}",
        seen.err
    );
}
