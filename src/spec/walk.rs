//! Lays a node tree against a schema: every structural fault at once, and the value as JSON.
//!
//! The schema decides what a scalar is. A field that is text takes the scalar's source text whatever it looks like, so
//! `version: 1.10` keeps its zero and `country: no` stays Norway; a field that is `true` or `false` takes those two
//! words and no others. Choices are told apart the way a person does it, by the key that only one of them has
//! (`weight`, `pause`, `gate`), so a slip inside a step is reported as that and not as "matches no variant".

use serde_json::{Map, Value};

use super::fault::{Fault, MAX_FAULTS, Path, clip, did_you_mean, nearest};
use super::nodes::{Key, Kind, Node};
use super::schema::Shape;
use super::values::check_format;

/// The value of `node` as `schema` types it; or all faults.
pub(super) fn walk(schema: &Value, node: &Node) -> Result<Value, Vec<Fault>> {
    let mut walker = Walker { faults: Vec::new() };
    let value = walker.value(schema, node, &Path::root());
    if walker.faults.is_empty() {
        Ok(value)
    } else {
        Err(walker.faults)
    }
}

struct Walker {
    faults: Vec<Fault>,
}

impl Walker {
    /// The value, or null after adding a fault.
    fn value(&mut self, schema: &Value, node: &Node, path: &Path) -> Value {
        let shape = Shape::of(schema);
        if node.is_null() && !matches!(shape, Shape::Any) {
            return self.fault(node, path, "a value is missing", empty_help(&shape, node));
        }
        match (&shape, &node.kind) {
            (Shape::Any, _) => any(node),
            (Shape::OneOf(variants), _) => self.one_of(variants, node, path),
            (Shape::Text { format }, Kind::Scalar { text, .. }) => {
                match format.and_then(|format| check_format(format, text)) {
                    Some(Err(problem)) => {
                        // The newtypes say "`x` is not a weight; write …": the sentence splits where the help begins.
                        let (problem, help) = problem.rsplit_once("; ").unwrap_or((&problem, ""));
                        self.fault(node, path, problem, help)
                    }
                    Some(Ok(())) | None => Value::String(text.clone()),
                }
            }
            (Shape::Words(words), Kind::Scalar { text, .. }) => {
                if words.contains(&text.as_str()) {
                    return Value::String(text.clone());
                }
                let problem = format!("{} is not known here", node.describe());
                self.fault(node, path, problem, did_you_mean(text, words))
            }
            (Shape::Bool, Kind::Scalar { text, plain: true }) if text == "true" || text == "false" => {
                Value::Bool(text == "true")
            }
            (Shape::Bool, Kind::Scalar { text, .. }) => {
                let help = match text.to_lowercase().as_str() {
                    "true" | "yes" | "on" | "y" => "write `true`, without quotes",
                    "false" | "no" | "off" | "n" => "write `false`, without quotes",
                    _ => "write `true` or `false`",
                };
                self.fault(node, path, "neither `true` nor `false`", help)
            }
            (Shape::Number { integer, min, max }, Kind::Scalar { text, plain }) => {
                let number = plain.then(|| number(text, *integer)).flatten();
                let bounds = || number_words(*integer, *min, *max);
                match number {
                    Some((value, size)) if (*min..=*max).contains(&size) => value,
                    Some(_) => self.fault(node, path, "the number is out of range", format!("write {}", bounds())),
                    None if !plain => self.fault(
                        node,
                        path,
                        "a number is needed, not text",
                        format!("write {}, without quotes", bounds()),
                    ),
                    None => self.fault(node, path, "a number is needed", format!("write {}", bounds())),
                }
            }
            (Shape::List { items, min, max }, Kind::List(nodes)) => {
                if nodes.len() < *min || nodes.len() > *max {
                    let problem = if nodes.len() < *min {
                        "the list is too short"
                    } else {
                        "the list is too long"
                    };
                    let help = if *max == usize::MAX {
                        format!("write at least {min}")
                    } else {
                        format!("write {min} to {max} items")
                    };
                    self.fault(node, path, problem, help);
                }
                let values = nodes
                    .iter()
                    .enumerate()
                    .map(|(index, node)| self.value(items, node, &path.index(index)));
                Value::Array(values.collect())
            }
            (Shape::Fields { known, required }, Kind::Map(entries)) => {
                self.fields(known, required, &[], entries, node, path)
            }
            (Shape::Entries { values }, Kind::Map(entries)) => {
                let fields = entries
                    .iter()
                    .map(|(key, node)| (key.text.clone(), self.value(values, node, &path.key(&key.text))));
                Value::Object(fields.collect())
            }
            (
                Shape::Text { .. }
                | Shape::Words(_)
                | Shape::Bool
                | Shape::Number { .. }
                | Shape::List { .. }
                | Shape::Fields { .. }
                | Shape::Entries { .. },
                _,
            ) => self.fault(
                node,
                path,
                format!("{} is needed here", noun(&shape)),
                shape_help(&shape),
            ),
        }
    }

