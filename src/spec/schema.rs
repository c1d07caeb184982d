//! The JSON Schema of what users write, derived from the types, and what the strict reader needs of it.
//!
//! One schema serves two readers: editors, which complete and explain fields from it, and `walk`, which checks files
//! against it. So what an editor accepts and what Wade accepts cannot drift apart. Two things are put right after
//! deriving: `null` is no value anywhere (an empty `traffic:` is a slip, not a choice), and `apiVersion` and `kind`
//! are fixed words.
//!
//! It is not a general JSON Schema library: [`Shape::of`] knows exactly the forms that schemars makes of our types.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::config::Config;
use super::rollout::{API_VERSION, Rollout, StrategyFile};

/// The JSON Schema (draft 2020-12) of a Rollout, Strategy or Config file; which of them is told by `kind`.
pub fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(derive);
    &SCHEMA
}

fn derive() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<Rollout>();
    generator.subschema_for::<StrategyFile>();
    generator.subschema_for::<Config>();
    let mut definitions = Value::Object(generator.take_definitions(true));
    remove_null(&mut definitions);
    for (definition, kind) in [
        ("Rollout", "Rollout"),
        ("StrategyFile", "Strategy"),
        ("Config", "Config"),
    ] {
        let fields = &mut definitions[definition]["properties"];
        fields["apiVersion"]["const"] = API_VERSION.into();
        fields["kind"]["const"] = kind.into();
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Wade",
        "description": "A Rollout (the policy of one service), a Strategy (how traffic is shifted) or a Config (what the daemon is told), as Wade reads it.",
        "type": "object",
        "if": { "properties": { "kind": { "const": "Strategy" } }, "required": ["kind"] },
        "then": { "$ref": "#/$defs/StrategyFile" },
        "else": {
            "if": { "properties": { "kind": { "const": "Config" } }, "required": ["kind"] },
            "then": { "$ref": "#/$defs/Config" },
            "else": { "$ref": "#/$defs/Rollout" },
        },
        "$defs": definitions,
    })
}

/// Takes `null` out of every place where schemars allows it for an `Option`.
pub(crate) fn remove_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(remove_null),
        Value::Object(fields) => {
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(variants)) = fields.get_mut("anyOf") {
                variants.retain(|variant| variant["type"] != "null");
                if let [Value::Object(only)] = variants.as_slice() {
                    let only = only.clone();
                    fields.remove("anyOf");
                    for (name, value) in only {
                        // The field's own description says more than the type's.
                        fields.entry(name).or_insert(value);
                    }
                }
            }
            fields.values_mut().for_each(remove_null);
        }
        _ => {}
    }
}

