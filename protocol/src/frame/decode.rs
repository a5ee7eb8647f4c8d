//! Bytes from a line to frames, however they are cut, with a count of all that was none.
//!
//! - In: chunks of any size. Out: frames in order, or why one was dropped.
//! - Bounded: one frame is held; a longer one is passed over up to its delimiter.
//! - Invariant: a part is handed on only where its sample was begun and no frame between is missing.

use super::{Body, Frame, Place, VERSION, Versioned};
use crate::limits::FRAME_PAYLOAD_BYTES_MAX;
use crate::record::crc32c;

const CHECKSUM_BYTES: usize = 4;
/// A frame that is this much ahead of the expected one is from before: the sender began again.
const AHEAD_MAX: u32 = 1 << 31;

/// Why bytes between two delimiters are no frame that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// Noise, or a frame that the line damaged.
    #[error("{bytes} bytes are no frame: their checksum or their form does not hold; dropped")]
    Damaged {
        /// How many, after unstuffing.
        bytes: usize,
    },
    /// Longer than any frame.
    #[error("a frame is longer than {max} bytes; dropped up to its end")]
    Long {
        /// Most bytes, after unstuffing.
        max: usize,
    },
    /// Sound, of a version that this program does not know.
    #[error("a frame has version {got}, this program reads version {VERSION}; dropped")]
    Version {
        /// The version in the frame.
        got: u8,
    },
    /// Sound, of this version, and yet not a frame.
    #[error("a frame with a sound checksum has no known form; dropped")]
    Malformed,
    /// A part whose sample was not begun, or of which a frame is missing.
    #[error(
        "frame {sequence} of session {session:08x} goes on with a sample of which a frame is missing; dropped"
    )]
    Unbegun {
        /// Session of the part.
        session: u32,
        /// Its number.
        sequence: u32,
        /// Whether it ends the sample.
        last: bool,
    },
}

/// What came over a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames handed on.
    pub frames: u64,
    /// Frames, or noise, whose checksum or form does not hold.
    pub damaged: u64,
    /// Frames that are too long.
    pub long: u64,
    /// Frames of other versions.
    pub version: u64,
    /// Sound frames of no known form.
    pub malformed: u64,
    /// Parts without the beginning of their sample.
    pub unbegun: u64,
    /// Samples that were begun and never ended.
    pub unfinished: u64,
    /// Sequence numbers that never came, those of damaged frames included.
    pub missing: u64,
}

impl Counts {
    /// Frames that came and were dropped.
    pub fn dropped(&self) -> u64 {
        self.damaged + self.long + self.version + self.malformed + self.unbegun
    }
}

/// Finds frames in bytes; `BYTES` bounds a frame before it was stuffed, 17 are enough for answers.
#[derive(Debug)]
pub struct Decoder<const BYTES: usize = FRAME_PAYLOAD_BYTES_MAX> {
    bytes: [u8; BYTES],
    length: usize,
    /// Bytes of the COBS block that are still to come.
    left: u8,
    /// Whether that block stands for no zero at its end.
    full: bool,
    begun: bool,
    long: bool,
    order: Order,
    counts: Counts,
}

impl<const BYTES: usize> Default for Decoder<BYTES> {
    fn default() -> Self {
        Self {
            bytes: [0; BYTES],
            length: 0,
            left: 0,
            full: false,
            begun: false,
            long: false,
            order: Order::default(),
            counts: Counts::default(),
        }
    }
}

