//! From the JSON Schema of a Rust type to a structural schema, as a CustomResourceDefinition takes it.
//!
//! An API server wants every field's type said in one place: no references, no `null` beside a type, and nothing but
//! conditions inside of `oneOf`. Our unions are told apart by a key (`weight`, `pause` or `gate`), so the fields of all
//! their variants are laid into one object, and a rule in CEL says "exactly one of these" in words that a person can
//! read. A union that cannot be laid together (a switch or a list of settings) is left open, and the daemon checks it.
//!
//! Defaults are left out: what is not said stays not said, as in a file, and a GitOps tool sees no difference.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::spec::{remove_null, required};

/// Lists without a bound of their own: CEL's costs are estimated from it, and nobody writes a hundred smoke tests.
const MOST_ITEMS: u64 = 100;
/// The longest text of ours that has a form (a weight, a duration, …).
const MOST_OF_A_FORM: u64 = 64;
/// The longest weight, `99.9%`.
const MOST_OF_A_WEIGHT: u64 = 6;

/// Fields that mean something on one machine only, or would act with the daemon's rights instead of the author's:
/// programs that it runs, files and variables of its own that it reads.
pub const NOT_IN_A_CLUSTER: [&str; 6] = ["process", "variables", "traffic", "command", "tokenFile", "urlFrom"];

/// A moment, as RFC 3339 has it.
pub(super) fn moment(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// The structural schema of `T`.
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    remove_null(&mut schema);
    convert(&schema)
}

fn convert(schema: &Value) -> Value {
    let mut out = Map::new();
    if let Some(words) = schema["description"].as_str() {
        out.insert("description".to_owned(), json!(words));
    }
    let said = if let Some(words) = words(schema) {
        json!({ "type": "string", "enum": words })
    } else if let Some(variants) = variants(schema) {
        union(&variants)
    } else {
        plain(schema)
    };
    if let Value::Object(fields) = said {
        out.extend(fields);
    }
    Value::Object(out)
}

/// What is left to the daemon.
fn open() -> Value {
    json!({ "x-kubernetes-preserve-unknown-fields": true })
}

fn plain(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("string") => string(schema),
        Some("boolean") => json!({ "type": "boolean" }),
        Some(kind @ ("integer" | "number")) => number(schema, kind),
        Some("array") => json!({
            "type": "array",
            "items": convert(&schema["items"]),
            "minItems": schema["minItems"].as_u64().unwrap_or(0),
            "maxItems": schema["maxItems"].as_u64().unwrap_or(MOST_ITEMS),
        }),
        Some("object") => object(schema),
        _ => open(),
    }
}

fn string(schema: &Value) -> Value {
    let mut out = json!({ "type": "string" });
    let format = schema["format"].as_str();
    let form = match format {
        Some("weight") => "^(100(\\.0)?|[0-9]{1,2}(\\.[0-9])?)%$",
        Some("percent") => "^[0-9]+(\\.[0-9]+)? ?(%|pp)$",
        Some("duration-words") => "^([0-9]+ ?[a-z]+ ?)+$",
        Some("burst-window") => "^(auto|([0-9]+ ?[a-z]+ ?)+)$",
        Some("allowance") => "^[0-9]+(\\.[0-9]+)? ?(x|pp)( ?\\+ ?[0-9]+(\\.[0-9]+)? ?(x|pp))?$",
        Some("bytes") => "^[0-9]+ ?(KiB|MiB|GiB)?$",
        _ => "",
    };
    if !form.is_empty() {
        out["pattern"] = json!(form);
        out["maxLength"] = json!(match format {
            Some("weight") => MOST_OF_A_WEIGHT,
            _ => MOST_OF_A_FORM,
        });
    } else if let Some(format) = format {
        out["format"] = json!(format);
    }
    for bound in ["minLength", "maxLength", "pattern"] {
        if let Some(said) = schema.get(bound) {
            out[bound] = said.clone();
        }
    }
    out
}

fn number(schema: &Value, kind: &str) -> Value {
    let mut out = json!({ "type": kind });
    match (kind, schema["format"].as_str()) {
        ("integer", Some("int32" | "uint8" | "uint16")) => out["format"] = json!("int32"),
        ("integer", _) => out["format"] = json!("int64"),
        _ => out["format"] = json!("double"),
    }
    for bound in ["minimum", "maximum"] {
        if let Some(said) = schema.get(bound) {
            out[bound] = said.clone();
        }
    }
    out
}

fn object(schema: &Value) -> Value {
    let mut out = json!({ "type": "object" });
    match (schema["properties"].as_object(), &schema["additionalProperties"]) {
        (Some(fields), _) => {
            out["properties"] = fields
                .iter()
                .filter(|(name, _)| is_kept(name))
                .map(|(name, field)| (name.clone(), convert(field)))
                .collect();
            let required: Vec<&str> = required(schema).into_iter().filter(|name| is_kept(name)).collect();
            if !required.is_empty() {
                out["required"] = json!(required);
            }
        }
        (None, values @ Value::Object(_)) => out["additionalProperties"] = convert(values),
        (None, _) => out["x-kubernetes-preserve-unknown-fields"] = json!(true),
    }
    out
}

