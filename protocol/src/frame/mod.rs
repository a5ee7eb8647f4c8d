//! Frames: how a microcontroller sends samples over a serial line or a pipe, and hears of them.
//!
//! ```text
//! COBS( version u8 | postcard(session, sequence, body) | CRC-32C of all before, u32 little-endian ) 0x00
//! ```
//! - In: [`Frame`]s, or bytes that may come from anywhere. Out: bytes for the line; frames whose
//!   checksum holds, and a count of everything else. `protocol/README.md` has the bytes for other languages.
//! - No allocation; a controller needs one buffer for a frame and one of 20 bytes for answers.
//! - Never here: devices, clocks, the inbox. Whether text is UTF-8 is for whoever joins its parts.
//! - Invariant: no damaged byte makes a frame; after a zero byte the next sound frame is found again.
//! - Source: COBS, Cheshire and Baker 1997; the postcard wire format 1.0.

mod decode;
mod send;
#[cfg(test)]
mod tests;

use crate::limits::{FRAME_BYTES_MAX, FRAME_TEXT_BYTES_MAX};
use crate::record::{CRC32C_START, crc32c_step};
use postcard::ser_flavors::{Cobs, Flavor, Slice};
use serde::{Deserialize, Serialize};

pub use decode::{Counts, Decoder, Dropped};
pub use send::{Sample, SendError, Sender, text_room};

/// The version of frames that this program writes, and the only one that it reads.
pub const VERSION: u8 = 1;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame<'a> {
    /// Which life of which controller: drawn when it starts, or its serial number.
    pub session: u32,
    /// Number of the frame in the session, one more each time; after the largest comes 0.
    pub sequence: u32,
    /// What it carries.
    #[serde(borrow)]
    pub body: Body<'a>,
}

/// What a frame carries; the order of the variants is their number on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body<'a> {
    /// A whole sample of text, UTF-8.
    Text(&'a [u8]),
    /// A whole sample of a prompt and how it goes on, UTF-8.
    Completion {
        /// What is given.
        prompt: &'a [u8],
        /// What is to be said.
        completion: &'a [u8],
    },
    /// A piece of a sample that is longer than the sender's buffer; cut anywhere, even inside a character.
    Part {
        /// Where in the sample.
        place: Place,
        /// Of which of its texts.
        field: Field,
        /// The piece.
        bytes: &'a [u8],
    },
    /// What became of the sample whose last frame had this session and sequence; to the controller.
    Answer(Answer),
}

/// Where in its sample a part stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// It begins one.
    First,
    /// It goes on with the one that was begun.
    Middle,
    /// It ends it.
    Last,
}

/// The text that a part belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field {
    /// The only one of a sample of text.
    Text,
    /// The prompt; all of its parts come before those of the completion.
    Prompt,
    /// The completion.
    Completion,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is durable, or was there already: the controller may forget it.
    Accepted,
    /// There is no room, the disk fails for now, or a part was lost: send it again later.
    Full,
    /// It is no sample, or too long: do not send it again.
    Refused,
}

impl Body<'_> {
    /// Bytes of its text.
    fn text_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Completion { prompt, completion } => {
                prompt.len().saturating_add(completion.len())
            }
            Self::Part { bytes, .. } => bytes.len(),
            Self::Answer(_) => 0,
        }
    }
}

/// Why a frame was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More text than one frame carries.
    #[error("a frame has {got} bytes of text, expected at most {max}: send it in parts")]
    Text {
        /// Bytes of text.
        got: usize,
        /// Most bytes.
        max: usize,
    },
    /// A sample that is too long even in parts.
    #[error("a sample has {got} bytes of text, expected 1 to {max}")]
    Sample {
        /// Bytes of text.
        got: usize,
        /// Most bytes.
        max: usize,
    },
    /// The buffer is too small.
    #[error("a frame with {text} bytes of text does not fit a buffer of {got} bytes")]
    Room {
        /// Bytes of text.
        text: usize,
        /// Bytes of the buffer.
        got: usize,
    },
}

#[derive(Serialize, Deserialize)]
struct Versioned<'a> {
    version: u8,
    #[serde(borrow)]
    frame: Frame<'a>,
}

/// Writes a frame, its delimiter included, into `buffer`; [`text_room`] says how much text fits one.
///
/// # Errors
/// [`EncodeError::Text`], [`EncodeError::Room`]; the buffer may have been written to.
pub fn encode<'b>(frame: &Frame<'_>, buffer: &'b mut [u8]) -> Result<&'b [u8], EncodeError> {
    let (text, got) = (frame.body.text_bytes(), buffer.len());
    if text > FRAME_TEXT_BYTES_MAX {
        return Err(EncodeError::Text { got: text, max: FRAME_TEXT_BYTES_MAX });
    }
    let line = &mut buffer[..got.min(FRAME_BYTES_MAX)];
    let stuffed = Cobs::try_new(Slice::new(line));
    let versioned = Versioned { version: VERSION, frame: *frame };
    stuffed
        .and_then(|inner| {
            postcard::serialize_with_flavor(&versioned, Checked { inner, sum: CRC32C_START })
        })
        .map(|written| &*written)
        .map_err(|_| EncodeError::Room { text, got })
}

/// Appends the checksum of what went through.
struct Checked<F> {
    inner: F,
    sum: u32,
}

impl<F: Flavor> Flavor for Checked<F> {
    type Output = F::Output;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.sum = crc32c_step(self.sum, byte);
        self.inner.try_push(byte)
    }

    fn finalize(mut self) -> postcard::Result<Self::Output> {
        (!self.sum).to_le_bytes().into_iter().try_for_each(|byte| self.inner.try_push(byte))?;
        self.inner.finalize()
    }
}
