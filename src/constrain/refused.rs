//! Why a schema is refused: the place, the keyword, and what may be there.

/// Why a schema is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// More than is read.
    #[error("the schema has too many {what}: expected at most {max}")]
    Large {
        /// What of it.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// A keyword whose meaning is not followed.
    #[error("{place}: the keyword `{keyword}` is not supported: leave it out")]
    Keyword {
        /// Where in the schema, as a JSON pointer.
        place: String,
        /// The keyword.
        keyword: String,
    },
    /// A value that its keyword does not have.
    #[error("{place}: expected {expected}")]
    Value {
        /// Where in the schema, its keyword included.
        place: String,
        /// What may be there.
        expected: &'static str,
    },
    /// A reference that leads nowhere, or back to itself.
    #[error("{place}: the reference `{reference}` {problem}")]
    Reference {
        /// Where in the schema.
        place: String,
        /// What it says.
        reference: String,
        /// Why it cannot be followed.
        problem: &'static str,
    },
}

pub(super) fn wrong(place: &str, expected: &'static str) -> SchemaError {
    SchemaError::Value { place: shown(place), expected }
}

/// A place for people: the root has a name too.
pub(super) fn shown(place: &str) -> String {
    if place.is_empty() { "the schema".to_owned() } else { short(place) }
}

/// At most 120 characters of a stranger's text.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
