//! Models by their names: which there are, and what is told of them.
//!
//! - Never here: what a model is.

use super::WireError;
use super::fields::field;
use crate::config::MODEL_BYTES_MAX;
use serde_json::{Value, json};

/// A model that can be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: String,
    /// What it is, in one line.
    pub about: String,
    /// The generation whose adapter it has; none for any other.
    pub generation: Option<u64>,
    /// Seconds since 1970 at which it was made, where that is known.
    pub created: Option<i64>,
    /// The model that it is another name for.
    pub stands_for: Option<String>,
}

/// A name in a body.
pub(super) fn named(param: &str, value: &Value) -> Result<String, WireError> {
    match value.as_str() {
        Some(name) if (1..=MODEL_BYTES_MAX).contains(&name.len()) => Ok(name.to_owned()),
        _ => Err(field(param, "the name of a model, as /v1/models lists them", value)),
    }
}

/// One model of `/v1/models`; `created`: where nobody knows when it was made.
pub fn model(listed: &Listed, created: i64) -> Value {
    json!({
        "id": listed.id,
        "object": "model",
        "created": listed.created.unwrap_or(created),
        "owned_by": "device",
        "description": listed.about,
        "generation": listed.generation,
        "alias_of": listed.stands_for,
    })
}

/// `/v1/models`.
pub fn models(all: &[Listed], created: i64) -> Value {
    let all: Vec<Value> = all.iter().map(|one| model(one, created)).collect();
    json!({ "object": "list", "data": all })
}
