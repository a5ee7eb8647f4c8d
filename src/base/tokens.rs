//! The ids of a `tokenizer.json`, without its engine: whether they are those of the model.
//!
//! - In: the bytes of the file, the size of the vocabulary. Out: nothing, or the token that has no row.
//! - Never here: whether the file is a tokenizer otherwise.

use super::BaseError;
use serde_json::Value;
use std::path::Path;

/// Passes a tokenizer whose ids are all below `vocab`; a file that is no JSON is told by who opens it.
///
/// # Errors
/// [`BaseError::Token`].
pub(super) fn check(path: &Path, bytes: &[u8], vocab: usize) -> Result<(), BaseError> {
    let file: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let id = |value: &Value| value.as_u64();
    let mut highest: Option<(u64, String)> = None;
    let mut look = |token: &str, id: u64| {
        if highest.as_ref().is_none_or(|(most, _)| id > *most) {
            highest = Some((id, token.to_owned()));
        }
    };
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        if let Some(id) = id(&token["id"]) {
            look(token["content"].as_str().unwrap_or_default(), id);
        }
    }
    match &file["model"]["vocab"] {
        Value::Object(ids) => {
            for (token, value) in ids {
                if let Some(id) = id(value) {
                    look(token, id);
                }
            }
        }
        Value::Array(pieces) if !pieces.is_empty() => {
            look("the last of its pieces", pieces.len() as u64 - 1);
        }
        _ => {}
    }
    match highest.filter(|(id, _)| *id >= vocab as u64) {
        None => Ok(()),
        Some((id, token)) => Err(BaseError::Token { path: path.to_owned(), token, id, vocab }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_beyond_the_vocabulary_is_named() {
        let file = br#"{"added_tokens": [{"id": 4, "content": "<pad>"}], "model": {"vocab": {"a": 0, "b": 3}}}"#;
        let refusal =
            |vocab| check(Path::new("t.json"), file, vocab).err().map(|error| error.to_string());
        assert!(
            refusal(4).is_some_and(|error| error.contains("<pad>") && error.contains("below 4"))
        );
        assert_eq!((refusal(5), check(Path::new("t.json"), b"{", 1).is_ok()), (None, true));
        let pieces = br#"{"model": {"vocab": [["a", 0.0], ["b", -1.0]]}}"#;
        assert!(check(Path::new("t.json"), pieces, 1).is_err());
    }
}