    fn fields(
        &mut self,
        known: &Map<String, Value>,
        required: &[&str],
        // What could be written instead of a mapping with these fields: the keys of the other variants of a choice.
        others: &[&str],
        entries: &[(Key, Node)],
        node: &Node,
        path: &Path,
    ) -> Value {
        let mut fields = Map::new();
        // A misspelt field is one slip: it is not reported a second time as missing.
        let mut meant = Vec::new();
        for (key, value) in entries {
            let below = path.key(&key.text);
            if let Some(schema) = known.get(&key.text) {
                let value = self.value(schema, value, &below);
                fields.insert(key.text.clone(), value);
            } else {
                let own: Vec<_> = known.keys().map(String::as_str).collect();
                meant.extend(nearest(&key.text, own.iter().copied()));
                // A variant with one field (`canary: …`) is better explained by its siblings.
                let open = if own.len() == 1 && !others.is_empty() {
                    others
                } else {
                    &own
                };
                let fault = Fault::new(below, "unknown field")
                    .at(key.place)
                    .found(format!("`{}`", clip(&key.text)))
                    .help(did_you_mean(&key.text, open));
                self.add(fault);
            }
        }
        for name in required
            .iter()
            .filter(|name| !fields.contains_key(**name) && !meant.contains(*name))
        {
            let about = known[*name]["description"].as_str().unwrap_or_default();
            let fault = Fault::new(path.key(name), "the field is missing")
                .at(node.place)
                .found(node.describe())
                .help(format!("add `{name}`: {}", first_sentence(about)));
            self.add(fault);
        }
        Value::Object(fields)
    }

    /// A choice between `variants`.
    fn one_of(&mut self, variants: &[&Value], node: &Node, path: &Path) -> Value {
        let choices: Vec<Choice<'_>> = variants.iter().map(|schema| Choice::of(schema)).collect();
        let keys: Vec<&str> = choices.iter().filter_map(|choice| choice.key).collect();
        let Kind::Map(entries) = &node.kind else {
            // A scalar or a list: the variants that are no mapping, if there are any.
            let plain: Vec<_> = choices.iter().filter(|choice| choice.known.is_none()).collect();
            return match plain.as_slice() {
                [only] if matches!(node.kind, Kind::Scalar { .. }) => self.value(only.schema, node, path),
                _ => self.fault(
                    node,
                    path,
                    "a mapping is needed here",
                    short_form_help(&choices, &keys, node),
                ),
            };
        };
        let named: Vec<_> = choices
            .iter()
            .filter(|choice| {
                choice
                    .key
                    .is_some_and(|name| entries.iter().any(|(key, _)| key.text == name))
            })
            .collect();
        match named.as_slice() {
            [only] => self.value(only.schema, node, path),
            [] => match likely(&choices, entries) {
                Some(choice) => {
                    let known = choice.known.expect("only mappings are likely");
                    self.fields(known, &choice.required, &keys, entries, node, path)
                }
                None => {
                    let written = entries.first().map_or("", |(key, _)| key.text.as_str());
                    let mut help = format!("write exactly one of {}", keys.join(", "));
                    if let Some(name) = nearest(written, keys.iter().copied()) {
                        help = format!("did you mean `{name}`? {help}");
                    }
                    self.fault(node, path, "it does not say which kind it is", help)
                }
            },
            [_, second, ..] => {
                let found: Vec<_> = named
                    .iter()
                    .filter_map(|choice| choice.key)
                    .map(|key| format!("`{key}`"))
                    .collect();
                let place = entries
                    .iter()
                    .find(|(key, _)| Some(key.text.as_str()) == second.key)
                    .map_or(node.place, |(key, _)| key.place);
                let fault = Fault::new(
                    path.clone(),
                    format!("exactly one of {} may be written", keys.join(", ")),
                )
                .at(place)
                .found(found.join(" and "))
                .help("keep one and remove the rest");
                self.add(fault)
            }
        }
    }

