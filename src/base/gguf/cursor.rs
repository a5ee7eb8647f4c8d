//! The bytes of a GGUF header, taken in order and never beyond what the file has.
//!
//! - In: a reader and the length of its file. Out: numbers and bytes, or where and why there are none.
//! - Invariant: nothing is reserved for bytes that the file does not have, nor for more than
//!   [`HEADER_BYTES_MAX`] in all.

use std::io::{self, Read};

/// Longest header accepted; those of the largest vocabularies are an eighth of it.
pub const HEADER_BYTES_MAX: u64 = 1 << 27;

/// Why a header cannot be read.
#[derive(Debug)]
pub enum Fault {
    /// The file could not be read.
    Read(io::Error),
    /// It does not say what a header says.
    Lie {
        /// First byte of what is wrong.
        at: u64,
        /// What was expected and what was found.
        what: String,
    },
}

/// A place in a header.
pub(super) struct Cursor<R> {
    source: R,
    at: u64,
    length: u64,
}

impl<R: Read> Cursor<R> {
    pub(super) fn new(source: R, length: u64) -> Self {
        Self { source, at: 0, length }
    }

    /// Bytes taken so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Something is wrong at `at`.
    pub(super) fn lie<T>(&self, at: u64, what: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::Lie { at, what: what.into() })
    }

    /// Refuses `count` pieces of `size` bytes that the file or the limit has no room for.
    pub(super) fn room(&self, count: u64, size: u64, what: &str) -> Result<u64, Fault> {
        let left = self.length.saturating_sub(self.at);
        let limit = HEADER_BYTES_MAX.saturating_sub(self.at);
        match count.checked_mul(size) {
            Some(bytes) if bytes <= left && bytes <= limit => Ok(bytes),
            Some(bytes) if bytes <= left => self.lie(
                self.at,
                format!("{what} of {bytes} bytes, expected a header of at most {HEADER_BYTES_MAX}"),
            ),
            _ => {
                self.lie(self.at, format!("{what} of {count} in a file that has {left} bytes more"))
            }
        }
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<Vec<u8>, Fault> {
        let bytes = self.room(count, 1, what)?;
        let mut taken = vec![0; bytes as usize];
        self.fill(&mut taken)?;
        Ok(taken)
    }

    pub(super) fn four(&mut self, what: &str) -> Result<u32, Fault> {
        self.room(4, 1, what)?;
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn eight(&mut self, what: &str) -> Result<u64, Fault> {
        self.room(8, 1, what)?;
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The next text, at most `limit` bytes long.
    pub(super) fn text(&mut self, limit: u64, what: &str) -> Result<String, Fault> {
        let at = self.at;
        let length = self.eight(what)?;
        if length > limit {
            return self.lie(at, format!("{what} of {length} bytes, expected at most {limit}"));
        }
        match String::from_utf8(self.take(length, what)?) {
            Ok(text) => Ok(text),
            Err(_) => self.lie(at, format!("{what} that is not UTF-8")),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        self.source.read_exact(bytes).map_err(Fault::Read)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}
