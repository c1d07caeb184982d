//! Values in words: JSON that loses nothing.
//!
//! JSON, so that `sqlite3 wade.db` and `kubectl get configmap` show a person what is there. Plain serde_json would write the judge's infinities (the
//! logarithm of a lost bet is minus infinity) as `null`, which cannot be read back as a number; they are written as
//! `{"$float": "-inf"}` instead. All other floats are written with their shortest exact form and read back bit for bit
//! (serde_json's `float_roundtrip`), so that a restart does not change a verdict.
//!
//! The same value always gives the same text: repetition of a write is recognised by comparing texts.

#[cfg(test)]
mod tests;

use ciborium::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value as Json};

/// Marks a float that JSON has no word for.
const FLOAT: &str = "$float";

/// The words for `value`.
///
/// # Errors
/// In words, for what JSON cannot say (keys that are not text, raw bytes): none of the record's types has it.
pub(in crate::store) fn encode<T: Serialize>(value: &T) -> Result<String, String> {
    let tree = Value::serialized(value).map_err(|error| error.to_string())?;
    Ok(to_json(tree)?.to_string())
}

/// The value that `encode` put into these words.
///
/// # Errors
/// What does not fit, in words.
pub(in crate::store) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| error.to_string())?;
    from_json(json)?.deserialized().map_err(|error| error.to_string())
}

fn to_json(tree: Value) -> Result<Json, String> {
    Ok(match tree {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(value),
        Value::Text(text) => Json::String(text),
        Value::Integer(value) => {
            let value = i128::from(value);
            Number::from_i128(value).map_or_else(|| Err(format!("{value} is too large a number")), |n| Ok(n.into()))?
        }
        Value::Float(value) => Number::from_f64(value).map_or_else(|| not_finite(value), Json::Number),
        Value::Array(items) => Json::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Value::Map(pairs) => {
            let mut map = Map::with_capacity(pairs.len());
            for (key, value) in pairs {
                let Value::Text(mut key) = key else {
                    return Err(format!("the key {key:?} is not text"));
                };
                if is_mark(&key) {
                    key.insert(0, '$');
                }
                map.insert(key, to_json(value)?);
            }
            Json::Object(map)
        }
        other => return Err(format!("JSON has no word for {other:?}")),
    })
}

fn from_json(json: Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::String(text) => Value::Text(text),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), ..) => Value::Integer(value.into()),
            (None, Some(value), _) => Value::Integer(value.into()),
            (None, None, Some(value)) => Value::Float(value),
            (None, None, None) => return Err(format!("{number} is not a number that can be held")),
        },
        Json::Array(items) => Value::Array(items.into_iter().map(from_json).collect::<Result<_, _>>()?),
        Json::Object(map) => {
            if let Some(word) = map.get(FLOAT) {
                return match word.as_str() {
                    Some("inf") => Ok(Value::Float(f64::INFINITY)),
                    Some("-inf") => Ok(Value::Float(f64::NEG_INFINITY)),
                    Some("nan") => Ok(Value::Float(f64::NAN)),
                    _ => Err(format!("{word} is not inf, -inf or nan")),
                };
            }
            let pairs = map.into_iter().map(|(mut key, value)| {
                if is_mark(&key) {
                    key.remove(0);
                }
                Ok((Value::Text(key), from_json(value)?))
            });
            Value::Map(pairs.collect::<Result<_, String>>()?)
        }
    })
}

fn not_finite(value: f64) -> Json {
    let word = if value.is_nan() {
        "nan"
    } else if value > 0.0 {
        "inf"
    } else {
        "-inf"
    };
    Json::Object(Map::from_iter([(FLOAT.to_owned(), word.into())]))
}

/// A user's own key that looks like the mark; it gets one more `$` so that it is not taken for one.
fn is_mark(key: &str) -> bool {
    key.starts_with('$') && key.trim_start_matches('$') == &FLOAT[1..]
}
