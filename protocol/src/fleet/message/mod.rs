//! Messages: JSON of up to 64 KiB, read as strangers.
//!
//! - In: a body that may come from anywhere. Out: a [`Message`] whose every field is in its range; or
//!   a message's bytes, checked the same way before they are sent.
//! - Fields that this version does not know are passed over, so that later ones can say more.
//! - Numbers are below 2^53, times ms since 1970, durations s, hashes lower-case hexadecimal digits.
//! - Never here: what a message means to a server or a device.

mod calls;
mod check;
mod refusal;

use super::PROTOCOL;
use super::code::Code;
use crate::limits::FLEET_BODY_BYTES_MAX;
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use calls::{
    CheckIn, CheckedIn, DeviceState, Enroll, Enrolled, Facts, Installed, Invite, Offer, Outcome,
    Ready, Receipt, Rekey, Rekeyed, Report, Signed, TrustAnswer,
};
pub use refusal::Refusal;

/// Bytes that a fault of JSON is told in.
const PROBLEM_BYTES_MAX: usize = 200;

/// Why a body is not the message that was expected; nothing was done with it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// Too long to be read.
    #[error("a message has {got} bytes, expected at most {FLEET_BODY_BYTES_MAX}")]
    Long {
        /// Its bytes.
        got: usize,
    },
    /// No JSON, or of another form.
    #[error("a message is not of the expected form{near}: {problem}")]
    Json {
        /// The field before the fault, if one was found.
        near: String,
        /// What is wrong, with line and column.
        problem: String,
    },
    /// Of another version.
    #[error("a message is of protocol {got}, expected {PROTOCOL}")]
    Protocol {
        /// Its version.
        got: u64,
    },
    /// A number outside its range.
    #[error("{field} is {got}, expected {min} to {max}")]
    Number {
        /// Which field.
        field: &'static str,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
        /// The number.
        got: u64,
    },
    /// Too much or too little of something.
    #[error("{field} has {got} {unit}, expected {min} to {max}")]
    Length {
        /// Which field.
        field: &'static str,
        /// Bytes or elements.
        unit: &'static str,
        /// Fewest.
        min: usize,
        /// Most.
        max: usize,
        /// How many there are.
        got: usize,
    },
    /// A character that a text may not have.
    #[error("{field} has {got:?} at byte {position}, expected {expected}")]
    Character {
        /// Which field.
        field: &'static str,
        /// Where.
        position: usize,
        /// The character.
        got: char,
        /// What may stand there.
        expected: &'static str,
    },
    /// Bits per byte that cannot be.
    #[error("{field} is {got}, expected bits per byte, 0 or more")]
    Score {
        /// Which field.
        field: &'static str,
        /// The number.
        got: f64,
    },
    /// An artifact's address that is none.
    #[error("url begins with {got:?}, expected \"/\" or \"https://\"")]
    Address {
        /// Its first characters.
        got: String,
    },
}

impl MessageError {
    /// What the server answers.
    pub fn code(&self) -> Code {
        match self {
            Self::Long { .. } => Code::TooLarge,
            Self::Protocol { .. } => Code::Protocol,
            _ => Code::Malformed,
        }
    }

    fn json(body: &[u8], error: &serde_json::Error) -> Self {
        let near = field_before(body, error.line(), error.column());
        let near = near.map_or_else(String::new, |field| [" near `", field, "`"].concat());
        Self::Json { near, problem: one_line(&error.to_string(), PROBLEM_BYTES_MAX) }
    }
}

/// A body of one call or of its answer.
pub trait Message: Serialize + DeserializeOwned {
    /// Whether every field is in its range.
    ///
    /// # Errors
    /// [`MessageError`] names the field.
    fn check(&self) -> Result<(), MessageError>;
}

#[derive(Deserialize)]
struct Version {
    protocol: u64,
}

#[derive(Serialize)]
struct Versioned<'a, M> {
    protocol: u64,
    #[serde(flatten)]
    message: &'a M,
}

/// Reads a message: its version first, then its fields.
///
/// # Errors
/// [`MessageError`] says what is wrong with it.
pub fn read<M: Message>(body: &[u8]) -> Result<M, MessageError> {
    let Version { protocol } = parse(body)?;
    if protocol != PROTOCOL {
        return Err(MessageError::Protocol { got: protocol });
    }
    let message: M = parse(body)?;
    message.check().map(|()| message)
}

/// The bytes of a message.
///
/// # Errors
/// [`MessageError`] says what the other side would refuse.
pub fn write<M: Message>(message: &M) -> Result<Vec<u8>, MessageError> {
    message.check()?;
    print(&Versioned { protocol: PROTOCOL, message })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, MessageError> {
    if body.len() > FLEET_BODY_BYTES_MAX {
        return Err(MessageError::Long { got: body.len() });
    }
    serde_json::from_slice(body).map_err(|error| MessageError::json(body, &error))
}

fn print(message: &impl Serialize) -> Result<Vec<u8>, MessageError> {
    let body = serde_json::to_vec(message).map_err(|error| MessageError::json(&[], &error))?;
    match body.len() > FLEET_BODY_BYTES_MAX {
        true => Err(MessageError::Long { got: body.len() }),
        false => Ok(body),
    }
}

/// The name of the last field that begins before a place in JSON.
fn field_before(body: &[u8], line: usize, column: usize) -> Option<&str> {
    let mut lines = body.split(|byte| *byte == b'\n');
    let text = lines.nth(line.checked_sub(1)?)?;
    let before = &text[..column.min(text.len())];
    let end = before.windows(2).rposition(|pair| pair == b"\":")?;
    let start = before[..end].iter().rposition(|byte| *byte == b'"')? + 1;
    let name = core::str::from_utf8(&before[start..end]).ok()?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte);
    (name.len() <= 32 && name.bytes().all(plain)).then_some(name)
}

/// A text in one line of at most so many bytes: control characters become spaces, the end is cut.
pub fn one_line(text: &str, bytes_max: usize) -> String {
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    let mut line: String = text.chars().map(plain).collect();
    if line.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or(0));
    }
    line.trim().to_owned()
}

/// An error in one line: each of its causes, the outermost first, that the text before it does not already
/// tell.
pub fn told(causes: impl IntoIterator<Item: Display>) -> String {
    let mut text = String::new();
    for cause in causes {
        let cause = cause.to_string();
        let parts = cause.split(char::is_control).map(str::trim).filter(|part| !part.is_empty());
        let cause = parts.collect::<Vec<_>>().join(" ");
        if !text.contains(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    text
}