/// What a schema asks for.
#[derive(Debug)]
pub(super) enum Shape<'s> {
    /// Whatever JSON can say.
    Any,
    /// Text, in one of our formats if one is named.
    Text { format: Option<&'s str> },
    /// One of these words.
    Words(Vec<&'s str>),
    /// `true` or `false`.
    Bool,
    /// A number within bounds.
    Number { integer: bool, min: f64, max: f64 },
    /// A list with so many items.
    List { items: &'s Value, min: usize, max: usize },
    /// A mapping with these fields.
    Fields {
        known: &'s Map<String, Value>,
        required: Vec<&'s str>,
    },
    /// A mapping with keys of the user's own.
    Entries { values: &'s Value },
    /// One of these.
    OneOf(Vec<&'s Value>),
}

impl<'s> Shape<'s> {
    /// The shape that `schema` asks for, references followed and nested choices made flat.
    pub(super) fn of(schema: &'s Value) -> Self {
        let schema = resolve(schema);
        if let Some(variants) = variants(schema) {
            let mut flat = Vec::new();
            flatten(variants, &mut flat);
            let words: Option<Vec<_>> = flat.iter().map(|variant| words(variant)).collect();
            return words.map_or(Self::OneOf(flat), |words| Self::Words(words.concat()));
        }
        if let Some(words) = words(schema) {
            return Self::Words(words);
        }
        let size = |name: &str, default: usize| {
            schema[name]
                .as_u64()
                .map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
        };
        match schema["type"].as_str() {
            Some("string") => Self::Text {
                format: schema["format"].as_str(),
            },
            Some("boolean") => Self::Bool,
            Some(kind @ ("integer" | "number")) => {
                let (least, most) = number_format(schema["format"].as_str());
                Self::Number {
                    integer: kind == "integer",
                    min: schema["minimum"].as_f64().unwrap_or(least),
                    max: schema["maximum"].as_f64().unwrap_or(most),
                }
            }
            Some("array") => Self::List {
                items: &schema["items"],
                min: size("minItems", 0),
                max: size("maxItems", usize::MAX),
            },
            Some("object") => match (schema["properties"].as_object(), &schema["additionalProperties"]) {
                (Some(known), _) => Self::Fields {
                    known,
                    required: required(schema),
                },
                (None, values) => Self::Entries { values },
            },
            _ => Self::Any,
        }
    }
}

/// The definition called `name`.
pub(super) fn definition(name: &str) -> &'static Value {
    &schema()["$defs"][name]
}

fn resolve(schema: &Value) -> &Value {
    match schema["$ref"].as_str() {
        Some(reference) => resolve(definition(reference.trim_start_matches("#/$defs/"))),
        None => schema,
    }
}

fn variants(schema: &Value) -> Option<&Vec<Value>> {
    schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array())
}

fn flatten<'s>(from: &'s [Value], into: &mut Vec<&'s Value>) {
    for variant in from.iter().map(resolve) {
        match variants(variant) {
            Some(nested) => flatten(nested, into),
            None => into.push(variant),
        }
    }
}

fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(word) = schema["const"].as_str() {
        return Some(vec![word]);
    }
    schema["enum"].as_array()?.iter().map(Value::as_str).collect()
}

/// The fields that a schema asks for.
pub(crate) fn required(schema: &Value) -> Vec<&str> {
    schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// What the Rust type behind a schema can hold. Whole numbers stop at 2^53: beyond it JSON readers disagree.
fn number_format(format: Option<&str>) -> (f64, f64) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match format {
        Some("uint8") => (0.0, f64::from(u8::MAX)),
        Some("uint16") => (0.0, f64::from(u16::MAX)),
        Some("uint32") => (0.0, f64::from(u32::MAX)),
        Some("uint64") => (0.0, EXACT),
        Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        Some("int64") => (-EXACT, EXACT),
        _ => (f64::MIN, f64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(schema: &Value, found: &mut impl FnMut(&Map<String, Value>)) {
        match schema {
            Value::Array(items) => items.iter().for_each(|item| visit(item, found)),
            Value::Object(fields) => {
                found(fields);
                fields.values().for_each(|field| visit(field, found));
            }
            _ => {}
        }
    }

    #[test]
    fn every_reference_in_the_schema_leads_somewhere() {
        let mut references = 0;
        visit(schema(), &mut |fields| {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                references += 1;
                let target = schema().pointer(reference.trim_start_matches('#'));
                assert!(target.is_some_and(Value::is_object), "{reference}");
            }
        });
        assert!(references > 50, "only {references} references: is the schema empty?");
    }

    #[test]
    fn no_field_accepts_null() {
        visit(schema(), &mut |fields| {
            let kind = fields.get("type");
            assert!(kind.is_none_or(|kind| kind != "null" && !kind.is_array()), "{fields:?}");
        });
    }

    #[test]
    fn every_field_is_explained_to_the_editor() {
        let definitions = schema()["$defs"].as_object().unwrap();
        for (name, definition) in definitions {
            assert!(definition["description"].is_string(), "{name}");
            // The one field of a variant is explained by the variant itself; there are no others without words.
            for (field, schema) in definition["properties"].as_object().into_iter().flatten() {
                assert!(schema["description"].is_string(), "{name}.{field}");
            }
        }
    }
}
