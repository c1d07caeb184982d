//! The pages in `docs/` and the README against the code that they describe: what is listed there must be all there is.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::platforms::local::proxy::METRICS;
use crate::signals::traces::telemetry;
use crate::spec::schema;
use crate::telemetry::list;

const ROLLOUT: &str = include_str!("../docs/rollout.md");
const OPERATING: &str = include_str!("../docs/operating.md");
const TELEMETRY: &str = include_str!("../docs/telemetry.md");
const README: &str = include_str!("../README.md");

/// Every field name in a schema, and every word that a field may be told to take.
fn names(schema: &Value, fields: &mut BTreeSet<String>, words: &mut BTreeSet<String>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| names(item, fields, words)),
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                fields.extend(properties.keys().cloned());
            }
            words.extend(
                object
                    .get("enum")
                    .into_iter()
                    .flat_map(|list| list.as_array().into_iter().flatten())
                    .filter_map(text),
            );
            words.extend(object.get("const").and_then(text));
            object.values().for_each(|value| names(value, fields, words));
        }
        _ => {}
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Those that the page does not show as code: `name` alone, or as a key in an example like `{name: …}`.
fn unsaid<'a>(page: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let shown = |name: &str, before: &str, after: &str| page.contains(&format!("{before}{name}{after}"));
    let said = |name: &&str| shown(name, "`", "`") || ["`", "{", ", "].iter().any(|before| shown(name, before, ":"));
    names.into_iter().filter(|name| !said(name)).collect()
}

#[test]
fn every_field_and_every_choice_of_the_schema_is_in_the_reference() {
    let (mut fields, mut words) = (BTreeSet::new(), BTreeSet::new());
    names(schema(), &mut fields, &mut words);
    assert!(
        fields.len() > 60 && words.len() > 20,
        "the schema has lost its fields: {fields:?} {words:?}"
    );
    assert_eq!(
        unsaid(ROLLOUT, fields.iter().map(String::as_str)),
        Vec::<&str>::new(),
        "fields"
    );
    assert_eq!(
        unsaid(ROLLOUT, words.iter().map(String::as_str)),
        Vec::<&str>::new(),
        "choices"
    );
}

#[test]
fn every_metric_is_in_the_operators_list() {
    assert_eq!(
        unsaid(
            OPERATING,
            METRICS
                .iter()
                .map(|metric| metric.name)
                .chain(telemetry::METRICS.iter().map(|metric| metric.name))
        ),
        Vec::<&str>::new()
    );
}

#[test]
fn every_exit_code_has_its_row_in_the_readme() {
    let rows: Vec<u8> = README
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next()?.parse().ok())
        .collect();
    assert_eq!(rows, (0..=10).collect::<Vec<u8>>());
}

#[test]
fn telemetry_is_documented_as_it_is_listed() {
    let labels = list::METRICS
        .iter()
        .flat_map(|metric| metric.labels)
        .map(|label| label.name);
    let names = list::METRICS.iter().map(|metric| metric.name).chain(labels);
    let fields = list::FIELDS.iter().map(|field| field.name);
    let more = [list::REASONS, list::ATTRIBUTES].concat();
    let all = names.chain(fields).chain(more.iter().map(|(name, _)| *name));
    let words = [list::OUTCOMES, list::PHASES].concat();
    assert_eq!(unsaid(TELEMETRY, all.chain(words)), Vec::<&str>::new());
    // And what each says, as the list says it.
    let rows = list::METRICS
        .iter()
        .map(|metric| (metric.name, metric.help))
        .chain(list::FIELDS.iter().map(|field| (field.name, field.help)))
        .chain(more.iter().copied());
    let other: Vec<&str> = rows
        .filter(|(name, help)| {
            let row = |line: &str| line.starts_with(&format!("| `{name}` |")) && line.ends_with(&format!("| {help} |"));
            !TELEMETRY.lines().any(row)
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        other,
        Vec::<&str>::new(),
        "docs/telemetry.md says something else of these"
    );
    let listed = TELEMETRY
        .lines()
        .filter_map(|line| line.strip_prefix("| `wade_")?.split('`').next());
    let gone: Vec<&str> = listed
        .filter(|name| {
            !list::METRICS
                .iter()
                .any(|metric| metric.name.strip_prefix("wade_") == Some(name))
        })
        .collect();
    assert_eq!(gone, Vec::<&str>::new(), "these are documented and not listed");
}