    fn fault(&mut self, node: &Node, path: &Path, problem: impl Into<String>, help: impl Into<String>) -> Value {
        let fault = Fault::new(path.clone(), problem)
            .at(node.place)
            .found(node.describe())
            .help(help);
        self.add(fault)
    }

    fn add(&mut self, fault: Fault) -> Value {
        // A file of 20,000 wrong values needs no 20,000 sentences.
        if self.faults.len() <= MAX_FAULTS {
            self.faults.push(fault);
        }
        Value::Null
    }
}

/// One variant of a choice, and the key it is told apart by.
struct Choice<'s> {
    schema: &'s Value,
    /// Its fields; `None` if it is no mapping.
    known: Option<&'s Map<String, Value>>,
    /// Its first required field.
    key: Option<&'s str>,
    /// All fields without which it is not complete.
    required: Vec<&'s str>,
}

impl<'s> Choice<'s> {
    fn of(schema: &'s Value) -> Self {
        match Shape::of(schema) {
            Shape::Fields { known, required } => Self {
                schema,
                known: Some(known),
                key: required.first().copied(),
                required,
            },
            _ => Self {
                schema,
                known: None,
                key: None,
                required: Vec::new(),
            },
        }
    }
}

/// The variant that was most likely meant when no distinguishing key is written: the one with a key near to what is
/// written, else the only one that knows the most of the fields.
fn likely<'c, 's>(choices: &'c [Choice<'s>], entries: &[(Key, Node)]) -> Option<&'c Choice<'s>> {
    let mappings: Vec<_> = choices.iter().filter(|choice| choice.known.is_some()).collect();
    if let [only] = mappings.as_slice() {
        return Some(only);
    }
    for (key, _) in entries {
        let name = nearest(&key.text, mappings.iter().filter_map(|choice| choice.key));
        if name.is_some() {
            return mappings.into_iter().find(|choice| choice.key == name);
        }
    }
    let score = |choice: &Choice<'_>| {
        let known = choice.known.expect("only mappings are scored");
        entries.iter().filter(|(key, _)| known.contains_key(&key.text)).count()
    };
    let best = mappings
        .iter()
        .map(|choice| score(choice))
        .max()
        .filter(|best| *best > 0)?;
    let mut best = mappings.into_iter().filter(|choice| score(choice) == best);
    best.next().filter(|_| best.next().is_none())
}

