//! The command line as pipelines and people meet it: the real binary, its words and its exit codes.
//!
//! `pages` holds what `--help` says (goldens), `alone` the verbs that need nothing running, `served` a daemon with real
//! processes from the first deploy to a rollback.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

#[path = "surfaces/alone.rs"]
mod alone;
#[path = "surfaces/pages.rs"]
mod pages;
#[path = "surfaces/served.rs"]
mod served;

use std::path::Path;
use std::process::{Command, Output};

/// What the environment of a test run must not decide.
const CLEARED: [&str; 12] = [
    "CI",
    "DEPLOY_WINDOW",
    "GITLAB_CI",
    "GITHUB_ACTIONS",
    "JENKINS_URL",
    "DRONE",
    "CIRCLECI",
    "WADE_SOCKET",
    "WADE_URL",
    "WADE_TOKEN_FILE",
    "WADE_LOG",
    "RUST_LOG",
];

/// `wade ARGS`, to be run in `folder`.
fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wade"));
    command.args(args).current_dir(folder);
    for name in CLEARED {
        command.env_remove(name);
    }
    command
}

/// How a run ended: exit code, standard output, standard error.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("wade writes UTF-8");
    Ran {
        code: output.status.code().expect("no signal ended it"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Runs `wade ARGS` in `folder`.
fn wade(folder: &Path, args: &[&str]) -> Ran {
    ran(command(folder, args).output().expect("the binary runs"))
}
