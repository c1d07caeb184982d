//! The first page: verbs in groups, what to try first, and the exit codes.
//!
//! clap lists subcommands in one block; here they are grouped by what a person wants to do, with the sentences taken
//! from the verbs themselves, and a test that no verb is left out.

use std::fmt::Write as _;

use clap::{Command, CommandFactory};

use super::Cli;

/// Verbs by what a person wants to do.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Release", &["check", "deploy", "rollback", "retry"]),
    (
        "Watch and steer",
        &[
            "status", "history", "why", "approve", "promote", "pause", "resume", "abort", "settle", "wait", "observe",
        ],
    ),
    (
        "Prepare (needs nothing running)",
        &[
            "demo",
            "validate",
            "plan",
            "simulate",
            "strategies",
            "schema",
            "rbac",
            "hold",
        ],
    ),
    (
        "Run and integrate",
        &["serve", "install", "uninstall", "judge", "completions", "man"],
    ),
];

const EXIT_CODES: &str = "\
Exit codes of deploy, rollback and retry:
  0 promoted, first deploy, or served already   5 rejected before any user met it
  1 anything else                               6 still waiting for a person (--wait)
  2 wrong usage or invalid file                 7 daemon not reachable or not permitted
  3 rolled back: health                         8 superseded by a newer revision
  4 aborted by a person                         9 stuck: needs a person
                                               10 back on stable without a verdict, or not proven";

/// The command line with its grouped first page.
pub fn command() -> Command {
    let command = Cli::command();
    let groups = groups(&command);
    command
        .after_help(format!(
            "{groups}{EXIT_CODES}\n\n`wade VERB --help` shows options and examples."
        ))
        .help_template("{name} {version}: {about}\n\n{usage-heading} {usage}{after-help}\n\nOptions:\n{options}")
}

/// What `wade` alone says.
pub fn orientation() -> String {
    "\
wade ships a new version of a running service step by step, and takes it back by itself if it is worse.

See it work, without any setup:
  wade demo

Use it here:
  wade validate rollouts/hello.yaml         is the file right? all faults at once
  wade plan -f rollouts/hello.yaml          what would a release do?
  wade serve --config wade.yaml             keep services running and watch their releases
  wade deploy -f rollouts/hello.yaml --set version=1.4.2

On Kubernetes, with nothing installed there:
  wade deploy deployment/checkout -n shop --image registry.example/checkout:1.4.2

While a release runs:
  wade status -w hello    wade abort hello    wade why hello

`wade --help` lists everything.
"
    .to_owned()
}

fn groups(command: &Command) -> String {
    let mut out = String::new();
    for (title, verbs) in GROUPS {
        let _ = writeln!(out, "{title}:");
        for verb in verbs {
            let about = command
                .find_subcommand(verb)
                .and_then(Command::get_about)
                .map(ToString::to_string);
            let _ = writeln!(out, "  {verb:<13}{}", about.unwrap_or_default());
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_on_the_first_page_once_and_has_a_sentence() {
        let command = Cli::command();
        let mut real: Vec<&str> = command
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
            .map(Command::get_name)
            .collect();
        let mut shown: Vec<&str> = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter().copied()).collect();
        real.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, real);
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }
}
