//! Samples to frames, in parts where they are longer than the sender's buffer.
//!
//! - In: text, a buffer of at least 32 bytes. Out: frames, one after the other, through a closure.
//! - A sample that was not accepted is sent again whole, as new frames: duplicates are dropped beyond.

use super::{Body, EncodeError, Field, Frame, Place, encode};
use crate::limits::{FRAME_OVERHEAD_BYTES, FRAME_SAMPLE_BYTES_MAX, FRAME_TEXT_BYTES_MAX};

/// Something to learn from, as a controller has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample<'a> {
    /// A text.
    Text(&'a str),
    /// A prompt and how it goes on.
    Completion {
        /// What is given.
        prompt: &'a str,
        /// What is to be said.
        completion: &'a str,
    },
}

/// Why a sample was not sent, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError<E> {
    /// It does not fit; nothing was sent.
    #[error(transparent)]
    Encode(EncodeError),
    /// The line refused.
    #[error("the line refused a frame: {0}")]
    Line(E),
}

/// Bytes of text that fit a frame in a buffer of so many bytes, whatever the text is.
pub const fn text_room(buffer_bytes: usize) -> usize {
    // One byte for the delimiter, one for the first COBS block and one for each 254 that follow.
    let stuffed = buffer_bytes.saturating_sub(2);
    let room = (stuffed - stuffed.div_ceil(255)).saturating_sub(FRAME_OVERHEAD_BYTES);
    if room < FRAME_TEXT_BYTES_MAX { room } else { FRAME_TEXT_BYTES_MAX }
}

/// The sending end of a line.
#[derive(Debug)]
pub struct Sender {
    session: u32,
    sequence: u32,
}

impl Sender {
    /// A session begins; its number should differ from the last one's of this controller.
    pub fn new(session: u32) -> Self {
        Self { session, sequence: 0 }
    }

    /// Sends a sample through `write`, which gets one frame at a time, made in `buffer`. The number
    /// that comes back is the one in the answer to this sample.
    ///
    /// # Errors
    /// [`SendError::Encode`], [`SendError::Line`]; the sample may be sent again.
    pub fn send<E>(
        &mut self,
        sample: Sample<'_>,
        buffer: &mut [u8],
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u32, SendError<E>> {
        let (bytes, room) = (sample.bytes(), text_room(buffer.len()));
        if bytes == 0 || bytes > FRAME_SAMPLE_BYTES_MAX {
            let max = FRAME_SAMPLE_BYTES_MAX;
            return Err(SendError::Encode(EncodeError::Sample { got: bytes, max }));
        }
        if room == 0 {
            let got = buffer.len();
            return Err(SendError::Encode(EncodeError::Room { text: 1, got }));
        }
        let mut frame = |body| {
            let frame = Frame { session: self.session, sequence: self.sequence, body };
            self.sequence = self.sequence.wrapping_add(1);
            let line = encode(&frame, buffer).map_err(SendError::Encode)?;
            write(line).map_err(SendError::Line)?;
            Ok(frame.sequence)
        };
        if bytes <= room {
            return frame(sample.whole());
        }
        let (mut sent, mut last) = (0, Ok(0));
        let fields = sample.fields();
        for (field, text) in fields {
            for piece in text.as_bytes().chunks(room) {
                let ends = sent + piece.len() == bytes;
                let place = match (sent, ends) {
                    (0, _) => Place::First,
                    (_, true) => Place::Last,
                    _ => Place::Middle,
                };
                sent += piece.len();
                last = Ok(frame(Body::Part { place, field, bytes: piece })?);
            }
        }
        last
    }
}

impl<'a> Sample<'a> {
    fn fields(self) -> [(Field, &'a str); 2] {
        match self {
            Self::Text(text) => [(Field::Text, text), (Field::Text, "")],
            Self::Completion { prompt, completion } => {
                [(Field::Prompt, prompt), (Field::Completion, completion)]
            }
        }
    }

    fn bytes(self) -> usize {
        self.fields().iter().fold(0, |sum, (_, text)| text.len().saturating_add(sum))
    }

    fn whole(self) -> Body<'a> {
        match self {
            Self::Text(text) => Body::Text(text.as_bytes()),
            Self::Completion { prompt, completion } => {
                Body::Completion { prompt: prompt.as_bytes(), completion: completion.as_bytes() }
            }
        }
    }
}
