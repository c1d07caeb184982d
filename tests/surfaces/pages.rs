//! What the help pages say. A changed golden is a decision: somebody's script or memory depends on it.

use super::wade;

/// Every verb that a person may find.
const VERBS: [&str; 27] = [
    "check",
    "deploy",
    "rollback",
    "retry",
    "status",
    "history",
    "why",
    "approve",
    "promote",
    "pause",
    "resume",
    "abort",
    "settle",
    "wait",
    "observe",
    "demo",
    "validate",
    "plan",
    "simulate",
    "strategies",
    "schema",
    "rbac",
    "hold",
    "serve",
    "judge",
    "completions",
    "man",
];

#[test]
fn the_first_page() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!("first_page", wade(folder.path(), &["--help"]).out);
    insta::assert_snapshot!("orientation", wade(folder.path(), &[]).out);
}

#[test]
fn each_verb() {
    let folder = tempfile::tempdir().unwrap();
    for verb in VERBS {
        let page = wade(folder.path(), &[verb, "--help"]);
        assert_eq!((page.code, page.err.as_str()), (0, ""), "{verb}");
        insta::assert_snapshot!(format!("verb_{verb}"), page.out);
    }
}

#[test]
fn help_that_is_piped_holds_no_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    for verb in VERBS {
        let page = wade(folder.path(), &[verb, "--help"]).out;
        assert!(!page.contains(|c: char| c.is_control() && c != '\n'), "{verb}");
    }
}