impl<const BYTES: usize> Decoder<BYTES> {
    /// What came so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes bytes off the front of `input` up to the end of the next frame; `None` when all are taken.
    ///
    /// # Errors
    /// [`Dropped`] for bytes that are no usable frame; what follows them is not touched by that.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Result<Frame<'_>, Dropped>> {
        loop {
            let (&byte, rest) = input.split_first()?;
            *input = rest;
            match byte {
                0 if self.begun => break,
                0 => {}
                _ => self.push(byte),
            }
        }
        let (length, cut, long) = (self.length, self.left != 0, self.long);
        (self.length, self.left, self.full, self.begun, self.long) = (0, 0, false, false, false);
        let found = match (long, cut) {
            (true, _) => Err(Dropped::Long { max: BYTES }),
            (_, true) => Err(Dropped::Damaged { bytes: length }),
            _ => open(&self.bytes[..length]),
        };
        let found = found.and_then(|frame| self.order.admit(frame, &mut self.counts));
        self.counts.add(&found);
        Some(found)
    }

    /// One stuffed byte that is not the delimiter.
    fn push(&mut self, byte: u8) {
        if self.left > 0 {
            self.left -= 1;
            return self.keep(byte);
        }
        if self.begun && !self.full {
            self.keep(0);
        }
        (self.begun, self.full, self.left) = (true, byte == u8::MAX, byte - 1);
    }

    fn keep(&mut self, byte: u8) {
        match self.bytes.get_mut(self.length) {
            Some(place) => {
                *place = byte;
                self.length += 1;
            }
            None => self.long = true,
        }
    }
}

impl Counts {
    fn add(&mut self, found: &Result<Frame<'_>, Dropped>) {
        let count = match found {
            Ok(_) => &mut self.frames,
            Err(Dropped::Damaged { .. }) => &mut self.damaged,
            Err(Dropped::Long { .. }) => &mut self.long,
            Err(Dropped::Version { .. }) => &mut self.version,
            Err(Dropped::Malformed) => &mut self.malformed,
            Err(Dropped::Unbegun { .. }) => &mut self.unbegun,
        };
        *count += 1;
    }
}

/// Checksum first, then version, then form.
fn open(bytes: &[u8]) -> Result<Frame<'_>, Dropped> {
    let damaged = Dropped::Damaged { bytes: bytes.len() };
    let (content, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(damaged)?;
    let (&version, _) = content.split_first().ok_or(damaged)?;
    if crc32c(content) != u32::from_le_bytes(*sum) {
        return Err(damaged);
    }
    if version != VERSION {
        return Err(Dropped::Version { got: version });
    }
    match postcard::take_from_bytes::<Versioned<'_>>(content) {
        Ok((versioned, [])) => Ok(versioned.frame),
        _ => Err(Dropped::Malformed),
    }
}

/// What is expected next.
#[derive(Debug, Default)]
struct Order {
    /// The session under way and the number of its next frame.
    next: Option<(u32, u32)>,
    /// Whether a sample was begun and has not ended.
    open: bool,
}

impl Order {
    /// Counts what is missing before this frame, and refuses a part that does not follow on.
    fn admit<'a>(&mut self, frame: Frame<'a>, counts: &mut Counts) -> Result<Frame<'a>, Dropped> {
        let (session, sequence) = (frame.session, frame.sequence);
        let Body::Answer(_) = frame.body else {
            let follows = self.next == Some((session, sequence));
            if let Some((known, expected)) = self.next
                && known == session
            {
                let ahead = sequence.wrapping_sub(expected);
                let missing = if ahead < AHEAD_MAX { ahead } else { 0 };
                counts.missing = counts.missing.saturating_add(u64::from(missing));
            }
            self.next = Some((session, sequence.wrapping_add(1)));
            let goes_on = follows && self.open;
            return self.part(frame, goes_on, counts);
        };
        Ok(frame)
    }

    fn part<'a>(
        &mut self,
        frame: Frame<'a>,
        goes_on: bool,
        counts: &mut Counts,
    ) -> Result<Frame<'a>, Dropped> {
        let place = match frame.body {
            Body::Part { place, .. } => Some(place),
            _ => None,
        };
        let continues = matches!(place, Some(Place::Middle | Place::Last));
        counts.unfinished += u64::from(self.open && !(goes_on && continues));
        let last = place == Some(Place::Last);
        self.open = match place {
            Some(Place::First) => true,
            Some(Place::Middle) => goes_on,
            _ => false,
        };
        if continues && !goes_on {
            let Frame { session, sequence, .. } = frame;
            return Err(Dropped::Unbegun { session, sequence, last });
        }
        Ok(frame)
    }
}
