//! `wade schema`: for editors.

use super::exit::{Exit, Failure};
use super::screen::{Format, Screen};

/// Print the JSON Schema of Wade's files, for editors
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  wade schema > wade.schema.json

and as the first line of a rollout, for editors with the YAML language server:
  # yaml-language-server: $schema=wade.schema.json")]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> Result<Exit, Failure> {
    let text = serde_json::to_string_pretty(crate::spec::schema())
        .map_err(|error| Failure::other(format!("the schema cannot be written: {error}")))?;
    Screen::new(Format::Text).text(&text);
    Ok(Exit::Done)
}
