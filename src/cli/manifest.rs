//! Manifests that a user hands in, a file or a folder of files: the one Deployment in them.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::exit::Failure;
use super::files::text;
use crate::apiserver::value;

/// The one Deployment of a manifest; `-` is standard input.
pub(super) fn deployment(path: &Path) -> Result<Value, Failure> {
    let source = path.display().to_string();
    if path.is_dir() {
        return folder(path);
    }
    let words = if source == "-" {
        let mut words = String::new();
        std::io::stdin()
            .take(1 << 20)
            .read_to_string(&mut words)
            .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
        words
    } else {
        text(path)?
    };
    let found: Vec<Value> = documents(&words, &source)?
        .into_iter()
        .flat_map(|document| match value::list(&document, "/items") {
            [] => vec![document],
            items => items.to_vec(),
        })
        .filter(|document| value::text(document, "/kind") == "Deployment")
        .collect();
    only(found, &source)
}

/// The one Deployment of all manifests in a folder.
fn folder(path: &Path) -> Result<Value, Failure> {
    let source = path.display().to_string();
    let entries = std::fs::read_dir(path).map_err(|error| Failure::usage(format!("{source}: {error}")))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| {
            file.extension()
                .is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json")
        })
        .collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let all = documents(&text(&file)?, &file.display().to_string())?;
        found.extend(
            all.into_iter()
                .filter(|document| value::text(document, "/kind") == "Deployment"),
        );
    }
    only(found, &source)
}

fn documents(words: &str, source: &str) -> Result<Vec<Value>, Failure> {
    serde_saphyr::from_multiple(words).map_err(|error| Failure::usage(format!("{source}: {error}")))
}

fn only(mut found: Vec<Value>, source: &str) -> Result<Value, Failure> {
    match (found.len(), found.pop()) {
        (1, Some(mut deployment)) => {
            if let Some(fields) = deployment.as_object_mut() {
                fields.shift_remove("status");
            }
            Ok(deployment)
        }
        (0, _) => Err(Failure::usage(format!(
            "{source} holds no Deployment; name the file in which it is"
        ))),
        (count, _) => Err(Failure::usage(format!(
            "{source} holds {count} Deployments; release them one by one, each from a file of its own"
        ))),
    }
}
