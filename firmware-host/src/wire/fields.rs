//! The fields of a body, read one by one: each has its range, or is refused by its name.

use super::{WireError, lines, short};
use serde_json::{Map, Value};

/// What a value may be, for a message.
pub(super) type Range = &'static str;

/// The fields of a body, those that say nothing left out.
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    pub(super) fn read(body: &[u8]) -> Result<Self, WireError> {
        let text = lines(body)?;
        let fields: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| WireError::Json { problem: short(&error.to_string()) })?;
        Ok(Self::of(fields))
    }

    /// Without the fields that are null.
    pub(super) fn of(mut fields: Map<String, Value>) -> Self {
        fields.retain(|_, value| !value.is_null());
        Self(fields)
    }

    pub(super) fn get(&self, param: &str) -> Option<&Value> {
        self.0.get(param)
    }

    pub(super) fn flag(&self, param: &str) -> Result<bool, WireError> {
        match self.get(param) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(field(param, "true or false", value)),
        }
    }

    /// A whole number from `least`.
    pub(super) fn count(
        &self,
        param: &str,
        least: u64,
        range: Range,
    ) -> Result<Option<usize>, WireError> {
        let Some(value) = self.get(param) else { return Ok(None) };
        let number = value.as_u64().filter(|&number| number >= least);
        match number.and_then(|number| usize::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(field(param, range, value)),
        }
    }

    /// A number that fits its range, as an f32 too.
    pub(super) fn number(
        &self,
        param: &str,
        start: f32,
        fits: fn(f32) -> bool,
        range: Range,
    ) -> Result<f32, WireError> {
        let Some(value) = self.get(param) else { return Ok(start) };
        match value.as_f64().map(|number| number as f32).filter(|&number| fits(number)) {
            Some(number) => Ok(number),
            None => Err(field(param, range, value)),
        }
    }
}

pub(super) fn field(param: &str, expected: Range, got: &Value) -> WireError {
    let got = if got.is_null() { "nothing".to_owned() } else { shown(got) };
    WireError::Field { param: short(param), expected, got }
}

pub(super) fn counted(param: &str, expected: Range, count: usize) -> WireError {
    WireError::Field { param: param.to_owned(), expected, got: format!("{count} of them") }
}

pub(super) fn unsupported(param: &str, got: &Value) -> WireError {
    WireError::Unsupported { param: short(param), got: shown(got) }
}

/// The beginning of a value; a long one is not written out first.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{}`", short(text)),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(fields) => format!("an object of {} fields", fields.len()),
        value => value.to_string(),
    }
}
