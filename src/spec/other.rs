//! Reads other files as strictly as a Rollout: the same YAML, budgets, types-are-the-schema and faults.
//!
//! Used for what is not part of a Rollout and has no `apiVersion` of its own (a simulation's scenario).

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;

use super::fault::{Fault, Faults, Path};
use super::nodes;
use super::schema::remove_null;
use super::walk::walk;

/// Reads a `T`; `meaning` says what a schema cannot check, with paths from the file's root.
///
/// # Errors
/// Every fault of the first station that finds any: YAML, then fields and values, then meaning. An empty file is a
/// fault whose help is `empty`.
pub fn read_as<T: DeserializeOwned + JsonSchema>(
    text: &str,
    source_name: &str,
    empty: &str,
    meaning: fn(&T) -> Vec<Fault>,
) -> Result<T, Faults> {
    let root = nodes::parse(text)
        .map_err(|faults| Faults::new(source_name, faults))?
        .ok_or_else(|| {
            let fault = Fault::new(Path::root(), "the file is empty").help(empty);
            Faults::new(source_name, vec![fault])
        })?;
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    remove_null(&mut schema);
    let value = walk(&schema, &root).map_err(|faults| Faults::new(source_name, faults))?;
    let typed: T = serde_json::from_value(value).map_err(|error| {
        let fault = Fault::new(Path::root(), format!("internal fault: {error}"))
            .help("the file agrees with Wade's schema but not with Wade's types; please report this with the file");
        Faults::new(source_name, vec![fault])
    })?;
    let faults = meaning(&typed).into_iter().map(|fault| root.place(fault)).collect();
    Faults::check(source_name, faults)?;
    Ok(typed)
}
