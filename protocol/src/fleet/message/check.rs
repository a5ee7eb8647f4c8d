//! What a field of a message may be: the ranges that its type does not say.

use super::MessageError;
use crate::fleet::name::is_hidden;
use crate::limits::FLEET_INTEGER_MAX;

/// A number of at least `min` that JSON carries exactly.
pub(super) fn number(field: &'static str, got: u64, min: u64) -> Result<(), MessageError> {
    within(field, got, min, FLEET_INTEGER_MAX)
}

pub(super) fn within(
    field: &'static str,
    got: u64,
    min: u64,
    max: u64,
) -> Result<(), MessageError> {
    match (min..=max).contains(&got) {
        true => Ok(()),
        false => Err(MessageError::Number { field, min, max, got }),
    }
}

/// So many elements at most.
pub(super) fn count(field: &'static str, got: usize, max: usize) -> Result<(), MessageError> {
    length(field, "elements", got, 0, max)
}

/// So many bytes.
pub(super) fn bytes(
    field: &'static str,
    got: usize,
    min: usize,
    max: usize,
) -> Result<(), MessageError> {
    length(field, "bytes", got, min, max)
}

fn length(
    field: &'static str,
    unit: &'static str,
    got: usize,
    min: usize,
    max: usize,
) -> Result<(), MessageError> {
    match (min..=max).contains(&got) {
        true => Ok(()),
        false => Err(MessageError::Length { field, unit, min, max, got }),
    }
}

/// A line for people: no control characters.
pub(super) fn line(
    field: &'static str,
    text: &str,
    min: usize,
    max: usize,
) -> Result<(), MessageError> {
    bytes(field, text.len(), min, max)?;
    only(field, text, "no control character", |character| !character.is_control())
}

/// A name for people: all of it is seen.
pub(super) fn name(
    field: &'static str,
    text: &str,
    min: usize,
    max: usize,
) -> Result<(), MessageError> {
    bytes(field, text.len(), min, max)?;
    only(field, text, "a character that is seen", |character| !is_hidden(character))
}

/// A word for programs: printable ASCII without spaces.
pub(super) fn word(field: &'static str, text: &str, max: usize) -> Result<(), MessageError> {
    bytes(field, text.len(), 1, max)?;
    only(field, text, "printable ASCII", |character| character.is_ascii_graphic())
}

fn only(
    field: &'static str,
    text: &str,
    expected: &'static str,
    allowed: fn(char) -> bool,
) -> Result<(), MessageError> {
    match text.char_indices().find(|(_, character)| !allowed(*character)) {
        None => Ok(()),
        Some((position, got)) => Err(MessageError::Character { field, position, got, expected }),
    }
}

/// Bits per byte, where they were measured.
pub(super) fn score(field: &'static str, score: Option<f64>) -> Result<(), MessageError> {
    match score.filter(|score| !(score.is_finite() && *score >= 0.0)) {
        None => Ok(()),
        Some(got) => Err(MessageError::Score { field, got }),
    }
}
