//! Whether every number of an adapter is finite, while its bytes come in.
//!
//! - In: the body in pieces of any size. Out: nothing, or the first number that is not finite.
//! - A piece may end inside a number; what is kept of it are three bytes at most.

use super::header::Tensor;
use super::{Header, UpdateError};
use alloc::vec::Vec;

/// The numbers of a body, looked at as they come.
#[derive(Debug)]
pub struct Finite {
    tensors: Vec<Tensor>,
    /// The tensor that the next byte belongs to.
    at: usize,
    /// Bytes of it that came.
    passed: u64,
    /// Those of a number that has begun.
    begun: [u8; 4],
    /// Bytes of the body that came, and that there are.
    got: u64,
    expected: u64,
}

impl Finite {
    /// Before the first byte behind the header.
    pub fn new(header: &Header) -> Self {
        let expected = header.tensors.iter().map(|tensor| tensor.bytes).sum();
        let tensors = header.tensors.clone();
        Self { tensors, at: 0, passed: 0, begun: [0; 4], got: 0, expected }
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// [`UpdateError::NotFinite`]; [`UpdateError::Body`] when there are more bytes than numbers.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), UpdateError> {
        self.got = self.got.saturating_add(bytes.len() as u64);
        if self.got > self.expected {
            return Err(UpdateError::Body { expected: self.expected, got: self.got });
        }
        while let Some(tensor) = self.tensors.get(self.at).copied() {
            let left = usize::try_from(tensor.bytes - self.passed).unwrap_or(usize::MAX);
            let (own, rest) = bytes.split_at(left.min(bytes.len()));
            self.look(tensor, own)?;
            if own.len() < left {
                return Ok(());
            }
            (self.at, self.passed, bytes) = (self.at + 1, 0, rest);
        }
        Ok(())
    }

    /// Bytes of one tensor: the end of a number that has begun, whole ones, the beginning of the next.
    fn look(&mut self, tensor: Tensor, mut bytes: &[u8]) -> Result<(), UpdateError> {
        let size = if tensor.is_f32 { 4 } else { 2 };
        let begun = (self.passed % size as u64) as usize;
        let wrong =
            |position| Err(UpdateError::NotFinite { tensor: tensor.place.name(), position });
        if begun > 0 {
            let (end, rest) = bytes.split_at((size - begun).min(bytes.len()));
            self.begun[begun..begun + end.len()].copy_from_slice(end);
            let position = self.passed / size as u64;
            self.passed += end.len() as u64;
            bytes = rest;
            if self.passed.is_multiple_of(size as u64)
                && not_finite(tensor.is_f32, &self.begun[..size]).is_some()
            {
                return wrong(position);
            }
        }
        let (whole, beginning) = bytes.split_at(bytes.len() - bytes.len() % size);
        if let Some(at) = not_finite(tensor.is_f32, whole) {
            return wrong(self.passed / size as u64 + at as u64);
        }
        if !beginning.is_empty() {
            self.begun[..beginning.len()].copy_from_slice(beginning);
        }
        self.passed += bytes.len() as u64;
        Ok(())
    }

    /// After the last byte.
    ///
    /// # Errors
    /// [`UpdateError::Body`] when bytes are missing.
    pub fn end(self) -> Result<(), UpdateError> {
        match self.got == self.expected {
            true => Ok(()),
            false => Err(UpdateError::Body { expected: self.expected, got: self.got }),
        }
    }
}

/// Which of some numbers has an exponent of ones only, as infinities and NaN have.
fn not_finite(is_f32: bool, bytes: &[u8]) -> Option<usize> {
    const F32: u32 = 0x7f80_0000;
    const F16: u16 = 0x7c00;
    match is_f32 {
        true => {
            bytes.as_chunks().0.iter().position(|number| u32::from_le_bytes(*number) & F32 == F32)
        }
        false => {
            bytes.as_chunks().0.iter().position(|number| u16::from_le_bytes(*number) & F16 == F16)
        }
    }
}
