//! Manifests that a user hands in: the Deployment in them.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::exit::Failure;
use super::files::text;
use crate::apiserver::value;

/// The one Deployment of a manifest; `-` is standard input.
pub(super) fn deployment(path: &Path) -> Result<Value, Failure> {
    let source = path.display().to_string();
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
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&words).map_err(|error| Failure::usage(format!("{source}: {error}")))?;
    let mut found: Vec<Value> = documents
        .into_iter()
        .flat_map(|document| match value::list(&document, "/items") {
            [] => vec![document],
            items => items.to_vec(),
        })
        .filter(|document| value::text(document, "/kind") == "Deployment")
        .collect();
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
