//! `wade man`: manual pages.

use std::path::PathBuf;

use super::exit::{Exit, Failure};
use super::screen::{Format, Screen};

/// Write the manual pages, one per verb
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  wade man --dir /usr/local/share/man/man1")]
pub(super) struct Args {
    /// The folder to write to; made if it is missing
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let dir = args.dir.display();
    let failed = |error: std::io::Error| Failure::other(format!("{dir}: {error}; name a folder that you may write to"));
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(super::help::command(), &args.dir).map_err(failed)?;
    Screen::new(Format::Text).text(&format!(
        "manual pages are in {dir}; `man -l {dir}/wade.1` shows the first"
    ));
    Ok(Exit::Done)
}
