//! The metadata of a GGUF file by key, each value with its type, or refused by name.

use super::super::BaseError;
use super::header::Header;
use super::value::Value;
use std::path::Path;

/// A header that tells which file and key was wrong.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) header: &'a Header,
    path: &'a Path,
}

impl<'a> Facts<'a> {
    pub(super) fn new(header: &'a Header, path: &'a Path) -> Self {
        Self { header, path }
    }

    /// The error that this key is not what it should be.
    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>) -> BaseError {
        let got = self.get(key).map_or("nothing".into(), ToString::to_string);
        BaseError::GgufValue {
            path: self.path.to_owned(),
            key: key.into(),
            expected: expected.into(),
            got,
        }
    }

    /// The error that the file holds another model than we compute.
    pub(super) fn other(&self, what: impl Into<String>) -> BaseError {
        BaseError::GgufModel { path: self.path.to_owned(), what: what.into() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.header.values.get(key)
    }

    /// A whole number that fits a `u32`, as all sizes and ids do.
    pub(super) fn whole(&self, key: &str) -> Result<Option<u32>, BaseError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let whole = value.integer().and_then(|number| u32::try_from(number).ok());
        whole.map(Some).ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// A whole number that must be there.
    pub(super) fn size(&self, key: &str) -> Result<u32, BaseError> {
        self.whole(key)?.ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, BaseError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.float().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, BaseError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.flag().map(Some).ok_or_else(|| self.wrong(key, "true or false"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, BaseError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.text().map(Some).ok_or_else(|| self.wrong(key, "a text"))
    }

    /// A list of texts that must be there.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<&'a str>, BaseError> {
        let texts = self.get(key).and_then(|value| value.texts()).map(Iterator::collect);
        texts.ok_or_else(|| self.wrong(key, "a list of texts"))
    }
}
