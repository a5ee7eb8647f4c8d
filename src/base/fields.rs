//! Fields of a JSON configuration, each taken with its type and its default, or refused by name.

use super::BaseError;
use super::config::SIZE_MAX;
use serde_json::{Map, Value};

/// A JSON object that tells which file and field was wrong.
pub(super) struct Fields {
    file: &'static str,
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Parses the whole text of a file as one object.
    pub(super) fn parse(file: &'static str, text: &str) -> Result<Self, BaseError> {
        let map = serde_json::from_str(text)
            .map_err(|error| BaseError::ConfigJson { file, what: error.to_string() })?;
        Ok(Self { file, prefix: String::new(), map })
    }

    /// Whether the key is there, be it null.
    pub(super) fn has(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// Whether the key is there and null.
    pub(super) fn is_null(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(Value::is_null)
    }

    /// The value, unless missing or null.
    fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// The error that this field is not what it should be.
    pub(super) fn wrong(&self, field: &str, expected: impl Into<String>) -> BaseError {
        let got = self.map.get(field).map_or("nothing".into(), Value::to_string);
        BaseError::Config {
            file: self.file,
            field: format!("{}{field}", self.prefix),
            expected: expected.into(),
            // A vocabulary pasted into the wrong key must not fill the screen.
            got: if got.chars().count() > 80 {
                got.chars().take(77).chain("...".chars()).collect()
            } else {
                got
            },
        }
    }

    /// A size in `1..=SIZE_MAX`.
    pub(super) fn size(&self, field: &str, default: usize) -> Result<usize, BaseError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.filter(|size| (1..=SIZE_MAX).contains(size))
            .ok_or_else(|| self.wrong(field, format!("a whole number from 1 to {SIZE_MAX}")))
    }

    /// A positive, finite number.
    pub(super) fn positive(&self, field: &str, default: f64) -> Result<f64, BaseError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        // It must survive as f32, which is what the model computes in.
        let fits = |number: &f64| (*number as f32).is_finite() && (*number as f32) > 0.0;
        value.as_f64().filter(fits).ok_or_else(|| self.wrong(field, "a positive number"))
    }

    /// True or false.
    pub(super) fn flag(&self, field: &str, default: bool) -> Result<bool, BaseError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(field, "true or false"))
    }

    /// A text.
    pub(super) fn text(&self, field: &str) -> Result<Option<String>, BaseError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| self.wrong(field, "a text"))?;
        Ok(Some(text.to_owned()))
    }

    /// The first of a list of texts.
    pub(super) fn first_text(&self, field: &str) -> Result<Option<String>, BaseError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| self.wrong(field, "a list of texts"))?;
        let Some(first) = list.first() else { return Ok(None) };
        let text = first.as_str().ok_or_else(|| self.wrong(field, "a list of texts"))?;
        Ok(Some(text.to_owned()))
    }

    /// One token id or a list of them; -1, an old way to say none, counts as none.
    pub(super) fn tokens(&self, field: &str) -> Result<Option<Vec<u32>>, BaseError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let token = |value: &Value| match value.as_i64() {
            Some(-1) => Ok(None),
            Some(id) => u32::try_from(id).map(Some).map_err(|_| ()),
            None => Err(()),
        };
        let tokens: Result<Vec<_>, ()> = match value {
            Value::Array(list) => list.iter().map(token).collect(),
            one => token(one).map(|token| vec![token]),
        };
        let tokens = tokens.map_err(|()| self.wrong(field, "a token id or a list of them"))?;
        Ok(Some(tokens.into_iter().flatten().collect()))
    }

    /// An object inside this one.
    pub(super) fn inner(&self, field: &str) -> Result<Option<Self>, BaseError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(field, "an object"))?.clone();
        Ok(Some(Self { file: self.file, prefix: format!("{}{field}.", self.prefix), map }))
    }
}
