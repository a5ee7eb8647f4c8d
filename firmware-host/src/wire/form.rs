//! What an answer is to fit: `response_format`, of which every part is followed or refused by name.

use super::WireError;
use super::fields::{Fields, field, unsupported};
use sapwood::constrain::Schema;
use serde_json::{Map, Value};

pub(super) const FIELD: &str = "response_format";

/// What every text of a request fits; none for any text.
pub(super) fn form(fields: &Fields) -> Result<Option<Schema>, WireError> {
    let expected = "an object whose type is text, json_object or json_schema";
    let Some(value) = fields.get(FIELD) else { return Ok(None) };
    let parts = value.as_object().ok_or_else(|| field(FIELD, expected, value))?;
    match parts.get("type").and_then(Value::as_str) {
        Some("text") => only(FIELD, parts, &["type"]).map(|()| None),
        Some("json_object") => {
            // llama.cpp's way to give a schema.
            only(FIELD, parts, &["type", "schema"])?;
            let schema = parts.get("schema").map(|schema| read("response_format.schema", schema));
            schema.unwrap_or_else(|| Ok(Schema::object())).map(Some)
        }
        Some("json_schema") => {
            only(FIELD, parts, &["type", "json_schema"])?;
            let named = parts.get("json_schema").unwrap_or(&Value::Null);
            let expected = "an object with name and schema";
            let at = "response_format.json_schema";
            let parts = named.as_object().ok_or_else(|| field(at, expected, named))?;
            // Strict or not, an answer fits.
            only(at, parts, &["name", "description", "strict", "schema"])?;
            let schema = parts.get("schema").ok_or_else(|| field(at, expected, named))?;
            read("response_format.json_schema.schema", schema).map(Some)
        }
        _ => Err(field("response_format.type", "text, json_object or json_schema", value)),
    }
}

fn read(param: &str, schema: &Value) -> Result<Schema, WireError> {
    let param = param.to_owned();
    Schema::read(schema).map_err(|source| WireError::Schema { param, source })
}

/// Refuses the first part that is not known and says anything.
pub(super) fn only(at: &str, parts: &Map<String, Value>, known: &[&str]) -> Result<(), WireError> {
    let other =
        |(name, value): &(&String, &Value)| !known.contains(&name.as_str()) && !value.is_null();
    match parts.iter().find(other) {
        Some((name, value)) => Err(unsupported(&format!("{at}.{name}"), value)),
        None => Ok(()),
    }
}
