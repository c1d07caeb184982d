//! `wade completions`: for shells.

use std::io::Write as _;

use super::exit::{Exit, Failure};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade completions bash > /etc/bash_completion.d/wade
  wade completions zsh > \"${fpath[1]}/_wade\"
  wade completions fish > ~/.config/fish/completions/wade.fish")]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::help::command(), "wade", &mut script);
    std::io::stdout()
        .write_all(&script)
        .map(|()| Exit::Done)
        .map_err(|error| Failure::other(format!("the script cannot be written: {error}")))
}
