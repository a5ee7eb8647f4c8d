//! The answer to a call that was refused: `{error, message, retry_after_s?, time?}`.
//!
//! It says no version, so that a device of another one understands why it is not understood.

use super::{MessageError, check, parse, print};
use crate::fleet::code::Code;
use crate::limits::{FLEET_CHECK_IN_S_MAX, FLEET_MESSAGE_BYTES_MAX};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub error: Code,
    /// For people: what was wrong, what was expected.
    pub message: String,
    /// Seconds after which to ask again; with `too-many` and `unavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// The server's time, ms since 1970; with `clock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
}

impl Refusal {
    /// Reads a refusal.
    ///
    /// # Errors
    /// [`MessageError`]: then the answer's status is all that is known.
    pub fn read(body: &[u8]) -> Result<Self, MessageError> {
        let refusal: Self = parse(body)?;
        refusal.check().map(|()| refusal)
    }

    /// The bytes of a refusal.
    ///
    /// # Errors
    /// [`MessageError`] says what the other side would not read.
    pub fn write(&self) -> Result<Vec<u8>, MessageError> {
        self.check()?;
        print(self)
    }

    fn check(&self) -> Result<(), MessageError> {
        check::line("message", &self.message, 1, FLEET_MESSAGE_BYTES_MAX)?;
        // Absent, it is 0, which fails where the code promises it.
        if self.error.waits() || self.retry_after_s.is_some() {
            let wait_s = self.retry_after_s.unwrap_or(0);
            check::within("retry_after_s", wait_s, 1, FLEET_CHECK_IN_S_MAX)?;
        }
        if self.error == Code::Clock || self.time.is_some() {
            check::number("time", self.time.unwrap_or(0), 1)?;
        }
        Ok(())
    }
}
