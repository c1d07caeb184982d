//! `wade validate`: files checked, all faults at once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::exit::{Exit, Failure};
use super::files::{strategies, text};
use super::screen::{OutputArg, Screen};
use crate::spec::{Document, Faults, StrategyFile, notes, read, resolve};

/// Check files: every fault, with its line and what to write instead
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade validate rollouts/*.yaml
  wade validate wade.yaml rollouts/checkout.yaml strategies/ours.yaml
  wade validate rollouts/*.yaml -o json | jq -r '.faults[]'

Strategies among the files are known to the rollouts. Exit code 2 if any file has a fault.")]
pub(super) struct Args {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A folder with strategies of your own
    #[arg(long, value_name = "FOLDER")]
    strategies: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArg,
}

/// A file as far as it could be read.
struct Checked {
    source: String,
    text: String,
    document: Result<Document, Faults>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let screen = Screen::new(args.output.output);
    let mut known = strategies(args.strategies.as_deref())?;
    let mut exit = Exit::Done;
    let mut files = Vec::new();
    for path in &args.files {
        match text(path) {
            Ok(text) => {
                let source = path.display().to_string();
                let document = read(&text, &source);
                files.push(Checked { source, text, document });
            }
            // The other files are checked all the same.
            Err(failure) => {
                exit = Exit::Invalid;
                if screen.is_json() {
                    screen.json(&json!({ "source": path.display().to_string(), "problem": failure.problem.message }));
                } else {
                    super::complain(&failure.problem.message);
                }
            }
        }
    }
    for file in &files {
        if let Ok(Document::Strategy(strategy)) = &file.document {
            known.insert(strategy.metadata.name.clone(), (**strategy).clone());
        }
    }
    for file in files {
        if !file.tell(&known, &screen) {
            exit = Exit::Invalid;
        }
    }
    Ok(exit)
}

impl Checked {
    /// Says what is wrong with the file or that nothing is; whether nothing is.
    fn tell(self, known: &BTreeMap<String, StrategyFile>, screen: &Screen) -> bool {
        let Self { source, text, document } = self;
        let sound = document.and_then(|document| {
            if let Document::Rollout(rollout) = &document {
                resolve(rollout, known).map_err(|faults| faults.located_in(&text, &source))?;
            }
            Ok(document)
        });
        match sound {
            Ok(document) => {
                let (kind, name, notes) = match &document {
                    Document::Rollout(rollout) => ("Rollout", Some(&rollout.metadata.name), notes(rollout)),
                    Document::Strategy(strategy) => ("Strategy", Some(&strategy.metadata.name), Vec::new()),
                    Document::Config(_) => ("Config", None, Vec::new()),
                };
                if screen.is_json() {
                    let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
                    screen.json(&json!({ "source": source, "kind": kind, "name": name, "faults": [], "notes": notes }));
                } else {
                    let name = name.map(|name| format!(" {name}")).unwrap_or_default();
                    screen.text(&format!("{source}: ok, {kind}{name}"));
                    notes.iter().for_each(|note| screen.text(&format!("    note  {note}")));
                }
                true
            }
            Err(faults) => {
                if screen.is_json() {
                    screen.json(&faults.to_json());
                } else {
                    screen.text(&faults.to_string());
                }
                false
            }
        }
    }
}