/// Help for `- 5%` where `- weight: 5%` is needed.
fn short_form_help(choices: &[Choice<'_>], keys: &[&str], node: &Node) -> String {
    let all = format!("write a mapping with exactly one of {}", keys.join(", "));
    let Kind::Scalar { text, .. } = &node.kind else {
        return all;
    };
    if keys.contains(&text.as_str()) {
        return format!("write `{text}: {{}}`, with its fields between the brackets");
    }
    let takes = choices.iter().find(|choice| {
        choice.required.len() == 1
            && choice
                .known
                .zip(choice.key)
                .is_some_and(|(known, key)| match Shape::of(&known[key]) {
                    Shape::Text { format: Some(format) } => check_format(format, text) == Some(Ok(())),
                    Shape::Text { format: None } => true,
                    _ => false,
                })
    });
    match takes.and_then(|choice| choice.key) {
        Some(key) => format!("write `{{{key}: {}}}`", clip(text)),
        None => all,
    }
}

/// What a scalar is where any JSON is welcome: YAML 1.2's core words for null, true, false and decimal numbers.
fn any(node: &Node) -> Value {
    match &node.kind {
        Kind::List(items) => Value::Array(items.iter().map(any).collect()),
        Kind::Map(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, node)| (key.text.clone(), any(node)))
                .collect(),
        ),
        Kind::Scalar { text, plain: false } => Value::String(text.clone()),
        Kind::Scalar { text, plain: true } => match text.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            text if super::nodes::is_null(text) => Value::Null,
            text => number(text, true)
                .or_else(|| number(text, false))
                .map_or_else(|| Value::String(text.to_owned()), |(value, _)| value),
        },
    }
}

/// A decimal number, as JSON and as a size to compare with bounds.
fn number(text: &str, integer: bool) -> Option<(Value, f64)> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if integer {
        let value: i64 = text.parse().ok()?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "bounds stop at 2^53, where f64 is still exact"
        )]
        return Some((value.into(), value as f64));
    }
    let value: f64 = text.parse().ok()?;
    Some((serde_json::Number::from_f64(value)?.into(), value))
}

fn number_words(integer: bool, min: f64, max: f64) -> String {
    let kind = if integer { "a whole number" } else { "a number" };
    let shown = |bound: f64| super::values::trim_number(bound);
    match (min.abs() < 1e15, max.abs() < 1e15) {
        (true, true) => format!("{kind} from {} to {}", shown(min), shown(max)),
        (true, false) => format!("{kind} of at least {}", shown(min)),
        (false, true) => format!("{kind} of at most {}", shown(max)),
        (false, false) => kind.to_owned(),
    }
}

fn noun(shape: &Shape<'_>) -> &'static str {
    match shape {
        Shape::Any => "a value",
        Shape::Text { .. } => "text",
        Shape::Words(_) => "one word",
        Shape::Bool => "`true` or `false`",
        Shape::Number { .. } => "a number",
        Shape::List { .. } => "a list",
        Shape::Fields { .. } | Shape::Entries { .. } | Shape::OneOf(_) => "a mapping",
    }
}

fn shape_help(shape: &Shape<'_>) -> String {
    match shape {
        Shape::Any | Shape::Text { .. } => "write one value on the same line, in quotes if it is long".to_owned(),
        Shape::Words(words) => format!("write one of {}", words.join(", ")),
        Shape::Bool => "write `true` or `false`".to_owned(),
        Shape::Number { integer, min, max } => format!("write {}", number_words(*integer, *min, *max)),
        Shape::List { .. } => "write a list: one item per line, each after `- `".to_owned(),
        Shape::Fields { known, .. } => {
            let names: Vec<_> = known.keys().map(String::as_str).collect();
            format!("write fields below it, indented; known here: {}", names.join(", "))
        }
        Shape::Entries { .. } => "write names and values below it, indented: `name: value`".to_owned(),
        Shape::OneOf(variants) => {
            let keys: Vec<_> = variants.iter().filter_map(|schema| Choice::of(schema).key).collect();
            format!("write a mapping with exactly one of {}", keys.join(", "))
        }
    }
}

/// Help where nothing is written at all.
fn empty_help(shape: &Shape<'_>, node: &Node) -> String {
    if matches!(&node.kind, Kind::Scalar { text, .. } if !text.is_empty()) && matches!(shape, Shape::Text { .. }) {
        return "put the word in quotes if it is meant as text, or remove the line".to_owned();
    }
    match shape {
        Shape::Fields { required, .. } if required.is_empty() => {
            "write `{}` for the defaults, fields below it, or remove the line".to_owned()
        }
        shape => format!("{}, or remove the line", shape_help(shape)),
    }
}

fn first_sentence(text: &str) -> &str {
    text.split_once(". ")
        .map_or(text.trim_end_matches('.'), |(first, _)| first)
}
