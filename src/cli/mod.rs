//! The command line: one file per verb, and nothing in it that the library could not do without it.
//!
//! Three kinds of verbs. Some are pure and need nothing running (`validate`, `plan`, `strategies`, `schema`,
//! `simulate`, `judge`): files in, text out. `serve` *is* the daemon. All others speak to a daemon through its socket
//! with the words of [`crate::daemon::api`], so whatever they can do, any program can. A verb decides nothing about a
//! release: it asks, tells what it hears, and ends with the exit code of DESIGN.md section 7 ([`exit`]).
//!
//! How things look is in [`render`] (plain functions, golden tests); [`screen`] is the one place that writes to
//! standard output; [`follow`] is what `deploy`, `rollback`, `retry`, `abort` and `status -w` share.

pub mod connect;
pub mod exit;
pub mod files;
pub mod follow;
pub mod help;
pub mod pipeline;
pub mod render;
pub mod screen;

mod check;
mod commands;
mod completions;
mod demo;
mod deploy;
mod history;
mod hold;
mod install;
mod job;
mod judge;
mod judge_replay;
mod judge_simulate;
mod man;
mod manifest;
mod observe;
mod operate;
mod plan;
mod rbac;
mod retry;
mod rollback;
mod schema;
mod serve;
mod settle;
mod simulate;
mod status;
mod strategies;
mod uninstall;
mod validate;
mod wait;
mod why;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{FromArgMatches, Parser, Subcommand};

use exit::{Exit, Failure};
use screen::Format;

/// Progressive rollout with automatic rollback
#[derive(Debug, Parser)]
#[command(name = "wade", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    verb: Option<Verb>,
}

// The order here is the order of the groups in `help`.
#[derive(Debug, Subcommand)]
enum Verb {
    Deploy(deploy::Args),
    Status(status::Args),
    Approve(commands::ApproveArgs),
    Promote(commands::PromoteArgs),
    Pause(commands::PauseArgs),
    Resume(commands::ResumeArgs),
    Abort(commands::AbortArgs),
    Retry(retry::Args),
    Rollback(rollback::Args),
    Check(check::Args),
    History(history::Args),
    Why(why::Args),
    Settle(settle::Args),
    Wait(wait::Args),
    Observe(observe::Args),
    Validate(validate::Args),
    Plan(plan::Args),
    Simulate(simulate::Args),
    Strategies(strategies::Args),
    Schema(schema::Args),
    Rbac(rbac::Args),
    Hold(hold::Args),
    Demo(demo::Args),
    Serve(serve::Args),
    Install(install::Args),
    Uninstall(uninstall::Args),
    Judge(judge::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(hide = true)]
    SampleService(demo::SampleArgs),
}

/// The whole command line: reads this process's arguments, does what they say, and returns its exit code. For `main`.
pub fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    // Before anything else: this process is about to become a service, and must not have started a thread by then.
    if words.get(1).is_some_and(|verb| verb == "__exec") {
        let error = crate::platforms::local::process::exec_with_limits(words.into_iter().skip(2));
        eprintln!("wade: {error}");
        return ExitCode::from(126);
    }
    // Helm 3 takes a post-renderer as one program: a link of this name is `wade hold`.
    let called = words
        .first()
        .map(std::path::Path::new)
        .and_then(std::path::Path::file_name);
    if called.is_some_and(|name| name == "wade-hold") {
        words.insert(1, "hold".into());
    }
    let matches = match help::command().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => {
            // A closed pipe under `--help` is no fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let cli = Cli::from_arg_matches(&matches).expect("the command was made from this type");
    let Some(verb) = cli.verb else {
        screen::Screen::new(Format::Text).text(&help::orientation());
        return ExitCode::SUCCESS;
    };
    verb.run()
}

impl Verb {
    fn run(self) -> ExitCode {
        match self {
            Self::Deploy(args) => remote(args.output.output, deploy::run(args)),
            Self::Status(args) => remote(args.output.output, status::run(args)),
            Self::Approve(args) => remote(args.common.output.output, commands::approve(args)),
            Self::Promote(args) => remote(args.common.output.output, commands::promote(args)),
            Self::Pause(args) => remote(args.common.output.output, commands::pause(args)),
            Self::Resume(args) => remote(args.common.output.output, commands::resume(args)),
            Self::Abort(args) => remote(args.output.output, commands::abort(args)),
            Self::Retry(args) => remote(args.output.output, retry::run(args)),
            Self::Rollback(args) => remote(args.output.output, rollback::run(args)),
            Self::Check(args) => remote(args.output.output, check::run(args)),
            Self::History(args) => remote(args.output.output, history::run(args)),
            Self::Why(args) => remote(args.output.output, why::run(args)),
            Self::Settle(args) => remote(args.output.output, settle::run(args)),
            Self::Wait(args) => remote(args.output.output, wait::run(args)),
            Self::Observe(args) => remote(args.output.output, observe::run(args)),
            Self::Validate(args) => end(args.output.output, validate::run(&args)),
            Self::Plan(args) => end(args.output.output, plan::run(&args)),
            Self::Simulate(args) => end(Format::Text, simulate::run(&args)),
            Self::Strategies(args) => end(args.output.output, strategies::run(&args)),
            Self::Schema(args) => end(Format::Text, schema::run(&args)),
            Self::Rbac(args) => end(Format::Text, rbac::run(&args)),
            Self::Hold(args) => end(Format::Text, hold::run(&args)),
            Self::Demo(args) => remote_on_all_cores(args.output.output, demo::run(args)),
            Self::Serve(args) => serve::run(args),
            Self::Install(args) => remote(args.output.output, install::run(args)),
            Self::Uninstall(args) => remote(args.output.output, uninstall::run(args)),
            Self::Judge(args) => end(args.format(), judge::run(&args)),
            Self::Completions(args) => end(Format::Text, completions::run(&args)),
            Self::Man(args) => end(Format::Text, man::run(&args)),
            Self::SampleService(args) => demo::sample(args),
        }
    }
}

/// Runs a verb that waits for others, and ends as it says.
fn remote(format: Format, verb: impl Future<Output = Result<Exit, Failure>>) -> ExitCode {
    on(tokio::runtime::Builder::new_current_thread(), format, verb)
}

/// As [`remote`], for a verb that carries a daemon and its users itself.
fn remote_on_all_cores(format: Format, verb: impl Future<Output = Result<Exit, Failure>>) -> ExitCode {
    on(tokio::runtime::Builder::new_multi_thread(), format, verb)
}

fn on(
    mut runtime: tokio::runtime::Builder,
    format: Format,
    verb: impl Future<Output = Result<Exit, Failure>>,
) -> ExitCode {
    match runtime.enable_all().build() {
        Ok(runtime) => end(format, runtime.block_on(verb)),
        Err(error) => end(
            format,
            Err(Failure::other(format!("no runtime could be started: {error}"))),
        ),
    }
}

/// Says why a verb failed, if it did: a sentence on standard error, or the API's `Problem` on standard output.
fn end(format: Format, result: Result<Exit, Failure>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            match format {
                Format::Text => complain(&failure.problem.message),
                Format::Json => screen::Screen::new(format).json(&failure.problem),
            }
            failure.exit.into()
        }
    }
}

/// A sentence on standard error about what did not spoil anything.
fn warn(message: &str) {
    anstream::eprintln!("note: {}", render::numbers::clean(message));
}

/// A sentence on standard error.
fn complain(message: &str) {
    let style = render::Tone::Bad.style();
    anstream::eprintln!("{style}error:{style:#} {}", render::numbers::clean(message));
}
