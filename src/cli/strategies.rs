//! `wade strategies`: what comes with Wade.

use serde_json::json;

use super::exit::{Exit, Failure};
use super::screen::{OutputArg, Screen};
use crate::spec::strategies::SOURCES;

/// List the strategies that come with Wade, or print one to copy
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade strategies
  wade strategies careful
  wade strategies careful > strategies/ours.yaml    begin one of your own")]
pub(super) struct Args {
    /// The strategy to print
    name: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArg,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let screen = Screen::new(args.output.output);
    match &args.name {
        Some(name) => {
            let (name, text) = SOURCES.iter().find(|(own, _)| own == name).ok_or_else(|| {
                let known: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
                Failure::usage(format!(
                    "no strategy {name} comes with Wade; there are {}",
                    known.join(", ")
                ))
            })?;
            if screen.is_json() {
                screen.json(&json!({ "name": name, "text": text }));
            } else {
                screen.text(text);
            }
        }
        None => {
            for (name, text) in SOURCES {
                let about = about(text);
                if screen.is_json() {
                    screen.json(&json!({ "name": name, "about": about }));
                } else {
                    screen.text(&format!("{name:<12}{about}"));
                }
            }
        }
    }
    Ok(Exit::Done)
}

/// The first sentence of a strategy's file: `# name: what it is.`
fn about(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.split_once(": ").map_or(line, |(_, about)| about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_begins_with_its_name_and_a_sentence() {
        for (name, text) in SOURCES {
            assert!(text.starts_with(&format!("# {name}: ")), "{name}");
            assert!(about(text).len() > 10, "{name}");
        }
    }
}