fn is_kept(name: &str) -> bool {
    !NOT_IN_A_CLUSTER.contains(&name)
}

/// One object with the fields of all variants, told apart by the first field of each.
fn union(variants: &[Cow<'_, Value>]) -> Value {
    let mut fields: Map<String, Value> = Map::new();
    let mut keys: Vec<&str> = Vec::new();
    for variant in variants {
        let Some(own) = variant["properties"].as_object() else {
            return open();
        };
        let Some(key) = required(variant).first().copied() else {
            return open();
        };
        if !is_kept(key) {
            continue;
        }
        keys.push(key);
        for (name, field) in own.iter().filter(|(name, _)| is_kept(name)) {
            let field = convert(field);
            match fields.get(name) {
                Some(other) if without_words(other) != without_words(&field) => return open(),
                Some(_) => {}
                None => {
                    fields.insert(name.clone(), field);
                }
            }
        }
    }
    let mut out = json!({ "type": "object", "properties": fields });
    match keys.as_slice() {
        [only] => out["required"] = json!([only]),
        keys => {
            let there: Vec<String> = keys
                .iter()
                .map(|key| format!("has(self.{})", field_in_cel(key)))
                .collect();
            out["x-kubernetes-validations"] = json!([{
                "rule": format!("[{}].filter(x, x).size() == 1", there.join(", ")),
                "message": format!("write exactly one of {}", keys.join(", ")),
            }]);
        }
    }
    out
}

/// A field's name as CEL takes it; its own words are set apart by underscores.
fn field_in_cel(name: &str) -> String {
    if matches!(
        name,
        "in" | "true"
            | "false"
            | "null"
            | "as"
            | "break"
            | "const"
            | "continue"
            | "else"
            | "for"
            | "function"
            | "if"
            | "import"
            | "let"
            | "loop"
            | "package"
            | "namespace"
            | "return"
            | "var"
            | "void"
            | "while"
    ) {
        format!("__{name}__")
    } else {
        name.to_owned()
    }
}

fn without_words(schema: &Value) -> Value {
    let mut bare = schema.clone();
    if let Value::Object(fields) = &mut bare {
        fields.remove("description");
    }
    bare
}

/// The variants of a union, those of unions within it included; `None` if it is none.
fn variants(schema: &Value) -> Option<Vec<Cow<'_, Value>>> {
    let list = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array())?;
    let mut flat = Vec::new();
    for variant in list {
        match variants(variant) {
            Some(nested) if words(variant).is_none() => flat.extend(nested),
            _ => flat.push(Cow::Borrowed(variant)),
        }
    }
    Some(flat)
}

/// The words that a schema takes, if it takes nothing else.
fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(word) = schema["const"].as_str() {
        return Some(vec![word]);
    }
    if let Some(list) = schema["enum"].as_array() {
        return list.iter().map(Value::as_str).collect();
    }
    let list = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array())?;
    let all: Option<Vec<Vec<&str>>> = list.iter().map(words).collect();
    all.map(|all| all.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::RolloutSpec;

    #[test]
    fn a_union_becomes_one_object_with_a_rule_in_words() {
        let schema = of::<RolloutSpec>();
        let step = schema
            .pointer("/properties/strategy/properties/canary/properties/steps/items")
            .expect("steps");
        let fields: Vec<&String> = step["properties"].as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["weight", "min", "max", "pause", "gate"]);
        assert_eq!(
            step.pointer("/x-kubernetes-validations/0"),
            Some(&json!({
                "rule": "[has(self.weight), has(self.pause), has(self.gate)].filter(x, x).size() == 1",
                "message": "write exactly one of weight, pause, gate",
            }))
        );
        let smoke = schema
            .pointer("/properties/smoke/items/properties")
            .expect("smoke tests");
        assert!(smoke.get("http").is_some() && smoke.get("command").is_none());
    }

    #[test]
    fn what_a_cluster_must_not_be_asked_is_nowhere() {
        fn names(schema: &Value, found: &mut Vec<String>) {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                found.push(name.clone());
                names(field, found);
            }
            for inner in ["items", "additionalProperties"] {
                if schema.get(inner).is_some() {
                    names(&schema[inner], found);
                }
            }
        }
        let mut found = Vec::new();
        names(&of::<RolloutSpec>(), &mut found);
        assert!(found.len() > 100, "{found:?}");
        let there: Vec<_> = found
            .iter()
            .filter(|name| NOT_IN_A_CLUSTER.contains(&name.as_str()))
            .collect();
        assert_eq!(there, Vec::<&String>::new());
    }
}
