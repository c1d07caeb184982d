//! How the server in memory changes objects: merge patches and JSON patches.

use serde_json::{Map, Value};

/// RFC 7386.
pub(super) fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let fields = into.as_object_mut().expect("made one by the line above");
    for (key, value) in patch {
        if value.is_null() {
            fields.shift_remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902, as far as Wade uses it.
pub(super) fn patch_json(object: &mut Value, patch: &Value) -> Result<(), String> {
    for operation in patch.as_array().ok_or("a JSON patch is a list")? {
        let word = |field: &str| operation[field].as_str().ok_or(format!("no {field}"));
        let (op, path, value) = (word("op")?, word("path")?, &operation["value"]);
        let (parent, key) = path.rsplit_once('/').ok_or("no path")?;
        let key = key.replace("~1", "/").replace("~0", "~");
        if op == "test" {
            let found = object.pointer(path).unwrap_or(&Value::Null);
            if found != value {
                return Err(format!("testing value {path} failed"));
            }
            continue;
        }
        let parent = object.pointer_mut(parent).ok_or(format!("nothing at {path}"))?;
        let there = match &*parent {
            Value::Object(fields) => fields.contains_key(&key),
            Value::Array(items) => key.parse().is_ok_and(|at: usize| at < items.len()),
            _ => false,
        };
        if matches!(op, "replace" | "remove") && !there {
            return Err(format!("nothing at {path}"));
        }
        match (parent, op) {
            (Value::Object(fields), "add" | "replace") => {
                fields.insert(key, value.clone());
            }
            (Value::Object(fields), "remove") => {
                fields.shift_remove(&key);
            }
            (Value::Array(items), "add") if key == "-" => items.push(value.clone()),
            (Value::Array(items), _) => {
                let at: usize = key.parse().map_err(|_| format!("no index {key}"))?;
                match op {
                    "add" if at <= items.len() => items.insert(at, value.clone()),
                    "replace" => items[at] = value.clone(),
                    "remove" => {
                        items.remove(at);
                    }
                    _ => return Err(format!("cannot {op} at {path}")),
                }
            }
            _ => return Err(format!("cannot {op} at {path}")),
        }
    }
    Ok(())
}
