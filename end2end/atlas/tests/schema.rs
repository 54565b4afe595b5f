//! As much of JSON Schema as the document uses; a keyword it does not know is an error, so that nothing goes unchecked.

use serde_json::Value;

/// Checks `value` against `schema`; references are looked up in `document`.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for (keyword, argument) in schema.as_object().ok_or("a schema is an object")? {
        let good = match keyword.as_str() {
            "$ref" => {
                let pointer = argument
                    .as_str()
                    .and_then(|r| r.strip_prefix('#'))
                    .ok_or("not a local reference")?;
                let target = document
                    .pointer(pointer)
                    .ok_or_else(|| format!("{argument} leads nowhere"))?;
                check(document, target, value).map_err(|e| format!("{pointer}: {e}"))?;
                true
            }
            "oneOf" => {
                let all = argument.as_array().ok_or("oneOf is a list")?;
                all.iter().filter(|s| check(document, s, value).is_ok()).count() == 1
            }
            "type" => match argument {
                Value::Array(any) => any.iter().any(|t| has_type(t, value)),
                one => has_type(one, value),
            },
            "enum" => argument.as_array().is_some_and(|all| all.contains(value)),
            "required" => argument
                .as_array()
                .is_some_and(|all| all.iter().all(|k| value.get(k.as_str().unwrap()).is_some())),
            "properties" => {
                for (key, schema) in argument.as_object().ok_or("properties is an object")? {
                    if let Some(value) = value.get(key) {
                        check(document, schema, value).map_err(|e| format!("{key}: {e}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema["properties"].as_object().ok_or("no properties")?;
                value
                    .as_object()
                    .is_some_and(|o| o.keys().all(|k| known.contains_key(k)))
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, argument, item).map_err(|e| format!("{i}: {e}"))?;
                }
                true
            }
            "minItems" => value
                .as_array()
                .is_none_or(|a| a.len() as u64 >= argument.as_u64().unwrap()),
            "maxItems" => value
                .as_array()
                .is_none_or(|a| a.len() as u64 <= argument.as_u64().unwrap()),
            "minLength" => value
                .as_str()
                .is_none_or(|s| s.chars().count() as u64 >= argument.as_u64().unwrap()),
            "maxLength" => value
                .as_str()
                .is_none_or(|s| s.chars().count() as u64 <= argument.as_u64().unwrap()),
            "minimum" => value.as_f64().is_none_or(|n| n >= argument.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|n| n <= argument.as_f64().unwrap()),
            "pattern" => value.as_str().is_none_or(|s| matches(argument.as_str().unwrap(), s)),
            "format" => value.as_str().is_none_or(|s| has_format(argument.as_str().unwrap(), s)),
            "description" | "default" => true,
            _ => return Err(format!("the keyword {keyword} is not checked here")),
        };
        if !good {
            return Err(format!("{value} is not {keyword} {argument}"));
        }
    }
    Ok(())
}

fn has_type(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "uri" => text.starts_with("https://"),
        _ => false,
    }
}

/// The only form used: `^[A-Z]{3}$`, one class so many times.
fn matches(pattern: &str, text: &str) -> bool {
    let (class, count) = pattern
        .strip_prefix("^[")
        .and_then(|p| p.strip_suffix("}$"))
        .and_then(|p| p.split_once("]{"))
        .expect("a pattern of the one known form");
    let [low, b'-', high] = *class.as_bytes() else {
        panic!("a class is a range")
    };
    text.len().to_string() == count && text.bytes().all(|b| (low..=high).contains(&b))
}
